"""LiteRT, the runtime of TFLite files, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array


class TfliteRuntime:
    """One interpreter with the XNNPACK delegate; ``optimize=False`` runs the reference kernels instead."""

    def __init__(self) -> None:
        self.version = version("ai-edge-litert")
        self._interpreter: Any = None
        self._inputs: dict[str, tuple[int, Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._output = 0

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if device != "cpu":
            raise MeasureError("LiteRT runs on the CPU here", got=device, do="measure with device='cpu'")
        resolver = OpResolverType.AUTO if optimize else OpResolverType.BUILTIN_REF
        self._interpreter = None
        made = Interpreter(model_path=file, num_threads=threads, experimental_op_resolver_type=resolver)
        made.allocate_tensors()
        outputs = {entry["name"]: entry["index"] for entry in made.get_output_details()}
        if output not in outputs:
            raise MeasureError(f"The file has no output '{output}'", got=", ".join(outputs))
        inputs = made.get_input_details()
        self._inputs = {entry["name"]: (entry["index"], entry["dtype"]) for entry in inputs}
        self._shapes = {entry["name"]: tuple(entry["shape"]) for entry in inputs}
        self._interpreter, self._output = made, outputs[output]
        return {"inputs": list(self._inputs), "providers": ["XNNPACK" if optimize else "reference"]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        arrays = {name: np.asarray(feeds[name], dtype) for name, (_, dtype) in self._inputs.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(self._inputs[name][0], shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, array in arrays.items():
            self._interpreter.set_tensor(self._inputs[name][0], array)
        self._interpreter.invoke()
        result: Array = self._interpreter.get_tensor(self._output)
        return result
