"""PyTorch: a bundle directory, or a ``.pt2`` file of torch.export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array


class TorchRuntime:
    """Eager torch in eval mode without gradients."""

    def __init__(self) -> None:
        self.version = str(torch.__version__)
        self._module: Any = None
        self._positional = False
        self._device = torch.device("cpu")

    def load(self, file: str, *, device: str, threads: int, optimize: bool, output: str) -> dict[str, Any]:
        if device == "cuda" and not torch.cuda.is_available():
            raise MeasureError("torch sees no CUDA device", do="measure with device='cpu'")
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._module = _read(Path(file)).to(self._device)
        # A .pt2 program that export wrote takes its inputs in the file's order, without names.
        self._positional = Path(file).is_file()
        return {"inputs": [], "providers": [device]}

    def run(self, feeds: Mapping[str, Array]) -> Array:
        tensors = {name: torch.from_numpy(np.array(value)).to(self._device) for name, value in feeds.items()}
        with torch.inference_mode():
            raw = self._module(*tensors.values()) if self._positional else _call(self._module, tensors)
        result: Array = _first_tensor(raw).float().cpu().numpy()
        return result


def _read(path: Path) -> torch.nn.Module:
    if path.is_dir():
        from lwplugin.model import load

        return load(path).module.eval()
    return torch.export.load(path).module()


def _call(module: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if list(tensors) == ["input"]:
        return module(tensors["input"])
    if all(name == f"input_{place}" for place, name in enumerate(tensors)):
        return module(*tensors.values())
    return module(**tensors)


def _first_tensor(raw: Any) -> torch.Tensor:
    if isinstance(raw, torch.Tensor):
        return raw
    values = list(raw.values()) if hasattr(raw, "values") else list(raw)
    tensor: torch.Tensor = next(value for value in values if isinstance(value, torch.Tensor))
    return tensor
