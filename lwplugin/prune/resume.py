"""The state of a method that works in rounds, in one file beside the step: a killed run goes on where it stood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lwplugin.artifact import digest_json
from lwplugin.errors import MethodError
from lwplugin.prune.base import PruneConfig
from lwplugin.training.state_file import read_state, write_state

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
        state: dict[str, Any] = read_state(self.path, anew="begin anew")
        if not isinstance(state, dict) or state.get("identity") != self._identity:
            raise MethodError(
                f"The checkpoint '{self.path}' is of another run",
                got="other options, examples or another model",
                do="delete it to begin anew, or give the options it was written with",
            )
        return state

    def save(self, **state: Any) -> None:
        """Over what was saved before, atomically."""
        if self.path is not None:
            write_state(self.path, {"identity": self._identity, **state})
