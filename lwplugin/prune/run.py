"""The one way every pruning method runs: shrink, fine-tune, check, write down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.attention import close_heads
from lwplugin.model.opened import open_layers
from lwplugin.moments.examples import repair_inputs
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.explain import sensitivity
from lwplugin.prune.response_error import response_errors
from lwplugin.prune.units import by_units, graph_of
from lwplugin.training.collapse import check_agreement
from lwplugin.training.finetune import finetune

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


def run(
    method: Method,
    model: LightModel,
    data: Data,
    config: PruneConfig,
    progress: Progress,
    checkpoint: Path | None,
) -> LightModel:
    """The one way every method runs."""
    from lwplugin.model.bundle import HistoryEntry

    if config.latency is not None and not method.timed:
        raise MethodError(
            f"Method '{method.name}' has no latency budget",
            do="give macs or params, or use a method that scores units, such as reconstruct",
        )
    if config.shares is not None and method.shrink is not None:
        raise MethodError(
            f"Method '{method.name}' takes no shares",
            do="give macs or params, or use a method that only scores units, such as reconstruct",
        )
    parent = model.copy_module()
    whole = open_layers(parent, data.example(1))
    shrink = method.shrink or by_units(method.score, method.variants)
    pruned = shrink(parent, data, config, progress, checkpoint)
    module, details = pruned.module, dict(pruned.details)
    details["left_alone"] = _named(details["left_alone"], whole)
    if method.scores_errors:
        rows = details["removed"]
        details.setdefault("sensitivity", sensitivity((row["name"], row["importance"]) for row in rows))
    elif config.sensitivity:
        details["sensitivity"] = measured_sensitivity(parent, data, config, progress)
    trained = finetune(
        module,
        parent,
        data,
        config,
        seed=config.seed,
        checkpoint=checkpoint,
        progress=progress,
        hold=pruned.hold,
    )
    agreement = check_agreement(parent, module, data, config.collapse, "Pruning")
    metrics = {
        **pruned.metrics,
        **agreement,
        **trained,
        **(method.report(parent, module, data, config) if method.report else {}),
    }
    entry = HistoryEntry(
        step="prune",
        method=method.name,
        config=config.model_dump(mode="json"),
        metrics=metrics,
        seed=config.seed,
        details=details,
    )
    close_heads(module)
    return model.evolve(module, entry)


def _named(left_alone: list[dict[str, str]], whole: dict[str, str]) -> list[dict[str, str]]:
    """The rows of layers left alone, those of attentions whose heads stay with the reason for that.

    A trial only tells that the model does not run with less of such a layer, not why it has no heads to give.
    """

    def reason(name: str) -> str | None:
        return next((why for one, why in whole.items() if name == one or name.startswith(f"{one}.")), None)

    return [row | {"reason": reason(row["name"]) or row["reason"]} for row in left_alone]


def measured_sensitivity(
    parent: nn.Module, data: Data, config: PruneConfig, progress: Progress
) -> list[dict[str, Any]]:
    """The closed-form errors of every group, whatever the method goes by."""
    graph = graph_of(parent, data, progress)
    inputs = repair_inputs(parent, data, config.repair_examples)
    errors = response_errors(parent, graph, inputs, seed=config.seed, progress=progress)
    return sensitivity((group.name, each) for group, each in zip(graph.groups, errors, strict=True))
