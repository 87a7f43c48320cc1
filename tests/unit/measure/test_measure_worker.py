from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lwplugin.errors import MeasureError
from lwplugin.measure.session import Worker
from lwplugin.model import FactoryOrigin, light


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker("onnxruntime", label="candidate", threads=1, timeout_s=60) as started:
        started.receive()
        yield started


def load(worker: Worker, file: Path, output: str = "output", **changes: object) -> dict:
    request = {"device": "cpu", "threads": 1, "optimize": True, "output": output, **changes}
    return worker.ask("load", file=str(file), **request)


def test_the_worker_imports_no_torch_and_no_pydantic() -> None:
    code = (
        "import sys, lwplugin.measure.worker, lwplugin.measure.runtimes.onnx as _;"
        "print([m for m in ('torch', 'pydantic', 'mlflow', 'scipy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_it_runs_a_file_as_numpy_would(worker: Worker, exports: dict[str, Path], build: object) -> None:
    facts = load(worker, exports["fast"] / "model.onnx")
    assert facts["load_ms"] > 0
    x, y = build.examples(20)  # type: ignore[attr-defined]
    output = worker.ask_arrays("score", {"input": x})[1]["output"]
    assert output.shape == (20, 4)
    assert (output.argmax(1) == y).mean() > 0.9


def test_memory_is_that_of_the_runtime_process(worker: Worker, exports: dict[str, Path]) -> None:
    facts = load(worker, exports["fast"] / "model.onnx")
    memory = worker.ask("memory")
    with open(f"/proc/{worker.pid}/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    assert memory["peak_bytes"] == pytest.approx(peak, rel=0.02)
    assert 10e6 < facts["before_bytes"] < memory["peak_bytes"] < 300e6


def test_a_truncated_file_is_an_error_and_the_worker_lives(
    worker: Worker, exports: dict[str, Path], tmp_path: Path
) -> None:
    whole = (exports["fast"] / "model.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MeasureError, match="candidate: the runtime cannot load the file"):
        load(worker, tmp_path / "half.onnx")
    assert load(worker, exports["fast"] / "model.onnx")["providers"] == ["CPUExecutionProvider"]


def test_a_missing_output_and_a_wrong_shape_are_named(worker: Worker, exports: dict[str, Path]) -> None:
    with pytest.raises(MeasureError, match="no output 'logit'"):
        load(worker, exports["fast"] / "model.onnx", output="logit")
    load(worker, exports["fast"] / "model.onnx")
    with pytest.raises(MeasureError, match="run the file on the test examples"):
        worker.ask("score", {"input": np.zeros((1, 3), np.float32)})


def test_an_unavailable_device_is_refused(worker: Worker, exports: dict[str, Path]) -> None:
    with pytest.raises(MeasureError, match=r"cannot run on 'cuda'[^.]*\. Do: measure with [^.]*\.$"):
        load(worker, exports["fast"] / "model.onnx", device="cuda")


def test_a_crash_is_reported_with_its_signal(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSEGV)
    with pytest.raises(MeasureError, match="died during 'memory' \\(signal SIGSEGV\\)"):
        worker.ask("memory")


def test_an_interpreter_error_is_reported_with_its_last_words() -> None:
    with (
        Worker("no such runtime", label="baseline", threads=1, timeout_s=60) as worker,
        pytest.raises(MeasureError, match="Unknown runtime"),
    ):
        worker.receive()


def test_a_hang_ends_at_the_timeout_and_leaves_no_process() -> None:
    with Worker("onnxruntime", label="candidate", threads=1, timeout_s=60) as worker:
        worker.receive()
        os.kill(worker.pid, signal.SIGSTOP)
        worker.timeout_s = 0.3
        began = time.monotonic()
        with pytest.raises(MeasureError, match=r"did not finish 'memory' within 0\.3 s"):
            worker.ask("memory")
        assert time.monotonic() - began < 5
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


def test_a_hang_while_a_large_input_is_sent_ends_too(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    worker.timeout_s = 0.3
    with pytest.raises(MeasureError, match="did not finish 'score'"):
        worker.ask("score", {"input": np.zeros(1 << 22, np.float32)})


def test_a_killed_controller_leaves_no_worker_behind() -> None:
    code = (
        "from lwplugin.measure.session import Worker\n"
        "w = Worker('onnxruntime', label='x', threads=1); w.receive(); print(w.pid, flush=True)\n"
        "import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as controller:
        pid = int(controller.stdout.readline())  # type: ignore[union-attr]
        controller.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(pid):
        time.sleep(0.05)
    assert not _alive(pid)


def test_blocks_leave_out_nothing_on_their_own(worker: Worker, exports: dict[str, Path]) -> None:
    load(worker, exports["slow"] / "model.onnx")
    x = np.zeros((1, 16), np.float32)
    worker.ask("inputs", {"0:input": x}, count=1, names=["input"])
    warm = worker.ask("warm", max_seconds=0.5, stretch_seconds=0.005, stretch_runs=3)
    assert warm["runs"] >= 4
    facts, arrays = worker.ask_arrays("block", k=7, settle=1, offset=0)
    assert arrays["durations_ns"].shape == arrays["disturbed"].shape == (7,)
    assert 0 < arrays["durations_ns"].sum() <= facts["wall_ns"]


def test_the_process_is_pinned_and_freed(worker: Worker, exports: dict[str, Path]) -> None:
    allowed = os.sched_getaffinity(0)
    load(worker, exports["fast"] / "model.onnx", cpus=[min(allowed)])
    assert os.sched_getaffinity(worker.pid) == {min(allowed)}
    worker.ask("unpin")
    assert os.sched_getaffinity(worker.pid) == allowed


def test_a_worker_outlives_the_thread_of_another() -> None:
    """Workers die with the thread that started them; one started and used in a thread must work there."""
    seen: list[dict] = []

    def use() -> None:
        with Worker("onnxruntime", label="x", threads=1, timeout_s=60) as worker:
            seen.append(worker.receive()[0])

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen[0]["version"]


def test_torch_runs_a_bundle_and_an_exported_program(tmp_path: Path) -> None:
    module = torch.nn.Linear(16, 4).eval()
    program = torch.export.export(
        module, (torch.zeros(2, 16),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    origin = FactoryOrigin(path="torch.nn:Linear", args={"in_features": 16, "out_features": 4})
    light(module, origin).save(tmp_path / "bundle")
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    with Worker("torch", label="baseline", threads=1, timeout_s=120) as worker:
        worker.receive()
        for file in (tmp_path / "model.pt2", tmp_path / "bundle"):
            load(worker, file)
            output = worker.ask_arrays("score", {"input": x})[1]["output"]
            np.testing.assert_allclose(output, expected, atol=1e-6)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
