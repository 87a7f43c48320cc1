"""What a source is: its options, how it is read, and what its contents are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from lwplugin.errors import DataError, RecipeError

if TYPE_CHECKING:
    from lwplugin.data.dataset import Data
    from lwplugin.data.split import Split


class SourceOptions(BaseModel):
    """Base of every source's options: a closed schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


@dataclass(frozen=True)
class Request:
    """What the recipe wants beside the source's own options."""

    source: str
    """The name as written; for ``module:function`` the reference itself."""
    seed: int
    slices: tuple[str, ...]
    """Names of extra columns to keep as slices (``label`` left out: the task gives it)."""
    token_labels: bool
    """The task wants a label per token, not per example."""


@dataclass(frozen=True)
class Parts:
    """What a source holds.

    ``whole`` is a set without official splits; ``test_fraction`` of it becomes test.
    """

    train: Split | None = None
    calibration: Split | None = None
    test: Split | None = None
    whole: Split | None = None
    test_fraction: float = 0.2


@dataclass(frozen=True)
class Source:
    """One line of the registry."""

    name: str
    options: type[SourceOptions]
    read: Callable[[Any, Request], Parts | Data]
    check: Callable[[Any, Request], None]
    """Refuses what shows without reading an example: a file, column or package that is not there.

    Imports no torch and runs nobody's code.
    """
    contents: Callable[[str, Any], Any]
    """(name as written, options) → JSON that changes when the examples change.

    Imports no torch and reads files only to hash them.
    """
    summary: str


def file_digest(path: str | Path) -> str:
    """sha256 of a file, remembered in this process while its size and modification time stay the same.

    Raises DataError where the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise absent("data file", path)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[key]


def absent(what: str, path: Path, *, do: str = "check the path in the data block") -> DataError:
    """The error for a file or folder that is not there; of a relative path it says relative to what."""
    where = None if path.is_absolute() else f"a path relative to {Path.cwd()}"
    return DataError(f"The {what} '{path}' does not exist", got=where, do=do)


def tree_digest(root: str | Path, files: Iterable[Path]) -> str:
    """sha256 over sorted (path relative to ``root``, file digest)."""
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


_digests: dict[tuple[str, int, int], str] = {}


def no_slices(source: str, request: Request) -> None:
    """Refuses slice columns for a source that has only its label."""
    if request.slices:
        raise RecipeError(
            f"The data source '{source}' has no slice columns",
            got=", ".join(request.slices),
            do="leave only 'label' in data.slices",
        )
