"""Weight magnitude (Han 2015, 1506.02626; group form as in Li 2017, 1608.08710): channels, single weights or N:M.

Channels make the tensors smaller. Single weights and N:M are masks: the model has the same shapes, MACs and parameters,
with zeros among them, and is smaller or faster only where the storage or the runtime uses the zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.bundle import copy_module
from lwplugin.model.graph import Graph
from lwplugin.moments.examples import repair_inputs
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repair, repairable
from lwplugin.moments.responses import parent_responses
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned
from lwplugin.prune.explain import compare, explain, repair_rows
from lwplugin.prune.importance import sum_by_unit
from lwplugin.prune.masks import above, hold, largest, layers_with_weights, n_of_m, n_of_m_holds, pattern_of
from lwplugin.prune.restore import Restore
from lwplugin.prune.select import Importance, kept_count
from lwplugin.prune.units import by_units, costs, graph_of, skipped, without

if TYPE_CHECKING:
    from lwplugin.data import Data


class MagnitudeConfig(PruneConfig):
    """Options of ``magnitude``."""

    norm: Literal["l1", "l2"] = Field("l2", description="Sum of absolute or of squared weights, of channels.")
    granularity: str = Field(
        "channel",
        pattern=r"^(channel|weight|\d+:\d+)$",
        description="What goes: channel; weight (single ones, a mask); N:M, e.g. 2:4 (a mask).",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        description="In place of a budget: what is smaller than this goes. A channel's norm is relative to its "
        "group's mean, a weight's magnitude to its layer's root mean square.",
    )
    sparsity: float | None = Field(
        None, gt=0, lt=1, description="Share of the weights that become zero, with granularity weight."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> MagnitudeConfig:
        given = [n for n in ("macs", "params", "threshold", "sparsity") if getattr(self, n) is not None]
        fits = {"channel": {"macs", "params", "threshold"}, "weight": {"threshold", "sparsity"}}.get(
            self.granularity
        )
        if fits is None:
            pattern_of(self.granularity)
            if given:
                raise ValueError(
                    f"{self.granularity} says itself how much goes: leave out {', '.join(given)}"
                )
        elif len(given) != 1 or given[0] not in fits:
            raise ValueError(
                f"granularity {self.granularity} takes exactly one of {', '.join(sorted(fits))}; got "
                f"{', '.join(given) or 'none'} (give exactly one budget)"
            )
        return self


def score(module: nn.Module, graph: Graph, data: Data, config: PruneConfig, progress: Progress) -> Importance:
    """Norm of everything a unit is made of and read by, relative to its group's mean; needs no data."""
    absolute = getattr(config, "norm", "l2") == "l1"
    power = {
        name: p.detach().abs() if absolute else p.detach().square()
        for name, p in module.named_parameters()
        if p.ndim > 1
    }
    found = []
    for group in graph.groups:
        sums = sum_by_unit(group, power, group.owners)
        found.append(sums / max(float(np.mean(sums)), 1e-30))
    return found


def shrink(
    parent: nn.Module, data: Data, config: MagnitudeConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Channels by budget or threshold; or masks, whose zeros fine-tuning keeps."""
    if config.granularity != "channel":
        return _masked(parent, data, config, progress)
    if config.threshold is None:
        return by_units(score)(parent, data, config, progress, checkpoint)
    graph = graph_of(parent, data, progress)
    importance = score(parent, graph, data, config, progress)
    removed = _below(graph, importance, config)
    module, repairs = without(parent, graph, removed, Restore(parent, data, config, progress))
    return Pruned(module, costs(graph, removed), explain(parent, graph, removed, importance, repairs))


def _below(graph: Graph, importance: Importance, config: MagnitudeConfig) -> dict[int, list[int]]:
    assert config.threshold is not None
    fixed = set(skipped(graph, config.skip))
    removed = {}
    for group, values in zip(graph.groups, importance, strict=True):
        # Squares and sums are of the order of a norm's square: compare norms with norms.
        norms = values if config.norm == "l1" else np.sqrt(values)
        count = len(group) - kept_count(group, int((norms >= config.threshold).sum()), config.limits)
        if group.index not in fixed and count:
            removed[group.index] = sorted(np.argsort(values, kind="stable")[:count].tolist())
    if not removed:
        raise MethodError(
            "No channel is below the threshold",
            got=f"{config.threshold}, the smallest norm is "
            f"{min(float(np.min(v if config.norm == 'l1' else np.sqrt(v))) for v in importance):.3g}",
            do="raise the threshold, or give macs or params",
        )
    return removed


def _masked(parent: nn.Module, data: Data, config: MagnitudeConfig, progress: Progress) -> Pruned:
    names = [n for n in repairable(parent) if not any(fnmatch(n, p) for p in config.skip)]
    weights = layers_with_weights(parent, names)
    masks, left_alone = _masks(weights, config)
    module = copy_module(parent)
    hold(masks)(module)
    repairs: list[LayerRepair] = []
    if config.repair:
        inputs = repair_inputs(module, data, config.repair_examples)
        responses = parent_responses(parent, inputs, repairable(parent), seed=config.seed, sums=True)
        repairs = repair(module, inputs, responses, {}, supports=masks, progress=progress)
    metrics, layers = compare(parent, module, data.example(1))
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    for row in layers:
        row["zeros"] = zeros.get(str(row["name"]), 0)
    details = {
        "layers": layers,
        "removed": [],
        "left_alone": [{"name": name, "reason": reason} for name, reason in left_alone.items()],
        "repair": repair_rows(repairs),
    }
    masked = sum(mask.numel() for mask in masks.values())
    metrics |= {
        "zeros": float(sum(zeros.values())),
        "sparsity": sum(zeros.values()) / max(masked, 1),
        "nonzero_params": metrics["params"] - sum(zeros.values()),
    }
    return Pruned(module, metrics, details, hold=hold(masks))


def _masks(
    weights: Mapping[str, Tensor], config: MagnitudeConfig
) -> tuple[dict[str, Tensor], dict[str, str]]:
    if config.granularity == "weight":
        if config.threshold is not None:
            return above(weights, config.threshold), {}
        assert config.sparsity is not None
        return largest(weights, 1 - config.sparsity, min(config.min_kept, 1 - config.sparsity)), {}
    n, m = pattern_of(config.granularity)
    fitting = {name: w for name, w in weights.items() if w.shape[1] % m == 0}
    if not fitting:
        raise MethodError(
            f"No layer has inputs in multiples of {m}",
            got=", ".join(f"{name}: {w.shape[1]}" for name, w in list(weights.items())[:6]),
            do="use granularity weight or channel",
        )
    left = {
        name: f"its {w.shape[1]} inputs are no multiple of {m}"
        for name, w in weights.items()
        if name not in fitting
    }
    return {name: n_of_m(w, n, m) for name, w in fitting.items()}, left


def report(parent: nn.Module, module: nn.Module, data: Data, config: MagnitudeConfig) -> dict[str, float]:
    """Counted on the finished model: zeros of all masked layers, and for N:M the share of blocks that hold it.

    Raises:
        MethodError: a block of a masked layer breaks the pattern.
    """
    if config.granularity == "channel":
        return {}
    names = [n for n in repairable(module) if not any(fnmatch(n, p) for p in config.skip)]
    weights = layers_with_weights(module, names)
    found = {"zeros": float(sum(int((w == 0).sum()) for w in weights.values()))}
    if ":" in config.granularity:
        n, m = pattern_of(config.granularity)
        held = {name: n_of_m_holds(w, n, m) for name, w in weights.items() if w.shape[1] % m == 0}
        if not all(held.values()):
            raise MethodError(
                f"Not every block of {m} weights holds at most {n}",
                got=", ".join(name for name, holds in held.items() if not holds),
                do="report this as a bug: the zeros should have been kept",
            )
        found["pattern_layers"] = float(len(held))
    return found


METHOD = Method(
    "magnitude", MagnitudeConfig, score, "smallest weights first: channels, single weights or N:M; needs no labels",
    shrink=shrink, report=report,
)  # fmt: skip
