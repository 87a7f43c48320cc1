"""What every export shares: the file and its description, the formats there are, and the way in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.errors import ExportError, RecipeError, did_you_mean
from lwplugin.methods import checked, need_data
from lwplugin.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel

SCHEMA = 1
DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Exported:
    """A deployable file in its directory.

    ``inputs`` maps each input's name to ``{"dtype": "float32", "shape": ["batch", 1, 28, 28]}``; ``scheme``
    says how the integers are laid out and is empty for a float file; ``beside`` are further files of the model
    in the same directory; ``digest`` is `file_digest` of them all.
    """

    path: Path
    format: str
    file: Path
    digest: str
    inputs: dict[str, dict[str, Any]]
    output: str
    scheme: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()

    def save(self) -> None:
        """Write ``export.json`` beside the file, last of all."""
        document = {
            "schema": SCHEMA,
            "format": self.format,
            "file": self.file.name,
            **({"beside": [part.name for part in self.beside]} if self.beside else {}),
            "inputs": [{"name": name, **spec} for name, spec in self.inputs.items()],
            "output": self.output,
            **self.meta,
            "scheme": self.scheme or None,
            "digest": self.digest,
        }
        text = json.dumps(document, indent=2) + "\n"
        temporary = self.path / (DESCRIPTION + ".part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / DESCRIPTION)


class ExportOptions(BaseModel):
    """Options all formats have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parity: bool = Field(
        default=True, description="Load the file in a fresh process and compare it before returning."
    )
    parity_examples: int = Field(default=16, ge=1, description="Real examples the comparison runs on.")
    metadata: dict[str, str] = Field(
        default_factory=dict, description="Written into the file, such as labels and preprocessing."
    )
    float_tolerance: float = Field(
        default=1e-4, gt=0, description="Largest error of a float file, relative to the largest output."
    )
    int8_sqnr_db: float = Field(
        default=15.0, description="Least signal to noise between an int8 file in its kernels and the model."
    )


@dataclass(frozen=True)
class Format:
    """One deployment format; ``module`` is imported when it is used and holds ``Options`` and ``write``.

    ``fixed_batch``: a file runs one number of examples, its option ``batch``; ``calibrated_ranges``: integer layers
    that read their own range while they run take the calibrated one there; ``symmetric_grids``: activations are rounded
    around zero whatever their range; ``served``: a registered version of it is an MLflow pyfunc.
    """

    name: str
    module: str
    summary: str
    fixed_batch: bool = False
    calibrated_ranges: bool = False
    symmetric_grids: bool = False
    served: bool = True

    @property
    def options(self) -> type[ExportOptions]:
        """The format's options class."""
        options: type[ExportOptions] = import_module(self.module).Options
        return options

    @property
    def write(self) -> Callable[[LightModel, Data, Path, Any, Progress], Exported]:
        """The function that writes the file into a directory."""
        write: Callable[[LightModel, Data, Path, Any, Progress], Exported] = import_module(self.module).write
        return write


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "aotinductor", "lwplugin.export.aotinductor", "AOTInductor package (.pt2), float, for this CPU"
        ),
        Format("onnx", "lwplugin.export.onnx", "ONNX, float or explicit Q/DQ"),
        Format(
            "openvino",
            "lwplugin.export.openvino",
            "OpenVINO IR, float or int8, for CPUs",
            calibrated_ranges=True,
        ),
        Format(
            "executorch",
            "lwplugin.export.executorch",
            "ExecuTorch program for XNNPACK, float, half or int8",
            fixed_batch=True,
        ),
        Format(
            "tensorrt",
            "lwplugin.export.tensorrt",
            "TensorRT engine, float, half or int8, for CUDA GPUs",
            calibrated_ranges=True,
            symmetric_grids=True,
            served=False,
        ),
        Format("tflite", "lwplugin.export.tflite", "TFLite, float, half or int8, for LiteRT"),
        Format("torch_export", "lwplugin.export.torch_export", "torch.export program (.pt2), float"),
    )
}


def export(
    light: LightModel | nn.Module,
    data: Data,
    *,
    format: str = "onnx",  # noqa: A002 - the word everybody uses
    path: str | Path,
    progress: Progress = silent,
    **options: Any,
) -> Exported:
    """Write a model into the directory ``path`` and prove that the file is the model.

    Raises RecipeError for an unknown format or option, ExportError where the model cannot be written or the
    written file, loaded in a fresh process, does not answer as the model does, ModelError where the model does not
    run on the examples in the first place.
    """
    from lwplugin.model.bundle import light as as_light
    from lwplugin.model.forward_error import answer_of

    if format not in FORMATS:
        raise RecipeError("Unknown export format", got=repr(format), do=did_you_mean(format, FORMATS))
    need_data(data)
    chosen = FORMATS[format]
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise ExportError("The place for the export is a file", got=directory, do="give a directory")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / DESCRIPTION).unlink(missing_ok=True)
    source = as_light(light)
    try:
        exported = chosen.write(
            source, data, directory, checked(chosen.options, options, of=f"format '{chosen.name}'"), progress
        )
    except ExportError:
        answer_of(source.module, data.task, data.example())
        raise
    exported.save()
    return exported


def load_exported(path: str | Path) -> Exported:
    """Read a directory that `export` wrote; ExportError where it is not one or the file has changed."""
    directory = Path(path)
    try:
        document = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            "Not a directory with an exported model",
            got=f"{directory} ({error})",
            do="export the model again",
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ExportError(
            f"{DESCRIPTION} has an unknown schema",
            got=str(document)[:80],
            do="export again with this version",
        )
    known = {"schema", "format", "file", "beside", "inputs", "output", "scheme", "digest"}
    try:
        file = _own(directory, str(document["file"]))
        beside = tuple(_own(directory, str(name)) for name in document.get("beside", ()))
        inputs = {
            str(entry["name"]): {key: value for key, value in entry.items() if key != "name"}
            for entry in document["inputs"]
        }
        exported = Exported(
            path=directory,
            format=str(document["format"]),
            file=file,
            digest=str(document["digest"]),
            inputs=inputs,
            output=str(document["output"]),
            scheme=dict(document.get("scheme") or {}),
            meta={key: value for key, value in document.items() if key not in known},
            beside=beside,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{DESCRIPTION} is damaged", got=repr(error), do="export again") from error
    if file_digest(file, *beside) != exported.digest:
        raise ExportError(
            f"{file.name} is not the file that was exported", got="another digest", do="export again"
        )
    return exported


def _own(directory: Path, name: str) -> Path:
    file = directory / name
    if Path(name).name != name or file.is_symlink() or not file.is_file():
        raise ExportError(
            f"{DESCRIPTION} names a file that is not in its directory", got=name, do="export again"
        )
    return file


def file_digest(file: Path, *beside: Path) -> str:
    """SHA-256 of a file's bytes; of all the digests, one a line, where the model is more than one file."""
    digests = []
    for part in (file, *beside):
        with part.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if not beside else hashlib.sha256("\n".join(digests).encode()).hexdigest()
