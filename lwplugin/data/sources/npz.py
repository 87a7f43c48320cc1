"""Numpy ``.npz`` archives. Uncompressed arrays (``np.savez``) are memory-mapped, never loaded whole."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, absent, file_digest
from lwplugin.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from lwplugin.data.split import Split

_LOCAL_HEADER = 30


class NpzOptions(SourceOptions):
    """Options of the npz source: one file to be split, or one file per split."""

    path: Path | None = Field(
        None,
        description="One file: with arrays per split (x_train, y_train, x_test, y_test, perhaps x_calibration), or "
        "with x and y, out of which test examples are drawn.",
    )
    train: Path | None = Field(None, description="File of training examples.")
    test: Path | None = Field(None, description="File of test examples.")
    calibration_file: Path | None = Field(None, description="File of calibration examples.")
    x: str | tuple[str, ...] = Field(
        "x", description="Array of inputs; several names make a dict of inputs, keyed by name."
    )
    y: str | None = Field("y", description="Array of targets; null for none.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of 'path' drawn for testing.")

    @model_validator(mode="after")
    def _some_file(self) -> NpzOptions:
        check_files("npz", self.path, self.train, self.test, self.calibration_file)
        return self


def read(options: NpzOptions, request: Request) -> Parts:
    """Inputs and targets as stored (float64 becomes float32 batch by batch)."""
    parts = _parts(options)
    arrays = {path: open_arrays(path) for path in {part.path for part in parts}}
    found = {part.name: _split(part, arrays[part.path], options, request.slices) for part in parts}
    return Parts(
        train=found.get("train"),
        calibration=found.get("calibration"),
        test=found.get("test"),
        whole=found.get("examples"),
        test_fraction=options.test_fraction,
    )


def check(options: NpzOptions, request: Request) -> None:
    """Refuses absent files, and archives without the arrays asked for."""
    targets = () if options.y is None else (options.y,)
    for part in _parts(options):
        names = _names(part.path)
        for key in (*_inputs(options), *targets, *request.slices):
            if key + part.suffix not in names:
                raise _no_array(part.path, key + part.suffix, names)


def contents(source: str, options: NpzOptions) -> Any:
    """The files' digests and which arrays are read."""
    files = {
        role: file_digest(path)
        for role in ("path", "train", "test", "calibration_file")
        if (path := getattr(options, role)) is not None
    }
    return {"files": files, "x": options.x, "y": options.y, "test_fraction": options.test_fraction}


def check_files(source: str, path: Path | None, *splits: Path | None) -> None:
    """Refuses neither, or both, of one file to be split and one file per split."""
    if (path is None) == all(split is None for split in splits):
        raise RecipeError(
            f"The data source '{source}' takes either 'path' or files per split",
            got="neither" if path is None else "both",
            do="give 'path' to have it split, or 'train' and 'test'",
        )


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of the archive: memory-mapped where uncompressed, else loaded. Never unpickles.

    Raises DataError for what is not an npz archive, is damaged or holds objects.
    """
    import numpy as np

    try:
        with _archive(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            mapped = {member.filename[:-4]: _map(path, member) for member in members}
        with np.load(path, allow_pickle=False) as loaded:
            return {name: loaded[name] if array is None else array for name, array in mapped.items()}
    except (zipfile.BadZipFile, ValueError, OSError, struct.error) as error:
        raise _damaged(path, error) from error


@dataclass(frozen=True)
class _Part:
    """One split: its file, and what its arrays' names end in there."""

    name: str
    path: Path
    suffix: str = ""


def _parts(options: NpzOptions) -> list[_Part]:
    files = {"train": options.train, "calibration": options.calibration_file, "test": options.test}
    if options.path is None:
        return [_Part(name, path) for name, path in files.items() if path is not None]
    path, names, first = options.path, _names(options.path), _inputs(options)[0]
    own = [_Part(name, path, f"_{name}") for name in files if f"{first}_{name}" in names]
    return own if own and first not in names else [_Part("examples", path)]


def _inputs(options: NpzOptions) -> tuple[str, ...]:
    return (options.x,) if isinstance(options.x, str) else options.x


def _names(path: Path) -> list[str]:
    with _archive(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _archive(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise absent("data file", path)
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"'{path}' cannot be read as an npz archive", got=error, do="write it with np.savez, numbers only"
    )


def _no_array(path: Path, key: str, present: Iterable[str]) -> DataError:
    return DataError(
        f"'{path}' has no array '{key}'",
        do=f"{did_you_mean(key, present)}; x and y in the data block name the arrays, y: null means no targets",
    )


def _split(
    part: _Part, arrays: Mapping[str, np.ndarray], options: NpzOptions, columns: tuple[str, ...]
) -> Split:
    import numpy as np

    from lwplugin.data.readers import ArrayReader
    from lwplugin.data.split import Split

    def array(key: str) -> np.ndarray:
        if key + part.suffix not in arrays:
            raise _no_array(part.path, key + part.suffix, arrays)
        return arrays[key + part.suffix]

    inputs = array(options.x) if isinstance(options.x, str) else {key: array(key) for key in options.x}
    targets = None if options.y is None else array(options.y)
    slices = {column: np.asarray(array(column)) for column in columns}
    return Split(part.name, ArrayReader(inputs, targets), slices=slices)


def _map(path: Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    """The member as a read-only memory map, or None where it is compressed, empty or a scalar."""
    import numpy as np

    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER)
        name_size, extra_size = struct.unpack("<HH", header[26:30])
        stream.seek(member.header_offset + _LOCAL_HEADER + name_size + extra_size)
        start = stream.tell()
        major, _ = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
        offset = stream.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject or not shape or size == 0 or offset - start + size != member.file_size:
        return None
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


SOURCE: Source = Source(
    "npz", NpzOptions, read, check, contents, "arrays in .npz files, memory-mapped where uncompressed"
)
