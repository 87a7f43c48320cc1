"""Where a split's examples physically are: tensors, memory-mapped arrays, or a map-style dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from lwplugin.data.batch import Inputs, count, map_inputs
from lwplugin.errors import DataError

Rows: TypeAlias = "np.ndarray | slice"
"""Which rows to read: int64 positions in any order, or a contiguous slice."""

Arrays: TypeAlias = "np.ndarray | tuple[np.ndarray, ...] | dict[str, np.ndarray]"


class Reader(ABC):
    """Random access to rows. A reader that streams says in ``order`` which shuffles it can serve well."""

    in_memory: bool = False
    repeatable: bool = True
    """Whether a row read again is the same."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        """The rows in the order asked. The tensors belong to the caller, who may change them in place."""

    def labels(self) -> np.ndarray | None:
        """All targets where that is cheap (no example is read for it), else None."""
        return None

    def texts(self, rows: np.ndarray) -> list[str] | None:
        """What these rows say, as the model is shown it; None where the examples are no texts."""
        return None

    def tokenized(self, texts: list[str]) -> Inputs:
        """Inputs of other texts than the reader's own, made the same way. Raises DataError where there are none."""
        raise DataError("These examples are no texts", do="use a source of texts")

    def order(self, rows: np.ndarray | None, seed: int) -> np.ndarray:
        """A permutation of ``range(n)`` of a split that holds ``rows`` (None: all), decided by the seed."""
        n = len(self) if rows is None else len(rows)
        return np.random.default_rng(seed).permutation(n)


class Changing(Reader):
    """The rows of another reader, changed as they are read."""

    def __init__(self, reader: Reader) -> None:
        self.inner = reader
        self.repeatable = reader.repeatable

    def __len__(self) -> int:
        return len(self.inner)

    def labels(self) -> np.ndarray | None:
        return self.inner.labels()

    def order(self, rows: np.ndarray | None, seed: int) -> np.ndarray:
        return self.inner.order(rows, seed)

    def positions(self, rows: Rows) -> np.ndarray:
        """Which rows these are, int64 [n]."""
        return np.arange(len(self))[rows] if isinstance(rows, slice) else rows


class TensorReader(Reader):
    """Everything in memory."""

    in_memory = True

    def __init__(self, inputs: Inputs, targets: torch.Tensor | None) -> None:
        self.inputs = inputs
        self.targets = targets
        self._n = count(inputs)
        if targets is not None and (targets.ndim == 0 or len(targets) != self._n):
            raise DataError(
                "Inputs and targets have different numbers of examples",
                got=f"{self._n} inputs and {len(targets) if targets.ndim else 'a scalar'} targets",
                do="give one target per example, in the same order",
            )

    def __len__(self) -> int:
        return self._n

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        if isinstance(rows, slice):
            # A copy: a module whose first operation works in place must not write into the data set.
            inputs = map_inputs(self.inputs, lambda tensor: tensor[rows].clone())
            return inputs, None if self.targets is None else self.targets[rows].clone()
        index = torch.from_numpy(rows)
        inputs = map_inputs(self.inputs, lambda tensor: tensor.index_select(0, index))
        return inputs, None if self.targets is None else self.targets.index_select(0, index)

    def labels(self) -> np.ndarray | None:
        return None if self.targets is None else self.targets.numpy()


class ArrayReader(Reader):
    """Numpy arrays, typically memory-mapped: only the rows of one batch are ever copied to memory."""

    def __init__(self, inputs: Arrays, targets: np.ndarray | None) -> None:
        self._inputs = inputs
        self._targets = targets
        arrays = _each(inputs)
        self._n = len(next(iter(arrays.values())))
        lengths = {name: len(array) for name, array in arrays.items()}
        if targets is not None:
            lengths["targets"] = len(targets)
        if len(set(lengths.values())) > 1:
            raise DataError(
                "Arrays of one split have different numbers of examples",
                got=", ".join(f"{name}: {length}" for name, length in lengths.items()),
                do="write one row per example into every array",
            )

    def __len__(self) -> int:
        return self._n

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        inputs: Inputs
        if isinstance(self._inputs, dict):
            inputs = {name: _rows(array, rows) for name, array in self._inputs.items()}
        elif isinstance(self._inputs, tuple):
            inputs = tuple(_rows(array, rows) for array in self._inputs)
        else:
            inputs = _rows(self._inputs, rows)
        return inputs, None if self._targets is None else as_labels(np.array(self._targets[rows]))

    def labels(self) -> np.ndarray | None:
        return None if self._targets is None else np.asarray(self._targets)


class DatasetReader(Reader):
    """A map-style dataset: ``__len__`` and ``__getitem__(i)`` giving ``(x, y)``, a dict, or ``x`` alone.

    In a dict example the keys ``label``, ``labels`` or ``target`` are the target, the rest are inputs.
    """

    repeatable = False  # it may draw another crop each time
    _target_keys = ("label", "labels", "target")

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, rows: Rows) -> tuple[Inputs, torch.Tensor | None]:
        positions = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        examples = [self._split(self._dataset[int(position)]) for position in positions]
        inputs, targets = zip(*examples)
        stacked = _stack(inputs)
        if any(target is None for target in targets):
            return stacked, None
        return stacked, torch.stack([torch.as_tensor(target) for target in targets])

    def _split(self, example: Any) -> tuple[Any, Any]:
        if isinstance(example, Mapping):
            found = [key for key in self._target_keys if key in example]
            inputs = {str(key): value for key, value in example.items() if key not in found}
            return inputs, example[found[0]] if found else None
        if isinstance(example, tuple | list) and len(example) == 2:
            return example[0], example[1]
        if isinstance(example, tuple | list):
            raise DataError(
                "An example of a data set must be (inputs, target), a dict, or inputs alone",
                got=f"a {type(example).__name__} of {len(example)}",
                do="return ((input_0, input_1, …), target) where the model takes several inputs",
            )
        return example, None


def as_tensor(value: Any) -> torch.Tensor:
    """A tensor of an array or list; float64 becomes float32, which is what models are trained in."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise DataError(
                "Examples must have one shape", got=error, do="pad or resize them to the same shape"
            ) from error
        if array.dtype.kind in "OUSV":
            raise DataError(
                "Examples must be numbers",
                got=f"an array of dtype {array.dtype}",
                do="encode strings and objects as numbers, and give rows of equal shape",
            )
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        tensor = torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def as_labels(value: Any) -> torch.Tensor:
    """`as_tensor` of targets. Raises DataError for names, of which only the model's maker knows the numbers."""
    if isinstance(value, torch.Tensor):  # whose iterator would make a tensor of every label first
        return as_tensor(value)
    flat = isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1
    if flat and isinstance(name := next(iter(value), None), str):
        raise DataError(
            "Labels must be numbers",
            got=f"names such as '{name}'",
            do="number them as the model's outputs are; np.unique(labels, return_inverse=True)[1] does where these are "
            "in sorted order",
        )
    return as_tensor(value)


def as_inputs(value: Any) -> Inputs:
    """Inputs of an array, a tuple of arrays or a dict of arrays."""
    if isinstance(value, Mapping):
        return {str(name): as_tensor(array) for name, array in value.items()}
    if isinstance(value, tuple):
        return tuple(as_tensor(array) for array in value)
    return as_tensor(value)


def _each(arrays: Arrays) -> dict[str, np.ndarray]:
    if isinstance(arrays, dict):
        return arrays
    if isinstance(arrays, tuple):
        return {f"input_{position}": array for position, array in enumerate(arrays)}
    return {"input": arrays}


def _rows(array: np.ndarray, rows: Rows) -> torch.Tensor:
    # np.array copies: a memory map is read-only, and torch must own what it may write.
    return as_tensor(np.array(array[rows]))


def _stack(examples: tuple[Any, ...]) -> Inputs:
    first = examples[0]
    try:
        if isinstance(first, Mapping):
            return {
                str(name): torch.stack([as_tensor(example[name]) for example in examples]) for name in first
            }
        if isinstance(first, tuple | list):
            return tuple(
                torch.stack([as_tensor(example[position]) for example in examples])
                for position in range(len(first))
            )
        return torch.stack([as_tensor(example) for example in examples])
    except RuntimeError as error:
        raise DataError(
            "Examples of one batch have different shapes",
            got=str(error),
            do="pad or resize in the data set so that all examples have one shape",
        ) from error
