"""Blocks first, then channels of what remains; how much of the budget each takes is measured, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.cost import cost
from lwplugin.model.surgery import cut
from lwplugin.moments.repair import LayerRepair, repairable
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned, choose, graph_of, kept_outputs, restore
from lwplugin.prune.block_importance import score
from lwplugin.prune.blocks import Block, find_blocks
from lwplugin.prune.criterion import Criterion, importance_by
from lwplugin.prune.divergence import Divergence
from lwplugin.prune.explain import compare, repair_rows, unit_rows
from lwplugin.prune.layer import removed_rows, share, without_blocks

if TYPE_CHECKING:
    from lwplugin.data import Data


class HybridConfig(PruneConfig):
    """Options of ``hybrid``."""

    criterion: Criterion = Field("reconstruct", description="The method that scores the remaining channels.")
    importance: Literal["influence", "gradient"] = Field(
        "influence", description="How blocks are ranked; see layer."
    )
    only: tuple[str, ...] = Field((), description="Blocks that may go; by default every repeated one found.")
    splits: int = Field(
        4, ge=1, description="Numbers of dropped blocks tried, evenly from none to what the budget bears."
    )
    split_examples: int = Field(
        512, ge=1, description="Calibration examples a split is judged on; no labels."
    )


@dataclass(frozen=True)
class _Candidate:
    blocks: list[Block]
    module: nn.Module
    repairs: list[LayerRepair]
    units: list[dict[str, Any]]
    left_alone: dict[str, str]
    divergence: float


def shrink(
    parent: nn.Module, data: Data, config: HybridConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Try several numbers of dropped blocks, each cut on to the same budget; keep what diverges least."""
    blocks = find_blocks(parent, data.example(2), config.only)
    importance = score(parent, blocks, data, config.importance, config.split_examples, config.seed, progress)
    order = [block for _, block in sorted(zip(importance, blocks, strict=True), key=lambda pair: pair[0])]
    divergence = Divergence(parent, data, config.split_examples)
    numbers = _numbers(parent, order, data, config)
    best: _Candidate | None = None
    tried, refusal = [], None
    for done, number in enumerate(numbers, start=1):
        try:
            candidate = _candidate(parent, order[:number], data, config, divergence, progress)
        except MethodError as error:
            refusal = error
        else:
            tried.append({"blocks": number, "divergence": float(f"{candidate.divergence:.6g}")})
            best = candidate if best is None or candidate.divergence < best.divergence else best
        progress("splits of the budget", done, len(numbers))
    if best is None:
        assert refusal is not None
        raise refusal
    metrics, layers = compare(parent, best.module, data.example(1))
    details = {
        "layers": layers,
        "removed": [*removed_rows(blocks, importance, best.blocks), *best.units],
        "left_alone": [{"name": name, "reason": reason} for name, reason in best.left_alone.items()],
        "repair": repair_rows(best.repairs),
        "splits": tried,
    }
    return Pruned(
        best.module,
        {**metrics, "blocks_removed": float(len(best.blocks)), "divergence": best.divergence},
        details,
    )


def _numbers(parent: nn.Module, order: Sequence[Block], data: Data, config: HybridConfig) -> list[int]:
    """How many blocks to try to drop: evenly from none to the first number that meets the budget alone."""
    from lwplugin.prune.layer import cost_without

    whole, budget = cost(parent, data.example(1)), config.budget
    most = next(
        (
            n
            for n in range(len(order) + 1)
            if share(cost_without(parent, list(order[:n]), data), whole, budget.kind) <= budget.kept
        ),
        len(order),
    )
    return sorted({round(n) for n in np.linspace(0, most, min(config.splits, most + 1))})


def _candidate(
    parent: nn.Module,
    gone: Sequence[Block],
    data: Data,
    config: HybridConfig,
    divergence: Divergence,
    progress: Progress,
) -> _Candidate:
    module, repairs = without_blocks(parent, list(gone), data, config, progress)
    example = data.example(1)
    left = share(cost(module, example), cost(parent, example), config.budget.kind)
    if left <= config.budget.kept:
        return _Candidate(list(gone), module, repairs, [], {}, divergence(module))
    graph = graph_of(module, data, progress)
    importance = importance_by(config.criterion, module, graph, data, config, progress)
    rest = config.model_copy(update={config.budget.kind: config.budget.kept / left})
    removed = choose(graph, importance, rest)
    cut(module, graph, removed)
    # Targets are the parent's responses again, so that the two cuts' errors do not add up.
    kept = kept_outputs(graph, removed, repairable(module))
    repairs = restore(parent, module, kept, data, config, progress)
    return _Candidate(
        list(gone),
        module,
        repairs,
        unit_rows(graph, removed, importance),
        graph.left_alone,
        divergence(module),
    )


METHOD = Method(
    "hybrid", HybridConfig, None, "blocks, then channels; the split of the budget is measured", shrink=shrink
)
