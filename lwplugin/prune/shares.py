"""Units chosen so that the same kind of layers together keeps a given fraction of them: half of the feed-forward units,
two thirds of the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Literal

from lwplugin.errors import MethodError
from lwplugin.model.graph import Graph, Group, Removal
from lwplugin.prune.select import Budget, Importance, Limits, select


def select_shares(
    graph: Graph,
    importance: Importance,
    shares: Mapping[str, float],
    limits: Limits,
    *,
    ranking: Literal["global", "per_layer"] = "global",
    fixed: Sequence[int] = (),
) -> dict[int, list[int]]:
    """Group → units to remove so that of the units named by each pattern the given fraction stays.

    Globally, the units of one pattern are ranked together; per layer, each of its groups keeps the fraction. What no
    pattern names stays whole.

    Raises:
        MethodError: a pattern that names nothing that can go, or a layer that two patterns name.
    """
    found: dict[int, list[int]] = {}
    taken: dict[int, str] = {}
    for pattern, kept in shares.items():
        groups = [g for g in graph.groups if g.index not in set(fixed) and named(g, pattern)]
        if not groups:
            known = sorted({layer for g in graph.groups for layer in g.name.split(", ")})
            raise MethodError(
                f"shares names no prunable layer: '{pattern}'", do=f"use one of {', '.join(known[:12])}"
            )
        for group in groups:
            other = taken.setdefault(group.index, pattern)
            if other != pattern:
                raise MethodError(
                    f"Two patterns of shares name '{group.name}'",
                    got=f"'{other}' and '{pattern}'",
                    do="narrow one of them",
                )
        rest = [g.index for g in graph.groups if g not in groups]

        def units(removed: Removal, mine: Sequence[Group] = groups) -> float:
            return float(sum(len(g) - len(removed.get(g.index, ())) for g in mine))

        found |= select(
            graph, importance, Budget("units", kept), limits, ranking=ranking, fixed=rest, cost=units
        )
    return found


def named(group: Group, pattern: str) -> bool:
    """Whether a pattern names one of the layers that write a group's units."""
    return any(fnmatch(layer, pattern) for layer in group.name.split(", "))
