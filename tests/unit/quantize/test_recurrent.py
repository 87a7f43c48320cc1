from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.errors import ExportError, MethodError
from lwplugin.export import export
from lwplugin.export.handover import hand_over
from lwplugin.model.bundle import LightModel
from lwplugin.model.cost import cost
from lwplugin.model.watching import watching
from lwplugin.quantize import quantize
from lwplugin.quantize.packed import PackedMatrix
from lwplugin.quantize.recurrent import PartedRecurrent, parted_recurrent


class Lines(nn.Module):
    """A picture line by line, [n, 8, 8] → [n, 10], both ways."""

    def __init__(self, kind: str = "LSTM", layers: int = 2) -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(8, 32, layers, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0].mean(1))


def lines(kind: str = "LSTM", layers: int = 2) -> LightModel:
    torch.manual_seed(0)
    net = Lines(kind, layers).eval()
    return lwplugin.light(
        net, origin=lwplugin.FactoryOrigin(f"{__name__}:Lines", {"kind": kind, "layers": layers})
    )


@pytest.fixture(scope="module")
def pictures() -> Data:
    x = (load_digits().images / 16).astype(np.float32)
    return from_arrays(calibration=(x[:128], None), test=(x[128:192], None), task="embedding")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"proj_size": 3, "bias": False}),
        ("GRU", {"num_layers": 2}),
        ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ],
)
def test_in_parts_it_takes_and_answers_all_that_torch_s_layer_does(
    kind: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, kind)(6, 8, batch_first=True, **options).eval()
    parted, x = parted_recurrent(layer), torch.randn(3, 5, 6)
    parted.requires_grad_(requires_grad=False)
    layer.requires_grad_(requires_grad=False)
    (wanted, state), (got, last) = layer(x), parted(x)
    assert torch.equal(got, wanted)
    for a, b in zip(state if kind == "LSTM" else [state], last if kind == "LSTM" else [last], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(parted(x, state)[0], layer(x, state)[0])
    assert torch.equal(parted(x[0])[0], layer(x[0])[0])
    ragged = pack_padded_sequence(x, [5, 4, 2], batch_first=True)
    assert torch.equal(parted(ragged)[0].data, layer(ragged)[0].data)
    assert torch.equal(parted.to_float()(x)[0], wanted)
    parted.flatten_parameters()
    for name in ("input_size", "hidden_size", "proj_size", "num_layers", "bidirectional", "batch_first"):
        assert getattr(parted, name) == getattr(layer, name)


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_matrices_that_are_watched_are_called_with_what_they_multiply(batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.RNN(6, 8, 2, batch_first=batch_first, bidirectional=True)
    parted, x = parted_recurrent(layer), torch.randn(3, 5, 6)
    state, products = torch.randn(4, 3 if batch_first else 5, 8), {}

    def watch(name: str, args: tuple[Any, ...], output: Tensor) -> None:
        products[name] = output

    with watching(parted, parted.parts(), watch):
        wanted = parted(x, state)[0]
    got = [
        torch.tanh(
            products[f"weight_ih_l1{way}"]
            + products[f"weight_hh_l1{way}"]
            + getattr(layer, f"bias_ih_l1{way}")
            + getattr(layer, f"bias_hh_l1{way}")
        )
        for way in ("", "_reverse")
    ]
    assert len(products) == 8
    assert torch.allclose(torch.cat(got, -1), wanted if batch_first else wanted.transpose(0, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_errors_are_mended_by_the_weights_still_to_be_rounded(kind: str, pictures: Data) -> None:
    options = {"method": "weight_only", "bits": 3, "group_size": 32}
    mended, plain = (
        quantize(lines(kind), pictures, **options, rounding=how).history[-1].metrics["calibration_sqnr_db"]
        for how in ("compensated", "nearest")
    )
    assert mended > plain + 3


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_four_bits_make_it_small_the_same_when_loaded_and_in_both_runtimes(
    kind: str, pictures: Data, tmp_path: Path
) -> None:
    model = lines(kind, layers=1)
    light = quantize(model, pictures, method="weight_only", bits=4, group_size=32)
    entry = light.history[-1]
    assert not entry.details["skipped"]
    assert [row["name"] for row in entry.details["layers"]][:2] == [
        "cells.weight_ih_l0",
        "cells.weight_hh_l0",
    ]
    assert entry.metrics["calibration_sqnr_db"] > 15
    model.save(tmp_path / "float")
    light.save(tmp_path / "light")
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("float", "light")]
    assert sizes[1] < 0.3 * sizes[0]
    again, x = lwplugin.load(tmp_path / "light"), pictures.example(8)
    with torch.no_grad():
        assert torch.equal(again.module(x), light.module(x))
    for form in ("onnx", "openvino") if kind == "LSTM" else ("onnx",):
        exported = export(light, pictures, format=form, path=tmp_path / form)
        assert exported.meta["parity"]["max_abs_error"] < 1e-5
        assert exported.scheme["packed_layers"] == 5


def test_int8_keeps_eight_bits_and_its_packed_file_multiplies_whole_numbers(
    pictures: Data, tmp_path: Path
) -> None:
    model = lines(layers=1)
    light = quantize(model, pictures, method="int8")
    costs = [cost(each.module, pictures.example(1)) for each in (model, light)]
    assert (costs[0].params, costs[0].macs) == (costs[1].params, costs[1].macs)
    assert costs[1].size_bytes < 0.4 * costs[0].size_bytes
    matrix = light.module.cells.weight_hh_l0_reverse
    assert isinstance(matrix, PackedMatrix)
    assert (matrix.encoding.bits, len(matrix.codes)) == (8, 128 * 32)
    exported = {
        how: export(light, pictures, path=tmp_path / how, weights=how, parity=how == "packed")
        for how in ("unpacked", "packed")
    }
    nodes = {
        how: [node.op_type for node in onnx.load(str(made.file)).graph.node] for how, made in exported.items()
    }
    assert nodes["unpacked"].count("LSTM") == nodes["packed"].count("DynamicQuantizeLSTM") == 1
    assert "LSTM" not in nodes["packed"]
    assert exported["packed"].meta["parity"]["sqnr_db"] > 25
    assert exported["packed"].file.stat().st_size < exported["unpacked"].file.stat().st_size


def test_the_operator_for_whole_numbers_takes_no_groups_and_no_other_cells(
    pictures: Data, tmp_path: Path
) -> None:
    for number, (kind, options) in enumerate(
        [("LSTM", {"method": "weight_only", "bits": 8}), ("GRU", {"method": "int8"})]
    ):
        light = quantize(lines(kind, layers=1), pictures, **options)
        file = export(light, pictures, path=tmp_path / str(number), weights="packed", parity=False).file
        operators = {node.op_type for node in onnx.load(str(file)).graph.node}
        assert kind in operators
        assert "DynamicQuantizeLSTM" not in operators


@pytest.mark.parametrize(
    "options", [{"method": "codebook", "bits": 4}, {"method": "half", "compute": "dtype"}]
)
def test_other_packings_take_its_matrices_too(
    options: dict[str, Any], pictures: Data, tmp_path: Path
) -> None:
    light = quantize(lines(layers=1), pictures, **options)
    assert all(isinstance(part, PackedMatrix) for part in light.module.cells.parts().values())
    assert export(light, pictures, path=tmp_path).file.is_file()


def test_toolchains_get_floats_of_eight_bits_and_nothing_of_four(pictures: Data, tmp_path: Path) -> None:
    whole = quantize(lines(layers=1), pictures, method="int8")
    options = {"examples": 8, "batch": 2, "weights_as_integers": False}
    handed = hand_over(whole, pictures, tmp_path / "m.pt2", **options)
    assert type(handed.module.cells) is nn.LSTM
    with torch.no_grad():
        x = pictures.example(4)
        assert torch.allclose(handed.module.cells(x)[0], whole.module.cells(x)[0])
    engine = export(whole, pictures, path=tmp_path / "trt", scheme="tensorrt")
    assert "packed_layers" not in engine.scheme
    narrow = quantize(lines(layers=1), pictures, method="weight_only", bits=4, skip=["head"])
    with pytest.raises(ExportError, match="No kernel here reads this packing"):
        hand_over(narrow, pictures, tmp_path / "m.pt2", **options)


def test_what_is_skipped_and_a_model_that_is_nothing_else_stay_as_they_are(pictures: Data) -> None:
    light = quantize(lines(), pictures, method="int8", skip=["cells"])
    assert type(light.module.cells) is nn.LSTM
    assert light.history[-1].details["skipped"][0] == {"name": "cells", "reason": "named in skip"}
    with pytest.raises(MethodError, match="it is the whole model"):
        quantize(nn.LSTM(8, 4).eval(), pictures, method="weight_only")


def test_bits_are_chosen_matrix_by_matrix(pictures: Data) -> None:
    light = quantize(lines(), pictures, method="weight_only", bits="auto", size=0.15, group_size=32)
    cells = light.module.cells
    assert isinstance(cells, PartedRecurrent)
    assert len({part.encoding.bits for part in cells.parts().values()}) > 1
