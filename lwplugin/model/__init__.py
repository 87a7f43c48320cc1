"""The light model: a module whose structure may differ from its source code, and all that rebuilds it."""

from __future__ import annotations

from lwplugin.model.bundle import HistoryEntry, LightModel, Source, light, load
from lwplugin.model.cost import Cost, LayerCost, cost
from lwplugin.model.origin import FactoryOrigin, InMemoryOrigin, MlflowOrigin, Origin
from lwplugin.model.structure import Changes, LayerSpec, Skeleton, apply, build, diff, register_layer, spec_of

__all__ = [
    "Changes",
    "Cost",
    "FactoryOrigin",
    "HistoryEntry",
    "InMemoryOrigin",
    "LayerCost",
    "LayerSpec",
    "LightModel",
    "MlflowOrigin",
    "Origin",
    "Skeleton",
    "Source",
    "apply",
    "build",
    "cost",
    "diff",
    "light",
    "load",
    "register_layer",
    "spec_of",
]
