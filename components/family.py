"""The compression steps: every family is the same step around its own function."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lwplugin.components.step import StepConfig
from pydantic import Field

from lwplugin.data.spec import DataSpec, TaskSpec
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model import LightModel


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


class Compress(Protocol):
    """A family's public function: `prune`, `factorize`, …"""

    def __call__(
        self,
        model: LightModel,
        data: Data,
        *,
        method: str,
        progress: Progress,
        checkpoint: Path,
        **options: Any,
    ) -> LightModel: ...


def run_family(
    compress: Compress,
    config: FamilyConfig,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    scratch: Path,
    progress: Progress,
) -> None:
    """Load the bundle and the examples, compress, save; a training keeps its state below ``scratch``."""
    from lwplugin.data import load as load_data
    from lwplugin.model import load

    light = compress(
        load(inputs["bundle"] / "bundle"),
        load_data(config.data, config.task),
        method=config.method,
        progress=progress,
        checkpoint=scratch / "training",
        **config.options,
    )
    light.save(output / "bundle")


def examples(config: FamilyConfig | DataConfig) -> dict[str, Any]:
    """What the examples are, for the key: a changed file is another result."""
    return {"data": _fingerprint(config.data.model_dump_json())}


@cache
def _fingerprint(spec: str) -> str:
    # Several steps of a run ask about the same files; a run sees one state of them.
    from lwplugin.data import fingerprint

    return fingerprint(DataSpec.model_validate_json(spec))
