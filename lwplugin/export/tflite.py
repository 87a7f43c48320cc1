"""TFLite: converted by litert-torch in the toolchain `litert`, checked here in LiteRT's own interpreter."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lwplugin import toolchain
from lwplugin.errors import ExportError, MissingExtraError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.handover import Handover, hand_over
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
        default=None,
        ge=1,
        description="Fixed examples of one run; none: any number, or one where the converter cannot leave it free.",
    )


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Hand the program over, convert, compare in a fresh interpreter."""
    _need_package()
    toolchain.need("litert", _WHY)
    file = directory / FILE
    told = {**facts(light), **options.metadata}
    progress("export tflite", 0, 2)
    handed, answer, meta = _converted(light, data, file, options, told)
    progress("export tflite", 1, 2)
    inputs = {entry["name"]: {"dtype": entry["dtype"], "shape": entry["shape"]} for entry in answer["inputs"]}
    if options.parity:
        size = next(iter(inputs.values()))["shape"][0]
        batch = size if isinstance(size, int) else None
        meta["parity"] = handed.compared(file, data.task, options, runtime="tflite", batch=batch)
    progress("export tflite", 2, 2)
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


def _converted(
    light: LightModel, data: Data, file: Path, options: Options, told: dict[str, str]
) -> tuple[Handover, dict[str, Any], dict[str, Any]]:
    """With a free batch, or for one example where the converter can only do that; what it answered, and facts."""
    reason: str | None = None
    for batch in (options.batch,) if options.batch else (None, 1):
        with tempfile.TemporaryDirectory(prefix="lwplugin-tflite-") as scratch:
            program, part = Path(scratch) / "model.pt2", file.with_name(FILE + ".part")
            try:
                handed = hand_over(
                    light,
                    data,
                    program,
                    examples=options.parity_examples,
                    batch=batch,
                    weights_as_integers=False,
                )
                job = job_of(handed, program, part, told, dynamic=batch is None)
                answer = toolchain.run("litert", job, why=_WHY)
            except ExportError as error:
                if batch is not None:
                    raise
                reason = error.got
                continue
            part.replace(file)
        meta: dict[str, Any] = {"convert_s": round(answer["convert_s"], 1)}
        return handed, answer, {**meta, **({"fixed_batch_because": reason[:300]} if reason else {})}
    raise AssertionError


def job_of(
    handed: Handover, program: Path, output: Path, told: dict[str, str], *, dynamic: bool
) -> dict[str, Any]:
    """What the toolchain's worker reads; the integers of layers that read their own range lie beside the program."""
    integers = program.with_name("integers.npz")
    layers = {
        f"{kind}{place}": tensor.numpy()
        for place, layer in enumerate(handed.dynamic)
        for kind, tensor in zip(("integers", "scale"), layer)
    }
    np.savez(integers, **layers)  # type: ignore[arg-type]
    return {
        "program": str(program.absolute()),
        "output": str(output.absolute()),
        "inputs": list(handed.inputs),
        "result": OUTPUT,
        "integer": handed.integer,
        "dynamic_layers": str(integers.absolute()),
        "half": bool(handed.half),
        "dynamic": dynamic,
        "facts": told,
    }


def _need_package() -> None:
    from importlib.util import find_spec

    if find_spec("ai_edge_litert") is None:
        raise MissingExtraError("ai-edge-litert", extra="tflite", why=_WHY)
