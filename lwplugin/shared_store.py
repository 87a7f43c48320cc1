"""A store whose results other machines find too: each is one archive under an fsspec address (S3, a path, …).

An archive is written whole or not at all: object stores show no half of an upload, file systems get it by a rename.
What is fetched goes into the local store under a temporary name, is unpacked without leaving it, and counts only after
the digest in its manifest was verified, like any local result.
"""

from __future__ import annotations

import logging
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwplugin.artifact import Store
from lwplugin.errors import LwpluginError, MissingExtraError, StoreError
from lwplugin.secret import redact
from lwplugin.settings import settings, variable

_log = logging.getLogger("lwplugin")


def open_store(root: str | Path | None = None) -> Store:
    """The store at ``root`` (default: the settings'), shared where the settings name a shared one."""
    place = Path(root or settings().store).absolute()
    address = settings().shared_store
    return Store(place) if address is None else SharedStore(place, address)


class _UnreachableError(StoreError):
    """The shared store did not answer this time."""


class SharedStore(Store):
    """A local store in front of a shared one.

    Reads look here first, then there; writes go to both. The shared one is asked for keys and never listed. While it
    does not answer, work goes on locally with a warning; what could not be sent is sent when it is next asked for.
    """

    def __init__(self, root: str | Path, address: str) -> None:
        super().__init__(root)
        self.address = address.rstrip("/")

    def get(self, key: str) -> Path | None:
        found = super().get(key)
        if found is not None:
            if self._unsent(key).exists():
                self._offer(key)
            return found
        try:
            fetched = self._fetch(key)
        except _UnreachableError as error:
            _log.warning("%s", error)
            return None
        return super().get(key) if fetched else None

    @contextmanager
    def put(self, key: str, manifest: Mapping[str, Any] | None = None) -> Iterator[Path]:
        mark = self._unsent(key)
        with super().put(key, manifest) as output:
            yield output
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()  # before the result counts, so that a crash right after it leaves a note
        self._offer(key)

    def remove(self, key: str) -> None:
        super().remove(key)
        self._unsent(key).unlink(missing_ok=True)
        try:
            with self._speaking() as files:
                if files.exists(self._archive(key)):
                    files.rm(self._archive(key))
        except _UnreachableError as error:  # what replaces it here is sent over it later
            _log.warning("%s", error)

    def _unsent(self, key: str) -> Path:
        return self.root / "unsent" / key

    def _offer(self, key: str) -> None:
        try:
            self._send(key)
        except _UnreachableError as error:
            _log.warning("%s", error)
        except OSError as error:  # no room here for the archive
            _log.warning("the result %s is not shared for now: %s", key[:12], error.strerror)
        else:
            self._unsent(key).unlink(missing_ok=True)

    def _send(self, key: str) -> None:
        place, archive = self._place(key), self._archive(key)
        packed = self.root / "tmp" / f"{key}-{uuid.uuid4().hex[:8]}.tar"
        packed.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as tar:
                tar.add(place, arcname=".", filter=_plain)
            with self._speaking() as files:
                part = f"{archive}.{uuid.uuid4().hex[:8]}.part"
                files.makedirs(archive.rpartition("/")[0], exist_ok=True)
                if _renames(files):
                    files.put_file(str(packed), part)
                    files.mv(part, archive)
                else:
                    files.put_file(str(packed), archive)
        finally:
            packed.unlink(missing_ok=True)

    def _fetch(self, key: str) -> bool:
        packed = self.root / "tmp" / f"{key}-{uuid.uuid4().hex[:8]}"
        with self._speaking() as files:
            if not files.exists(self._archive(key)):
                return False
            packed.mkdir(parents=True)
            try:
                files.get_file(self._archive(key), str(packed / "archive.tar"))
                return self._unpack(key, packed)
            finally:
                shutil.rmtree(packed, ignore_errors=True)

    def _unpack(self, key: str, folder: Path) -> bool:
        held = folder / "held"
        try:
            with tarfile.open(folder / "archive.tar") as tar:
                tar.extractall(held, filter="data")
        except (tarfile.TarError, OSError) as error:
            _log.warning("the shared result %s cannot be unpacked (%s) and is made again", key[:12], error)
            return False
        place = self._place(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.rename(place)
        except OSError:  # another process was faster
            return place.is_dir()
        return True

    def _archive(self, key: str) -> str:
        return f"{self.address}/objects/{key[:2]}/{key}.tar"

    @contextmanager
    def _speaking(self) -> Iterator[Any]:
        """The file system behind the address; what goes wrong there is told as an error of the shared store."""
        import fsspec

        try:
            files, _ = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            scheme = self.address.partition(":")[0]
            raise MissingExtraError(str(error), extra="s3", why=f"The shared store '{scheme}:'") from error
        except ValueError as error:
            raise StoreError(
                "The shared store's address cannot be read",
                got=redact(self.address),
                do=f"correct {variable('shared_store')}",
            ) from error
        try:
            yield files
        except LwpluginError:
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise _UnreachableError(
                "The shared store does not answer as it should",
                got=redact(f"{type(error).__name__}: {error}"[:300]),
                do=f"check {variable('shared_store')}={redact(self.address)} and its credentials; "
                f"finished steps are in {self.root}",
            ) from error


def _renames(files: Any) -> bool:
    """File systems show a file while it is written; object stores do not, and would copy to rename."""
    protocol = files.protocol if isinstance(files.protocol, str) else files.protocol[0]
    return protocol in {"file", "local", "sftp", "smb", "hdfs"}


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
