"""ExecuTorch with XNNPACK, in the Python of its toolchain."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime, Verification

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array


class ExecuTorchRuntime:
    """One loaded method; inputs go by their order, a file has no names. There is no other way to run it, so
    ``optimize`` changes nothing."""

    def __init__(self) -> None:
        self.version = version("executorch")
        self._method: Any = None
        self._program: Any = None

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if device != "cpu":
            raise MeasureError("ExecuTorch runs on the CPU here", got=device, do="measure with device='cpu'")
        portable_lib._unsafe_reset_threadpool(threads)
        # The program is kept: its method reads the file's memory.
        self._program = Runtime.get().load_program(file, verification=Verification.Minimal)
        self._method = self._program.load_method("forward")
        return {"inputs": [], "providers": ["XNNPACK"]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        (answer,) = self._method.execute([torch.from_numpy(array) for array in feeds.values()])
        result: Array = np.array(answer.numpy())
        return result
