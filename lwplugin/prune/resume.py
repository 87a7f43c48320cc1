"""The state of a method that works in rounds, in one file beside the step: a killed run goes on where it stood."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import nn

from lwplugin.artifact import digest_json
from lwplugin.errors import MethodError
from lwplugin.prune.base import PruneConfig

if TYPE_CHECKING:
    from lwplugin.data import Data


class Rounds:
    """Plain numbers and tensors, kept under the digest of what must be the same for them to be of use."""

    def __init__(self, checkpoint: Path | None, parent: nn.Module, data: Data, config: PruneConfig) -> None:
        self.path = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.rounds")
        self._identity = digest_json(
            {
                "config": config.model_dump(mode="json"),
                "data": data.digest,
                "task": data.task.spec.model_dump(mode="json"),
                "structure": [
                    [n, list(t.shape), float(t.double().sum())] for n, t in parent.state_dict().items()
                ],
            }
        )

    def read(self) -> dict[str, Any] | None:
        """What was saved last, None where nothing was.

        Raises:
            MethodError: a damaged file, or one of other options, examples or another model.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file fails anywhere in the unpickler
            raise MethodError(
                f"The checkpoint '{self.path}' cannot be read", got=error, do="delete it to begin anew"
            ) from error
        if not isinstance(state, dict) or state.get("identity") != self._identity:
            raise MethodError(
                f"The checkpoint '{self.path}' is of another run",
                got="other options, examples or another model",
                do="delete it to begin anew, or give the options it was written with",
            )
        return state

    def save(self, **state: Any) -> None:
        """Written beside and renamed over: a kill leaves the old or the new file whole."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        try:
            with written.open("wb") as stream:
                torch.save({"identity": self._identity, **state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(self.path)
        finally:
            written.unlink(missing_ok=True)
