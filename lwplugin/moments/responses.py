"""What the parent's layers answer, at enough rows to solve for the weights of a smaller model's."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, count, take
from lwplugin.data.padding import attention_mask
from lwplugin.model.watching import watching
from lwplugin.model.weight_layout import CONVOLUTIONS
from lwplugin.moments.norms import affine, norms_after
from lwplugin.moments.paths import Look, Operations, Paths, paths_of
from lwplugin.moments.rows import (
    Rows,
    enough_rows,
    responses_of,
    rows_of_convolution,
    sample_rows,
    weight_rows,
)


@dataclass(frozen=True)
class Response:
    """The parent's response at the sampled rows of one layer, [rows, outputs of the parent]."""

    rows: Rows
    values: Tensor
    norm: tuple[Tensor, Tensor] | None = None
    """Scale and shift of the batch norm that reads the response, [outputs] each; where there is one and ``sums`` are
    asked for."""
    total: Tensor | None = None
    """The residual sum that the response goes into, at the same rows; likewise."""
    then: str | None = None
    """The layer, answering at the same rows, whose sum adds to what a ReLU makes of this one."""

    @property
    def normed(self) -> Tensor | None:
        """The response after its norm."""
        return None if self.norm is None else self.values * self.norm[0] + self.norm[1]


def parent_responses(
    parent: nn.Module,
    inputs: Inputs,
    names: list[str],
    *,
    rows_per_input: int = 16,
    seed: int = 0,
    sums: bool = False,
) -> dict[str, Response]:
    """Run the parent once and keep what each named layer answers, at enough rows to solve for its weights.

    Left out are layers called more than once in a forward pass, as one set of weights has several answers, and those
    whose rows are no whole number for each example, as where a mixture of experts sends tokens here and there: another
    model's rows would be of other tokens. ``sums``: also the residual sums that convolutions go into, and more rows of
    convolutions, as ``repair`` wants them.
    """
    found: dict[str, Response] = {}
    calls: dict[str, int] = {}
    shapes: dict[str, torch.Size] = {}
    valid, examples = attention_mask(inputs), count(inputs)
    paths = paths_of(parent, take(inputs, 1), names) if sums else Paths({}, 0)
    norms = norms_after(parent, inputs, set(names)) if sums else {}
    into: dict[int, list[str]] = {}
    for name, path in paths.items():
        if path.total is not None:
            into.setdefault(path.total, []).append(name)

    # Layers whose sums follow each other answer at the same rows.
    first: dict[int, int] = {}
    for number in sorted(into):
        first.setdefault(number, number)
        if (later := paths.followed_by.get(number)) is not None:
            first[later] = first[number]
    drawn: dict[tuple[int, int], Rows] = {}

    def keep(name: str, args: Any, output: Tensor) -> None:
        layer = parent.get_submodule(name)
        calls[name], shapes[name] = calls.get(name, 0) + 1, output.shape
        if not _by_example(layer, output, examples):
            return
        with operations.paused():
            wanted = enough_rows(weight_rows(layer).shape[-1], rows_per_input)
            if sums and isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                wanted = max(wanted, rows_of_convolution(layer))
            rows = sample_rows(layer, output, wanted, seed=seed + len(found), valid=valid)
            if name in paths and (number := paths[name].total) is not None:
                rows = drawn.setdefault((first[number], len(rows)), rows)
            norm = affine(norms[name]) if name in norms else None
            found[name] = Response(rows, responses_of(layer, output, rows).clone(), norm)

    def keep_sum(number: int) -> Look:
        def look(args: Any, total: Any) -> None:
            for name in into[number]:
                if name not in found or getattr(total, "shape", None) != shapes[name]:
                    continue
                values = responses_of(parent.get_submodule(name), total, found[name].rows).clone()
                found[name] = replace(found[name], total=values)

        return look

    operations = Operations(after={number: keep_sum(number) for number in into})
    with torch.no_grad(), watching(parent, names, keep), operations if into else nullcontext():
        call(parent, inputs)
    if operations.done != paths.operations:
        # How many operations there are depends on the examples, so their numbers say nothing.
        found = {name: replace(response, total=None) for name, response in found.items()}
    for number, later in paths.followed_by.items():
        for name in set(into.get(number, ())) & set(found):
            same = [n for n in into.get(later, ()) if n in found and found[n].rows is found[name].rows]
            found[name] = replace(found[name], then=same[0] if same else None)
    return {name: response for name, response in found.items() if calls[name] == 1}


def _by_example(layer: nn.Module, output: Tensor, examples: int) -> bool:
    """Whether each example has the same number of an output's rows, or the rows are the same for all of them."""
    rows = output.numel() // max(output.shape[1 if isinstance(layer, CONVOLUTIONS) else -1], 1)
    return rows > 0 and (rows % examples == 0 or (output.ndim > 2 and len(output) == 1))
