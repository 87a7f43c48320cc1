"""From a batch of the data to the named arrays that a file takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lwplugin.errors import MeasureError
from lwplugin.measure.session import Peer
from lwplugin.measure.subject import Subject
from lwplugin.measure.wire import Array

Feeds = dict[str, Array]


def feeds_of(inputs: Any, subject: Subject) -> Feeds:
    """Arrays by input name, in the dtypes of the file. Raises MeasureError where names differ."""
    from lwplugin.data.batch import tensors

    given = tensors(inputs)
    wanted = {entry.name: entry.dtype for entry in subject.inputs}
    if set(given) != set(wanted):
        raise MeasureError(
            f"{subject.file.name} takes other inputs than the data gives",
            got=f"data: {', '.join(sorted(given))}; file: {', '.join(sorted(wanted))}",
            do="export with an example from the same data",
        )
    for entry in subject.inputs:
        shape = tuple(given[entry.name].shape)
        if len(shape) != len(entry.shape) or any(
            isinstance(fixed, int) and fixed != size for fixed, size in zip(entry.shape[1:], shape[1:])
        ):
            raise MeasureError(
                f"{subject.file.name} takes one shape of '{entry.name}', and the examples have several or another",
                got=f"examples {list(shape)}, file {['batch', *entry.shape[1:]]}",
                do="pad or resize all examples to one shape (texts: data.padding: fixed) and export again",
            )
    return {
        name: np.ascontiguousarray(given[name].numpy(force=True), np.dtype(wanted[name])) for name in wanted
    }


def pieces(feeds: Feeds, size: int, *, pad: bool) -> Iterator[Feeds]:
    """Batches of ``size``; with ``pad`` the last is filled up by repeating its first example."""
    count = len(next(iter(feeds.values())))
    for start in range(0, count, size):
        piece = {name: array[start : start + size] for name, array in feeds.items()}
        missing = size - len(next(iter(piece.values())))
        if pad and missing:
            piece = {name: np.concatenate([a, np.repeat(a[:1], missing, 0)]) for name, a in piece.items()}
        yield piece


def run_together(jobs: list[tuple[Peer, Subject, Feeds, int]]) -> list[Array]:
    """Each worker's outputs for its feeds, in batches of the given size; the workers work at the same time.

    Raises MeasureError where an output is not finite or has no row for every example: nothing that a
    task would score from it means anything; DataError where the examples are not finite themselves.
    """
    queues = [
        list(pieces(feeds, size, pad=subject.fixed_batch is not None)) for _, subject, feeds, size in jobs
    ]
    results: list[list[Array]] = [[] for _ in jobs]
    for turn in range(max(map(len, queues))):
        active = [place for place, queue in enumerate(queues) if turn < len(queue)]
        for place in active:
            jobs[place][0].send("score", queues[place][turn])
        for place in active:
            results[place].append(jobs[place][0].receive()[1]["output"])
    return [
        _checked(np.concatenate(parts), feeds, worker.label)
        for parts, (worker, _, feeds, _) in zip(results, jobs)
    ]


def _checked(outputs: Array, feeds: Feeds, label: str) -> Array:
    count = len(next(iter(feeds.values())))
    if outputs.ndim == 0 or len(outputs) < count:
        raise MeasureError(
            f"{label}: the output has no row for every example",
            got=f"shape {outputs.shape} for {count} examples",
        )
    outputs = outputs[:count]
    finite = np.isfinite(outputs.reshape(count, -1)).all(1)
    if not finite.all():
        _need_finite(feeds)
        raise MeasureError(
            f"{label}: outputs are NaN or infinite",
            got=f"{count - int(finite.sum())} of {count} examples",
            do="compress less, or exclude the layer that overflows; half precision often overflows in norms",
        )
    return outputs


def _need_finite(feeds: Feeds) -> None:
    import torch

    from lwplugin.data.finite import finite_rows, not_finite

    rows = finite_rows({name: torch.from_numpy(array) for name, array in feeds.items()})
    if not rows.all():
        raise not_finite("the test split", f"{int((~rows).sum())} of {len(rows)} at once")
