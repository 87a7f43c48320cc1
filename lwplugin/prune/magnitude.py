"""Weight magnitude (Han 2015, 1506.02626; group form as in Li 2017, 1608.08710)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field
from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.importance import sum_by_unit
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data


class MagnitudeConfig(PruneConfig):
    """Options of ``magnitude``."""

    norm: Literal["l1", "l2"] = Field("l2", description="Sum of absolute or of squared weights.")


def score(
    module: nn.Module, graph: Graph, data: Data, config: MagnitudeConfig, progress: Progress
) -> Importance:
    """Norm of everything a unit is made of and read by, relative to its group's mean; needs no data."""
    power = {
        name: p.detach().abs() if config.norm == "l1" else p.detach().square()
        for name, p in module.named_parameters()
        if p.ndim > 1
    }
    found = []
    for group in graph.groups:
        sums = sum_by_unit(group, power, group.owners)
        found.append(sums / max(float(np.mean(sums)), 1e-30))
    return found


METHOD = Method("magnitude", MagnitudeConfig, score, "smallest weights first; needs no data")
