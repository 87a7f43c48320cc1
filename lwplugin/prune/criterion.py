"""The scoring methods by name, for methods that drive rounds or a search around one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.select import Importance

if TYPE_CHECKING:
    from lwplugin.data import Data

Criterion = Literal["reconstruct", "taylor", "magnitude", "activation", "attention"]


def importance_by(
    criterion: Criterion, module: nn.Module, graph: Graph, data: Data, config: PruneConfig, progress: Progress
) -> Importance:
    """The importance of every unit by one method, with its defaults and what ``config`` shares with it."""
    method, own = _method(criterion, config)
    assert method.score is not None
    return method.score(module, graph, data, own, progress)


def importances_by(
    criterion: Criterion, module: nn.Module, graph: Graph, data: Data, config: PruneConfig, progress: Progress
) -> Mapping[str, Importance]:
    """All that the method offers to choose from, by name; of most it is one."""
    method, own = _method(criterion, config)
    if method.variants is None:
        return {"": importance_by(criterion, module, graph, data, config, progress)}
    return method.variants(module, graph, data, own, progress)


def _method(criterion: Criterion, config: PruneConfig) -> tuple[Method, PruneConfig]:
    from lwplugin.prune import METHODS

    method = METHODS[criterion]
    shared: dict[str, Any] = {name: getattr(config, name) for name in PruneConfig.model_fields}
    return method, method.config(**shared)
