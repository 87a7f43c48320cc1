"""Latency, memory, size, parity and scores of exported files in their real runtimes.

Names are imported when they are first used, so that a worker process stays as light as its runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.measure.comparison import Comparison, load_comparison
    from lwplugin.measure.config import MeasureConfig, MeasureOptions
    from lwplugin.measure.machine import describe, int8_saturates, isa
    from lwplugin.measure.result import Energy, Interval, Latency, Machine, Measurement, Noise, Parity
    from lwplugin.measure.run import measure

_HOMES = {
    "comparison": ("Comparison", "load_comparison"),
    "machine": ("describe", "int8_saturates", "isa"),
    "result": ("Energy", "Interval", "Latency", "Machine", "Measurement", "Noise", "Parity"),
    "config": ("MeasureConfig", "MeasureOptions"),
    "run": ("measure",),
}

__all__ = [
    "Comparison",
    "Energy",
    "Interval",
    "Latency",
    "Machine",
    "MeasureConfig",
    "MeasureOptions",
    "Measurement",
    "Noise",
    "Parity",
    "describe",
    "int8_saturates",
    "isa",
    "load_comparison",
    "measure",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"lwplugin.measure.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
