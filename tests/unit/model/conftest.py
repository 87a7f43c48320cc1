from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import light_nets
import pytest
import torch

import lwplugin.model as lw

_LOAD = """
import hashlib, sys, torch
from lwplugin.model import load
torch.set_num_threads(1)
module = load(sys.argv[1]).module
x = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    y = module(**x) if isinstance(x, dict) else module(x)
y = y if isinstance(y, torch.Tensor) else y[0]
print("OUTPUT", hashlib.sha256(y.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest())
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def fresh_output(tmp_path: Path) -> Callable[[Path, object], str]:
    """sha256 of what a bundle answers to an input in a process that knows nothing else."""

    def run(bundle: Path, x: object) -> str:
        torch.save(x, tmp_path / "input.pt")
        path = os.pathsep.join([str(Path(light_nets.__file__).parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(bundle), str(tmp_path / "input.pt")],
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split("OUTPUT ")[1].strip()

    return run


@pytest.fixture
def net() -> lw.LightModel:
    return lw.light(light_nets.net(), lw.FactoryOrigin("light_nets:net", {"width": 8, "blocks": 3}))
