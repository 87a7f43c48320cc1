"""Runs an exported model file behind `mlflow.pyfunc`. A copy of this file travels with every light version.

It imports nothing of lwplugin and no torch: the machine that serves needs mlflow, numpy and the runtime only.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

THREADS_VARIABLE = "LWPLUGIN_SERVE_THREADS"
BATCH_VARIABLE = "LWPLUGIN_SERVE_BATCH"
DEFAULT_BATCH = 256


class Runtime(Protocol):
    """A loaded file; ``requirements`` are the packages that serving it needs, the one it is named after first."""

    requirements: tuple[str, ...]

    def __init__(self, file: Path, threads: int) -> None: ...

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray: ...


class OnnxRuntime:
    """One onnxruntime session on the CPU."""

    requirements: tuple[str, ...] = ("onnxruntime",)

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(file), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._output = self._session.get_outputs()[0].name

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(self._session.run([self._output], feeds)[0])


class OpenVinoRuntime:
    """One compiled OpenVINO model on the CPU; a request for each thread that asks."""

    requirements: tuple[str, ...] = ("openvino",)

    def __init__(self, file: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
        self._requests = threading.local()

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return np.asarray(self._requests.own.infer(feeds)[0])


class TfliteRuntime:
    """LiteRT interpreters on the CPU, one for each thread that asks: an interpreter holds the inputs of one run."""

    requirements: tuple[str, ...] = ("ai-edge-litert",)

    def __init__(self, file: Path, threads: int) -> None:
        self._file, self._threads = str(file), threads
        self._interpreters = threading.local()
        self._own()

    def _own(self) -> Any:
        if not hasattr(self._interpreters, "own"):
            from ai_edge_litert.interpreter import Interpreter

            self._interpreters.own = Interpreter(model_path=self._file, num_threads=self._threads)
            self._interpreters.own.allocate_tensors()
        return self._interpreters.own

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        interpreter = self._own()
        inputs = interpreter.get_input_details()
        if any(tuple(entry["shape"]) != feeds[entry["name"]].shape for entry in inputs):
            for entry in inputs:
                interpreter.resize_tensor_input(entry["index"], feeds[entry["name"]].shape, strict=True)
            interpreter.allocate_tensors()
        for entry in inputs:
            interpreter.set_tensor(entry["index"], feeds[entry["name"]])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


class TorchExportRuntime:
    """A program of torch.export, run by torch on the CPU."""

    requirements: tuple[str, ...] = ("torch",)

    def __init__(self, file: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._call = self._loaded(str(file))

    def _loaded(self, file: str) -> Any:
        import torch

        return torch.export.load(file).module()

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            answer = self._call(*[torch.from_numpy(np.array(array)) for array in feeds.values()])
        first = answer if isinstance(answer, torch.Tensor) else next(iter(answer))
        return np.asarray(first.float().numpy())


class AotInductorRuntime(TorchExportRuntime):
    """A package that AOTInductor compiled: machine code for CPUs like the one it was made on."""

    def _loaded(self, file: str) -> Any:
        import torch

        return torch._inductor.aoti_load_package(file)


class ExecuTorchRuntime:
    """One ExecuTorch method with XNNPACK; threads take turns, since it plans its memory for one run."""

    requirements: tuple[str, ...] = ("executorch", "torch")

    def __init__(self, file: Path, threads: int) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as Programs
        from executorch.runtime import Verification

        portable_lib._unsafe_reset_threadpool(threads)
        # The program is kept: its method reads the file's memory.
        self._program = Programs.get().load_program(str(file), verification=Verification.Minimal)
        self._method = self._program.load_method("forward")
        self._turn = threading.Lock()

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with self._turn:
            (answer,) = self._method.execute([torch.from_numpy(np.array(array)) for array in feeds.values()])
            return np.array(answer.numpy())


RUNTIMES: dict[str, type[Runtime]] = {
    "aotinductor": AotInductorRuntime,
    "executorch": ExecuTorchRuntime,
    "onnx": OnnxRuntime,
    "openvino": OpenVinoRuntime,
    "tflite": TfliteRuntime,
    "torch_export": TorchExportRuntime,
}


class Input:
    """One named input of the file: its dtype and shape, with -1 for axes that vary."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name = str(entry["name"])
        self.dtype = np.dtype(entry["dtype"])
        self.shape = [size if isinstance(size, int) and size > 0 else -1 for size in entry["shape"]]

    def array(self, value: Any) -> np.ndarray:
        """[n, …] in the file's dtype; a flat row is folded when its size fits. Raises ValueError."""
        array = np.asarray(value)
        if array.dtype == object:
            array = np.stack([np.asarray(row) for row in array])
        if not np.can_cast(array.dtype, self.dtype, casting="same_kind"):
            raise ValueError(
                f"Input '{self.name}' takes {self.dtype}, got {array.dtype}. "
                f"Do: convert it with .astype('{self.dtype}')."
            )
        array = array.astype(self.dtype, copy=False)
        if self._fits(array.shape):
            return array
        features = self.shape[1:]
        if array.ndim == 2 and -1 not in features and int(np.prod(features)) == array.shape[1]:
            return array.reshape(-1, *features)
        raise ValueError(f"Input '{self.name}' has shape {list(array.shape)}, the model takes {self.shape}.")

    def _fits(self, shape: tuple[int, ...]) -> bool:
        pairs = list(zip(self.shape, shape))[1:]
        return len(shape) == len(self.shape) and all(want in (-1, got) for want, got in pairs)


def manifest_of(directory: Path) -> dict[str, Any]:
    """What an export says of itself."""
    manifest: dict[str, Any] = json.loads((directory / "export.json").read_text(encoding="utf-8"))
    return manifest


def inputs_of(directory: Path) -> list[Input]:
    """The inputs that an export's manifest names, in the file's order."""
    return _inputs(manifest_of(directory))


def _inputs(manifest: Mapping[str, Any]) -> list[Input]:
    return [Input(entry) for entry in manifest["inputs"]]


def feeds_of(inputs: list[Input], data: Any) -> dict[str, np.ndarray]:
    """Arrays [n, …] by input name, from whatever `mlflow.pyfunc` hands over. Raises ValueError."""
    feeds = {entry.name: entry.array(value) for entry, value in _matched(inputs, data)}
    sizes = {name: len(array) for name, array in feeds.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"Inputs differ in their number of rows: {sizes}.")
    return feeds


def answer_like(data: Any, output: np.ndarray) -> Any:
    """The output as numpy, or as a DataFrame with the same index where the input was one."""
    if not hasattr(data, "iloc"):
        return output
    import pandas

    return pandas.DataFrame(output if output.ndim <= 2 else output.reshape(len(output), -1), index=data.index)


class ExportedModel:
    """What `mlflow.pyfunc` calls: `predict` on arrays, a DataFrame, or a dict or list of arrays.

    Answers with the file's raw output [n, …] as numpy, or as a DataFrame with the same index where the input
    was one: what `mlflow.pytorch` answers for the parent.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        manifest = manifest_of(directory)
        kind = manifest["format"]
        if kind not in RUNTIMES:
            raise ValueError(f"No serving runtime for format '{kind}'. Known: {', '.join(sorted(RUNTIMES))}.")
        self.inputs = _inputs(manifest)
        threads = _number(THREADS_VARIABLE, config.get("threads"), 1)
        self._batch = max(1, _number(BATCH_VARIABLE, config.get("batch"), DEFAULT_BATCH))
        self._fixed = next((i.shape[0] for i in self.inputs if i.shape[0] > 0), None)
        self._runtime = RUNTIMES[kind](_inside(directory, manifest["file"]), threads)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return answer_like(data, self.run(feeds_of(self.inputs, data)))

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """Arrays [n, …] that `feeds_of` made → [n, …]."""
        rows = len(next(iter(feeds.values())))
        step = self._fixed or self._batch
        parts = []
        for start in range(0, max(rows, 1), step):
            chunk = {name: array[start : start + step] for name, array in feeds.items()}
            count = min(step, rows - start)
            wanted = self._fixed or max(count, 1)  # no rows: one of zeros tells the answer's shape
            chunk = {name: _padded(array, wanted) for name, array in chunk.items()}
            parts.append(self._runtime.run(chunk)[:count])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _matched(inputs: list[Input], data: Any) -> Iterator[tuple[Input, Any]]:
    single = len(inputs) == 1
    if hasattr(data, "iloc"):
        if single:
            wide = data.shape[1] > 1 or data.dtypes.iloc[0].kind != "O"
            yield inputs[0], data.to_numpy() if wide else data.iloc[:, 0].to_numpy()
            return
        data = {column: data[column].to_numpy() for column in data.columns}
    if isinstance(data, Mapping):
        if single and len(data) == 1:
            yield inputs[0], next(iter(data.values()))
            return
        names = [entry.name for entry in inputs]
        if set(names) != set(data):
            raise ValueError(f"The model takes inputs {sorted(names)}, got {sorted(map(str, data))}.")
        for entry in inputs:
            yield entry, data[entry.name]
    elif single:
        yield inputs[0], data
    else:
        if not isinstance(data, list | tuple) or len(data) != len(inputs):
            names = [entry.name for entry in inputs]
            raise ValueError(f"The model takes {len(names)} inputs: give a dict of arrays named {names}.")
        yield from zip(inputs, data)


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    """At least ``rows`` rows: the last one again, or zeros where there is none."""
    if len(array) >= rows:
        return array
    last = array[-1:] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
    return np.concatenate([array, np.repeat(last, rows - len(array), axis=0)])


def _number(variable: str, configured: Any, default: int) -> int:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default if configured is None else int(configured)
    if not text.isdigit():
        raise ValueError(f"Environment variable {variable} must be a whole number, got '{text}'.")
    return int(text)


def _inside(directory: Path, name: str) -> Path:
    file = (directory / name).resolve()
    if not file.is_relative_to(directory.resolve()):
        raise ValueError(f"export.json names a file outside its directory: '{name}'.")
    return file


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> ExportedModel:
    """Called by `mlflow.pyfunc.load_model` with the export directory."""
    return ExportedModel(Path(path), model_config or {})
