"""register: a light version whose verdict is a pass → a registered model version, its alias last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.components.family import DataConfig, examples
from lwplugin.components.step import Step
from pydantic import Field

from lwplugin.progress import Progress
from lwplugin.registry import Resolved


class Config(DataConfig):
    """Where the version goes and what it is called."""

    parent: Resolved = Field(description="the version it was made from")
    target: str = Field(description="the target's name")
    threads: int = Field(1, ge=1, description="threads it was measured with; the serving default")
    alias: str | None = Field(None, description="moved to the new version last")
    name: str | None = Field(None, description="registered model; default: the parent's own")
    recipe_digest: str = Field(description="becomes a tag of the version")
    recipe: dict[str, Any] = Field(default_factory=dict, description="becomes the run's params")
    override: str | None = Field(None, description="reason to register against the verdict; recorded")
    tracking_uri: str | None = Field(None, description="MLflow; default: MLFLOW_TRACKING_URI")


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.gate import load_verdict
    from lwplugin.registry import register

    registration = register(
        parent=config.parent,
        bundle=inputs["light"] / "bundle",
        exported=inputs["export"] / "export",
        verdict=load_verdict(inputs["verdict"]),
        report=inputs["report"],
        metrics=_metrics(inputs["comparison"], inputs["export"]),
        params=config.recipe,
        target=config.target,
        recipe_digest=config.recipe_digest,
        data_digest=examples(config)["data"],
        name=config.name,
        alias=config.alias,
        threads=config.threads,
        override=config.override,
        tracking_uri=config.tracking_uri,
        progress=progress,
    )
    (output / "registration.json").write_text(registration.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _metrics(comparison: Path, export: Path) -> dict[str, float]:
    """The comparison's numbers, with the candidate's MACs and parameters."""
    from lwplugin.measure.comparison import numbers_of

    measured = json.loads((comparison / "comparison.json").read_text(encoding="utf-8"))
    cost = json.loads((export / "cost.json").read_text(encoding="utf-8"))
    return {name: float(cost[name]) for name in ("macs", "params") if cost[name] > 0} | numbers_of(measured)


STEP = Step(
    name="register",
    config=Config,
    inputs=("light", "export", "comparison", "verdict", "report"),
    run=run,
    summary="Register a version that passed, with its lineage, once.",
    writes={"registration.json": "name, version, alias and tags of what the registry holds now"},
    cached=False,  # the registry knows best what it holds
)
