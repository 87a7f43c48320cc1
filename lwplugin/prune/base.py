"""What every pruning method shares: the options, the cut, the repair, the fine-tuning and the record of it all.

A method only says how much each unit matters. The dependency graph, the selection under the budget, the surgery,
the closed-form repair, the norm recalibration and the fine-tuning are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from lwplugin.errors import MethodError
from lwplugin.model.attention import close_heads, open_heads
from lwplugin.model.graph import Graph, Removal, trace
from lwplugin.model.quantized import BEGIN_BEFORE, quantized_layers
from lwplugin.model.surgery import cut
from lwplugin.moments.examples import repair_inputs
from lwplugin.moments.repair import LayerRepair, parent_responses, repair, repairable
from lwplugin.progress import Progress
from lwplugin.prune.divergence import Divergence
from lwplugin.prune.explain import explain, sensitivity
from lwplugin.prune.response_error import response_errors
from lwplugin.prune.select import Budget, Cost, Importance, Limits, select
from lwplugin.prune.shares import select_shares
from lwplugin.training.collapse import check_agreement
from lwplugin.training.finetune import FinetuneOptions, finetune

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


_JUDGED = 512
"""Calibration examples on which candidates are judged."""


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
        return run(self, model, data, config, progress, checkpoint)


def run(
    method: Method,
    model: LightModel,
    data: Data,
    config: PruneConfig,
    progress: Progress,
    checkpoint: Path | None,
) -> LightModel:
    """The one way every method runs."""
    from lwplugin.model.bundle import HistoryEntry

    if config.latency is not None and not method.timed:
        raise MethodError(
            f"Method '{method.name}' has no latency budget",
            do="give macs or params, or use a method that scores units, such as reconstruct",
        )
    if config.shares is not None and method.shrink is not None:
        raise MethodError(
            f"Method '{method.name}' takes no shares",
            do="give macs or params, or use a method that only scores units, such as reconstruct",
        )
    parent = model.copy_module()
    whole = open_heads(parent, data.example(1))
    shrink = method.shrink or by_units(method.score, method.variants)
    pruned = shrink(parent, data, config, progress, checkpoint)
    module, details = pruned.module, dict(pruned.details)
    details["left_alone"] = _named(details["left_alone"], whole)
    if method.scores_errors:
        rows = details["removed"]
        details.setdefault("sensitivity", sensitivity((row["name"], row["importance"]) for row in rows))
    elif config.sensitivity:
        details["sensitivity"] = measured_sensitivity(parent, data, config, progress)
    trained = finetune(
        module,
        parent,
        data,
        config,
        seed=config.seed,
        checkpoint=checkpoint,
        progress=progress,
        hold=pruned.hold,
    )
    agreement = check_agreement(parent, module, data, config.collapse, "Pruning")
    metrics = {
        **pruned.metrics,
        **agreement,
        **trained,
        **(method.report(parent, module, data, config) if method.report else {}),
    }
    entry = HistoryEntry(
        step="prune",
        method=method.name,
        config=config.model_dump(mode="json"),
        metrics=metrics,
        seed=config.seed,
        details=details,
    )
    close_heads(module)
    return model.evolve(module, entry)


def _named(left_alone: list[dict[str, str]], whole: dict[str, str]) -> list[dict[str, str]]:
    """The rows of layers left alone, those of attentions whose heads stay with the reason for that.

    A trial only tells that the model does not run with less of such a layer, not why it has no heads to give.
    """

    def reason(name: str) -> str | None:
        return next((why for one, why in whole.items() if name == one or name.startswith(f"{one}.")), None)

    return [row | {"reason": reason(row["name"]) or row["reason"]} for row in left_alone]


def measured_sensitivity(
    parent: nn.Module, data: Data, config: PruneConfig, progress: Progress
) -> list[dict[str, Any]]:
    """The closed-form errors of every group, whatever the method goes by."""
    graph = graph_of(parent, data, progress)
    inputs = repair_inputs(parent, data, config.repair_examples)
    errors = response_errors(parent, graph, inputs, seed=config.seed, progress=progress)
    return sensitivity((group.name, each) for group, each in zip(graph.groups, errors, strict=True))


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
        for name, importance in offered.items():
            removed = choose(graph, importance, config, cost)
            module, repairs = without(parent, graph, removed, data, config, progress)
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
        quantized = quantized_layers(parent)
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
    parent: nn.Module, graph: Graph, removed: Removal, data: Data, config: PruneConfig, progress: Progress
) -> tuple[nn.Module, list[LayerRepair]]:
    """A copy of ``parent`` with the units cut, repaired and recalibrated as the options ask."""
    from lwplugin.model.bundle import copy_module

    module = copy_module(parent)
    cut(module, graph, removed)
    kept = kept_outputs(graph, removed, repairable(module))
    return module, restore(parent, module, kept, data, config, progress)


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


def restore(
    parent: nn.Module,
    module: nn.Module,
    kept: dict[str, Tensor],
    data: Data,
    config: PruneConfig,
    progress: Progress,
) -> list[LayerRepair]:
    """Repair a cut module in closed form, then recalibrate its norms, as the options ask.

    ``kept`` are, for layers that lost outputs, the indices of those that remain.
    """
    done: list[LayerRepair] = []
    if config.repair:
        inputs = repair_inputs(module, data, config.repair_examples)
        names = repairable(module)
        progress("parent responses", 0, None)
        responses = parent_responses(parent, inputs, names, seed=config.seed)
        done = repair(module, inputs, responses, kept, progress=progress)
    if config.recalibrate or (config.recalibrate is None and not config.repair):
        from lwplugin.training.recalibrate import recalibrate_batchnorm

        recalibrate_batchnorm(module, data.need("calibration"))
    return done


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


__all__ = ["Method", "PruneConfig", "Pruned", "run"]
