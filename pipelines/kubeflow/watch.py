"""What KFP's local runner and its tasks print goes into a file; what happens is read from it, line by line.

KFP tells nobody else when a task begins and ends.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import TextIO

from lwplugin.components.carried import DONE

from lwplugin.progress import Progress, silent

_COLOUR = re.compile(r"\x1b\[\d+m")
_BEGAN = re.compile(r"Executing task '([^']+)'$")
_ENDED = re.compile(r"Task '([^']+)' finished with status (SUCCESS|FAILURE)$")
_ERROR = re.compile(r"error: \w+: (.+)")
_PROGRESS = re.compile(r"^\s*(?:\[KFP Executor .*?\]: )?(.+) (\d+)/(\d+)$")
_LAST_LINES = 20


@dataclass
class Task:
    """One task of the pipeline, by KFP's name of it."""

    name: str
    began_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    succeeded: bool = False
    hit: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    @property
    def message(self) -> str | None:
        """Our own words on its failure; None where it broke."""
        own = [said[1] for line in self.last if (said := _ERROR.match(line))]
        return own[-1] if own else None

    @property
    def error(self) -> str:
        """The same, or its last line."""
        return self.message or f"its task broke: {self.last[-1] if self.last else 'it said nothing'}"


class Watch(io.TextIOBase):
    """Takes stdout and stderr inside ``listening``; ``ended`` hears of every task, and may print as before."""

    def __init__(self, file: TextIO, ended: Callable[[Task], None], progress: Progress = silent) -> None:
        self._file, self._ended, self._progress = file, ended, progress
        self._part, self._task = "", Task("")
        self._outside = sys.stdout, sys.stderr, logging.getLogger().handlers[:]

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._outside = sys.stdout, sys.stderr, logging.getLogger().handlers[:]
        with redirect_stdout(self), redirect_stderr(self):
            yield

    @contextmanager
    def _as_outside(self) -> Iterator[None]:
        """While a task runs KFP's handler has taken the place of all others, too."""
        out, err, handlers = self._outside
        root = logging.getLogger()
        inside, root.handlers = root.handlers, handlers
        try:
            with redirect_stdout(out), redirect_stderr(err):
                yield
        finally:
            root.handlers = inside

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._file.write(text)
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            with self._as_outside():
                self._read(_COLOUR.sub("", line).rstrip())
        return len(text)

    def flush(self) -> None:
        self._file.flush()

    def _read(self, line: str) -> None:
        if began := _BEGAN.search(line):
            self._task = Task(began[1])
        elif (over := _ENDED.search(line)) and over[1] == self._task.name:
            self._task.seconds = time.monotonic() - self._task.began_s
            self._task.succeeded = over[2] == "SUCCESS"
            self.flush()
            self._ended(self._task)
        elif line.strip():
            self._task.last.append(line.strip())
            if done := DONE.search(line):
                self._task.hit = done[1] == "found"
            elif step := _PROGRESS.match(line):
                self._progress(step[1].strip(), int(step[2]), int(step[3]))
