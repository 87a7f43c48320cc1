"""A step whose inputs and output another engine carries about, as directories with a digest beside them.

Inside a task the step is the same, its key is the same, and where LWPLUGIN_STORE names a shared place a
result made elsewhere is found there. Without one, the engine's own copies are all there is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwplugin.components import step_named
from lwplugin.components.step import Artifact, Result, Step, StepConfig, execute

from lwplugin.artifact import Store
from lwplugin.errors import StoreError
from lwplugin.methods import families
from lwplugin.progress import Progress
from lwplugin.settings import variable
from lwplugin.shared_store import open_store

# What a task says at its end, for who reads along.
DONE = re.compile(r": (made|found), key [0-9a-f]{64}, digest [0-9a-f]{64}$")
_EVERY_S = 10.0
_log = logging.getLogger("lwplugin")


def carry_out(
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, tuple[Path, str | None]],
    output: Path,
) -> Result:
    """Run step ``name`` and leave its result in ``output``.

    ``config`` may leave out what has a default, or give it as ``""``. ``inputs`` are directories with the
    digest their maker wrote down (None: not known). Raises LwpluginError.
    """
    step = step_named(name)
    complete = complete_config(step, config)
    artifacts = {key: _verified(key, path, digest) for key, (path, digest) in inputs.items()}
    with _store() as store:
        result = execute(step, complete, artifacts, store, progress=_sparse())
        shutil.copytree(result.path, output, dirs_exist_ok=True)
    _log.info("%s: %s, key %s, digest %s", name, "found" if result.hit else "made", result.key, result.digest)
    return Result(output, result.digest, result.key, result.hit, result.seconds)


def complete_config(step: Step, config: Mapping[str, Any]) -> StepConfig:
    """The step's config with every default written out, so that its key is that of a planned step.

    An engine's JSON may have turned 1.0 into 1: the models that know better say which it is.
    """
    from lwplugin.recipe import Compress, Recipe, Target

    given = {key: value for key, value in config.items() if value not in ("", None)}
    if step.name in families():
        given = {"method": "", "options": {}, **given}
        line = Compress.model_validate({step.name: {**given["options"], "method": given["method"] or None}})
        complete = line.complete(int(given.pop("seed", 0)))
        given |= {"method": complete.method, "options": complete.options}
    if isinstance(given.get("recipe"), dict) and given["recipe"]:
        given["recipe"] = Recipe.model_validate(given["recipe"]).document()
    if isinstance(given.get("target"), dict):
        given["target"] = Target.model_validate(given["target"]).model_dump(mode="json")
    return step.config.model_validate(given)


def numbers(name: str, output: Path) -> dict[str, float]:
    """What an engine's screen should show beside the result of step ``name``; finite numbers only."""
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "export": lambda place: _only(_read(place / "cost.json"), ("macs", "params")),
        "measure": _measured,
        "gate": lambda place: {"checks": len(_read(place / "verdict.json")["checks"])},
        **dict.fromkeys(families(), _history),
    }
    found = readers[name](output) if name in readers else {}
    kept = {key: value for key, value in found.items() if isinstance(value, int | float)}
    return {key: float(value) for key, value in kept.items() if abs(value) < float("inf")}


def verdict_status(directory: Path) -> str:
    """The status a gate step wrote: pass, fail, inconclusive or error."""
    return str(_read(directory / "verdict.json")["status"])


def _measured(place: Path) -> dict[str, Any]:
    comparison = _read(place / "comparison.json")
    found: dict[str, Any] = {"speedup": comparison["speedup"]["estimate"]}
    for prefix, side in (("", comparison["candidate"]), ("parent_", comparison["baseline"])):
        shown = {**side["metrics"], **_only(side["latency"], ("p50_ms", "p95_ms"))}
        shown |= _only(side, ("size_bytes", "peak_memory_bytes"))
        found |= {f"{prefix}{key}": value for key, value in shown.items()}
    return found


def _history(place: Path) -> dict[str, Any]:
    history = _read(place / "bundle" / "model.json")["history"]
    return dict(history[-1]["metrics"]) if history else {}


def _only(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: values[name] for name in names if values.get(name) is not None}


def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def _verified(name: str, path: Path, digest: str | None) -> Artifact:
    found = Artifact.of(path)
    if digest is not None and found.digest != digest:
        raise StoreError(
            f"Input '{name}' is not what its step made: it was changed or only partly carried over",
            got=f"digest {found.digest[:12]} instead of {digest[:12]}",
            do="run the step that made it again",
        )
    return found


@contextmanager
def _store() -> Iterator[Store]:
    """The shared store, or one that goes with this task."""
    if os.environ.get(variable("store")):
        yield open_store()
        return
    with tempfile.TemporaryDirectory(prefix="lwplugin-") as folder:
        yield open_store(folder)


def _sparse() -> Progress:
    """A line at most every ten seconds, and what is complete."""
    last_s = time.monotonic()

    def progress(label: str, done: int, total: int | None = None) -> None:
        nonlocal last_s
        if total and (done == total or time.monotonic() - last_s >= _EVERY_S):
            last_s = time.monotonic()
            _log.info("%s %d/%d", label, done, total)

    return progress
