from __future__ import annotations

import numpy as np
import pytest
import torch

from lwplugin.data import from_arrays
from lwplugin.data.padding import attention_mask, real_tokens

LENGTH, PAD = 40, 9


def texts(n: int = 200, *, padded: int = 5) -> dict[str, np.ndarray]:
    """Texts of 35 tokens, the last of each 102."""
    ids = np.random.default_rng(0).integers(200, 900, (n, LENGTH))
    mask = np.ones_like(ids)
    ids[:, LENGTH - padded - 1] = 102
    ids[:, LENGTH - padded :], mask[:, LENGTH - padded :] = PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def test_half_of_the_texts_to_fit_are_cut_and_end_as_texts_do() -> None:
    given = texts()
    data = from_arrays(calibration=given, task="embedding")
    split = data.to_fit()
    inputs = next(split.batches(200)).inputs
    lengths = inputs["attention_mask"].sum(1)
    full = LENGTH - 5
    cut = lengths < full
    assert 70 <= int(cut.sum()) <= 130
    assert not cut[0]
    assert int(lengths.min()) >= 3
    assert 5 <= float(lengths[cut].double().median()) <= 18
    for ids, length, whole in zip(inputs["input_ids"], lengths, given["input_ids"], strict=True):
        n = int(length)
        assert ids[: n - 1].tolist() == whole[: n - 1].tolist()
        assert ids[n - 1] == 102
        assert set(ids[n:].tolist()) == {PAD}
    # The same whatever the batch, and what labels and judgements see is untouched.
    small = torch.cat([batch.inputs["input_ids"] for batch in split.batches(7)])
    assert torch.equal(small, inputs["input_ids"])
    whole_again = next(data.need("calibration").batches(200)).inputs["input_ids"]
    assert np.array_equal(whole_again.numpy(), given["input_ids"])


def test_it_follows_the_place_in_the_split() -> None:
    data = from_arrays(calibration=texts(), task="embedding")
    part = data.to_fit().subset(np.array([7, 3, 150]))
    all_of = next(data.to_fit().batches(200)).inputs["input_ids"]
    assert torch.equal(next(part.batches(3)).inputs["input_ids"], all_of[[7, 3, 150]])


@pytest.mark.parametrize("what", ["told not to", "images", "padded on the left", "shorter than the least"])
def test_what_is_left_alone(what: str) -> None:
    given = texts()
    if what == "images":
        data = from_arrays(calibration=np.zeros((10, 3, 4, 4), np.float32), task="embedding")
        assert data.to_fit() is data.need("calibration")
        return
    if what == "padded on the left":
        given = {key: value[:, ::-1].copy() for key, value in given.items()}
    if what == "shorter than the least":
        given["attention_mask"][:, 3:] = 0
    data = from_arrays(calibration=given, task="embedding", short_texts=what != "told not to")
    inputs = next(data.to_fit().batches(200)).inputs
    assert np.array_equal(inputs["input_ids"].numpy(), given["input_ids"])
    assert np.array_equal(inputs["attention_mask"].numpy(), given["attention_mask"])


def test_real_tokens_are_those_under_the_mask() -> None:
    inputs = {"input_ids": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert real_tokens(x, attention_mask(inputs)).tolist() == [[0, 1], [2, 3], [6, 7]]
    assert real_tokens(x[:, 0], attention_mask(inputs)).shape == (2, 2)
    assert real_tokens(x, None) is x
