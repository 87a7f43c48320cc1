"""Layers that follow one another when a model runs, and what lies between them, found by values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.model.watching import watching

_T = TypeVar("_T")


def in_a_row(
    module: nn.Module,
    names: Iterable[str],
    inputs: Inputs,
    between: Callable[[str, Tensor, Tensor], _T | None],
) -> list[tuple[str, str, _T]]:
    """Pairs of the named layers, each called once, one right after the other, and what ``between`` says of them.

    Args:
        between: gets the first layer's name, its output and the second's input of the same shape; None: no pair.
    """
    last: list[tuple[str, Tensor]] = []
    found: list[tuple[str, str, _T]] = []
    calls: Counter[str] = Counter()

    def watch(name: str, args: tuple[Any, ...], output: Tensor) -> None:
        calls[name] += 1
        if last:
            first, given = last.pop()
            said = between(first, given, args[0]) if given.shape == args[0].shape else None
            if said is not None:
                found.append((first, name, said))
        last.append((name, output.clone()))

    with watching(module, names, watch):
        call(module, inputs)
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]
