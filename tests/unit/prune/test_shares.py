"""Fractions by kind of layer: the units of one pattern are ranked together, or each layer alone."""

from __future__ import annotations

from typing import Any

import pruned_nets
import pytest

import lwplugin
from lwplugin.data import Data
from lwplugin.errors import MethodError, RecipeError


def left(encoder: pruned_nets.Encoder, words: Data, **options: Any) -> dict[str, tuple[int, int]]:
    light = lwplugin.prune(encoder, words, round_to=1, collapse=0.0, **options)
    rows = light.history[-1].details["removed"]
    return {row["name"].split(", ")[0]: (row["units_before"], row["units_after"]) for row in rows}


def test_each_pattern_keeps_its_fraction_and_the_rest_stays(
    encoder: pruned_nets.Encoder, words: Data
) -> None:
    found = left(encoder, words, shares={"*.up": 0.5, "*.attention.*": 0.75})
    ups = [counts for name, counts in found.items() if name.endswith(".up")]
    heads = [counts for name, counts in found.items() if ".attention." in name]
    assert len(ups) > 1
    assert sum(now for _, now in ups) == sum(was for was, _ in ups) // 2
    assert sum(now for _, now in heads) == -(-3 * sum(was for was, _ in heads) // 4)
    only = left(encoder, words, shares={"*.up": 0.5}, ranking="per_layer")
    assert all(now == was // 2 for name, (was, now) in only.items() if name.endswith(".up"))
    assert all(now == was for name, (was, now) in only.items() if not name.endswith(".up"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": {"*.nothing": 0.5}}, "shares names no prunable layer: '\\*.nothing'"),
        ({"shares": {"*.up": 0.5, "layers.0.*": 0.5}}, "Two patterns of shares name 'layers.0.up'"),
        ({"shares": {"*.up": 0.5}, "method": "layer", "blocks": 1}, "takes no shares"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    encoder: pruned_nets.Encoder, words: Data, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        lwplugin.prune(encoder, words, **options)


def test_shares_are_a_budget_of_their_own(encoder: pruned_nets.Encoder, words: Data) -> None:
    with pytest.raises(RecipeError, match="exactly one budget"):
        lwplugin.prune(encoder, words, shares={"*.up": 0.5}, macs=0.5)
