"""What a step is, what its result is called, and how it runs once and never twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from lwplugin.components.code import code_digest
from pydantic import BaseModel, ConfigDict

from lwplugin.artifact import LOCKS, Store, digest_directory, digest_json
from lwplugin.errors import StoreError
from lwplugin.lock import locked
from lwplugin.progress import Progress, silent
from lwplugin.run_context import running
from lwplugin.settings import settings
from lwplugin.tracing import span


class StepConfig(BaseModel):
    """Base of every step's config: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Protocol):
    """A step's work: write into ``output`` (empty, exists); keep checkpoints in ``scratch``."""

    def __call__(
        self, config: Any, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
    ) -> None: ...


@dataclass(frozen=True)
class Artifact:
    """A directory and the digest of what is in it."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path | str) -> Artifact:
        """Computes the digest: reads every file."""
        return cls(Path(path), digest_directory(Path(path)))


@dataclass(frozen=True)
class Result(Artifact):
    """What a step made, or what the store already had (``hit``)."""

    key: str
    hit: bool
    seconds: float


def _no_context(config: Any) -> dict[str, Any]:
    return {}


def always(path: Path) -> bool:
    """A stored result of this step may always stand."""
    return True


@dataclass(frozen=True)
class Step:
    """A function of a frozen config and input directories to one output directory.

    ``writes`` says what lies in the output directory.
    ``context`` names what else the result depends on (the examples, the machine);
    ``packages`` are the distributions whose version can change the result;
    ``outside_key`` are config fields that cannot (where the registry lives);
    ``reusable`` says of a stored result whether it may stand (a noisy measurement may not);
    a step that is not ``cached`` runs every time, because the truth lies elsewhere.
    """

    name: str
    config: type[StepConfig]
    inputs: tuple[str, ...]
    run: Run
    summary: str
    writes: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    outside_key: frozenset[str] = frozenset()
    context: Callable[[Any], Mapping[str, Any]] = _no_context
    reusable: Callable[[Path], bool] = always
    cached: bool = True
    trains: bool = False
    """Whether several processes can share its work."""

    def key(self, config: StepConfig, input_digests: Mapping[str, str]) -> str:
        """sha256 of all the result can depend on."""
        return digest_json(self.identity(config, input_digests))

    def identity(self, config: StepConfig, input_digests: Mapping[str, str]) -> dict[str, Any]:
        """What :meth:`key` is the digest of: kept in the manifest, so that two keys can be compared."""
        return {
            "step": self.name,
            "code": code_digest(self.name),
            "packages": {name: _installed(name) for name in self.packages},
            "config": config.model_dump(mode="json", exclude=set(self.outside_key)),
            "inputs": {name: input_digests[name] for name in sorted(input_digests)},
            "context": dict(self.context(config)),
        }


def find(
    step: Step, config: StepConfig, inputs: Mapping[str, Artifact], store: Store, *, judge: bool = True
) -> Artifact | None:
    """The stored result, verified, or None. Runs nothing.

    ``judge=False`` also finds what a next run would not let stand, such as a noisy measurement.
    """
    if not step.cached:
        return None
    key = step.key(config, {name: item.digest for name, item in inputs.items()})
    return _stored(step, key, store, judge=judge)


def execute(
    step: Step,
    config: StepConfig,
    inputs: Mapping[str, Artifact],
    store: Store,
    *,
    progress: Progress = silent,
    again: bool = False,
    processes: int | None = None,
) -> Result:
    """Run ``step`` unless the store has its result; ``again`` runs it anyway.

    A step that trains does so in ``processes`` processes, by default as many as the settings say.

    Raises LwpluginError; then the store holds nothing of this run but its checkpoints.
    """
    started = time.perf_counter()
    identity = step.identity(config, {name: item.digest for name, item in inputs.items()})
    key = digest_json(identity)
    if step.cached and not again and (found := _stored(step, key, store)):
        return Result(found.path, found.digest, key, True, time.perf_counter() - started)

    def wait() -> None:
        progress(f"{step.name}: another process is at it, waiting", 0, None)

    with locked(store.root / LOCKS / key, wait=wait):
        if step.cached and not again and (found := _stored(step, key, store)):
            return Result(found.path, found.digest, key, True, time.perf_counter() - started)
        with (
            running(step=step.name, step_key=key),
            span(f"step {step.name}"),
            store.put(key, identity) as output,
        ):
            paths = {name: item.path for name, item in inputs.items()}
            _way(step, processes)(config, paths, output, scratch=store.work(key), progress=progress)
            store.remove(key)  # what `again` or a noisy measurement replaces
        stored = _stored(step, key, store, judge=False)
    if stored is None:
        raise StoreError(
            f"The result of step {step.name} is damaged right after it was written",
            got=key,
            do=f"check the disk under {store.root}",
        )
    return Result(stored.path, stored.digest, key, False, time.perf_counter() - started)


def _way(step: Step, processes: int | None) -> Run:
    """The step's own function, or what carries it out in several processes or on several machines."""
    if not step.trains:
        return step.run
    if asked := settings().train_job:
        from lwplugin.components.train_job import TrainJob, run_on_nodes

        return partial(run_on_nodes, step, asked=TrainJob.model_validate_json(asked))
    count = processes or settings().processes
    if count > 1:
        from lwplugin.components.several import run_in_processes

        return partial(run_in_processes, step, processes=count)
    return step.run


def _stored(step: Step, key: str, store: Store, *, judge: bool = True) -> Artifact | None:
    path = store.get(key)
    if path is None or (judge and not step.reusable(path)):
        return None
    return Artifact(path, str(store.manifest(key)["digest"]))


@cache
def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"
