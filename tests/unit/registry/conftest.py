from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def write_export(
    directory: Path, *, batch: str | int = "batch", two_inputs: bool = False, kind: str = "onnx"
) -> Path:
    """output = reshape(input) @ WEIGHT, input [batch, 2, 2]; or output = left + right, both [batch, 3]."""
    directory.mkdir(parents=True)
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 3])
    if two_inputs:
        names, shape = ["left", "right"], [batch, 3]
        nodes = [helper.make_node("Add", names, ["output"])]
        constants = []
    else:
        names, shape = ["input"], [batch, 2, 2]
        nodes = [
            helper.make_node("Reshape", ["input", "flat_shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["output"]),
        ]
        constants = [
            numpy_helper.from_array(WEIGHT, "weight"),
            numpy_helper.from_array(np.array([-1, 4], np.int64), "flat_shape"),
        ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    graph = helper.make_graph(nodes, "net", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file = directory / f"model.{kind}"
    onnx.save(model, file)
    description = {
        "schema": 1,
        "format": kind,
        "file": file.name,
        "inputs": [{"name": name, "dtype": "float32", "shape": shape} for name in names],
        "output": "output",
        "opset": 18,
        "scheme": None,
        "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    (directory / "export.json").write_text(json.dumps(description), encoding="utf-8")
    return directory


@pytest.fixture
def make_export(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "export", **options: object) -> Path:
        return write_export(tmp_path / name, **options)  # type: ignore[arg-type]

    return make
