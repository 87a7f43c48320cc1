"""torch.export: the float model as a ``.pt2`` program with a dynamic batch, for torch and what builds on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lwplugin.data.batch import Inputs, tensors
from lwplugin.errors import ExportError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.onnx_quantized import quantized_layers
from lwplugin.export.parity import check
from lwplugin.export.program import to_program
from lwplugin.export.source import OUTPUT, OneOutput, described, facts

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.pt2"
FACTS = "lwplugin.json"


class Options(ExportOptions):
    """Options of `torch_export`: those of all formats."""


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Export, save with the facts inside, load and compare in a fresh process."""
    progress("export torch_export", 0, 2)
    module, example, program = float_program(light, data, options)
    told = json.dumps({**facts(light), **options.metadata}, sort_keys=True)
    file = directory / FILE
    torch.export.save(program, file, extra_files={FACTS: told})
    progress("export torch_export", 1, 2)
    meta: dict[str, Any] = {}
    if options.parity:
        meta["parity"] = check(file, module, data.task, example, options, runtime="torch", rounds=False)
    progress("export torch_export", 2, 2)
    return Exported(
        path=directory,
        format="torch_export",
        file=file,
        digest=file_digest(file),
        inputs=described(example),
        output=OUTPUT,
        meta=meta,
    )


def float_program(
    light: LightModel, data: Data, options: ExportOptions
) -> tuple[nn.Module, Inputs, torch.export.ExportedProgram]:
    """The module, the examples to compare it on, and its program with a free batch.

    Raises ExportError for a model with quantized layers, or one that torch cannot export.
    """
    module = light.copy_module().eval().to("cpu")
    _refuse_quantized(module)
    example = data.example(max(options.parity_examples, 2))
    arguments = tuple(tensor[:2].contiguous() for tensor in tensors(example).values())
    return module, example, to_program(OneOutput(module, data.task, example).eval(), arguments)


def _refuse_quantized(module: nn.Module) -> None:
    layers = quantized_layers(module)
    if layers:
        raise ExportError(
            "A .pt2 file holds float models only: torch would compute these layers in float all the same",
            got=f"quantized layers {', '.join(sorted(layers)[:5])}",
            do="export format 'onnx' or 'openvino', which have integer kernels",
        )
