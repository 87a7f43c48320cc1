"""From what every layer saw to the size each gets: errors of all ranks once, then one choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError
from lwplugin.factorize.forms import kernel_of
from lwplugin.factorize.ranks import Option, by_energy, by_rank, globally, per_layer, whole
from lwplugin.factorize.sequence import Seen, seen_by
from lwplugin.factorize.sites import Sites, ladder, places
from lwplugin.model.cost import Cost
from lwplugin.model.watching import watching
from lwplugin.moments.responses import Response
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.factorize.base import FactorizeConfig, Method

Layers = dict[str, list[Option]]


def choose(
    method: Method,
    parent: nn.Module,
    sites: Sites,
    before: Cost,
    inputs: Inputs | None,
    responses: Mapping[str, Response],
    matters: Mapping[str, Tensor],
    config: FactorizeConfig,
    progress: Progress,
) -> tuple[Layers, dict[str, Option]]:
    """Every layer's options, and the one it gets.

    Raises:
        MethodError: the budget cannot be met.
    """
    options: Layers = {}

    def weigh(name: str, seen: Seen | None) -> None:
        layer = parent.get_submodule(name)
        options[name] = _options(method, name, layer, seen, before, config)
        progress("errors of all ranks", len(options), len(sites.names))

    if inputs is None:
        for name in sites.names:
            weigh(name, None)
    else:

        def watch(name: str, args: Any, output: Any) -> None:
            layer = parent.get_submodule(name)
            weigh(name, seen_by(name, layer, args[0], responses[name], matters.get(name)))

        with torch.no_grad(), watching(parent, sites.names, watch):
            call(parent, inputs)
    return options, _choose(options, before, config, sites.left_alone)


def _options(
    method: Method, name: str, layer: nn.Module, seen: Seen | None, before: Cost, config: FactorizeConfig
) -> list[Option]:
    kernel = kernel_of(layer)
    shape = tuple(kernel.shape)
    at = places(name, layer, before)
    constants = 0 if getattr(layer, "bias", None) is None else shape[0]
    found = [Option(None, kernel.numel() + constants, at.macs(None, shape), 0.0, 0.0)]
    constants = shape[0] if seen is not None else constants
    used = seen if config.data_aware or method.needs_data else None
    form_names = method.forms(layer, config)
    assert not isinstance(form_names, str), "layers without a form were left out before"
    for form_name in form_names:
        forms = ladder(shape, form_name, config.round_to, config.rank)
        sized = [
            (form, float(sum(torch.Size(s).numel() for s in form.shapes(shape)) + constants))
            for form in forms
        ]
        floor = config.min_kept * kernel.numel() if config.kind else 0
        sized = [(form, params) for form, params in sized if floor <= params < found[0].params]
        losses = method.errors(kernel, [form for form, _ in sized], used, config) if sized else []
        found += [
            Option(form, params, at.macs(form, shape), lost.response, lost.answer)
            for (form, params), lost in zip(sized, losses, strict=True)
        ]
    return found


def _choose(
    options: Layers, before: Cost, config: FactorizeConfig, left_alone: Mapping[str, str]
) -> dict[str, Option]:
    if config.rank is not None:
        return by_rank(options, config.rank)
    if config.energy is not None:
        return by_energy(options, config.energy)
    kind = config.kind or "params"
    total = before.params if kind == "params" else before.macs
    others = total - sum(whole(of).cost(kind) for of in options.values())
    asked = config.params or config.macs or 1.0
    least = others + sum(min(option.cost(kind) for option in of) for of in options.values())
    if least > asked * total:
        raise MethodError(
            f"Low rank cannot bring the model to {asked:.1%} of its {kind}",
            got=f"{least / total:.1%} with every layer at its floor; {others / total:.1%} lie in what stays whole"
            + "".join(f"; {name}: {reason}" for name, reason in list(left_alone.items())[:5]),
            do="ask for more than that, lower min_kept, or combine with prune or quantize",
        )
    ceiling = asked * total - others
    search = per_layer if config.ranking == "per_layer" else globally
    return search(options, kind, ceiling)
