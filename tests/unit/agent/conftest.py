"""Agents as processes of their own, and files to measure on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from agent_process import TOKEN, Running, start, stop
from onnx import TensorProto, helper, numpy_helper

from lwplugin.data import from_arrays
from lwplugin.export.base import Exported, file_digest


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Starts agents that end with the test."""
    monkeypatch.setenv("BOARD_TOKEN", TOKEN)
    running: list[Running] = []

    def begin(*arguments: Any, **options: Any) -> Running:
        running.append(start(*arguments, **options))
        return running[-1]

    yield begin
    for one in running:
        stop(one)


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the inventory that LWPLUGIN_DEVICES names."""

    def write(port: int = 1, *, host: str = "127.0.0.1", **more: Any) -> Path:
        entry = {"address": f"{host}:{port}", "token_env": "BOARD_TOKEN", "silence_s": 3, **more}
        file = tmp_path / "devices.yaml"
        file.write_text(
            yaml.safe_dump({"devices": {"board": {k: v for k, v in entry.items() if v is not None}}})
        )
        monkeypatch.setenv("LWPLUGIN_DEVICES", str(file))
        return file

    return write


def _network(repeats: int) -> onnx.ModelProto:
    """x → a linear layer on ``repeats`` square ones."""
    rng = np.random.default_rng(2)
    weights = {
        "w0": rng.standard_normal((16, 128)) / 4,
        "square": rng.standard_normal((128, 128)) / 12,
        "w1": rng.standard_normal((128, 4)) / 12,
    }
    nodes = [helper.make_node("MatMul", ["input", "w0"], ["h0"])]
    for i in range(repeats):
        nodes += [helper.make_node("MatMul", [f"h{i}", "square"], [f"m{i}"])]
        nodes += [helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"])]
    nodes.append(helper.make_node("MatMul", [f"h{repeats}", "w1"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``slow`` does four times the work of ``fast``."""
    found = {}
    for name, repeats in (("fast", 8), ("slow", 32)):
        folder = tmp_path_factory.mktemp(name)
        onnx.save(_network(repeats), folder / "model.onnx")
        Exported(
            path=folder,
            format="onnx",
            file=folder / "model.onnx",
            digest=file_digest(folder / "model.onnx"),
            inputs={"input": {"dtype": "float32", "shape": ["batch", 16]}},
            output="output",
        ).save()
        found[name] = folder
    return found


@pytest.fixture(scope="session")
def data() -> Any:
    rng = np.random.default_rng(0)
    return from_arrays(test=(rng.standard_normal((80, 16)), rng.integers(0, 4, 80)))


@pytest.fixture(scope="session")
def short() -> dict[str, Any]:
    return {
        "min_seconds": 0.2,
        "max_seconds": 0.8,
        "processes": 1,
        "energy_seconds": 0.1,
        "profile_seconds": 0.05,
    }
