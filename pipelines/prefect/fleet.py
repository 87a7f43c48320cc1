"""Every registered version against its budgets, on a schedule."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lwplugin.pipelines.prefect.blocks import LwpluginRegistry
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.states import Completed, Failed


@flow(name="fleet-check", persist_result=True)
def fleet_check(
    policy: str, model: str | None = None, registry: str | None = None, remeasure: bool = False
) -> Any:
    """Hold registered versions to a policy, as `lwplugin check` does; failed where one breaks it.

    Args:
        policy: Path of the policy file on the worker.
        model: A registered model's name; default: all of them.
        registry: Name of a `lwplugin Registry` block.
        remeasure: Run light versions that carry an alias again, on this worker, and judge those times.
    """
    from lwplugin.policy import load_policy
    from lwplugin.policy.fleet import hold
    from lwplugin.policy.markdown import markdown
    from lwplugin.registry import inventory

    where = LwpluginRegistry.load(registry) if registry else None
    with where.connected() if where else nullcontext():
        known = inventory(model) if model else inventory()
        found = hold(load_policy(Path(policy)), known, remeasure=remeasure)
    create_markdown_artifact(markdown(found), key="fleet-check", description=found.reason)
    emit_event(
        f"lwplugin.fleet.{found.status}",
        resource={"prefect.resource.id": f"lwplugin.fleet.{model or 'all'}"},
        payload={"reason": found.reason},
    )
    state = Completed if found.exit_code == 0 else Failed
    return state(message=found.reason, data=found.document())
