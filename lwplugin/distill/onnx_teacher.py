"""An ONNX file as a teacher: run by onnxruntime, so it can be of any framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.artifact import digest_file
from lwplugin.errors import MissingExtraError, ModelError


class OnnxTeacher(nn.Module):
    """Inputs by name where the data name them, else in the file's order; answers on the CPU, without gradients.

    Raises MissingExtraError without onnxruntime, ModelError for a file it cannot load or inputs it does not have.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = Path(file)
        self.digest = digest_file(self.file)
        self._session = _session(self.file)

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        """The file's only output, or a dict of all of them by name."""
        wanted = {entry.name: entry.type for entry in self._session.get_inputs()}
        given = named or dict(zip(wanted, args, strict=False))
        if set(given) != set(wanted):
            raise ModelError(
                f"The ONNX teacher '{self.file.name}' takes other inputs",
                got=f"{', '.join(given)}; it takes {', '.join(wanted)}",
                do="name the inputs in the data as the file does",
            )
        feeds = {name: _as(tensor, wanted[name]) for name, tensor in given.items()}
        names = [entry.name for entry in self._session.get_outputs()]
        answers = [torch.from_numpy(np.array(value)) for value in self._session.run(names, feeds)]
        return answers[0] if len(answers) == 1 else dict(zip(names, answers, strict=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxTeacher:
        return OnnxTeacher(self.file)


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="onnx", why="An ONNX teacher") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"'{file}' cannot be loaded as a teacher", got=error, do="give an ONNX file that onnxruntime runs"
        ) from error


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def _as(tensor: Tensor, kind: str) -> np.ndarray:
    values: np.ndarray = tensor.detach().cpu().numpy()
    return np.ascontiguousarray(values.astype(_TYPES.get(kind, values.dtype), copy=False))
