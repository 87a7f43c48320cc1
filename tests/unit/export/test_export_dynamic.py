from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from quantize_nets import tokens

from lwplugin.export import export
from lwplugin.quantize import quantize
from lwplugin.quantize.scheme import sqnr_db


def operators(file: Path, optimized: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(optimized)).graph.node)


@pytest.mark.parametrize("smoothing", [True, False])
def test_dynamic_layers_run_in_fused_integer_products(smoothing: bool, tmp_path: Path) -> None:
    net, data = tokens()
    made = quantize(net, data, activations="dynamic", smoothing=smoothing, reduce_range=True)
    written = export(made, data, path=tmp_path)
    stored = Counter(node.op_type for node in onnx.load(str(written.file)).graph.node)
    # `query` and `value` read one tensor: it is scaled and rounded once.
    assert stored["DynamicQuantizeLinear"] == 2
    found = operators(written.file, tmp_path / "optimized.onnx")
    assert found["MatMulIntegerToFloat"] + found["DynamicQuantizeMatMul"] == 3
    assert not found["MatMulInteger"]
    assert written.scheme["dynamic_layers"] == 3
    assert written.meta["parity"]["sqnr_db"] > 30
    x = torch.randint(50, (7, 12))
    got = onnxruntime.InferenceSession(str(written.file)).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        assert np.abs(got - made.module(x).numpy()).max() < 0.05


def test_smoothed_layers_with_known_ranges_round_the_scaled_input(tmp_path: Path) -> None:
    net, data = tokens()
    made = quantize(net, data, activations="static", smoothing=True, reduce_range=True)
    written = export(made, data, path=tmp_path)
    stored = Counter(node.op_type for node in onnx.load(str(written.file)).graph.node)
    assert not stored["DynamicQuantizeLinear"]
    assert written.meta["parity"]["sqnr_db"] > 30


def test_a_target_that_needs_known_ranges_gets_them(tmp_path: Path) -> None:
    net, data = tokens()
    made = quantize(net, data, activations="dynamic")
    written = export(made, data, path=tmp_path, scheme="tensorrt")
    stored = Counter(node.op_type for node in onnx.load(str(written.file)).graph.node)
    assert not stored["DynamicQuantizeLinear"]
    assert stored["QuantizeLinear"] >= 2
    assert written.scheme["dynamic_layers"] == 0


def test_symmetric_ranges_are_what_tensorrt_rounds_to(tmp_path: Path) -> None:
    net, data = tokens()
    sqnr = {}
    for symmetric in (False, True):
        made = quantize(net, data, activations="static", symmetric=symmetric, reduce_range=False)
        file = export(made, data, path=tmp_path / str(symmetric), scheme="tensorrt").file
        x = torch.randint(50, (32, 12))
        plain = onnxruntime.SessionOptions()
        plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        got = onnxruntime.InferenceSession(str(file), plain).run(None, {"input": x.numpy()})[0]
        with torch.no_grad():
            sqnr[symmetric] = sqnr_db(made.module(x), torch.from_numpy(got))
    assert sqnr[True] > sqnr[False] + 10


def test_openvino_gets_known_ranges_and_tables_of_codes(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    net, data = tokens()
    made = quantize(net, data, activations="dynamic", smoothing=True)
    written = export(made, data, format="openvino", path=tmp_path)
    assert written.scheme["dynamic_layers"] == 0
    assert written.meta["parity"]["sqnr_db"] > 30
    tables = [
        node.get_element_type().get_type_name()
        for node in openvino.Core().read_model(str(written.file)).get_ops()
        if node.get_type_name() == "Constant" and list(node.get_output_shape(0))[:1] == [50]
    ]
    assert sorted(tables) == ["f16", "u8", "u8"]
    compiled = openvino.Core().compile_model(str(written.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kernels = [info for info in infos if info["layerType"].value == "FullyConnected"]
    assert len(kernels) == 3
    assert {info["runtimePrecision"].value for info in kernels} <= {"u8", "i8"}
