"""A training's whole state in one file: written atomically, loaded without unpickling objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwplugin.data.dataset import Data
from lwplugin.errors import MethodError
from lwplugin.training.config import TrainConfig
from lwplugin.training.state_file import read_state, write_state

SCHEMA = 1
_HOW_OFTEN = {"checkpoint_every_s", "checkpoint_every_steps"}


@dataclass
class Position:
    """Where a training stands. Plain numbers and lists only."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already trained on."""
    seconds: float = 0.0
    best_score: float | None = None
    best_epoch: int = -1
    finished: bool = False
    stopped_early: bool = False
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


def identity(module: nn.Module, data: Data, config: TrainConfig) -> str:
    """Digest of what must be the same for a checkpoint to be continued: config, task, examples, structure."""
    structure = [
        [name, list(tensor.shape), str(tensor.dtype)] for name, tensor in module.state_dict().items()
    ]
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    what = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json", exclude=_HOW_OFTEN),
        "task": data.task.spec.model_dump(mode="json"),
        "data": data.digest,
        "structure": structure,
        "trainable": trainable,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def save(
    path: Path,
    *,
    identity: str,
    module: nn.Module,
    best: dict[str, torch.Tensor] | None,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any],
    position: Position,
    device: torch.device,
) -> None:
    """Writes the whole state of a training over ``path``, atomically."""
    state = {
        "schema": SCHEMA,
        "identity": identity,
        "module": module.state_dict(),
        "best": best,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler,
        "position": asdict(position),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    write_state(path, state)


def read(path: Path, *, identity: str) -> dict[str, Any]:
    """The saved state, on the CPU. Raises MethodError for a damaged file or one of another training."""
    state: dict[str, Any] = read_state(path, anew="train from the start")
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise MethodError(
            f"'{path}' is not a checkpoint of this version", do="delete it to train from the start"
        )
    if state["identity"] != identity:
        raise MethodError(
            f"The checkpoint '{path}' is of another training",
            got="other options, examples or model structure",
            do="delete it to train from the start, or give the options it was written with",
        )
    return state
