"""What the gate asks of a candidate: the recipe's ``gate`` block and a target's ``budget``."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Policy(BaseModel):
    """How much worse than its parent a candidate may be, and how sure the gate must be of it.

    >>> Policy(max_drop={"accuracy": 0.01}).confidence
    0.95
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: dict[str, float] = Field(
        default_factory=dict,
        description="Largest tolerated drop against the parent, per metric, in the metric's own units "
        "(0.01 of accuracy is one percentage point). Without it, must_reach and min_agreement the gate has "
        "no threshold and answers `error`.",
    )
    must_reach: dict[str, float] = Field(
        default_factory=dict,
        description="What the candidate itself must be shown to reach, per metric, whatever its parent does: at least "
        "so much accuracy, at most so much of an error such as mae.",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1.0,
        description="One-sided confidence of every bound: a candidate exactly at the margin passes with a "
        "probability of at most 1 - confidence.",
    )
    slices: tuple[str, ...] = Field(
        default=(),
        description="Slice columns (such as `label`) whose every value is judged on its own, corrected for "
        "the number of slices by Holm's method.",
    )
    max_slice_drop: float | None = Field(
        default=None,
        gt=0,
        lt=math.inf,
        description="Largest tolerated drop inside a slice; the metric's max_drop where it is not given.",
    )
    slice_rule: Literal["prove", "detect"] = Field(
        default="prove",
        description="`prove`: a slice passes only where its drop is shown to be within the margin. "
        "`detect`: a slice fails only where its drop is shown to be beyond the margin; for slices too "
        "small to prove anything.",
    )
    max_drop_corrupted: float | None = Field(
        default=None,
        gt=0,
        lt=math.inf,
        description="Largest tolerated drop against the parent on every corrupted copy of the test that "
        "measure.corruptions asks for, in the units of the task's metric; corrected for their number by "
        "Holm's method. Without it the copies are only reported.",
    )
    min_slice: int = Field(
        default=30, ge=1, description="Fewest examples a slice may have; a smaller one is inconclusive."
    )
    min_examples: int = Field(
        default=100, ge=2, description="Fewest test examples the whole comparison may rest on."
    )
    min_agreement: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Smallest share of examples on which candidate and parent must give the same answer; "
        "needs no labels. Not required where it is not given.",
    )
    no_faster: Literal["reject", "warn", "allow"] = Field(
        default="reject",
        description="What becomes of a candidate that is not shown to be faster than its parent: rejected, "
        "reported without being held against it, or not looked at.",
    )
    min_speedup: float = Field(
        default=1.0,
        gt=0,
        lt=math.inf,
        description="The speed-up over the parent that no_faster asks for; 1.0 is `faster at all`.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap used for real-valued scores.")

    @field_validator("max_drop")
    @classmethod
    def _margins_are_usable(cls, value: dict[str, float]) -> dict[str, float]:
        for metric, margin in value.items():
            if not (math.isfinite(margin) and margin > 0):
                raise ValueError(
                    f"max_drop.{metric} is {margin}; it must be a finite number above 0, because no finite "
                    "number of examples can show that nothing at all was lost"
                )
        return dict(sorted(value.items()))

    @field_validator("must_reach")
    @classmethod
    def _levels_are_numbers(cls, value: dict[str, float]) -> dict[str, float]:
        for metric, level in value.items():
            if not math.isfinite(level):
                raise ValueError(f"must_reach.{metric} is {level}; it must be a finite number")
        return dict(sorted(value.items()))

    @property
    def needs_labels(self) -> bool:
        """Whether something of it is about metrics, not only about the parent's answers."""
        return bool(self.max_drop or self.must_reach) or self.max_drop_corrupted is not None

    @property
    def has_threshold(self) -> bool:
        """Whether a candidate could fail for its answers at all."""
        return bool(self.max_drop or self.must_reach) or self.min_agreement is not None

    @field_validator("slices", mode="before")
    @classmethod
    def _one_slice_may_stand_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Budget(BaseModel):
    """Upper limits of one deployment target; what is not given is not limited.

    Latencies are judged on the bounds of their confidence intervals, sizes exactly.

    >>> Budget(size_bytes=400_000, p95_ms=5).limits()
    {'p95_ms': 5.0, 'size_bytes': 400000.0}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: Limit | None = Field(default=None, description="Size of the deployed file, bytes.")
    compressed_bytes: Limit | None = Field(
        default=None, description="Size of the deployed file after general-purpose compression, bytes."
    )
    p50_ms: Limit | None = Field(default=None, description="Median latency of one call, milliseconds.")
    p95_ms: Limit | None = Field(default=None, description="95th percentile of latency, milliseconds.")
    load_ms: Limit | None = Field(default=None, description="Time to load the file, milliseconds.")
    peak_memory_bytes: Limit | None = Field(
        default=None, description="Peak memory of the runtime's process, bytes."
    )
    energy_j: Limit | None = Field(default=None, description="Energy of one inference, joules.")
    macs: Limit | None = Field(default=None, description="Multiply-accumulates for one example.")
    params: Limit | None = Field(default=None, description="Number of parameters.")

    def limits(self) -> dict[str, float]:
        """Metric name → limit, only those given, sorted by name."""
        given = self.model_dump(exclude_none=True)
        return {name: float(given[name]) for name in sorted(given)}
