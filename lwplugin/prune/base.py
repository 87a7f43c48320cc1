"""What a pruning method is, and the options of all.

A method only says how much each unit matters. The dependency graph, the selection under the budget, the surgery and
the closed-form repair (`units.py`), the fine-tuning and the record (`run.py`) are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.select import Budget, Importance, Limits
from lwplugin.training.finetune import FinetuneOptions

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


class PruneConfig(FinetuneOptions):
    """Options of every structured pruning method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs: float | None = Field(
        None, gt=0, le=1, description="Fraction of the multiply-accumulates that stays."
    )
    params: float | None = Field(None, gt=0, le=1, description="Fraction of the parameters that stays.")
    latency: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Fraction of the layers' time that stays, measured in ONNX Runtime on this machine, one thread.",
    )
    shares: dict[str, Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None,
        min_length=1,
        description="Instead of a budget: fraction of the units that stays in layers (dotted names, * allowed), such "
        "as {'*.intermediate.dense': 0.5}; all others stay whole.",
    )
    ranking: Literal["global", "per_layer"] = Field(
        "global", description="Compare units across layers, or take the same fraction from each layer."
    )
    skip: tuple[str, ...] = Field((), description="Layers (dotted names, * allowed) whose channels all stay.")
    min_kept: float = Field(0.1, gt=0, le=1, description="Smallest fraction of a layer that stays.")
    round_to: int | None = Field(
        None, ge=1, description="Channel counts in multiples of this; by default 8, less for narrow layers."
    )
    repair: bool = Field(
        True, description="Solve the remaining weights in closed form after the cut; no labels."
    )
    repair_examples: int = Field(1024, ge=1, description="Calibration examples the repair looks at.")
    recalibrate: bool | None = Field(
        None,
        description="Recompute batch-norm statistics after the cut; by default only where there was no repair, "
        "which already aims at the parent's statistics.",
    )
    sensitivity: bool = Field(
        False,
        description="Record for the report how each layer's closed-form error grows with the fraction removed: one "
        "more look at the repair examples; reconstruct records it anyway.",
    )
    seed: int = Field(0, description="Seed of every random choice.")

    @model_validator(mode="after")
    def _one_budget(self) -> PruneConfig:
        if len(self._budgets()) + (self.shares is not None) != 1:
            raise ValueError(
                "give exactly one budget: macs, params or latency (the fraction that stays, e.g. macs: 0.5), or shares"
            )
        return self

    def _budgets(self) -> list[Budget]:
        kinds: tuple[Literal["macs", "params", "latency"], ...] = ("macs", "params", "latency")
        return [Budget(kind, kept) for kind in kinds if (kept := getattr(self, kind)) is not None]

    @property
    def budget(self) -> Budget:
        """The one budget given."""
        return self._budgets()[0]

    @property
    def limits(self) -> Limits:
        return Limits(self.min_kept, self.round_to)


@dataclass(frozen=True)
class Pruned:
    """A smaller module, and what was done to get it."""

    module: nn.Module
    metrics: dict[str, float]
    details: dict[str, Any]
    """What the report shows: see ``explain.py``."""
    hold: Callable[[nn.Module], None] | None = None
    """Puts back in place what training must not change (zeros); called before every forward pass."""


Scorer = Callable[[nn.Module, Graph, "Data", Any, Progress], Importance]
"""(module, graph, data, config, progress) → importance of every unit."""

Variants = Callable[[nn.Module, Graph, "Data", Any, Progress], Mapping[str, Importance]]
"""As a scorer, with a name for each importance."""

Shrink = Callable[[nn.Module, "Data", Any, Progress, Path | None], Pruned]
"""(parent, data, config, progress, checkpoint) → a smaller copy; the parent is left as it was."""

Report = Callable[[nn.Module, nn.Module, "Data", Any], dict[str, float]]
"""(parent, finished module, data, config) → further metrics by name with unit."""


@dataclass(frozen=True)
class Method:
    """One pruning method: a name, its options, how it scores units.

    A method that does more than score (whole blocks, rounds, a search) gives ``shrink`` instead; the
    fine-tuning, the collapse check and the record are the same for all.
    """

    name: str
    config: type[PruneConfig]
    score: Scorer | None
    summary: str
    shrink: Shrink | None = None
    report: Report | None = None
    counts_only: bool = False
    """Scores with what MACs or parameters a unit costs, so a budget in latency means nothing to it."""
    variants: Variants | None = None
    """Several importances to choose from, by what comes of each."""
    timed_shrink: bool = False
    """Its ``shrink`` knows budgets in latency."""
    scores_errors: bool = False
    """Its scores are themselves closed-form errors in the order of removal, so the sensitivity is known."""

    @property
    def timed(self) -> bool:
        """Whether its budget can be a latency."""
        return self.timed_shrink or (self.shrink is None and not self.counts_only)

    def run(
        self, model: LightModel, data: Data, config: Any, progress: Progress, checkpoint: Path | None = None
    ) -> LightModel:
        """Shrink, repair, fine-tune, check; a new light model."""
        from lwplugin.prune.run import run

        return run(self, model, data, config, progress, checkpoint)
