"""Latency, memory, size, parity and scores of exported files in their real runtimes.

Names are imported when they are first used, so that a worker process stays as light as its runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.measure.comparison import Comparison as Comparison
    from lwplugin.measure.comparison import load_comparison as load_comparison
    from lwplugin.measure.config import MeasureConfig as MeasureConfig
    from lwplugin.measure.config import MeasureOptions as MeasureOptions
    from lwplugin.measure.machine import describe as describe
    from lwplugin.measure.machine import int8_saturates as int8_saturates
    from lwplugin.measure.machine import isa as isa
    from lwplugin.measure.result import Energy as Energy
    from lwplugin.measure.result import Interval as Interval
    from lwplugin.measure.result import Latency as Latency
    from lwplugin.measure.result import Machine as Machine
    from lwplugin.measure.result import Measurement as Measurement
    from lwplugin.measure.result import Noise as Noise
    from lwplugin.measure.result import Parity as Parity
    from lwplugin.measure.run import measure as measure

__getattr__, __all__ = lazily(
    __name__,
    {
        "comparison": "Comparison load_comparison",
        "machine": "describe int8_saturates isa",
        "result": "Energy Interval Latency Machine Measurement Noise Parity",
        "config": "MeasureConfig MeasureOptions",
        "run": "measure",
    },
)
