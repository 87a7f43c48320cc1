"""One bit a weight: `binary` (sign with scale) and `binary_learned` (learned thresholds and values), both trained."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import parametrize

from lwplugin.errors import MethodError
from lwplugin.quantize.account import entry_of
from lwplugin.quantize.base import Method, QuantizeConfig, Selection, fidelity, select_layers
from lwplugin.quantize.calibration import calibration_batches
from lwplugin.quantize.encodings import Signs
from lwplugin.quantize.packed import packed_like
from lwplugin.quantize.packing import pack_codes
from lwplugin.quantize.straight_through import LearnedSignWeight, SignWeight
from lwplugin.training.finetune import FinetuneOptions, finetune
from lwplugin.training.recalibrate import recalibrate_batchnorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class BinaryConfig(QuantizeConfig, FinetuneOptions):
    """Options of `binary` and `binary_learned`."""

    first_layer: bool = Field(default=False, description="Make the first layer that runs binary too.")
    last_layer: bool = Field(default=False, description="Make the last layer that runs binary too.")
    finetune_epochs: int = Field(
        default=5,
        ge=0,
        description="Passes over the training split; without any, little of the model is left.",
    )
    seed: int = Field(default=0, ge=0, description="Decides the order of examples in training.")


def run(
    name: str,
    light: LightModel,
    data: Data,
    config: BinaryConfig,
    progress: Progress,
    checkpoint: Path | None = None,
) -> LightModel:
    """Train with binary weights through the straight-through estimator, store one bit each; argument untouched."""
    module = light.copy_module().eval()
    split = data.need("calibration")

    def batches() -> Iterator[Batch]:
        return calibration_batches(split, examples=config.examples, batch_size=config.batch_size)

    selection = select_layers(module, next(batches()), config)
    learned: list[LearnedSignWeight] = []
    for chosen in selection.chosen:
        layer: Any = module.get_submodule(chosen)
        stand_in: nn.Module = SignWeight()
        if name == "binary_learned":
            stand_in = LearnedSignWeight(layer.weight)
            learned.append(stand_in)
        parametrize.register_parametrization(layer, "weight", stand_in, unsafe=True)

    def sharpening(label: str, done: int, total: int | None = None) -> None:
        for stand_in in learned:
            stand_in.sharpen(done / (total or 1))
        progress(label, done, total)

    trained = finetune(
        module,
        copy.deepcopy(light.module),
        data,
        config,
        seed=config.seed,
        checkpoint=checkpoint,
        progress=sharpening,
    )
    _store(module, selection)
    if not trained:
        recalibrate_batchnorm(module, split)
    found = fidelity(light.module, {"binary": module}, batches(), data.task)["binary"]
    if found.agreement < config.collapse:
        raise MethodError(
            "One bit a weight collapsed the model",
            got=f"{found.agreement:.1%} of the answers agree with the parent's",
            do="train for longer (finetune_epochs), leave sensitive layers in float with skip, or lower collapse",
        )
    return light.evolve(
        module, entry_of(name, config, light.module, module, selection, found, metrics=trained)
    )


@torch.no_grad()
def _store(module: nn.Module, selection: Selection) -> None:
    for name in selection.chosen:
        layer: Any = module.get_submodule(name)
        stand_in, latent = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        signs, scale, shift = stand_in.parts(latent)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        made = packed_like(layer, Signs())
        made.store(
            codes=pack_codes((signs > 0).to(torch.uint8), 1), scale=scale.reshape(-1), shift=shift.reshape(-1)
        )
        module.set_submodule(name, made)


BINARY = Method(
    "binary",
    BinaryConfig,
    partial(run, "binary"),
    "1-bit weights, sign with scale, trained straight through",
    resumes=True,
)
BINARY_LEARNED = Method(
    "binary_learned",
    BinaryConfig,
    partial(run, "binary_learned"),
    "1-bit weights with learned thresholds and values",
    resumes=True,
)
