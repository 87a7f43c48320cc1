"""Which layer of the student follows which of the teacher: by name and resolution, found from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError, did_you_mean
from lwplugin.model.watching import main_output, watching

Shapes = dict[str, torch.Size]
"""Layer → shape of its output, in the order in which they are done; [n, c, h, w] or [n, tokens, c]."""


def features(module: nn.Module, inputs: Inputs) -> Shapes:
    """The layers that give one feature map or one sequence, once a pass."""
    seen: dict[str, list[Any]] = {}
    names = [name for name, _ in module.named_modules() if name]
    with (
        torch.no_grad(),
        watching(
            module, names, lambda name, _, output: seen.setdefault(name, []).append(main_output(output))
        ),
    ):
        call(module.eval(), inputs)
    return {
        name: outputs[0].shape
        for name, outputs in seen.items()
        if len(outputs) == 1
        and isinstance(outputs[0], Tensor)
        and outputs[0].ndim in (3, 4)
        and outputs[0].is_floating_point()
    }


def resolution(shape: torch.Size) -> tuple[int, ...]:
    """(h, w) of a feature map, (tokens,) of a sequence."""
    return tuple(shape[2:]) if len(shape) == 4 else (shape[1],)


def match(student: Shapes, teacher: Shapes) -> dict[str, str]:
    """Student's layer → teacher's.

    Blocks of transformers are spread evenly over the teacher's, and what enters the first, the embeddings, follows
    the teacher's (TinyBERT, 1909.10351). Of feature maps the last at each resolution is taken, under its own name
    where the teacher has it at that resolution. A single point is no map.
    """
    pairs: dict[str, str] = {}
    mine, theirs = _blocks(student), _blocks(teacher)
    if mine and theirs:
        step = len(theirs) / len(mine)
        below = _below(student, mine[0]), _below(teacher, theirs[0])
        pairs |= {below[0]: below[1]} if below[0] and below[1] else {}
        pairs |= {name: theirs[max(0, round((i + 1) * step) - 1)] for i, name in enumerate(mine)}
    last = {resolution(shape): name for name, shape in teacher.items() if len(shape) == 4}
    ends = {resolution(shape): name for name, shape in student.items() if len(shape) == 4}
    for size, name in ends.items():
        if size in last and size != (1, 1):
            same = name in teacher and resolution(teacher[name]) == size
            pairs[name] = name if same else last[size]
    return pairs


def ends(student: Shapes, teacher: Shapes) -> dict[str, str]:
    """The last map or sequence of each: what both know best, whatever they see. Empty where one has none."""
    return {list(student)[-1]: list(teacher)[-1]} if student and teacher else {}


def chosen(
    pairs: Mapping[str, str], student: Shapes, teacher: Shapes, *, anywhere: bool = False
) -> dict[str, str]:
    """The user's own pairs. Raises MethodError for a layer that is not there or, unless ``anywhere`` will do,
    of another resolution."""
    for mine, theirs in pairs.items():
        for side, name, known in (("student", mine, student), ("teacher", theirs, teacher)):
            if name not in known:
                raise MethodError(
                    f"The {side} has no layer of this name that gives one map or sequence",
                    got=repr(name),
                    do=did_you_mean(name, known),
                )
        one, other = student[mine], teacher[theirs]
        if not anywhere and (resolution(one) != resolution(other) or len(one) != len(other)):
            raise MethodError(
                f"Layers '{mine}' and '{theirs}' see different resolutions",
                got=f"{list(student[mine])} and {list(teacher[theirs])}",
                do="pair layers of one height and width, or one number of tokens",
            )
    return dict(pairs)


def _below(shapes: Shapes, block: str) -> str | None:
    """The last sequence that is done before the first block begins: the embeddings."""
    found = None
    for name, shape in shapes.items():
        if name == block or name.startswith(f"{block}."):
            break
        found = name if len(shape) == 3 and shape[:2] == shapes[block][:2] else found
    return found


def _blocks(shapes: Shapes) -> list[str]:
    """The longest row of numbered siblings (`layer.0`, `layer.1`, …) that give sequences."""
    rows: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        row, _, last = name.rpartition(".")
        if len(shape) == 3 and last.isdigit():
            rows.setdefault(row, []).append(name)
    return max(rows.values(), key=len, default=[])
