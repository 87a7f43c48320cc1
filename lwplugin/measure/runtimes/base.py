"""What a runtime adapter must do, and which runtime runs which format.

A new runtime is one file with one class, one line in RUNTIMES and its formats in FORMATS. Adapters import
their runtime inside methods or at the top of their own file, and never torch unless they are the torch one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lwplugin.errors import MeasureError, did_you_mean
from lwplugin.measure.wire import Array

RUNTIMES: dict[str, str] = {
    "onnxruntime": "lwplugin.measure.runtimes.onnx:OnnxRuntime",
    "openvino": "lwplugin.measure.runtimes.openvino:OpenVinoRuntime",
    "aotinductor": "lwplugin.measure.runtimes.aotinductor:AotInductorRuntime",
    "executorch": "lwplugin.measure.runtimes.executorch:ExecuTorchRuntime",
    "tensorrt": "lwplugin.measure.runtimes.tensorrt:TensorRtRuntime",
    "tflite": "lwplugin.measure.runtimes.tflite:TfliteRuntime",
    "torch": "lwplugin.measure.runtimes.torch:TorchRuntime",
}
FORMATS: dict[str, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "aotinductor": "aotinductor",
    "executorch": "executorch",
    "tensorrt": "tensorrt",
    "tflite": "tflite",
    "torch": "torch",
    "bundle": "torch",
    "pt2": "torch",
    "torch_export": "torch",
}
# Runtime → the package it imports, where the names differ.
PACKAGES: dict[str, str] = {"aotinductor": "torch", "tflite": "ai_edge_litert"}
# Runtime → the toolchain in whose Python it lives, for those that do not live in this one.
TOOLCHAINS: dict[str, str] = {"executorch": "executorch"}


class Runtime(Protocol):
    """One loaded model at a time; ``run`` takes and returns numpy arrays, batch first."""

    version: str

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        """Create the session; returns facts for the report. ``optimize`` False runs the graph as written."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> Array:
        """One inference, finished when it returns (device work included)."""
        ...


@runtime_checkable
class Profiles(Protocol):
    """A runtime that can tell where the time of an inference goes."""

    def profile(
        self,
        file: str,
        *,
        device: str,
        threads: int,
        output: str,
        feeds: Sequence[Mapping[str, Array]],
        seconds: float,
    ) -> tuple[int, list[dict[str, Any]]]:
        """Runs, and every kernel in the order of execution: ``name``, ``kind`` (operator), ``kernel`` (what
        the runtime calls its implementation, or empty), ``provider`` and ``ms`` in one inference. The loaded
        session stays as it is."""
        ...


def runtime_of(file_format: str) -> str:
    """The runtime that runs a format; MeasureError naming the known formats."""
    if file_format not in FORMATS:
        raise MeasureError(
            "No runtime here runs this format", got=file_format, do=did_you_mean(file_format, FORMATS)
        )
    return FORMATS[file_format]


def command(name: str, module: str, *arguments: str) -> list[str]:
    """The command that runs a module (or file) of ours in the Python that has a runtime.

    Raises ToolchainError where that is a toolchain that is not installed.
    """
    if name in TOOLCHAINS:
        from lwplugin.toolchain import borrowed

        return borrowed(TOOLCHAINS[name], module, *arguments, why=f"Running {name}")
    # -P keeps a file's own folder off the import path: its onnx.py must not stand in for onnx.
    return [sys.executable, "-P", *([] if module.endswith(".py") else ["-m"]), module, *arguments]


def create(name: str) -> Runtime:
    """Import and create an adapter; MeasureError where the runtime is unknown."""
    if name not in RUNTIMES:
        raise MeasureError("Unknown runtime", got=name, do=did_you_mean(name, RUNTIMES))
    module, _, attribute = RUNTIMES[name].partition(":")
    runtime: Runtime = getattr(importlib.import_module(module), attribute)()
    return runtime
