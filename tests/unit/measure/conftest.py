"""Small real ONNX files with an export.json beside them, and data to go with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwplugin.data import from_arrays

FEATURES, CLASSES = 16, 4


def examples(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around one centre per class; a linear layer with the centres as rows tells them apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    x = centres()[y] + 0.3 * rng.standard_normal((n, FEATURES))
    return x.astype(np.float32), y.astype(np.int64)


def centres() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((CLASSES, FEATURES)).astype(np.float32)


def write_export(
    directory: Path, model: onnx.ModelProto, *, scheme: dict[str, Any] | None = None, batch: int | str = "N"
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    onnx.save(model, path)
    shape = [d.dim_value or d.dim_param or None for d in model.graph.input[0].type.tensor_type.shape.dim]
    shape[0] = batch
    content = {
        "schema": 1,
        "format": "onnx",
        "file": "model.onnx",
        "inputs": [{"name": "input", "dtype": "float32", "shape": shape}],
        "output": "output",
        "opset": 18,
        "scheme": scheme,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (directory / "export.json").write_text(json.dumps(content))
    return directory


def graph_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    input_shape: list[int | str],
    output_shape: list[int | str],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def classifier(
    *, hidden: int = 0, repeats: int = 1, poison: float | None = None, batch: int | str = "N"
) -> onnx.ModelProto:
    """x → centres·x - |centre|²/2, which is right about every example; ``hidden`` × ``repeats`` adds work
    that does not change the answer, ``poison`` makes outputs above that logit NaN."""
    rows = centres()
    weights = {"w": rows.T.copy(), "b": (-0.5 * (rows**2).sum(1)).astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["logits"])]
    last = "logits"
    if hidden:
        rng = np.random.default_rng(2)
        weights["wide"] = rng.standard_normal((FEATURES, hidden)).astype(np.float32)
        weights["back"] = np.zeros((hidden, CLASSES), np.float32)
        weights["square"] = (rng.standard_normal((hidden, hidden)) / hidden**0.5).astype(np.float32)
        nodes.append(helper.make_node("MatMul", ["input", "wide"], ["h0"]))
        for i in range(repeats):
            nodes.append(helper.make_node("MatMul", [f"h{i}", "square"], [f"m{i}"]))
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"]))
        nodes.append(helper.make_node("MatMul", [f"h{repeats}", "back"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["logits", "nothing"], ["sum"]))
        last = "sum"
    if poison is not None:
        weights["limit"] = np.array(poison, np.float32)
        nodes.append(helper.make_node("Sub", ["limit", last], ["room"]))
        nodes.append(helper.make_node("Sqrt", ["room"], ["output"]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["output"]))
    return graph_model(nodes, weights, [batch, FEATURES], [batch, CLASSES])


def conv_int8(*, weight_bits: int, seed: int = 3) -> onnx.ModelProto:
    """A u8s8 Q/DQ convolution with large weights of one sign, whose pairs of products overflow 16 bits on
    kernels without VNNI when the weights have 8 bits; then a mean and a linear layer."""
    rng = np.random.default_rng(seed)
    channels = 32
    float_weight = rng.uniform(0.6, 1.0, (channels, 8, 3, 3)) * rng.choice([-1, 1], (channels, 1, 1, 1))
    top = 2 ** (weight_bits - 1) - 1
    scale = np.abs(float_weight).max() / top
    weights = {
        "x_scale": np.array(1 / 255, np.float32),
        "x_zero": np.array(0, np.uint8),
        "w_q": np.clip(np.round(float_weight / scale), -top, top).astype(np.int8),
        "w_scale": np.array(scale, np.float32),
        "w_zero": np.array(0, np.int8),
        "y_scale": np.array(0.6, np.float32),
        "y_zero": np.array(128, np.uint8),
        "head": rng.standard_normal((channels, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y_float"]),
        helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["output"]),
    ]
    return graph_model(nodes, weights, ["N", 8, 8, 8], ["N", CLASSES])


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The builders of this file."""
    return SimpleNamespace(
        centres=centres,
        classifier=classifier,
        conv_int8=conv_int8,
        examples=examples,
        graph_model=graph_model,
        write=write_export,
    )


@pytest.fixture(scope="session")
def short() -> dict[str, Any]:
    """Options of a quick measurement."""
    return {
        "min_seconds": 0.15,
        "max_seconds": 0.6,
        "processes": 1,
        "profile_seconds": 0,
        "timeout_s": 60.0,
    }


@pytest.fixture(scope="session")
def data() -> Any:
    return from_arrays(test=examples(150))


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    return {
        "slow": write_export(root / "slow", classifier(hidden=256, repeats=16)),
        "fast": write_export(root / "fast", classifier(hidden=256, repeats=4)),
        "nan": write_export(root / "nan", classifier(poison=2.0)),
        "fixed": write_export(root / "fixed", classifier(batch=4), batch=4),
    }
