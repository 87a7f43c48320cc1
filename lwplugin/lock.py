"""Lock files that are gone when nobody needs them.

The kernel holds the lock, so it falls with its process, killed or not. A file is removed only by who holds it; whoever
opened it before and gets it afterwards sees that the path is another file's or nobody's by now, and starts over.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path, *, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One process or thread at a time; ``wait`` is called once where another is inside.

    Where the file system knows no locks, everybody goes in.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(file, wait)
    try:
        yield
    finally:
        if handle is not None:
            _remove(handle, file)
            os.close(handle)


def discard(file: Path) -> bool:
    """Removes a lock file that a killed process left; False where somebody holds it."""
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _remove(handle, file)
    except OSError:
        return False
    finally:
        os.close(handle)


def _acquire(file: Path, wait: Callable[[], None]) -> int | None:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        kept = False
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                wait = _silent
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # no locks here
                return None
            kept = _is_at(handle, file)
        finally:
            if not kept:
                os.close(handle)
        if kept:
            return handle


def _remove(handle: int, file: Path) -> bool:
    if not _is_at(handle, file):
        return False
    file.unlink(missing_ok=True)
    return True


def _is_at(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _silent() -> None:
    pass
