"""Trains ResNet-20 on Fashion-MNIST and registers it as models:/fashion-resnet20@champion.

apt-get install dataset-fashion-mnist
export MLFLOW_TRACKING_URI=sqlite:///mlflow.db
python examples/fashion-resnet20/train_and_register.py          # about two minutes an epoch on two cores
lwplugin run examples/fashion-resnet20/recipe.yaml
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import mlflow
import torch
from torch import nn

import lwplugin

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from resnet20 import ResNet20  # noqa: E402

NAME, ALIAS = "fashion-resnet20", "champion"


def train(data: lwplugin.data.Data, epochs: int, batch_size: int = 128) -> ResNet20:
    """One-cycle SGD; horizontal flips."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ResNet20().to(device)
    split = data.need("train")
    steps = epochs * -(-len(split) // batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    for epoch in range(epochs):
        began, seen, lost = time.monotonic(), 0, 0.0
        for number, batch in enumerate(split.batches(batch_size, seed=epoch)):
            images, labels = batch.inputs.to(device), batch.targets.to(device)
            if number % 2:
                images = images.flip(3)
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen, lost = seen + len(labels), lost + loss.item() * len(labels)
        print(f"epoch {epoch + 1} of {epochs}: loss {lost / seen:.3f}, {time.monotonic() - began:.0f} s")
    return model.cpu().eval()


def register(model: ResNet20, data: lwplugin.data.Data) -> str:
    """Evaluate on the test split, log, register, set the alias; the version."""
    found = lwplugin.data.evaluate(model, data.need("test"), data.task)
    example = data.example(2).numpy()
    with torch.no_grad():
        answer = model(torch.from_numpy(example)).numpy()
    with mlflow.start_run(run_name="train fashion-resnet20"):
        mlflow.log_metrics({f"test_{name}": value for name, value in found.metrics.items()})
        logged = mlflow.pytorch.log_model(
            model,
            name="model",
            serialization_format="pickle",
            code_paths=[str(HERE / "resnet20.py")],
            signature=mlflow.models.infer_signature(example, answer),
            input_example=example,
            pip_requirements=[f"torch=={torch.__version__}"],
            registered_model_name=NAME,
        )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    metric = data.task.metric
    print(f"registered models:/{NAME}/{version} as @{ALIAS}, test {metric} {found.metrics[metric]:.4f}")
    return version


def main() -> None:
    """Train, then register."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    recipe = lwplugin.load_recipe(HERE / "recipe.yaml")
    data = lwplugin.data.load(recipe.data, recipe.task)  # the same split that the recipe judges on
    register(train(data, options.epochs), data)


if __name__ == "__main__":
    main()
