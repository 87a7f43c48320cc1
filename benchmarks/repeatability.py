"""Whether the stated intervals cover what repeated measurements of the same file say.

    python benchmarks/repeatability.py EXPORT_DIRECTORY --runs 40 [--busy]
    python benchmarks/repeatability.py EXPORT_DIRECTORY --alone --runs 10

The first compares the file with itself: how often it is called slower, how far its processes lie apart. The
second measures it alone, again and again: how often an interval holds the middle of all the runs.
``--busy`` keeps the last CPU fully loaded meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lwplugin.data import from_arrays
from lwplugin.export import load_exported
from lwplugin.measure import Comparison, measure

_SPIN = "import os\nos.sched_setaffinity(0, {CPU})\nwhile True: sum(range(10000))"
# For two differences of two normal values each, the median of the larger is this many standard deviations.
_LARGER_OF_TWO = 1.487


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--alone", action="store_true", help="measure, compare with nothing")
    options = parser.parse_args()
    spinner = None
    if options.busy:
        code = _SPIN.replace("CPU", str(max(os.sched_getaffinity(0))))
        spinner = subprocess.Popen([sys.executable, "-c", code])
    try:
        if options.alone:
            _alone(options.export, options.threads, options.runs)
            return
        found = [_compare(options.export, options.threads) for _ in range(options.runs)]
    finally:
        if spinner is not None:
            spinner.kill()
            spinner.wait()
    usable = [comparison.speedup for comparison, _ in found if not comparison.noisy]
    noise = [comparison.candidate.noise for comparison, _ in found]
    machine = found[0][0].candidate.machine
    bounded = [speed for speed in usable if speed.low is not None and speed.high is not None]
    print(f"{machine.cpu}, {machine.cores} CPUs, {machine.isa}, {machine.runtimes}, busy={options.busy}")
    print(f"runs {len(found)}, noisy {len(found) - len(usable)}")
    slower, faster = sum(s.high < 1 for s in bounded), sum(s.low > 1 for s in bounded)
    print(f"called slower {slower}, faster {faster}")
    print(
        f"largest deviation of the estimate {100 * max(abs(speed.estimate - 1) for speed in bounded):.1f} %"
    )
    print(f"median half-width {100 * np.median([0.5 * np.log(s.high / s.low) for s in bounded]):.1f} %")
    apart = np.median([one.same_file for one in noise if one.same_file is not None])
    print(f"standard deviation between processes {100 * apart / _LARGER_OF_TWO:.1f} %")
    print(f"median wall time of a comparison {np.median([seconds for _, seconds in found]):.1f} s")
    loads = [one.load_after for one in noise]
    print(f"load average {min(loads):.1f} to {max(loads):.1f}")


def _alone(export: Path, threads: int, runs: int) -> None:
    inputs = from_arrays(calibration=_inputs(export))
    found = [measure(export, inputs, threads=threads, energy_seconds=0.1) for _ in range(runs)]
    noisy = sum(bool(one.noise.reasons) for one in found)
    print(f"{found[0].machine.cpu}, {found[0].machine.isa}, {found[0].machine.runtimes}, noisy {noisy}")
    for name in ("p50", "p90", "p95", "p99"):
        middle = np.median([getattr(one.latency, f"{name}_ms") for one in found])
        spread = np.std([np.log(getattr(one.latency, f"{name}_ms")) for one in found], ddof=1)
        ends = [[getattr(one.latency, f"{name}_{end}_ms") for end in ("low", "high")] for one in found]
        covered = [(low is None or low <= middle) and (high is None or middle <= high) for low, high in ends]
        widths = [0.5 * np.log(high / low) for low, high in ends if low is not None and high is not None]
        print(
            f"{name}: {middle:.4f} ms, standard deviation of the runs {100 * spread:.1f} %, intervals hold the "
            f"middle in {sum(covered)} of {runs}, median half-width {100 * np.median(widths):.1f} %"
        )
    loads = [one.noise.load_after for one in found]
    print(f"load average {min(loads):.1f} to {max(loads):.1f}")


def _compare(export: Path, threads: int) -> tuple[Comparison, float]:
    began = time.monotonic()
    inputs = from_arrays(calibration=_inputs(export))
    found = measure(export, inputs, baseline=export, threads=threads)
    if not isinstance(found, Comparison):
        raise SystemExit("measure gave no comparison")
    return found, time.monotonic() - began


def _inputs(export: Path) -> Any:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, spec in load_exported(export).inputs.items():
        shape = [size if isinstance(size, int) else 1 for size in spec["shape"][1:]]
        arrays[name] = rng.random((8, *shape)).astype(spec["dtype"])
    return arrays["input"] if list(arrays) == ["input"] else arrays


if __name__ == "__main__":
    main()
