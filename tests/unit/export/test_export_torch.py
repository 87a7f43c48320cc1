from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.errors import ExportError
from lwplugin.export import Exported, export, load_exported
from lwplugin.measure import measure
from lwplugin.quantize import quantize
from lwplugin.registry import flavor, serving


@pytest.fixture(scope="module")
def program(trained_net: nn.Module, digits_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("pt2")
    return export(trained_net, digits_data, format="torch_export", path=path, metadata={"labels": "0,1,2"})


def test_it_answers_as_the_model_at_any_batch(
    program: Exported, trained_net: nn.Module, digits_data: Data
) -> None:
    told = {"lwplugin.json": ""}
    loaded = torch.export.load(program.file, extra_files=told).module()
    for count in (1, 3, 100):
        x = next(digits_data.need("test").batches(count)).inputs
        with torch.no_grad():
            assert (loaded(x) - trained_net(x)).abs().max() < 1e-4
    assert program.meta["parity"]["max_abs_error"] < 1e-4
    assert json.loads(told["lwplugin.json"])["labels"] == "0,1,2"
    assert load_exported(program.path) == program


def test_it_is_measured_in_torch(program: Exported, digits_data: Data) -> None:
    found = measure(
        program.path, digits_data, min_seconds=0.15, max_seconds=0.6, processes=1, timeout_s=120.0
    )
    assert (found.format, found.runtime) == ("torch_export", "torch")
    assert found.metrics["accuracy"] > 0.8
    assert found.latency.p50_ms > 0


def test_two_named_inputs_in_their_order(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left - 2 * right

    left, right = np.random.default_rng(0).standard_normal((2, 40, 3)).astype(np.float32)
    data = from_arrays(test=({"left": left, "right": right}, np.arange(40) % 3))
    exported = export(Pair(), data, format="torch_export", path=tmp_path)
    assert exported.meta["parity"]["max_abs_error"] == 0.0


@pytest.mark.parametrize("form", ["torch_export", "aotinductor"])
def test_quantized_models_are_refused_with_the_reason(
    form: str, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="float models only"):
        export(quantize(trained_net, digits_data), digits_data, format=form, path=tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_control_flow_on_data_is_refused_with_torch_s_reason(digits_data: Data, tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(ExportError, match="torch cannot export"):
        export(Branch(), digits_data, format="torch_export", path=tmp_path)


SERVE = """
import sys
sys.modules["lwplugin"] = None  # as where it is not installed: importing it fails
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"threads": 1})
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
assert model.predict(np.zeros((0, 1, 8, 8), np.float32)).shape == (0, 10)
"""


@pytest.mark.slow
def test_plain_mlflow_serves_it_with_torch(
    program: Exported, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    flavor.save_model(tmp_path / "model", exported=program.path)
    wanted = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert wanted[-1] == f"torch=={str(torch.__version__).partition('+')[0]}"
    x = next(digits_data.need("test").batches(300)).inputs
    asked, answered = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(asked, x.numpy())
    command = [sys.executable, "-c", SERVE, str(tmp_path / "model"), str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        np.testing.assert_allclose(np.load(answered), trained_net(x).numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.toolchain("g++")
def test_a_compiled_package_answers_as_the_model_at_any_batch_and_is_measured(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made = export(trained_net, digits_data, format="aotinductor", path=tmp_path, metadata={"labels": "0,1,2"})
    assert made.meta["parity"]["max_abs_error"] < 1e-4
    loaded = torch._inductor.aoti_load_package(str(made.file))
    assert loaded.get_metadata()["labels"] == "0,1,2"
    for count in (1, 3, 100):
        x = next(digits_data.need("test").batches(count)).inputs
        with torch.no_grad():
            assert (loaded(x) - trained_net(x)).abs().max() < 1e-4
    served = serving.ExportedModel(tmp_path, {"threads": 1}).predict(x.numpy())
    np.testing.assert_allclose(served, loaded(x).numpy(), atol=1e-5)
    found = measure(tmp_path, digits_data, min_seconds=0.15, max_seconds=0.6, processes=1)
    assert (found.runtime, found.metrics["accuracy"] > 0.8) == ("aotinductor", True)
