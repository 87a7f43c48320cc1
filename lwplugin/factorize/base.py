"""What every low-rank method shares: the options, the layers, the ranks under a budget, the pass, the record of it all.

A method only says how a kernel splits into factors and what error each rank leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.errors import MethodError
from lwplugin.factorize.choice import choose
from lwplugin.factorize.explain import explain
from lwplugin.factorize.forms import Factors, Form, FormName, built, joined, kernel_of
from lwplugin.factorize.lowrank import Loss
from lwplugin.factorize.ranks import Kind, Option
from lwplugin.factorize.sensitivity import sensitivities
from lwplugin.factorize.sequence import Seen, in_order
from lwplugin.factorize.sites import Sites, find_sites, put
from lwplugin.model.cost import Cost, cost
from lwplugin.model.quantized import BEGIN_BEFORE, quantized_already
from lwplugin.moments.examples import repair_inputs
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repairable
from lwplugin.moments.responses import Response, parent_responses
from lwplugin.progress import Progress
from lwplugin.training.collapse import check_agreement
from lwplugin.training.finetune import FinetuneOptions, finetune

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


ROWS_PER_INPUT = 32
"""Rows of a layer's moments per input of it; the parent's answers at them take 4 × 32 bytes per weight."""


class FactorizeConfig(FinetuneOptions):
    """Options of every low-rank method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: float | None = Field(
        None, gt=0, le=1, description="Fraction of the model's parameters that stays."
    )
    macs: float | None = Field(
        None, gt=0, le=1, description="Fraction of the multiply-accumulates that stays."
    )
    rank: int | None = Field(None, ge=1, description="The same rank for every layer, instead of a budget.")
    energy: float | None = Field(
        None, gt=0, lt=1, description="Energy each layer's response keeps, instead of a budget."
    )
    ranking: Literal["global", "per_layer"] = Field(
        "global",
        description="Under a budget: ranks searched over all layers, or one fraction for every layer.",
    )
    skip: tuple[str, ...] = Field((), description="Layers (dotted names, * allowed) that stay as they are.")
    min_kept: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Least fraction of its parameters a factorized layer keeps under a budget.",
    )
    round_to: int | None = Field(
        None, ge=1, description="Ranks in multiples of this; by default 8, less for narrow layers."
    )
    data_aware: bool = Field(
        True, description="Low rank in the metric of the layer's inputs, not of its weights alone."
    )
    answer_aware: bool = Field(
        True, description="With data_aware: weigh a layer's errors by what they cost the answer; no labels."
    )
    repair: bool = Field(
        True, description="Solve in network order against the parent's responses; closed form, no labels."
    )
    repair_examples: int = Field(1024, ge=1, description="Calibration examples that are looked at.")
    seed: int = Field(0, description="Seed of every random choice.")

    @model_validator(mode="after")
    def _one_aim(self) -> FactorizeConfig:
        if [self.params, self.macs, self.rank, self.energy].count(None) != 3:
            raise ValueError(
                "give exactly one of params, macs (the fraction that stays, e.g. params: 0.5), rank and energy"
            )
        return self

    @property
    def kind(self) -> Kind | None:
        """What the budget counts; None where ranks do not come from one."""
        return "params" if self.params is not None else "macs" if self.macs is not None else None


Split = Callable[[Tensor, Form, "Seen | None", Any], Factors]
"""(kernel, form, what the layer saw, config) → factors."""

Errors = Callable[[Tensor, Sequence[Form], "Seen | None", Any], list[Loss]]
"""(kernel, forms of one name, what the layer saw, config) → what each loses."""


@dataclass(frozen=True)
class Method:
    """One low-rank method: its options, the forms it makes, its factors and their errors."""

    name: str
    config: type[FactorizeConfig]
    forms: Callable[[nn.Module, Any], Sequence[FormName] | str]
    """(layer, config) → names of forms; a string says why there are none."""
    split: Split
    errors: Errors
    summary: str
    needs_data: bool = False
    """Whether there is nothing to split without calibration examples."""

    def run(
        self, model: LightModel, data: Data, config: Any, progress: Progress, checkpoint: Path | None = None
    ) -> LightModel:
        """Choose ranks, factorize in network order, fine-tune, check; a new light model."""
        return run(self, model, data, config, progress, checkpoint)


def run(
    method: Method,
    model: LightModel,
    data: Data,
    config: FactorizeConfig,
    progress: Progress,
    checkpoint: Path | None,
) -> LightModel:
    """The one way every method runs."""
    from lwplugin.model.bundle import HistoryEntry

    parent = model.copy_module().eval()
    example = data.example(2)
    before = cost(parent, example)
    sites = usable(find_sites(parent, example, config.skip), parent, method, config)
    looks = config.repair or config.data_aware or method.needs_data
    inputs = repair_inputs(parent, data, config.repair_examples) if looks else None
    responses = _responses(parent, inputs, sites, config, progress)
    if inputs is not None:
        sites = _answered(sites, responses)
    matters = _sensitivities(parent, inputs, sites, data, config, progress)
    options, chosen = choose(method, parent, sites, before, inputs, responses, matters, config, progress)
    made = {name: option.form for name, option in chosen.items() if option.form is not None}
    if not made:
        raise MethodError(
            "No layer would be smaller as a product",
            got="; ".join(f"{name}: {reason}" for name, reason in list(sites.left_alone.items())[:5])
            or f"{len(chosen)} layers whose best choice is to stay whole",
            do="keep less (a smaller params or macs fraction, rank or energy), or use prune or quantize",
        )
    module = model.copy_module().eval()
    repairs = apply(method, module, made, inputs, responses, matters, config, progress)
    trained = finetune(
        module, parent, data, config, seed=config.seed, checkpoint=checkpoint, progress=progress
    )
    agreement = check_agreement(parent, module, data, config.collapse, "Factorizing")
    after = cost(module, example)
    entry = HistoryEntry(
        step="factorize",
        method=method.name,
        config=config.model_dump(mode="json"),
        metrics={
            **_totals(before, after),
            **agreement,
            **trained,
        },
        seed=config.seed,
        details=explain(parent, before, options, chosen, sites.left_alone, repairs),
    )
    return model.evolve(module, entry)


def usable(found: Sites, parent: nn.Module, method: Method, config: FactorizeConfig) -> Sites:
    """The layers this method has a form for."""
    names, left_alone = [], dict(found.left_alone)
    for name in found.names:
        forms = method.forms(parent.get_submodule(name), config)
        if isinstance(forms, str):
            left_alone[name] = forms
        else:
            names.append(name)
    if not names:
        quantized = quantized_already(parent)
        raise MethodError(
            f"Nothing in this model can be factorized by '{method.name}'",
            got=quantized
            or "; ".join(f"{name}: {reason}" for name, reason in list(left_alone.items())[:5])
            or "no layers",
            do=BEGIN_BEFORE
            if quantized
            else "give the model in float32: model.float()"
            if any(reason.endswith("float32 is needed") for reason in left_alone.values())
            else "use another method, prune or quantize",
        )
    return Sites(names, left_alone)


def _responses(
    parent: nn.Module, inputs: Inputs | None, sites: Sites, config: FactorizeConfig, progress: Progress
) -> Mapping[str, Response]:
    if inputs is None:
        return {}
    progress("parent responses", 0, None)
    others = repairable(parent) if config.repair else []
    names = dict.fromkeys([*sites.names, *others])
    return parent_responses(parent, inputs, list(names), rows_per_input=ROWS_PER_INPUT, seed=config.seed)


def _answered(sites: Sites, responses: Mapping[str, Response]) -> Sites:
    """The layers whose answers are known."""
    unknown = [name for name in sites.names if name not in responses]
    reason = "its rows on the calibration examples do not belong to one example each"
    return Sites(
        [name for name in sites.names if name in responses],
        sites.left_alone | dict.fromkeys(unknown, reason),
    )


def _sensitivities(
    parent: nn.Module,
    inputs: Inputs | None,
    sites: Sites,
    data: Data,
    config: FactorizeConfig,
    progress: Progress,
) -> Mapping[str, Tensor]:
    if inputs is None or not (config.data_aware and config.answer_aware):
        return {}
    return sensitivities(parent, inputs, sites.names, data.task, seed=config.seed, progress=progress)


def apply(
    method: Method,
    module: nn.Module,
    made: Mapping[str, Form],
    inputs: Inputs | None,
    responses: Mapping[str, Response],
    matters: Mapping[str, Tensor],
    config: FactorizeConfig,
    progress: Progress,
) -> list[LayerRepair]:
    """Replace the layers of ``made`` by their products, in place."""

    def build(name: str, layer: nn.Module, seen: Seen | None) -> nn.Sequential:
        kernel, form = kernel_of(layer), made[name]
        target, own = kernel, getattr(layer, "bias", None)
        if config.repair and config.data_aware and seen is not None:
            target = seen.fitted(kernel)
        factors = method.split(target, form, seen if config.data_aware or method.needs_data else None, config)
        bias = None if own is None else own.detach().double().cpu()
        if seen is not None:
            bias = seen.bias(kernel, joined(form, factors), bias, free=config.repair)
        return built(layer, form, factors, bias)

    if inputs is None:
        for name in made:
            put(module, name, build(name, module.get_submodule(name), None))
        return []
    wanted = responses if config.repair else {name: responses[name] for name in made}
    with torch.no_grad():
        return in_order(
            module, inputs, wanted, matters, build, set(made), repair=config.repair, progress=progress
        )


def _totals(before: Cost, after: Cost) -> dict[str, float]:
    return {
        "macs": float(after.macs),
        "macs_before": float(before.macs),
        "params": float(after.params),
        "params_before": float(before.params),
    }


__all__ = ["FactorizeConfig", "Method", "Option", "run"]
