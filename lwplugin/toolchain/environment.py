"""Makes, finds and describes toolchain environments under ``LWPLUGIN_TOOLCHAINS``.

An environment lies in ``NAME-<digest of its lock>`` and holds ``toolchain.json``, written last. It is built
under another name and renamed, so what bears the name is whole; what pip has fetched stays in pip's cache, so
that an installation that was cut off does not fetch it again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lwplugin.errors import ToolchainError
from lwplugin.progress import Progress, silent
from lwplugin.settings import settings
from lwplugin.toolchain.catalog import Toolchain, toolchain

MANIFEST = "toolchain.json"
_TAIL_LINES = 5


@dataclass(frozen=True)
class Installed:
    """A whole environment: where it lies, its interpreter's version, its bytes on disk."""

    name: str
    path: Path
    python_version: str
    size_bytes: int

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return _interpreter(self.path)


@dataclass(frozen=True)
class State:
    """What `lwplugin toolchain list` says. ``outdated``: only environments of other locks are there."""

    name: str
    summary: str
    state: Literal["installed", "outdated", "absent"]
    path: Path
    packages: int
    size_bytes: int | None = None
    others: tuple[Path, ...] = ()


def root() -> Path:
    """Where environments lie."""
    return settings().toolchains.expanduser().absolute()


def place(wanted: Toolchain) -> Path:
    """The directory of a toolchain's present lock."""
    return root() / f"{wanted.name}-{wanted.lock_digest[:12]}"


def find(name: str) -> Installed | None:
    """The environment of the present lock; None where it is not there or not whole."""
    wanted = toolchain(name)
    path = place(wanted)
    try:
        told = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        found = Installed(name, path, str(told["python_version"]), int(told["size_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.python.exists() else None


def need(name: str, why: str) -> Installed:
    """Like `find`; ToolchainError that says how to make it."""
    found = find(name)
    if found is None:
        raise ToolchainError(
            f"{why} needs the toolchain '{name}'",
            got=f"no environment in {place(toolchain(name))}",
            do=f"lwplugin toolchain install {name}",
        )
    return found


def state(name: str) -> State:
    """What is there of a toolchain."""
    wanted, path = toolchain(name), place(toolchain(name))
    others = tuple(sorted(p for p in root().glob(f"{name}-*") if p != path and (p / MANIFEST).is_file()))
    found = find(name)
    how: Literal["installed", "outdated", "absent"] = (
        "installed" if found else "outdated" if others else "absent"
    )
    size = found.size_bytes if found else None
    return State(name, wanted.summary, how, path, len(wanted.packages), size, others)


def plan(name: str, *, python: str | None = None) -> list[list[str]]:
    """The commands that `install` runs, one after another."""
    wanted = toolchain(name)
    part = _part(wanted)
    own = str(_interpreter(part))
    return [
        [python or _base_python(), "-m", "venv", str(part)],
        [own, "-m", "pip", "install", "--quiet", "--requirement", str(wanted.lock)],
        [own, "-m", "pip", "check"],
        [own, "-c", f"import {', '.join(wanted.probes)}"],
    ]


def install(
    name: str, *, python: str | None = None, force: bool = False, progress: Progress = silent
) -> Installed:
    """Make the environment, or answer the one that is there.

    Args:
        python: interpreter to build on; default: the one that runs this.
        force: build it again even where it is whole.

    Raises ToolchainError with the last words of the command that failed; nothing half-made is left.
    """
    wanted = toolchain(name)
    with _lock(wanted):
        if not force and (found := find(name)):
            return found
        part, final = _part(wanted), place(wanted)
        shutil.rmtree(part, ignore_errors=True)
        commands = plan(name, python=python)
        try:
            for done, command in enumerate(commands):
                progress(f"install {name}", done, len(commands))
                _carry_out(command, name)
            made = Installed(name, final, _version(part), _size(part))
            told = {**asdict(made), "path": None, "lock": wanted.lock_digest, "packages": wanted.packages}
            (part / MANIFEST).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            if final.exists():
                shutil.rmtree(final)
            part.replace(final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        progress(f"install {name}", len(commands), len(commands))
        return made


def clean_environment() -> dict[str, str]:
    """The environment variables for another interpreter: nothing that points at this one's packages."""
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__"}
    return {key: value for key, value in os.environ.items() if key not in ours} | {"PYTHONNOUSERSITE": "1"}


def _carry_out(command: list[str], name: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    if ran.returncode != 0:
        said = [line.strip() for line in (ran.stderr + ran.stdout).splitlines() if line.strip()]
        raise ToolchainError(
            f"Installing the toolchain '{name}' failed at: {' '.join(command[:5])} …",
            got="; ".join(said[-_TAIL_LINES:])[:800] or f"exit code {ran.returncode}",
            do="run it again (what was fetched is in pip's cache); pip's own settings say where it fetches from",
        )


def _part(wanted: Toolchain) -> Path:
    return root() / f".{place(wanted).name}.part"


def _interpreter(path: Path) -> Path:
    return path / "bin" / "python"


def _base_python() -> str:
    """The interpreter under this environment, which outlives it."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def _version(path: Path) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.check_output([str(_interpreter(path)), "-c", code], text=True).strip()


def _size(path: Path) -> int:
    return sum(entry.lstat().st_size for entry in path.rglob("*"))


@contextmanager
def _lock(wanted: Toolchain) -> Iterator[None]:
    """Two that install the same toolchain: the second waits and finds it made."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{wanted.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
