"""Small real ONNX files with an export.json beside them, and data to go with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
