"""Trains the digits network in seconds and registers it as models:/digits-cnn@champion, as any team would.

MLFLOW_TRACKING_URI=sqlite:///mlflow.db python train_and_register.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import mlflow
import numpy as np
import torch
from torch import nn

import lwplugin

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from digits_cnn import DigitsCNN  # noqa: E402

NAME, ALIAS = "digits-cnn", "champion"


def train(data: lwplugin.data.Data, epochs: int) -> DigitsCNN:
    """One-cycle SGD with shifted copies of the images."""
    torch.manual_seed(0)
    model, batch_size = DigitsCNN(), 64
    steps = epochs * -(-len(data.need("train")) // batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    draws = np.random.default_rng(0)
    for epoch in range(epochs):
        for batch in data.need("train").batches(batch_size, seed=epoch):
            shift = tuple(int(pixels) for pixels in draws.integers(-1, 2, size=2))
            loss = nn.functional.cross_entropy(model(torch.roll(batch.inputs, shift, (2, 3))), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Train, evaluate on the test split, log, register, set the alias."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--result", type=Path, help="write what was registered to this file")
    options = parser.parse_args()

    recipe = lwplugin.load_recipe(HERE / "recipe.yaml")
    data = lwplugin.data.load(recipe.data, recipe.task)  # the same split that the recipe judges on
    model = train(data, options.epochs)
    found = lwplugin.data.evaluate(model, data.need("test"), data.task)
    score = found.metrics[data.task.metric]

    example = data.example(2).numpy()
    with torch.no_grad():
        answer = model(torch.from_numpy(example)).numpy()
    with mlflow.start_run(run_name="train digits-cnn"):
        mlflow.log_metrics({f"test_{name}": value for name, value in found.metrics.items()})
        logged = mlflow.pytorch.log_model(
            model,
            name="model",
            serialization_format="pickle",
            code_paths=[str(HERE / "digits_cnn.py")],
            signature=mlflow.models.infer_signature(example, answer),
            input_example=example,
            pip_requirements=[f"torch=={torch.__version__}"],
            registered_model_name=NAME,
        )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    result = {"uri": f"models:/{NAME}/{version}", "alias": ALIAS, **found.metrics}
    print(f"registered {result['uri']} as @{ALIAS}, test {data.task.metric} {score:.4f}")
    if options.result is not None:
        options.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
