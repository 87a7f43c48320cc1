"""A package that AOTInductor compiled, run by torch's loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array


class AotInductorRuntime:
    """One loaded package; inputs go by their order. ``optimize`` changes nothing: the code is compiled."""

    def __init__(self) -> None:
        self.version = str(torch.__version__)
        self._model: Any = None

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if device != "cpu":
            raise MeasureError(
                "The package was compiled for a CPU", got=device, do="measure with device='cpu'"
            )
        torch.set_num_threads(threads)
        self._model = torch._inductor.aoti_load_package(file)
        return {"inputs": [], "providers": ["cpu"]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        answer = self._model(*[torch.from_numpy(np.array(array)) for array in feeds.values()])
        first = answer if isinstance(answer, torch.Tensor) else next(iter(answer))
        result: Array = first.float().numpy()
        return result
