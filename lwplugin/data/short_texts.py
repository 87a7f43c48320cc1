"""Half of the calibration texts cut short, so that what is fitted to them also fits short texts and padding.

Ranges, gains and weights that only ever saw texts as long as the model takes answer long texts best and short ones
badly: a search query, a headline, the names of classes. Nothing here needs a label, so a text may be cut anywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lwplugin.data.batch import Inputs
from lwplugin.data.readers import Changing, Reader, Rows
from lwplugin.data.split import Split

LEAST = 3
"""Tokens that are left at least: a word between the first and the last token, which tokenizers add."""


def with_short_texts(split: Split, *, seed: int = 0) -> Split:
    """The same examples, about half of them cut to between 3 tokens and as many as they have, evenly in the logarithm.

    Which and how short follows from ``seed`` and an example's place in the split; the first is never cut. Of a text
    that is cut its last token stays last. Without ``attention_mask`` and ``input_ids`` [n, tokens] among the inputs,
    the split itself.
    """
    if not len(split):
        return split
    sample = next(split.head(64).batches(64)).inputs
    if not _are_texts(sample):
        return split
    draws = np.random.default_rng((seed, 0x5407)).random((len(split), 2))
    shares = np.ones(len(split.reader))
    rows = np.arange(len(split.reader)) if split.index is None else split.index
    shares[rows] = np.where(draws[:, 0] < 0.5, draws[:, 1], 1.0)
    shares[rows[0]] = 1.0
    return split.over(_Shortened(split.reader, shares, _padding(sample)))


class _Shortened(Changing):
    """Row by row cut to LEAST × (length / LEAST) ** share tokens."""

    def __init__(self, reader: Reader, shares: np.ndarray, padding: int) -> None:
        super().__init__(reader)
        self.shares = torch.from_numpy(shares)
        self.padding = padding

    def read(self, rows: Rows) -> tuple[Inputs, Tensor | None]:
        inputs, targets = self.inner.read(rows)
        assert isinstance(inputs, dict)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        lengths = mask.sum(1)
        shares = self.shares[torch.from_numpy(self.positions(rows))]
        kept = (LEAST * (lengths / LEAST).clamp_min(1) ** shares).round().to(lengths.dtype)
        kept = torch.where(_padded_right(mask), torch.minimum(kept, lengths), lengths)
        last = ids.gather(1, (lengths - 1).clamp_min(0)[:, None])
        places = torch.arange(mask.shape[1])[None, :]
        cut = (kept < lengths)[:, None]
        ids = torch.where(cut & (places == kept[:, None] - 1), last, ids)
        beyond = cut & (places >= kept[:, None])
        changed = {
            "input_ids": ids.masked_fill(beyond, self.padding),
            "attention_mask": mask.masked_fill(beyond, 0),
        }
        return {**inputs, **changed}, targets


def _are_texts(inputs: Inputs) -> bool:
    if not isinstance(inputs, dict) or not {"input_ids", "attention_mask"} <= set(inputs):
        return False
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return ids.ndim == 2 and ids.shape == mask.shape and not ids.is_floating_point()


def _padded_right(mask: Tensor) -> Tensor:
    """Which texts begin at the first place and have no gap, bool [n]."""
    return (mask.bool() == (torch.arange(mask.shape[1])[None, :] < mask.sum(1, keepdim=True))).all(1)


def _padding(inputs: Inputs) -> int:
    """The token id that stands where there is no text; 0 where the sample has no such place."""
    assert isinstance(inputs, dict)
    found = inputs["input_ids"][inputs["attention_mask"] == 0]
    return int(found.mode().values) if len(found) else 0
