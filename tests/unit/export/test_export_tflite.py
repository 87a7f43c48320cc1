"""TFLite for real where the toolchain is installed; the runtime on a stored file everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.errors import ExportError, MeasureError
from lwplugin.export import export, load_exported
from lwplugin.measure import measure
from lwplugin.measure.runtimes.base import create
from lwplugin.quantize import quantize
from lwplugin.registry.serving import ExportedModel

pytest.importorskip("ai_edge_litert")
STORED = Path(__file__).with_name("files")


def answers(file: Path, *batches: np.ndarray, optimize: bool = True) -> list[np.ndarray]:
    runtime = create("tflite")
    runtime.load(str(file), device="cpu", threads=1, optimize=optimize, output="output")
    return [np.array(runtime.run({"input": batch})) for batch in batches]


@pytest.mark.parametrize("optimize", [True, False])
def test_a_stored_integer_file_answers_as_when_it_was_made(optimize: bool) -> None:
    with np.load(STORED / "residual_int8.npz") as stored:
        x, wanted = stored["input"], stored["output"]
    whole, one, again = answers(STORED / "model.tflite", x, x[:1], x, optimize=optimize)
    # The logits lie on a grid: XNNPACK and the reference kernels may differ by a step of it.
    assert np.abs(whole - wanted).max() < 0.2
    assert (whole.argmax(1) == wanted.argmax(1)).all()
    assert np.abs(one - whole[:1]).max() < 0.2
    np.testing.assert_array_equal(again, whole)


def test_a_stored_file_is_described_measured_and_served(digits_data: Data) -> None:
    exported = load_exported(STORED)
    assert exported.format == "tflite"
    found = measure(STORED, digits_data, min_seconds=0.15, max_seconds=0.6, processes=1, timeout_s=120.0)
    assert (found.runtime, found.runtime_version.count(".")) == ("tflite", 2)
    assert found.metrics["accuracy"] > 0.9
    served = ExportedModel(STORED, {})
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    np.testing.assert_allclose(served.predict(x), answers(STORED / "model.tflite", x)[0])
    assert served.predict(x[:0]).shape == (0, 10)


def test_other_outputs_and_devices_are_refused() -> None:
    runtime = create("tflite")
    with pytest.raises(MeasureError, match="no output 'nothing'"):
        runtime.load(str(STORED / "model.tflite"), device="cpu", threads=1, optimize=True, output="nothing")
    with pytest.raises(MeasureError, match="on the CPU"):
        runtime.load(str(STORED / "model.tflite"), device="cuda", threads=1, optimize=True, output="output")


@pytest.mark.slow
@pytest.mark.toolchain("litert")
@pytest.mark.parametrize("kind", ["float", "half", "int8"])
def test_it_answers_as_the_model_at_any_batch_with_the_facts_inside(
    kind: str, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    options = {"half": {"method": "half"}, "int8": {}}
    model = trained_net if kind == "float" else quantize(trained_net, digits_data, **options[kind])
    made = export(model, digits_data, format="tflite", path=tmp_path, metadata={"labels": "0,1,2"})
    batch = next(digits_data.need("test").batches(400))
    with torch.no_grad():
        wanted = (model if kind == "float" else model.module)(batch.inputs).numpy()
    for count in (1, 3, 400):
        (got,) = answers(made.file, batch.inputs[:count].numpy())
        agreement = (got.argmax(1) == wanted[:count].argmax(1)).mean()
        assert agreement == 1.0 if kind == "float" else agreement > 0.99
    assert made.inputs == {"input": {"dtype": "float32", "shape": ["batch", 1, 8, 8]}}
    assert b'"labels": "0,1,2"' in made.file.read_bytes()
    again = export(
        model,
        digits_data,
        format="tflite",
        path=tmp_path / "again",
        parity=False,
        metadata={"labels": "0,1,2"},
    )
    assert again.digest == made.digest
    if kind == "int8":
        assert made.meta["parity"]["sqnr_db"] > 30


@pytest.mark.slow
@pytest.mark.toolchain("litert")
def test_layers_that_read_their_own_range_keep_the_bundle_s_integers(tmp_path: Path) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 64)
            self.inner, self.outer = nn.Linear(64, 256), nn.Linear(256, 32)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.outer(nn.functional.gelu(self.inner(self.table(ids)))).mean(1)

    torch.manual_seed(0)
    net = Words().eval()
    ids = np.random.default_rng(0).integers(0, 50, (60, 6))
    data = from_arrays(
        calibration=(ids[:40], None), test=(ids[40:], None), task="embedding", duplicates="ignore"
    )
    light = quantize(net, data, activations="dynamic")
    made = export(light, data, format="tflite", path=tmp_path, batch=1)
    assert made.scheme["dynamic_layers"] == 2
    assert made.meta["parity"]["sqnr_db"] > 30
    content = made.file.read_bytes()
    layers = (light.module.inner, light.module.outer)
    assert all(layer.integers().numpy().tobytes() in content for layer in layers)
    assert len(content) < 0.4 * 4 * (50 * 64 + 64 * 256 + 256 * 32)


@pytest.mark.slow
@pytest.mark.toolchain("litert")
def test_two_inputs_keep_their_names_and_a_fixed_batch_is_said(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, right: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
            return left[:, None] - 2 * right

    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 9, 40), rng.standard_normal((40, 3)).astype(np.float32)
    data = from_arrays(test=({"left": left, "right": right}, np.arange(40) % 3))
    made = export(Pair(), data, format="tflite", path=tmp_path, batch=4)
    assert {name: (spec["dtype"], spec["shape"]) for name, spec in made.inputs.items()} == {
        "left": ("int32", [4]),
        "right": ("float32", [4, 3]),
    }
    assert made.meta["parity"]["max_abs_error"] < 1e-5
    assert json.loads((tmp_path / "export.json").read_text())["format"] == "tflite"


@pytest.mark.slow
@pytest.mark.toolchain("litert")
def test_a_model_that_the_converter_cannot_take_is_refused_with_its_reason(
    digits_data: Data, tmp_path: Path
) -> None:
    class Tiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x[:, 0] + 3 * torch.eye(8)).flatten(1)

    with pytest.raises(
        ExportError, match=r"the converter cannot take this model: got \w+: [^\n%]{5,200}\. Do: "
    ):
        export(Tiled(), digits_data, format="tflite", path=tmp_path)
    assert not (tmp_path / "export.json").exists()
    assert not list(tmp_path.glob("*.part"))
