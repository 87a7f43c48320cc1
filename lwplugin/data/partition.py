"""Draws without overlap: test and calibration examples, in the proportions of the labels where known."""

from __future__ import annotations

import numpy as np

from lwplugin.data.duplicates import apply_policy
from lwplugin.data.sources.base import Parts
from lwplugin.data.split import Split
from lwplugin.errors import DataError

DEFAULT_CALIBRATION = 512


def partition(
    parts: Parts, *, calibration: int | None, seed: int, duplicates: str
) -> dict[str, Split | None]:
    """Splits with no example in two of them.

    A set without official splits gives ``test_fraction`` of it for testing. Calibration is drawn out of
    train: ``calibration`` examples, or 512 but at most a quarter of train; they leave train. Asking for
    more than half of train is refused. Test is never a source of calibration.
    """
    train, drawn, test = parts.train, parts.calibration, parts.test
    if parts.whole is not None:
        train, test = _divide(parts.whole, parts.test_fraction, seed)
    if drawn is None and train is not None:
        train, drawn = _draw_calibration(train, calibration, seed)
    splits = {"train": train, "calibration": drawn, "test": test}
    for name, split in splits.items():
        if split is not None and len(split) == 0:
            raise DataError(f"The {name} split is empty", do="give more examples or change the fractions")
    return apply_policy(splits, duplicates)


def stratified_draw(labels: np.ndarray | None, n: int, total: int, seed: int) -> np.ndarray:
    """Sorted positions of ``n`` of ``total`` examples; each class gets its share (largest remainder).

    Without labels, or with real-valued or many-dimensional ones, a plain draw.
    """
    generator = np.random.default_rng(seed)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub":
        return np.sort(generator.permutation(total)[:n])
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) > max(n, 1):
        return np.sort(generator.permutation(total)[:n])
    exact = counts * (n / total)
    share = np.floor(exact).astype(np.int64)
    for position in np.argsort(-(exact - share), kind="stable")[: n - int(share.sum())]:
        share[position] += 1
    shuffled = generator.permutation(total)
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    picked = [by_class[start : start + take] for start, take in zip(starts, share)]
    return np.sort(np.concatenate(picked))


def _divide(whole: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    n = round(len(whole) * fraction)
    if n < 1 or n >= len(whole):
        raise DataError(
            "The data set is too small to split",
            got=f"{len(whole)} examples, {fraction:.0%} of them for testing",
            do="give more examples, or separate train and test sets",
        )
    return _apart(whole, stratified_draw(whole.labels(), n, len(whole), seed), "train", "test")


def _draw_calibration(train: Split, asked: int | None, seed: int) -> tuple[Split, Split | None]:
    n = min(DEFAULT_CALIBRATION, len(train) // 4) if asked is None else asked
    if n == 0:
        return train, None
    if n > len(train) // 2:
        raise DataError(
            "Calibration would take more than half of train",
            got=f"{n} of {len(train)} examples",
            do=f"ask for at most {len(train) // 2}, or give a calibration set of its own",
        )
    # Another stream than the test draw, so that the two draws are independent.
    positions = stratified_draw(train.labels(), n, len(train), seed + 0x5EED)
    return _apart(train, positions, "train", "calibration")


def _apart(split: Split, positions: np.ndarray, rest: str, drawn: str) -> tuple[Split, Split]:
    keep = np.ones(len(split), dtype=bool)
    keep[positions] = False
    return split.subset(np.flatnonzero(keep), name=rest), split.subset(positions, name=drawn)
