"""Half precision: weights in 16 bits, checked for what the type cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from lwplugin.data.batch import call
from lwplugin.errors import MethodError
from lwplugin.model.watching import watching
from lwplugin.model.weight_layout import rows_of
from lwplugin.quantize.account import entry_of
from lwplugin.quantize.base import Method, QuantizeConfig, fidelity, select_layers
from lwplugin.quantize.calibration import calibration_batches
from lwplugin.quantize.encodings import Half, HalfType
from lwplugin.quantize.packed import PACKED_KINDS, packed_like
from lwplugin.quantize.recurrent import matrices_apart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class HalfConfig(QuantizeConfig):
    """Options of `half`."""

    dtype: HalfType = Field(
        default="float16",
        description="float16: 11 bits of precision up to 65,504; bfloat16: 8 bits up to float32's range.",
    )
    compute: Literal["float32", "dtype"] = Field(
        default="float32",
        description="float32: weights are widened when a layer runs, fast on CPUs; dtype: layers multiply in 16 "
        "bits, for GPUs.",
    )


def run(light: LightModel, data: Data, config: HalfConfig, progress: Progress) -> LightModel:
    """Store the weights of linear layers, convolutions and embeddings in 16 bits; the argument is untouched."""
    module = light.copy_module().eval()
    split = data.need("calibration")

    def batches() -> Iterator[Batch]:
        return calibration_batches(split, examples=config.examples, batch_size=config.batch_size)

    reference = light.module
    selection = matrices_apart(module, select_layers(module, next(batches()), config, kinds=PACKED_KINDS))
    encoding = Half(dtype=config.dtype, native=config.compute == "dtype")
    vanished: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(selection.chosen):
        layer: Any = module.get_submodule(name)
        rows = rows_of(layer)
        numbers = _narrowed(name, rows, encoding)
        made = packed_like(layer, encoding)
        made.store(numbers=numbers)
        module.set_submodule(name, made)
        vanished[name] = {"vanished": int(((numbers == 0) & (rows != 0)).sum())}
        progress("halve", done + 1, len(selection.chosen))
    if encoding.native:
        _check_outputs(module, selection.chosen, batches(), config.dtype)
    found = fidelity(reference, {"half": module}, batches(), data.task)["half"]
    entry = entry_of("half", config, reference, module, selection, found, rows=vanished)
    return light.evolve(module, entry)


def _narrowed(name: str, weight: torch.Tensor, encoding: Half) -> torch.Tensor:
    numbers = weight.to(encoding.torch_dtype)
    lost = ~torch.isfinite(numbers) & torch.isfinite(weight)
    if bool(lost.any()):
        raise MethodError(
            f"Weights of layer '{name}' do not fit in {encoding.dtype}",
            got=f"{int(lost.sum())} beyond {torch.finfo(encoding.torch_dtype).max:,.0f}, "
            f"the largest {float(weight.abs().max()):.3g}",
            do=f"use dtype=bfloat16, or leave the layer in float with skip=['{name}']",
        )
    return numbers


@torch.no_grad()
def _check_outputs(module: nn.Module, names: list[str], batches: Iterator[Batch], dtype: str) -> None:
    """Raises MethodError where a layer that computes in 16 bits answers with something that is not finite."""

    def watch(name: str, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if not bool(torch.isfinite(output).all()):
            raise MethodError(
                f"Layer '{name}' overflows when it computes in {dtype}",
                got=f"inputs up to {float(args[0].abs().max()):.3g}",
                do=f"use compute=float32 or dtype=bfloat16, or leave the layer in float with skip=['{name}']",
            )

    with watching(module, names, watch):
        for batch in batches:
            call(module, batch.inputs)


METHOD = Method("half", HalfConfig, run, "16-bit floating point weights: float16 or bfloat16")
