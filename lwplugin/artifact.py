"""What a directory holds, as one digest; and the store where finished step results are kept by key.

A result is written in a temporary directory and renamed into place with its manifest inside, so a
crash leaves either the whole result or nothing that a reader would take for one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lwplugin.errors import StoreError
from lwplugin.lock import discard
from lwplugin.settings import variable

LOCKS = "locks"  # of the keys whose work is under way
RUNS = "runs"  # what engines printed
_KEY = re.compile(r"[0-9a-f]{16,64}")
_MAP_FROM_BYTES = 2**20
_log = logging.getLogger("lwplugin")


def digest_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _MAP_FROM_BYTES:
            return hashlib.sha256(file.read()).hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return hashlib.sha256(view).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no blanks, no NaN.

    Raises StoreError for a value that JSON cannot hold exactly.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            "A value cannot be written as JSON", got=error, do="use plain JSON values, no NaN or infinity"
        ) from error


def digest_json(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex.

    >>> digest_json({"b": 1, "a": [1.5]}) == digest_json({"a": [1.5], "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def list_files(path: str | Path) -> dict[str, Path]:
    """Every file under a directory by its relative posix path, sorted.

    Raises StoreError for links, devices and names that are not valid text: a directory that came from
    elsewhere must not reach outside itself.
    """
    root = Path(path)
    if not root.is_dir():
        raise StoreError("Not a directory", got=root, do="give the directory that holds the artifact")
    found: dict[str, Path] = {}
    pending = [root]
    while pending:
        for entry in os.scandir(pending.pop()):
            mode = entry.stat(follow_symlinks=False).st_mode
            place = Path(entry.path)
            if stat.S_ISDIR(mode):
                pending.append(place)
                continue
            if not stat.S_ISREG(mode):
                raise StoreError(
                    f"'{entry.path}' is a {'link' if stat.S_ISLNK(mode) else 'special file'}, not a file",
                    do="copy the file itself into the directory",
                )
            name = place.relative_to(root).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise StoreError("A file name is not valid text", got=repr(name), do="rename it") from error
            found[name] = place
    return dict(sorted(found.items()))


def digest_directory(path: str | Path, *, known: Mapping[str, str] | None = None) -> str:
    """sha256 over the sorted (relative path, sha256) of every file under ``path``.

    ``known`` holds digests of files that were hashed while they were written, by relative path.
    Raises StoreError for links and special files.
    """
    known = known or {}
    return digest_json(
        [[name, known.get(name) or digest_file(file)] for name, file in list_files(path).items()]
    )


class Store:
    """Finished results by key: ``objects/<k>/<key>/{output/, manifest.json}`` under one root.

    Safe for many processes at once: the first to finish a key wins, the others' work is dropped.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def get(self, key: str) -> Path | None:
        """The result's directory, or None. A damaged result is set aside, logged, and counts as absent."""
        place = self._place(key)
        if not place.is_dir():
            return None
        try:
            manifest = self.manifest(key)
            found = digest_directory(place / "output")
            if manifest["key"] == key and manifest["digest"] == found:
                return place / "output"
            reason = f"its digest is {found[:12]}, its manifest says {str(manifest['digest'])[:12]}"
        except (StoreError, KeyError, OSError) as error:
            reason = str(error)
        if not place.is_dir():  # another process set it aside meanwhile
            return None
        aside = self.root / "damaged" / f"{key}-{uuid.uuid4().hex[:8]}"
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            place.rename(aside)
        except FileNotFoundError:
            return None
        except OSError as error:  # a store that can only be read
            _log.warning(
                "stored result %s is damaged (%s) and cannot be moved (%s)", key[:12], reason, error.strerror
            )
            return None
        _log.warning("stored result %s is damaged (%s); moved to %s and made again", key[:12], reason, aside)
        return None

    def manifest(self, key: str) -> dict[str, Any]:
        """What was stored beside a result: ``key``, ``digest``, ``created_unix_s`` and the caller's entries.

        Raises StoreError where there is none or it cannot be read.
        """
        file = self._place(key) / "manifest.json"
        try:
            manifest = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(
                "A result's manifest cannot be read", got=error, do="run the step again"
            ) from error
        if not isinstance(manifest, dict):
            raise StoreError("A result's manifest is not an object", got=file, do="run the step again")
        return manifest

    def keys(self) -> list[str]:
        """Keys of all results, unverified."""
        return sorted(p.name for p in self.root.glob("objects/*/*") if _KEY.fullmatch(p.name))

    def work(self, key: str) -> Path:
        """A directory that outlives a killed process, for checkpoints; gone once the key's result is put."""
        self._place(key)
        place = self.root / "work" / key
        place.mkdir(parents=True, exist_ok=True)
        return place

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty directory that goes with the block, or with a later `sweep` where the process is killed."""
        place = self.root / "tmp" / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        place.mkdir(parents=True)
        held = os.open(place, os.O_RDONLY)
        with suppress(OSError):  # NFS locks no directory: there age alone decides
            fcntl.flock(held, fcntl.LOCK_EX)  # falls with this process; `sweep` leaves alone what is held
        try:
            yield place
        finally:
            os.close(held)
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def put(self, key: str, manifest: Mapping[str, Any] | None = None) -> Iterator[Path]:
        """Yields an empty directory to fill; on success it becomes the key's result, on error it is dropped.

        ``manifest`` is read when the block ends, so entries may be added inside it.
        """
        place = self._place(key)
        with _room(self.root), self.scratch(key) as temporary:
            output = temporary / "output"
            output.mkdir()
            yield output
            entries = {**(manifest or {}), "key": key, "digest": digest_directory(output)}
            entries.setdefault("created_unix_s", int(time.time()))
            with open(temporary / "manifest.json", "w") as file:
                file.write(canonical_json(entries))
                file.flush()
                os.fsync(file.fileno())
            place.parent.mkdir(parents=True, exist_ok=True)
            if self.get(key) is None:
                try:
                    temporary.rename(place)
                except OSError:  # not empty: another process finished the same key first
                    if not place.is_dir():
                        raise
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)

    def remove(self, key: str) -> None:
        """Forgets a result; silent where there is none."""
        shutil.rmtree(self._place(key), ignore_errors=True)

    def sweep(self, *, older_than_s: float = 86_400, work_older_than_s: float = 14 * 86_400) -> int:
        """Removes what killed processes left in ``tmp`` and ``locks``, and checkpoints that nobody went on from,
        damaged results that nobody looked at and what engines printed; returns how many.

        Runs before the first step, and raises StoreError where the store cannot be written: a run would be in vain.
        """
        try:
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "tmp"):
                pass
        except OSError as error:
            raise StoreError(
                f"The store {self.root} cannot be written",
                got=error.strerror,
                do=f"name a directory that can be: --store, or {variable('store')}",
            ) from None
        ages_s = {"tmp": older_than_s} | dict.fromkeys(("work", "damaged", RUNS), work_older_than_s)
        old = [
            leftover
            for folder, age_s in ages_s.items()
            for leftover in self.root.glob(f"{folder}/*")
            if _age_s(leftover) >= age_s and not _is_held(leftover)
        ]
        for leftover in old:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        unheld = [
            file for file in self.root.glob(f"{LOCKS}/*") if _age_s(file) >= older_than_s and discard(file)
        ]
        return len(old) + len(unheld)

    def _place(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(
                "Not a key of the store", got=repr(key), do="use the hex digest of the step's inputs"
            )
        return self.root / "objects" / key[:2] / key


@contextmanager
def _room(root: Path) -> Iterator[None]:
    """Tells a full disk as one."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreError(
            "The disk is full",
            got=f"{error.strerror} at {error.filename or root}",
            do=f"make room there, or name another place: --store, {variable('store')}, TMPDIR; what is finished stays",
        ) from error


def _age_s(leftover: Path) -> float:
    """Since it or something right in it was last changed; others may be removing it."""
    newest = 0.0
    for file in (leftover, *leftover.glob("*")):
        with suppress(FileNotFoundError):
            newest = max(newest, file.stat().st_mtime)
    return time.time() - newest


def _is_held(leftover: Path) -> bool:
    """Whether a living process still fills it, however long that takes."""
    try:
        place = os.open(leftover, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(place)
    return False
