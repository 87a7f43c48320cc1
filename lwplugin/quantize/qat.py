"""Quantization-aware training: integers and the grids they lie on are trained against the parent and the labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.watching import watching
from lwplugin.quantize.base import (
    Method,
    QuantizeConfig,
    Selection,
    fidelity,
    select_layers,
    weight_report,
)
from lwplugin.quantize.calibration import LayerRanges, calibration_batches, observe
from lwplugin.quantize.fold import fold_batchnorm
from lwplugin.quantize.forms import smallest_scale
from lwplugin.quantize.learned_step import LearnedGrid, LearnedLayer
from lwplugin.quantize.observers import Calibrator, make_observer
from lwplugin.quantize.scheme import ReduceRange, needs_reduced_range, weight_limit
from lwplugin.quantize.weights import channel_scales
from lwplugin.training.finetune import FinetuneOptions, finetune

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch, Inputs
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class QatConfig(QuantizeConfig, FinetuneOptions):
    """Options of `qat`."""

    weight_bits: int = Field(
        default=8,
        ge=2,
        le=8,
        description="Bits of a weight; below 8 the bundle gets smaller, the ONNX file does not.",
    )
    calibrator: Calibrator = Field(
        default="mse", description="How the ranges that training starts from are chosen, as in `int8`."
    )
    reduce_range: ReduceRange = Field(
        default="auto",
        description="7-bit weights at weight_bits=8, for kernels that saturate (x86 without VNNI); auto asks the CPU.",
    )
    finetune_epochs: int = Field(default=2, ge=0, description="Passes over the training split.")
    finetune_lr: float = Field(default=5e-4, gt=0, description="Peak learning rate (AdamW, one cycle).")
    seed: int = Field(default=0, ge=0, description="Decides the order of examples in training.")


def run(
    light: LightModel, data: Data, config: QatConfig, progress: Progress, checkpoint: Path | None = None
) -> LightModel:
    """Fold, calibrate, train with rounded weights and inputs, keep the integers; the argument is untouched."""
    from lwplugin.model.bundle import HistoryEntry

    module = light.copy_module().eval()
    split = data.to_fit()

    def batches() -> Iterator[Batch]:
        return calibration_batches(split, examples=config.examples, batch_size=config.batch_size)

    def ranges() -> dict[str, LayerRanges]:
        return observe(module, batches(), selection.chosen, lambda: make_observer(config.calibrator))

    first = next(batches())
    folded = fold_batchnorm(module, first.inputs)
    selection = select_layers(module, first, config)
    reduced = needs_reduced_range(config.reduce_range)
    limit = weight_limit(config.weight_bits, reduced=reduced)
    reference = copy.deepcopy(module)
    _learn(module, selection, ranges(), first.inputs, config, limit)
    parent = copy.deepcopy(light.module)
    trained = finetune(
        module, parent, data, config, seed=config.seed, checkpoint=checkpoint, progress=progress
    )
    _store(module, selection, ranges(), config.weight_bits)
    found = fidelity(light.module, {"trained": module}, batches(), data.task)["trained"]
    if found.agreement < config.collapse:
        raise MethodError(
            "Quantization-aware training collapsed the model",
            got=f"{found.agreement:.1%} of the answers agree with the parent's",
            do="train for longer (finetune_epochs), give more weight_bits, skip sensitive layers, or lower collapse",
        )
    entry = HistoryEntry(
        step="quantize",
        method="qat",
        config=config.model_dump(mode="json"),
        metrics={
            "calibration_agreement": found.agreement,
            "calibration_sqnr_db": found.output_sqnr_db,
            **trained,
        },
        seed=config.seed,
        details={
            "layers": [
                weight_report(name, module.get_submodule(name), reference.get_submodule(name))
                for name in selection.chosen
            ],
            "skipped": [{"name": name, "reason": reason} for name, reason in selection.skipped.items()],
            "folded": [{"layer": pair.layer, "norm": pair.norm} for pair in folded],
            "reduced_range": reduced,
        },
    )
    return light.evolve(module, entry)


@torch.no_grad()
def _learn(
    module: nn.Module,
    selection: Selection,
    ranges: dict[str, LayerRanges],
    inputs: Inputs,
    config: QatConfig,
    limit: int,
) -> None:
    """Put a `LearnedLayer` around every chosen layer, in place."""
    first = _first_readers(module, selection.chosen, inputs)
    grids = {name: LearnedGrid(ranges[name].inputs) for name in set(first.values())}
    for name in selection.chosen:
        layer: Any = module.get_submodule(name)
        scale = channel_scales(layer.weight, limit, clip="max" if config.weight_bits == 8 else "mse")
        if layer.bias is not None:
            scale = torch.maximum(scale, smallest_scale(layer.bias, float(grids[first[name]].start[0])))
        grid = grids[first[name]].to(layer.weight.device)
        module.set_submodule(name, LearnedLayer(layer, scale, limit, grid))


def _first_readers(module: nn.Module, names: list[str], inputs: Inputs) -> dict[str, str]:
    """For each layer, the first one that reads the tensor it reads: in a file they share its range."""
    from lwplugin.data.batch import call

    seen: dict[int, tuple[str, torch.Tensor]] = {}
    found: dict[str, str] = {}

    def watch(name: str, args: tuple[Any, ...], output: Any) -> None:
        # The tensor is kept so that no other can take its place in memory.
        found.setdefault(name, seen.setdefault(id(args[0]), (name, args[0]))[0])

    with watching(module, names, watch):
        call(module, inputs)
    return found


@torch.no_grad()
def _store(module: nn.Module, selection: Selection, ranges: dict[str, LayerRanges], bits: int) -> None:
    for name in selection.chosen:
        layer = module.get_submodule(name)
        assert isinstance(layer, LearnedLayer)
        module.set_submodule(name, layer.quantized(bits, ranges[name].outputs))


METHOD = Method(
    "qat",
    QatConfig,
    run,
    "integers trained with their steps (LSQ+), 8-bit activations, 2- to 8-bit weights",
    resumes=True,
)
