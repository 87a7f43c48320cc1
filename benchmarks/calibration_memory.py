"""Peak memory of int8 calibration and of pruning with repair at 64 and at 4,096 calibration examples.

python benchmarks/calibration_memory.py

Examples are read from a memory-mapped file, so the growth that is left is that of the methods. Each case runs in a
process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CASE = """
import resource, sys
sys.path.insert(0, {example!r})
import lwplugin
from lwplugin.data import load
from resnet20 import ResNet20
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
data = load({{"source": "npz", "train": {file!r}, "test": {test!r}, "x": "x", "y": "y", "calibration": {n}}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
light = getattr(lwplugin, {family!r})(ResNet20(), data, **{options!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)
"""
CASES = {
    "quantize int8, entropy": ("quantize", {"method": "int8", "calibrator": "entropy"}),
    "prune reconstruct, repair on 256": ("prune", {"macs": 0.5, "repair_examples": 256, "collapse": 0.0}),
}


def main() -> None:
    example = str(Path(__file__).resolve().parent.parent / "examples" / "fashion-resnet20")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for name, n in (("train", 8192), ("test", 64)):
            files[name] = str(Path(place, f"{name}.npz"))
            images = rng.normal(size=(n, 1, 28, 28)).astype(np.float32)
            np.savez(files[name], x=images, y=rng.integers(0, 10, n))
        print("| case | 64 examples | 4,096 examples | growth |\n|---|---|---|---|")
        for name, (family, options) in CASES.items():
            peaks = []
            for n in (64, 4096):
                code = CASE.format(
                    example=example,
                    file=files["train"],
                    test=files["test"],
                    n=n,
                    family=family,
                    options=options,
                )
                done = subprocess.run(
                    [sys.executable, "-c", code], check=True, capture_output=True, text=True
                )
                peaks.append(float(done.stdout.split()[-1]))
            print(f"| {name} | {peaks[0]:.0f} MiB | {peaks[1]:.0f} MiB | {peaks[1] / peaks[0] - 1:+.1%} |")


if __name__ == "__main__":
    main()
