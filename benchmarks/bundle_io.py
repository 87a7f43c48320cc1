"""Saving plus loading a bundle of about 90 MB beside safetensors alone (save the model, build it, load it).

python benchmarks/bundle_io.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

import lwplugin

RUNS = 7


def network() -> nn.Module:
    """About 23 million float32 parameters, 90 MB."""
    return nn.Sequential(*[nn.Linear(1536, 1536) for _ in range(10)]).eval()


def best_s(action: Callable[[], object]) -> float:
    """Fastest of some runs: what the work costs, without the neighbours."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    net = network()
    light = lwplugin.light(net)
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    with tempfile.TemporaryDirectory() as place:
        bundle, plain = Path(place, "bundle"), Path(place, "plain.safetensors")
        ours = best_s(lambda: light.save(bundle)), best_s(lambda: lwplugin.load(bundle))
        bare = best_s(lambda: save_model(net, str(plain))), best_s(lambda: load_model(network(), str(plain)))
    print(f"{size / 1e6:.0f} MB: bundle save {ours[0]:.3f} + load {ours[1]:.3f} s")
    print(
        f"safetensors save {bare[0]:.3f} + build and load {bare[1]:.3f} s: {sum(ours) / sum(bare):.2f} times"
    )


if __name__ == "__main__":
    main()
