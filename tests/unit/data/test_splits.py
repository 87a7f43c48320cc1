from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwplugin.data import Data, Split, from_arrays, load
from lwplugin.data.duplicates import DataWarning
from lwplugin.data.partition import stratified_draw
from lwplugin.errors import DataError, RecipeError


def rows(split: Split | None, **options: int) -> np.ndarray:
    """Every example of a split as float rows."""
    assert split is not None
    parts = [batch.inputs for batch in split.batches(7, **options)]
    return torch.cat(parts).numpy()  # type: ignore[arg-type]


def numbered(n: int = 100, **options: object) -> Data:
    """Examples that are their own number."""
    x = np.arange(n, dtype=np.float32)[:, None]
    x_test = np.arange(1000, 1010, dtype=np.float32)[:, None]
    return from_arrays(train=(x, np.arange(n) % 5), test=(x_test, np.arange(10) % 5), **options)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 300), seed=st.integers(0, 5), asked=st.one_of(st.none(), st.integers(1, 150)))
def test_train_and_calibration_share_nothing_and_lose_nothing(n: int, seed: int, asked: int | None) -> None:
    if asked is not None and asked > n // 2:
        with pytest.raises(DataError, match="more than half"):
            numbered(n, seed=seed, calibration_examples=asked)
        return
    data = numbered(n, seed=seed, calibration_examples=asked)
    both = np.concatenate([rows(data.train), rows(data.calibration)])
    assert len(data.need("calibration")) == (min(512, n // 4) if asked is None else asked)
    assert sorted(both[:, 0].tolist()) == list(range(n))


def test_digits_split_the_same_way_in_proportion_and_without_overlap() -> None:
    first, second, other = load("digits"), load("digits"), load({"source": "digits", "seed": 1})
    assert first.digest == second.digest != other.digest
    for name in ("train", "calibration", "test"):
        split = first.need(name)  # type: ignore[arg-type]
        np.testing.assert_array_equal(rows(split), rows(second.need(name)))  # type: ignore[arg-type]
        counts = np.bincount(split.slices()["label"])
        assert counts.min() >= 0.9 * counts.max() - 2
    assert not np.array_equal(rows(first.test), rows(other.test))
    total = sum(len(first.need(name)) for name in ("train", "calibration", "test"))  # type: ignore[arg-type]
    assert total == 1797
    images = rows(first.train)
    assert images.shape[1:] == (1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    batch=st.integers(1, 70),
    skip=st.integers(0, 9),
    seed=st.one_of(st.none(), st.integers(0, 3)),
)
def test_skipping_gives_the_tail_of_the_same_batches(n: int, batch: int, skip: int, seed: int | None) -> None:
    x = np.arange(n, dtype=np.float32)
    split = from_arrays(test=(x, np.arange(n))).need("test")
    whole = list(split.batches(batch, seed=seed))
    tail = list(split.batches(batch, seed=seed, skip=skip))
    assert len(tail) == max(0, len(whole) - skip)
    for ours, theirs in zip(tail, whole[skip:]):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        assert torch.equal(ours.inputs, theirs.inputs)  # type: ignore[arg-type]
    for item in whole:
        np.testing.assert_array_equal(x[item.ids], item.inputs.numpy())  # type: ignore[union-attr]
        np.testing.assert_array_equal(item.targets, item.ids)
    assert sorted(np.concatenate([item.ids for item in whole]).tolist()) == list(range(n))


def test_an_in_place_module_cannot_write_into_the_examples() -> None:
    split = numbered().need("test")
    for batch in split.batches(4):
        batch.inputs.zero_()  # type: ignore[union-attr]
    assert rows(split).min() == 1000


def test_head_sample_and_subset_keep_ids_slices_and_order() -> None:
    night = np.arange(10) % 2 == 0
    data = numbered(slices={"night": {"test": night}})
    head = data.need("test").head(4)
    assert len(head) == 4
    np.testing.assert_array_equal(head.slices()["night"], night[:4])
    np.testing.assert_array_equal(head.slices()["label"], [0, 1, 2, 3])
    assert len(data.need("test").head(99)) == 10
    drawn = data.need("test").sample(5, seed=1)
    np.testing.assert_array_equal(rows(drawn), rows(data.need("test").sample(5, seed=1)))
    assert np.all(np.diff(rows(drawn)[:, 0]) > 0)


@pytest.mark.parametrize("policy", ["warn", "error", "drop", "ignore"])
def test_examples_that_are_also_in_test(policy: str) -> None:
    x = np.random.default_rng(0).random((80, 3)).astype(np.float32)
    arguments = {"train": (x, np.arange(80) % 2), "test": (x[70:75].copy(), np.arange(5) % 2)}
    if policy == "error":
        with pytest.raises(DataError, match="also in test"):
            from_arrays(**arguments, duplicates="error")
    elif policy == "warn":
        with pytest.warns(DataWarning, match="also in test"):
            from_arrays(**arguments)
    else:
        data = from_arrays(**arguments, duplicates=policy)  # type: ignore[arg-type]
        kept = len(data.need("train")) + len(data.need("calibration"))
        assert kept == (75 if policy == "drop" else 80)


def test_no_false_alarm_on_near_duplicates(recwarn: pytest.WarningsRecorder) -> None:
    x = np.random.default_rng(0).random((400, 5)).astype(np.float32)
    near = np.nextafter(x[:50], np.float32(2))
    from_arrays(train=(x, np.arange(400) % 2), test=(near, np.arange(50) % 2))
    assert not [warning for warning in recwarn if issubclass(warning.category, DataWarning)]


def test_stratified_draw_takes_each_class_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [800, 150, 50])
    drawn = stratified_draw(labels, 100, 1000, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [80, 15, 5])
    assert len(np.unique(drawn)) == 100


def test_inputs_of_every_structure() -> None:
    a, b = np.zeros((12, 3)), np.arange(12)
    pair = from_arrays(test=((a, b), np.arange(12)))
    named = from_arrays(test=({"input_ids": b, "mask": b}, np.arange(12)))
    pair_example = pair.example(2)
    named_example = named.example(2)
    assert isinstance(pair_example, tuple)
    assert isinstance(named_example, dict)
    assert pair_example[0].dtype == torch.float32
    assert pair_example[1].dtype == torch.int64
    assert set(named_example) == {"input_ids", "mask"}


def test_a_map_style_data_set() -> None:
    class Squares:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
            return np.full(2, position, dtype=np.float32), position % 3

    data = from_arrays(train=Squares(), test=(np.full((3, 2), 99.0), np.arange(3)))
    batch = next(data.need("train").batches(4, seed=1))
    assert batch.inputs.shape == (4, 2)  # type: ignore[union-attr]
    assert batch.targets is not None
    assert batch.targets.dtype == torch.int64


def test_errors_say_the_way_out() -> None:
    x, y = np.zeros((4, 2)), np.arange(4)
    with pytest.raises(DataError, match="No examples were given"):
        from_arrays()
    with pytest.raises(DataError, match="different numbers of examples"):
        from_arrays(train=(x, y[:3]))
    with pytest.raises(DataError, match="whole numbers"):
        from_arrays(train=(x, np.eye(4)))
    with pytest.raises(DataError, match=r"no calibration split.*Do: give calibration"):
        from_arrays(test=(x, y)).need("calibration")
    with pytest.raises(DataError, match="No split has 9 examples"):
        from_arrays(test=(x, y)).example(9)
    with pytest.raises(DataError, match=r"Slice 'night'.*3 values for 4 examples"):
        from_arrays(test=(x, y), slices={"night": {"test": [1, 2, 3]}})
    with pytest.raises(DataError, match="did you mean 'test'"):
        from_arrays(test=(x, y), slices={"night": {"tset": [1]}})
    with pytest.raises(DataError, match="Examples must be numbers"):
        from_arrays(test=(np.array([["a"]]), [0]))
    with pytest.raises(RecipeError, match="did you mean 'classification'"):
        from_arrays(test=(x, y), task="clasification")


def test_digest_follows_contents() -> None:
    x, y = np.random.default_rng(0).random((20, 2)), np.arange(20) % 2
    first = from_arrays(train=(x, y))
    assert first.digest == from_arrays(train=(x.copy(), y.copy())).digest
    changed = x.copy()
    changed[3, 1] += 1
    assert first.digest != from_arrays(train=(changed, y)).digest
    assert first.digest != from_arrays(train=(x, 1 - y)).digest


def test_digest_follows_slices_of_any_kind_and_not_where_they_lie_in_memory() -> None:
    x, y = np.zeros((4, 2)), np.arange(4) % 2

    def digest(*values: str | None) -> str:
        column = np.array(["".join(value) if value else None for value in values], dtype=object)
        return from_arrays(train=(x, y), slices={"site": {"train": column}}).digest

    assert digest("north", "south", "north", None) == digest("north", "south", "north", None)
    assert digest("north", "south", "north", None) != digest("north", "south", "south", None)
