"""How long work tells where it stands. The library only calls; the rim decides how it looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called often and cheaply: ``progress("fine-tune", 120, 400)``; ``total`` is None where unknown."""

    def __call__(self, label: str, done: int, total: int | None = None) -> None: ...


def silent(label: str, done: int, total: int | None = None) -> None:
    """The default: says nothing."""
