"""The files of one job: kept under a limit, believed only by their digest, removed with the job."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from lwplugin.errors import MeasureError
from lwplugin.measure.wire import Array

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._+-]{0,150}")
_MOST_PARTS = 12
_PREFIX = "lwplugin-agent-"
_YOUNG_SECONDS = 60.0


class Area:
    """A temporary directory that takes at most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Held as long as this process lives, however it ends: `sweep` spares what is held.
        self._held = os.open(self._root, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self._promised = 0
        self._open: tuple[BinaryIO, Path, int, str] | None = None
        self._written, self._digest = 0, hashlib.sha256()

    def path(self, name: str) -> Path:
        """Where a file of this job lies. Raises MeasureError for a name that could lead elsewhere."""
        parts = name.split("/")
        if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) for part in parts):
            raise MeasureError("A file name is not allowed", got=repr(name[:200]))
        return self._root.joinpath(*parts)

    def begin(self, name: str, size: int, sha256: str) -> None:
        """A file follows. Raises MeasureError where it is too large for the limit or the disk."""
        path = self.path(name)
        if size < 0 or self._promised + size > self.limit:
            raise MeasureError(
                f"The files of a job may take {self.limit} bytes",
                got=f"{self._promised + size}",
                do="start the agent with a larger --max-upload-bytes",
            )
        free = shutil.disk_usage(self._root).free
        if size > free:
            raise MeasureError("The device's disk is full", got=f"{free} bytes free, {size} needed")
        if path.exists() or self._open is not None:
            raise MeasureError("A file was sent twice, or two at once", got=repr(name))
        self._promised += size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open = (path.with_name(path.name + ".part").open("wb"), path, size, sha256)
        self._written, self._digest = 0, hashlib.sha256()

    def add(self, piece: Array) -> None:
        """The next bytes. Raises MeasureError for more than was announced."""
        if self._open is None:
            raise MeasureError("Bytes arrived that belong to no file")
        stream, _, size, _ = self._open
        content = piece.tobytes()
        self._written += len(content)
        if self._written > size:
            raise MeasureError("A file is longer than announced", got=f"{self._written} of {size} bytes")
        self._digest.update(content)
        stream.write(content)

    def finish(self) -> None:
        """All has arrived. Raises MeasureError where it is not what was announced."""
        if self._open is None:
            raise MeasureError("The end of a file arrived that never began")
        stream, path, size, sha256 = self._open
        stream.close()
        self._open = None
        if self._written != size or not hmac.compare_digest(
            self._digest.hexdigest().encode(), sha256.encode()
        ):
            raise MeasureError(
                "A file did not arrive as it was sent",
                got=f"{self._written} of {size} bytes, or another digest",
                do="send it again",
            )
        path.with_name(path.name + ".part").rename(path)

    def remove(self) -> None:
        """Delete everything; safe to call twice."""
        if self._open is not None:
            self._open[0].close()
            self._open = None
        shutil.rmtree(self._root, ignore_errors=True)
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def request(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A worker's request with its file name turned into a path of this device."""
        if "file" not in fields:
            return fields
        path = self.path(str(fields["file"]))
        if not path.exists():
            raise MeasureError("A file is not on the device", got=repr(fields["file"]), do="send it first")
        return {**fields, "file": str(path)}


def sweep() -> int:
    """Remove the files of jobs whose agent was killed; how many directories these were.

    A directory belongs to a living agent while it is locked; one that was made just now is not locked yet.
    """
    removed = 0
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            held = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = os.fstat(held)
                if found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                    continue
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)
                removed += 1
            finally:
                os.close(held)
    return removed
