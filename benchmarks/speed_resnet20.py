"""How fast pruned ResNet-20s really run: exported to ONNX, one thread, batch 1, each interleaved with the float net.

    python benchmarks/speed_resnet20.py --weights resnet20-{seed}.pt

Ours by `reconstruct` and `hybrid` (whole blocks too) under budgets in MACs and in measured latency, torch-pruning's
group magnitude at the same MACs with its own widths and in multiples of 8; accuracy right after the cut (repaired or
recalibrated), untrained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
]


def made(method: str, options: dict[str, Any], parent: nn.Module, data: Data) -> nn.Module:
    """The pruned net of a row."""
    if method == "torch-pruning":
        return torch_pruning("GroupMagnitudeImportance", parent, data, **options).cpu()
    return lwplugin.prune(parent, data, method=method, **options).module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument("--seconds", type=float, default=30, help="longest timing of a row")
    parser.add_argument(
        "--rows", type=int, nargs="*", default=list(range(len(ROWS))), help="which, by number"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, parent = fashion.pictures(options.data, options.n_train), fashion.network(options, 0).cpu()
    example = data.example(1)
    print(
        "| method | budget | fewer MACs | accuracy | p50 | times the float net's speed |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = lwplugin.export(parent, data, path=Path(folder) / "float")
        for place in options.rows:
            method, chosen = ROWS[place]
            module = made(method, chosen, parent, data)
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
