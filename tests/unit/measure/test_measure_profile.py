"""Where the time goes, and what else is measured where it is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lwplugin.measure import measure
from lwplugin.measure.extra import profile_of
from lwplugin.measure.layer_names import Node, layer_of, owners
from lwplugin.measure.layer_times import layer_times
from lwplugin.measure.machine import throttling
from lwplugin.measure.noise import throttled
from lwplugin.measure.result import Noise
from lwplugin.measure.session import Worker


def named_network(build: SimpleNamespace) -> onnx.ModelProto:
    """A wide layer `body`, a narrow layer `head`, as exporters name their weights."""
    rng = np.random.default_rng(0)
    weights = {
        "module.body.weight": rng.standard_normal((1024, 16)).astype(np.float32),
        "module.head.weight_quantized": rng.integers(-9, 9, (1024, 4)).astype(np.int8),
        "scale": np.array(0.1, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["input", "module.body.weight"], ["h"], name="node_1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="node_2"),
        helper.make_node("DequantizeLinear", ["module.head.weight_quantized", "scale"], ["w"], name="node_3"),
        helper.make_node("MatMul", ["r", "w"], ["logits"], name="node_4"),
        helper.make_node("Softmax", ["logits"], ["output"], name="node_5"),
    ]
    return build.graph_model(nodes, weights, ["N", 16], ["N", 4])


def test_the_profile_names_the_layers_and_everything_asked_for_is_there(
    build: SimpleNamespace, tmp_path: Path, data: Any, short: dict[str, Any]
) -> None:
    export = build.write(tmp_path, named_network(build))
    options = {**short, "profile_seconds": 0.1, "offline_batch": 8, "cold_starts": 1}
    found = measure(export, data, baseline=export, **options)
    seen = found.candidate.profile
    assert {kernel.layer for kernel in seen.kernels} == {"body", "head", None}
    assert sum(kernel.share for kernel in seen.kernels) == pytest.approx(1)
    assert 0 < seen.total_ms < 20 * found.candidate.latency.p50_ms
    assert seen.runs >= 8
    assert (seen.fallback, seen.fallback_kinds) == (0, [])
    rows = layer_times(found.baseline.profile.model_dump(), seen.model_dump())
    assert [row.name for row in rows] == ["body", "head", "(Softmax)"]
    assert all(row.before_ms > 0 and row.after_ms > 0 for row in rows)

    offline, latency = found.candidate.throughput, found.candidate.latency
    assert offline.batch == 8
    assert offline.examples_per_s > 0.5e3 / latency.p50_ms
    assert found.throughput_speedup.low < 1.2
    cold = found.candidate.cold_start
    assert cold.n == 1
    assert cold.total_ms == pytest.approx(cold.import_ms + cold.load_ms + cold.first_ms)
    assert cold.import_ms > 5
    assert latency.p50_ms <= latency.p90_ms <= latency.p95_ms <= latency.p99_ms


def test_nothing_that_was_not_asked_for_is_measured(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    found = measure(exports["fast"], data, min_runs=500, **short)
    assert (found.profile, found.throughput, found.cold_start) == (None, None, None)
    assert found.latency.n + found.noise.disturbed * found.latency.n >= 400


def test_openvino_tells_its_layers_too(build: SimpleNamespace, tmp_path: Path, data: Any) -> None:
    openvino = pytest.importorskip("openvino")
    onnx.save(named_network(build), tmp_path / "model.onnx")
    openvino.save_model(openvino.convert_model(str(tmp_path / "model.onnx")), str(tmp_path / "model.xml"))
    with Worker("openvino", label="x", threads=1, timeout_s=60) as worker:
        worker.receive()
        request = {"file": str(tmp_path / "model.xml"), "device": "cpu", "threads": 1, "output": "output"}
        worker.ask("load", **request, optimize=True)
        worker.ask("inputs", {"0:input": np.ones((64, 16), np.float32)}, count=1, names=["input"])
        subject = SimpleNamespace(file=tmp_path / "model.xml", format="openvino")
        found = profile_of(worker, subject, "cpu", request, 0.1)  # type: ignore[arg-type]
    assert found is not None
    assert {"body", "head"} <= {kernel.layer for kernel in found.kernels}
    assert all(kernel.kernel for kernel in found.kernels)


def test_kernels_are_traced_to_layers_by_the_names_of_weights() -> None:
    graph = [
        Node("Const", ["conv1.weight_quantized"], constant=True),
        Node("DequantizeLinear", ["conv1.weight", "conv1.weight/Dequantize"], ["conv1.weight_quantized"]),
        Node("Const", ["val_7"], constant=True),
        Node("Conv", ["node_conv", "c"], ["x", "conv1.weight"]),
        Node("Add", ["node_bias", "b"], ["c", "val_7"]),
        Node("Relu", ["node_relu", "r"], ["b"]),
        Node("Add", ["node_add", "a"], ["r", "x"]),
        Node("MatMul", ["node_matmul", "m"], ["a", "val_7"]),
        Node("Const", ["module.head.bias"], constant=True),
        Node("MatMul", ["node_folded", "f"], ["m", "val_7"]),
        Node("Add", ["node_head_bias", "hb"], ["f", "module.head.bias"]),
    ]
    layers = owners(graph)
    assert layer_of("r_nchwc", layers) == "conv1"
    assert layer_of("node_conv_token_12", layers) == "conv1"
    assert layer_of("node_conv/WithoutBiases/DequantizationMultiply", layers) == "conv1"
    assert layer_of("fused node_bias", layers) == "conv1"
    assert layer_of("node_add", layers) is None
    assert layer_of("node_matmul", layers) is None
    assert layer_of("node_folded", layers) == layer_of("node_head_bias", layers) == "head"
    assert layer_of("ReorderOutput_token_3", layers) is None


class Told:
    """A worker whose runtime reports these kernels."""

    label, queues = "x", False

    def __init__(self, *kernels: tuple[str, str, str, float]) -> None:
        names = ("kind", "provider", "kernel", "ms")
        self.kernels = [{"name": "k", **dict(zip(names, kernel))} for kernel in kernels]

    def ask(self, op: str, arrays: Any = None, **fields: Any) -> dict[str, Any]:
        return {"runs": 9, "kernels": self.kernels}


def test_operators_that_the_device_does_not_run_are_named() -> None:
    worker = Told(("Conv", "CUDAExecutionProvider", "", 3.0), ("NonZero", "CPUExecutionProvider", "", 1.0))
    subject = SimpleNamespace(file=Path("none"), format="none")
    found = profile_of(worker, subject, "cuda", {}, 0.1)  # type: ignore[arg-type]
    assert (found.fallback, found.fallback_kinds) == (0.25, ["NonZero"])
    slow = Told(("Convolution", "CPU", "jit_avx2_f32", 3.0), ("Interpolate", "CPU", "ref_any_f32", 1.0))
    found = profile_of(slow, subject, "cpu", {}, 0.1)  # type: ignore[arg-type]
    assert (found.fallback, found.fallback_kinds) == (0.25, ["Interpolate"])


def test_throttling_is_read_from_the_system_and_counts_where_it_slowed_the_runs(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert set(throttling(str(tmp_path)).values()) == {None}
    for cpu in ("cpu0", "cpu1"):
        write(f"sys/devices/system/cpu/{cpu}/thermal_throttle/core_throttle_count", "3\n")
        write(f"sys/devices/system/cpu/{cpu}/cpufreq/scaling_cur_freq", "2400000\n")
    write("sys/fs/cgroup/cpu.stat", "usage_usec 12\nnr_periods 9\nnr_throttled 4\n")
    before = throttling(str(tmp_path))
    assert before == {"heat": 6, "quota": 4, "mhz": 2400, "firmware": None}
    write("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "5\n")
    write("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1200000\n")
    write("sys/fs/cgroup/cpu.stat", "nr_throttled 5\n")
    write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    after = throttling(str(tmp_path))
    quiet = {"same_file": 0, "halves": 0, "disturbed": 0, "off_cpu": 0, "load_after": 0, "rounds": 9}
    slow = throttled(Noise(**quiet, drift=0.3, reasons=[]), before, after)
    assert slow.throttled == [
        "the CPU was throttled for its heat 2 times",
        "the CPU was stopped by its group's CPU quota 1 times",
        "the board throttles itself (heat or power)",
        "the clock fell from 2400 to 1800 MHz",
    ]
    assert slow.reasons[0].endswith("and the runs became 30 % slower")
    steady = throttled(Noise(**quiet, drift=0.0, reasons=[]), before, after)
    assert steady.throttled
    assert steady.reasons == []
    assert throttled(Noise(**quiet, drift=0.3, reasons=[]), before, before).throttled == []


@pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="this system takes no advice about its page cache"
)
def test_a_cold_file_is_read_from_the_disk(tmp_path: Path) -> None:
    """Seen by mincore: none of the file's pages is in memory after it was forgotten."""
    import ctypes
    import mmap

    from lwplugin.measure.worker import forget

    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))

    def cached() -> int:
        pages = (1 << 20) // mmap.PAGESIZE
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as view:
            state = (ctypes.c_ubyte * pages)()
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            libc = ctypes.CDLL(None, use_errno=True)
            answer = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(1 << 20), state)
            assert answer == 0
            return sum(page & 1 for page in state)

    if cached() == 0:
        pytest.skip("this system does not tell what is in the page cache")
    forget(str(file))
    ours = cached()
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached():
        pytest.skip("this file system keeps its pages whatever it is advised")
    assert ours == 0
