"""ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from lwplugin.errors import MeasureError
from lwplugin.measure.runtimes.profiling import Kernels, run_for
from lwplugin.measure.wire import Array

_KERNEL = "_kernel_time"
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
        session = onnxruntime.InferenceSession(file, _options(threads, optimize), providers=[provider])
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
        """From onnxruntime's own profiler; its clock makes every kernel look a little longer."""
        kernels = Kernels()
        with tempfile.TemporaryDirectory() as folder:
            options = _options(threads, True)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(file, options, providers=[_PROVIDERS[device]])
            runs = run_for(lambda feed: session.run([output], feed), feeds, seconds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        for event in events:
            name = str(event["name"])
            if event.get("cat") == "Node" and name.endswith(_KERNEL):
                said = event["args"]
                kernels.add(
                    name,
                    1e-3 * event["dur"],
                    name=name.removesuffix(_KERNEL),
                    kind=str(said["op_name"]),
                    kernel="",
                    provider=str(said.get("provider", "")),
                )
        return runs, kernels.listed(runs)


def _options(threads: int, optimize: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # A pool that spins after its run would slow the other model's block.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options
