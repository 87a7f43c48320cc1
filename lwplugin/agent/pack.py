"""The agent as one file for a board: `lwplugin agent --pack agent.pyz`."""

from __future__ import annotations

import zipapp
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import lwplugin

# What agent and workers import; tests/unit/agent runs the packed file with nothing else at hand.
PARTS = (
    "__init__.py",
    "errors.py",
    "lazy.py",
    "agent/__init__.py",
    "agent/__main__.py",
    "agent/area.py",
    "agent/capabilities.py",
    "agent/job.py",
    "agent/limits.py",
    "agent/line.py",
    "agent/program.py",
    "agent/server.py",
    "measure/__init__.py",
    "measure/channel.py",
    "measure/energy.py",
    "measure/machine.py",
    "measure/memory.py",
    "measure/session.py",
    "measure/wire.py",
    "measure/worker.py",
)


def pack(file: Path) -> None:
    """Write a zip application of some tens of kB that `python FILE` runs, given numpy and a runtime."""
    source = Path(lwplugin.__file__).parent
    runtimes = [path.relative_to(source).as_posix() for path in source.glob("measure/runtimes/*.py")]
    with TemporaryDirectory() as folder:
        for part in (*PARTS, *runtimes):
            place = Path(folder) / "lwplugin" / part
            place.parent.mkdir(parents=True, exist_ok=True)
            copyfile(source / part, place)
        zipapp.create_archive(
            folder,
            file,
            interpreter="/usr/bin/env python3",
            main="lwplugin.agent.program:main",
            compressed=True,
        )
