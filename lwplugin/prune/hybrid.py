"""Blocks first, then channels of what remains; how much of the budget each takes is measured, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.bundle import copy_module
from lwplugin.model.cost import cost
from lwplugin.model.graph import Graph, Removal
from lwplugin.model.surgery import cut
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repairable
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned
from lwplugin.prune.block_importance import score
from lwplugin.prune.blocks import Block, bypass, find_blocks
from lwplugin.prune.criterion import Criterion, importances_by
from lwplugin.prune.divergence import Divergence, set_aside
from lwplugin.prune.explain import compare, repair_rows, unit_rows
from lwplugin.prune.latency import Latency, Layer
from lwplugin.prune.layer import removed_rows, without_blocks
from lwplugin.prune.restore import Restore
from lwplugin.prune.select import Cost
from lwplugin.prune.units import choose, graph_of, kept_outputs

if TYPE_CHECKING:
    from lwplugin.data import Data


class HybridConfig(PruneConfig):
    """Options of ``hybrid``."""

    criterion: Criterion = Field(
        "reconstruct",
        description="The method that scores the remaining channels; of several ratios that it offers the one is kept "
        "that diverges least.",
    )
    importance: Literal["influence", "gradient"] = Field(
        "influence", description="How blocks are ranked; see layer."
    )
    only: tuple[str, ...] = Field((), description="Blocks that may go; by default every repeated one found.")
    splits: int = Field(
        4,
        ge=1,
        description="Numbers of dropped blocks tried first, evenly from none to what the budget bears; then those next "
        "to the best.",
    )
    split_examples: int = Field(
        512,
        ge=1,
        description="Calibration examples a split is judged on, at most a quarter of all; no candidate is repaired on "
        "them. No labels.",
    )


@dataclass(frozen=True)
class _Candidate:
    blocks: list[Block]
    module: nn.Module
    repairs: list[LayerRepair]
    kept: dict[str, Tensor]
    units: list[dict[str, Any]]
    left_alone: dict[str, str]
    divergence: float
    ratios: dict[str, float]
    """What came of each set of ratios that the criterion offered for the channels; empty where none had to go."""
    across: bool = False
    """Whether the repair aimed half way across the gaps (`moments/gaps.py`)."""


def shrink(
    parent: nn.Module, data: Data, config: HybridConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Try several numbers of dropped blocks, each cut on to the same budget; keep what diverges least."""
    blocks = find_blocks(parent, data.example(2), config.only)
    importance = score(parent, blocks, data, config.importance, config.split_examples, config.seed, progress)
    order = [block for _, block in sorted(zip(importance, blocks, strict=True), key=lambda pair: pair[0])]
    fitted, judged = set_aside(data)
    divergence = Divergence(parent, judged, config.split_examples)
    shares = _Shares(parent, data, config, progress)
    restore = Restore(parent, fitted, config, progress)
    numbers = _numbers(parent, order, shares, config)
    most = numbers[-1]
    best: _Candidate | None = None
    tried: dict[int, dict[str, Any]] = {}
    refusal = None
    while numbers:
        number = numbers.pop(0)
        try:
            candidate = _candidate(
                parent, order[:number], fitted, config, shares, restore, divergence, progress
            )
        except MethodError as error:
            refusal = error
            tried[number] = {}
        else:
            ratios = {name: float(f"{value:.6g}") for name, value in candidate.ratios.items()}
            row = {"blocks": number, "divergence": float(f"{candidate.divergence:.6g}")}
            tried[number] = row | ({"ratios": ratios} if len(ratios) > 1 else {})
            best = candidate if best is None or candidate.divergence < best.divergence else best
        if not numbers and best is not None:
            near = (len(best.blocks) - 1, len(best.blocks) + 1)
            numbers = [n for n in near if 0 <= n <= most and n not in tried]
        progress("splits of the budget", len(tried), len(tried) + len(numbers))
    if best is None:
        assert refusal is not None
        raise refusal
    if restore.has_gaps(best.module):
        half_way = _half_way(best, restore, divergence)
        tried[len(best.blocks)]["half_way"] = float(f"{half_way.divergence:.6g}")
        best = min(best, half_way, key=lambda candidate: candidate.divergence)
    repairs = best.repairs
    if config.repair and len(fitted.need("calibration")) < config.repair_examples:
        # Few examples: once it is chosen, what was set aside may help.
        repairs = Restore(parent, data, config, progress)(best.module, best.kept, across=best.across)
    metrics, layers = compare(parent, best.module, data.example(1))
    details = {
        "layers": layers,
        "removed": [*removed_rows(blocks, importance, best.blocks), *best.units],
        "left_alone": [{"name": name, "reason": reason} for name, reason in best.left_alone.items()],
        "repair": repair_rows(repairs),
        "splits": [row for _, row in sorted(tried.items()) if row],
    }
    return Pruned(
        best.module,
        {**metrics, "blocks_removed": float(len(best.blocks)), "divergence": best.divergence},
        details,
    )


class _Shares:
    """How much of what the budget limits a module keeps of the parent's; layers are timed once for all modules."""

    def __init__(self, parent: nn.Module, data: Data, config: HybridConfig, progress: Progress) -> None:
        self.example, self.progress = data.example(1), progress
        self.kind = config.budget.kind
        self.seen: dict[Layer, float] = {}
        self.whole = self.total(parent)

    def total(self, module: nn.Module) -> float:
        """MACs, parameters or milliseconds of its layers."""
        if self.kind == "latency":
            return Latency(module, None, self.example, self.progress, self.seen)()
        found = cost(module, self.example)
        return float(found.macs if self.kind == "macs" else found.params)

    def __call__(self, module: nn.Module) -> float:
        return self.total(module) / self.whole

    def limited(self, module: nn.Module, graph: Graph) -> Cost | None:
        """What to choose units by; None where the graph's own counts say it."""
        if self.kind != "latency":
            return None
        return Latency(module, graph, self.example, self.progress, self.seen)


def _numbers(parent: nn.Module, order: Sequence[Block], shares: _Shares, config: HybridConfig) -> list[int]:
    """How many blocks to try to drop: evenly from none to the first number that meets the budget alone."""

    def left(number: int) -> float:
        module = copy_module(parent)
        bypass(module, order[:number])
        return shares(module)

    fitting = (n for n in range(len(order) + 1) if left(n) <= config.budget.kept)
    most = next(fitting, len(order))
    return sorted({round(n) for n in np.linspace(0, most, min(config.splits, most + 1))})


def _candidate(
    parent: nn.Module,
    gone: Sequence[Block],
    data: Data,
    config: HybridConfig,
    shares: _Shares,
    restore: Restore,
    divergence: Divergence,
    progress: Progress,
) -> _Candidate:
    dropped, repairs = without_blocks(parent, gone, restore) if gone else (copy_module(parent), [])
    left = shares(dropped)
    if left <= config.budget.kept:
        return _Candidate(list(gone), dropped, repairs, {}, [], {}, divergence(dropped), {})
    graph = graph_of(dropped, data, progress)
    rest = config.model_copy(update={config.budget.kind: config.budget.kept / left})
    limited = shares.limited(dropped, graph)
    tried: list[Removal] = []
    ratios: dict[str, float] = {}
    best: _Candidate | None = None
    offered = importances_by(config.criterion, dropped, graph, data, config, progress)
    for name, importance in offered.items():
        removed = choose(graph, importance, rest, limited)
        if removed in tried:
            continue
        tried.append(removed)
        module = copy_module(dropped)
        cut(module, graph, removed)
        # Targets are the parent's responses again, so that the two cuts' errors do not add up.
        kept = kept_outputs(graph, removed, repairable(module))
        repairs = restore(module, kept)
        ratios[name] = divergence(module)
        if best is None or ratios[name] < best.divergence:
            units = unit_rows(graph, removed, importance)
            best = _Candidate(
                list(gone), module, repairs, kept, units, graph.left_alone, ratios[name], ratios
            )
    assert best is not None, "a criterion offers one importance at least"
    return best


def _half_way(best: _Candidate, restore: Restore, divergence: Divergence) -> _Candidate:
    """The same cut, repaired once more with an aim half way across the blocks that are gone."""
    module = copy_module(best.module)
    repairs = restore(module, best.kept, across=True)
    return replace(best, module=module, repairs=repairs, divergence=divergence(module), across=True)


METHOD = Method(
    "hybrid",
    HybridConfig,
    None,
    "blocks, then channels; the split of the budget is measured",
    shrink=shrink,
    timed_shrink=True,
)
