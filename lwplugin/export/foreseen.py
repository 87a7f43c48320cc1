"""What will be refused, as far as names alone tell: said when a recipe is read, before hours of compression.

Silence promises nothing: the exporter knows the layers and has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lwplugin.export.base import FORMATS

_WITH_INTEGERS = "'onnx' or 'openvino'"
_QUANTIZED = ("int8", "qat", "weight_only", "codebook", "binary", "binary_learned", "half")
_TABLES = ("codebook", "binary", "binary_learned")
# Format → the methods of `quantize` whose layers it cannot hold.
_CANNOT_HOLD = {
    "aotinductor": _QUANTIZED,
    "torch_export": _QUANTIZED,
    "executorch": ("weight_only", *_TABLES),
    "tflite": ("weight_only", *_TABLES),
    "openvino": _TABLES,
}
_RUNS_ON = {"tensorrt": "cuda", "aotinductor": "cpu", "openvino": "cpu", "tflite": "cpu", "executorch": "cpu"}


def quantized(form: str, method: str, options: Mapping[str, Any]) -> str | None:
    """Why a file of this format cannot hold what ``quantize`` makes; None where it can, or where layers decide."""
    spared = bool(options.get("skip")) and form not in ("aotinductor", "torch_export")
    narrow = method == "half" and options.get("dtype") == "bfloat16" and form in ("executorch", "tflite")
    if narrow:
        return f"format '{form}' has no kernels for bfloat16: use dtype float16, or format 'onnx'"
    if method not in _CANNOT_HOLD.get(form, ()) or spared:
        return None
    if form in ("aotinductor", "torch_export"):
        return f"format '{form}' holds float models only: leave the line out, or use format {_WITH_INTEGERS}"
    do = "format 'onnx'" if form == "openvino" else "method int8, or format 'onnx'"
    return f"format '{form}' has no kernel that reads the layers of {method}: use {do}"


def device(form: str, named: str) -> str | None:
    """Why this format does not run on a device called ``cpu`` or ``cuda``; None where it may."""
    wanted = _RUNS_ON.get(form, named)
    if named in ("cpu", "cuda") and named != wanted:
        return f"format '{form}' does not run on '{named}': write device '{wanted}', or format 'onnx'"
    return None


def registered(form: str) -> str | None:
    """Why a target of this format cannot be registered; None where it can."""
    if FORMATS[form].served:
        return None
    served = ", ".join(sorted(name for name, known in FORMATS.items() if known.served))
    return f"MLflow serves {served} and not '{form}': leave `register` out, or give this target a recipe without it"
