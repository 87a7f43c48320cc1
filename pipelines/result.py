"""How the steps of a run went: the same for every runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lwplugin.components.carried import verdict_status
from lwplugin.pipelines.plan import Plan, PlannedStep

from lwplugin.errors import LwpluginError
from lwplugin.secret import redact

Status = Literal["made", "found", "failed", "skipped"]


@dataclass(frozen=True)
class StepRun:
    """How one planned step went. ``why`` is the error, or what it was skipped for."""

    id: str
    step: str
    target: str | None
    status: Status
    seconds: float = 0.0
    key: str | None = None
    path: Path | None = None
    digest: str | None = None
    why: str | None = None

    @classmethod
    def failed(cls, planned: PlannedStep, error: object, seconds: float = 0.0) -> StepRun:
        """``error`` in one line without credentials; what nobody raised on purpose is told with its type."""
        known = isinstance(error, LwpluginError)
        why = redact(str(error) if known else f"unexpected {type(error).__name__}: {error}")
        return cls(planned.id, planned.step, planned.target, "failed", seconds, why=why)


@dataclass
class RunResult:
    """All steps of a run; verdicts, reports and registrations by target."""

    plan: Plan
    steps: list[StepRun] = field(default_factory=list)

    def of(self, step: str, target: str) -> StepRun | None:
        """The run of ``step`` for ``target``."""
        return next((run for run in self.steps if (run.step, run.target) == (step, target)), None)

    @property
    def failures(self) -> list[str]:
        """``prune: why``, of every step that failed."""
        return [f"{run.id}: {run.why}" for run in self.steps if run.status == "failed"]

    @property
    def verdicts(self) -> dict[str, str]:
        """Target → pass, fail, inconclusive or error; a step that failed is an error, register included."""
        return {target: self._verdict(target) for target in self.plan.targets}

    @property
    def reports(self) -> dict[str, Path]:
        """Target → directory of its report."""
        runs = {target: self.of("report", target) for target in self.plan.targets}
        return {target: run.path for target, run in runs.items() if run is not None and run.path is not None}

    def _verdict(self, target: str) -> str:
        runs = [run for run in self.steps if run.target in (target, None)]
        gate = self.of("gate", target)
        if gate is None or gate.path is None or any(run.status == "failed" for run in runs):
            return "error"
        return verdict_status(gate.path)
