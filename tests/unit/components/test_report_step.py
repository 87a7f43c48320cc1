"""What of the examples whose answers changed the report step hands to the page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lwplugin.components.report import _flipped

from lwplugin.data import Data, from_arrays, load


def verdict(*, lost: Any = (), gained: Any = (), changed: Any = ()) -> Any:
    return SimpleNamespace(flips=SimpleNamespace(lost_ids=lost, gained_ids=gained, changed_ids=changed))


def of(x: Any) -> Data:
    return from_arrays(test=(x, np.arange(len(x)) % 2), duplicates="ignore")


def test_pictures_are_those_of_the_ids_lost_first() -> None:
    x = np.arange(60, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    shown = _flipped(of(x), verdict(lost=(50, 3), gained=(7,), changed=(3, 7, 9, 50)))
    assert shown["flips_image_ids"] == [50, 3, 7, 9]
    assert shown["flips_images"][:, 0, 0, 0].tolist() == [50, 3, 7, 9]
    assert len(_flipped(of(x), verdict(lost=range(60)))["flips_image_ids"]) == 24


def test_vectors_are_told_by_their_numbers_and_others_not_at_all() -> None:
    x = np.round(np.random.default_rng(0).random((5, 3)), 2).astype(np.float32)
    shown = _flipped(of(x), verdict(lost=(4,)))
    assert shown == {"flips_texts": [", ".join(f"{v:.4g}" for v in x[4])], "flips_text_ids": [4]}
    assert _flipped(of(np.zeros((5, 1024), np.float32)), verdict(lost=(4,))) == {}
    assert _flipped(of(x), verdict()) == {}
    assert _flipped(of(x), SimpleNamespace(flips=None)) == {}  # type: ignore[arg-type]


def test_texts_are_shown_as_text(tmp_path: Path) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "good", "bad", "news"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "t.csv").write_text("text,label\ngood news,a\nbad news,b\nbad bad news,b\n")
    data = load({"source": "text", "test": tmp_path / "t.csv", "tokenizer": tmp_path / "tokenizer"})
    shown = _flipped(data, verdict(lost=(2, 0)))
    assert shown == {"flips_texts": ["bad bad news", "good news"], "flips_text_ids": [2, 0]}
