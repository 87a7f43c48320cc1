"""An agent as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

TOKEN = "correct-horse-battery-staple-1"
QUICK = ("--beat-seconds", "0.2", "--silence-seconds", "3")


@dataclass
class Running:
    """A started agent; ``log`` grows while it runs."""

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    def said(self, text: str, seconds: float = 15) -> bool:
        """Whether its log holds ``text``, now or within so many seconds."""
        waited = threading.Event()
        for _ in range(int(seconds / 0.05)):
            if any(text in line for line in self.log):
                return True
            waited.wait(0.05)
        return False


def start(
    arguments: Sequence[str] = QUICK,
    *,
    command: Sequence[str] = (sys.executable, "-m", "lwplugin.agent"),
    listen: str = "127.0.0.1:0",
    token: str = TOKEN,
    before: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Running:
    process = subprocess.Popen(
        [*before, *command, "--listen", listen, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**(os.environ if environment is None else environment), "LWPLUGIN_AGENT_TOKEN": token},
    )
    running = Running(process, 0)
    threading.Thread(
        target=lambda: running.log.extend(iter(process.stderr.readline, "")), daemon=True
    ).start()  # type: ignore[union-attr]
    if not running.said("listening on"):
        process.kill()
        pytest.fail("".join(running.log) or "the agent did not start")
    running.port = int(re.search(r"listening on \S+?:(\d+) ", "".join(running.log))[1])  # type: ignore[index]
    return running


def stop(running: Running) -> None:
    running.process.terminate()
    try:
        running.process.wait(15)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.wait()
