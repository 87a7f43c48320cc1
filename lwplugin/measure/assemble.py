"""From what was seen of one file to its ``Measurement``."""

from __future__ import annotations

import statistics

import numpy as np

from lwplugin.measure.config import MeasureConfig
from lwplugin.measure.latency import Timings
from lwplugin.measure.result import Energy, Machine, Measurement, Noise, Parity
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.measure.score import Scored
from lwplugin.measure.sides import Model

_FALLBACK_WORTH_SAYING = 0.05


def measurement(
    side: Model,
    timings: Timings,
    noise: Noise,
    scored: Scored,
    parity: Parity | None,
    machine: Machine,
    config: MeasureConfig,
) -> Measurement:
    """The numbers of one file, with what a reader must be warned of."""
    latency = timings.latency(side.labels, config.confidence)
    warnings = [*side.warnings, *(side.simulation.warnings if side.simulation else [])]
    if latency.p95_high_ms is None:
        warnings.append(f"{latency.n} runs cannot bound the 95th percentile: raise max_seconds")
    if noise.throttled and not noise.reasons:
        warnings.append(f"During the timing {' and '.join(noise.throttled)}.")
    if side.profile and side.profile.fallback > _FALLBACK_WORTH_SAYING:
        kinds = ", ".join(side.profile.fallback_kinds)
        warnings.append(
            f"{100 * side.profile.fallback:.0f} % of the time goes into operators that the device or its fast "
            f"kernels do not run: {kinds}"
        )
    if data_missing := not scored.n:
        warnings.append("There is no test split: nothing was scored.")
    if guess := _no_better_than_a_guess(side.name, scored):
        warnings.append(guess)
    return Measurement(
        format=side.subject.format,
        runtime=runtime_of(side.subject.format),
        runtime_version=side.version,
        device=config.device,
        threads=config.threads,
        batch=config.batch,
        file_digest=side.subject.digest,
        size_bytes=side.subject.size_bytes(),
        compressed_bytes=side.subject.compressed_bytes(),
        load_ms=statistics.median(load["load_ms"] for load in side.loads),
        first_ms=side.first_ms,
        latency=latency,
        peak_memory_bytes=max(memory["peak_bytes"] for memory in side.memory),
        before_load_bytes=max(load["before_bytes"] for load in side.loads),
        throughput=side.throughput,
        cold_start=side.cold_start,
        profile=side.profile,
        energy=side.energy or Energy(state="unavailable", reason="not measured"),
        parity=parity,
        simulation=side.simulation.metrics if side.simulation else None,
        kernel_gap=side.simulation.gap if side.simulation else None,
        kernel_sqnr_db=side.simulation.sqnr_db if side.simulation else None,
        metrics={} if data_missing else scored.metrics[side.name],
        n=scored.n,
        noise=noise,
        warnings=warnings,
        machine=machine,
    )


def noise_reason(noise: Noise, machine: Machine) -> str | None:
    """Why the timing is not usable, in one sentence; None where it is."""
    if not noise.reasons:
        return None
    return f"{'; '.join(noise.reasons)} (load average {noise.load_after:.1f} on {machine.cores} CPUs)"


def _no_better_than_a_guess(side: str, scored: Scored) -> str | None:
    """Said of the first file alone: what came of it cannot be judged by such labels either."""
    labels, scores = scored.arrays.get("slice_label"), scored.arrays.get(f"{side}_scores")
    if labels is None or scores is None or (side == "candidate" and "baseline_scores" in scored.arrays):
        return None
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    right = float(scores.mean())
    if len(shares) < 2 or right > shares.max():
        return None
    return (
        f"The {'parent' if side == 'baseline' else 'model'} is right on {right:.1%} of the test, and always giving "
        f"the commonest label is on {shares.max():.1%}: are labels, their order and the preprocessing those of the "
        "training?"
    )
