from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lwplugin.data import Data, from_arrays
from lwplugin.export import Exported, export
from lwplugin.export import openvino as openvino_format
from lwplugin.measure.runtimes.base import create
from lwplugin.model.bundle import LightModel
from lwplugin.quantize import quantize

openvino = pytest.importorskip("openvino")

TOKENS, WIDTH, HEADS = 12, 32, 2


class Attention(nn.Module):
    """One block; its norms lie around 1, so that grids have zero points."""

    def __init__(self, hidden: int = 2 * WIDTH) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        for norm in (self.before, self.between):
            nn.init.ones_(norm.bias)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen = nn.Linear(WIDTH, hidden)
        self.narrow = nn.Linear(hidden, WIDTH)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.before(x)
        query, key, value = (self.heads(layer(normed)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        mixed = scores.softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return (x + self.narrow(functional.gelu(self.widen(self.between(x))))).mean(1)


@pytest.fixture(scope="module")
def data() -> Data:
    x = np.random.default_rng(0).standard_normal((60, TOKENS, WIDTH)).astype(np.float32)
    return from_arrays(calibration=(x[:40], None), test=(x[40:], None), task="embedding")


@pytest.fixture(scope="module")
def light(data: Data) -> LightModel:
    torch.manual_seed(0)
    return quantize(Attention().eval(), data, activations="static", smoothing=False)


def answers(exported: Exported, data: Data, *, optimize: bool) -> np.ndarray:
    runtime = create("openvino")
    runtime.load(str(exported.file), device="cpu", threads=1, optimize=optimize, output=exported.output)
    return runtime.run({"input": next(data.need("test").batches(20)).inputs.numpy()})


def rounded(exported: Exported, ends: tuple[int, int] = (3, 4)) -> list[tuple[float, float]]:
    """The range that each FakeQuantize gives, sorted, or by the inputs (1, 2) takes."""
    ops = openvino.Core().read_model(str(exported.file)).get_ops()
    nodes = [node for node in ops if node.get_type_name() == "FakeQuantize"]
    ends = [[float(node.input_value(k).get_node().get_data().item()) for k in ends] for node in nodes]
    return sorted((lo, hi) for lo, hi in ends)


def fused_names(exported: Exported) -> str:
    compiled = openvino.Core().compile_model(str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return " ".join(str(info["originalLayersNames"].value) for info in infos)


@pytest.fixture(scope="module")
def written(light: LightModel, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(light, data, format="openvino", path=tmp_path_factory.mktemp("products"))


def test_zero_points_go_to_the_biases_and_change_no_answer(
    light: LightModel, data: Data, written: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rounded(written)
    assert len(given) == 6, "what three layers read, what three others read, queries, keys"
    assert [lo for lo, _ in given] == pytest.approx([-hi * 128 / 127 for _, hi in given], rel=1e-4)
    assert "DequantizationSubtract" not in fused_names(written)

    layout = replace(openvino_format._LAYOUT, products_without_zero_points=False)
    monkeypatch.setattr(openvino_format, "_LAYOUT", layout)
    kept = export(light, data, format="openvino", path=tmp_path, parity=False)
    assert "DequantizationSubtract" in fused_names(kept)
    for optimize, close in ((False, 1e-5), (True, 2e-2)):
        both = [answers(each, data, optimize=optimize) for each in (written, kept)]
        assert np.abs(both[0] - both[1]).max() < close


def test_queries_and_keys_are_rounded_to_their_layers_ranges_or_left(
    light: LightModel, data: Data, written: Exported, tmp_path: Path
) -> None:
    left = export(light, data, format="openvino", path=tmp_path, parity=False, integer_scores=False)
    more = set(rounded(written)) - set(rounded(left))
    layers: dict[str, Any] = dict(light.module.named_modules())
    wanted = sorted(float(layers[name].output_range.abs().max()) for name in ("query", "key"))
    assert sorted(hi for _, hi in more) == pytest.approx(wanted, rel=1e-4)
    assert written.meta["parity"]["sqnr_db"] > 30


@pytest.fixture(scope="module")
def smoothed(data: Data) -> LightModel:
    torch.manual_seed(0)
    return quantize(Attention(hidden=62).eval(), data, activations="static", smoothing=True)


@pytest.fixture(scope="module")
def written_smoothed(smoothed: LightModel, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(smoothed, data, format="openvino", path=tmp_path_factory.mktemp("smoothed"))


def without(change: dict[str, Any], light: LightModel, data: Data, path: Path) -> Exported:
    """Exported with another layout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_format, "_LAYOUT", replace(openvino_format._LAYOUT, **change))
        return export(light, data, format="openvino", path=path, parity=False)


def assert_alike(one: Exported, other: Exported, data: Data) -> None:
    for optimize, close in ((False, 1e-5), (True, 2e-2)):
        both = [answers(each, data, optimize=optimize) for each in (one, other)]
        assert np.abs(both[0] - both[1]).max() < close


def test_gains_scales_and_zero_points_are_taken_up_before_the_rounding(
    smoothed: LightModel, data: Data, written_smoothed: Exported, tmp_path: Path
) -> None:
    apart = without({"plain_roundings": False}, smoothed, data, tmp_path)
    whole = (-128.0, 127.0)
    assert rounded(written_smoothed, ends=(1, 2)).count(whole) == 4, (
        "of what query, out, widen and narrow read"
    )
    assert whole not in rounded(apart, ends=(1, 2))
    assert np.allclose(rounded(written_smoothed), rounded(apart), rtol=1e-5)
    assert_alike(written_smoothed, apart, data)


def test_channels_between_products_are_filled_up_and_change_no_answer(
    smoothed: LightModel, data: Data, written_smoothed: Exported, tmp_path: Path
) -> None:
    def weights(exported: Exported) -> list[list[int]]:
        ops = openvino.Core().read_model(str(exported.file)).get_ops()
        return sorted(
            list(op.shape) for op in ops if op.get_element_type() == openvino.Type.i8 and len(op.shape) > 1
        )

    square = [WIDTH, WIDTH]
    assert weights(written_smoothed) == [*[square] * 4, [WIDTH, 64], [64, WIDTH]]
    narrow = without({"width_multiple": 1}, smoothed, data, tmp_path)
    assert weights(narrow) == [*[square] * 4, [WIDTH, 62], [62, WIDTH]]
    assert_alike(written_smoothed, narrow, data)
