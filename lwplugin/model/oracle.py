"""The trial that decides whether a group may be cut: silence its units, cut them, and the output must not move.

The rules of the dependency graph only propose. A model may hard-code a width, compute it from another tensor
or shuffle channels in a way that keeps every shape and changes every value; only running it tells. All groups
are tried at once; where that fails they are bisected, so a well-behaved model costs three forward passes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import ModelError
from lwplugin.model.graph import Graph, Group, Removal, SizeAttribute
from lwplugin.model.surgery import cut, silence
from lwplugin.model.trace import tensors_of

RELATIVE_TOLERANCE = 1e-3
"""Of the output's scale; float32 rounding of a reordered sum stays far below, a wrong channel far above."""

_OWN_SIZES = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm,
              nn.Embedding, nn.RNNBase, nn.Dropout, nn.modules.pooling._MaxPoolNd)  # fmt: skip


def trial(group: Group, seed: int = 0) -> list[int]:
    """About a third of a group's units, at least one, never all; fixed by the seed."""
    count = min(max(1, len(group) // 3), len(group) - 1)
    return sorted(np.random.default_rng(seed + group.index).choice(len(group), count, replace=False).tolist())


def moved_by(module: nn.Module, inputs: Inputs, graph: Graph, removed: Removal) -> str | None:
    """What goes wrong when ``removed`` is cut from a copy of ``module``; None when nothing does."""
    silenced = copy.deepcopy(module).eval()
    silence(silenced, graph, removed)
    expected = _run(silenced, inputs)
    del silenced
    smaller = copy.deepcopy(module).eval()
    try:
        cut(smaller, graph, removed)
        got = _run(smaller, inputs)
    except Exception as error:
        return f"the model does not run with fewer of them ({type(error).__name__}: {str(error).splitlines()[0][:160]})"
    for before, after in zip(expected, got, strict=True):
        if before.shape != after.shape:
            return f"the output's shape follows it ({tuple(before.shape)} → {tuple(after.shape)})"
        if not before.is_floating_point():
            continue
        scale = float(before.abs().max()) or 1.0
        gap = float((before - after).abs().max()) / scale if before.numel() else 0.0
        if not gap <= RELATIVE_TOLERANCE:
            return f"a trial cut moved the output by {gap:.1%} of its scale"
    return None


def verify_groups(module: nn.Module, inputs: Inputs, graph: Graph) -> None:
    """Keep in ``graph`` only groups whose trial cut leaves the outputs in place; say why the others cannot go.

    Raises ModelError where the model answers NaN, which no cut can be held against.
    """
    candidates = [g for g in graph.groups if len(g) > 1]
    failed = _failures(module, inputs, graph, candidates)
    if candidates and len(failed) == len(candidates):
        answers = _run(copy.deepcopy(module).eval(), inputs)
        if any(bool(answer.isnan().any()) for answer in answers):
            raise ModelError("The model answers NaN on the example", do="look for NaN in inputs and weights")
    for group in graph.groups:
        if len(group) <= 1:
            failed[group.index] = "only one unit"
    for index, reason in failed.items():
        for layer in graph.groups[index].name.split(", "):
            graph.left_alone.setdefault(layer, reason)
    if not failed:
        return
    kept = [g for g in graph.groups if g.index not in failed]
    graph.groups = [Group(i, g.roots, g.owners, g.readers, g.writers) for i, g in enumerate(kept)]


def _failures(module: nn.Module, inputs: Inputs, graph: Graph, groups: Sequence[Group]) -> dict[int, str]:
    if not groups:
        return {}
    problem = moved_by(module, inputs, graph, {g.index: trial(g) for g in groups})
    if problem is None:
        return {}
    if len(groups) == 1:
        return {} if _repaired_by_attributes(module, inputs, graph, groups[0]) else {groups[0].index: problem}
    half = len(groups) // 2
    first = _failures(module, inputs, graph, groups[:half])
    return {**first, **_failures(module, inputs, graph, groups[half:])}


def _repaired_by_attributes(module: nn.Module, inputs: Inputs, graph: Graph, group: Group) -> bool:
    """Try integer attributes of the modules around the group that hold one of its widths."""
    removed = {group.index: trial(group)}
    mask = graph.alive(removed)
    widths: dict[int, np.ndarray] = {}
    ambiguous: set[int] = set()
    for roots in graph.values:
        before, after = len(roots), int(mask[roots].sum())
        if after == before:
            continue
        known = widths.setdefault(before, roots)
        if int(mask[known].sum()) != after:
            ambiguous.add(before)
    rules = [
        SizeAttribute(path, name, widths[value])
        for path, name, value in _integers_around(module, group)
        if value in widths and value not in ambiguous
    ]
    known_before = list(graph.attributes)
    for chosen in ([rules] if rules else []) + [[rule] for rule in rules if len(rules) > 1]:
        graph.attributes = known_before + [r for r in chosen if not _holds(known_before, r)]
        if moved_by(module, inputs, graph, removed) is None:
            return True
    graph.attributes = known_before
    return False


def _holds(rules: Sequence[SizeAttribute], rule: SizeAttribute) -> bool:
    return any((r.module, r.attribute) == (rule.module, rule.attribute) for r in rules)


def _integers_around(module: nn.Module, group: Group) -> list[tuple[str, str, int]]:
    paths = {""}
    for name, _ in group.owners:
        parts = name.split(".")[:-1]
        paths.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    found = []
    for path in sorted(paths, key=len, reverse=True):
        layer = module.get_submodule(path)
        if isinstance(layer, _OWN_SIZES):
            continue
        for key, value in vars(layer).items():
            if (
                isinstance(value, int)
                and not isinstance(value, bool)
                and value > 1
                and not key.startswith("_")
            ):
                found.append((path, key, value))
    return found


def _run(module: nn.Module, inputs: Inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return [t.detach().clone() for t in tensors_of(call(module, inputs))]
