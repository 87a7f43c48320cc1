"""The scoring methods by name, for methods that drive rounds or a search around one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import PruneConfig
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data

Criterion = Literal["reconstruct", "taylor", "magnitude", "activation", "attention"]


def importance_by(
    criterion: Criterion, module: nn.Module, graph: Graph, data: Data, config: PruneConfig, progress: Progress
) -> Importance:
    """The importance of every unit by one method, with its defaults and what ``config`` shares with it."""
    from lwplugin.prune import METHODS

    method = METHODS[criterion]
    assert method.score is not None
    shared: dict[str, Any] = {name: getattr(config, name) for name in PruneConfig.model_fields}
    return method.score(module, graph, data, method.config(**shared), progress)
