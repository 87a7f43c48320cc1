"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxruntime

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """An InferenceSession with fixed threads; ``optimize=False`` is the float simulation of an int8 file."""

    def __init__(self) -> None:
        self.version = str(onnxruntime.__version__)
        self._session: Any = None
        self._output = ""

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        provider = _PROVIDERS.get(device)
        if provider is None or provider not in onnxruntime.get_available_providers():
            raise MeasureError(
                f"This onnxruntime cannot run on '{device}'",
                got=", ".join(onnxruntime.get_available_providers()),
                do="measure with device='cpu', or install onnxruntime-gpu",
            )
        self._session = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        options.log_severity_level = 3
        # A pool that spins after its run would slow the other model's block.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(file, options, providers=[provider])
        outputs = [value.name for value in session.get_outputs()]
        if output not in outputs:
            raise MeasureError(f"The file has no output '{output}'", got=", ".join(outputs))
        self._session, self._output = session, output
        return {
            "inputs": [value.name for value in session.get_inputs()],
            "providers": list(session.get_providers()),
        }

    def run(self, feeds: Mapping[str, Array]) -> Array:
        result: Array = self._session.run([self._output], feeds)[0]
        return result
