"""Corrupted copies are scored through the files in their runtimes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lwplugin.data import from_arrays
from lwplugin.data.corruptions import corrupted
from lwplugin.errors import DataError, RecipeError
from lwplugin.gate import gate
from lwplugin.measure import Comparison, load_comparison, measure


@pytest.fixture(scope="module")
def found(exports: dict[str, Path], data: Any, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    comparison = measure(
        exports["fast"],
        data,
        baseline=exports["slow"],
        corruptions=("noise",),
        severities=(5, 1),
        corruption_examples=100,
        min_seconds=0.1,
        max_seconds=0.3,
        processes=1,
    )
    assert isinstance(comparison, Comparison)
    place = tmp_path_factory.mktemp("comparison")
    comparison.save(place)
    return load_comparison(place)


def test_the_rows_say_what_the_files_answer(found: Comparison, data: Any, build: SimpleNamespace) -> None:
    assert found.corruptions is not None
    assert found.corruptions.metric == "accuracy"
    rows = found.corruptions.rows
    assert [(row.kind, row.severity, row.n) for row in rows] == [
        ("clean", 0, 100),
        ("noise", 1, 100),
        ("noise", 5, 100),
    ]
    # Both files compute the nearest centre: the same by hand on the same copy.
    for row, split in zip(
        rows[1:], [corrupted(data.test.sample(100, 0), "noise", k) for k in (1, 5)], strict=True
    ):
        (batch,) = split.batches(100)
        logits = batch.inputs.numpy() @ build.centres().T - 0.5 * (build.centres() ** 2).sum(1)
        expected = float((logits.argmax(1) == batch.targets.numpy()).mean())
        assert row.baseline == row.candidate == expected
        assert (row.lost, row.gained, row.agreement) == (0, 0, 1.0)
    assert rows[2].baseline is not None
    assert rows[2].baseline <= 1.0


def test_differences_have_intervals_and_the_gate_can_judge_them(found: Comparison) -> None:
    assert found.corruptions is not None
    # A hundred answers, none of them changed: not more than a few in a hundred could be lost.
    for row in found.corruptions.rows:
        assert row.difference is not None
        low, high = row.difference.low, row.difference.high
        assert low is not None
        assert high is not None
        assert -0.06 < low < row.difference.estimate == 0.0 < high < 0.06
    policy = {"max_drop": {"accuracy": 0.1}, "no_faster": "allow"}
    limits = {0.1: "pass", 0.01: "inconclusive"}
    for limit, status in limits.items():
        verdict = gate(found, policy | {"max_drop_corrupted": limit})
        copies = [check for check in verdict.checks if check.name.startswith("corrupted:")]
        assert [check.name for check in copies] == [f"corrupted:noise={k}:accuracy" for k in (1, 5)]
        assert {check.status for check in copies} == {status}


def test_a_file_alone_and_examples_of_another_kind_are_refused(
    exports: dict[str, Path], data: Any, short: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match="no baseline"):
        measure(exports["fast"], data, corruptions=("noise",), **short)
    with pytest.raises(DataError, match="'blur' means nothing"):
        measure(exports["fast"], data, baseline=exports["slow"], corruptions=("blur",), **short)
    with pytest.raises(RecipeError, match="did you mean 'noise'"):
        measure(exports["fast"], data, corruptions=("nois",))
    with pytest.raises(RecipeError, match="severities go from 1 to 5"):
        measure(exports["fast"], data, corruptions=("noise",), severities=(0,))


def test_without_labels_there_is_still_the_agreement(exports: dict[str, Path], short: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32)
    found = measure(
        exports["fast"], from_arrays(test=x), baseline=exports["slow"], corruptions="noise", **short
    )
    assert isinstance(found, Comparison)
    assert found.corruptions is not None
    assert {(row.baseline, row.lost) for row in found.corruptions.rows} == {(None, None)}
    assert all(row.agreement == 1.0 for row in found.corruptions.rows)
