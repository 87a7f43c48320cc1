"""What is told: one event, and the versions it happened to."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Event = Literal[
    "passed",
    "gate_failed",
    "inconclusive",
    "job_failed",
    "registered",
    "promoted",
    "rolled_back",
    "budget_violated",
]
EVENTS: tuple[Event, ...] = get_args(Event)
MOST_ITEMS = 20
_TITLES: dict[str, str] = {
    "passed": "Gate passed",
    "gate_failed": "Gate failed",
    "inconclusive": "Gate inconclusive",
    "job_failed": "Job failed",
    "registered": "Registered",
    "promoted": "Promoted",
    "rolled_back": "Rolled back",
    "budget_violated": "Budget violated",
}


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(_Block):
    """One version something happened to; what does not apply is None. Holds no content of model or data."""

    model: str
    version: int
    text: str = Field(description="one sentence")
    link: str | None = Field(None, description="the version's page in MLflow, where its address is known")
    rule: str | None = Field(None, description="of the rules file or of the policy")
    owner: str | None = Field(None, description="of the policy's rule")
    target: str | None = None
    job: int | None = None
    alias: str | None = None
    who: str | None = None
    reason: str | None = None
    check: str | None = Field(None, description="budget:p95_ms")
    value: float | None = None
    limit: float | None = None
    severity: Literal["block", "warn"] | None = None

    @property
    def uri(self) -> str:
        """
        >>> Item(model="net", version=3, text="is there").uri
        'models:/net/3'
        """
        return f"models:/{self.model}/{self.version}"


class Notice(_Block):
    """``id`` stays the same however often it is sent, so that a receiver can drop what it has."""

    id: str
    event: Event
    at: str = Field(description="ISO 8601, UTC")
    items: tuple[Item, ...] = Field(min_length=1)
    more: int = Field(0, ge=0, description="items left out")

    @property
    def title(self) -> str:
        return _TITLES[self.event]

    @property
    def about(self) -> str:
        """
        >>> item = Item(model="net", version=3, text="is there")
        >>> Notice(id="1", event="passed", at="", items=(item, item), more=4).about
        'models:/net/3 and 5 more'
        """
        others = len(self.items) - 1 + self.more
        return self.items[0].uri + (f" and {others} more" if others else "")
