"""One pass in network order: every layer is factorized with what it will really see, against what its parent said.

The inputs of a layer come from the layers factorized before it; the wanted response is the parent's at the same rows.
So errors do not pile up: each layer makes up for those before it. No labels, no training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.errors import MethodError
from lwplugin.factorize.sites import put
from lwplugin.moments.layer_repair import LayerRepair, solve_layer
from lwplugin.moments.moments import Moments
from lwplugin.moments.norms import norms_after
from lwplugin.moments.responses import Response
from lwplugin.moments.rows import inputs_of, set_apart
from lwplugin.moments.solve import solve_checked
from lwplugin.progress import Progress

RIDGE = 1e-3
"""Of the mean input variance: the pull towards the parent's weights."""


@dataclass(frozen=True)
class Seen:
    """What one layer saw on the calibration examples and should have answered."""

    features: Tensor
    """[rows, k]; for an embedding, the rows' indices, int64 [rows]."""
    wanted: Tensor
    """[rows, o]"""
    entries: int = 0
    """Rows of an embedding's table; 0 for other layers."""
    sensitivity: Tensor | None = None
    """[o, o]: what an error of the response costs the model's answer, where that is known."""

    apart: Tensor | None = None
    """Rows of every eighth example, bool [rows]: they say how hard a solution is to be pulled."""

    @cached_property
    def moments(self) -> Moments:
        """Of inputs against wanted responses."""
        fit, check = self._split
        return fit.with_(check)

    @cached_property
    def _split(self) -> tuple[Moments, Moments]:
        """The moments of the rows solved for, and of those set apart."""
        apart = torch.zeros(len(self.features), dtype=torch.bool) if self.apart is None else self.apart
        fit = Moments.zeros(1, self.features.shape[-1], self.wanted.shape[-1])
        fit.add(self.features[~apart, None, :], self.wanted[~apart])
        check = fit.beside()
        check.add(self.features[apart, None, :], self.wanted[apart])
        return fit, check

    @cached_property
    def inputs(self) -> Tensor:
        """Covariance of the inputs, [k, k]; for an embedding the weight of each entry, [k].

        Half of an embedding's weight goes by what occurred, half is even: most entries are met only later.
        """
        if self.entries:
            counts = torch.bincount(self.features, minlength=self.entries).double()
            return 0.5 * counts / len(self.features) + 0.5 / self.entries
        return self.moments.covariances(centred=True)[0][0]

    @cached_property
    def responses(self) -> Tensor:
        """Covariance of the wanted responses, [o, o]."""
        rows = self.wanted.double().cpu()
        centred = rows - rows.mean(0)
        return centred.T @ centred / len(rows)

    def fitted(self, kernel: Tensor) -> Tensor:
        """The kernel that answers best from these inputs, pulled towards the one given; [o, i, kh, kw]."""
        if self.entries:
            return kernel
        prior, (fit, check) = kernel.flatten(1)[None], self._split
        solution = solve_checked(fit, check, prior, offset=True, ridge=RIDGE)
        return solution.weight[0].reshape(kernel.shape)

    def bias(self, kernel: Tensor, approximation: Tensor, bias: Tensor | None, *, free: bool) -> Tensor:
        """The constant [o] that leaves no mean error: of the wanted response if ``free``, else of the layer's own."""
        before, now = kernel.flatten(1), approximation.flatten(1)
        if self.entries:
            return (before - now) @ self.inputs
        mean_input, mean_response = (mean[0] for mean in self.moments.means())
        if free:
            return mean_response - now @ mean_input
        return (0 if bias is None else bias) + (before - now) @ mean_input


def seen_by(
    name: str, layer: nn.Module, x: Tensor, response: Response, sensitivity: Tensor | None = None
) -> Seen:
    """The sampled rows of one layer. Raises MethodError where its inputs are not finite."""
    if isinstance(layer, nn.Embedding):
        features = x.reshape(-1)[response.rows.index.to(x.device)]
        return Seen(features.cpu(), response.values, layer.num_embeddings, sensitivity)
    features = inputs_of(layer, x, response.rows)[:, 0]
    if not torch.isfinite(features).all():
        raise MethodError(
            f"The inputs of layer '{name}' are not finite on the calibration examples",
            do="remove NaN and infinite values from them",
        )
    apart = set_apart(response.rows).to(features.device)
    return Seen(features, response.values, sensitivity=sensitivity, apart=apart)


def _is_solved(module: nn.Module, name: str) -> bool:
    """A table that stays whole answers exactly as the parent's: there is nothing to solve."""
    return not isinstance(module.get_submodule(name), nn.Embedding)


Build = Callable[[str, nn.Module, Seen], nn.Sequential]
"""(name, layer, what it saw) → the product that takes its place."""


def in_order(
    module: nn.Module,
    inputs: Inputs,
    responses: Mapping[str, Response],
    matters: Mapping[str, Tensor],
    build: Build,
    sites: set[str],
    *,
    repair: bool,
    progress: Progress,
) -> list[LayerRepair]:
    """Replaces, in place, every layer of ``sites`` by its product, in one forward pass of ``module``.

    With ``repair`` each layer runs as its product from then on and the last factor, as any layer that stays whole, is
    solved against the parent's response; without it all layers see the parent's inputs.
    """
    done: list[LayerRepair] = []
    products: dict[str, nn.Sequential] = {}
    whole = [name for name in responses if name not in sites and _is_solved(module, name)] if repair else []
    norms = norms_after(module, inputs, set(whole))

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: nn.Module, args: Any) -> None:
            response = responses[name]
            done.append(
                solve_layer(name, layer, args[0], response.rows, response.values, norms.get(name), RIDGE)
            )
            progress("repair", len(done), len(responses))

        return hook

    def after(name: str) -> Callable[[nn.Module, Any, Any, Any], Any]:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            (x,) = args or kwargs.values()
            response = responses[name]
            product = products[name] = build(
                name, layer, seen_by(name, layer, x, response, matters.get(name))
            )
            progress("factorize", len(products), len(sites))
            if not repair:
                return None
            if not isinstance(layer, nn.Embedding):
                done.append(_solve_last(name, product, x, response))
            return product(x)

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(before(name)) for name in whole]
    handles += [
        module.get_submodule(name).register_forward_hook(after(name), with_kwargs=True) for name in sites
    ]
    try:
        with torch.no_grad():
            call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, product in products.items():
        put(module, name, product)
    return done


def _solve_last(name: str, product: nn.Sequential, x: Tensor, response: Response) -> LayerRepair:
    """The mixing layer's weights and bias, given the factors before it."""
    for part in product[:-1]:
        x = part(x)
    return solve_layer(name, product[-1], x, response.rows, response.values, None, RIDGE)
