"""How much the loggers of other libraries say while we call them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_kept: dict[str, tuple[int, int]] = {}
"""Of each logger that is quieter now: its own level, and how many blocks ask for it."""


@contextmanager
def no_less_than(level: int, *names: str) -> Iterator[None]:
    """These loggers, and those below them, say only what is at least of ``level`` inside the block.

    Blocks may overlap, also across threads: the first to begin keeps the levels, the last to end puts them back.
    """
    with _lock:
        for name in names:
            logger = logging.getLogger(name)
            own, asked = _kept.get(name, (logger.level, 0))
            _kept[name] = own, asked + 1
            logger.setLevel(max(level, logger.level))
    try:
        yield
    finally:
        with _lock:
            for name in names:
                own, asked = _kept.pop(name)
                if asked > 1:
                    _kept[name] = own, asked - 1
                else:
                    logging.getLogger(name).setLevel(own)
