"""``measure``: one file, or a candidate beside its parent, in their real runtimes, here or on a device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lwplugin.errors import MeasureError, RecipeError
from lwplugin.measure.comparison import Comparison
from lwplugin.measure.config import MeasureConfig, checked
from lwplugin.measure.extra import cold_start, profile
from lwplugin.measure.feeds import Feeds, feeds_of, pieces
from lwplugin.measure.host import Host, host_of
from lwplugin.measure.latency import Plan, Timings, interleave
from lwplugin.measure.noise import Speed, throttled
from lwplugin.measure.parity import compare, torch_outputs
from lwplugin.measure.result import (
    ColdStart,
    Energy,
    Interval,
    Machine,
    Measurement,
    Noise,
    Parity,
    Profile,
    Throughput,
)
from lwplugin.measure.robustness import copies, score_copies
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.measure.score import Scored, Side, score
from lwplugin.measure.session import Peer
from lwplugin.measure.simulation import Simulation, simulate
from lwplugin.measure.subject import Subject
from lwplugin.progress import Progress, silent

_TIMED_BATCHES = 4
_FALLBACK_WORTH_SAYING = 0.05


@dataclass
class _Model:
    """One side of the measurement, its processes, and what was seen of them."""

    name: str
    subject: Subject
    reference: Any
    labels: list[str]
    file: str = ""
    version: str = ""
    warnings: list[str] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    first_ms: float = 0.0
    energy: Energy | None = None
    profile: Profile | None = None
    throughput: Throughput | None = None
    cold_start: ColdStart | None = None
    simulation: Simulation | None = None


def measure(
    exported: Any,
    data: Any,
    *,
    baseline: Any = None,
    reference: Any = None,
    baseline_reference: Any = None,
    config: MeasureConfig | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Comparison | Measurement:
    """Measure a file (Measurement), or with ``baseline`` compare it with its parent's file (Comparison).

    Args:
        exported: an Exported, or the directory of one; ``baseline`` likewise.
        data: gives the inputs of the timed runs and, by its test split and task, the scores.
        reference: light model or module whose torch outputs the file should reproduce (parity).
        options: fields of MeasureConfig, such as ``threads`` and ``batch``.

    Raises MeasureError where a runtime cannot load or run a file, dies, hangs, or gives NaN, DataError for a
    corruption that the examples cannot have.
    """
    config = checked(config, options)
    if config.corruptions and baseline is None:
        raise RecipeError(
            "Corrupted copies compare a file with its parent's",
            got="no baseline",
            do="give one, or no corruptions",
        )
    models = [("candidate", exported, reference)]
    if baseline is not None:
        models.insert(0, ("baseline", baseline, baseline_reference))
    subjects = [(name, Subject.of(of), wanted) for name, of, wanted in models]
    with host_of(config.device, progress=progress) as host:
        processes = config.processes or _processes([subject for _, subject, _ in subjects], host)
        sides = [
            _Model(name, subject, wanted, [f"{name} {i + 1}" for i in range(processes)])
            for name, subject, wanted in subjects
        ]
        runtimes = {label: runtime_of(side.subject.format) for side in sides for label in side.labels}
        with host.workers(runtimes, threads=config.threads, timeout_s=config.timeout_s) as running:
            return _measure(sides, host, running, data, config, progress)


def _measure(
    sides: list[_Model],
    host: Host,
    running: Mapping[str, Peer],
    data: Any,
    config: MeasureConfig,
    progress: Progress,
) -> Comparison | Measurement:
    splits = copies(data.test, config)
    timed = {side.name: _timed_inputs(data, side.subject, config.batch) for side in sides}
    for side in sides:
        for label in side.labels:
            side.version = running[label].receive()[0]["version"]
        side.file = host.place(side.subject)
    versions = {runtime_of(side.subject.format): side.version for side in sides}
    machine = Machine(**host.ask("facts"), runtimes=versions)
    cpus = host.ask("idle_cpus", count=config.threads) if host.accelerator == "cpu" else None
    for side in sides:
        for label in side.labels:
            side.loads.append(running[label].ask("load", cpus=cpus, **_load_request(side, host, config)))
            _send_inputs(running[label], timed[side.name])
    before = host.ask("throttling")
    timings, speed = _interleave(sides, host, running, config, progress)
    noise = throttled(speed.noise, before, host.ask("throttling"))
    for side in sides:
        side.memory = [running[label].ask("memory") for label in side.labels]
        side.first_ms = statistics.median(timings.facts[label]["first_ms"] for label in side.labels)
        energy = host.energy(
            running[side.labels[0]],
            run_ms=timings.facts[side.labels[0]]["run_ms"],
            seconds=config.energy_seconds,
        )
        side.energy = Energy(**energy)
    offline = _extras(sides, host, running, data, timed, config, progress)
    for label in (label for side in sides for label in side.labels):
        running[label].ask("unpin")
    judged = [Side(side.name, running[side.labels[0]], side.subject, config.batch) for side in sides]
    scored = _score(judged, data, config, progress)
    corruptions = score_copies(splits, data.task, judged, progress)
    parities = {side.name: _parity(side, scored, data, config) for side in sides}
    for side in sides:
        if side.name in scored.first:
            side.simulation = simulate(
                Side(side.name, running[side.labels[-1]], side.subject, config.batch),
                data,
                scored.first[side.name],
                machine,
                config.simulation_examples,
                _load_request(side, host, config),
            )
    results = [_result(side, timings, noise, scored, parities[side.name], machine, config) for side in sides]
    if len(results) == 1:
        return results[0]
    first = scored.first
    return Comparison(
        baseline=results[0],
        candidate=results[1],
        speedup=speed.speedup,
        throughput_speedup=offline,
        difference=compare(first["candidate"], first["baseline"], what="baseline") if first else None,
        noisy=bool(noise.reasons),
        noise_reason=_reason(noise, machine),
        n=scored.n,
        corruptions=corruptions,
    ).with_scores(scored.arrays)


def _interleave(
    sides: list[_Model], host: Host, running: Mapping[str, Peer], config: MeasureConfig, progress: Progress
) -> tuple[Timings, Speed]:
    return interleave(
        running,
        sides[0].labels,
        sides[1].labels if len(sides) > 1 else [],
        plan=Plan(
            config.min_seconds, config.max_seconds, config.confidence, config.min_runs, config.precision
        ),
        on_cpu=host.accelerator == "cpu",
        load=lambda: float(host.ask("load_average")),
        progress=progress,
    )


def _extras(
    sides: list[_Model],
    host: Host,
    running: Mapping[str, Peer],
    data: Any,
    timed: Mapping[str, list[Feeds]],
    config: MeasureConfig,
    progress: Progress,
) -> Interval | None:
    """Profile, cold starts and offline throughput; the speed-up of the last."""
    for side in sides:
        worker, request = running[side.labels[0]], _load_request(side, host, config)
        if config.profile_seconds:
            side.profile = _profile(side, host, worker, request, config.profile_seconds)
        if config.cold_starts:
            side.cold_start = cold_start(
                host,
                side.subject,
                timed[side.name],
                request,
                starts=config.cold_starts,
                threads=config.threads,
                timeout_s=config.timeout_s,
            )
    if config.offline_batch is None:
        return None
    batches = {side.name: side.subject.fixed_batch or config.offline_batch for side in sides}
    for side in sides:
        inputs = _timed_inputs(data, side.subject, batches[side.name])
        for label in side.labels:
            _send_inputs(running[label], inputs)
    timings, speed = _interleave(sides, host, running, config, progress)
    for side in sides:
        side.throughput = timings.throughput(side.labels, batches[side.name], config.confidence)
    same = len(set(batches.values())) == 1
    return speed.speedup if len(sides) > 1 and same else None


def _profile(
    side: _Model, host: Host, worker: Peer, request: Mapping[str, Any], seconds: float
) -> Profile | None:
    """None, with a warning, where it cannot be had: a report without it is better than none."""
    available = host.ask("available_memory_bytes")
    if available is not None and 4 * side.subject.size_bytes() > available:
        side.warnings.append("No layer profile: a second session would not fit into the free memory.")
        return None
    try:
        return profile(worker, side.subject, host.accelerator, request, seconds)
    except MeasureError as error:
        side.warnings.append(f"No layer profile: {error}")
        return None


def _processes(subjects: list[Subject], host: Host) -> int:
    """Two per file, unless four copies of the models would take most of the free memory."""
    available = host.ask("available_memory_bytes")
    needed = sum(2 * 3 * subject.size_bytes() for subject in subjects)
    return 2 if available is None or needed < available / 2 else 1


def _timed_inputs(data: Any, subject: Subject, batch: int) -> list[Feeds]:
    """A few batches of real examples for the timed runs, from the test split where there is one."""
    if subject.fixed_batch not in (None, batch):
        raise MeasureError(
            f"{subject.file.name} takes batches of {subject.fixed_batch} only",
            got=f"batch={batch}",
            do=f"measure with batch={subject.fixed_batch}, or export for the batch that is wanted",
        )
    split = data.test or data.calibration or data.train
    if split is None or not len(split):
        raise MeasureError(
            "There are no examples to time with", do="give the data a test or calibration split"
        )
    chosen = split.head(_TIMED_BATCHES * batch).batches(_TIMED_BATCHES * batch)
    feeds = feeds_of(next(chosen).inputs, subject)
    return list(pieces(feeds, batch, pad=True))


def _send_inputs(worker: Peer, timed: list[Feeds]) -> None:
    arrays = {f"{place}:{name}": array for place, feeds in enumerate(timed) for name, array in feeds.items()}
    worker.ask("inputs", arrays, count=len(timed), names=list(timed[0]))


def _load_request(side: _Model, host: Host, config: MeasureConfig) -> dict[str, Any]:
    return {
        "file": side.file,
        "device": host.accelerator,
        "threads": config.threads,
        "optimize": True,
        "output": side.subject.output,
    }


def _score(sides: list[Side], data: Any, config: MeasureConfig, progress: Progress) -> Scored:
    if data.test is None:
        return Scored(metrics={side.name: {} for side in sides})
    split = data.test if config.max_examples is None else data.test.head(config.max_examples)
    return score(
        split,
        data.task,
        sides,
        first=max(config.parity_examples, config.simulation_examples),
        progress=progress,
    )


def _parity(side: _Model, scored: Scored, data: Any, config: MeasureConfig) -> Parity | None:
    if side.reference is None or side.name not in scored.first:
        return None
    outputs = scored.first[side.name][: config.parity_examples]
    module = getattr(side.reference, "module", side.reference)
    return compare(outputs, torch_outputs(module, data, len(outputs)), what="torch")


def _result(
    side: _Model,
    timings: Timings,
    noise: Noise,
    scored: Scored,
    parity: Parity | None,
    machine: Machine,
    config: MeasureConfig,
) -> Measurement:
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


def _reason(noise: Noise, machine: Machine) -> str | None:
    if not noise.reasons:
        return None
    return f"{'; '.join(noise.reasons)} (load average {noise.load_after:.1f} on {machine.cores} CPUs)"
