"""Runs one file on saved inputs in a process of its own, through the adapter that measuring uses.

``parity_worker.py RUNTIME DEVICE OUTPUT WAYS BATCH FILE INPUTS OUTPUTS``: INPUTS is an npz of inputs by name;
OUTPUTS receives ``optimized`` (the kernels a user gets) and ``plain`` (the graph as written: integer files are
simulated in float), which is the same array unless WAYS is ``both``.
BATCH examples run at once; 0 runs them all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from lwplugin.measure.runtimes.base import create


def main(
    runtime: str, device: str, output: str, ways: str, batch: str, file: str, inputs: str, outputs: str
) -> None:
    """Run on one thread and save the output."""
    with np.load(inputs, allow_pickle=False) as stored:
        feed = dict(stored)
    adapter = create(runtime)
    results = {}
    count = len(next(iter(feed.values())))
    for name in ("optimized", "plain"):
        if name == "optimized" or ways == "both":
            adapter.load(file, device=device, threads=1, optimize=name == "optimized", output=output)
            results[name] = np.concatenate([adapter.run(piece) for piece in pieces(feed, int(batch))])[:count]
    np.savez(outputs, optimized=results["optimized"], plain=results.get("plain", results["optimized"]))


def pieces(feed: dict[str, np.ndarray], batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Runs of ``batch`` examples; the last is filled up with its last example."""
    count = len(next(iter(feed.values())))
    size = batch or count
    for start in range(0, count, size):
        places = np.minimum(np.arange(start, start + size), count - 1)
        yield {name: array[places] for name, array in feed.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
