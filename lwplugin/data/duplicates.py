"""Examples of test that are also in train or calibration, byte for byte."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from lwplugin.data.batch import tensors
from lwplugin.data.readers import TensorReader
from lwplugin.data.split import Split
from lwplugin.errors import DataError

LIMIT_BYTES = 4 << 30
_ROWS = 4096


class DataWarning(UserWarning):
    """Something about the examples that may make the measured scores too good."""


def apply_policy(splits: dict[str, Split | None], policy: str) -> dict[str, Split | None]:
    """Looks for test examples in train and calibration; ``policy`` is warn, error, drop or ignore.

    Only for sets held in memory, up to 4 GiB; others pass unchecked. Raises DataError under ``error``.
    """
    test = splits.get("test")
    if policy == "ignore" or test is None or not _checkable(test):
        return splits
    checked = dict(splits)
    for name in ("train", "calibration"):
        split = splits.get(name)
        if split is None or not _checkable(split):
            continue
        shared = shared_positions(split, test)
        if not len(shared):
            continue
        said = f"{len(shared)} of {len(split)} examples of {name} are also in test, byte for byte"
        way_out = "remove them, or set data.duplicates to 'drop' (removes them from train) or 'ignore'"
        if policy == "error":
            raise DataError(said, do=way_out)
        if policy == "warn":
            warnings.warn(
                f"{said}: scores on test may be too good. Do: {way_out}.", DataWarning, stacklevel=4
            )
            continue
        keep = np.ones(len(split), dtype=bool)
        keep[shared] = False
        if not keep.any():
            raise DataError(f"All examples of {name} are also in test", do="give splits that differ")
        checked[name] = split.subset(np.flatnonzero(keep))
    return checked


def shared_positions(split: Split, test: Split) -> np.ndarray:
    """Positions in ``split`` of examples whose inputs are exactly those of some example of ``test``."""
    ours, theirs = _hashes(split), _hashes(test)
    order = np.argsort(theirs, kind="stable")
    place = np.searchsorted(theirs, ours, sorter=order)
    place = np.minimum(place, len(theirs) - 1)
    candidates = np.flatnonzero(theirs[order[place]] == ours)
    same = [position for position in candidates if _equal(split, int(position), test, theirs, ours[position])]
    return np.asarray(same, dtype=np.int64)


def _checkable(split: Split) -> bool:
    reader = split.reader
    if not isinstance(reader, TensorReader):
        return False
    parts = tensors(reader.inputs).values()
    return sum(part.numel() * part.element_size() for part in parts) <= LIMIT_BYTES


def _hashes(split: Split) -> np.ndarray:
    """A 64-bit universal hash of each example's bytes, a few thousand rows at a time."""
    total = np.zeros(len(split), dtype=np.uint64)
    for salt, array in enumerate(_rows_of(split)):
        flat = array.reshape(len(array), -1)
        width = flat.shape[1] * flat.itemsize
        words = -(-width // 8)
        odd = np.random.default_rng(salt).integers(1, 2**63, size=words, dtype=np.uint64) * np.uint64(2)
        odd += np.uint64(1)
        for start in range(0, len(split), _ROWS):
            positions = np.arange(start, min(start + _ROWS, len(split)))
            rows = positions if split.index is None else split.index[positions]
            raw = np.ascontiguousarray(flat[rows]).view(np.uint8).reshape(len(rows), width)
            if width % 8:
                raw = np.pad(raw, ((0, 0), (0, words * 8 - width)))
            mixed = raw.view(np.uint64) * odd
            # High bits of a product depend on all lower ones; folding keeps them in the sum.
            total[positions] += (mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64)
    return total


def _equal(split: Split, position: int, test: Split, hashes: np.ndarray, wanted: np.uint64) -> bool:
    twins = np.flatnonzero(hashes == wanted)
    return any(
        all(
            np.array_equal(ours[_row(split, position)], theirs[_row(test, int(twin))])
            for ours, theirs in zip(_rows_of(split), _rows_of(test))
        )
        for twin in twins[:8]
    )


def _row(split: Split, position: int) -> int:
    return position if split.index is None else int(split.index[position])


def _rows_of(split: Split) -> list[np.ndarray]:
    reader = split.reader
    if not isinstance(reader, TensorReader):
        raise DataError("Only examples held in memory can be compared", got=repr(split))
    return [_numpy(part) for part in tensors(reader.inputs).values()]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    return array
