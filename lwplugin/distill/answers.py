"""A teacher's answers to all training examples, worked out once: a file that is read by rows, or memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.data.readers import ArrayReader, TensorReader
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.data import Split

_MOST_IN_MEMORY_BYTES = 2**30
_BATCH = 256


class Answers:
    """Answers float32 [n, …] of a whole split."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def rows(self, ids: np.ndarray) -> Tensor:
        """The answers to these examples, in their order."""
        return torch.from_numpy(np.array(self.values[ids]))


def write_answers(
    module: nn.Module,
    split: Split,
    answer: Callable[[Inputs], Tensor],
    folder: Path | None,
    progress: Progress,
    *,
    digest: str,
) -> Answers | None:
    """The answers of ``module`` to every example; found again in ``folder`` after a crash.

    One batch is held at a time, and the file is read by rows. ``digest`` says what the examples are. None where
    they would differ in length or take too much room.
    """
    with torch.no_grad():
        first = answer(next(split.batches(1)).inputs)[0]
    if first.ndim > 1 and not isinstance(split.reader, TensorReader | ArrayReader):
        return None
    shape = (len(split), *first.shape)
    size = 4 * prod(shape)
    if folder is None:
        if size > _MOST_IN_MEMORY_BYTES:
            return None
        return Answers(_filled(np.empty(shape, np.float32), split, answer, progress))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"answers-{_identity(module, digest)[:32]}.npy"
    if not file.is_file():
        if 2 * size > shutil.disk_usage(folder).free:
            return None
        temporary = file.with_name(f".{uuid.uuid4().hex[:12]}.npy")
        try:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            _filled(mapped, split, answer, progress).flush()
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return Answers(np.load(file, mmap_mode="r"))


def _filled(values: Any, split: Split, answer: Callable[[Inputs], Tensor], progress: Progress) -> Any:
    batches = -(-len(split) // _BATCH)
    with torch.no_grad():
        for done, batch in enumerate(split.batches(_BATCH), start=1):
            values[batch.ids] = answer(batch.inputs).cpu().numpy()
            progress("the teacher answers", done, batches)
    return values


def _identity(module: nn.Module, examples: str) -> str:
    """Of the teachers and the examples: a folder may outlive a change of either."""
    digest = hashlib.sha256(examples.encode())
    for part in module.modules():
        digest.update(str(getattr(part, "digest", "")).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
