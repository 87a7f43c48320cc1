"""Token ids of many texts, kept as one flat array and padded when a batch is made."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from lwplugin.data.batch import Inputs
from lwplugin.data.readers import Reader, Rows, as_tensor
from lwplugin.errors import DataError

IGNORED = -100
_CHUNK = 1024


class TokenReader(Reader):
    """Texts are tokenized once, at the first read, and then dropped.

    ``targets`` is one label per text [n], or one array of word labels per text.
    """

    def __init__(
        self,
        texts: list[Any],
        targets: np.ndarray | list[np.ndarray] | None,
        tokenizer: Any,
        *,
        max_length: int,
        fixed: bool,
        token_type_ids: bool,
    ) -> None:
        self._texts = texts
        self._n = len(texts)
        self._words = targets if isinstance(targets, list) else None
        self._targets = as_tensor(targets) if isinstance(targets, np.ndarray) else None
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._fixed = fixed
        self._token_type_ids = token_type_ids
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def __len__(self) -> int:
        return self._n

    def labels(self) -> np.ndarray | None:
        return None if self._targets is None else self._targets.numpy()

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        positions = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        ids, word_labels, starts = self._tokens
        lengths = starts[positions + 1] - starts[positions]
        held = self._held(lengths)
        flat = (starts[positions][:, None] + np.arange(held.shape[1])[None, :])[held]
        inputs = self._padded(ids[flat], held)
        if word_labels is not None:
            labels = np.full(held.shape, IGNORED, dtype=np.int64)
            labels[held] = word_labels[flat]
            return inputs, torch.from_numpy(labels)
        return inputs, None if self._targets is None else self._targets[torch.from_numpy(positions)]

    def texts(self, rows: np.ndarray) -> list[str] | None:
        """Decoded from the token ids: what the model is shown, cut at the longest it is given.

        None where words have labels of their own: a text has lost them.
        """
        if self._words is not None:
            return None
        ids, _, starts = self._tokens
        return [
            str(self._tokenizer.decode(ids[starts[row] : starts[row + 1]], skip_special_tokens=True))
            for row in rows
        ]

    def tokenized(self, texts: list[str]) -> Inputs:
        encoded = self._tokenizer(texts, truncation=True, max_length=self._max_length)["input_ids"]
        lengths = np.array([len(tokens) for tokens in encoded])
        return self._padded(np.concatenate([np.asarray(tokens) for tokens in encoded]), self._held(lengths))

    def _held(self, lengths: np.ndarray) -> np.ndarray:
        """Where of [n, width] a token lies."""
        width = self._max_length if self._fixed else int(lengths.max(initial=1))
        held: np.ndarray = np.arange(width)[None, :] < lengths[:, None]
        return held

    def _padded(self, ids: np.ndarray, held: np.ndarray) -> dict[str, torch.Tensor]:
        input_ids = np.full(held.shape, self._pad, dtype=np.int64)
        input_ids[held] = ids
        inputs = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(held.astype(np.int64)),
        }
        if self._token_type_ids:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return inputs

    @cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """All ids int32, the word label of each (or None), and where each text starts [n + 1]."""
        ids: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for start in range(0, self._n, _CHUNK):
            chunk = self._texts[start : start + _CHUNK]
            split = self._words is not None
            encoded = self._tokenizer(
                chunk, truncation=True, max_length=self._max_length, is_split_into_words=split
            )
            for offset, tokens in enumerate(encoded["input_ids"]):
                ids.append(np.asarray(tokens, dtype=np.int32))
                if self._words is not None:
                    labels.append(self._label_words(self._words[start + offset], encoded.word_ids(offset)))
        self._texts = []
        starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        return np.concatenate(ids), np.concatenate(labels) if labels else None, starts

    def _label_words(self, labels: np.ndarray, words: list[int | None]) -> np.ndarray:
        out = np.full(len(words), IGNORED, dtype=np.int64)
        previous = None
        for token, word in enumerate(words):
            if word is not None and word != previous:
                if word >= len(labels):
                    raise DataError(
                        "A text has more words than labels",
                        got=f"{len(labels)} labels",
                        do="give one label per word of the list",
                    )
                out[token] = labels[word]
            previous = word
        return out
