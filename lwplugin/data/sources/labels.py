"""Class names to class numbers, the same for every split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwplugin.errors import DataError, did_you_mean


def class_names(values: np.ndarray) -> tuple[str, ...] | None:
    """Sorted names where labels are strings; None where they are numbers already."""
    if values.dtype.kind in "OUS":
        return tuple(sorted({str(value) for value in values.tolist()}))
    return None


def encode(values: np.ndarray, classes: Sequence[str] | None, where: str) -> np.ndarray:
    """int64 positions in ``classes``; numbers pass unchanged. Raises DataError for an unknown name."""
    if classes is None:
        if values.dtype.kind in "OUS":
            raise DataError(f"Labels of {where} are text, those of train are numbers", do="use one kind")
        return values
    position = {name: number for number, name in enumerate(classes)}
    encoded = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values.tolist()):
        if str(value) not in position:
            raise DataError(
                f"{where} has the class '{value}', which train has not", do=did_you_mean(str(value), classes)
            )
        encoded[row] = position[str(value)]
    return encoded
