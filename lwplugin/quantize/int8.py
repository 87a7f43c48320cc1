"""Post-training static int8: integer weights per channel, activation ranges from calibration, no training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from lwplugin.quantize.account import packed_report
from lwplugin.quantize.base import Method, select_layers, weight_report
from lwplugin.quantize.bias import bias_corrected
from lwplugin.quantize.calibration import LayerRanges, calibration_batches, judging_batches, observe
from lwplugin.quantize.contest import Contest
from lwplugin.quantize.embeddings import TableOptions
from lwplugin.quantize.fold import fold_batchnorm
from lwplugin.quantize.forms import Form, Maker
from lwplugin.quantize.layers import QUANTIZABLE, QuantLinear
from lwplugin.quantize.observers import Calibrator, make_observer
from lwplugin.quantize.packed import WITHOUT_INTEGERS
from lwplugin.quantize.packed_groups import nearest_in_groups, symmetric_rows
from lwplugin.quantize.recurrent import matrices_apart
from lwplugin.quantize.requantize import RULES, requantized
from lwplugin.quantize.scheme import ReduceRange, needs_reduced_range, weight_limit
from lwplugin.quantize.weights import WeightClip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

_CLOSE_DB = 35.0
"""Outputs as close as this to the float model's leave nothing to gain by another form."""

_SETTLED_DB = 40.0
"""Outputs as close as this are rounded well enough: the trials that `auto` asks for are not worth their time."""

_SMALL_TABLE = 1e-3
"""Tables with a smaller share of all tables' numbers stay in float: BERT's two token types are read by every token."""


class Int8Config(TableOptions):
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
    equalization: Literal["auto"] | bool = Field(
        default="auto",
        description="Scale channels between layers that only a ReLU separates, so that the weights of both fit their "
        "grids; auto keeps it where calibration agrees better.",
    )
    activations: Literal["auto", "static", "dynamic"] = Field(
        default="auto",
        description="Ranges of linear layers' inputs: from calibration, or of the values at hand while the model runs; "
        "auto tries that where there are layers over tokens and keeps it where calibration agrees better.",
    )
    symmetric: Literal["auto"] | bool = Field(
        default="auto",
        description="Ranges around zero wherever there are negative values: there these are TensorRT's grids, and "
        "OpenVINO has no zero points to add. auto: in recipes whose targets all are TensorRT.",
    )
    smoothing: Literal["auto"] | bool = Field(
        default="auto",
        description="Scale the channels of linear layers' inputs against outliers (SmoothQuant); auto tries it where "
        "there are layers over tokens and keeps it where calibration agrees better.",
    )
    splitting: Literal["auto"] | bool = Field(
        default="auto",
        description="Give channels of large weights several times between linear layers, 1 % more of them; auto tries "
        "it where there are layers over tokens and keeps it where calibration agrees better.",
    )
    bias_correction: Literal["auto"] | bool = Field(
        default="auto",
        description="Shift biases by the mean error; auto tries it where answers are less than 40 dB close, and "
        "keeps it where calibration agrees better.",
    )
    correction_examples: int = Field(
        default=256, ge=1, description="Calibration examples that bias correction averages over."
    )
    rounding: Literal["auto", "nearest", "compensated", "adaround"] = Field(
        default="auto",
        description="compensated: rounding errors are mended by the weights still to be rounded; adaround: up or down "
        "is learned for all weights of a layer together; auto tries compensated where answers are less than 40 dB "
        "close, and keeps it where calibration agrees better.",
    )
    compensation_examples: int = Field(
        default=64, ge=1, description="Calibration examples that weights are rounded on; all run at once."
    )
    embedding_bits: int = Field(default=8, ge=2, le=8, description="Bits of an embedding's numbers.")
    reduce_range: ReduceRange = Field(
        default="auto",
        description="7-bit weights, for kernels that saturate (x86 without VNNI); auto asks the CPU.",
    )

    @model_validator(mode="after")
    def _checked(self) -> Int8Config:
        if self.symmetric is True and self.activations == "dynamic":
            raise ValueError("ranges taken while the model runs are not symmetric: leave one of the two out")
        return self


def run(light: LightModel, data: Data, config: Int8Config, progress: Progress) -> LightModel:
    """Fold, calibrate, choose a form, round, correct; the argument is untouched."""
    from lwplugin.model.bundle import HistoryEntry

    module = light.copy_module().eval()
    split = data.to_fit()
    total = min(config.examples, len(split))
    few = min(config.compensation_examples, len(split))
    solving = next(calibration_batches(split, examples=few, batch_size=few)).inputs
    first = next(calibration_batches(split, examples=total, batch_size=config.batch_size))
    folded = fold_batchnorm(module, first.inputs)
    kinds = (*QUANTIZABLE, *WITHOUT_INTEGERS)
    selection = matrices_apart(module, select_layers(module, first, config, kinds=kinds))
    integer = [name for name in selection.chosen if type(module.get_submodule(name)) in QUANTIZABLE]
    narrow = [name for name in selection.chosen if name not in integer]
    reduced = needs_reduced_range(config.reduce_range)
    limit = weight_limit(8, reduced=reduced)

    def calibrate(net: nn.Module, gains: Mapping[str, torch.Tensor]) -> dict[str, LayerRanges]:
        return observe(
            net,
            calibration_batches(split, examples=config.examples, batch_size=config.batch_size),
            integer,
            partial(
                make_observer,
                config.calibrator,
                percentile=config.percentile,
                symmetric=config.symmetric is True,
            ),
            gains=gains,
            total=total,
            progress=progress,
        )

    def judging() -> Iterator[Batch]:
        used = config.compensation_examples if config.rounding != "nearest" else 0
        return judging_batches(split, examples=config.examples, used=used, batch_size=config.batch_size)

    tables = _tables(module, first, config)
    some = calibration_batches(split, examples=config.examples, batch_size=config.batch_size)
    parts = config.parted(module, tables, (batch.inputs for batch in some))
    maker = Maker(
        module,
        integer,
        limit,
        config.weight_clip,
        calibrate,
        solving,
        symmetric=config.symmetric is True,
    )
    forms = Contest(module, judging, data.task)
    form, made = choose(maker, forms, config)
    reference = maker.reference(form)
    packed = {name: symmetric_rows(module.get_submodule(name), limit, config.weight_clip) for name in narrow}
    for name, bits in config.told(module, parts).items():
        packed[name] = nearest_in_groups(module.get_submodule(name), bits)
    for name, layer in packed.items():
        made.set_submodule(name, layer)
    contest = Contest(module, judging, data.task)
    rounding, bias = config.rounding, config.bias_correction
    if rounding not in RULES and bias is not True:
        contest.enter({form.name: made}, known={} if packed else forms.found)
    settled = contest.picked != "" and contest.found[contest.picked].output_sqnr_db >= _SETTLED_DB
    if rounding not in RULES and (bias is True or (bias == "auto" and not settled)):
        progress("correct biases", 0, 1)
        some = calibration_batches(split, examples=config.correction_examples, batch_size=config.batch_size)
        contest.enter({form.rounded("bias corrected"): bias_corrected(reference, made, some)})
    if rounding in RULES or (rounding == bias == "auto" and not settled):
        how = "compensated" if rounding == "auto" else rounding
        progress(f"round, {how}", 0, 1)
        mended = requantized(reference, made, solving, limit=limit, rule=RULES[how])
        contest.enter({form.rounded(how): mended})
    chosen, picked = contest.best, contest.found[contest.picked]
    for part in chosen.modules():
        if isinstance(part, QuantLinear):
            part.alone = False
    entry = HistoryEntry(
        step="quantize",
        method="int8",
        config=config.model_dump(mode="json"),
        metrics={
            "calibration_agreement": picked.agreement,
            "calibration_sqnr_db": picked.output_sqnr_db,
        },
        seed=None,
        details={
            "layers": [
                weight_report(name, chosen.get_submodule(name), reference.get_submodule(name))
                for name in integer
            ]
            + [packed_report(name, chosen, module) for name in (*narrow, *tables)],
            "skipped": [{"name": name, "reason": reason} for name, reason in selection.skipped.items()],
            "folded": [{"layer": pair.layer, "norm": pair.norm} for pair in folded],
            "equalized": [f"{pair.first} → {pair.second}" for pair in maker.pairs] if form.equalized else [],
            "split": {f"{one.first} → {one.second}": one.added for one in maker.splits(form)},
            "reduced_range": reduced,
            "examples": total,
            "picked": contest.picked,
            "candidates": forms.account() | contest.account(),
        },
    )
    return light.evolve(chosen, entry)


def choose(maker: Maker, contest: Contest, config: Int8Config) -> tuple[Form, nn.Module]:
    """The form that the options ask for; where they leave it open, the one whose answers are closest.

    One thing is tried after the other, each on top of what has won so far, until the answers are close enough.
    """
    form = Form(
        equalized=config.equalization is True,
        dynamic=config.activations == "dynamic",
        smoothed=config.smoothing is True,
        split=config.splitting is True,
    )
    made = maker.make(form)
    may_equalize = config.equalization == "auto"
    may_be_dynamic = config.activations == "auto" and config.symmetric is not True and bool(maker.over_tokens)
    may_smooth = config.smoothing == "auto" and bool(maker.over_tokens)
    may_split = config.splitting == "auto" and bool(maker.over_tokens)
    steps: list[tuple[bool, tuple[dict[str, bool], ...]]] = [
        (may_equalize and maker.can_equalize, ({"equalized": True},)),
        (may_be_dynamic, ({"dynamic": True},)),
        # Without outliers a range taken at run time is worth another thing than with them.
        (may_smooth, ({"smoothed": True}, *[{"smoothed": True, "dynamic": True}] * may_be_dynamic)),
        (may_split, ({"split": True},)),
    ]
    for is_open, changes in steps:
        if not is_open:
            continue
        contest.enter({form.name: made})
        if contest.found[form.name].output_sqnr_db >= _CLOSE_DB:
            break
        for other in dict.fromkeys(replace(form, **change) for change in changes):
            if other.split and not maker.splits(other):
                continue
            contest.enter({other.name: (changed := maker.make(other))})
            if contest.picked == other.name:
                form, made = other, changed
    return form, made


def _tables(module: nn.Module, batch: Batch, config: Int8Config) -> list[str]:
    """Names of the embeddings that are stored in few bits; none is fine."""
    if not config.embeddings or not any(type(layer) is nn.Embedding for layer in module.modules()):
        return []
    # Patterns in skip name layers of other kinds too, so they are matched here and not there.
    free = config.model_copy(update={"skip": (), "first_layer": True, "last_layer": True})
    names = select_layers(module, batch, free, kinds=(nn.Embedding,), needed=False).chosen
    tables: dict[str, Any] = {name: module.get_submodule(name) for name in names}
    least = _SMALL_TABLE * sum(table.weight.numel() for table in tables.values())
    return [
        name
        for name, table in tables.items()
        if not any(fnmatchcase(name, pattern) for pattern in config.skip) and table.weight.numel() >= least
    ]


METHOD = Method("int8", Int8Config, run, "post-training static 8-bit integers, per-channel weights")
