"""Optimal-brain removal of coupled units from second moments (OBS; ZipLM, 2302.04089; ThiNet, 1707.06342)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.moments.examples import repair_inputs
from lwplugin.progress import Progress
from lwplugin.prune.answer_loss import Trials
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.response_error import RIDGE, group_errors, response_errors
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data


class ReconstructConfig(PruneConfig):
    """Options of ``reconstruct``."""

    ridge: float = Field(RIDGE, gt=0, description="Regularisation, as a fraction of the mean input variance.")
    answer_aware: bool = Field(
        True,
        description="Also try ratios by what each layer's errors cost the model's answer, and keep what is nearest to "
        "the parent: two more repairs, no labels.",
    )
    trial_examples: int = Field(32, ge=1, description="Calibration examples of each trial.")


def score(
    module: nn.Module, graph: Graph, data: Data, config: ReconstructConfig, progress: Progress
) -> Importance:
    """The relative squared error a unit's removal adds to the layers that read it, in greedy order."""
    inputs = repair_inputs(module, data, config.repair_examples)
    return response_errors(module, graph, inputs, ridge=config.ridge, seed=config.seed, progress=progress)


def variants(
    module: nn.Module, graph: Graph, data: Data, config: ReconstructConfig, progress: Progress
) -> dict[str, Importance]:
    """The same by the layers' errors alone, by what they cost the answer, and half way between."""
    if not config.answer_aware or config.ranking == "per_layer":
        # Where every layer keeps the same fraction there are no ratios to choose.
        return {"layers": score(module, graph, data, config, progress)}
    inputs = repair_inputs(module, data, config.repair_examples)
    trials = Trials(module, data, config.trial_examples)
    errors = group_errors(
        module, graph, inputs, ridge=config.ridge, trials=trials, seed=config.seed, progress=progress
    )
    drawn = {"layers": 0.0, "between": 0.5, "answer": 1.0}
    return {name: [each.importance(answer) for each in errors] for name, answer in drawn.items()}


METHOD = Method(
    "reconstruct",
    ReconstructConfig,
    score,
    "least error of the layers that read a unit, by second moments; no labels",
    scores_errors=True,
    variants=variants,
)
