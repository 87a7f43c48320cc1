"""From what was seen of one file to its ``Measurement``."""

from __future__ import annotations

import statistics

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
