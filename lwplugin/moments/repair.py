"""Repair after a cut: in network order, every layer's remaining weights are solved against the parent's response.

One forward pass of the smaller model repairs it whole: before a layer runs, its inputs (which already come from
repaired layers) and the parent's response at the same rows give its new weights in closed form; then it runs with
them. Errors do not pile up, no label is used, and the cost is linear in the depth.

A convolution that goes into a residual sum is solved when the sum is due, for the parent's sum; one that a ReLU reads,
for what comes through it (`paths.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, take
from lwplugin.moments.gaps import half_way_sums
from lwplugin.moments.layer_repair import LayerRepair, solve_layer
from lwplugin.moments.norms import before as before_norm
from lwplugin.moments.norms import norms_after
from lwplugin.moments.paths import Look, Operations, Paths, paths_of
from lwplugin.moments.responses import Response
from lwplugin.moments.rows import reaches, responses_of, supports, weight_rows
from lwplugin.progress import Progress, silent


def repairable(module: nn.Module) -> list[str]:
    """Layers whose weights may be solved: those with moments and a weight that no other layer shares."""
    owners: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        name for name, layer in module.named_modules() if supports(layer) and owners[id(layer.weight)] == 1
    ]


def repair(
    module: nn.Module,
    inputs: Inputs,
    responses: dict[str, Response],
    kept_outputs: dict[str, Tensor],
    *,
    ridge: float = 1e-3,
    supports: dict[str, Tensor] | None = None,
    across: bool = False,
    progress: Progress = silent,
) -> list[LayerRepair]:
    """Solve, in place and in the order of the forward pass, the weights of every layer named in ``responses``.

    Args:
        module: the smaller model, same layer names as the parent; those of blocks that are gone it lacks.
        inputs: the same examples, in the same order, as the parent answered.
        kept_outputs: for layers whose outputs were cut, the parent's output indices that remain (int64).
        across: where blocks are gone aim half way at the sum after them (`gaps.py`).
        supports: for layers of which only some weights may be other than zero, which (bool, the weight's shape).
    """
    present = {name for name, _ in module.named_modules()}
    sums = half_way_sums(responses, present) if across else {}
    responses = {
        name: replace(response, total=sums.get(name, response.total))
        for name, response in responses.items()
        if name in present
    }
    norms = norms_after(module, inputs, set(responses))
    paths = paths_of(module, take(inputs, 1), [*responses])
    due = _due(module, paths, responses)
    held: dict[str, Tensor] = {}
    done: list[LayerRepair] = []

    def solve(name: str, x: Tensor, other: Tensor | None = None) -> None:
        layer, response, kept = module.get_submodule(name), responses[name], kept_outputs.get(name)

        def part(values: Tensor) -> Tensor:
            return values if kept is None else values[:, kept.to(values.device)]

        norm = norms.get(name)
        values, relu = part(response.values), None
        if norm is not None and response.normed is not None:
            # Norms differ after training, and after an earlier repair that put a constant into them.
            values = before_norm(norm, part(response.normed), values)
        if name in paths:
            added = None if other is None else responses_of(layer, other, response.rows)
            total = None if response.total is None else part(response.total)
            values, relu = paths[name].wanted(values, added, total)
        support = None if supports is None else supports.get(name)
        done.append(solve_layer(name, layer, x, response.rows, values, norm, ridge, support, relu))
        progress("repair", len(done), len(responses))

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: nn.Module, args: Any) -> None:
            with operations.paused():
                if not reaches(layer, args[0], responses[name].rows):
                    return  # the model sends other rows here than its parent did
                if name in due:
                    held[name] = args[0]
                else:
                    solve(name, args[0])

        return hook

    def at_sum(name: str) -> Look:
        def look(args: Any, _: Any) -> None:
            if name not in held:
                return
            place, x = paths[name].place, held.pop(name)
            solve(name, x, args[1 - place])
            args[place].copy_(paths[name].response(module.get_submodule(name), x))

        return look

    operations = Operations(before={number: at_sum(name) for name, number in due.items()})
    hooks = {name: before(name) for name in responses}
    with torch.no_grad(), _hooks(module, hooks), operations if due else nullcontext():
        call(module, inputs)
    return done


def _due(module: nn.Module, paths: Paths, responses: dict[str, Response]) -> dict[str, int]:
    """Of the layers that go into one sum the one with most inputs, which can make up for most → the sum's number."""
    widest: dict[int, str] = {}
    for name, path in paths.items():
        if path.total is None or responses[name].total is None:
            continue
        best = widest.get(path.total)
        if best is None or _inputs(module, name) > _inputs(module, best):
            widest[path.total] = name
    return {name: number for number, name in widest.items()}


def _inputs(module: nn.Module, name: str) -> int:
    return weight_rows(module.get_submodule(name)).shape[-1]


@contextmanager
def _hooks(module: nn.Module, hooks: dict[str, Callable[[nn.Module, Any], None]]) -> Iterator[None]:
    handles = [module.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
