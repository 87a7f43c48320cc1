"""Budgets as policy: what every registered version must hold, who owns it, and what is waived until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.policy.document import FleetPolicy as FleetPolicy
    from lwplugin.policy.document import Rule as Rule
    from lwplugin.policy.document import Waiver as Waiver
    from lwplugin.policy.document import load_policy as load_policy
    from lwplugin.policy.evaluation import evaluate as evaluate
    from lwplugin.policy.finding import Finding as Finding
    from lwplugin.policy.finding import Findings as Findings

__getattr__, __all__ = lazily(
    __name__,
    {
        "finding": "Finding Findings",
        "document": "FleetPolicy Rule Waiver load_policy",
        "evaluation": "evaluate",
    },
)
