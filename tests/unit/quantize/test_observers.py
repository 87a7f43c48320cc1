from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwplugin.errors import DataError, RecipeError
from lwplugin.quantize.histogram import StreamingHistogram
from lwplugin.quantize.observers import OBSERVERS, make_observer
from lwplugin.quantize.scheme import AffineGrid

NAMES = sorted(OBSERVERS)


def rounding_error(x: torch.Tensor, bounds: tuple[float, float]) -> float:
    return float((AffineGrid.of_range(*bounds).fake_quantize(x) - x).square().mean())


@settings(max_examples=40, deadline=None)
@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=5),
    seed=st.integers(0, 999),
    shift=st.floats(-3, 3),
)
def test_histogram_loses_no_value_and_keeps_them_in_their_bins(
    scales: list[float], seed: int, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    histogram = StreamingHistogram(64)
    values = []
    for scale in scales:
        x = (torch.randn(200, generator=generator) + shift) * scale
        values.append(x)
        histogram.update(x)
    everything = torch.cat(values)
    assert histogram.total == everything.numel()
    assert histogram.lo == float(everything.min())
    assert histogram.hi == float(everything.max())
    index = (everything / histogram.width).floor().long() - histogram.first
    assert torch.equal(torch.bincount(index, minlength=64).double(), histogram.counts)


def test_memory_of_a_histogram_does_not_grow_with_the_stream() -> None:
    histogram = StreamingHistogram()
    for step in range(50):
        histogram.update(torch.randn(1000) * (step + 1))
    assert histogram.counts.numel() == 4096


@pytest.mark.parametrize("name", NAMES)
def test_range_holds_zero_and_lies_within_what_was_seen(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    observer = make_observer(name)
    x = torch.rand(4, 5000, generator=generator) + 2
    for part in x:
        observer.update(part)
    lo, hi = observer.range()
    assert lo == 0.0
    assert 1.5 < hi <= float(x.max())


@pytest.mark.parametrize("name", ["percentile", "entropy"])
def test_an_outlier_does_not_cost_every_other_value_its_precision(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    bulk = torch.randn(200_000, generator=generator)
    observer, plain = make_observer(name), make_observer("minmax")
    for part in (bulk, torch.tensor([100.0])):
        observer.update(part)
        plain.update(part)
    assert rounding_error(bulk, observer.range()) < rounding_error(bulk, plain.range()) / 10


def test_mse_is_no_worse_than_any_uniformly_clipped_range() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.distributions.Laplace(0.0, 1.0).icdf(
        torch.rand(100_000, generator=generator).clamp(1e-6, 1 - 1e-6)
    )
    observer = make_observer("mse")
    observer.update(x)
    ours = rounding_error(x, observer.range())
    lo, hi = float(x.min()), float(x.max())
    best = min(rounding_error(x, (lo * k / 50, hi * k / 50)) for k in range(5, 51))
    assert ours <= best * 1.02


def test_percentile_leaves_the_asked_share_outside() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(100_000, generator=generator)
    observer = make_observer("percentile", percentile=99.0)
    observer.update(x)
    lo, hi = observer.range()
    assert lo == 0.0
    assert float((x > hi).double().mean()) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_another_size_give_the_same_range(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6400, generator=generator)
    ranges = []
    for size in (64, 6400):
        observer = make_observer(name)
        observer.update(x[:64])
        for part in x[64:].split(size):
            observer.update(part)
        ranges.append(observer.range())
    assert ranges[0] == ranges[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        make_observer(name).update(torch.tensor([1.0, bad]))


def test_a_layer_without_values_is_refused() -> None:
    with pytest.raises(DataError, match="saw no values"):
        make_observer("minmax").range()


def test_a_constant_zero_tensor_still_has_a_grid() -> None:
    for name in NAMES:
        observer = make_observer(name)
        observer.update(torch.zeros(100))
        grid = AffineGrid.of_range(*observer.range())
        assert float(grid.fake_quantize(torch.zeros(1))) == 0.0


def test_unknown_calibrator_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'entropy'"):
        make_observer("entropie")
