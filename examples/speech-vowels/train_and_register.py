"""Trains the speaker net in under a minute and registers it as models:/speaker-net@champion.

MLFLOW_TRACKING_URI=sqlite:///mlflow.db python train_and_register.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch

import lwplugin
from lwplugin.training import TrainConfig, train

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from vowels import SpeakerNet, speakers  # noqa: E402

NAME, ALIAS = "speaker-net", "champion"


def main() -> None:
    """Train, evaluate on the test split, log, register, set the alias."""
    data = lwplugin.data.from_arrays(**speakers(), calibration_examples=45)
    torch.manual_seed(0)
    model = SpeakerNet()
    train(model, data, config=TrainConfig(epochs=40, lr=3e-3, batch_size=16, schedule="onecycle"))
    model.eval()
    score = lwplugin.data.evaluate(model, data.need("test"), data.task).score
    example = data.example(2)
    with torch.no_grad():
        answer = model(example).numpy()
    logged = mlflow.pytorch.log_model(
        model,
        name="model",
        serialization_format="pickle",
        code_paths=[str(HERE / "vowels.py")],
        signature=mlflow.models.infer_signature(example.numpy(), answer),
        input_example=example.numpy(),
        pip_requirements=[f"torch=={torch.__version__}"],
        registered_model_name=NAME,
    )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    print(f"registered models:/{NAME}/{version} as @{ALIAS}, test accuracy {score:.4f}")


if __name__ == "__main__":
    main()
