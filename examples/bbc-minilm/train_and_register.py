"""Fits a head on MiniLM's vectors of the training articles and registers both as models:/bbc-topics@champion.

MLFLOW_TRACKING_URI=sqlite:///mlflow.db python train_and_register.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import torch

import lwplugin

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from bbc import articles, taught  # noqa: E402

NAME, ALIAS = "bbc-topics", "champion"


def main() -> None:
    """Fit, evaluate on the test split, log, register, set the alias."""
    parts = articles()
    data = lwplugin.data.from_arrays(**parts, calibration_examples=128)
    model = taught(*parts["train"])
    score = lwplugin.data.evaluate(model, data.need("test"), data.task).score
    example = data.example(2)
    with torch.no_grad():
        answer = model(**example).numpy()
    arrays = {name: tensor.numpy() for name, tensor in example.items()}
    logged = mlflow.pytorch.log_model(
        model,
        name="model",
        serialization_format="pickle",
        code_paths=[str(HERE / "bbc.py")],
        signature=mlflow.models.infer_signature(arrays, answer),
        pip_requirements=[f"torch=={torch.__version__}", "transformers"],
        registered_model_name=NAME,
    )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, version)
    print(f"registered models:/{NAME}/{version} as @{ALIAS}, test accuracy {score:.4f}")


if __name__ == "__main__":
    main()
