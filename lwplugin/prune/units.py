"""From scores of units to a smaller copy: what is chosen, cut, repaired and judged."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Removal, trace
from lwplugin.model.quantized import BEGIN_BEFORE, quantized_already
from lwplugin.model.surgery import cut
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repairable
from lwplugin.progress import Progress
from lwplugin.prune.base import PruneConfig, Pruned, Scorer, Shrink, Variants
from lwplugin.prune.divergence import Divergence
from lwplugin.prune.explain import explain, sensitivity
from lwplugin.prune.restore import Restore
from lwplugin.prune.select import Cost, Importance, select
from lwplugin.prune.shares import select_shares

if TYPE_CHECKING:
    from lwplugin.data import Data


_JUDGED = 512
"""Calibration examples on which candidates are judged."""


def by_units(score: Scorer | None, variants: Variants | None = None) -> Shrink:
    """Score units, choose under the budget, cut, repair: what a method that only scores does.

    Of several ``variants`` the one is kept whose answers diverge least from the parent's on calibration examples.
    """
    assert score is not None, "a method scores units or shrinks in its own way"

    def shrink(
        parent: nn.Module, data: Data, config: Any, progress: Progress, checkpoint: Path | None
    ) -> Pruned:
        graph = graph_of(parent, data, progress)
        offered = variants(parent, graph, data, config, progress) if variants else {}
        if not offered:
            offered = {"": score(parent, graph, data, config, progress)}
        cost = None if config.shares else budget_cost(parent, graph, data, config, progress)
        best, tried = None, dict[str, float]()
        divergence = Divergence(parent, data, _JUDGED) if len(offered) > 1 else None
        restore = Restore(parent, data, config, progress)
        for name, importance in offered.items():
            removed = choose(graph, importance, config, cost)
            module, repairs = without(parent, graph, removed, restore)
            tried[name] = 0.0 if divergence is None else float(f"{divergence(module):.6g}")
            if tried[name] > min(tried.values()):
                continue
            metrics = costs(graph, removed)
            if config.latency is not None and cost is not None:
                metrics |= {"layers_ms": cost(removed), "layers_before_ms": cost({})}
            details = explain(parent, graph, removed, importance, repairs)
            best = Pruned(module, metrics, details)
        assert best is not None, "the first is always taken"
        if divergence is not None:
            best.details["ratios"] = tried
        if "layers" in offered:
            rows = zip(graph.groups, offered["layers"], strict=True)
            best.details["sensitivity"] = sensitivity((group.name, errors) for group, errors in rows)
        return best

    return shrink


def graph_of(parent: nn.Module, data: Data, progress: Progress) -> Graph:
    """The dependency graph.

    Raises:
        MethodError: nothing can be pruned; says why.
    """
    progress("dependency graph", 0, None)
    graph = trace(parent, data.example(2))
    if not graph.groups:
        quantized = quantized_already(parent)
        raise MethodError(
            "Nothing in this model can be pruned",
            got=quantized
            or "; ".join(f"{layer}: {reason}" for layer, reason in list(graph.left_alone.items())[:5])
            or "no weights that the output depends on",
            do=BEGIN_BEFORE if quantized else "use quantize or factorize instead",
        )
    return graph


def budget_cost(parent: nn.Module, graph: Graph, data: Data, config: PruneConfig, progress: Progress) -> Cost:
    """What the config's budget limits, as a function of a removal."""
    if config.latency is None:
        return graph.macs if config.macs is not None else graph.params
    from lwplugin.prune.latency import Latency

    return Latency(parent, graph, data.example(1), progress)


def choose(
    graph: Graph, importance: Importance, config: PruneConfig, cost: Cost | None = None
) -> dict[int, list[int]]:
    """The units that go under the config's budget and limits, least important first."""
    _check(importance, graph)
    fixed = [*skipped(graph, config.skip), *unscored(graph, importance)]
    if len(set(fixed)) == len(graph.groups):
        raise MethodError(
            "No layer is left to prune",
            got=f"{len(graph.groups)} groups of units, all of them skipped or not scored by this method",
            do="skip fewer layers, or use another method, such as magnitude",
        )
    if config.shares is not None:
        return select_shares(
            graph, importance, config.shares, config.limits, ranking=config.ranking, fixed=fixed
        )
    return select(
        graph, importance, config.budget, config.limits, ranking=config.ranking, fixed=fixed, cost=cost
    )


def without(
    parent: nn.Module, graph: Graph, removed: Removal, restore: Restore
) -> tuple[nn.Module, list[LayerRepair]]:
    """A copy of ``parent`` with the units cut, repaired and recalibrated as ``restore`` does."""
    from lwplugin.model.bundle import copy_module

    module = copy_module(parent)
    cut(module, graph, removed)
    kept = kept_outputs(graph, removed, repairable(module))
    return module, restore(module, kept)


def costs(graph: Graph, removed: Removal) -> dict[str, float]:
    """MACs of one example and parameters, before and after a removal."""
    return {
        "macs": graph.macs(removed),
        "macs_before": graph.macs(),
        "params": float(graph.params(removed)),
        "params_before": float(graph.params()),
    }


def skipped(graph: Graph, patterns: tuple[str, ...]) -> list[int]:
    """Groups that a pattern keeps whole.

    Raises:
        MethodError: a pattern that names no layer of the model.
    """
    names = {layer for g in graph.groups for layer in g.name.split(", ")} | set(graph.left_alone)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise MethodError(
                f"skip names no prunable layer: '{pattern}'", do=f"use one of {', '.join(sorted(names)[:12])}"
            )
    return [g.index for g in graph.groups if any(fnmatch(n, p) for n in g.name.split(", ") for p in patterns)]


def kept_outputs(graph: Graph, removed: Removal, names: list[str]) -> dict[str, Tensor]:
    """For layers that lost outputs, the indices of those that remain."""
    mask = graph.alive(removed)
    kept = {}
    for name in names:
        weight = f"{name}.weight"
        indices = graph.kept(weight, mask)[0] if weight in graph.dims else None
        if indices is not None:
            kept[name] = torch.from_numpy(indices)
    return kept


def unscored(graph: Graph, importance: Importance) -> list[int]:
    """Groups that a method cannot judge (infinite importance): they stay whole, and the report says so."""
    found = [
        g.index for g, scores in zip(graph.groups, importance, strict=True) if not np.isfinite(scores).all()
    ]
    for index in found:
        for layer in graph.groups[index].name.split(", "):
            graph.left_alone.setdefault(layer, "read by layers that this method cannot score")
    return found


def _check(importance: Importance, graph: Graph) -> None:
    for group, scores in zip(graph.groups, importance, strict=True):
        if len(scores) != len(group) or np.isnan(scores).any():
            raise MethodError(
                f"The importance of '{group.name}' is not usable",
                got=f"{int(np.isnan(scores).sum())} of {len(group)} units are NaN",
                do="check the model and the calibration examples for NaN or infinite values",
            )
