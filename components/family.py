"""The compression steps: every family is the same step around its own function."""

from __future__ import annotations

from functools import cache
from typing import Any

from lwplugin.components.step import StepConfig
from pydantic import Field

from lwplugin.data.spec import DataSpec, TaskSpec


class FamilyConfig(StepConfig):
    """A method with all of its options, and the examples it may look at."""

    method: str = Field(description="one of the family's methods")
    options: dict[str, Any] = Field(default_factory=dict, description="the method's options")
    data: DataSpec = Field(description="the recipe's data block")
    task: TaskSpec = Field(description="the recipe's task")


class DataConfig(StepConfig):
    """Steps that look at examples."""

    data: DataSpec = Field(description="the recipe's data block")
    task: TaskSpec = Field(description="the recipe's task")


def examples(config: FamilyConfig | DataConfig) -> dict[str, Any]:
    """What the examples are, for the key: a changed file is another result."""
    return {"data": _fingerprint(config.data.model_dump_json())}


@cache
def _fingerprint(spec: str) -> str:
    # Several steps of a run ask about the same files; a run sees one state of them.
    from lwplugin.data import fingerprint

    return fingerprint(DataSpec.model_validate_json(spec))
