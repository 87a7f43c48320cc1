"""One of train, calibration and test: the same few operations whether it lies in memory or streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from lwplugin.data.batch import Batch
from lwplugin.data.readers import Reader
from lwplugin.errors import DataError


class Split:
    """Examples behind a reader, seen through an optional index, with values to slice them by.

    ``cast`` turns raw targets into what the task's loss takes; ``label`` makes the target a slice.
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        *,
        index: np.ndarray | None = None,
        slices: Mapping[str, np.ndarray] | None = None,
        cast: Callable[[torch.Tensor], torch.Tensor] | None = None,
        label: bool = False,
    ) -> None:
        self.name = name
        self.reader = reader
        self.index = None if index is None else np.asarray(index, dtype=np.int64)
        self._slices = dict(slices or {})
        self._cast = cast
        self._label = label
        for column, values in self._slices.items():
            if len(values) != len(reader):
                raise DataError(
                    f"Slice '{column}' of the {name} split needs one value per example",
                    got=f"{len(values)} values for {len(reader)} examples",
                    do="give the values in the order of the examples",
                )

    def __len__(self) -> int:
        return len(self.reader) if self.index is None else len(self.index)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self)} examples)"

    def batches(self, batch_size: int, *, seed: int | None = None, skip: int = 0) -> Iterator[Batch]:
        """Batches of ``batch_size`` (the last may be smaller).

        Natural order without a seed, else an order that the seed alone decides. The first ``skip``
        batches are jumped over without being read, which is how a training resumes inside an epoch.
        A source that streams shuffles as its reader documents, still decided by the seed alone.
        """
        if batch_size < 1:
            raise DataError("A batch holds at least one example", got=batch_size, do="use batch_size >= 1")
        order = None if seed is None else self.reader.order(self.index, seed)
        for start in range(skip * batch_size, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            ids = np.arange(start, stop, dtype=np.int64) if order is None else order[start:stop]
            if self.index is not None:
                inputs, targets = self.reader.read(self.index[ids])
            elif order is None:
                inputs, targets = self.reader.read(slice(start, stop))
            else:
                inputs, targets = self.reader.read(ids)
            if targets is not None and self._cast is not None:
                targets = self._cast(targets)
            yield Batch(inputs, targets, ids)

    def head(self, n: int) -> Split:
        """The first ``n`` examples (all of them where there are fewer)."""
        return self.subset(np.arange(min(n, len(self)), dtype=np.int64))

    def subset(self, positions: np.ndarray, *, name: str | None = None) -> Split:
        """The examples at these positions of this split, in this order."""
        positions = np.asarray(positions, dtype=np.int64)
        return self._with(index=positions if self.index is None else self.index[positions], name=name)

    def sample(self, n: int, seed: int) -> Split:
        """``n`` examples drawn by the seed (all of them where there are fewer), kept in natural order."""
        if n >= len(self):
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(len(self))[:n]))

    def labels(self) -> np.ndarray | None:
        """Every target, where the source knows them without reading the examples; else None."""
        labels = self.reader.labels()
        return labels if labels is None or self.index is None else labels[self.index]

    def targets(self) -> np.ndarray | None:
        """Every target as the task's loss takes it, reading the examples where there is no other way."""
        labels = self.labels()
        if labels is not None:
            tensor = torch.from_numpy(np.array(labels))
            return (tensor if self._cast is None else self._cast(tensor)).numpy()
        parts = [batch.targets for batch in self.batches(256)]
        if not parts or any(part is None for part in parts):
            return None
        return torch.cat([part for part in parts if part is not None]).numpy()

    def texts(self, positions: np.ndarray) -> list[str] | None:
        """What these examples say; None where they are no texts."""
        positions = np.asarray(positions, dtype=np.int64)
        return self.reader.texts(positions if self.index is None else self.index[positions])

    def slices(self) -> dict[str, np.ndarray]:
        """Slice name → one value per example; ``label`` is the target of a classification."""
        columns = {
            name: values if self.index is None else values[self.index]
            for name, values in self._slices.items()
        }
        if self._label and "label" not in columns:
            targets = self.targets()
            if targets is not None:
                columns["label"] = targets
        return columns

    def prepared(self, cast: Callable[[torch.Tensor], torch.Tensor] | None, *, label: bool) -> Split:
        """The same examples with targets as a task wants them."""
        return Split(self.name, self.reader, index=self.index, slices=self._slices, cast=cast, label=label)

    def over(self, reader: Reader) -> Split:
        """The same rows, index and slices on another reader of the same length."""
        return Split(
            self.name, reader, index=self.index, slices=self._slices, cast=self._cast, label=self._label
        )

    def _with(self, *, index: np.ndarray, name: str | None) -> Split:
        return Split(
            name or self.name,
            self.reader,
            index=index,
            slices=self._slices,
            cast=self._cast,
            label=self._label,
        )
