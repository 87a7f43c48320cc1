"""Texts and labels out of csv, jsonl, parquet and folders."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwplugin.data.sources.base import absent
from lwplugin.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Texts:
    """Texts (or lists of words), a label each where there are any, and slice columns."""

    texts: list[Any]
    labels: list[Any] | None
    slices: dict[str, np.ndarray]


def read_texts(path: Path, text: str, label: str | None, encoding: str, slices: tuple[str, ...]) -> Texts:
    """Reads a file by its ending, or a folder. Raises DataError saying file and row."""
    if path.is_dir():
        pairs = [(file.read_text(encoding=encoding), file.parent.name) for file in _folder(path, slices)]
        return Texts([words for words, _ in pairs], [name for _, name in pairs], {})
    wanted = _wanted(text, label, slices)
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for record in _rows(path, encoding, wanted):
        for name in wanted:
            columns[name].append(record[name])
    if not columns[text]:
        raise _no_rows(path)
    return Texts(
        columns[text],
        None if label is None else columns[label],
        {name: np.asarray(columns[name]) for name in slices},
    )


def check_texts(path: Path, text: str, label: str | None, encoding: str, slices: tuple[str, ...]) -> None:
    """Raises the DataError of `read_texts` where its first row would."""
    if path.is_dir():
        _folder(path, slices)
    elif next(_rows(path, encoding, _wanted(text, label, slices)), None) is None:
        raise _no_rows(path)


def text_files(folder: Path) -> list[Path]:
    """The .txt files of a folder of class folders. Raises DataError where there are none."""
    files = sorted(folder.glob("*/*.txt"))
    if not files:
        raise DataError(f"No texts under '{folder}'", do="put the .txt files of each class in its own folder")
    return files


def _folder(path: Path, slices: tuple[str, ...]) -> list[Path]:
    if slices:
        raise DataError(
            "A folder of texts has no slice columns", got=", ".join(slices), do="use csv or jsonl"
        )
    return text_files(path)


def _wanted(text: str, label: str | None, slices: tuple[str, ...]) -> list[str]:
    return [text, *([] if label is None else [label]), *slices]


def _rows(path: Path, encoding: str, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    """Records that have every column wanted."""
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"Unknown kind of text file '{path}'", do=f"use {', '.join(readers)} or a folder")
    if not path.is_file():
        raise absent("data file", path)
    try:
        for row, record in enumerate(readers[path.suffix.lower()](path, encoding, wanted), start=1):
            for name in wanted:
                if record.get(name) is None:
                    raise DataError(
                        f"Row {row} of '{path}' has no '{name}'", do=did_you_mean(name, map(str, record))
                    )
            yield record
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not {encoding}", got=error, do="set data.encoding") from error


def _no_rows(path: Path) -> DataError:
    return DataError(f"'{path}' holds no texts", do="give a file with at least one row")


def _csv(path: Path, encoding: str, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding=encoding, newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _jsonl(path: Path, encoding: str, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding=encoding) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"Line {number} of '{path}' is not JSON", got=error) from error
            if not isinstance(record, dict):
                raise DataError(f"Line {number} of '{path}' is not an object", got=type(record).__name__)
            yield record


def _parquet(path: Path, encoding: str, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    from lwplugin.data.sources.parquet import missing_column, open_parquet

    opened = open_parquet(path)
    for name in wanted:
        if name not in opened.schema_arrow.names:
            raise missing_column(path, name, opened.schema_arrow.names)
    for batch in opened.iter_batches(columns=wanted):
        yield from batch.to_pylist()
