"""A registered light version goes to other servers, and plain MLflow takes its thread and batch settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lwplugin import registry
from lwplugin.cli import invoke


def test_a_version_is_written_for_triton_and_kserve(
    prepared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    made = registry.register(**prepared.arguments, threads=2)
    alias = ["models:/digits@light-edge-cpu", "--tracking-uri", prepared.uri, "-o", str(tmp_path / "out")]
    assert invoke(["export-serving", *alias, "--json"]) == 0
    (model,) = map(Path, json.loads(capsys.readouterr().out)["written"])
    config = (model / "config.pbtxt").read_text()
    assert 'name: "digits"' in config
    assert 'string_value: "2"' in config
    assert "dims: [1, 8, 8]" in config
    file = model / str(made.version) / "model.onnx"
    (answer,) = onnxruntime.InferenceSession(str(file)).run(
        None, {"input": np.zeros((3, 1, 8, 8), np.float32)}
    )
    assert answer.shape == (3, 10)

    # This registry keeps its files on a disk that no cluster sees.
    assert invoke(["export-serving", *alias, "--for", "kserve-mlflow"]) == 2
    assert "KServe cannot fetch a model from there" in capsys.readouterr().err
    assert invoke(["export-serving", *alias, "--for", "kserve-mlflow", "--storage-uri", "s3://b/m"]) == 0
    manifest = yaml.safe_load((tmp_path / "out" / "inference_service.yaml").read_text())
    assert manifest["spec"]["predictor"]["model"]["modelFormat"]["name"] == "mlflow"
    assert manifest["metadata"]["annotations"]["lwplugin/digest"]
    assert invoke(["export-serving", "models:/digits/1", *alias[1:]]) == 2
    assert "carries no exported file" in capsys.readouterr().err


def test_plain_mlflow_serves_with_the_settings_and_enforces_the_signature(
    prepared: Any, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    made = registry.register(**prepared.arguments, threads=2)
    mlflow.set_tracking_uri(prepared.uri)
    try:
        usual = mlflow.pyfunc.load_model(made.uri)
        rowwise = mlflow.pyfunc.load_model(made.uri, model_config={"batch": 1, "threads": 1})
        monkeypatch.setenv("LWPLUGIN_SERVE_BATCH", "7")
        sevens = mlflow.pyfunc.load_model(made.uri)
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert [inner(model)._batch for model in (usual, rowwise, sevens)] == [256, 1, 7]
    images = digits.images[:20]
    expected = usual.predict(images)
    for model in (rowwise, sevens):
        np.testing.assert_allclose(model.predict(images), expected, atol=1e-5)
    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        usual.predict(images[:, :, :4])
    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        usual.predict(images.astype(str))


def inner(model: Any) -> Any:
    return model.unwrap_python_model() if hasattr(model, "python_model") else model._model_impl
