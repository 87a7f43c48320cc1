"""From the durations that a runtime's own profiler saw to one number per kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from lwplugin.measure.wire import Array

MIN_RUNS, MAX_RUNS = 8, 200
Feeds = Mapping[str, Array]


class Kernels:
    """Durations by kernel, in the order in which the kernels were first seen."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[dict[str, str], list[float]]] = {}

    def add(self, key: Hashable, ms: float, **said: str) -> None:
        """One execution; ``said`` is what the runtime calls the kernel."""
        self._seen.setdefault(key, (said, []))[1].append(ms)

    def listed(self, runs: int) -> list[dict[str, Any]]:
        """Each with ``ms``: the median over the later three quarters of the runs, a kernel in a loop with all
        its turns."""
        return [{**said, "ms": _of_one_run(durations, runs)} for said, durations in self._seen.values()]


def run_for(run: Callable[[Feeds], Any], feeds: Sequence[Feeds], seconds: float) -> int:
    """Run on the inputs in turn for so long, a few times at least; how often it was."""
    began, runs = time.perf_counter(), 0
    while runs < MIN_RUNS or (runs < MAX_RUNS and time.perf_counter() - began < seconds):
        run(feeds[runs % len(feeds)])
        runs += 1
    return runs


def _of_one_run(durations: Sequence[float], runs: int) -> float:
    if len(durations) % runs:
        return float(sum(durations) / runs)
    each = np.asarray(durations, np.float64).reshape(runs, -1).sum(1)
    return float(np.median(each[runs // 4 :]))
