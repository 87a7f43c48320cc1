"""gate: a comparison → a verdict. The step succeeds whatever the verdict says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lwplugin.components.step import Step, StepConfig
from pydantic import Field

from lwplugin.gate.policy import Budget, Policy
from lwplugin.progress import Progress


class Config(StepConfig):
    """What is asked of the candidate."""

    policy: Policy = Field(description="the recipe's gate block")
    budget: Budget = Field(Budget(), description="the target's upper limits")


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.gate import gate

    cost = json.loads((inputs["export"] / "cost.json").read_text(encoding="utf-8"))
    verdict = gate(
        inputs["comparison"],
        config.policy,
        budget=config.budget,
        # What was not counted is left out: a budget on it is then an error, never a pass.
        cost={name: cost[name] for name in ("macs", "params") if cost[name] > 0},
    )
    verdict.save(output)


STEP = Step(
    name="gate",
    config=Config,
    inputs=("comparison", "export"),
    run=run,
    summary="Decide with statistics whether a measured candidate may take its parent's place.",
    writes={"verdict.json": "pass, fail, inconclusive or error, with every check; sealed by its digest"},
    packages=("scipy",),
)
