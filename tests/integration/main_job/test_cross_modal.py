"""A recipe whose student sees another modality than its teacher: pictures teach frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import lwplugin.students
from lwplugin.cli import invoke
from lwplugin.data import load as load_data
from lwplugin.model import load
from lwplugin.training import TrainConfig, train

PICTURES = {"source": "digits", "test_fraction": 0.4}


def written_as_frames(folder: Path) -> dict[str, Any]:
    """The digits as eight frames of eight numbers, the same examples in the same splits; their data block."""
    data = load_data(PICTURES, "classification")
    block: dict[str, Any] = {"source": "npz"}
    for name, key in (("train", "train"), ("calibration", "calibration_file"), ("test", "test")):
        split = data.need(name)  # type: ignore[arg-type]
        batch = next(split.batches(len(split)))
        assert isinstance(batch.inputs, torch.Tensor)
        frames, labels = batch.inputs[:, 0].mT.numpy(), split.targets()
        np.savez(folder / f"{name}.npz", x=np.ascontiguousarray(frames), y=labels)
        block[key] = str(folder / f"{name}.npz")
    return block


def registered_reader(block: dict[str, Any]) -> None:
    """A recurrent net that reads frames, as models:/digits-reader@champion."""
    import mlflow

    data = load_data(block, "classification")
    torch.manual_seed(0)
    net = lwplugin.students.build("recurrent", width=0.5, features=8, classes=10)
    train(net, data, config=TrainConfig(epochs=3, lr=1e-2, schedule="onecycle"))
    example = data.example(2)
    with torch.no_grad():
        answer = net.eval()(example)
    logged = mlflow.pytorch.log_model(
        net,
        name="model",
        serialization_format="pickle",
        signature=mlflow.models.infer_signature(example.numpy(), answer.numpy()),  # type: ignore[union-attr]
        input_example=example.numpy(),  # type: ignore[union-attr]
        pip_requirements=[f"torch=={torch.__version__}"],
        registered_model_name="digits-reader",
    )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias("digits-reader", "champion", version)


@pytest.mark.slow
def test_pictures_teach_a_student_that_reads_frames(
    at_home: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = written_as_frames(tmp_path)
    registered_reader(frames)
    recipe = {
        "model": "models:/digits-reader@champion",
        "data": frames,
        "compress": [
            {
                "distill": {
                    "method": "cross_modal",
                    "teachers": ["models:/digits-cnn@champion"],
                    "teacher_data": PICTURES,
                    "student": {"family": "recurrent", "width": 0.25},
                    "epochs": 12,
                    "lr": 1e-2,
                    "schedule": "onecycle",
                }
            }
        ],
        "targets": [{"name": "edge-cpu", "budget": {"size_bytes": 100_000}}],
        "measure": {"min_seconds": 0.2, "max_seconds": 1, "processes": 1, "profile_seconds": 0},
        "gate": {"max_drop": {"accuracy": 0.1}, "no_faster": "allow"},
        "register": {"alias": "taught-{target}"},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert invoke(("run", str(file), "--json")) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    assert result["targets"]["edge-cpu"]["registration"]["alias"] == "taught-edge-cpu"
    paths = {step["id"]: Path(step["path"]) for step in result["steps"] if step.get("path")}
    light = load(paths["distill"] / "bundle")
    assert light.history[-1].method == "cross_modal"
    assert light.history[-1].details["pairs"]  # and an inner representation was followed
