"""Parquet files, streamed by row group: at most a few groups are in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions, absent, file_digest, tree_digest
from lwplugin.data.sources.labels import class_names, encode
from lwplugin.data.sources.npz import check_files
from lwplugin.errors import DataError, MissingExtraError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from lwplugin.data.split import Split


class ParquetOptions(SourceOptions):
    """Options of the parquet source. A path is a file or a folder of ``*.parquet`` files."""

    path: Path | None = Field(None, description="File or folder; test examples are drawn out of it.")
    train: Path | None = Field(None, description="File or folder of training examples.")
    test: Path | None = Field(None, description="File or folder of test examples.")
    calibration_file: Path | None = Field(None, description="File or folder of calibration examples.")
    features: str | tuple[str, ...] = Field(
        description="Feature columns: one column of numbers or of equally long lists, or several columns, "
        "which are joined into one row of numbers."
    )
    label: str | None = Field(None, description="Column of targets; text is numbered in sorted order.")
    inputs: str = Field(
        "tensor",
        pattern="^(tensor|dict)$",
        description="'tensor' joins the features, 'dict' gives each to the model under its name.",
    )
    shape: tuple[int, ...] | None = Field(None, description="Shape of one example, where a list is flat.")
    shuffle_rows: int = Field(
        65_536, ge=1, description="Rows shuffled together: whole row groups, at least one, up to this many."
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of 'path' drawn for testing.")

    @model_validator(mode="after")
    def _some_file(self) -> ParquetOptions:
        check_files("parquet", self.path, self.train, self.test, self.calibration_file)
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature columns."""
        return (self.features,) if isinstance(self.features, str) else self.features


def read(options: ParquetOptions, request: Request) -> Parts:
    """Features float32 or int64; the label and slice columns are read whole, one column at a time."""
    from lwplugin.data.sources.parquet_reader import ParquetReader, column
    from lwplugin.data.split import Split

    roles = {
        "train": options.train,
        "calibration": options.calibration_file,
        "test": options.test,
        "examples": options.path,
    }
    tables = {name: _files(path) for name, path in roles.items() if path is not None}
    labels: dict[str, np.ndarray] = {}
    if options.label is not None:
        labels = {name: column(files, options.label) for name, files in tables.items()}
    first = next(
        (labels[name] for name in ("train", "examples", "calibration", "test") if name in labels), None
    )
    classes = None if first is None else class_names(first)

    def split(name: str) -> Split | None:
        if name not in tables:
            return None
        targets = encode(labels[name], classes, str(roles[name])) if name in labels else None
        reader = ParquetReader(
            tables[name],
            options.columns,
            targets,
            as_dict=options.inputs == "dict",
            shape=options.shape,
            shuffle_rows=options.shuffle_rows,
        )
        slices = {wanted: column(tables[name], wanted) for wanted in request.slices}
        return Split(name, reader, slices=slices)

    return Parts(
        train=split("train"),
        calibration=split("calibration"),
        test=split("test"),
        whole=split("examples"),
        test_fraction=options.test_fraction,
    )


def check(options: ParquetOptions, request: Request) -> None:
    """Refuses absent files, and columns that the first file of a folder has not."""
    label = () if options.label is None else (options.label,)
    for path in (options.path, options.train, options.test, options.calibration_file):
        if path is None:
            continue
        first = _files(path)[0]
        with open_parquet(first) as opened:
            present = opened.schema_arrow.names
        for name in (*options.columns, *label, *request.slices):
            if name not in present:
                raise missing_column(first, name, present)


def contents(source: str, options: ParquetOptions) -> Any:
    """The files' digests and which columns are read."""
    roles = ("path", "train", "test", "calibration_file")
    files = {}
    for role in roles:
        path = getattr(options, role)
        if path is not None:
            held = _files(path)
            files[role] = tree_digest(path, held) if path.is_dir() else file_digest(path)
    return {"files": files, **options.model_dump(mode="json", exclude=set(roles))}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise absent("parquet file", path)
    if not (files := sorted(path.glob("*.parquet"))):
        raise DataError(f"'{path}' holds no file *.parquet", do="check the path in the data block")
    return files


def open_parquet(path: Path) -> Any:
    """The pyarrow.parquet.ParquetFile, memory-mapped. Raises MissingExtraError, and DataError for what is none."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="parquet", why="Reading parquet files") from error
    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read as parquet", got=error, do="check the file") from error


def missing_column(path: Path, name: str, present: list[str]) -> DataError:
    """The error for a column that a file has not."""
    return DataError(f"'{path}' has no column '{name}'", do=did_you_mean(name, present))


SOURCE: Source = Source(
    "parquet", ParquetOptions, read, check, contents, "columns of parquet files, streamed by row group"
)
