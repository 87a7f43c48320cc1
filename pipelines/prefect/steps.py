"""One Prefect task per planned step. The store is the result: what Prefect keeps is key and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lwplugin.components import step_named
from lwplugin.components.step import Artifact, execute
from lwplugin.pipelines.plan import PlannedStep
from lwplugin.pipelines.result import Status, StepRun
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger

from lwplugin.resources import Resources, resources_of
from lwplugin.shared_store import open_store

LIMITED = ("measure",)
"""Steps that hold a slot of the concurrency limit `lwplugin-<step>`: a second measurement on the same
machine disturbs the first. Without such a limit on the server they run freely."""


def limit_name(step: str) -> str:
    """The global concurrency limit a step asks for."""
    return f"lwplugin-{step}"


def submit(
    planned: PlannedStep,
    inputs: Mapping[str, Any],
    store: Path,
    resources: Mapping[str, Resources],
    *,
    again: bool = False,
) -> Any:
    """Start the step once its inputs (futures of other steps) are there; a future of a StepRun as JSON."""
    given = resources_of(resources, planned.step)
    configured = run_step.with_options(
        name=planned.id,
        task_run_name=planned.id,
        retries=given.retries,
        retry_delay_seconds=[given.retry_delay_s * 2**attempt for attempt in range(given.retries)] or 0,
        timeout_seconds=given.timeout_s,
        tags=["lwplugin", f"lwplugin:{planned.step}"],
    )
    return configured.submit(asdict(planned), dict(inputs), str(store), again, given.processes)


@task(persist_result=True, cache_policy=NO_CACHE)
def run_step(
    planned: dict[str, Any],
    inputs: dict[str, dict[str, Any]],
    store: str,
    again: bool = False,
    processes: int | None = None,
) -> dict[str, Any]:
    """Carry one step out; ``inputs`` are the answers of the tasks before."""
    this = PlannedStep(**planned)
    step = step_named(this.step)
    artifacts = {name: Artifact(Path(made["path"]), made["digest"]) for name, made in inputs.items()}
    config = step.config.model_validate(this.config)
    with _slot(this.step):
        done = execute(
            step, config, artifacts, open_store(store), progress=_progress(), again=again, processes=processes
        )
    status: Status = "found" if done.hit else "made"
    run = StepRun(this.id, this.step, this.target, status, done.seconds, done.key, done.path, done.digest)
    get_run_logger().info("%s %s, key %s, digest %s", this.id, status, done.key[:12], done.digest[:12])
    return {**asdict(run), "path": str(done.path)}


def _slot(step: str) -> Any:
    return concurrency(limit_name(step) if step in LIMITED else [], occupy=1)


def _progress() -> Any:
    logger = get_run_logger()
    last: dict[str, int] = {}

    def progress(label: str, done: int, total: int | None = None) -> None:
        tenth = 10 * done // total if total else done
        if last.get(label) != tenth:
            last[label] = tenth
            logger.debug("%s %d%s", label, done, f"/{total}" if total else "")

    return progress
