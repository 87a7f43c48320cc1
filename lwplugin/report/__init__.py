"""What a person reads about a run: one HTML page, a model card, JSON and JUnit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.report.inputs import ReportInputs as ReportInputs
    from lwplugin.report.write import write_report as write_report

__getattr__, __all__ = lazily(
    __name__,
    {
        "inputs": "ReportInputs",
        "write": "write_report",
    },
)
