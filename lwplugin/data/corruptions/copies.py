"""A split seen through a corruption: read, changed and handed on batch by batch, nothing kept."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch

from lwplugin.data.batch import Inputs, map_inputs, tensors
from lwplugin.data.corruptions import KINDS, SEVERITIES
from lwplugin.data.corruptions.numbers import OF_IMAGES, OF_NUMBERS, Change, Generators, Scale
from lwplugin.data.corruptions.typos import with_typos
from lwplugin.data.readers import Changing, Reader, Rows
from lwplugin.data.split import Split
from lwplugin.errors import DataError, RecipeError, did_you_mean

_SCALE_EXAMPLES = 512


def corrupted(split: Split, kind: str, severity: int, *, seed: int = 0) -> Split:
    """The same examples, targets and slices with corrupted inputs.

    What is drawn for an example depends on seed, kind, severity and the example's place in its source, not on
    its batch; the range it is scaled by is seen on the split's first 512. Integer inputs stay as they are.

    Raises RecipeError for an unknown kind or severity, DataError for a kind that these examples cannot have.
    """
    if severity not in SEVERITIES:
        raise RecipeError("A corruption has the severities 1 to 5", got=severity, do="use one of them")
    sample = need_possible(split, [kind], examples=_SCALE_EXAMPLES)
    draws = _Draws(seed, kind, severity)
    if kind == "typos":
        return split.over(_Mistyped(split.reader, severity, draws))
    change = (OF_IMAGES | OF_NUMBERS)[kind]
    return split.over(_Changed(split.reader, change, severity, kind in OF_IMAGES, sample, draws))


def need_possible(split: Split, kinds: Sequence[str], *, examples: int = 1) -> Inputs:
    """The split's first ``examples``. Raises the errors of `corrupted` for a kind that these cannot have."""
    if not len(split):
        raise DataError(f"The {split.name} split is empty", do="add examples")
    sample = next(split.batches(examples)).inputs
    possible = kinds_for(split.reader, sample)
    for kind in kinds:
        if kind not in KINDS:
            raise RecipeError(f"Unknown corruption '{kind}'", do=did_you_mean(kind, KINDS))
        if kind not in possible:
            raise DataError(
                f"The corruption '{kind}' means nothing to these examples",
                got=", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in tensors(sample).items()),
                do=f"use {', '.join(possible)}" if possible else "leave corruptions out",
            )
    return sample


def kinds_for(reader: Reader, sample: Inputs) -> list[str]:
    """The corruptions that examples of this kind can have."""
    found: list[str] = []
    numbers = [x for x in tensors(sample).values() if x.is_floating_point()]
    if numbers:
        found += OF_NUMBERS
    if any(x.ndim == 4 for x in numbers):
        found += OF_IMAGES
    if reader.texts(np.arange(1)) is not None:
        found.append("typos")
    return found


class _Draws:
    """A generator for every example, whatever batch it comes in."""

    def __init__(self, seed: int, kind: str, severity: int) -> None:
        self.key = (seed, crc32(kind.encode()), severity)

    def __call__(self, rows: np.ndarray) -> Generators:
        return [np.random.default_rng((*self.key, int(row))) for row in rows]


class _Seen(Changing):
    """A reader's rows, each changed as a generator of its own decides."""

    def __init__(self, reader: Reader, draws: _Draws) -> None:
        super().__init__(reader)
        self.draws = draws


class _Changed(_Seen):
    """Every floating-point tensor (only the images among them, for what only images have) is changed."""

    def __init__(
        self, reader: Reader, change: Change, severity: int, images: bool, sample: Inputs, draws: _Draws
    ) -> None:
        super().__init__(reader, draws)
        self.change, self.severity, self.images = change, severity, images
        self.scales = [Scale.of(x.float()) if self._wanted(x) else None for x in tensors(sample).values()]

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        inputs, targets = self.inner.read(rows)
        positions = self.positions(rows)
        scales = iter(self.scales)

        def changed(x: torch.Tensor) -> torch.Tensor:
            scale = next(scales)
            if scale is None:
                return x
            return self.change(x.float(), self.severity, scale, self.draws(positions)).to(x.dtype)

        return map_inputs(inputs, changed), targets

    def _wanted(self, x: torch.Tensor) -> bool:
        return x.is_floating_point() and (x.ndim == 4 or not self.images)


class _Mistyped(_Seen):
    """Texts with typos, through the same tokenizer."""

    def __init__(self, reader: Reader, severity: int, draws: _Draws) -> None:
        super().__init__(reader, draws)
        self.severity = severity

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        positions = self.positions(rows)
        texts = self.texts(positions) or []
        _, targets = self.inner.read(rows)
        return self.inner.tokenized(texts), targets

    def texts(self, rows: np.ndarray) -> list[str] | None:
        texts = self.inner.texts(rows)
        if texts is None:
            return None
        draws = self.draws(rows)
        return [with_typos(text, self.severity, each) for text, each in zip(texts, draws, strict=True)]
