"""The policy file: rules with budgets and margins, and waivers that end."""

from __future__ import annotations

import datetime
import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lwplugin.artifact import digest_json
from lwplugin.errors import did_you_mean
from lwplugin.gate.policy import Budget
from lwplugin.yaml_document import load_document

Patterns = tuple[str, ...]
_WAY_OUT = "`lwplugin docs policy` has an example"


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def matches(name: str, patterns: Patterns) -> bool:
    """Does any pattern (`*`, `?`, `[ab]`) fit the whole name?

    >>> matches("fashion-resnet20", ("fashion-*",))
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Rule(_Block):
    """What the versions it speaks of must hold. Every rule that fits a version counts."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="lower-case letters, digits and dashes")
    models: Patterns = Field(("*",), min_length=1, description="patterns of registered models' names")
    targets: Patterns = Field((), description="patterns of targets; none: any target, and versions without")
    aliases: Patterns = Field((), description="only versions that carry a fitting alias now")
    stages: Patterns = Field((), description="only versions in such a stage now")
    budget: Budget = Field(Budget(), description="upper limits, as in a recipe's target")
    max_drop: dict[str, float] = Field(
        default_factory=dict, description="largest tolerated drop against the parent, per metric"
    )
    verdict: Literal["pass", "any"] = Field(
        "pass", description="`pass`: the version must have passed its gate; `any`: not looked at"
    )
    unmeasured: Literal["skip", "inconclusive"] | None = Field(
        None,
        description="versions that lwplugin did not register; default: inconclusive where the rule names "
        "aliases or stages, else skipped",
    )
    bounds: Literal["required", "optional"] = Field(
        "required",
        description="`optional`: a latency or drop without a registered confidence bound is judged on its "
        "point estimate",
    )
    severity: Literal["block", "warn"] = Field(
        "block", description="`warn` is reported and changes no exit code"
    )
    owner: str = Field("", description="whom to ask; shown with every violation")

    @field_validator("models", "targets", "aliases", "stages", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("max_drop")
    @classmethod
    def _usable(cls, margins: dict[str, float]) -> dict[str, float]:
        for metric, margin in margins.items():
            if not (math.isfinite(margin) and margin >= 0):
                raise ValueError(f"max_drop.{metric} is {margin}; it must be a finite number, 0 or more")
        return margins

    @model_validator(mode="after")
    def _asks_something(self) -> Rule:
        if not (self.budget.limits() or self.max_drop or self.verdict == "pass"):
            raise ValueError(f"rule '{self.name}' asks nothing: give a budget, max_drop or verdict: pass")
        return self

    @property
    def skips_unmeasured(self) -> bool:
        if self.unmeasured is None:
            return not (self.aliases or self.stages)
        return self.unmeasured == "skip"


class Waiver(_Block):
    """Lets violations pass until a day, for a reason someone stands for."""

    models: Patterns = Field(min_length=1, description="patterns of registered models' names")
    versions: tuple[int, ...] = Field((), description="none: every version")
    rule: str | None = Field(None, description="none: every rule")
    checks: Patterns = Field((), description="such as `p95_ms`, `accuracy`, `verdict`; none: every check")
    until: datetime.date = Field(description="last day it holds, UTC")
    reason: str = Field(min_length=1, description="why")
    owner: str = Field(min_length=1, description="who stands for it")

    @field_validator("models", "checks", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def covers(self, model: str, version: int, rule: str, check: str) -> bool:
        """Whatever the day."""
        return (
            matches(model, self.models)
            and (not self.versions or version in self.versions)
            and self.rule in (None, rule)
            and (not self.checks or matches(check, self.checks))
        )


class FleetPolicy(_Block):
    """The whole file."""

    rules: tuple[Rule, ...] = Field(min_length=1)
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> FleetPolicy:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"two rules share the name {twice}: give each its own")
        for waiver in self.waivers:
            if waiver.rule is not None and waiver.rule not in names:
                raise ValueError(
                    f"a waiver names no rule '{waiver.rule}'; {did_you_mean(waiver.rule, names)}"
                )
        return self

    @property
    def digest(self) -> str:
        """Of the meaning: comments and the order of keys do not count."""
        return digest_json(self.model_dump(mode="json"))


def load_policy(path: Path | str) -> FleetPolicy:
    """Read a policy file. Raises RecipeError with line, place and nearest known key of all that is wrong."""
    return load_document(Path(path), FleetPolicy, holds="policy", do=_WAY_OUT)
