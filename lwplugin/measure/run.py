"""``measure``: one file, or a candidate beside its parent, in their real runtimes, here or on a device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from lwplugin.errors import RecipeError
from lwplugin.measure.assemble import measurement, noise_reason
from lwplugin.measure.comparison import Comparison
from lwplugin.measure.config import MeasureConfig, checked
from lwplugin.measure.extra import extras
from lwplugin.measure.host import Host, host_of
from lwplugin.measure.noise import throttled
from lwplugin.measure.parity import compare, torch_outputs
from lwplugin.measure.result import Energy, Machine, Measurement, Parity
from lwplugin.measure.robustness import copies, score_copies
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.measure.score import Scored, Side, score
from lwplugin.measure.session import Peer
from lwplugin.measure.sides import Model, load_request, send_inputs, time_sides, timed_inputs
from lwplugin.measure.simulation import simulate
from lwplugin.measure.subject import Subject
from lwplugin.methods import need_data
from lwplugin.progress import Progress, silent


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
    need_data(data)
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
            Model(name, subject, wanted, [f"{name} {i + 1}" for i in range(processes)])
            for name, subject, wanted in subjects
        ]
        runtimes = {label: runtime_of(side.subject.format) for side in sides for label in side.labels}
        with host.workers(runtimes, threads=config.threads, timeout_s=config.timeout_s) as running:
            return _measure(sides, host, running, data, config, progress)


def _measure(
    sides: list[Model],
    host: Host,
    running: Mapping[str, Peer],
    data: Any,
    config: MeasureConfig,
    progress: Progress,
) -> Comparison | Measurement:
    splits = copies(data.test, config)
    timed = {side.name: timed_inputs(data, side.subject, config.batch) for side in sides}
    for side in sides:
        for label in side.labels:
            side.version = running[label].receive()[0]["version"]
        side.file = host.place(side.subject)
    versions = {runtime_of(side.subject.format): side.version for side in sides}
    machine = Machine(**host.ask("facts"), runtimes=versions)
    cpus = host.ask("idle_cpus", count=config.threads) if host.accelerator == "cpu" else None
    for side in sides:
        for label in side.labels:
            side.loads.append(running[label].ask("load", cpus=cpus, **load_request(side, host, config)))
            send_inputs(running[label], timed[side.name])
    before = host.ask("throttling")
    timings, speed = time_sides(sides, host, running, config, progress)
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
    offline = extras(sides, host, running, data, timed, config, progress)
    for label in (label for side in sides for label in side.labels):
        running[label].ask("unpin")
    judged = [Side(side.name, running[side.labels[0]], side.subject, config.batch) for side in sides]
    scored = _score(judged, data, config, progress)
    corruptions, copied = score_copies(
        splits, data.task, judged, confidence=config.confidence, progress=progress
    )
    parities = {side.name: _parity(side, scored, data, config) for side in sides}
    for side in sides:
        if side.name in scored.first:
            side.simulation = simulate(
                Side(side.name, running[side.labels[-1]], side.subject, config.batch),
                data,
                scored.first[side.name],
                machine,
                config.simulation_examples,
                load_request(side, host, config),
            )
    results = [
        measurement(side, timings, noise, scored, parities[side.name], machine, config) for side in sides
    ]
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
        noise_reason=noise_reason(noise, machine),
        n=scored.n,
        corruptions=corruptions,
    ).with_scores(scored.arrays | copied)


def _processes(subjects: list[Subject], host: Host) -> int:
    """Two per file, unless four copies of the models would take most of the free memory."""
    available = host.ask("available_memory_bytes")
    needed = sum(2 * 3 * subject.size_bytes() for subject in subjects)
    return 2 if available is None or needed < available / 2 else 1


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


def _parity(side: Model, scored: Scored, data: Any, config: MeasureConfig) -> Parity | None:
    if side.reference is None or side.name not in scored.first:
        return None
    outputs = scored.first[side.name][: config.parity_examples]
    module = getattr(side.reference, "module", side.reference)
    return compare(outputs, torch_outputs(module, data, len(outputs)), what="torch")
