"""Low rank: layers become products of smaller ones, ranks searched over all layers, solved against the parent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.factorize import pca, svd, tucker
from lwplugin.factorize.base import FactorizeConfig, Method
from lwplugin.methods import configure, named, need_data
from lwplugin.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

METHODS: dict[str, Method] = {m.METHOD.name: m.METHOD for m in (svd, pca, tucker)}

__all__ = ["METHODS", "FactorizeConfig", "Method", "factorize"]


def factorize(
    model: nn.Module | LightModel,
    data: Data,
    *,
    method: str = "svd",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    **options: Any,
) -> LightModel:
    """Write layers as products of smaller ones; returns a new light model and leaves the argument untouched.

    Args:
        method: one of ``METHODS``.
        checkpoint: file in which a fine-tuning keeps its state, to go on from after a crash.
        options: the method's options; one of ``params``, ``macs`` (fraction that stays), ``rank`` and ``energy``
            is needed.

    Raises:
        RecipeError: an unknown method or option.
        MethodError: nothing would be smaller, the budget cannot be met, or the model collapsed.
        MissingExtraError: the method needs a package that is not installed.
    """
    from lwplugin.model.bundle import light
    from lwplugin.model.opened import run_opened
    from lwplugin.model.placement import computed

    need_data(data)
    chosen = named(METHODS, method, of="low-rank")
    config, source = configure(chosen, options), light(model)

    def run(opened: LightModel) -> LightModel:
        return chosen.run(opened, data, config, progress, checkpoint)

    return computed(lambda: run_opened(run, source, data), source, data)
