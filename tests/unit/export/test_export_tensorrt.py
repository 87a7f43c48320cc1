"""Engines: parsed and built for real by TensorRT-RTX, which needs no GPU to build; run only where a GPU is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import ExportError, MeasureError, MissingExtraError, RecipeError
from lwplugin.export import export, load_exported
from lwplugin.measure.runtimes.base import create
from lwplugin.quantize import quantize

RTX = find_spec("tensorrt_rtx") is not None
FULL = find_spec("tensorrt") is not None
NO_GPU = not torch.cuda.is_available()
needs_rtx = pytest.mark.skipif(
    not (RTX and NO_GPU), reason="builds with TensorRT-RTX on a machine without a GPU"
)


@pytest.mark.skipif(FULL, reason="TensorRT is installed")
def test_without_the_library_the_extra_is_named(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    with pytest.raises(MissingExtraError, match=r"lwplugin\[tensorrt\]"):
        export(trained_net, digits_data, format="tensorrt", path=tmp_path, library="tensorrt")
    assert not (tmp_path / "export.json").exists()


def test_a_batch_range_that_is_none_is_refused(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="min_batch"):
        export(trained_net, digits_data, format="tensorrt", path=tmp_path, min_batch=4, max_batch=2)


@needs_rtx
@pytest.mark.parametrize("precision", ["float", "half"])
def test_an_engine_is_built_and_says_that_it_was_not_run(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, precision: str
) -> None:
    made = export(
        trained_net, digits_data, format="tensorrt", path=tmp_path, precision=precision, max_batch=8
    )
    assert load_exported(tmp_path) == made
    document = json.loads((tmp_path / "export.json").read_text())
    assert document["state"] == "built, not run: this machine has no CUDA GPU"
    assert "parity" not in document
    assert document["engine"]["library"] == "tensorrt_rtx"
    assert document["engine"]["compute_capabilities"] == ["8.9"]
    assert document["engine"]["batch"] == [1, 1, 8]
    assert (tmp_path / document["onnx"]["file"]).is_file()
    assert made.file.stat().st_size > 10_000
    with pytest.raises(MeasureError, match="no CUDA GPU here"):
        create("tensorrt").load(str(made.file), device="cuda", threads=1, optimize=True, output=made.output)


@needs_rtx
def test_integers_go_as_symmetric_pairs_and_the_cache_speeds_the_next_build(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, method="int8")
    cache = tmp_path / "timings" / "cache"
    made = export(light, digits_data, format="tensorrt", path=tmp_path / "a", timing_cache=cache)
    assert made.scheme["name"] == "s8s8"
    assert cache.stat().st_size > 0
    with pytest.raises(ExportError, match="keeps its other layers in float32"):
        export(light, digits_data, format="tensorrt", path=tmp_path / "b", precision="half")


@needs_rtx
def test_what_the_library_cannot_do_is_said_in_its_words(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="SM89"):
        export(trained_net, digits_data, format="tensorrt", path=tmp_path, compute_capabilities=("9.0",))

    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained_net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.det(self.inner(x)[:, None, :2] * torch.ones(1, 2, 1)).unsqueeze(1) + self.inner(x)

    with pytest.raises(ExportError, match="TensorRT cannot read this model"):
        export(Sorted(), digits_data, format="tensorrt", path=tmp_path)
