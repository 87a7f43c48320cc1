"""Random access to parquet rows through a small cache of row groups, and the shuffle that suits it."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwplugin.data.batch import Inputs
from lwplugin.data.readers import Reader, Rows, as_tensor
from lwplugin.data.sources.parquet import missing_column, open_parquet
from lwplugin.errors import DataError


class ParquetReader(Reader):
    """Rows of several files one after another.

    A shuffle permutes the row groups, then the rows inside each run of consecutive groups that hold up
    to ``shuffle_rows`` rows; so one pass reads every group once. It is coarser than a full permutation:
    files sorted by label need a ``shuffle_rows`` of several labels' rows.
    """

    def __init__(
        self,
        files: list[Path],
        features: tuple[str, ...],
        targets: np.ndarray | None,
        *,
        as_dict: bool,
        shape: tuple[int, ...] | None,
        shuffle_rows: int,
    ) -> None:
        self._files = files
        self._features = features
        self._targets = None if targets is None else as_tensor(targets)
        self._as_dict = as_dict
        self._shape = shape
        self._groups: list[tuple[int, int]] = []
        sizes = []
        for number, path in enumerate(files):
            metadata = open_parquet(path)
            names = metadata.schema_arrow.names
            for feature in features:
                if feature not in names:
                    raise missing_column(path, feature, names)
            for group in range(metadata.num_row_groups):
                rows = metadata.metadata.row_group(group).num_rows
                if rows:
                    self._groups.append((number, group))
                    sizes.append(rows)
            metadata.close()
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._shuffle_rows = shuffle_rows
        largest = max(sizes, default=1)
        self._cached_rows = max(shuffle_rows, largest)
        self._cache: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def labels(self) -> np.ndarray | None:
        return None if self._targets is None else self._targets.numpy()

    def order(self, rows: np.ndarray | None, seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        rows = np.arange(len(self)) if rows is None else rows
        group_of = np.searchsorted(self._starts, rows, side="right") - 1
        by_group = np.argsort(group_of, kind="stable")
        present, counts = np.unique(group_of, return_counts=True)
        ends = np.cumsum(counts)
        shuffled = generator.permutation(len(present))
        order: list[np.ndarray] = []
        buffer: list[np.ndarray] = []
        buffered = 0
        for place in shuffled:
            # The group's own size counts, not the subset's: it is what lies in memory.
            size = int(self._starts[present[place] + 1] - self._starts[present[place]])
            if buffer and buffered + size > self._shuffle_rows:
                order.append(generator.permutation(np.concatenate(buffer)))
                buffer, buffered = [], 0
            buffer.append(by_group[ends[place] - counts[place] : ends[place]])
            buffered += size
        if buffer:
            order.append(generator.permutation(np.concatenate(buffer)))
        return np.concatenate(order) if order else np.empty(0, dtype=np.int64)

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        positions = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        group_of = np.searchsorted(self._starts, positions, side="right") - 1
        # Groups at hand first, so that loading a new one cannot push out one this batch still needs.
        needed = sorted(np.unique(group_of).tolist(), key=lambda group: group not in self._cache)
        out: dict[str, torch.Tensor] = {}
        for group in needed:
            columns = self._group(group)
            here = np.flatnonzero(group_of == group)
            inside = torch.from_numpy(positions[here] - self._starts[group])
            for name, values in columns.items():
                if name not in out:
                    out[name] = torch.empty((len(positions), *values.shape[1:]), dtype=values.dtype)
                out[name][torch.from_numpy(here)] = values[inside]
        targets = None if self._targets is None else self._targets[torch.from_numpy(positions)]
        return self._inputs(out), targets

    def _inputs(self, columns: dict[str, torch.Tensor]) -> Inputs:
        if self._as_dict:
            return columns
        parts = [columns[name] for name in self._features]
        joined = parts[0] if len(parts) == 1 else torch.cat([_flat(part) for part in parts], dim=1)
        if self._shape is None:
            return joined
        if (numbers := joined[:1].numel()) != math.prod(self._shape):
            raise DataError(
                "The examples do not fill data.shape",
                got=f"{numbers} numbers each for the shape {list(self._shape)}",
                do="give the shape whose sizes multiply to that, without the batch",
            )
        return joined.reshape(len(joined), *self._shape)

    def _group(self, group: int) -> dict[str, torch.Tensor]:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        columns = self._values_of_group(group)
        self._cache[group] = columns
        held = sum(_length(kept) for kept in self._cache.values())
        while len(self._cache) > 1 and held > self._cached_rows:
            _, dropped = self._cache.popitem(last=False)
            held -= _length(dropped)
        return columns

    def _values_of_group(self, group: int) -> dict[str, torch.Tensor]:
        file, number = self._groups[group]
        opened = open_parquet(self._files[file])
        table = opened.read_row_group(number, columns=list(self._features))
        opened.close()
        return {name: _values(table.column(name), name, self._files[file]) for name in self._features}


def column(files: list[Path], name: str) -> np.ndarray:
    """One whole column of several files. Raises DataError for a missing column or missing values."""
    import pyarrow

    parts = []
    for path in files:
        opened = open_parquet(path)
        if name not in opened.schema_arrow.names:
            raise missing_column(path, name, opened.schema_arrow.names)
        values = opened.read(columns=[name]).column(name)
        opened.close()
        if values.null_count:
            raise DataError(
                f"Column '{name}' of '{path}' has missing values",
                got=values.null_count,
                do="fill or drop them",
            )
        if pyarrow.types.is_dictionary(values.type):
            values = values.combine_chunks().dictionary_decode()
        parts.append(_array(values, name, path))
    return np.concatenate(parts)


def _values(chunked: Any, name: str, path: Path) -> torch.Tensor:
    if chunked.null_count:
        raise DataError(
            f"Column '{name}' of '{path}' has missing values", got=chunked.null_count, do="fill or drop them"
        )
    return as_tensor(_array(chunked, name, path))


def _array(chunked: Any, name: str, path: Path) -> np.ndarray:
    """[n] of a column of scalars, [n, k] of a column of lists of one length, without Python objects."""
    import pyarrow

    values = chunked.combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):
        values = pyarrow.concat_arrays(values.chunks)
    kind = values.type
    if (
        pyarrow.types.is_list(kind)
        or pyarrow.types.is_large_list(kind)
        or pyarrow.types.is_fixed_size_list(kind)
    ):
        flat = values.flatten()
        if pyarrow.types.is_list(flat.type) or pyarrow.types.is_fixed_size_list(flat.type):
            raise DataError(
                f"Column '{name}' of '{path}' nests lists", do="store flat lists and set data.shape"
            )
        if (
            len(values) == 0
            or len(flat) % len(values)
            or len(set(values.value_lengths().unique().to_pylist())) > 1
        ):
            raise DataError(
                f"Lists of column '{name}' of '{path}' differ in length", do="pad them to one length"
            )
        return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), -1)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(len(values), -1)


def _length(columns: dict[str, torch.Tensor]) -> int:
    return len(next(iter(columns.values())))
