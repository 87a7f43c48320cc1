"""A task with its examples: from arrays in hand, or from a recipe's ``data`` block."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from lwplugin.data.batch import Inputs, tensors
from lwplugin.data.contents import fingerprint
from lwplugin.data.kept import once
from lwplugin.data.partition import partition
from lwplugin.data.readers import DatasetReader, Reader, TensorReader, as_inputs, as_labels
from lwplugin.data.short_texts import with_short_texts
from lwplugin.data.sources.base import Parts
from lwplugin.data.spec import DataSpec, TaskSpec
from lwplugin.data.split import Split
from lwplugin.data.task import Task, make_task
from lwplugin.errors import DataError, did_you_mean

SplitName = Literal["train", "calibration", "test"]
SPLITS: tuple[str, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Data:
    """What every method, export and measurement is given."""

    task: Task
    train: Split | None
    calibration: Split | None
    test: Split | None
    digest: str
    """sha256 of what the examples are and how they are split."""
    spec: DataSpec | None = None
    short_texts: bool = True
    """Whether what is fitted to calibration texts also sees them cut short."""

    def example(self, n: int = 1) -> Inputs:
        """``n`` real examples, from calibration, else test, else train.

        Raises DataError where no split holds that many.
        """
        for split in (self.calibration, self.test, self.train):
            if split is not None and len(split) >= n:
                return next(split.batches(n)).inputs
        sizes = {name: len(split) for name in SPLITS if (split := getattr(self, name)) is not None}
        raise DataError(f"No split has {n} examples", got=sizes, do="ask for fewer or give more data")

    def need(self, split: SplitName) -> Split:
        """The split. Raises DataError with the way out where it is absent."""
        found: Split | None = getattr(self, split)
        if found is not None:
            return found
        present = ", ".join(name for name in SPLITS if getattr(self, name) is not None) or "none"
        way_out = {
            "train": "give train examples: from_arrays(train=(x, y)) or a source that has them",
            "calibration": "give calibration=… (inputs alone do), or train examples to draw them from",
            "test": "give labelled examples that the model was not trained on: test=(x, y)",
        }
        raise DataError(f"There is no {split} split", got=f"splits: {present}", do=way_out[split])

    def need_labels(self, split: SplitName) -> Split:
        """The split with what the task's metric is computed from. Raises DataError where either is absent."""
        found = self.need(split)
        if self.task.needs_targets and next(found.batches(1)).targets is None:
            raise DataError(
                f"The examples of {split} have no targets",
                got=f"task {self.task.name}, whose metric is {self.task.metric}",
                do="give targets, or bound what needs none: gate.min_agreement in place of max_drop",
            )
        return found

    def to_fit(self) -> Split:
        """Calibration examples as ranges, moments and ratios are fitted to them, which takes no label.

        Half of the texts are cut short (`short_texts.py`), unless the data say otherwise; anything else is as it is.
        Raises DataError where there is no calibration split.
        """
        split = self.need("calibration")
        if not self.short_texts:
            return split
        return with_short_texts(split, seed=self.spec.seed if self.spec else 0)


def from_arrays(
    *,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    task: Task | TaskSpec | str | Mapping[str, Any] = "classification",
    slices: Mapping[str, Mapping[str, Any]] | None = None,
    calibration_examples: int | None = None,
    seed: int = 0,
    duplicates: Literal["warn", "error", "drop", "ignore"] = "warn",
    short_texts: bool = True,
) -> Data:
    """Data from what is in memory.

    Each split is ``(x, y)``, ``x`` alone, or a map-style data set (``__len__`` and ``__getitem__``); x is
    an array or tensor [n, …], or a tuple or dict of them. (A tuple of two is always ``(x, y)``: wrap a
    tuple input as ``((a, b), None)`` where there are no targets.) float64 becomes float32; the memory of
    float32 arrays is shared, not copied. Without ``calibration`` it is drawn from train by the seed and
    removed from it: see ``lwplugin.data.partition``. ``slices`` is ``{name: {split: values}}``. ``short_texts``:
    half of the calibration texts are cut short where they are fitted to (``Data.to_fit``).

    >>> x, y = np.random.rand(80, 3), np.arange(80) % 4
    >>> data = from_arrays(train=(x, y), test=(np.random.rand(8, 3), np.arange(8) % 4))
    >>> len(data.train), len(data.calibration), len(data.test)
    (60, 20, 8)
    """
    made = make_task(task)
    given = {"train": train, "calibration": calibration, "test": test}
    if all(value is None for value in given.values()):
        raise DataError("No examples were given", do="give at least one of train, calibration and test")
    columns = _slice_columns(slices or {}, given)
    splits = {
        name: None if value is None else Split(name, as_reader(value), slices=columns[name])
        for name, value in given.items()
    }
    digest = _digest(splits, calibration_examples, seed, duplicates, short_texts)
    parts = Parts(train=splits["train"], calibration=splits["calibration"], test=splits["test"])
    data = _assemble(parts, made, calibration_examples, seed, duplicates, digest)
    return replace(data, short_texts=short_texts)


def load(
    spec: DataSpec | str | Mapping[str, Any],
    task: Task | TaskSpec | str | Mapping[str, Any] = "classification",
) -> Data:
    """Data of a recipe's ``data`` and ``task`` blocks; read once where `reading_once` is in force.

    Raises RecipeError for a block that is wrong, DataError for examples that cannot be read or used.
    """
    spec = DataSpec.of(spec)
    made = make_task(task)
    digest = fingerprint(spec)
    if isinstance(task, Task):  # one made by hand cannot be told from another by its name
        return _read(spec, made, digest)
    return once(f"{digest} {made.spec.model_dump_json()}", lambda: _read(spec, made, digest))


def _read(spec: DataSpec, task: Task, digest: str) -> Data:
    parts = spec.reader.read(spec.options, spec.request(task.name))
    data = (
        parts
        if isinstance(parts, Data)
        else _assemble(parts, task, spec.calibration, spec.seed, spec.duplicates, digest)
    )
    return replace(data, digest=digest, spec=spec, short_texts=spec.short_texts)


def as_reader(value: Any) -> Reader:
    """A reader of whatever a caller holds: a Split's reader, ``(x, y)``, ``x``, or a map-style data set."""
    if isinstance(value, Reader):
        return value
    if isinstance(value, tuple):
        if len(value) != 2:
            raise DataError(
                "A split must be (x, y) or x alone",
                got=f"a tuple of {len(value)}",
                do="give several inputs as ((a, b, c), y), or ((a, b, c), None) without targets",
            )
        inputs, targets = value
        return TensorReader(as_inputs(inputs), None if targets is None else as_labels(targets))
    if isinstance(value, list) and len(value) == 2 and all(np.ndim(part) > 0 for part in value):
        raise DataError(
            "A split must be (x, y) or x alone",
            got="a list of two arrays, which could be inputs and targets or two examples",
            do="write inputs and targets as a tuple (x, y), and examples as one array",
        )
    if isinstance(value, np.ndarray | torch.Tensor | list | Mapping):
        return TensorReader(as_inputs(value), None)
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return DatasetReader(value)
    raise DataError(
        "A split must be arrays or a map-style data set",
        got=f"a {type(value).__name__}",
        do="give (x, y), or an object with __len__ and __getitem__ (a stream has no reproducible order)",
    )


def _assemble(
    parts: Parts,
    task: Task,
    calibration: int | None,
    seed: int,
    duplicates: str,
    digest: str,
) -> Data:
    splits = {
        name: split if split is None else _ready(split, task)
        for name, split in partition(parts, calibration=calibration, seed=seed, duplicates=duplicates).items()
    }
    return Data(task, splits["train"], splits["calibration"], splits["test"], digest=digest)


def _ready(split: Split, task: Task) -> Split:
    if isinstance(split.reader, TensorReader) and split.reader.targets is not None:
        # Cast once instead of in every batch, and complain now about targets of another task.
        reader = TensorReader(split.reader.inputs, task.cast(split.reader.targets))
        split = split.over(reader)
    return split.prepared(task.cast, label=task.name == "classification")


def _slice_columns(
    slices: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, dict[str, np.ndarray]]:
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in given}
    for column, by_split in slices.items():
        for name, values in by_split.items():
            if name not in given:
                raise DataError(f"Slice '{column}' names no split: '{name}'", do=did_you_mean(name, given))
            if given[name] is None:
                raise DataError(f"Slice '{column}' has values for {name}, which was not given")
            columns[name][column] = np.asarray(values)
    return columns


def _digest(splits: Mapping[str, Split | None], *settings: Any) -> str:
    digest = hashlib.sha256(repr(settings).encode())
    for name, split in splits.items():
        if split is None:
            continue
        digest.update(f"{name}:{len(split)}".encode())
        if isinstance(split.reader, TensorReader):
            held: list[Inputs] = [split.reader.inputs]
            held += [] if split.reader.targets is None else [split.reader.targets]
        else:
            # A data set of unknown cost: its length and 64 evenly spaced examples stand for it. They are
            # read one by one, as they may differ in length.
            rows = np.unique(np.linspace(0, len(split) - 1, 64).astype(np.int64)) if len(split) else ()
            read = [split.reader.read(np.array([row])) for row in rows]
            held = [part for example in read for part in example if part is not None]
        for part in held:
            for key, tensor in sorted(tensors(part).items()):
                digest.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for column, values in sorted(split.slices().items()):
            digest.update(column.encode())
            if values.dtype.hasobject:  # its bytes are addresses
                values = np.array([repr(value) for value in values.tolist()])
            digest.update(repr(values.dtype).encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
