"""Drop whole residual blocks or transformer layers.

``influence``: 1 − cosine of what a block is given and what it gives back (block influence, ShortGPT, 2403.03853), no
labels. ``gradient``: |∂loss/∂gate| of a gate on what the block adds (first-order Taylor as in 1906.10771).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.bundle import copy_module
from lwplugin.model.cost import Cost, cost
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned
from lwplugin.prune.block_importance import score
from lwplugin.prune.blocks import Block, bypass, find_blocks
from lwplugin.prune.explain import compare, repair_rows
from lwplugin.prune.restore import Restore

if TYPE_CHECKING:
    from lwplugin.data import Data


class LayerConfig(PruneConfig):
    """Options of ``layer``; the budget is ``macs``, ``params`` or ``blocks``."""

    blocks: int | None = Field(None, ge=1, description="Drop this many blocks; in place of macs or params.")
    importance: Literal["influence", "gradient"] = Field(
        "influence", description="1 − cosine of a block's input and output, or the loss's gradient by a gate."
    )
    only: tuple[str, ...] = Field(
        (), description="Blocks that may go (dotted names, * allowed); by default every repeated one found."
    )
    layer_examples: int = Field(512, ge=1, description="Calibration examples looked at.")

    @model_validator(mode="after")
    def _one_budget(self) -> LayerConfig:
        if [self.macs, self.params, self.blocks].count(None) != 2:
            raise ValueError(
                "give exactly one budget: macs, params (the fraction that stays) or blocks (a number)"
            )
        return self


def shrink(
    parent: nn.Module, data: Data, config: LayerConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Drop the least important blocks until the budget holds, then repair the layers that remain."""
    blocks = kept_by_skip(find_blocks(parent, data.example(2), config.only), config.skip)
    importance = score(parent, blocks, data, config.importance, config.layer_examples, config.seed, progress)
    gone = choose(parent, blocks, importance, data, config)
    module, repairs = without_blocks(parent, gone, Restore(parent, data, config, progress))
    metrics, layers = compare(parent, module, data.example(1))
    details = {
        "layers": layers,
        "removed": removed_rows(blocks, importance, gone),
        "left_alone": [],
        "repair": repair_rows(repairs),
    }
    return Pruned(module, {**metrics, "blocks_removed": float(len(gone))}, details)


def choose(
    parent: nn.Module, blocks: list[Block], importance: list[float], data: Data, config: LayerConfig
) -> list[Block]:
    """The least important blocks that must go for the budget; one that fits after all comes back.

    Raises:
        MethodError: the budget cannot be met by dropping blocks; says what can.
    """
    order = [block for _, block in sorted(zip(importance, blocks, strict=True), key=lambda pair: pair[0])]
    if config.blocks is not None:
        if config.blocks > len(order):
            raise MethodError(
                "There are not so many blocks to drop", got=f"{config.blocks} asked for, {len(order)} found",
                do="ask for fewer",
            )  # fmt: skip
        return order[: config.blocks]
    budget = config.budget

    def left(gone: list[Block]) -> float:
        return share(cost_without(parent, gone, data), whole, budget.kind)

    whole = cost(parent, data.example(1))
    count = next((n for n in range(len(order) + 1) if left(order[:n]) <= budget.kept), None)
    if count is None:
        raise MethodError(
            f"The model cannot be pruned to {budget.kept:.1%} of its {budget.kind} by dropping blocks",
            got=f"{left(order):.1%} with all {len(order)} blocks gone",
            do="ask for at least that, or use hybrid, which goes on with channels",
        )
    gone = order[:count]
    for block in reversed(order[:count]):
        fewer = [other for other in gone if other is not block]
        if left(fewer) <= budget.kept:
            gone = fewer
    return gone


def without_blocks(
    parent: nn.Module, gone: Sequence[Block], restore: Restore
) -> tuple[nn.Module, list[LayerRepair]]:
    """A copy of ``parent`` with the blocks bypassed and the rest repaired and recalibrated as ``restore`` does."""
    module = copy_module(parent)
    bypass(module, gone)
    return module, restore(module, {})


def cost_without(parent: nn.Module, gone: list[Block], data: Data) -> Cost:
    """What the model costs with these blocks bypassed."""
    module = copy_module(parent)
    bypass(module, gone)
    return cost(module, data.example(1))


def share(part: Cost, whole: Cost, kind: str) -> float:
    """Fraction of the MACs or parameters that stays; methods that drop blocks have no latency budget."""
    return part.macs / whole.macs if kind == "macs" else part.params / whole.params


def kept_by_skip(blocks: list[Block], skip: tuple[str, ...]) -> list[Block]:
    """Blocks that no pattern of ``skip`` keeps.

    Raises:
        MethodError: a pattern that names no block.
    """
    for pattern in skip:
        if not any(fnmatch(block.name, pattern) for block in blocks):
            raise MethodError(
                f"skip names no block: '{pattern}'", do=f"use one of {', '.join(b.name for b in blocks[:12])}"
            )
    return [block for block in blocks if not any(fnmatch(block.name, pattern) for pattern in skip)]


def removed_rows(blocks: list[Block], importance: list[float], gone: list[Block]) -> list[dict[str, Any]]:
    """The report's rows: each block is a group of one unit."""
    total = max(sum(importance), 1e-30)
    return [
        {
            "name": block.name,
            "unit_channels": 1,
            "units_before": 1,
            "units_after": 0 if block in gone else 1,
            "removed": [0] if block in gone else [],
            "importance": [float(f"{value:.4g}")],
            "importance_lost": float(f"{value / total:.4g}") if block in gone else 0.0,
        }
        for block, value in zip(blocks, importance, strict=True)
    ]


METHOD = Method(
    "layer",
    LayerConfig,
    None,
    "whole residual blocks or transformer layers; depth and latency fall",
    shrink=shrink,
)
