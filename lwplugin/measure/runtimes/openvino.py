"""OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import openvino

from lwplugin.errors import MeasureError
from lwplugin.measure.runtimes.profiling import Kernels, run_for
from lwplugin.measure.wire import Array


class OpenVinoRuntime:
    """One compiled model with one stream and fixed threads, in full precision where it is not integer.

    ``optimize=False`` leaves out the integer kernels: Q/DQ is computed in float.
    """

    def __init__(self) -> None:
        self.version = str(openvino.__version__)
        self._request: Any = None
        self._output: Any = None

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if device != "cpu":
            raise MeasureError("OpenVINO runs on the CPU here", got=device, do="measure with device='cpu'")
        self._request = self._output = None
        compiled = openvino.Core().compile_model(file, "CPU", _settings(threads, optimize))
        outputs = [port.any_name for port in compiled.outputs]
        if output not in outputs:
            raise MeasureError(f"The file has no output '{output}'", got=", ".join(outputs))
        self._request, self._output = compiled.create_infer_request(), compiled.output(output)
        return {"inputs": [port.any_name for port in compiled.inputs], "providers": ["CPU"]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        result: Array = self._request.infer(dict(feeds), share_inputs=True)[self._output]
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
        """From OpenVINO's performance counters, which count whole microseconds."""
        settings = {**_settings(threads, True), "PERF_COUNT": True}
        request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
        kernels = Kernels()

        def run(feed: Mapping[str, Array]) -> None:
            request.infer(dict(feed), share_inputs=True)
            for place, seen in enumerate(request.profiling_info):
                if seen.status == openvino.ProfilingInfo.Status.EXECUTED:
                    kernels.add(
                        (place, seen.node_name),
                        1e3 * seen.real_time.total_seconds(),
                        name=seen.node_name,
                        kind=seen.node_type,
                        kernel=seen.exec_type,
                        provider="CPU",
                    )

        runs = run_for(run, feeds, seconds)
        return runs, kernels.listed(runs)


def _settings(threads: int, optimize: bool) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Some CPUs would compute a float file in bfloat16 otherwise.
        "INFERENCE_PRECISION_HINT": "f32",
        # Products with 4-bit weights would round their inputs to 8 bits otherwise.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        # A worker pins itself; pinning again would put both models' threads on one core.
        "ENABLE_CPU_PINNING": False,
        **({} if optimize else {"LP_TRANSFORMS_MODE": False}),
    }
