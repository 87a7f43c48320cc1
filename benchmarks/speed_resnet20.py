"""How fast pruned ResNet-20s really run: exported to ONNX, one thread, batch 1, each interleaved with the float net.

    python benchmarks/speed_resnet20.py --weights resnet20-{seed}.pt --seed 0 --nets nets --make
    python benchmarks/speed_resnet20.py --weights resnet20-{seed}.pt --seed 0 --nets nets

The first prunes and keeps the nets, the second times them, so that only it needs the machine to itself.
Ours by `reconstruct` and `hybrid` (whole blocks too) under budgets in MACs and in measured latency, torch-pruning's
group magnitude at the same MACs with its own widths and in multiples of 8; accuracy right after the cut (repaired or
recalibrated), untrained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion
from prune_resnet20 import torch_pruning

import lwplugin
from lwplugin.data import Data
from lwplugin.model.cost import cost

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("reconstruct", {"macs": 0.46}),
    ("hybrid", {"latency": 0.5}),
    ("hybrid", {"latency": 0.45}),
    ("torch-pruning", {"kept": 0.46, "round_to": 8}),
    ("hybrid", {"latency": 0.33}),
    ("reconstruct", {"latency": 0.5}),
    ("torch-pruning", {"kept": 0.24, "round_to": 8}),
    ("reconstruct", {"macs": 0.24}),
    ("reconstruct", {"latency": 0.33}),
    ("torch-pruning", {"kept": 0.46}),
    ("torch-pruning", {"kept": 0.24}),
    ("reconstruct", {"macs": 0.46, "round_to": 16}),
    ("hybrid", {"latency": 0.4}),
]


def made(method: str, options: dict[str, Any], parent: nn.Module, data: Data) -> nn.Module:
    """The pruned net of a row."""
    if method == "torch-pruning":
        return torch_pruning("GroupMagnitudeImportance", parent, data, **options).cpu()
    return lwplugin.prune(parent, data, method=method, **options).module


def kept(file: Path | None, make: Callable[[], nn.Module]) -> nn.Module:
    """The net of an earlier run, or a new one that is kept for the next."""
    if file is not None and file.is_file():
        module: nn.Module = torch.load(file, weights_only=False)
        return module
    module = make()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module, file)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument("--seconds", type=float, default=30, help="longest timing of a row")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=list(range(len(ROWS))), help="which, by number"
    )
    parser.add_argument("--seed", type=int, default=0, help="whose weights")
    parser.add_argument("--nets", type=Path, help="directory of pruned nets: made once, then only timed")
    parser.add_argument("--make", action="store_true", help="make them, time nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion.pictures(options.data, options.n_train)
    parent = fashion.network(options, options.seed).cpu()

    def net(place: int) -> nn.Module:
        file = options.nets and options.nets / f"{options.seed}-{place}.pt"
        return kept(file, partial(made, *ROWS[place], parent, data))

    if options.make:
        for place in options.rows:
            began = time.process_time()
            net(place)
            print(f"{place}: {time.process_time() - began:.0f} CPU s", flush=True)
        return
    example = data.example(1)
    print(
        "| method | budget | fewer MACs | accuracy | p50 | times the float net's speed |\n|---|---|---|---|---|---|"
    )
    print(f"| float net of seed {options.seed} | | | {fashion.accuracy(parent, data):.2%} | | |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = lwplugin.export(parent, data, path=Path(folder) / "float")
        for place in options.rows:
            method, chosen = ROWS[place]
            module = net(place)
            file = lwplugin.export(module, data, path=Path(folder) / str(place))
            found = lwplugin.measure(file, data, baseline=base, max_seconds=options.seconds)
            fewer = cost(parent, example).macs / cost(module, example).macs
            score = found.candidate.metrics["accuracy"]
            speed = found.speedup
            noisy = f", noisy: {found.noise_reason}" if found.noisy else ""
            faster = f"{speed.estimate:.2f} ({speed.low:.2f} to {speed.high:.2f}){noisy}"
            print(
                f"| {method} | {', '.join(f'{k}: {v}' for k, v in chosen.items())} | {fewer:.2f}× | {score:.2%} "
                f"| {found.candidate.latency.p50_ms:.3f} ms | {faster} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
