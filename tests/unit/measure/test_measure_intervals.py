from __future__ import annotations

import numpy as np
import pytest

from lwplugin.measure.intervals import effective_size, quantile, ranks, repeatable


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


def wandering(rng: np.random.Generator, length: int) -> np.ndarray:
    """Flicker noise (power as 1/f) of standard deviation 1: what a shared machine's pace looks like."""
    spectrum = rng.standard_normal(length // 2 + 1) + 1j * rng.standard_normal(length // 2 + 1)
    frequency = np.arange(length // 2 + 1, dtype=float)
    frequency[0] = np.inf
    series = np.fft.irfft(spectrum / np.sqrt(frequency), length)
    return series / series.std()


def test_the_interval_holds_what_measurements_at_other_times_say() -> None:
    """Forty measurements of one file over a long time; runs within each tell little of what lies between."""
    rng = np.random.default_rng(0)
    narrow, held, n = 0, 0, 0
    for _ in range(8):
        pace = 0.04 * wandering(rng, 8000)
        found = []
        for start in range(0, 8000, 200):  # ten stretches of measuring, then the machine does other things
            stretch = np.repeat(np.arange(10), 40)
            runs = np.exp(pace[start + stretch] + 0.05 * rng.standard_normal(400))
            levels = np.array([np.median(runs[stretch == one]) for one in range(10)])
            interval = quantile(runs, 0.5, blocks=stretch)
            found.append((interval, repeatable(interval, levels)))
        middle = np.median([interval.estimate for interval, _ in found])
        narrow += sum(one.low <= middle <= one.high for one, _ in found)
        held += sum(one.low <= middle <= one.high for _, one in found)
        n += len(found)
    assert held / n >= 0.9
    assert narrow / n < 0.7


def test_an_end_that_was_not_bounded_stays_so() -> None:
    samples = np.linspace(1, 2, 30)
    wide = repeatable(quantile(samples, 0.95), np.array([1.9, 1.95, 2.0]))
    assert wide.high is None
    assert wide.low is not None
    assert wide.low < quantile(samples, 0.95).low  # type: ignore[operator]
