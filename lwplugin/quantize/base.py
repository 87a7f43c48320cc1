"""What quantization methods share: common options, the choice of layers, the account of what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lwplugin.data.batch import Batch, call
from lwplugin.errors import MethodError
from lwplugin.model.hooks import hooks_on
from lwplugin.model.quantized import BEGIN_BEFORE, quantized_already
from lwplugin.model.watching import watching
from lwplugin.model.weight_layout import RECURRENT, TRANSPOSED, matrices_of
from lwplugin.quantize.layers import QUANTIZABLE
from lwplugin.quantize.scheme import decibels, sqnr_db

if TYPE_CHECKING:
    from lwplugin.data import Task
    from lwplugin.model.bundle import LightModel


_MUCH = 0.02
"""Of a model's parameters: as many outside of its layers are named, such as the experts of a mixture."""

NAMEABLE = (*QUANTIZABLE, *TRANSPOSED, *RECURRENT, nn.Embedding)
"""What a skip pattern can name."""


class QuantizeConfig(BaseModel):
    """Options all quantization methods have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    skip: tuple[str, ...] = Field(
        default=(), description="Layers to leave in float: dotted names, `*` and `?` allowed (`head.*`)."
    )
    first_layer: bool = Field(default=True, description="Quantize the first layer that runs.")
    last_layer: bool = Field(default=True, description="Quantize the last layer that runs.")
    examples: int = Field(default=512, ge=1, description="Calibration examples to use, at most.")
    batch_size: int = Field(default=64, ge=1, description="Examples in one calibration forward pass.")


@dataclass(frozen=True)
class Method:
    """One quantization method: its options and the function that runs it."""

    name: str
    config: type[QuantizeConfig]
    run: Callable[..., LightModel]
    """(light model, data, config, progress), and ``checkpoint`` where it resumes, → a new light model."""
    summary: str
    resumes: bool = False
    """Whether it trains and can go on from a checkpoint."""


@dataclass(frozen=True)
class Selection:
    """Names of the layers to quantize, in call order, and why the others stay in float."""

    chosen: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def select_layers(
    module: nn.Module,
    batch: Batch,
    config: QuantizeConfig,
    *,
    kinds: Collection[type[nn.Module]] = tuple(QUANTIZABLE),
    needed: bool = True,
) -> Selection:
    """Runs one batch and decides which layers of exactly these ``kinds`` are quantized.

    Raises MethodError for a skip pattern that matches nothing and, where one is ``needed``, for no layer left.
    """
    layers: dict[str, nn.Module] = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, tuple(kinds))
    }
    order, asked = _call_order(module, layers, batch)
    _check_patterns(config.skip, [n for n, m in module.named_modules() if isinstance(m, NAMEABLE)])
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    homes = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    selection = Selection()
    for name in [*order, *(n for n in layers if n not in order)]:
        layer: Any = layers[name]
        weights = matrices_of(layer)
        reason = None
        if any(fnmatchcase(name, pattern) for pattern in config.skip):
            reason = "named in skip"
        elif name not in order:
            reason = "not called in the forward pass"
        elif isinstance(layer, TRANSPOSED) and name in asked:
            reason = "asked for an output size while it runs"
        elif type(layer) not in kinds:
            reason = f"layer type {type(layer).__name__} has no quantized form"
        elif getattr(layer, "padding_mode", "zeros") != "zeros":
            reason = f"padding mode {layer.padding_mode} has no integer kernel"
        elif getattr(layer, "max_norm", None) is not None:
            reason = "renormalises its rows when it is read"
        elif not name and isinstance(layer, RECURRENT):
            reason = "it is the whole model"
        elif any(owners[id(weight)] > 1 for weight in weights) or homes[id(layer)] > 1:
            reason = "weight is shared with another module"
        elif hooks_on(layer):
            reason = "hooks on it would be lost"
        elif odd := [weight.dtype for weight in weights if weight.dtype != torch.float32]:
            reason = f"weight is {odd[0]}, float32 needed"
        elif not config.first_layer and name == order[0]:
            reason = "first layer, left in float by first_layer=false"
        elif not config.last_layer and name == order[-1]:
            reason = "last layer, left in float by last_layer=false"
        if reason is None:
            selection.chosen.append(name)
        else:
            selection.skipped[name] = reason
    much = _MUCH * sum(parameter.numel() for parameter in module.parameters())
    for name, other in module.named_modules():
        if name not in layers and type(other) is not nn.Embedding and _holds_matrix(other, much):
            selection.skipped[name or "the model itself"] = (
                f"layer type {type(other).__name__} has no quantized form"
            )
    if needed and not selection.chosen:
        quantized = quantized_already(module)
        raise MethodError(
            "No layer is left to quantize",
            got="; ".join(f"{n}: {r}" for n, r in selection.skipped.items())
            or quantized
            or "a model without such layers",
            do=BEGIN_BEFORE
            if quantized
            else "give the model in float32: model.float()"
            if any(reason.endswith("float32 needed") for reason in selection.skipped.values())
            else f"quantize models with {', '.join(k.__name__ for k in kinds)} in float32, and skip fewer of them",
        )
    return selection


def _holds_matrix(layer: nn.Module, much: float) -> bool:
    """Whether a layer, not its parts, has weights worth fewer bits: of one with parts, ``much`` of them."""
    own = [p.numel() for p in layer.parameters(recurse=False) if p.dim() >= 2]
    return sum(own) > (much if layer._modules else 0)


def _call_order(module: nn.Module, layers: dict[str, nn.Module], batch: Batch) -> tuple[list[str], set[str]]:
    """The layers that run, by first call, and those of them that are given more than their input."""
    order: dict[str, None] = {}
    more: set[str] = set()

    def watch(name: str, args: tuple[Any, ...], output: Any) -> None:
        order.setdefault(name)
        if len(args) > 1:
            more.add(name)

    with watching(module, layers, watch):
        call(module, batch.inputs)
    return list(order), more


def _check_patterns(patterns: Iterable[str], names: Iterable[str]) -> None:
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise MethodError(
                "A skip pattern matches no layer that could be quantized",
                got=repr(pattern),
                do=f"use names such as {', '.join(known[:5])}",
            )


@dataclass(frozen=True)
class Fidelity:
    """How close a quantized model's outputs are to the float model's, no labels needed."""

    agreement: float
    output_sqnr_db: float

    def better_than(self, other: Fidelity) -> bool:
        """More of the same answers; within half a point of each other the cleaner outputs win."""
        if abs(self.agreement - other.agreement) > 0.005:
            return self.agreement > other.agreement
        return self.output_sqnr_db > other.output_sqnr_db


@torch.no_grad()
def fidelity(
    reference: nn.Module, candidates: dict[str, nn.Module], batches: Iterable[Batch], task: Task
) -> dict[str, Fidelity]:
    """Agreement and output SQNR of each candidate with the reference, streamed."""
    agreement = dict.fromkeys(candidates, 0.0)
    signal, count = 0.0, 0
    noise = dict.fromkeys(candidates, 0.0)
    for batch in batches:
        inputs = batch.inputs
        wanted = task.outputs(call(reference, inputs))
        signal += float(wanted.double().square().sum())
        count += len(batch)
        for name, candidate in candidates.items():
            got = task.outputs(call(candidate, inputs))
            noise[name] += float((got.double() - wanted.double()).square().sum())
            agreement[name] += float(task.agreement(got, wanted).sum())
    return {
        name: Fidelity(
            agreement=agreement[name] / max(count, 1),
            output_sqnr_db=decibels(signal, noise[name]),
        )
        for name in candidates
    }


def weight_report(name: str, layer: Any, float_layer: Any) -> dict[str, Any]:
    """One row of the history's layer table: a quantized layer beside the float one it came from."""
    return {
        "name": name,
        "type": type(layer).__name__,
        "weight_bits": layer.weight_bits,
        "activation_bits": layer.activation_bits,
        "weight_sqnr_db": round(sqnr_db(float_layer.weight, layer.effective_weight), 2),
        "input_range": [float(v) for v in layer.input_range],
        "output_range": [float(v) for v in layer.output_range],
    }
