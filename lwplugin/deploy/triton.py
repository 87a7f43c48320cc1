"""A Triton Inference Server model repository: `<name>/config.pbtxt` and `<name>/<version>/<file>`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.deploy.source import Deployable
from lwplugin.deploy.tensors import Tensor, inputs_of, output_of
from lwplugin.errors import ExportError

# Format → Triton backend, and the file name that it looks for.
BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "openvino": ("openvino", "model.xml")}
_TYPES = {
    **{f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
    "bool": "TYPE_BOOL",
}


class TritonOptions(BaseModel):
    """How the server runs the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: int = Field(64, ge=1, description="largest batch; a file with a fixed batch keeps its own")
    threads: int | None = Field(None, ge=1, description="of one inference; None: those it was measured with")
    instances: int = Field(1, ge=1, description="inferences at once")
    queue_delay_us: int = Field(
        0, ge=0, description="how long a request may wait for others to share its batch, in microseconds"
    )
    gpu: bool = Field(False, description="run on GPUs")


class Enum(str):
    """A word that protobuf's text format writes without quotes."""


def write_repository(
    source: Deployable, directory: Path, options: TritonOptions | None = None, *, name: str | None = None
) -> Path:
    """Add the model to the repository ``directory``; another version of it there stays.

    Returns the model's directory. Raises ExportError for a format that no backend serves, a type that Triton
    does not know, or a version that is there already.
    """
    options, exported = options or TritonOptions(), source.exported
    if exported.format not in BACKENDS:
        raise ExportError(
            f"Triton has no backend for format '{exported.format}' here",
            got=f"backends for {', '.join(sorted(BACKENDS))}",
            do="export for a target of one of these formats",
        )
    name = name or source.name
    model, file = directory / name, BACKENDS[exported.format][1]
    version = model / str(source.version)
    if version.exists():
        raise ExportError(
            "The repository holds this version already",
            got=version,
            do="remove it first, or write into another repository",
        )
    text = pbtxt(model_config(source, options, name=name))
    staged = model / f".{source.version}.part"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for part, kept in _parts(source, file).items():
        shutil.copy(part, staged / kept)
    # A server that polls the repository must see the configuration before the version, and both whole.
    (model / ".config.pbtxt").write_text(text, encoding="utf-8")
    (model / ".config.pbtxt").replace(model / "config.pbtxt")
    staged.rename(version)
    return model


def model_config(source: Deployable, options: TritonOptions, *, name: str) -> dict[str, Any]:
    """The fields of Triton's ``ModelConfig``; repeated ones as lists."""
    inputs, output = inputs_of(source.exported), output_of(source.exported)
    free = all(tensor.shape and tensor.shape[0] == -1 for tensor in (*inputs, output))
    threads = options.threads or source.threads or 1
    config: dict[str, Any] = {
        "name": name,
        "backend": BACKENDS[source.exported.format][0],
        "max_batch_size": options.max_batch if free else 0,
        "input": [_tensor(tensor, batched=free) for tensor in inputs],
        "output": [_tensor(output, batched=free)],
        "instance_group": [
            {"count": options.instances, "kind": Enum("KIND_GPU" if options.gpu else "KIND_CPU")}
        ],
        "parameters": [
            {"key": key, "value": {"string_value": value}}
            for key, value in _parameters(source.exported.format, threads).items()
        ],
    }
    if free and options.max_batch > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": options.queue_delay_us}
    return config


def pbtxt(config: dict[str, Any], indent: str = "") -> str:
    """Protobuf text format of nested dicts, lists of them and plain values.

    >>> print(pbtxt({"name": "net", "input": [{"dims": [1, 28]}], "kind": Enum("KIND_CPU")}), end="")
    name: "net"
    input {
      dims: [1, 28]
    }
    kind: KIND_CPU
    """
    lines = []
    for key, value in config.items():
        for one in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
            if isinstance(one, dict):
                lines.append(f"{indent}{key} {{\n{pbtxt(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {_plain(one)}\n")
    return "".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)


def _tensor(tensor: Tensor, *, batched: bool) -> dict[str, Any]:
    if tensor.dtype not in _TYPES:
        raise ExportError(f"Triton has no type for {tensor.dtype}", got=f"tensor '{tensor.name}'")
    dims = list(tensor.shape[1:] if batched else tensor.shape)
    entry: dict[str, Any] = {"name": tensor.name, "data_type": Enum(_TYPES[tensor.dtype])}
    if dims:
        return {**entry, "dims": dims}
    # One number for each example: Triton wants a dimension, the file has none.
    return {**entry, "dims": [1], "reshape": {"shape": []}}


def _parameters(file_format: str, threads: int) -> dict[str, str]:
    if file_format == "openvino":
        return {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
    return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}


def _parts(source: Deployable, file: str) -> dict[Path, str]:
    """File → its name in the repository. An ONNX file finds its external data by name, an IR by its own."""
    exported = source.exported
    if exported.format == "openvino":
        renamed = {part: Path(file).with_suffix(part.suffix).name for part in exported.beside}
    else:
        renamed = {part: part.name for part in exported.beside}
    return {exported.file: file, **renamed}
