"""Any number of files in their runtimes side by side: one process a file, short blocks of runs in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lwplugin.measure.machine import idle_cpus
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.measure.session import Worker, workers

Feed = dict[str, np.ndarray]
OUTPUT = "output"
_BLOCK_SECONDS = 0.02
_SUFFIXES = {".onnx": "onnx", ".xml": "openvino"}


def runtime(file: Path) -> str:
    """The runtime of a file by its suffix."""
    return runtime_of(_SUFFIXES[file.suffix])


def size(file: Path) -> int:
    """Bytes of the file and its weights."""
    return sum(part.stat().st_size for part in {file, file.with_suffix(".bin")} if part.is_file())


def load(worker: Worker, file: Path, *, threads: int, cpus: list[int] | None = None) -> None:
    """Create the file's session in the worker."""
    worker.ask("load", file=str(file), device="cpu", threads=threads, optimize=True, output=OUTPUT, cpus=cpus)


def answers(file: Path, inputs: Feed, *, batch: int) -> np.ndarray:
    """The file's output for all inputs, in its own kernels, on one thread."""
    count = len(next(iter(inputs.values())))
    with Worker(runtime(file), label=file.name, threads=1) as worker:
        worker.receive()
        load(worker, file, threads=1)
        parts = []
        for start in range(0, count, batch):
            feed = {
                name: np.ascontiguousarray(values[start : start + batch]) for name, values in inputs.items()
            }
            parts.append(worker.ask_arrays("score", feed)[1]["output"])
    return np.concatenate(parts)


def latencies(
    files: Mapping[str, Path], feeds: Sequence[Feed], *, threads: int, seconds: float, starts: int
) -> dict[str, np.ndarray]:
    """Medians in ms of each file's blocks, [starts, rounds], in all ``seconds`` of runs.

    Every round runs each file once, in an order of its own. A process keeps the memory it was given, and with it some
    per cent of speed, so all files are started anew ``starts`` times.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in files}
    for start in range(starts):
        draws = np.random.default_rng(start)
        for name, times in _rounds(files, feeds, threads, seconds / starts, draws).items():
            found[name].append(times)
    fewest = min(len(times) for each in found.values() for times in each)
    return {name: np.stack([times[:fewest] for times in each]) for name, each in found.items()}


def _rounds(
    files: Mapping[str, Path], feeds: Sequence[Feed], threads: int, seconds: float, draws: np.random.Generator
) -> dict[str, np.ndarray]:
    """Of processes started for it, [rounds]."""
    with contextlib.ExitStack() as stack:
        order = _another(list(files), draws)
        kinds = {name: runtime(files[name]) for name in order}
        running = stack.enter_context(workers(kinds, threads=threads, timeout_s=120))
        for worker in running.values():
            worker.receive()
        cpus = idle_cpus(threads)
        arrays = {
            f"{place}:{name}": value for place, feed in enumerate(feeds) for name, value in feed.items()
        }
        runs: dict[str, int] = {}
        for name, worker in running.items():
            load(worker, files[name], threads=threads, cpus=cpus)
            worker.ask("inputs", arrays, count=len(feeds), names=list(feeds[0]))
            warm = worker.ask("warm", max_seconds=1.0, stretch_seconds=0.01, stretch_runs=3)
            runs[name] = max(1, min(500, int(1e3 * _BLOCK_SECONDS / warm["run_ms"])))
        times: dict[str, list[float]] = {name: [] for name in files}
        spent = 0.0
        for turn in range(10_000):
            # Nobody always follows the same file, and nobody itself: that would find its caches warm.
            order = _another(order, draws)
            for name in order:
                request: dict[str, Any] = {"k": runs[name], "settle": max(1, runs[name] // 4), "offset": turn}
                _, timed = running[name].ask_arrays("block", **request)
                spent += 1.25e-9 * float(timed["durations_ns"].sum())
                times[name].append(float(np.median(timed["durations_ns"])) * 1e-6)
            if spent > seconds:
                break
    return {name: np.array(values) for name, values in times.items()}


def _another(order: list[str], draws: np.random.Generator) -> list[str]:
    last = order[-1]
    while len(order) > 1:
        order = [order[k] for k in draws.permutation(len(order))]
        if order[0] != last:
            break
    return order


def speed(base: np.ndarray, times: np.ndarray) -> tuple[float, float, float]:
    """How many times as fast as ``base``, both [starts, rounds], and Student's 95 % interval over starts.

    Of each start the median ratio of its rounds, of all starts the geometric mean. One start has no interval.
    """
    ratios = np.log(np.median(base / times, axis=1))
    mean, half = float(ratios.mean()), float("inf")
    if len(ratios) > 1:
        half = float(stats.t.ppf(0.975, len(ratios) - 1) * stats.sem(ratios))
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))
