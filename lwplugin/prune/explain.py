"""What a pruning removed, from where and why, as plain data for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from lwplugin.data.batch import Inputs
from lwplugin.model.cost import cost
from lwplugin.model.graph import Graph, Removal
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.prune.select import Importance


def explain(
    parent: nn.Module, graph: Graph, removed: Removal, importance: Importance, repairs: Sequence[LayerRepair]
) -> dict[str, Any]:
    """JSON: ``layers`` before and after, ``removed`` units with their importance, ``left_alone``, ``repair``."""
    return {
        "layers": _layers(parent, graph, removed),
        "removed": unit_rows(graph, removed, importance),
        "left_alone": [{"name": name, "reason": reason} for name, reason in graph.left_alone.items()],
        "repair": repair_rows(repairs),
    }


def repair_rows(repairs: Sequence[LayerRepair]) -> list[dict[str, Any]]:
    """What the repair did to each layer."""
    return [
        {"name": r.name, "error_before": round(r.error_before, 6), "error_after": round(r.error_after, 6)}
        for r in repairs
    ]


def sensitivity(errors: Iterable[tuple[str, Iterable[float | None]]]) -> list[dict[str, Any]]:
    """How the relative squared error of the layers that read a group grows with the ``fraction`` of it removed,
    cheapest first and re-solved after each.

    ``errors`` are what each unit's removal adds, in that order; at most 33 points are kept. A group that was not
    scored is left out.
    """
    rows = []
    for name, added in errors:
        known = np.array([np.nan if each is None else each for each in added], dtype=np.float64)
        if not known.size or not np.isfinite(known).all():
            continue
        total = np.concatenate([[0.0], np.cumsum(np.sort(known))])
        at = np.unique(np.linspace(0, len(known), min(len(known) + 1, 33)).round().astype(int))
        rows.append(
            {
                "name": name,
                "fractions": [float(f"{k / len(known):.4g}") for k in at],
                "errors": [float(f"{total[k]:.4g}") for k in at],
            }
        )
    return rows


def compare(
    parent: nn.Module, module: nn.Module, example: Inputs
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The metrics and the ``layers`` of a pruning of any kind: both modules are run and counted."""
    before, after = cost(parent, example), cost(module, example)
    metrics = {
        "macs": float(after.macs),
        "macs_before": float(before.macs),
        "params": float(after.params),
        "params_before": float(before.params),
    }
    left = {layer.name: layer for layer in after.layers}
    rows = []
    for layer in before.layers:
        shape = _weight_shape(parent, layer.name)
        if not (layer.params or layer.macs):
            continue
        now = left.get(layer.name)
        rows.append(
            {
                "name": layer.name or "(model)",
                "type": layer.kind,
                "params_before": layer.params,
                "params_after": now.params if now else 0,
                "macs_before": float(layer.macs),
                "macs_after": float(now.macs) if now else 0.0,
                "shape_before": shape,
                "shape_after": _weight_shape(module, layer.name) if now else [],
            }
        )
    return metrics, rows


def _weight_shape(module: nn.Module, name: str) -> list[int]:
    return next((list(p.shape) for p in module.get_submodule(name).parameters(recurse=False)), [])


def _layers(parent: nn.Module, graph: Graph, removed: Removal) -> list[dict[str, Any]]:
    mask = graph.alive(removed)
    macs_before, macs_after = _macs_by_layer(graph, np.ones_like(mask)), _macs_by_layer(graph, mask)
    rows = []
    for path, layer in parent.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in layer.named_parameters(recurse=False)]
        names = [name for name in names if name in graph.shapes]
        if not names:
            continue
        before = {name: list(graph.shapes[name]) for name in names}
        after = {
            name: [
                s if d is None else int(mask[d].sum())
                for s, d in zip(before[name], graph.dims[name], strict=True)
            ]
            for name in names
        }
        rows.append(
            {
                "name": path or "(model)",
                "type": type(layer).__name__,
                "params_before": int(sum(np.prod(s) for s in before.values())),
                "params_after": int(sum(np.prod(s) for s in after.values())),
                "macs_before": macs_before.get(path, 0.0),
                "macs_after": macs_after.get(path, 0.0),
                "shape_before": before[names[0]],
                "shape_after": after[names[0]],
            }
        )
    return rows


def _macs_by_layer(graph: Graph, mask: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for contraction in graph.contractions:
        if contraction.parameter is None:
            continue
        layer = contraction.parameter.rpartition(".")[0]
        living = np.prod([float(mask[roots].sum()) for roots in contraction.dims])
        found[layer] = found.get(layer, 0.0) + contraction.constant * float(living) / graph.batch
    return found


def unit_rows(graph: Graph, removed: Removal, importance: Importance) -> list[dict[str, Any]]:
    rows = []
    for group in graph.groups:
        units = list(removed.get(group.index, ()))
        scores = importance[group.index]
        lost = float(np.sum(scores[units]))
        rows.append(
            {
                "name": group.name,
                "unit_channels": group.width,
                "units_before": len(group),
                "units_after": len(group) - len(units),
                "removed": units,
                "importance": [float(f"{s:.4g}") if np.isfinite(s) else None for s in scores],
                "importance_lost": float(f"{lost / max(float(np.sum(scores)), 1e-30):.4g}"),
            }
        )
    return rows
