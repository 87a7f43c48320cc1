"""AOTInductor: the float model compiled for this machine's CPU into one package that torch loads."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lwplugin.errors import ExportError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.parity import check
from lwplugin.export.source import OUTPUT, described, facts
from lwplugin.export.torch_errors import quiet, root_cause
from lwplugin.export.torch_export import float_program

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.pt2"


class Options(ExportOptions):
    """Options of `aotinductor`: those of all formats."""


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Export, compile with the C++ compiler, load and compare in a fresh process."""
    progress("export aotinductor", 0, 2)
    module, example, program = float_program(light, data, options)
    told = {**facts(light), **options.metadata, "lwplugin.cpu": torch.backends.cpu.get_cpu_capability()}
    file = directory / FILE
    began = time.perf_counter()
    _compile(program, file, told)
    meta: dict[str, Any] = {
        "cpu": told["lwplugin.cpu"],
        "torch": torch.__version__,
        "convert_s": round(time.perf_counter() - began, 1),
    }
    progress("export aotinductor", 1, 2)
    if options.parity:
        meta["parity"] = check(file, module, data.task, example, options, runtime="aotinductor", rounds=False)
    progress("export aotinductor", 2, 2)
    return Exported(
        path=directory,
        format="aotinductor",
        file=file,
        digest=file_digest(file),
        inputs=described(example),
        output=OUTPUT,
        meta=meta,
    )


def _compile(program: torch.export.ExportedProgram, file: Path, told: dict[str, str]) -> None:
    """Raises ExportError with the compiler's reason."""
    settings = {"aot_inductor.metadata": {key: str(value) for key, value in told.items()}}
    with tempfile.TemporaryDirectory(prefix="lwplugin-inductor-") as cache:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        try:
            with quiet():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(file), inductor_configs=settings
                )
        except Exception as error:
            raise ExportError(
                "AOTInductor cannot compile this model",
                got=root_cause(error),
                do="install g++, or export format 'torch_export'",
            ) from error
        finally:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR")
            if before is not None:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
