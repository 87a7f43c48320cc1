from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lwplugin.measure import wire

NUMBERS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.float16]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def roundtrip(parts: list[bytes]) -> tuple[dict, dict]:
    raw = b"".join(parts)
    head, body = wire.decode_prefix(raw[: wire.PREFIX.size])
    start = wire.PREFIX.size
    assert len(raw) == start + head + body
    return wire.decode(raw[start : start + head], raw[start + head :])


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9)),
    st.dictionaries(st.text(), NUMBERS),
)
def test_what_is_sent_arrives(message: dict, arrays: dict) -> None:
    back, received = roundtrip(wire.encode(message, arrays))
    assert back == message
    assert list(received) == list(arrays)
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array)


def test_arrays_that_lie_transposed_in_memory_arrive_in_order() -> None:
    array = np.arange(6).reshape(2, 3).T
    np.testing.assert_array_equal(roundtrip(wire.encode({}, {"a": array}))[1]["a"], array)


def test_objects_do_not_travel() -> None:
    with pytest.raises(wire.WireError, match="only numbers"):
        wire.encode({}, {"a": np.array([object()])})


@given(st.binary(min_size=wire.PREFIX.size, max_size=wire.PREFIX.size))
def test_garbage_is_refused_before_anything_is_allocated(prefix: bytes) -> None:
    if prefix[:4] != wire.MAGIC:
        with pytest.raises(wire.WireError):
            wire.decode_prefix(prefix)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_a_malformed_message_is_a_wire_error(head: bytes, body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(head, body)


@pytest.mark.parametrize(
    "entry",
    [
        '{"name": "a", "dtype": "O", "shape": [1]}',
        '{"name": "a", "dtype": "<f4", "shape": [-1]}',
        '{"name": "a", "dtype": "<f4", "shape": [99]}',
        '{"name": "a", "dtype": "<f4", "shape": []}',
    ],
)
def test_array_entries_that_do_not_fit_the_body_are_refused(entry: str) -> None:
    head = f'{{"message": {{}}, "arrays": [{entry}]}}'.encode()
    with pytest.raises(wire.WireError):
        wire.decode(head, b"12345678")
