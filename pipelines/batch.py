"""Many models: one recipe for all of them, or one each; and what it all came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwplugin.recipe import Recipe

Outcome = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One model and the recipe that is carried out on it."""

    name: str
    recipe: Recipe


def jobs(recipes: Sequence[Recipe], models: Sequence[str] = ()) -> tuple[Job, ...]:
    """``models`` (`models:/name@alias`, `models:/name/3`) × the one recipe, or the recipes as they are."""
    from lwplugin.errors import RecipeError

    if models and len(recipes) != 1:
        raise RecipeError(
            "Several models need one recipe for all of them", got=f"{len(recipes)} recipes", do="give one"
        )
    chosen = [recipes[0].of_model(model) for model in models] if models else list(recipes)
    names = [recipe.model.removeprefix("models:/") for recipe in chosen]
    return tuple(  # two recipes for one model are two jobs
        Job(name if names.count(name) == 1 else f"{name} {recipe.digest[:8]}", recipe)
        for name, recipe in zip(names, chosen)
    )


def rows(outcomes: Mapping[str, Outcome | str]) -> list[dict[str, Any]]:
    """One row a model and target; a job that failed before it had targets has a row with its error.

    ``outcomes``: job → the targets' summaries (`lwplugin.pipelines.summary`), or the error's text.
    """
    found: list[dict[str, Any]] = []
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            found.append(_row(name, "", "error", outcome))
            continue
        for target, summary in outcome.items():
            found.append(_row(name, target, summary["verdict"], summary["reason"], summary))
    return found


def _row(
    name: str, target: str, verdict: str, reason: str | None, summary: Outcome | None = None
) -> dict[str, Any]:
    numbers = (summary or {}).get("numbers") or {}
    registration = (summary or {}).get("registration") or {}
    ratio = _ratio(numbers)
    return {
        "model": name,
        "target": target,
        "verdict": verdict,
        "smaller": ratio("size_bytes"),
        "faster": ratio("p50_ms"),
        "registered": registration.get("uri"),
        "reason": reason,
    }


def _ratio(numbers: Mapping[str, Any]) -> Callable[[str], float | None]:
    def of(name: str) -> float | None:
        parent, light = (numbers.get(side, {}).get(name) for side in ("parent", "light"))
        return round(parent / light, 2) if parent and light else None

    return of
