from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lwplugin.data import Data, from_arrays, load
from lwplugin.data.corruptions import KINDS, SEVERITIES, corrupted
from lwplugin.data.corruptions.typos import with_typos
from lwplugin.errors import DataError, RecipeError

IMAGE_KINDS = sorted(set(KINDS) - {"typos"})


@pytest.fixture(scope="module")
def images() -> Data:
    """Smooth pictures, normalised as models are fed them: blurred squares of another place and size each."""
    random = np.random.default_rng(0)
    x = np.zeros((40, 3, 24, 24), np.float32)
    for image in x:
        top, left = random.integers(2, 10, 2)
        image[:, top : top + 9, left : left + 9] = random.random((3, 1, 1))
    return from_arrays(test=((x - 0.4) / 0.25, np.arange(40) % 4), duplicates="ignore")


def pixels(split: object, batch: int = 16) -> torch.Tensor:
    return torch.cat([each.inputs for each in split.batches(batch)])  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_copy_is_the_seeds_alone_and_worse_with_severity(images: Data, kind: str) -> None:
    test = images.need("test")
    clean = pixels(test)
    moved = []
    for severity in SEVERITIES:
        copy = corrupted(test, kind, severity, seed=3)
        seen = pixels(copy)
        assert seen.shape == clean.shape
        assert seen.dtype == clean.dtype
        torch.testing.assert_close(seen, pixels(copy, batch=7), rtol=0, atol=2e-6)
        assert seen.min() >= clean.min() - 1e-5
        assert seen.max() <= clean.max() + 1e-5
        moved.append(float((seen - clean).square().mean()))
    assert moved[0] > 0
    assert moved == sorted(moved)
    # An example is corrupted alike wherever it stands, and the labels and slices are its own.
    some = test.subset(np.array([7, 3]))
    torch.testing.assert_close(
        pixels(corrupted(some, "shift", 5, seed=3)), pixels(corrupted(test, "shift", 5, seed=3))[[7, 3]]
    )
    assert corrupted(some, kind, 5).slices()["label"].tolist() == [3, 3]


def test_another_seed_is_another_noise(images: Data) -> None:
    first, second = (pixels(corrupted(images.need("test"), "noise", 3, seed=seed)) for seed in (0, 1))
    assert float((first - second).abs().max()) > 0.1


def test_blur_keeps_the_light_and_loses_the_edges(images: Data) -> None:
    clean, seen = pixels(images.need("test")), pixels(corrupted(images.need("test"), "blur", 5))
    assert abs(float(seen.mean() - clean.mean())) < 0.02
    assert seen.diff(dim=-1).abs().max() < 0.6 * clean.diff(dim=-1).abs().max()


def test_noise_of_vectors_follows_each_feature() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((400, 2)) * [1.0, 100.0]).astype(np.float32)
    test = from_arrays(test=(x, np.zeros(400, int))).need("test")
    added = (pixels(corrupted(test, "noise", 3)) - torch.from_numpy(x)).std(0)
    assert 0.3 < added[0] < 0.4
    assert 30 < added[1] < 40


def test_what_means_nothing_is_refused(images: Data) -> None:
    with pytest.raises(DataError, match=r"'typos' means nothing.*use noise, blur"):
        corrupted(images.need("test"), "typos", 1)
    vectors = from_arrays(test=(np.zeros((3, 5), np.float32), np.zeros(3, int)), duplicates="ignore")
    with pytest.raises(DataError, match=r"'blur' means nothing.*\(3, 5\).*use noise"):
        corrupted(vectors.need("test"), "blur", 1)
    with pytest.raises(RecipeError, match="did you mean 'noise'"):
        corrupted(images.need("test"), "nois", 1)
    with pytest.raises(RecipeError, match="severities 1 to 5"):
        corrupted(images.need("test"), "noise", 6)


def test_typos_change_the_letters_asked_for() -> None:
    text = "the quick brown fox jumps over the lazy dog, 42 times. " * 20
    changed = []
    for severity in SEVERITIES:
        seen = with_typos(text, severity, np.random.default_rng(0))
        assert seen.count("42") == 20
        words = zip(text.split(), seen.split(), strict=False)
        changed.append(sum(before != after for before, after in words))
    assert 0 < changed[0] < changed[2] < changed[4]
    assert with_typos("1 + 1 = 2", 5, np.random.default_rng(0)) == "1 + 1 = 2"


def test_texts_go_through_their_own_tokenizer_again(tmp_path: Path) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    letters = {token: place for place, token in enumerate(["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz "])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "t.csv").write_text("text,label\ngood news everyone,a\nquite bad news,b\n")
    spec = {"source": "text", "test": tmp_path / "t.csv", "tokenizer": tmp_path / "tokenizer"}
    test = load(spec).need("test")
    assert test.texts(np.array([1])) == ["quite bad news"]
    copy = corrupted(test, "typos", 5, seed=1)
    said = copy.texts(np.array([0, 1]))
    assert said is not None
    assert said != ["good news everyone", "quite bad news"]
    (batch,) = copy.batches(8)
    assert isinstance(batch.inputs, dict)
    assert batch.inputs["attention_mask"].sum(1).tolist() == [len(each) for each in said]
    assert batch.targets is not None
    assert batch.targets.tolist() == [0, 1]
