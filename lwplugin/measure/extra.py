"""What is measured besides the interleaved timing: profile, cold starts, offline throughput."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lwplugin.errors import MeasureError
from lwplugin.measure.config import MeasureConfig
from lwplugin.measure.feeds import Feeds
from lwplugin.measure.host import Host
from lwplugin.measure.layer_names import layer_of, layers_of
from lwplugin.measure.result import ColdStart, Interval, Kernel, Profile
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.measure.session import Peer
from lwplugin.measure.sides import Model, load_request, send_inputs, time_sides, timed_inputs
from lwplugin.measure.subject import Subject
from lwplugin.progress import Progress

# What a runtime calls the providers of an accelerator; anything else there is a fallback.
_OWN = {"cpu": ("CPU",), "cuda": ("CUDA", "Tensorrt", "TensorRT", "GPU")}


def extras(
    sides: list[Model],
    host: Host,
    running: Mapping[str, Peer],
    data: Any,
    timed: Mapping[str, list[Feeds]],
    config: MeasureConfig,
    progress: Progress,
) -> Interval | None:
    """Profile, cold starts and offline throughput; the speed-up of the last."""
    for side in sides:
        worker, request = running[side.labels[0]], load_request(side, host, config)
        if config.profile_seconds:
            side.profile = _profile(side, host, worker, request, config.profile_seconds)
        if config.cold_starts:
            side.cold_start = cold_start_of(
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
        inputs = timed_inputs(data, side.subject, batches[side.name])
        for label in side.labels:
            send_inputs(running[label], inputs)
    timings, speed = time_sides(sides, host, running, config, progress)
    for side in sides:
        side.throughput = timings.throughput(side.labels, batches[side.name], config.confidence)
    same = len(set(batches.values())) == 1
    return speed.speedup if len(sides) > 1 and same else None


def _profile(
    side: Model, host: Host, worker: Peer, request: Mapping[str, Any], seconds: float
) -> Profile | None:
    """None, with a warning, where it cannot be had: a report without it is better than none."""
    available = host.ask("available_memory_bytes")
    if available is not None and 4 * side.subject.size_bytes() > available:
        side.warnings.append("No layer profile: a second session would not fit into the free memory.")
        return None
    try:
        return profile_of(worker, side.subject, host.accelerator, request, seconds)
    except MeasureError as error:
        side.warnings.append(f"No layer profile: {error}")
        return None


def profile_of(
    worker: Peer, subject: Subject, accelerator: str, request: Mapping[str, Any], seconds: float
) -> Profile | None:
    """Where the time goes in a loaded worker's file; None where the runtime has no profiler."""
    answer = worker.ask("profile", **request, seconds=seconds)
    kernels = answer["kernels"]
    if not kernels:
        return None
    layers = layers_of(subject.file, subject.format)
    total = sum(kernel["ms"] for kernel in kernels) or 1.0
    listed = [
        Kernel(**kernel, layer=layer_of(kernel["name"], layers), share=kernel["ms"] / total)
        for kernel in kernels
    ]
    elsewhere = [kernel for kernel in listed if _fell_back(kernel, accelerator)]
    return Profile(
        kernels=listed,
        total_ms=sum(kernel.ms for kernel in listed),
        runs=answer["runs"],
        fallback=sum(kernel.share for kernel in elsewhere),
        fallback_kinds=sorted({kernel.kind for kernel in elsewhere}),
    )


def _fell_back(kernel: Kernel, accelerator: str) -> bool:
    """Another device than the one asked for, or a kernel that the runtime calls its slow reference."""
    return not kernel.provider.startswith(_OWN.get(accelerator, ("CPU",))) or kernel.kernel.startswith("ref")


def cold_start_of(
    host: Host,
    subject: Subject,
    inputs: Sequence[Feeds],
    request: Mapping[str, Any],
    *,
    starts: int,
    threads: int,
    timeout_s: float,
) -> ColdStart:
    """Medians over ``starts`` processes, one after the other."""
    seen: list[tuple[float, float, float]] = []
    for _ in range(starts):
        with host.workers(
            {"cold": runtime_of(subject.format)}, threads=threads, timeout_s=timeout_s
        ) as running:
            worker = running["cold"]
            hello = worker.receive()[0]
            load = worker.ask("load", **request, cold=True)
            arrays = {f"0:{name}": array for name, array in inputs[0].items()}
            worker.ask("inputs", arrays, count=1, names=list(inputs[0]))
            worker.send("block", k=1, settle=0, offset=0)
            first = 1e-6 * float(worker.receive()[1]["durations_ns"][0])
            seen.append((hello["import_ms"], load["load_ms"], first))
    imports, loads, firsts = zip(*seen)
    return ColdStart(
        import_ms=statistics.median(imports),
        load_ms=statistics.median(loads),
        first_ms=statistics.median(firsts),
        total_ms=statistics.median(map(sum, seen)),
        n=starts,
    )
