"""Retraining: the user's own function trains and registers, then the light versions are made anew."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from lwplugin.pipelines.plan import make_plan
from lwplugin.pipelines.prefect.blocks import LwpluginRegistry, LwpluginStore
from lwplugin.pipelines.prefect.compress import ONE_AT_A_TIME, ended, read, run_steps
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(name="train", persist_result=True, cache_policy=NO_CACHE)
def train_task(function: str, arguments: dict[str, Any]) -> str:
    """Calls ``function`` and answers with the registered version it names."""
    from lwplugin.components.train import train

    return train(function, arguments)


@flow(name="retrain", task_runner=ONE_AT_A_TIME, persist_result=True)
def retrain(
    recipe: str | dict[str, Any],
    train: str,
    arguments: dict[str, Any] | None = None,
    registry: str | None = None,
    store: str | None = None,
) -> Any:
    """Train, register, compress, gate; the recipe's alias moves only to what passed.

    Args:
        recipe: As for `compress`; its model is replaced by what was trained.
        train: `module:function` (or `file.py:function`) that trains, registers, and returns `models:/name/3`.
        arguments: Its keyword arguments.
        registry: Name of a `lwplugin Registry` block.
        store: Name of a `lwplugin Store` block.
    """
    from lwplugin.registry import resolve

    where = LwpluginRegistry.load(registry) if registry else None
    place = LwpluginStore.load(store) if store else LwpluginStore()
    with where.connected() if where else nullcontext():
        model = train_task(train, arguments or {})
        loaded = read(recipe, model)
        plan = make_plan(loaded, resolve(model, tracking_uri=loaded.tracking_uri))
        return ended(run_steps(plan, place.open(), loaded.resources))
