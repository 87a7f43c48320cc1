from __future__ import annotations

import re

import numpy as np
import pytest

from lwplugin.measure.noise import judge

ROUNDS, K = 24, 40


def process(
    rng: np.random.Generator, level: float, pace: np.ndarray | None = None, jitter: float = 0.05
) -> list:
    """One process: lognormal runs around a level that only this process has, times the machine's pace."""
    own = level * np.exp(0.01 * rng.standard_normal())
    pace = np.ones(ROUNDS) if pace is None else pace
    return [own * speed * np.exp(jitter * rng.standard_normal(K)) for speed in pace]


def pair(seed: int, slow: float, fast: float, **options: object) -> tuple[list, list]:
    rng = np.random.default_rng(seed)
    return [process(rng, slow, **options) for _ in range(2)], [
        process(rng, fast, **options) for _ in range(2)
    ]


def test_the_interval_of_equal_models_holds_one_as_often_as_stated() -> None:
    found = [judge(*pair(seed, 1.0, 1.0), disturbed=0, off_cpu=0, load=0).speedup for seed in range(300)]
    assert np.mean([s.high < 1 or s.low > 1 for s in found]) <= 0.05


def test_twice_as_fast_is_found_with_a_narrow_interval() -> None:
    speed = judge(*pair(1, 2.0, 1.0), disturbed=0, off_cpu=0, load=0)
    assert 1.9 < speed.speedup.low < speed.speedup.estimate < speed.speedup.high < 2.1
    assert speed.noise.reasons == []


def test_bursts_that_slow_both_models_cancel() -> None:
    rng = np.random.default_rng(5)
    pace = np.where(rng.random(ROUNDS) < 0.4, 2.0, 1.0)
    speed = judge(*pair(2, 1.5, 1.0, pace=pace), disturbed=0, off_cpu=0, load=0)
    assert 1.4 < speed.speedup.low < 1.5 < speed.speedup.high < 1.6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("two processes", "two processes running the same file differ by"),
        ("halves", "the first and the second half"),
        ("drift", "the baseline drifted by \\+1"),
        ("disturbed", "other work interrupted 70 % of the runs"),
        ("wide", "the speed-up is known only to ±"),
        ("few", "the speed-up is not bounded after 4 rounds"),
    ],
)
def test_each_kind_of_noise_is_named(change: str, reason: str) -> None:
    rng = np.random.default_rng(3)
    slow, fast = pair(3, 1.0, 1.0)
    disturbed = 0.0
    if change == "two processes":
        fast = [process(rng, 1.0), process(rng, 1.5)]
    elif change == "halves":
        fast = [process(rng, 1.0, pace=np.repeat([1.0, 1.3], ROUNDS // 2)) for _ in range(2)]
    elif change == "drift":
        slow, fast = pair(3, 1.0, 1.0, pace=np.linspace(1, 3, ROUNDS))
    elif change == "disturbed":
        disturbed = 0.7
    elif change == "wide":
        fast = [process(rng, 1.0, pace=np.tile([0.6, 1.7], ROUNDS // 2)) for _ in range(2)]
    else:
        slow, fast = ([rounds[:4] for rounds in model] for model in (slow, fast))
    noise = judge(slow, fast, disturbed=disturbed, off_cpu=disturbed, load=0).noise
    assert any(re.search(reason, said) for said in noise.reasons), noise.reasons


def test_one_model_alone_is_judged_by_its_own_rounds() -> None:
    slow, _ = pair(4, 1.0, 1.0)
    speed = judge(slow, [], disturbed=0, off_cpu=0, load=0)
    assert speed.speedup.estimate == 1.0
    assert 0 < speed.half_width < 0.05
    assert speed.noise.reasons == []


def test_a_process_that_is_always_slower_widens_the_interval() -> None:
    rng = np.random.default_rng(6)
    slow = [process(rng, 1.0), process(rng, 1.0)]
    near = judge(slow, [process(rng, 1.0), process(rng, 1.0)], disturbed=0, off_cpu=0, load=0).speedup
    far = judge(slow, [process(rng, 0.96), process(rng, 1.04)], disturbed=0, off_cpu=0, load=0).speedup
    assert far.high - far.low > 1.3 * (near.high - near.low)
