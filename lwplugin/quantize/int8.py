"""Post-training static int8: integer weights per channel, activation ranges from calibration, no training."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from lwplugin.quantize.account import packed_report
from lwplugin.quantize.base import (
    Fidelity,
    Method,
    QuantizeConfig,
    Selection,
    fidelity,
    select_layers,
    weight_report,
)
from lwplugin.quantize.bias import bias_corrected
from lwplugin.quantize.calibration import LayerRanges, calibration_batches, observe
from lwplugin.quantize.embeddings import packed_embedding
from lwplugin.quantize.fold import fold_batchnorm
from lwplugin.quantize.layers import quantized_like
from lwplugin.quantize.observers import Calibrator, make_observer
from lwplugin.quantize.requantize import compensated
from lwplugin.quantize.scheme import AffineGrid, ReduceRange, needs_reduced_range, weight_limit
from lwplugin.quantize.weights import WeightClip, channel_scales, round_weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class Int8Config(QuantizeConfig):
    """Options of `int8`."""

    calibrator: Calibrator = Field(
        default="mse", description="How activation ranges are chosen: minmax, percentile, entropy or mse."
    )
    percentile: float = Field(
        default=99.99,
        gt=50,
        le=100,
        description="Percent of values the percentile calibrator keeps.",
    )
    weight_clip: WeightClip = Field(
        default="max", description="Weight range per channel: the largest weight, or least squared error."
    )
    bias_correction: Literal["auto"] | bool = Field(
        default="auto",
        description="Shift biases by the mean error; auto keeps it where calibration agrees better.",
    )
    correction_examples: int = Field(
        default=256, ge=1, description="Calibration examples that bias correction averages over."
    )
    rounding: Literal["auto", "nearest", "compensated"] = Field(
        default="auto",
        description="compensated: rounding errors are mended by the weights still to be rounded; auto keeps it "
        "where calibration agrees better.",
    )
    compensation_examples: int = Field(
        default=64, ge=1, description="Calibration examples for compensated rounding; all run at once."
    )
    embeddings: bool = Field(
        default=True, description="Store embedding tables in 8 bits, a scale for each row."
    )
    reduce_range: ReduceRange = Field(
        default="auto",
        description="7-bit weights, for kernels that saturate (x86 without VNNI); auto asks the CPU.",
    )


def run(light: LightModel, data: Data, config: Int8Config, progress: Progress) -> LightModel:
    """Fold, calibrate, round, correct; the argument is untouched."""
    from lwplugin.model.bundle import HistoryEntry

    module = light.copy_module().eval()
    split = data.need("calibration")
    total = min(config.examples, len(split))

    def batches(examples: int = config.examples) -> Iterator[Batch]:
        return calibration_batches(split, examples=examples, batch_size=config.batch_size)

    first = next(batches())
    folded = fold_batchnorm(module, first.inputs)
    selection = select_layers(module, first, config)
    ranges = observe(
        module,
        batches(),
        selection.chosen,
        lambda: make_observer(config.calibrator, percentile=config.percentile),
        total=total,
        progress=progress,
    )
    reduced = needs_reduced_range(config.reduce_range)
    quantized = quantize_layers(module, selection, ranges, config, reduced=reduced)
    tables = _pack_embeddings(module, quantized, first, config)
    candidates: dict[str, nn.Module] = {}
    if config.rounding != "compensated":
        if config.bias_correction is not True:
            candidates["plain"] = quantized
        if config.bias_correction is not False:
            progress("correct biases", 0, 1)
            candidates["bias corrected"] = bias_corrected(
                module, quantized, batches(config.correction_examples)
            )
    if config.rounding == "compensated" or (config.rounding == "auto" and config.bias_correction == "auto"):
        progress("compensate rounding", 0, 1)
        few = min(config.compensation_examples, len(split))
        inputs = next(calibration_batches(split, examples=few, batch_size=few)).inputs
        limit = weight_limit(8, reduced=reduced)
        candidates["compensated"] = compensated(module, quantized, inputs, limit=limit)
    found = fidelity(module, candidates, batches(), data.task)
    picked = pick(found)
    chosen = candidates[picked]
    entry = HistoryEntry(
        step="quantize",
        method="int8",
        config=config.model_dump(mode="json"),
        metrics={
            "calibration_agreement": found[picked].agreement,
            "calibration_sqnr_db": found[picked].output_sqnr_db,
        },
        seed=None,
        details={
            "layers": [
                weight_report(name, chosen.get_submodule(name), module.get_submodule(name))
                for name in selection.chosen
            ]
            + [packed_report(name, chosen, module) for name in tables],
            "skipped": [{"name": name, "reason": reason} for name, reason in selection.skipped.items()],
            "folded": [{"layer": pair.layer, "norm": pair.norm} for pair in folded],
            "reduced_range": reduced,
            "examples": total,
            "picked": picked,
            "candidates": {
                name: {"agreement": f.agreement, "output_sqnr_db": f.output_sqnr_db}
                for name, f in found.items()
            },
        },
    )
    return light.evolve(chosen, entry)


@torch.no_grad()
def quantize_layers(
    folded: nn.Module,
    selection: Selection,
    ranges: dict[str, LayerRanges],
    config: Int8Config,
    *,
    reduced: bool,
) -> nn.Module:
    """A copy of ``folded`` whose chosen layers are quantized."""
    quantized = copy.deepcopy(folded)
    limit = weight_limit(8, reduced=reduced)
    for name in selection.chosen:
        layer: Any = quantized.get_submodule(name)
        scale = channel_scales(layer.weight, limit, clip=config.weight_clip)
        step = AffineGrid.of_range(*ranges[name].inputs).scale
        if layer.bias is not None:
            scale = torch.maximum(scale, smallest_scale(layer.bias, step))
        made = quantized_like(layer)
        made.set_weight(round_weight(layer.weight, scale, limit), scale)
        made.set_ranges(ranges[name].inputs, ranges[name].outputs)
        quantized.set_submodule(name, made)
    return quantized


def _pack_embeddings(folded: nn.Module, quantized: nn.Module, batch: Batch, config: Int8Config) -> list[str]:
    """Store the embeddings of ``quantized`` in 8 bits, in place; their names. None is fine."""
    if not config.embeddings or not any(type(layer) is nn.Embedding for layer in folded.modules()):
        return []
    # Patterns in skip name layers of other kinds too, so they are matched here and not there.
    free = config.model_copy(update={"skip": (), "first_layer": True, "last_layer": True})
    names = select_layers(folded, batch, free, kinds=(nn.Embedding,), needed=False).chosen
    kept = [n for n in names if not any(fnmatchcase(n, pattern) for pattern in config.skip)]
    for name in kept:
        table: Any = folded.get_submodule(name)
        quantized.set_submodule(name, packed_embedding(table))
    return kept


def smallest_scale(bias: torch.Tensor, input_step: float) -> torch.Tensor:
    """Least weight scale, [out, 1], with which the bias fits a 32-bit accumulator with one bit to spare.

    Only channels whose weights are nearly nothing beside their bias come near it.
    """
    return (bias.detach().double().abs() / (input_step * 2**30)).float().unsqueeze(1)


def pick(found: dict[str, Fidelity]) -> str:
    """The best candidate by agreement, then output SQNR; the first one where they tie."""
    names = list(found)
    best = names[0]
    for name in names[1:]:
        if found[name].better_than(found[best]):
            best = name
    return best


METHOD = Method("int8", Int8Config, run, "post-training static 8-bit integers, per-channel weights")
