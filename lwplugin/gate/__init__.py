"""Decides, with statistics, whether a candidate is good enough to take its parent's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lwplugin.gate.policy import Budget, Policy

if TYPE_CHECKING:
    from lwplugin.gate.judge import gate
    from lwplugin.gate.junit import junit_xml
    from lwplugin.gate.verdict import Check, Flips, Verdict, load_verdict

__all__ = ["Budget", "Check", "Flips", "Policy", "Verdict", "gate", "junit_xml", "load_verdict"]

_HOMES = {
    "Check": "verdict",
    "Flips": "verdict",
    "Verdict": "verdict",
    "gate": "judge",
    "junit_xml": "junit",
    "load_verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    # The recipe needs only the policy's schema; scipy is loaded when something is judged.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
