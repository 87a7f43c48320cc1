from __future__ import annotations

import numpy as np
import pytest

from lwplugin.measure.intervals import effective_size, quantile, ranks


@pytest.mark.parametrize(
    ("n", "expected"), [(5, (None, None)), (6, (0, 5)), (10, (1, 8)), (20, (5, 14)), (100, (39, 60))]
)
def test_ranks_of_the_median_are_those_of_the_sign_test(
    n: int, expected: tuple[int | None, int | None]
) -> None:
    assert ranks(n, 0.5, 0.95) == expected


def test_the_95th_percentile_needs_72_runs_for_an_upper_bound() -> None:
    assert ranks(71, 0.95, 0.95)[1] is None
    assert ranks(72, 0.95, 0.95)[1] == 71


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_intervals_of_independent_runs_cover_as_stated(q: float) -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(1 - q)
    intervals = [quantile(rng.exponential(size=200), q) for _ in range(600)]
    covered = np.mean(
        [i.low is not None and i.high is not None and i.low <= truth <= i.high for i in intervals]
    )
    assert covered >= 0.94


def test_runs_that_resemble_their_neighbours_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(20), 50)
    truth, naive, clustered = 10.0, [], []
    for _ in range(200):
        samples = truth + np.repeat(rng.standard_normal(20), 50) + 0.1 * rng.standard_normal(1000)
        for found, kept in (
            (quantile(samples, 0.5), naive),
            (quantile(samples, 0.5, blocks=blocks), clustered),
        ):
            kept.append(found.low is not None and found.high is not None and found.low <= truth <= found.high)
    assert np.mean(naive) < 0.5
    assert np.mean(clustered) >= 0.9


def test_effective_size_lies_between_blocks_and_runs() -> None:
    blocks = np.repeat(np.arange(10), 30)
    independent = np.random.default_rng(0).random(300) < 0.5
    assert 150 < effective_size(independent, blocks, 0.5) <= 300
    assert effective_size(blocks < 5, blocks, 0.5) == 10


def test_too_few_runs_leave_the_end_open_instead_of_guessing() -> None:
    found = quantile(np.array([1.0, 2.0, 3.0]), 0.95)
    assert found.high is None
    assert found.estimate > 2
