"""How the command line talks: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import click

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Answer with JSON on stdout, and only that."
)


_LEAST_ROOM = 24


@contextmanager
def only_json(wanted: bool) -> Iterator[TextIO]:
    """Yields the real stdout; while ``wanted``, whatever a library prints goes to stderr."""
    out = sys.stdout
    if not wanted:
        yield out
        return
    with redirect_stdout(sys.stderr):
        yield out


def write_json(document: Any, out: TextIO) -> None:
    """One JSON document and a newline."""
    json.dump(document, out, indent=2, default=str)
    out.write("\n")
    out.flush()


def write_file(file: Path, text: str) -> None:
    """A report of --junit and its like; folders that are not there are made, as CI systems expect."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first row as head; on a terminal the last column is wrapped to its width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = shutil.get_terminal_size((0, 0)).columns - before  # 0 columns: no terminal
    if _LEAST_ROOM <= room < widths[-1]:
        widths[-1] = room
        rows = [part for row in rows for part in _wrapped(row, room)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _wrapped(row: Sequence[str], room: int) -> list[Sequence[str]]:
    first, *more = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
    return [[*row[:-1], first], *([*[""] * (len(row) - 1), part] for part in more)]


def human_bytes(size: float) -> str:
    """``38.2 kB``: powers of a thousand, as file managers and budgets count."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def human_count(number: float) -> str:
    """``1.23 M``."""
    for unit in ("", " k", " M", " G"):
        if number < 1000 or unit == " G":
            return f"{number:.0f}" if not unit else f"{number:.3g}{unit}"
        number /= 1000
    raise AssertionError


class LineProgress:
    """For logs and pipes: a plain line at most every ten seconds, and nothing for what is quick."""

    def __init__(self, out: TextIO, every_s: float = 10.0) -> None:
        self._out, self._every_s, self._next = out, every_s, time.monotonic() + every_s

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            of = f"/{total}" if total else ""
            self._out.write(f"  … {label} {done}{of}\n")  # KFP replaces `print` while its tasks run
            self._out.flush()

    def restart(self) -> None:
        """A new step begins."""
        self._next = time.monotonic() + self._every_s

    def close(self) -> None:
        """Nothing stays on the screen."""


class BarProgress:
    """For a terminal: one line that moves, erased when its step ends."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=out),
            transient=True,
        )
        self._bars.start()
        self._task: Any = None
        self._label = ""

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        if self._task is None or label != self._label:
            self.restart()
            self._task, self._label = self._bars.add_task(label, total=total), label
        self._bars.update(self._task, completed=done, total=total)

    def restart(self) -> None:
        """A new step begins."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def close(self) -> None:
        """Erase the line."""
        self._bars.stop()


def progress_on(out: TextIO, *, quiet: bool = False) -> LineProgress | BarProgress:
    """A bar on a terminal, sparse lines elsewhere."""
    if quiet:
        return LineProgress(out, every_s=float("inf"))
    return BarProgress(out) if out.isatty() else LineProgress(out)
