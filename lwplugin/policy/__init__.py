"""Budgets as policy: what every registered version must hold, who owns it, and what is waived until when."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.policy.document import FleetPolicy as FleetPolicy
    from lwplugin.policy.document import Rule as Rule
    from lwplugin.policy.document import Waiver as Waiver
    from lwplugin.policy.document import load_policy as load_policy
    from lwplugin.policy.evaluation import evaluate as evaluate
    from lwplugin.policy.finding import Finding as Finding
    from lwplugin.policy.finding import Findings as Findings

_HOMES = {
    "Finding": "finding",
    "Findings": "finding",
    "FleetPolicy": "document",
    "Rule": "document",
    "Waiver": "document",
    "evaluate": "evaluation",
    "load_policy": "document",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
