"""Runs one file on saved inputs in a process of its own, through the adapter that measuring uses.

``parity_worker.py RUNTIME DEVICE OUTPUT WAYS FILE INPUTS OUTPUTS``: INPUTS is an npz of the file's inputs by name;
OUTPUTS receives ``optimized`` (the kernels a user gets) and ``plain`` (the graph as written: integer files are
simulated in float), which is the same array unless WAYS is ``both``.
"""

from __future__ import annotations

import sys

import numpy as np

from lwplugin.measure.runtimes.base import create


def main(runtime: str, device: str, output: str, ways: str, file: str, inputs: str, outputs: str) -> None:
    """Run on one thread and save the output."""
    with np.load(inputs, allow_pickle=False) as stored:
        feed = dict(stored)
    adapter = create(runtime)
    results = {}
    for name in ("optimized", "plain"):
        if name == "optimized" or ways == "both":
            adapter.load(file, device=device, threads=1, optimize=name == "optimized", output=output)
            results[name] = adapter.run(feed)
    np.savez(outputs, optimized=results["optimized"], plain=results.get("plain", results["optimized"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
