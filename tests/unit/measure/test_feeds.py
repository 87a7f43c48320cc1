"""Examples on their way into a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lwplugin.errors import MeasureError
from lwplugin.measure.feeds import feeds_of
from lwplugin.measure.subject import Input, Subject


def subject(*shape: int | None) -> Subject:
    entry = Input("input_ids", "int64", shape)
    return Subject(Path("model.onnx"), "onnx", (entry,), "output", None, "")


@pytest.mark.parametrize("shape", [(4, 25), (4, 24, 1)])
def test_examples_of_another_shape_than_the_file_takes_are_told_with_both_shapes(
    shape: tuple[int, ...],
) -> None:
    given = {"input_ids": torch.ones(shape, dtype=torch.int64)}
    with pytest.raises(MeasureError, match=r"got examples \[4, 2.*file \['batch', 24\].*padding: fixed"):
        feeds_of(given, subject(None, 24))


def test_a_free_size_takes_any_and_another_batch_is_no_other_shape() -> None:
    given = {"input_ids": torch.ones((4, 25), dtype=torch.int64)}
    assert feeds_of(given, subject(None, None))["input_ids"].shape == (4, 25)
    assert feeds_of(given, subject(1, 25))["input_ids"].shape == (4, 25)
