"""Convolutions upwards and through volumes: nets of which the decoder, or everything, was left in float before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.export.handover import hand_over
from lwplugin.model.bundle import LightModel
from lwplugin.quantize import quantize
from lwplugin.quantize.fold import fold_batchnorm
from lwplugin.quantize.layers import QuantConv3d
from lwplugin.quantize.packed import PackedConvTranspose2d, PackedLayer


class Upwards(nn.Module):
    """Images [n, 1, 8, 8] → the same size, flat, down and up again; half of the way up in two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.out = nn.ConvTranspose2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.up(torch.relu(self.down(x)))))).flatten(1)


class Volume(nn.Module):
    """[n, 1, 8, 8] as a volume of 4 × 4 × 4 → [n, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm3d(16)
        self.inner = nn.Conv3d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose3d(16, 8, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x.view(-1, 1, 4, 4, 4))))
        return torch.relu(self.up(torch.relu(self.inner(x)))).mean((2, 3, 4))


def made(kind: type[nn.Module]) -> LightModel:
    torch.manual_seed(0)
    net = kind().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    return lwplugin.light(net, origin=lwplugin.FactoryOrigin(f"{__name__}:{kind.__name__}", {}))


@pytest.fixture(scope="module")
def images(digits_data: Data) -> Data:
    parts = {
        name: (next(digits_data.need(name).head(128).batches(128)).inputs.numpy(), None)
        for name in ("calibration", "test")
    }
    return from_arrays(**parts, task="embedding", duplicates="ignore")


@pytest.mark.parametrize("kind", [Upwards, Volume])
def test_what_weight_only_makes_is_small_close_the_same_when_loaded_and_in_both_runtimes(
    kind: type[nn.Module], images: Data, tmp_path: Path
) -> None:
    model = made(kind)
    options = {"method": "weight_only", "bits": 4, "group_size": 16}
    light, plain = (quantize(model, images, **options, rounding=how) for how in ("compensated", "nearest"))
    assert not light.history[-1].details["skipped"]
    assert light.history[-1].metrics["calibration_sqnr_db"] > (
        plain.history[-1].metrics["calibration_sqnr_db"] + 3
    )
    layers = [layer for layer in light.module.modules() if isinstance(layer, PackedLayer)]
    assert max(layer.bits_per_weight for layer in layers) < 7
    light.save(tmp_path / "bundle")
    again, x = lwplugin.load(tmp_path / "bundle"), images.example(8)
    with torch.no_grad():
        assert torch.equal(again.module(x), light.module(x))
    for form in ("onnx", "openvino") if kind is Upwards else ("onnx",):
        exported = export(light, images, format=form, path=tmp_path / form)
        assert exported.meta["parity"]["max_abs_error"] < 1e-5


def test_volumes_are_multiplied_in_integers_and_what_goes_up_is_small(images: Data, tmp_path: Path) -> None:
    light = quantize(made(Volume), images, method="int8")
    kinds = {row["name"]: row["type"] for row in light.history[-1].details["layers"]}
    assert kinds == {"stem": "QuantConv3d", "inner": "QuantConv3d", "up": "PackedConvTranspose3d"}
    exported = export(light, images, path=tmp_path / "onnx", parity=False)
    nodes = onnx.load(str(exported.file)).graph.node
    operators = Counter(node.op_type for node in nodes)
    assert (operators["Conv"], operators["ConvTranspose"]) == (2, 1)
    # Of one input channel the integer kernel is many times slower than float: only the second one's input is rounded.
    first, second = (node for node in nodes if node.op_type == "Conv")
    makers = {name: node.op_type for node in nodes for name in node.output}
    assert (makers[first.input[0]], makers[second.input[0]]) == ("Reshape", "DequantizeLinear")
    assert export(light, images, format="openvino", path=tmp_path / "openvino").meta["parity"]["sqnr_db"] > 30
    # No toolchain has kernels for these: they are handed over in float, and everything is.
    handed = hand_over(light, images, tmp_path / "m.pt2", examples=8, batch=2, weights_as_integers=False)
    assert not handed.rounds
    assert not any(isinstance(layer, QuantConv3d | PackedLayer) for layer in handed.module.modules())


def test_norms_behind_them_are_folded(images: Data) -> None:
    for kind in (Upwards, Volume):
        net, x = made(kind).copy_module().eval(), images.example(8)
        with torch.no_grad():
            before = net(x)
            assert len(fold_batchnorm(net, x)) == 1
            assert torch.allclose(net(x), before, atol=1e-5)


def test_one_that_is_asked_for_an_output_size_stays_in_float(images: Data) -> None:
    class Asking(Upwards):
        def forward(self, x: Tensor) -> Tensor:
            return self.up(torch.relu(self.down(x)), output_size=[9, 9]).flatten(1)

    light = quantize(Asking().eval(), images, method="int8")
    reasons = {row["name"]: row["reason"] for row in light.history[-1].details["skipped"]}
    assert reasons["up"] == "asked for an output size while it runs"


@pytest.mark.parametrize("method", ["codebook", "half"])
def test_other_packings_take_them_too(method: str, images: Data, tmp_path: Path) -> None:
    light = quantize(made(Upwards), images, method=method)
    assert isinstance(light.module.up, PackedConvTranspose2d)
    assert light.history[-1].metrics["calibration_sqnr_db"] > 15
    if method == "codebook":
        assert export(light, images, path=tmp_path).meta["parity"]["max_abs_error"] < 1e-5
