from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lwplugin.errors import GateError
from lwplugin.gate import paired, statistics

# Complete response before and after consolidation therapy (Cavo 2012), the worked example of chapter 8 of
# Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017): 59, 6, 16, 80 of 161.
CAVO = {"both": 59, "gained": 6, "lost": 16, "neither": 80}


def test_tango_gives_the_published_interval() -> None:
    low, high = paired.tango(6, 16, 161, level=0.975)
    assert (round(float(low), 4), round(float(high), 4)) == (-0.1240, -0.0054)


def test_tango_gives_the_statistic_of_the_contact_lens_trial() -> None:
    # Tango 1998, table II: 44 patients, one discordant pair, margin 0.1: Z = 1.709, one-sided p = 0.044.
    z = float(paired.score_statistic(0, 1, 44, -0.1))
    assert z == pytest.approx(1.709, abs=5e-4)
    assert float(stats.norm.sf(z)) == pytest.approx(0.044, abs=5e-4)


def test_newcombe_gives_the_published_interval() -> None:
    bounds = paired.newcombe(**CAVO, level=0.975)
    assert (round(bounds.low, 4), round(bounds.high, 4)) == (-0.1186, -0.0046)


def test_mcnemar_gives_the_published_values() -> None:
    assert paired.mcnemar_exact(6, 16) == pytest.approx(0.052479, abs=1e-6)
    assert float(paired.score_statistic(6, 16, 161, 0.0)) == pytest.approx(-2.132, abs=5e-4)
    assert paired.mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(13, 16, 0.5435, 0.9595), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)]
)
def test_clopper_pearson_gives_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    bounds = statistics.clopper_pearson(successes, n, level=0.975)
    assert (round(bounds.low, 4), round(bounds.high, 4)) == (low, high)


def test_wilson_gives_the_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857-872, table I: 81 of 263.
    bounds = statistics.wilson(81, 263, level=0.975)
    assert (round(bounds.low, 4), round(bounds.high, 4)) == (0.2553, 0.3662)


def test_the_nuisance_parameter_is_the_constrained_maximum_likelihood() -> None:
    # Brute force over the loss probability, under difference = d, must give the same statistic.
    for gained, lost, n, d in [
        (3, 9, 200, -0.01),
        (0, 4, 150, -0.05),
        (20, 31, 400, -0.02),
        (7, 2, 80, 0.03),
    ]:
        q = np.linspace(max(0.0, -d) + 1e-9, (1 - abs(d)) / 2 + max(0.0, -d) - 1e-6, 2_000_001)
        likelihood = gained * np.log(q + d) + lost * np.log(q) + (n - gained - lost) * np.log(1 - 2 * q - d)
        best = float(q[np.nanargmax(np.where(np.isfinite(likelihood), likelihood, -np.inf))])
        expected = (gained - lost - n * d) / math.sqrt(n * (2 * best + d - d * d))
        assert float(paired.score_statistic(gained, lost, n, d)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("correction", [0.0, 0.5])
def test_bounds_solve_the_score_equation(correction: float) -> None:
    z = float(stats.norm.ppf(0.95))
    for gained, lost, n in [(0, 0, 500), (3, 9, 200), (40, 52, 1000), (0, 12, 100)]:
        low, high = paired.tango(gained, lost, n, level=0.95, correction=correction)
        at = paired.score_statistic(gained, lost, n, np.array([low, high]), correction=correction)
        assert at == pytest.approx([z, -z], abs=1e-6)


def test_bounds_and_p_values_decide_alike() -> None:
    for gained, lost in [(0, 0), (3, 9), (10, 40), (0, 12), (25, 60)]:
        bounds = paired.paired_bounds(gained, lost, 1000, level=0.95)
        for margin in (0.005, 0.01, 0.03, 0.06):
            assert (bounds.low >= -margin) == (paired.p_within(gained, lost, 1000, margin=margin) <= 0.05)
            assert (bounds.high < -margin) == (paired.p_beyond(gained, lost, 1000, margin=margin) < 0.05)


def test_swapping_sides_mirrors_the_interval() -> None:
    one, other = (paired.paired_bounds(a, b, 300, level=0.95) for a, b in [(4, 11), (11, 4)])
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GateError, match="gained=3, lost=9, n=10"):
        paired.paired_bounds(3, 9, 10, level=0.95)


def test_student_matches_scipy() -> None:
    d = np.random.default_rng(0).normal(-0.02, 0.3, 400)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    bounds = statistics.student(d, level=0.95)
    assert (bounds.low, bounds.high) == pytest.approx(tuple(expected))


def test_bca_matches_scipy_and_repeats() -> None:
    d = np.random.default_rng(1).exponential(1.0, 120)
    ours = statistics.bootstrap(d, level=0.95, seed=3, resamples=20_000)
    theirs = stats.bootstrap(
        (d,), np.mean, confidence_level=0.9, n_resamples=20_000, rng=np.random.default_rng(3)
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)
    assert ours == statistics.bootstrap(d, level=0.95, seed=3, resamples=20_000)


def test_bounds_of_a_mean_refuse_what_is_not_a_number() -> None:
    with pytest.raises(GateError, match="1 not finite"):
        statistics.mean_bounds(np.array([0.1, np.nan, 0.2]), level=0.95, seed=0, reach=1.0)


def test_quantile_bounds_are_the_tabled_ranks() -> None:
    # The 95 % interval of a median of 100: order statistics 40 and 61 (Conover 1999).
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    bounds = statistics.quantile_bounds(samples, 0.5, level=0.975)
    assert (bounds.low, bounds.high) == (40.0, 61.0)


def test_quantile_bounds_cover_and_know_when_samples_are_too_few() -> None:
    # 1 - 0.95 ** 59 is the first to exceed 0.95.
    assert math.isinf(statistics.quantile_bounds(np.arange(58.0), 0.95, level=0.95).high)
    assert statistics.quantile_bounds(np.arange(59.0), 0.95, level=0.95).high == 58.0
    random = np.random.default_rng(5)
    truth = stats.expon.ppf(0.95)
    missed = np.zeros(2)
    for _ in range(2000):
        bounds = statistics.quantile_bounds(random.exponential(size=200), 0.95, level=0.95)
        missed += [bounds.low > truth, bounds.high < truth]
    assert (missed / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)).all()


def test_holm_on_the_textbook_example() -> None:
    rejected, levels = statistics.holm([0.01, 0.04, 0.03, 0.005], alpha=0.05)
    assert rejected == [True, False, False, True]
    # 0.05 / 4, / 3, / 2; the last is held at the level where the procedure stopped.
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    assert statistics.holm([], alpha=0.05) == ([], [])
