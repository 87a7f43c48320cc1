"""Measures a registered light version again, on the machine at hand: what it takes today beside what it took."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.errors import RegistryError
from lwplugin.progress import Progress, silent
from lwplugin.registry import lineage, mlmodel
from lwplugin.registry.download import download
from lwplugin.registry.versions import resolve

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.registry.listing import Listed

TIMES = ("p50_ms", "p95_ms")


@dataclass(frozen=True)
class Remeasured:
    """A version with today's numbers in place of the registered ones.

    ``before`` and ``now`` hold p50_ms and p95_ms; ``surely`` is the least ratio of p50 that both intervals allow, None
    where the version was registered from another machine or today's measurement is noisy: nothing can be said then.
    """

    version: Listed
    before: dict[str, float]
    now: dict[str, float]
    surely: float | None
    why_not: str = ""

    @property
    def ratio(self) -> float:
        """Today's p50 over the registered one."""
        return self.now["p50_ms"] / self.before["p50_ms"]


def remeasure(
    listed: Listed,
    *,
    max_seconds: float = 20.0,
    tracking_uri: str | None = None,
    progress: Progress = silent,
) -> Remeasured:
    """Download ``listed``, run its file on its input example under its registered threads and batch.

    Raises RegistryError for a version that is no light one or has no input example, MeasureError where its runtime
    cannot run it.
    """
    from lwplugin.measure import Measurement, measure

    if not listed.light:
        raise RegistryError(
            "Only light versions are measured again", got=listed.uri, do="name one that lwplugin registered"
        )
    with tempfile.TemporaryDirectory(prefix="lwplugin-again-") as folder:
        where = resolve(listed.uri, tracking_uri=tracking_uri)
        directory = download(where, Path(folder) / "model", tracking_uri=tracking_uri, progress=progress)
        content = mlmodel.read(directory)
        exported = mlmodel.part(directory, content, "export")
        then = _registered_conditions(directory)
        found = measure(
            exported,
            _examples(directory, exported, listed),
            threads=int(then.get("threads", 1)),
            batch=int(then.get("batch", 1)),
            device=str(then.get("device", "cpu")),
            max_seconds=max_seconds,
            progress=progress,
        )
    assert isinstance(found, Measurement)  # no baseline was given
    latency = found.latency
    numbers = {
        "p50_ms": latency.p50_ms,
        "p95_ms": latency.p95_ms,
        "p50_high_ms": latency.p50_high_ms,
        "p95_high_ms": latency.p95_high_ms,
        "peak_memory_bytes": float(found.peak_memory_bytes),
        "load_ms": found.load_ms,
    }
    tags = {
        **listed.tags,
        **{f"{lineage.PREFIX}{k}": format(v, ".12g") for k, v in numbers.items() if v is not None},
    }
    before = {name: listed.number(name) or float("nan") for name in TIMES}
    why_not = _why_not(then, found)
    high = listed.number("p50_high_ms") or before["p50_ms"]
    surely = None if why_not else (latency.p50_low_ms or latency.p50_ms) / high
    now = {name: float(numbers[name] or float("nan")) for name in TIMES}
    return Remeasured(replace(listed, tags=tags), before, now, surely, why_not)


def _registered_conditions(directory: Path) -> dict[str, Any]:
    """The candidate's measurement as the report kept it; empty where there is none."""
    file = directory / "report" / "report.json"
    if not file.is_file():
        return {}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["comparison"]["candidate"]
    return found


def _why_not(then: dict[str, Any], found: Any) -> str:
    machine = then.get("machine") or {}
    mine = (found.machine.cpu, found.machine.arch, found.machine.cores)
    if (machine.get("cpu"), machine.get("arch"), machine.get("cores")) != mine:
        return f"registered from another machine ({machine.get('cpu', 'unknown')})"
    if found.noise.reasons:
        return f"noisy today: {'; '.join(found.noise.reasons)}"
    return ""


def _examples(directory: Path, exported: Path, listed: Listed) -> Data:
    """The version's input example, as the data to time with; scores need labels, which it has not."""
    import numpy as np
    from mlflow.models import Model

    from lwplugin.data import from_arrays

    model = Model.load(str(directory))
    if model.saved_input_example_info is None:
        raise RegistryError(
            "The version has no input example to run", got=listed.uri, do="register it with one"
        )
    example = model.load_input_example(str(directory))
    specs = json.loads((exported / "export.json").read_text(encoding="utf-8"))["inputs"]
    if isinstance(example, dict):
        inputs: Any = {spec["name"]: np.asarray(example[spec["name"]], spec["dtype"]) for spec in specs}
    else:
        inputs = np.asarray(example, specs[0]["dtype"])
        inputs = inputs if specs[0]["name"] == "input" else {specs[0]["name"]: inputs}
    return from_arrays(calibration=inputs, task="embedding")
