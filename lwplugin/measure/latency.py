"""Timing one or two files: short blocks of runs, interleaved between processes until the answer is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lwplugin.measure.intervals import Floats, quantile, repeatable
from lwplugin.measure.machine import load_average
from lwplugin.measure.noise import Speed, judge
from lwplugin.measure.result import Interval, Latency, Throughput
from lwplugin.measure.session import Peer, in_turn
from lwplugin.measure.wire import Array
from lwplugin.progress import Progress, silent

MIN_ROUNDS = 8
MIN_RUNS = 80  # the 95 % interval of the 95th percentile needs 72
_KEPT_SAMPLES = 2000
_WARM_SECONDS = 1.0
_STRETCHES = 10


@dataclass
class Timings:
    """``rounds[label][r]`` are the durations in ms that a process took in round r.

    Runs during which the system gave the CPU to other work are left out and counted: they tell of this
    machine's other tenants, not of the model. A round of nothing else is kept as it is.
    """

    rounds: dict[str, list[Floats]]
    runs: int = 0
    disturbed: int = 0
    wall_ns: int = 0
    cpu_ns: int = 0
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, label: str, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """One block as the worker answered it."""
        durations = 1e-6 * arrays["durations_ns"].astype(np.float64)
        disturbed = arrays["disturbed"]
        self.rounds[label].append(durations if disturbed.all() else durations[~disturbed])
        self.runs += len(durations)
        self.disturbed += int(disturbed.sum())
        self.wall_ns += facts["wall_ns"]
        self.cpu_ns += facts["cpu_ns"]

    def latency(self, labels: Sequence[str], confidence: float) -> Latency:
        """Median and tail over all runs of these processes."""
        samples, stretches = self._samples(labels)
        found = {
            f"p{percent}": _quantile(samples, percent / 100, stretches, confidence)
            for percent in (50, 90, 95, 99)
        }
        ends = {"": "estimate", "_low": "low", "_high": "high"}
        values = {
            f"{name}{suffix}_ms": getattr(interval, end)
            for name, interval in found.items()
            for suffix, end in ends.items()
        }
        kept = samples[np.linspace(0, len(samples) - 1, min(len(samples), _KEPT_SAMPLES)).astype(np.int64)]
        return Latency(
            **values,
            confidence=confidence,
            n=len(samples),
            samples_ms=[round(float(value), 6) for value in kept],
        )

    def throughput(self, labels: Sequence[str], batch: int, confidence: float) -> Throughput:
        """Examples a second at the median time of a batch."""
        samples, stretches = self._samples(labels)
        middle = _quantile(samples, 0.5, stretches, confidence)
        return Throughput(
            batch=batch,
            examples_per_s=1e3 * batch / middle.estimate,
            examples_per_s_low=None if middle.high is None else 1e3 * batch / middle.high,
            examples_per_s_high=None if middle.low is None else 1e3 * batch / middle.low,
            confidence=confidence,
            n=len(samples),
        )

    def _samples(self, labels: Sequence[str]) -> tuple[Floats, npt.NDArray[np.int64]]:
        """All runs in order, and in which tenth of the time each was taken: a machine that changes its
        pace does so for longer than a round, which only long stretches show."""
        turns = list(zip(*(self.rounds[label] for label in labels)))
        pieces = [piece for turn in turns for piece in turn]
        tenths = np.repeat(np.arange(len(turns)) * _STRETCHES // len(turns), len(labels))
        return np.concatenate(pieces), np.repeat(tenths, [len(piece) for piece in pieces])


def _quantile(samples: Floats, q: float, stretches: npt.NDArray[np.int64], confidence: float) -> Interval:
    levels = np.array([np.quantile(samples[stretches == stretch], q) for stretch in np.unique(stretches)])
    return repeatable(quantile(samples, q, blocks=stretches, confidence=confidence), levels)


@dataclass(frozen=True)
class Plan:
    """How long to time; all in seconds."""

    min_seconds: float
    max_seconds: float
    confidence: float = 0.95
    min_runs: int = MIN_RUNS
    precision: float = 0.01  # wanted half-width of what more rounds can narrow, as a share


def interleave(
    workers: Mapping[str, Peer],
    baseline: Sequence[str],
    candidate: Sequence[str],
    *,
    plan: Plan,
    on_cpu: bool = True,
    load: Callable[[], float] = load_average,
    progress: Progress = silent,
) -> tuple[Timings, Speed]:
    """Time the loaded workers in turns; every round runs each process once, on the same inputs.

    Stops when the speed-up's interval is narrow and nothing looks disturbed, else at ``plan.max_seconds``;
    the rounds that an interval needs are taken even if they last longer, up to four times that. ``load``
    tells the load average of the machine that runs them.
    """
    order = [label for pair in zip([*baseline], [*candidate] or [*baseline]) for label in dict.fromkeys(pair)]
    timings = Timings(rounds={label: [] for label in order})
    for label in order:
        timings.facts[label] = workers[label].ask(
            "warm", max_seconds=_WARM_SECONDS, stretch_seconds=0.01, stretch_runs=3
        )
    slowest_s = 1e-3 * max(fact["run_ms"] for fact in timings.facts.values())
    block_s = min(0.02, max(0.002, plan.min_seconds / (24 * len(order))))
    k = int(max(1, min(5000, block_s / slowest_s)))
    settle = int(min(20, 0.002 / slowest_s)) if slowest_s > 2e-4 else 10
    began = time.monotonic()
    while True:
        turn = len(timings.rounds[order[0]])
        # Forward, then backward: a drift in one direction weighs on both models alike.
        sequence = order if turn % 2 == 0 else order[::-1]
        request = {"k": k, "settle": max(1, settle), "offset": turn * k}
        for label, answer in zip(sequence, in_turn([workers[label] for label in sequence], "block", request)):
            timings.add(label, *answer)
        elapsed = time.monotonic() - began
        progress("time", min(int(1000 * elapsed), int(1000 * plan.max_seconds)), int(1000 * plan.max_seconds))
        rounds = turn + 1
        enough = rounds >= MIN_ROUNDS and rounds * k * len(baseline) >= plan.min_runs
        if elapsed < plan.min_seconds or (not enough and elapsed < 4 * plan.max_seconds):
            continue
        speed = judge(
            [timings.rounds[label] for label in baseline],
            [timings.rounds[label] for label in candidate],
            disturbed=timings.disturbed / timings.runs,
            off_cpu=max(0.0, 1 - timings.cpu_ns / timings.wall_ns) if on_cpu else 0.0,
            load=load(),
            confidence=plan.confidence,
        )
        narrow = speed.half_width <= plan.precision and not speed.noise.reasons
        if narrow or elapsed >= plan.max_seconds:
            progress("time", 1, 1)
            return timings, speed
