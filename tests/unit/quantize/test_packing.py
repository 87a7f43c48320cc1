from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwplugin.errors import ModelError
from lwplugin.quantize.packing import pack, packed_bytes, unpack


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), count=st.integers(0, 65), seed=st.integers(0, 2**16))
def test_integers_come_back_and_take_their_true_width(bits: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bound = 2 ** (bits - 1)
    values = torch.randint(-bound, bound, (count,), generator=generator).to(torch.int8)
    packed = pack(values, bits)
    assert packed.numel() == packed_bytes(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count), values)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="does not fit in 4 bits"):
        pack(torch.tensor([8]), 4)


def test_a_truncated_buffer_is_refused() -> None:
    with pytest.raises(ModelError, match="take 5 bytes"):
        unpack(torch.zeros(4, dtype=torch.uint8), 4, 10)
