"""Repair after a cut: in network order, every layer's remaining weights are solved against the parent's response.

One forward pass of the smaller model repairs it whole: before a layer runs, its inputs (which already come from
repaired layers) and the parent's response at the same rows give its new weights in closed form; then it runs with
them. Errors do not pile up, no label is used, and the cost is linear in the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, count, take
from lwplugin.data.padding import attention_mask
from lwplugin.model.watching import watching
from lwplugin.moments.moments import Moments
from lwplugin.moments.rows import (
    Rows,
    answers_of,
    enough_rows,
    inputs_of,
    reaches,
    responses_of,
    sample_rows,
    set_apart,
    supports,
    weight_rows,
)
from lwplugin.moments.solve import solve, solve_checked
from lwplugin.progress import Progress, silent

WIDEST = 8192
"""Inputs of a layer that are solved for together; their moments take 8 × 8,192² bytes."""


@dataclass(frozen=True)
class LayerRepair:
    """What a repair did to one layer: relative squared error of its response before and after the solve."""

    name: str
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Response:
    """The parent's response at the sampled rows of one layer, [rows, outputs of the parent]."""

    rows: Rows
    values: Tensor


def parent_responses(
    parent: nn.Module, inputs: Inputs, names: list[str], *, rows_per_input: int = 16, seed: int = 0
) -> dict[str, Response]:
    """Run the parent once and keep what each named layer answers, at enough rows to solve for its weights.

    Left out are layers called more than once in a forward pass, as one set of weights has several answers, and those
    whose rows are no whole number for each example, as where a mixture of experts sends tokens here and there: another
    model's rows would be of other tokens.
    """
    found: dict[str, Response] = {}
    calls: dict[str, int] = {}
    valid, examples = attention_mask(inputs), count(inputs)

    def keep(name: str, args: Any, output: Tensor) -> None:
        layer = parent.get_submodule(name)
        calls[name] = calls.get(name, 0) + 1
        if not _by_example(layer, output, examples):
            return
        wanted = enough_rows(weight_rows(layer).shape[-1], rows_per_input)
        rows = sample_rows(layer, output, wanted, seed=seed + len(found), valid=valid)
        found[name] = Response(rows, responses_of(layer, output, rows).clone())

    with torch.no_grad(), watching(parent, names, keep):
        call(parent, inputs)
    return {name: response for name, response in found.items() if calls[name] == 1}


def _by_example(layer: nn.Module, output: Tensor, examples: int) -> bool:
    """Whether each example has the same number of an output's rows, or the rows are the same for all of them."""
    rows = output.numel() // max(output.shape[1 if isinstance(layer, nn.Conv1d | nn.Conv2d) else -1], 1)
    return rows > 0 and (rows % examples == 0 or (output.ndim > 2 and len(output) == 1))


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
    progress: Progress = silent,
) -> list[LayerRepair]:
    """Solve, in place and in the order of the forward pass, the weights of every layer named in ``responses``.

    Args:
        module: the smaller model, same layer names as the parent.
        inputs: the same examples, in the same order, as the parent answered.
        kept_outputs: for layers whose outputs were cut, the parent's output indices that remain (int64).
        supports: for layers of which only some weights may be other than zero, which (bool, the weight's shape).
    """
    norms = norms_after(module, inputs, set(responses))
    done: list[LayerRepair] = []

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: nn.Module, args: Any) -> None:
            response = responses[name]
            values = response.values
            if not reaches(layer, args[0], response.rows):
                return  # the model sends other rows here than its parent did
            if name in kept_outputs:
                values = values[:, kept_outputs[name].to(values.device)]
            support = None if supports is None else supports.get(name)
            done.append(
                solve_layer(name, layer, args[0], response.rows, values, norms.get(name), ridge, support)
            )
            progress("repair", len(done), len(responses))

        return hook

    with torch.no_grad(), _hooks(module, {name: before(name) for name in responses}):
        call(module, inputs)
    return done


def solve_layer(
    name: str,
    layer: nn.Module,
    x: Tensor,
    rows: Rows,
    values: Tensor,
    norm: nn.Module | None,
    ridge: float,
    support: Tensor | None = None,
) -> LayerRepair:
    """Solve one layer in place from its input ``x`` and the wanted ``values`` [rows, outputs] at ``rows``.

    ``norm``: the batch norm that takes the constant where the layer has no bias.
    """
    weight = weight_rows(layer)
    bias = layer.bias
    offset = bias is not None or norm is not None
    mask = None if support is None else support.reshape(weight.shape)
    solved = weight.clone()
    before = 0.0
    for columns in _columns(weight.shape[-1]):
        fit, check, off = _residual_moments(layer, x, rows, values, solved, columns)
        prior = solved[:, :, columns]
        if mask is None:
            solution = solve_checked(fit, check, prior, offset=offset, ridge=ridge)
        else:
            both, here = fit.with_(check), mask[:, :, columns]
            solution = solve(both, prior, offset=offset, ridge=ridge, support=here)
        solved[:, :, columns] = solution.weight.to(solved)
        before = before or off
    energy = float(
        values.double().var(0, correction=0).sum() if offset else values.double().square().mean(0).sum()
    )
    energy = energy or 1.0
    owner = layer.weight
    assert isinstance(owner, Tensor)
    owner.data.copy_(solved.reshape(owner.shape))
    if solution.offset is not None:
        constant = solution.offset.reshape(-1)
        if isinstance(bias, Tensor):
            bias.data.copy_(constant)
        elif norm is not None:
            # Without a bias the constant goes where the next norm subtracts its mean.
            norm.running_mean.sub_(constant.to(norm.running_mean))  # type: ignore[operator, union-attr]
    return LayerRepair(name, before / energy, float(solution.error.sum()) / energy)


def _columns(width: int) -> list[slice]:
    """A layer's inputs, or, where they are very many, stretches of them that are solved one after another."""
    return [slice(start, min(start + WIDEST, width)) for start in range(0, width, WIDEST)]


def _residual_moments(
    layer: nn.Module, x: Tensor, rows: Rows, values: Tensor, weight: Tensor, columns: slice
) -> tuple[Moments, Moments, float]:
    """Moments of some inputs against what the other inputs leave of the wanted values, those of every eighth example
    apart; and how far off the layer is."""
    groups, outputs, width = weight.shape
    fit = Moments.zeros(groups, weight[:, :, columns].shape[-1], outputs)
    check = fit.beside()
    off = 0.0
    for span, some in rows.parts(groups * width):
        features, wanted = inputs_of(layer, x, some), values[span]
        answered = answers_of(features, weight)
        missing = wanted - answered - (0 if layer.bias is None else layer.bias)
        off += float(missing.square().sum())
        if fit.xx.shape[-1] < width:
            wanted = wanted - answered + answers_of(features[:, :, columns], weight[:, :, columns])
        apart = set_apart(some).to(features.device)
        if not fit.known_origin:
            apart[0] = False  # both need the origin of a row that is solved for
        fit.add(features[~apart][:, :, columns], wanted[~apart])
        check = check if check.known_origin else fit.beside()
        check.add(features[apart][:, :, columns], wanted[apart])
    return fit, check, off / max(len(rows), 1)


def norms_after(module: nn.Module, inputs: Inputs, names: set[str]) -> dict[str, nn.Module]:
    """For each layer without a bias, the batch norm that reads its output as it is."""
    produced: dict[int, tuple[str, int]] = {}
    kept_alive: list[Tensor] = []
    found: dict[str, nn.Module] = {}

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            produced[id(output)] = name, output._version
            kept_alive.append(output)

        return hook

    def entering(norm: nn.Module, args: Any) -> None:
        name, version = produced.get(id(args[0]), ("", -1))
        # A tensor changed in place since (an activation) is not what the layer answered.
        if name and args[0]._version == version:
            found[name] = norm

    handles = [module.get_submodule(n).register_forward_hook(after(n)) for n in names]
    handles += [
        layer.register_forward_pre_hook(entering)
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    ]
    try:
        with torch.no_grad():
            call(module, take(inputs, 1))
    finally:
        for handle in handles:
            handle.remove()
    # A norm that several layers share has one mean for all: no single offset fits.
    shared = [norm for norm in found.values() if sum(norm is other for other in found.values()) > 1]
    return {name: norm for name, norm in found.items() if not any(norm is other for other in shared)}


@contextmanager
def _hooks(module: nn.Module, hooks: dict[str, Callable[[nn.Module, Any], None]]) -> Iterator[None]:
    handles = [module.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
