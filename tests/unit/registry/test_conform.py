from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from lwplugin.registry.conform import difference


def schema(output: Any) -> Any:
    return infer_signature(np.zeros((2, 1)), output).outputs


FLOATS = np.zeros((3, 10), np.float32)
FRAME = pd.DataFrame(FLOATS)


@pytest.mark.parametrize(
    ("expected", "answered"),
    [(FLOATS, FLOATS[:1]), (FRAME, FRAME), (FRAME, FRAME.rename(columns=str))],
    ids=["rows may differ", "frame", "names of columns as text"],
)
def test_the_same_schema_conforms(expected: Any, answered: Any) -> None:
    assert difference(schema(expected), schema(answered)) is None


@pytest.mark.parametrize(
    ("answered", "message"),
    [
        (FLOATS[:, :9], "shape (-1, 9)"),
        (FLOATS.astype(np.float64), "float64"),
        (FLOATS[:, :, None], "shape (-1, 10, 1)"),
        (FRAME, "0: float (required)"),
        ({"a": FLOATS, "b": FLOATS}, "'a'"),
    ],
)
def test_another_schema_is_described(answered: Any, message: str) -> None:
    found = difference(schema(FLOATS), schema(answered))
    assert found is not None
    assert message in found


def test_a_column_of_another_name_is_described() -> None:
    found = difference(schema(FRAME), schema(FRAME.rename(columns={3: "three"})))
    assert found == "column 'three', the parent's signature says '3'"
