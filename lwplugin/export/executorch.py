"""ExecuTorch: converted for XNNPACK and checked in the toolchain `executorch`, which holds its runtime too."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lwplugin import toolchain
from lwplugin.data.batch import tensors
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.handover import hand_over
from lwplugin.export.source import OUTPUT, facts

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.pte"
_WHY = "Exporting to ExecuTorch"


class Options(ExportOptions):
    """Options of `executorch`."""

    batch: int = Field(default=1, ge=1, description="Examples of one run; its memory is planned for them.")


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Hand the program over, convert, compare in a fresh process of the toolchain's Python."""
    toolchain.need("executorch", _WHY)
    file = directory / FILE
    progress("export executorch", 0, 3)
    with tempfile.TemporaryDirectory(prefix="lwplugin-executorch-") as scratch:
        program = Path(scratch) / "model.pt2"
        handed = hand_over(
            light,
            data,
            program,
            examples=options.parity_examples,
            batch=options.batch,
            weights_as_integers=True,
            half_inside=True,
        )
        progress("export executorch", 1, 3)
        part = file.with_name(FILE + ".part")
        job = {
            "program": str(program.absolute()),
            "output": str(part.absolute()),
            "facts": json.dumps({**facts(light), **options.metadata}, sort_keys=True),
        }
        answer = toolchain.run("executorch", job, why=_WHY)
        part.replace(file)
    progress("export executorch", 2, 3)
    meta: dict[str, Any] = {
        "convert_s": round(answer["convert_s"], 1),
        "delegated_parts": answer["delegated"],
        "portable_operators": answer["portable"],
    }
    if options.parity:
        meta["parity"] = handed.compared(file, data.task, options, runtime="executorch", batch=options.batch)
    progress("export executorch", 3, 3)
    inputs = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [options.batch, *tensor.shape[1:]]}
        for name, tensor in tensors(handed.example).items()
    }
    return Exported(
        path=directory,
        format="executorch",
        file=file,
        digest=file_digest(file),
        inputs=inputs,
        output=OUTPUT,
        scheme=handed.scheme,
        meta=meta,
    )
