"""What MLflow finds of lwplugin by itself: the evaluator and the run context, in plain MLflow's own calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from lwplugin.errors import MeasureError, RegistryError
from lwplugin.run_context import VARIABLE, for_child, running


@pytest.fixture
def tracking(sqlite_uri: str) -> Any:
    mlflow.set_tracking_uri(sqlite_uri)
    yield mlflow.MlflowClient(sqlite_uri)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def _log(width: int, weights: torch.Tensor) -> str:
    """A classifier of 8 numbers; wider means more work, not other answers."""
    net = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Linear(width, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[:8] = torch.eye(8)
        net[0].bias.zero_()
        net[1].bias.zero_()
        net[1].weight.zero_()
        net[1].weight[:, :8] = weights
    example = np.zeros((2, 8), np.float32)
    signature = infer_signature(example, np.zeros((2, 3), np.float32))
    info = mlflow.pytorch.log_model(
        net, name="net", serialization_format="pickle", pip_requirements=["torch"], signature=signature
    )
    return str(info.model_uri)


def test_evaluate_tells_size_latency_memory_and_agreement(tracking: Any) -> None:
    draw = np.random.default_rng(0)
    weights = torch.from_numpy(draw.normal(size=(3, 8)).astype(np.float32))
    other = weights.clone()
    other[0] += 0.5
    with mlflow.start_run():
        heavy, light = _log(2048, weights), _log(8, other)
    x = draw.normal(size=(60, 8)).astype(np.float32)
    expected = np.mean((x @ weights.numpy().T).argmax(1) == (x @ other.numpy().T).argmax(1))
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            light,
            x,
            model_type="classifier",
            targets=np.zeros(60, np.int64),
            evaluators="lwplugin",
            evaluator_config={"baseline": heavy, "calls": 40},
        )
    found = result.metrics
    assert 0 < expected < 1
    assert found["agreement"] == pytest.approx(expected)
    assert found["size_bytes"] < found["baseline_size_bytes"]
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["speedup"] == pytest.approx(found["baseline_p50_ms"] / found["p50_ms"])
    assert found["peak_memory_bytes"] > 50e6
    assert found["max_difference"] > 0
    logged = tracking.get_run(run.info.run_id).data.metrics
    assert {name: logged[name] for name in found} == pytest.approx(found)


def test_evaluate_leaves_others_evaluations_alone_and_tells_its_own_mistakes(tracking: Any) -> None:
    frame = pandas.DataFrame({"x": [1.0, 2.0], "y": [1.0, 2.0]})

    def evaluate(model: Any, **options: Any) -> Any:
        with mlflow.start_run():
            return mlflow.models.evaluate(model, frame, targets="y", model_type="regressor", **options)

    plain = evaluate(lambda data: data["x"])
    assert "p50_ms" not in plain.metrics
    assert plain.metrics["mean_absolute_error"] == 0
    with pytest.raises(MlflowException, match="could not be evaluated"):
        evaluate(lambda data: data["x"], evaluators="lwplugin")
    with pytest.raises(RegistryError, match="Only a logged model"):
        evaluate(lambda data: data["x"], evaluators="lwplugin", evaluator_config={"calls": 10})
    with pytest.raises(RegistryError, match="did you mean 'calls'"):
        evaluate(lambda data: data["x"], evaluators="lwplugin", evaluator_config={"rows": 1, "cals": 10})

    class Broken(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined, misc]
        def predict(self, model_input: list[float]) -> list[float]:
            raise ValueError("no such column")

    with mlflow.start_run():
        broken = mlflow.pyfunc.log_model(name="broken", python_model=Broken(), pip_requirements=[]).model_uri
    with pytest.raises(MeasureError, match="cannot be evaluated: got "):
        evaluate(broken, evaluators="lwplugin", evaluator_config={"calls": 10})


def test_runs_that_code_starts_meanwhile_say_what_ran(
    tracking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tags() -> dict[str, str]:
        with mlflow.start_run() as run:
            pass
        found = tracking.get_run(run.info.run_id).data.tags
        return {name: value for name, value in found.items() if name.startswith("lwplugin.")}

    assert tags() == {}
    for name, value in for_child(job="3", rule="fashion", model="models:/net/4").items():
        monkeypatch.setenv(name, value)
    with running(step="distill", step_key="ab12"):
        inside = tags()
    about = {"job": "3", "rule": "fashion", "model": "models:/net/4"}
    assert inside == {f"lwplugin.{k}": v for k, v in {**about, "step": "distill", "step_key": "ab12"}.items()}
    assert tags() == {f"lwplugin.{key}": value for key, value in about.items()}
    monkeypatch.setenv(VARIABLE, "no json")
    assert tags() == {}
    assert json.loads(for_child(job="1")[VARIABLE]) == {"job": "1"}
