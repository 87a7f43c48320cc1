"""The steps of one run share what was read: examples are read and checked once, not once a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lwplugin.data.dataset import Data

_kept: ContextVar[dict[str, Data] | None] = ContextVar("kept", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Within it, blocks that mean the same examples and the same task are read once.

    The price is memory: what a source holds of its examples stays until the end. Streams hold none.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once(key: str, read: Callable[[], Data]) -> Data:
    """What was read under ``key`` within `reading_once`, or what ``read`` gives now."""
    kept = _kept.get()
    if kept is None:
        return read()
    if key not in kept:
        kept[key] = read()
    return kept[key]
