"""Which rank every layer gets: one budget over all layers, from errors that were worked out once.

Pure functions. Every layer brings its options: sizes it could have, each with its cost and its error. The choice under
a budget goes along the lower convex hull of loss against cost (the Lagrangian of the knapsack).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lwplugin.errors import MethodError
from lwplugin.factorize.forms import Form

Kind = Literal["params", "macs"]


@dataclass(frozen=True)
class Option:
    """One size a layer could have."""

    form: Form | None
    """None: the layer as it is."""
    params: float
    macs: float
    """For one example."""
    error: float
    """Relative squared error of the layer's response, 0 to 1."""
    loss: float
    """What it costs the model; comparable across layers."""

    def cost(self, kind: Kind) -> float:
        return self.params if kind == "params" else self.macs


Options = Mapping[str, Sequence[Option]]
"""Layer → its options; one of them is the layer as it is."""


def whole(options: Sequence[Option]) -> Option:
    """The layer as it is."""
    return next(option for option in options if option.form is None)


def smaller(options: Sequence[Option], kind: Kind | None) -> list[Option]:
    """Products that cost less than the layer itself: in ``kind``, or in parameters."""
    limit = whole(options)
    return [
        o for o in options if o.form is not None and o.cost(kind or "params") < limit.cost(kind or "params")
    ]


def by_rank(options: Options, rank: int) -> dict[str, Option]:
    """Every layer at a fixed rank (or its largest below); whole where that is not smaller."""
    found = {}
    for name, all_of in options.items():
        fitting = [o for o in smaller(all_of, None) if o.form is not None and max(o.form.ranks) <= rank]
        exact = [o for o in fitting if o.form is not None and max(o.form.ranks) == rank]
        found[name] = min(exact, key=lambda o: o.error, default=whole(all_of))
    return found


def by_energy(options: Options, energy: float) -> dict[str, Option]:
    """Every layer at the fewest parameters that keep ``energy`` of its response; whole where that is not smaller."""
    found = {}
    for name, all_of in options.items():
        enough = [o for o in smaller(all_of, None) if o.error <= 1 - energy]
        found[name] = min(enough, key=lambda o: (o.params, o.error), default=whole(all_of))
    return found


def per_layer(options: Options, kind: Kind, ceiling: float) -> dict[str, Option]:
    """Every layer keeps the same fraction of its cost, the largest that fits under ``ceiling``.

    Raises:
        MethodError: even the smallest fraction does not fit.
    """

    def at(fraction: float) -> dict[str, Option]:
        found = {}
        for name, all_of in options.items():
            legal = smaller(all_of, kind)
            fitting = [o for o in legal if o.cost(kind) <= fraction * whole(all_of).cost(kind)]
            least = min(legal, key=lambda o: o.cost(kind), default=whole(all_of))
            found[name] = (
                whole(all_of) if fraction >= 1 else min(fitting, key=lambda o: o.error, default=least)
            )
        return found

    def spent(choice: Mapping[str, Option]) -> float:
        return sum(o.cost(kind) for o in choice.values())

    steps = 512
    _check(spent(at(0.0)), ceiling, kind)
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        if spent(at(middle / steps)) <= ceiling:
            low = middle
        else:
            high = middle - 1
    return at(low / steps)


def globally(options: Options, kind: Kind, ceiling: float) -> dict[str, Option]:
    """The least loss in all with the costs together under ``ceiling``.

    Raises:
        MethodError: the smallest options do not fit.
    """
    hulls = {name: _hull([*smaller(o, kind), whole(o)], kind) for name, o in options.items()}
    chosen = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].cost(kind) for hull in hulls.values())
    _check(spent, ceiling, kind)
    steps = sorted(
        (
            ((a.loss - b.loss) / (b.cost(kind) - a.cost(kind)), name, place + 1)
            for name, hull in hulls.items()
            for place, (a, b) in enumerate(pairwise(hull))
        ),
        key=lambda step: (-step[0], step[1], step[2]),
    )
    for _, name, place in steps:
        hull = hulls[name]
        more = hull[place].cost(kind) - hull[place - 1].cost(kind)
        if chosen[name] == place - 1 and spent + more <= ceiling:
            chosen[name], spent = place, spent + more
    found = {name: hull[chosen[name]] for name, hull in hulls.items()}
    return _spend(options, kind, ceiling, found)


def _spend(options: Options, kind: Kind, ceiling: float, found: dict[str, Option]) -> dict[str, Option]:
    """What the hull's corners left of the budget, where it still buys the most."""
    spent = sum(option.cost(kind) for option in found.values())
    while True:
        gains = [
            ((now.loss - o.loss) / (o.cost(kind) - now.cost(kind)), name, o)
            for name, now in found.items()
            for o in [*smaller(options[name], kind), whole(options[name])]
            if o.loss < now.loss and now.cost(kind) < o.cost(kind) <= now.cost(kind) + ceiling - spent
        ]
        if not gains:
            return found
        _, name, option = max(gains, key=lambda gain: gain[0])
        spent += option.cost(kind) - found[name].cost(kind)
        found[name] = option


def _hull(options: Sequence[Option], kind: Kind) -> list[Option]:
    """The options on the lower convex hull of loss against cost, cheapest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost(kind), o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], option, kind) <= _slope(hull[-2], hull[-1], kind):
            hull.pop()
        hull.append(option)
    return hull


def _slope(left: Option, right: Option, kind: Kind) -> float:
    return (right.loss - left.loss) / max(right.cost(kind) - left.cost(kind), 1e-12)


def _check(least: float, ceiling: float, kind: Kind) -> None:
    if least > ceiling:
        raise MethodError(
            f"The layers that can be factorized do not fit into the {kind} budget",
            got=f"{least:,.0f} {kind} with each at its floor, {max(ceiling, 0):,.0f} are left for them",
            do="keep a larger fraction, lower min_kept, or combine with prune or quantize",
        )
