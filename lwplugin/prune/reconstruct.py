"""Optimal-brain removal of coupled units from second moments (OBS; ZipLM, 2302.04089; ThiNet, 1707.06342)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.moments.examples import repair_inputs
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.response_error import RIDGE, response_errors
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data


class ReconstructConfig(PruneConfig):
    """Options of ``reconstruct``."""

    ridge: float = Field(RIDGE, gt=0, description="Regularisation, as a fraction of the mean input variance.")


def score(
    module: nn.Module, graph: Graph, data: Data, config: ReconstructConfig, progress: Progress
) -> Importance:
    """The relative squared error a unit's removal adds to the layers that read it, in greedy order."""
    inputs = repair_inputs(module, data, config.repair_examples)
    return response_errors(module, graph, inputs, ridge=config.ridge, seed=config.seed, progress=progress)


METHOD = Method(
    "reconstruct",
    ReconstructConfig,
    score,
    "least error of the layers that read a unit, by second moments; no labels",
    scores_errors=True,
)
