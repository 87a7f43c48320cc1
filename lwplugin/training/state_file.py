"""State in one file that survives a kill: written whole or not at all, read without unpickling objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from lwplugin.errors import MethodError


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes beside ``path``, syncs, then renames over it: a kill leaves the old or the new file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with written.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def read_state(path: Path, *, anew: str) -> Any:
    """What was written, tensors on the CPU; ``anew`` says what deleting the file leads to.

    Raises:
        MethodError: a damaged file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file fails anywhere in the unpickler
        raise MethodError(
            f"The checkpoint '{path}' cannot be read", got=error, do=f"delete it to {anew}"
        ) from error
