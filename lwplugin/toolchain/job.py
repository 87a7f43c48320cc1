"""Work handed to a toolchain's Python: a conversion described in JSON, or a module of ours that it borrows."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from lwplugin.errors import ExportError, ToolchainError
from lwplugin.toolchain.catalog import toolchain
from lwplugin.toolchain.environment import clean_environment, need

_BORROW = Path(__file__).with_name("borrow.py")
_PACKAGE = Path(__file__).parents[1]
_TIMEOUT_S = 3600.0


def run(name: str, job: dict[str, Any], *, why: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """Run the toolchain's worker on a job and return its answer.

    The job is plain JSON; paths in it are absolute. A worker answers ``{"refused": reason}`` where the model
    cannot go, which becomes an ExportError; one that dies or hangs is a ToolchainError.
    """
    python = need(name, why).python
    with tempfile.TemporaryDirectory(prefix=f"lwplugin-{name}-") as directory:
        described, answered = Path(directory) / "job.json", Path(directory) / "answer.json"
        described.write_text(json.dumps(job), encoding="utf-8")
        command = [str(python), "-P", str(toolchain(name).worker), str(described), str(answered)]
        try:
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env=clean_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(
                f"The toolchain '{name}' did not finish", got=f"{timeout_s:g} s", do="export a smaller model"
            ) from error
        if ran.returncode != 0 or not answered.is_file():
            said = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
            raise ToolchainError(
                f"The toolchain '{name}' broke off ({_ending(ran.returncode)})",
                got="; ".join(said[-3:])[:800] or "nothing on standard error",
                do=f"lwplugin toolchain install {name} --force where it is damaged, else report the model",
            )
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    if "refused" in answer:
        raise ExportError(
            f"{why}: the converter cannot take this model",
            got=answer["refused"].partition(" While executing ")[0],  # then torch.fx shows its graph
            do="export format 'onnx' or 'openvino' instead, or leave out the operator it names",
        )
    return answer


def borrowed(name: str, module: str, *arguments: str, why: str) -> list[str]:
    """The command that runs a module or a file of lwplugin in a toolchain's Python, which sees lwplugin and
    nothing else of this environment. What it imports must be there."""
    python = need(name, why).python
    return [str(python), "-I", str(_BORROW), str(_PACKAGE), module, *arguments]


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
