"""ExecuTorch for real where its toolchain is installed; what needs no converter everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import ExportError, ToolchainError
from lwplugin.export import export, load_exported
from lwplugin.measure import measure
from lwplugin.measure.runtimes.base import command
from lwplugin.quantize import quantize
from lwplugin.registry import flavor
from lwplugin.registry.conform import answers, check_served, signature_from_file


def test_without_its_toolchain_neither_export_nor_measuring_starts(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWPLUGIN_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(ToolchainError, match="lwplugin toolchain install executorch"):
        export(trained_net, digits_data, format="executorch", path=tmp_path)
    with pytest.raises(ToolchainError, match="Running executorch needs the toolchain"):
        command("executorch", "lwplugin.measure.worker")
    assert not (tmp_path / "export.json").exists()


@pytest.mark.slow
@pytest.mark.toolchain("executorch")
@pytest.mark.parametrize("kind", ["float", "half", "int8"])
def test_it_answers_as_the_model_and_is_measured_in_its_own_python(
    kind: str, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    options = {"half": {"method": "half"}, "int8": {}}
    model = trained_net if kind == "float" else quantize(trained_net, digits_data, **options[kind])
    made = export(model, digits_data, format="executorch", path=tmp_path / "it", metadata={"labels": "0,1,2"})
    assert load_exported(made.path) == made
    assert made.inputs == {"input": {"dtype": "float32", "shape": [1, 1, 8, 8]}}
    assert b'"labels": "0,1,2"' in made.file.read_bytes()
    assert made.meta["delegated_parts"] > 0
    assert not any("conv" in name or "linear" in name for name in made.meta["portable_operators"])
    found = measure(made.path, digits_data, min_seconds=0.15, max_seconds=0.6, processes=1, timeout_s=120.0)
    with torch.no_grad():
        batch = next(digits_data.need("test").batches(1000))
        net = model if kind == "float" else model.module
        accuracy = (net(batch.inputs).argmax(1) == batch.targets).float().mean().item()
    assert found.metrics["accuracy"] == pytest.approx(accuracy, abs=0.005)
    assert (found.runtime, found.batch) == ("executorch", 1)
    if kind == "int8":
        assert made.meta["parity"]["sqnr_db"] > 30

    flavor.save_model(tmp_path / "model", exported=made.path, signature=signature_from_file(made.path))
    pinned = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in pinned] == ["mlflow", "numpy", "executorch", "torch"]
    some = batch.inputs[:5].numpy()
    check_served(tmp_path / "model", made.path, some)
    with torch.no_grad():
        wanted = net(torch.from_numpy(some)).numpy()
    np.testing.assert_allclose(
        answers(made.path, some), wanted, atol={"float": 1e-3, "half": 0.1, "int8": 0.5}[kind]
    )


@pytest.mark.slow
@pytest.mark.toolchain("executorch")
def test_a_batch_is_fixed_and_what_cannot_go_is_refused(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made = export(trained_net, digits_data, format="executorch", path=tmp_path / "four", batch=4)
    assert made.inputs["input"]["shape"] == [4, 1, 8, 8]
    found = measure(made.path, digits_data, batch=4, min_seconds=0.15, max_seconds=0.6, processes=1)
    assert np.isfinite(found.latency.p50_ms)

    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x[:, 0] + 3 * torch.eye(8)).flatten(1)

    with pytest.raises(ExportError, match="cannot take this model"):
        export(Inverse(), digits_data, format="executorch", path=tmp_path / "inverse")
    assert not (tmp_path / "inverse" / "export.json").exists()
