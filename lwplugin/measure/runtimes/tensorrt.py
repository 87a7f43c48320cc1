"""TensorRT and TensorRT-RTX on a CUDA GPU. Never run where no such GPU is; device memory is torch's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array


class TensorRtRuntime:
    """One engine and one execution context; ``run`` ends when the stream has."""

    def __init__(self) -> None:
        self.version = ""
        self._context: Any = None
        self._engine: Any = None
        self._output = ""

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if not device.startswith("cuda") or not torch.cuda.is_available():
            raise MeasureError(
                "An engine runs on a CUDA GPU",
                got=device if torch.cuda.is_available() else "no CUDA GPU here",
                do="give the target device 'cuda' and run this step on a GPU node",
            )
        about = _about(Path(file))
        trt = import_module(about["library"])
        self.version = f"{about['library']} {trt.__version__}"
        _same_kind(about, str(trt.__version__))
        engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(Path(file).read_bytes())
        if engine is None:
            raise MeasureError(
                "The engine does not load",
                got=f"{file} in {self.version}",
                do="export it again on this machine",
            )
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        if output not in outputs:
            raise MeasureError(f"The engine has no output '{output}'", got=", ".join(outputs))
        self._engine, self._context, self._output = engine, engine.create_execution_context(), output
        inputs = [name for name in names if name not in outputs]
        return {"inputs": inputs, "providers": [f"{about['library']} {torch.cuda.get_device_name()}"]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        stream = torch.cuda.current_stream()
        held = {name: torch.from_numpy(value).cuda() for name, value in feeds.items()}
        for name, tensor in held.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        answer = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
        self._context.set_tensor_address(self._output, answer.data_ptr())
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise MeasureError("The engine did not run", got=f"inputs {sorted(held)}", do="see the log above")
        stream.synchronize()
        result: Array = answer.cpu().numpy()
        return result


def _about(file: Path) -> dict[str, Any]:
    try:
        engine: dict[str, Any] = json.loads((file.parent / "export.json").read_text(encoding="utf-8"))[
            "engine"
        ]
    except (OSError, ValueError, KeyError):
        # The comparison right after the build comes before export.json.
        for name in ("tensorrt", "tensorrt_rtx"):
            try:
                return {"library": name, "version": str(import_module(name).__version__)}
            except ImportError:
                continue
        raise MeasureError("TensorRT is not installed", do="pip install 'lwplugin[tensorrt]'") from None
    return engine


def _same_kind(about: Mapping[str, Any], version: str) -> None:
    """An engine of another version or GPU is refused by name; the library would only say that it cannot."""
    mine = ".".join(map(str, torch.cuda.get_device_capability()))
    built_for = about.get("compute_capabilities", [mine])
    if mine not in built_for and about.get("hardware_compatibility") != "ampere_plus":
        raise MeasureError(
            "The engine was built for another GPU",
            got=f"compute capability {', '.join(built_for)}, this one has {mine}",
            do="export again on this GPU",
        )
    if version != about["version"] and not about.get("version_compatible"):
        raise MeasureError(
            "The engine was built by another version",
            got=f"{about['version']}, here is {version}",
            do="export again with this version, or with version_compatible=true",
        )
