"""The one or two files of a measurement, their processes, and how they are loaded, fed and timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lwplugin.errors import MeasureError
from lwplugin.measure.config import MeasureConfig
from lwplugin.measure.feeds import Feeds, feeds_of, pieces
from lwplugin.measure.host import Host
from lwplugin.measure.latency import Plan, Timings, interleave
from lwplugin.measure.noise import Speed
from lwplugin.measure.result import ColdStart, Energy, Profile, Throughput
from lwplugin.measure.session import Peer
from lwplugin.measure.simulation import Simulation
from lwplugin.measure.subject import Subject
from lwplugin.progress import Progress

_TIMED_BATCHES = 4


@dataclass
class Model:
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


def timed_inputs(data: Any, subject: Subject, batch: int) -> list[Feeds]:
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


def send_inputs(worker: Peer, timed: list[Feeds]) -> None:
    arrays = {f"{place}:{name}": array for place, feeds in enumerate(timed) for name, array in feeds.items()}
    worker.ask("inputs", arrays, count=len(timed), names=list(timed[0]))


def load_request(side: Model, host: Host, config: MeasureConfig) -> dict[str, Any]:
    return {
        "file": side.file,
        "device": host.accelerator,
        "threads": config.threads,
        "optimize": True,
        "output": side.subject.output,
    }


def time_sides(
    sides: list[Model], host: Host, running: Mapping[str, Peer], config: MeasureConfig, progress: Progress
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
