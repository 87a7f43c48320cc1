"""What a person reads about a run: one HTML page, a model card, JSON and JUnit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.report.inputs import ReportInputs
    from lwplugin.report.write import write_report

__all__ = ["ReportInputs", "write_report"]

_HOMES = {"ReportInputs": "inputs", "write_report": "write"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
