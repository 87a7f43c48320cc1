"""Fewer bits: every method turns float layers into quantized ones whose integers a bundle keeps packed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.methods import configure, named, need_data
from lwplugin.progress import Progress, silent
from lwplugin.quantize import binary, codebook, half, int8, qat, weight_only
from lwplugin.quantize.base import Method, QuantizeConfig
from lwplugin.quantize.layers import QuantConv1d, QuantConv2d, QuantLayer, QuantLinear

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        int8.METHOD,
        qat.METHOD,
        weight_only.METHOD,
        codebook.METHOD,
        binary.BINARY,
        binary.BINARY_LEARNED,
        half.METHOD,
    )
}

__all__ = [
    "METHODS",
    "Method",
    "QuantConv1d",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "QuantizeConfig",
    "quantize",
]


def quantize(
    model: nn.Module | LightModel,
    data: Data,
    *,
    method: str = "int8",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    **options: Any,
) -> LightModel:
    """Quantize a model; returns a new light model and leaves the argument untouched.

    ``checkpoint`` is the file in which a method that trains keeps its state, to go on from after a crash.

    Raises RecipeError for an unknown method or option, MethodError where nothing can be quantized, DataError
    where calibration examples are missing or not finite.
    """
    from lwplugin.model.bundle import light
    from lwplugin.model.opened import run_opened
    from lwplugin.model.placement import computed

    need_data(data)
    chosen = named(METHODS, method, of="quantization")
    resumed = {"checkpoint": checkpoint} if chosen.resumes else {}
    config, source = configure(chosen, options), light(model)

    def run(opened: LightModel) -> LightModel:
        return chosen.run(opened, data, config, progress, **resumed)

    return computed(lambda: run_opened(run, source, data), source, data)
