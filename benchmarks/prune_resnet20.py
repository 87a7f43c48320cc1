"""Pruning on Fashion-MNIST, a ResNet-20 or a CNN of two convolutions: our methods beside torch-pruning's criteria,
same nets, data and fine-tuning.

    pip install torch-pruning==1.6.1
    python benchmarks/prune_resnet20.py --kept 0.46 0.24 --seeds 3 --jobs 2
    python benchmarks/prune_resnet20.py --net cnn --budget params --kept 0.4 --seeds 3

Each seed has a float net of its own, trained where its weights file is missing. Before: after the cut, with BatchNorm
recalibration for torch-pruning and with our repair for ours; no labels in either (our Taylor reads calibration labels,
as theirs does). After: one epoch on the same 20,000 images with the same loop.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion

import lwplugin
from lwplugin.data import Data
from lwplugin.model.cost import cost
from lwplugin.training import TrainConfig, train
from lwplugin.training.finetune import parent_loss
from lwplugin.training.recalibrate import recalibrate_batchnorm

OURS = ("reconstruct", "taylor", "magnitude", "activation", "attention", "layer", "hybrid")
THEIRS = ("GroupTaylorImportance", "GroupMagnitudeImportance", "BNScaleImportance", "RandomImportance")


def finetune(module: nn.Module, parent: nn.Module, data: Data, target: str, seed: int) -> nn.Module:
    """One epoch over 20,000 images, the same for everyone."""
    config = TrainConfig(
        epochs=1, examples_per_epoch=20_000, batch_size=64, lr=2e-3, schedule="onecycle", seed=seed
    )
    loss = None if target == "labels" else parent_loss(copy.deepcopy(parent), data.task, "both")
    train(module, data, config=config, loss=loss)
    return module.eval()


def torch_pruning(
    criterion: str,
    parent: nn.Module,
    data: Data,
    kept: float,
    *,
    budget: str = "macs",
    round_to: int | None = None,
) -> nn.Module:
    """The same net cut by torch-pruning to at most ``kept`` of the budget, globally ranked, then recalibrated."""
    import torch_pruning as tp

    net = copy.deepcopy(parent).requires_grad_(True)
    device = next(net.parameters()).device
    example = data.example(1).to(device)
    importance = getattr(tp.importance, criterion)()
    pruner = tp.pruner.MetaPruner(
        net, example, importance=importance, global_pruning=True, pruning_ratio=0.9, iterative_steps=200,
        ignored_layers=[net.head], round_to=round_to,
    )  # fmt: skip
    if criterion == "GroupTaylorImportance":
        for batch in data.need("calibration").batches(64):
            moved = batch.to(device)
            data.task.loss(net(moved.inputs), moved.targets).backward()
    whole = getattr(cost(parent, example), budget)
    for _ in range(200):
        pruner.step()
        if getattr(cost(net, example), budget) <= kept * whole:
            break
    net.eval().zero_grad()
    recalibrate_batchnorm(net, data.need("calibration"))
    return net.eval()


def row(options: argparse.Namespace, method: str, kept: float, seed: int) -> dict[str, Any]:
    """One cut of one seed's net, and what an epoch makes of it."""
    torch.set_num_threads(1)
    data, parent = fashion.pictures(options.data, options.n_train), fashion.network(options, seed)
    began = time.perf_counter()
    if method in OURS:
        module = lwplugin.prune(parent, data, method=method, seed=seed, **{options.budget: kept}).module
    else:
        module = torch_pruning(method, parent, data, kept, budget=options.budget)
    seconds = time.perf_counter() - began
    example = data.example(1)
    before = fashion.accuracy(module, data)
    if options.after:
        finetune(module, parent, data, options.target, seed)
    return {
        "method": method,
        "kept": kept,
        "seed": seed,
        "fewer": getattr(cost(parent, example), options.budget)
        / getattr(cost(module, example), options.budget),
        "float": fashion.accuracy(parent, data),
        "before": before,
        "after": fashion.accuracy(module, data) if options.after else None,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument(
        "--kept", type=float, nargs="+", default=[0.46], help="fractions of the budget that stay"
    )
    parser.add_argument("--budget", choices=("macs", "params"), default="macs")
    parser.add_argument("--methods", nargs="*", default=[*OURS, *THEIRS])
    parser.add_argument("--target", choices=("both", "labels"), default="both")
    parser.add_argument("--after", action=argparse.BooleanOptionalAction, default=True, help="train an epoch")
    options = parser.parse_args()
    for seed in range(options.seeds):
        fashion.network(options, seed)
    tasks = [
        (m, kept, seed) for kept in options.kept for m in options.methods for seed in range(options.seeds)
    ]
    made = fashion.rows(options, row, tasks)
    print(
        f"float {fashion.spread({each['seed']: each['float'] for each in made}.values())}, {options.target}"
    )
    print(f"| method | fewer {options.budget} | before | after one epoch | cut |\n|---|---|---|---|---|")
    for kept in options.kept:
        for method in options.methods:
            found = [each for each in made if (each["method"], each["kept"]) == (method, kept)]
            if found:
                share, seconds = (sum(e[k] for e in found) / len(found) for k in ("fewer", "seconds"))
                before = fashion.spread(e["before"] for e in found)
                after = fashion.spread(e["after"] for e in found) if options.after else ""
                print(f"| {method} | {share:.2f}× | {before} | {after} | {seconds:.0f} s |")


if __name__ == "__main__":
    main()
