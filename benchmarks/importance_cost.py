"""CPU time of scoring every unit of a network, at widths 1, 2 and 4 (4 and 16 times the parameters), beside
torch-pruning.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/importance_cost.py [--methods taylor reconstruct] [--widths 1 2 4]

A ResNet-20 on 28 × 28 pictures; values do not matter, so weights and pictures are random. ``exponent`` is the slope of
log seconds over log parameters from the narrowest to the widest: 1 is linear. The dependency graph is timed on its own.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "fashion-resnet20"))

from resnet20 import Block

from lwplugin.data import Data, from_arrays
from lwplugin.model.graph import trace
from lwplugin.progress import silent
from lwplugin.prune import METHODS

OURS = ("magnitude", "activation", "taylor", "reconstruct")
THEIRS = ("GroupMagnitudeImportance", "GroupTaylorImportance")


def network(factor: int) -> nn.Module:
    """ResNet-20, ``factor`` times as wide."""
    torch.manual_seed(0)
    widths = [16 * factor, 32 * factor, 64 * factor]
    blocks: list[nn.Module] = []
    inputs = widths[0]
    for width, stride in zip(widths, (1, 2, 2)):
        for position in range(3):
            blocks.append(Block(inputs, width, stride if position == 0 else 1))
            inputs = width
    stem = [nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(*stem, *blocks, *end).eval()


def ours(method: str, net: nn.Module, data: Data) -> tuple[float, float]:
    """Seconds of the graph and of the scores."""
    chosen = METHODS[method]
    options = {name: 256 for name in chosen.config.model_fields if name.endswith("_examples")}
    config = chosen.config(params=0.5, **options)
    assert chosen.score is not None
    began = time.process_time()
    graph = trace(net, data.example(2))
    middle = time.process_time()
    chosen.score(net, graph, data, config, silent)
    return middle - began, time.process_time() - middle


def theirs(criterion: str, net: nn.Module, data: Data) -> tuple[float, float]:
    """The same of torch-pruning: every group's importance."""
    import torch_pruning as tp

    net.requires_grad_(True)
    began = time.process_time()
    graph = tp.DependencyGraph().build_dependency(net, data.example(2))
    middle = time.process_time()
    if "Taylor" in criterion:
        for batch in data.need("calibration").batches(64):
            data.task.loss(net(batch.inputs), batch.targets).backward()
    importance = getattr(tp.importance, criterion)()
    for group in graph.get_all_groups(ignored_layers=[net[-1]], root_module_types=[nn.Conv2d, nn.Linear]):
        importance(group)
    return middle - began, time.process_time() - middle


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=[*OURS, *THEIRS])
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 2, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = from_arrays(calibration=(x, torch.arange(256) % 10))
    params = [sum(p.numel() for p in network(width).parameters()) for width in options.widths]
    print(
        "| scores | " + " | ".join(f"{n / 1e6:.2f} M" for n in params) + " | exponent | graph at the widest |"
    )
    print("|---|" + "---|" * (len(params) + 2))
    for method in options.methods:
        run: Any = ours if method in OURS else theirs
        run(method, network(1), data)  # imports and first calls
        seconds = [run(method, network(width), data) for width in options.widths]
        scores = [score for _, score in seconds]
        exponent = math.log(scores[-1] / scores[0]) / math.log(params[-1] / params[0])
        cells = " | ".join(f"{score:.2f} s" for score in scores)
        print(f"| {method} | {cells} | {exponent:.2f} | {seconds[-1][0]:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
