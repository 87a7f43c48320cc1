"""The choice of ranks: within the budget, and as good as trying every combination."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lwplugin.errors import MethodError
from lwplugin.factorize.forms import Form
from lwplugin.factorize.ranks import Option, by_energy, by_rank, globally, per_layer


def layer(seed: int, ranks: int = 6, weight: float = 1.0) -> list[Option]:
    """A whole layer of cost 10 × ranks, and products whose error falls with the rank."""
    rng = np.random.default_rng(seed)
    strengths = np.sort(rng.random(ranks) ** 3)[::-1]
    left = 1 - np.cumsum(strengths) / strengths.sum()
    products = [
        Option(Form("channel", (r + 1,)), 12 * (r + 1), 24 * (r + 1), left[r], weight * left[r])
        for r in range(ranks)
    ]
    return [Option(None, 10 * ranks, 20 * ranks, 0.0, 0.0), *products]


OPTIONS = {"a": layer(0), "b": layer(1, weight=3.0), "c": layer(2, weight=0.5)}


@pytest.mark.parametrize("ceiling", [60.0, 90.0, 120.0, 150.0])
def test_the_global_choice_is_near_the_best_of_all_combinations(ceiling: float) -> None:
    def loss(chosen: dict[str, Option]) -> float:
        return sum(option.loss for option in chosen.values())

    everything = (dict(zip(OPTIONS, combination, strict=True)) for combination in product(*OPTIONS.values()))
    fitting = [c for c in everything if sum(o.params for o in c.values()) <= ceiling]
    found = globally(OPTIONS, "params", ceiling)
    assert sum(option.params for option in found.values()) <= ceiling
    assert loss(found) <= 1.1 * min(map(loss, fitting)) + 0.02


def test_what_matters_more_keeps_more() -> None:
    options = {"a": layer(0), "b": layer(0, weight=20.0)}
    found = globally(options, "params", 80.0)
    assert found["b"].params > found["a"].params


def test_products_that_are_not_smaller_are_never_chosen() -> None:
    for chosen in (
        globally(OPTIONS, "params", 1e9),
        per_layer(OPTIONS, "macs", 1e9),
        by_rank(OPTIONS, 6),
    ):
        assert all(option.form is None for option in chosen.values())


def test_equal_fractions_fill_the_budget() -> None:
    found = per_layer(OPTIONS, "params", 90.0)
    assert [option.params for option in found.values()] == [24.0, 24.0, 24.0]


def test_fixed_rank_and_kept_energy() -> None:
    assert [o.form for o in by_rank(OPTIONS, 3).values()] == [Form("channel", (3,))] * 3
    for name, option in by_energy(OPTIONS, 0.8).items():
        assert option.error <= 0.2 or option.form is None
        cheaper = [o for o in OPTIONS[name] if o.form and o.params < option.params]
        assert all(o.error > 0.2 for o in cheaper)


@pytest.mark.parametrize("choose", [lambda: globally(OPTIONS, "params", 30.0),
                                    lambda: per_layer(OPTIONS, "params", 30.0)])  # fmt: skip
def test_a_budget_below_the_floor_says_what_is_left(choose: object) -> None:
    with pytest.raises(MethodError, match="at its floor, 30 are left"):
        choose()  # type: ignore[operator]
