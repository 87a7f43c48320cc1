from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwplugin.errors import RegistryError
from lwplugin.registry import flavor

Make = Callable[..., Path]

SERVE = """
import sys
sys.modules["lwplugin"] = None  # as where it is not installed: importing it fails
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"threads": 2})
output = model.predict(np.ones((3, 2, 2), np.float32))
assert output.shape == (3, 3), output.shape
print(sorted({"torch", "onnxruntime"} & set(sys.modules)))
"""


def test_serving_needs_neither_torch_nor_lwplugin(make_export: Make, tmp_path: Path) -> None:
    flavor.save_model(tmp_path / "model", exported=make_export())
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "sqlite:///:memory:",
    }
    command = [sys.executable, "-c", SERVE, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['onnxruntime']"


def test_requirements_are_few_and_pinned(make_export: Make, tmp_path: Path) -> None:
    flavor.save_model(tmp_path / "model", exported=make_export())
    lines = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == ["mlflow", "numpy", "onnxruntime"]
    assert all("==" in line for line in lines)


def test_the_loader_module_of_the_package_serves_too(make_export: Make) -> None:
    served = flavor._load_pyfunc(str(make_export()), {"threads": 1})
    assert served.predict(np.ones((2, 2, 2), np.float32)).shape == (2, 3)


def test_a_format_without_runtime_is_refused_before_anything_is_written(
    make_export: Make, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match="Format 'caffe' cannot be served"):
        flavor.save_model(tmp_path / "model", exported=make_export(kind="caffe"))
    assert not (tmp_path / "model").exists()


def test_a_directory_in_use_is_refused(make_export: Make, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").write_text("keep")
    with pytest.raises(RegistryError, match="not empty"):
        flavor.save_model(tmp_path / "model", exported=make_export())
    assert (tmp_path / "model" / "mine").read_text() == "keep"
