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
    """A loaded file; ``requirement`` is the package that serving it needs."""

    requirement: str

    def __init__(self, file: Path, threads: int) -> None: ...

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray: ...

    def output_shape(self) -> list[int]: ...


class OnnxRuntime:
    """One onnxruntime session on the CPU."""

    requirement = "onnxruntime"

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

    def output_shape(self) -> list[int]:
        """Without the batch axis; axes only known when running count as 0."""
        shape = self._session.get_outputs()[0].shape[1:]
        return [size if isinstance(size, int) else 0 for size in shape]


class OpenVinoRuntime:
    """One compiled OpenVINO model on the CPU; a request for each thread that asks."""

    requirement = "openvino"

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

    def output_shape(self) -> list[int]:
        """Without the batch axis; axes only known when running count as 0."""
        shape = list(self._compiled.outputs[0].partial_shape)[1:]
        return [size.get_length() if size.is_static else 0 for size in shape]


class TfliteRuntime:
    """LiteRT interpreters on the CPU, one for each thread that asks: an interpreter holds the inputs of one run."""

    requirement = "ai-edge-litert"

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

    def output_shape(self) -> list[int]:
        """Without the batch axis; axes only known when running count as 0."""
        shape = self._own().get_output_details()[0]["shape_signature"][1:]
        return [int(size) if size > 0 else 0 for size in shape]


RUNTIMES: dict[str, type[Runtime]] = {
    "onnx": OnnxRuntime,
    "openvino": OpenVinoRuntime,
    "tflite": TfliteRuntime,
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


class ExportedModel:
    """What `mlflow.pyfunc` calls: `predict` on arrays, a DataFrame, or a dict or list of arrays.

    Answers with the file's raw output [n, …] as numpy, or as a DataFrame with the same index where the input
    was one: what `mlflow.pytorch` answers for the parent.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        manifest = json.loads((directory / "export.json").read_text(encoding="utf-8"))
        kind = manifest["format"]
        if kind not in RUNTIMES:
            raise ValueError(f"No serving runtime for format '{kind}'. Known: {', '.join(sorted(RUNTIMES))}.")
        self.inputs = [Input(entry) for entry in manifest["inputs"]]
        threads = _number(THREADS_VARIABLE, config.get("threads"), 1)
        self._batch = max(1, _number(BATCH_VARIABLE, config.get("batch"), DEFAULT_BATCH))
        self._fixed = next((i.shape[0] for i in self.inputs if i.shape[0] > 0), None)
        self._runtime = RUNTIMES[kind](_inside(directory, manifest["file"]), threads)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        feeds = {entry.name: entry.array(value) for entry, value in self._match(data)}
        sizes = {name: len(array) for name, array in feeds.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"Inputs differ in their number of rows: {sizes}.")
        output = self._run(feeds, next(iter(sizes.values())))
        if hasattr(data, "iloc"):
            import pandas

            flat = output if output.ndim <= 2 else output.reshape(len(output), -1)
            return pandas.DataFrame(flat, index=data.index)
        return output

    def _match(self, data: Any) -> Iterator[tuple[Input, Any]]:
        single = len(self.inputs) == 1
        if hasattr(data, "iloc"):
            if single:
                wide = data.shape[1] > 1 or data.dtypes.iloc[0].kind != "O"
                yield self.inputs[0], data.to_numpy() if wide else data.iloc[:, 0].to_numpy()
                return
            data = {column: data[column].to_numpy() for column in data.columns}
        if isinstance(data, Mapping):
            if single and len(data) == 1:
                yield self.inputs[0], next(iter(data.values()))
                return
            names = [entry.name for entry in self.inputs]
            if set(names) != set(data):
                raise ValueError(f"The model takes inputs {sorted(names)}, got {sorted(map(str, data))}.")
            for entry in self.inputs:
                yield entry, data[entry.name]
        elif single:
            yield self.inputs[0], data
        else:
            if not isinstance(data, list | tuple) or len(data) != len(self.inputs):
                names = [entry.name for entry in self.inputs]
                raise ValueError(f"The model takes {len(names)} inputs: give a dict of arrays named {names}.")
            yield from zip(self.inputs, data)

    def _run(self, feeds: dict[str, np.ndarray], rows: int) -> np.ndarray:
        if rows == 0:
            return np.zeros((0, *self._runtime.output_shape()), np.float32)
        step = self._fixed or self._batch
        parts = []
        for start in range(0, rows, step):
            chunk = {name: array[start : start + step] for name, array in feeds.items()}
            count = min(step, rows - start)
            if self._fixed and count < step:
                chunk = {name: _padded(array, step) for name, array in chunk.items()}
            parts.append(self._runtime.run(chunk)[:count])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


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
