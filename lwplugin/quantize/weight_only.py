"""Weight-only integers of 2 to 8 bits in groups, rounded with error compensation against the parent's responses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call, count, map_inputs, take
from lwplugin.moments.responses import Response, parent_responses
from lwplugin.moments.rows import has_rows, weight_rows
from lwplugin.quantize.account import entry_of
from lwplugin.quantize.adaround import adaptive_codes
from lwplugin.quantize.base import Method, fidelity, select_layers
from lwplugin.quantize.bit_allocation import allocate, choices_of
from lwplugin.quantize.calibration import calibration_batches
from lwplugin.quantize.compensation import compensated_codes
from lwplugin.quantize.embeddings import TableOptions
from lwplugin.quantize.fold import fold_batchnorm
from lwplugin.quantize.group_grid import GroupGrid, group_grid
from lwplugin.quantize.input_energy import input_energy
from lwplugin.quantize.layer_rounding import Grid, round_to_response
from lwplugin.quantize.packed import PACKED_KINDS, PackedLayer
from lwplugin.quantize.packed_groups import in_groups, nearest_in_groups
from lwplugin.quantize.rare_rows import bytes_of_places
from lwplugin.quantize.recurrent import matrices_apart
from lwplugin.quantize.refinement import refined

if TYPE_CHECKING:
    from lwplugin.data import Data, Task
    from lwplugin.data.split import Split
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class WeightOnlyConfig(TableOptions):
    """Options of `weight_only`."""

    bits: Annotated[int, Field(ge=2, le=8)] | Literal["auto"] = Field(
        default=4, description="Bits of a weight; auto chooses them layer by layer within a size."
    )
    size: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="With bits=auto: what the packed weights may take, as a share of their bytes in float32.",
    )
    probe_examples: int = Field(
        default=32,
        ge=1,
        description="With bits=auto: calibration examples that show how much each layer matters.",
    )
    group_size: int = Field(
        default=64, ge=4, description="Weights of a row that share a scale and a zero point."
    )
    rare_bits: int | None = Field(
        default=None,
        ge=2,
        le=8,
        description="Bits of the rows of a table that calibration examples do not read; by default as its other rows, "
        "and with bits=auto and no embedding_bits chosen like those of a layer.",
    )
    rounding: Literal["compensated", "adaround", "nearest"] = Field(
        default="compensated",
        description="compensated: rounding errors are mended by the weights still to be rounded; adaround: up or down "
        "is learned for all weights of a layer together; nearest: each weight on its own, no calibration data used.",
    )
    examples: int = Field(
        default=128, ge=1, description="Calibration examples; all run through the model at once."
    )
    match_parent: bool = Field(
        default=True,
        description="Before a layer is rounded, solve its weights for the parent's response to the inputs that the "
        "layers already rounded give.",
    )
    ridge: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="How strongly that solution holds on to the old weights; auto judges it layer by layer on examples "
        "that were not solved for.",
    )
    damping: float = Field(
        default=0.01,
        gt=0,
        description="Share of the mean input energy added to each input's in compensation.",
    )
    refinements: int = Field(
        default=2,
        ge=0,
        description="With compensated rounding: how often scales are solved for and every weight is rounded again, "
        "given all others.",
    )

    @model_validator(mode="after")
    def _size_goes_with_auto(self) -> Self:
        if (self.bits == "auto") != (self.size is not None):
            raise ValueError("bits='auto' and size go together: give both or neither")
        return self


def run(light: LightModel, data: Data, config: WeightOnlyConfig, progress: Progress) -> LightModel:
    """Round every chosen layer in the order of the forward pass; the argument is untouched."""
    module = light.copy_module().eval()
    split = data.to_fit()
    batch = next(calibration_batches(split, examples=config.examples, batch_size=config.examples))
    inputs = batch.inputs
    fold_batchnorm(module, next(calibration_batches(split, examples=2, batch_size=2)).inputs)
    kinds = [kind for kind in PACKED_KINDS if config.embeddings or kind is not nn.Embedding]
    selection = matrices_apart(module, select_layers(module, batch, config, kinds=kinds))
    names = _parted(module, selection.chosen, inputs, config)
    parent = copy.deepcopy(module)
    bits = _bits(module, names, inputs, split, data.task, config, progress)
    packed = _round_all(module, parent, bits, inputs, config, progress)
    for name, layer in packed.items():
        module.set_submodule(name, layer)
    check = calibration_batches(split, examples=config.examples, batch_size=config.batch_size)
    found = fidelity(parent, {"packed": module}, check, data.task)["packed"]
    return light.evolve(module, entry_of("weight_only", config, parent, module, selection, found))


def _parted(module: nn.Module, names: list[str], inputs: Inputs, config: WeightOnlyConfig) -> list[str]:
    """Names with the parts of tables in their places.

    Where bits are chosen, the examples that show how much each layer matters have no say in which rows are frequent:
    they read as many of the others as texts to come will.
    """
    chosen = config.bits == "auto"
    first = config.probe_examples if chosen and config.embedding_bits is None else 0
    if first >= count(inputs):
        return names
    return config.parted(module, names, [map_inputs(inputs, lambda tensor: tensor[first:])], chosen=chosen)


def _compensable(module: nn.Module, names: list[str], config: WeightOnlyConfig) -> list[str]:
    """Layers that are rounded for their response; embeddings, for one, have none to mend."""
    return [n for n in names if config.rounding != "nearest" and has_rows(module.get_submodule(n))]


@torch.no_grad()
def _round_all(
    module: nn.Module,
    parent: nn.Module,
    bits: dict[str, int],
    inputs: Inputs,
    config: WeightOnlyConfig,
    progress: Progress,
) -> dict[str, PackedLayer]:
    """Packed layers by name, of so many ``bits``; ``module``'s own weights become the rounded ones on the way."""
    names = list(bits)
    compensable = _compensable(module, names, config)
    responses = parent_responses(parent, inputs, compensable) if compensable else {}
    packed: dict[str, PackedLayer] = {}

    def finish(name: str, layer: Any, made: PackedLayer) -> None:
        layer.weight.data.copy_(made.weight)
        packed[name] = made
        progress("round", len(packed), len(names))

    for name in names:
        if name not in responses:
            layer = module.get_submodule(name)
            finish(name, layer, nearest_in_groups(layer, bits[name], config.group_size))

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(layer: nn.Module, args: Any) -> None:
            if name not in packed:
                finish(name, layer, _matched(layer, args[0], responses[name], bits[name], config))

        return hook

    handles = [module.get_submodule(n).register_forward_pre_hook(before(n)) for n in responses]
    try:
        if responses:
            call(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: packed[name] for name in names}


def _matched(layer: Any, x: Tensor, response: Response, bits: int, config: WeightOnlyConfig) -> PackedLayer:
    """One layer rounded for the inputs it meets now; its bias takes up the mean error that is left."""
    weight = weight_rows(layer)
    found: list[GroupGrid] = []

    def grid_of(wanted: Tensor, energy: Tensor) -> Grid:
        importance = energy.repeat_interleave(wanted.shape[1], 0)
        found.append(group_grid(wanted.flatten(0, 1), bits, config.group_size, importance=importance))
        scale, zero = (t.view(wanted.shape) for t in found[0].spread(wanted.shape[2]))
        return Grid(scale, zero, found[0].levels)

    def rule(
        wanted: Tensor, second_moment: Tensor, scale: Tensor, zero: Tensor, levels: int
    ) -> tuple[Tensor, Tensor]:
        if config.rounding == "adaround":
            return adaptive_codes(wanted, second_moment, scale, zero, levels), scale
        codes = compensated_codes(wanted, second_moment, scale, zero, levels, damping=config.damping)
        # Groups of a layer that is taken block by block may lie in two blocks: they keep their scales.
        whole = wanted.shape == weight.shape
        return refined(
            codes,
            wanted,
            second_moment,
            scale,
            zero,
            levels,
            group_size=found[0].group_size if whole else None,
            damping=config.damping,
            rounds=config.refinements,
        )

    rounded = round_to_response(
        layer,
        weight,
        x,
        response,
        grid_of=grid_of,
        rule=rule,
        bias=layer.bias is not None,
        ridge=config.ridge if config.match_parent else None,
    )
    if rounded.bias is not None:
        layer.bias.data.copy_(rounded.bias)
    scale = rounded.scale.flatten(0, 1)[:, :: found[0].group_size].half()
    return in_groups(layer, replace(found[0], scale=scale), rounded.codes.flatten(0, 1))


def _bits(
    module: nn.Module,
    names: list[str],
    inputs: Inputs,
    split: Split,
    task: Task,
    config: WeightOnlyConfig,
    progress: Progress,
) -> dict[str, int]:
    """By layer: as told, or chosen within the size."""
    told = config.told(module, names)
    if config.bits != "auto" or config.size is None:
        return {name: told.get(name) or int(config.bits) for name in names}
    batches = calibration_batches(split, examples=config.examples, batch_size=config.batch_size)
    choices = choices_of(
        module,
        names,
        input_energy(module, batches, names),
        take(inputs, config.probe_examples),
        task.outputs,
        config.group_size,
        _compensable(module, names, config),
        lambda done: progress("choose bits", done, len(names)),
    )
    for name, bits in told.items():
        choices[name] = [choice for choice in choices[name] if choice.bits == bits]
    weights: list[Any] = [module.get_submodule(name).weight for name in names]
    size = int(config.size * sum(weight.nbytes for weight in weights)) - bytes_of_places(module)
    return allocate(choices, size)


METHOD = Method(
    "weight_only",
    WeightOnlyConfig,
    run,
    "2- to 8-bit weights in groups with error compensation, float arithmetic",
)
