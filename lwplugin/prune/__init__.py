"""Remove channels, heads and hidden units: every method scores units, the rest of the family is shared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.methods import configure, named, need_data
from lwplugin.progress import Progress, silent
from lwplugin.prune import (
    activation,
    adversarial,
    attention,
    hybrid,
    iterative,
    layer,
    magnitude,
    reconstruct,
    search,
    taylor,
)
from lwplugin.prune.base import Method, PruneConfig

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

METHODS: dict[str, Method] = {
    m.METHOD.name: m.METHOD
    for m in (
        reconstruct,
        taylor,
        magnitude,
        activation,
        attention,
        layer,
        hybrid,
        iterative,
        search,
        adversarial,
    )
}

__all__ = ["METHODS", "Method", "PruneConfig", "prune"]


def prune(
    model: nn.Module | LightModel,
    data: Data,
    *,
    method: str = "reconstruct",
    progress: Progress = silent,
    checkpoint: Path | None = None,
    **options: Any,
) -> LightModel:
    """Prune a model to a budget; returns a new light model and leaves the argument untouched.

    Args:
        method: one of ``METHODS``.
        checkpoint: file in which a fine-tuning keeps its state, to go on from after a crash.
        options: the method's options; one of ``macs``, ``params`` and ``latency`` (fraction that stays) is needed.

    Raises:
        RecipeError: an unknown method or option.
        MethodError: nothing can be pruned, the budget cannot be met, or the model collapsed.
    """
    from lwplugin.model.bundle import light
    from lwplugin.model.placement import computed

    need_data(data)
    chosen = named(METHODS, method, of="pruning")
    config, source = configure(chosen, options), light(model)
    return computed(lambda: chosen.run(source, data, config, progress, checkpoint), source, data)
