"""The widest student of a family that stays within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TypeVar

import torch

from lwplugin.data.batch import Inputs, map_inputs, take
from lwplugin.errors import ModelError
from lwplugin.model.cost import Cost, cost
from lwplugin.students.options import WIDEST, Family, StudentOptions

Options = TypeVar("Options", bound=StudentOptions)
NAMES = ("params", "macs", "size_bytes")
STEPS_PER_WIDTH = 64
"""Widths are tried in steps of 1/64: finer than one channel of most layers."""


def limits(options: StudentOptions, teacher: Cost | None) -> dict[str, float]:
    """Each limit as a number: shares of the teacher's own cost worked out.

    Raises ModelError where a share is asked of a teacher whose cost is not known.
    """
    wanted = options.budget.limits if options.budget else {}
    if any(limit <= 1 for limit in wanted.values()) and teacher is None:
        raise ModelError(
            "A share of the teacher's cost needs a teacher whose cost is known",
            got=wanted,
            do="give the student's budget in parameters, MACs or bytes",
        )
    return {name: limit * getattr(teacher, name) if limit <= 1 else limit for name, limit in wanted.items()}


def fitted(family: Family, options: Options, inputs: Inputs, most: Mapping[str, float]) -> Options:
    """The options with the greatest width at which no cost exceeds ``most``, and no budget any more.

    Costs never fall when the width rises, so widths are doubled until one costs too much and then halved
    between. ``options`` must name classes and channels; nothing is allocated.

    Raises ModelError where even the narrowest costs more.
    """

    def at(step: int) -> Options:
        return options.model_copy(update={"width": step / STEPS_PER_WIDTH, "budget": None})

    @cache
    def found(step: int) -> dict[str, int]:
        return costs(family, at(step), inputs, most)

    def fits(step: int) -> bool:
        return all(found(step)[name] <= limit for name, limit in most.items())

    last = int(WIDEST * STEPS_PER_WIDTH)
    if not fits(1):
        raise ModelError(
            f"No student of the family '{family.name}' is that small",
            got=f"{_written(most)} allowed, the narrowest has {_written(found(1))}",
            do="raise the budget, take another family, or fewer layers",
        )
    good, bad = 1, 2
    while bad <= last and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, last + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return at(good)


def costs(
    family: Family, options: StudentOptions, inputs: Inputs, names: Iterable[str] = NAMES
) -> dict[str, int]:
    """What a student costs for one of the inputs, worked out on the meta device; `macs` take a forward pass."""
    with torch.device("meta"):
        net = family.make(options)
    tensors = [*net.parameters(), *net.buffers()]
    found = {
        "params": sum(parameter.numel() for parameter in net.parameters()),
        "size_bytes": sum(tensor.nbytes for tensor in tensors),
    }
    if "macs" in names:
        found["macs"] = cost(net, map_inputs(take(inputs, 1), lambda tensor: tensor.to("meta"))).macs
    return {name: found[name] for name in names}


def _written(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in numbers.items())
