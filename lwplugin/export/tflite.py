"""TFLite: converted by litert-torch in the toolchain `litert`, checked here in LiteRT's own interpreter."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lwplugin import toolchain
from lwplugin.errors import MissingExtraError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.handover import Handover, hand_over
from lwplugin.export.parity import check
from lwplugin.export.source import OUTPUT, facts

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.tflite"
_WHY = "Exporting to TFLite"


class Options(ExportOptions):
    """Options of `tflite`."""

    batch: int | None = Field(
        default=None, ge=1, description="Fixed examples of one run; none: any number, where the model can."
    )


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Hand the program over, convert, compare in a fresh interpreter."""
    _need_package()
    toolchain.need("litert", _WHY)
    file = directory / FILE
    progress("export tflite", 0, 3)
    with tempfile.TemporaryDirectory(prefix="lwplugin-tflite-") as scratch:
        program = Path(scratch) / "model.pt2"
        handed = hand_over(
            light,
            data,
            program,
            examples=options.parity_examples,
            batch=options.batch,
            weights_as_integers=False,
        )
        progress("export tflite", 1, 3)
        part = file.with_name(FILE + ".part")
        job = job_of(
            handed, program, part, {**facts(light), **options.metadata}, dynamic=options.batch is None
        )
        answer = toolchain.run("litert", job, why=_WHY)
        part.replace(file)
    progress("export tflite", 2, 3)
    inputs = {entry["name"]: {"dtype": entry["dtype"], "shape": entry["shape"]} for entry in answer["inputs"]}
    meta: dict[str, Any] = {"convert_s": round(answer["convert_s"], 1)}
    if options.parity:
        meta["parity"] = check(
            file,
            handed.module,
            data.task,
            handed.example,
            options,
            runtime="tflite",
            rounds=handed.rounds,
            batch=options.batch,
        )
    progress("export tflite", 3, 3)
    return Exported(
        path=directory,
        format="tflite",
        file=file,
        digest=file_digest(file),
        inputs=inputs,
        output=OUTPUT,
        scheme=handed.scheme,
        meta=meta,
    )


def job_of(
    handed: Handover, program: Path, output: Path, told: dict[str, str], *, dynamic: bool
) -> dict[str, Any]:
    """What the toolchain's worker reads."""
    return {
        "program": str(program.absolute()),
        "output": str(output.absolute()),
        "inputs": list(handed.inputs),
        "result": OUTPUT,
        "integer": handed.integer,
        "half": bool(handed.half),
        "dynamic": dynamic,
        "facts": told,
    }


def _need_package() -> None:
    from importlib.util import find_spec

    if find_spec("ai_edge_litert") is None:
        raise MissingExtraError("ai-edge-litert", extra="tflite", why=_WHY)
