"""Per-layer ratios searched to a budget (after AMC, 1802.03494, and EagleEye, 2007.02491).

A candidate is one factor for each group on a criterion's importance; the shared selection turns it into removals that
meet the budget, so every candidate is legal and all factors at one is the criterion's own global ranking. A candidate
is cut, repaired (or its batch norms recalibrated, as in EagleEye) on a few examples, and scored by its divergence from
the parent's outputs; no labels. The search is evolutionary: the best so far breed, the worst makes room.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lwplugin.model.bundle import copy_module
from lwplugin.model.graph import Graph
from lwplugin.model.surgery import cut
from lwplugin.moments.examples import repair_inputs
from lwplugin.moments.repair import repair, repairable
from lwplugin.moments.responses import parent_responses
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned
from lwplugin.prune.criterion import Criterion, importance_by
from lwplugin.prune.divergence import Divergence
from lwplugin.prune.explain import explain
from lwplugin.prune.restore import Restore
from lwplugin.prune.resume import Rounds
from lwplugin.prune.select import Importance
from lwplugin.prune.units import choose, costs, graph_of, kept_outputs, without
from lwplugin.training.recalibrate import recalibrate_batchnorm

if TYPE_CHECKING:
    from lwplugin.data import Data


class SearchConfig(PruneConfig):
    """Options of ``search``."""

    criterion: Criterion = Field("reconstruct", description="The method whose importance is weighed.")
    evaluations: int = Field(48, ge=1, description="Candidates that are cut, repaired and scored.")
    population: int = Field(12, ge=2, description="Candidates kept to breed from.")
    spread: float = Field(
        1.0, gt=0, description="Standard deviation of a group's factor (its logarithm) in a new candidate."
    )
    search_examples: int = Field(
        256, ge=16, description="Calibration examples a candidate is repaired and scored on; no labels."
    )


def shrink(
    parent: nn.Module, data: Data, config: SearchConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Search, then cut the best candidate and repair it on all of ``repair_examples``."""
    graph = graph_of(parent, data, progress)
    saved = Rounds(checkpoint, parent, data, config)
    state = saved.read()
    if state is None:
        importance = importance_by(config.criterion, parent, graph, data, config, progress)
        population = _Population(config, len(graph.groups))
    else:
        importance = [values.numpy() for values in state["importance"]]
        population = _Population(config, len(graph.groups), state["factors"].numpy(), state["scores"])
    divergence = _divergence_of(parent, graph, data, config)
    while population.evaluated < config.evaluations:
        factors = population.child()
        population.add(factors, divergence(_removed(graph, importance, factors, config)))
        saved.save(
            importance=[torch.from_numpy(np.asarray(values)) for values in importance],
            factors=torch.from_numpy(population.factors), scores=population.scores,
        )  # fmt: skip
        progress("search", population.evaluated, config.evaluations)
    removed = _removed(graph, importance, population.best, config)
    module, repairs = without(parent, graph, removed, Restore(parent, data, config, progress))
    metrics = {
        **costs(graph, removed),
        "evaluations": float(population.evaluated),
        "divergence": min(population.scores),
        "divergence_global_ranking": population.scores[0],
    }
    return Pruned(module, metrics, explain(parent, graph, removed, importance, repairs))


class _Population:
    """Every candidate so far, in the order of evaluation; the first is the criterion's global ranking.

    What candidate ``i`` is depends on the seed, ``i`` and those before it, so a resumed search draws the same.
    """

    def __init__(
        self,
        config: SearchConfig,
        groups: int,
        factors: np.ndarray | None = None,
        scores: list[float] | None = None,
    ) -> None:
        self._config = config
        self.factors = np.zeros((0, groups)) if factors is None else factors
        self.scores = list(scores or [])

    @property
    def evaluated(self) -> int:
        return len(self.scores)

    @property
    def best(self) -> np.ndarray:
        """Logarithms of the factors of the best candidate; the earliest of equals."""
        chosen: np.ndarray = self.factors[int(np.argmin(self.scores))]
        return chosen

    def child(self) -> np.ndarray:
        """The next candidate: the start, then random ones, then bred from two good ones and changed in places."""
        config, groups = self._config, int(self.factors.shape[1])
        if self.evaluated == 0:
            return np.zeros(groups)
        rng = np.random.default_rng([config.seed, self.evaluated])
        if self.evaluated < config.population:
            drawn: np.ndarray = config.spread * rng.standard_normal((groups,))
            return drawn
        elite = np.argsort(self.scores, kind="stable")[: config.population]
        mother, father = (self.factors[min(rng.choice(elite, 2), key=lambda i: self.scores[i])] for _ in "ab")
        child = np.where(rng.random(groups) < 0.5, mother, father)
        changed = rng.random(groups) < max(0.2, 1 / groups)
        changed[rng.integers(groups)] = True
        bred: np.ndarray = np.where(changed, child + rng.normal(0, config.spread / 2, groups), child)
        return bred

    def add(self, factors: np.ndarray, score: float) -> None:
        self.factors = np.concatenate([self.factors, factors[None]])
        self.scores.append(score)


def _removed(
    graph: Graph, importance: Importance, factors: np.ndarray, config: SearchConfig
) -> dict[int, list[int]]:
    weighed = [
        np.asarray(values) * np.exp(factor) for values, factor in zip(importance, factors, strict=True)
    ]
    return choose(graph, weighed, config)


def _divergence_of(
    parent: nn.Module, graph: Graph, data: Data, config: SearchConfig
) -> Callable[[dict[int, list[int]]], float]:
    """Cut, repair or recalibrate, compare; the parent runs once for all candidates."""
    judge = Divergence(parent, data, config.search_examples)
    names = repairable(parent)
    inputs = repair_inputs(parent, data, config.search_examples)
    responses = parent_responses(parent, inputs, names, seed=config.seed, sums=True) if config.repair else {}
    known: dict[str, float] = {}

    def divergence(removed: dict[int, list[int]]) -> float:
        key = repr(sorted(removed.items()))
        if key not in known:
            module = copy_module(parent)
            cut(module, graph, removed)
            if config.repair:
                repair(module, inputs, responses, kept_outputs(graph, removed, names))
            else:
                recalibrate_batchnorm(module, data.need("calibration").head(config.search_examples))
            known[key] = judge(module)
        return known[key]

    return divergence


METHOD = Method(
    "search",
    SearchConfig,
    None,
    "ratios of every layer, by evolution against the parent; resumes",
    shrink=shrink,
)
