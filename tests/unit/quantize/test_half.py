from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import ExportError, MethodError
from lwplugin.export import export
from lwplugin.quantize import quantize


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("compute", ["float32", "dtype"])
def test_answers_stay_and_the_stored_weights_are_half_as_large(
    dtype: str, compute: str, trained_net: nn.Module, digits_data: Data
) -> None:
    made = quantize(trained_net, digits_data, method="half", dtype=dtype, compute=compute)
    entry = made.history[-1]
    assert entry.metrics["calibration_agreement"] > 0.97
    assert [row["stored_bits"] for row in entry.details["layers"]] == [16.0] * 4
    example = digits_data.example(1)
    weights = sum(m.weight.numel() for m in trained_net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    from lwplugin.model.cost import cost

    assert cost(trained_net, example).size_bytes - made.cost(example).size_bytes == 2 * weights


def test_weights_that_overflow_are_named_with_the_way_out(trained_net: nn.Module, digits_data: Data) -> None:
    import copy

    net = copy.deepcopy(trained_net)
    with torch.no_grad():
        net.inner.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(MethodError, match=r"layer 'inner' do not fit in float16.*bfloat16"):
        quantize(net, digits_data, method="half")
    quantize(net, digits_data, method="half", dtype="bfloat16")
    quantize(net, digits_data, method="half", skip=("inner",))


def test_activations_that_overflow_are_named_only_where_it_computes_in_the_type(digits_data: Data) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10)).eval()
    with torch.no_grad():
        net[1].weight.fill_(3e3)
        net[2].weight.fill_(1.0)
    assert quantize(net, digits_data, method="half").history[-1].metrics["calibration_agreement"] > 0.9
    with pytest.raises(MethodError, match="Layer '1' overflows when it computes in float16"):
        quantize(net, digits_data, method="half", compute="dtype")


def test_numbers_that_vanish_are_counted(trained_net: nn.Module, digits_data: Data) -> None:
    import copy

    net = copy.deepcopy(trained_net)
    with torch.no_grad():
        net.head.weight[0, :3] = 1e-9
    rows = quantize(net, digits_data, method="half").history[-1].details["layers"]
    assert {row["name"]: row["vanished"] for row in rows}["head"] == 3


@pytest.mark.parametrize(
    ("dtype", "compute"), [("float16", "float32"), ("bfloat16", "float32"), ("float16", "dtype")]
)
def test_exported_files_hold_sixteen_bits_and_answer_as_torch(
    dtype: str,
    compute: Literal["float32", "dtype"],
    trained_net: nn.Module,
    digits_data: Data,
    tmp_path: Path,
) -> None:
    import onnx

    made = quantize(trained_net, digits_data, method="half", dtype=dtype, compute=compute)
    exported = export(made, digits_data, path=tmp_path)
    kinds = [t.data_type for t in onnx.load(str(exported.file)).graph.initializer]
    wanted = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.BFLOAT16
    assert kinds.count(wanted) >= 4
    assert exported.scheme["packed_bits"] == [16]
    parity = exported.meta["parity"]
    assert parity["max_abs_error"] < 1e-4 if compute == "float32" else parity["sqnr_db"] > 40


def test_bfloat16_arithmetic_is_refused_by_the_cpu_file(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made = quantize(trained_net, digits_data, method="half", dtype="bfloat16", compute="dtype")
    with pytest.raises(ExportError, match="do not multiply in bfloat16"):
        export(made, digits_data, path=tmp_path)
