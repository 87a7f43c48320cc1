"""What a factorization did to every layer, as plain data for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lwplugin.factorize.forms import kernel_of
from lwplugin.factorize.ranks import Option, whole
from lwplugin.model.cost import Cost
from lwplugin.moments.layer_repair import LayerRepair


def explain(
    parent: nn.Module,
    before: Cost,
    options: Mapping[str, Sequence[Option]],
    chosen: Mapping[str, Option],
    left_alone: Mapping[str, str],
    repairs: Sequence[LayerRepair],
) -> dict[str, Any]:
    """JSON: ``layers`` before and after with rank and error, ``left_alone`` with the reason, ``repair``."""
    alone = dict(left_alone)
    for name, option in chosen.items():
        if option.form is None:
            possible = len(options[name]) > 1
            alone[name] = (
                "the search kept it whole: elsewhere the same cost loses less"
                if possible
                else "no rank on offer makes a smaller product"
            )
    return {
        "layers": [
            _row(name, parent, before, whole(options[name]), option)
            for name, option in chosen.items()
            if option.form is not None
        ],
        "left_alone": [{"name": name, "reason": reason} for name, reason in alone.items()],
        "repair": [
            {"name": r.name, "error_before": round(r.error_before, 6), "error_after": round(r.error_after, 6)}
            for r in repairs
        ],
    }


def _row(name: str, parent: nn.Module, before: Cost, old: Option, new: Option) -> dict[str, Any]:
    layer: Any = parent.get_submodule(name)
    o, i, kh, kw = kernel_of(layer).shape
    form = new.form
    assert form is not None
    return {
        "name": name,
        "type": type(layer).__name__,
        "form": form.name,
        "rank_before": min(o, i * kh * kw),
        "rank_after": list(form.ranks) if len(form.ranks) > 1 else form.ranks[0],
        "energy_kept": round(1 - new.error, 6),
        "error": round(new.error, 6),
        "params_before": int(old.params),
        "params_after": int(new.params),
        "macs_before": float(old.macs),
        "macs_after": float(new.macs),
        "shape_before": list(layer.weight.shape),
        "shape_after": [*layer.weight.shape[:1], *reversed(form.ranks), *layer.weight.shape[1:]],
        "parts": [f"{name}.{part}" for part in range(len(form.shapes((o, i, kh, kw))))],
    }
