"""Many models in one flow run, one subflow each, with a summary at the end."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from lwplugin.pipelines.batch import jobs, rows
from lwplugin.pipelines.prefect.blocks import LwpluginRegistry
from lwplugin.pipelines.prefect.compress import compress, read
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed


@flow(name="batch", persist_result=True)
def batch(
    recipes: list[str | dict[str, Any]],
    models: list[str] | None = None,
    registry: str | None = None,
    store: str | None = None,
) -> Any:
    """Carry many recipes out; one that fails does not stop the others.

    Args:
        recipes: As for `compress`; exactly one where ``models`` are given.
        models: `models:/name@alias` or `models:/name/3`, each compressed by the one recipe.
        registry: Name of a `lwplugin Registry` block.
        store: Name of a `lwplugin Store` block.
    """
    outcomes: dict[str, Any] = {}
    failed = []
    where = LwpluginRegistry.load(registry) if registry else None
    with where.connected() if where else nullcontext():
        for job in jobs([read(recipe) for recipe in recipes], models or ()):
            document = job.recipe.document()
            state = compress.with_options(flow_run_name=job.name)(
                document, registry=registry, store=store, return_state=True
            )
            answer = state.result(raise_on_failure=False)
            outcomes[job.name] = answer["targets"] if isinstance(answer, dict) else str(state.message)
            if not state.is_completed():
                failed.append(job.name)
    table = rows(outcomes)
    create_table_artifact(table, key="batch-summary", description=f"{len(outcomes)} models")
    if failed:
        return Failed(message=f"failed: {', '.join(failed)}", data={"rows": table})
    return Completed(message=f"{len(outcomes)} models", data={"rows": table})
