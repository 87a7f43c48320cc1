"""Pruning a Fashion-MNIST ResNet-20: our methods beside torch-pruning's criteria, same net, data and fine-tuning.

    pip install torch-pruning==1.6.1
    python benchmarks/prune_resnet20.py --weights resnet20.pt --kept 0.46 --json prune.json

The weights file (a state dict of examples/fashion-resnet20/resnet20.py) is trained for two epochs where it is missing.
Before: after the cut, with BatchNorm recalibration for torch-pruning and with our repair for ours; no labels in either
(our Taylor reads calibration labels, as theirs does). After: one epoch on the same 20,000 images with the same loop.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples" / "fashion-resnet20"))

from resnet20 import ResNet20  # noqa: E402

import lwplugin  # noqa: E402
from lwplugin.data import Data, evaluate, load  # noqa: E402
from lwplugin.model.cost import cost  # noqa: E402
from lwplugin.training import TrainConfig, train  # noqa: E402
from lwplugin.training.finetune import parent_loss  # noqa: E402
from lwplugin.training.recalibrate import recalibrate_batchnorm  # noqa: E402

OURS = ("reconstruct", "taylor", "magnitude", "activation", "attention", "layer", "hybrid")
THEIRS = ("GroupTaylorImportance", "GroupMagnitudeImportance", "BNScaleImportance", "RandomImportance")


def network(weights: Path, data: Data) -> nn.Module:
    """The float net, trained where no weights are given yet."""
    net = ResNet20()
    if not weights.is_file():
        torch.manual_seed(0)
        train(net, data, config=TrainConfig(epochs=2, batch_size=128, lr=3e-3, schedule="onecycle"))
        torch.save(net.state_dict(), weights)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def finetune(module: nn.Module, parent: nn.Module, data: Data, target: str, seed: int) -> nn.Module:
    """One epoch over 20,000 images, the same for everyone."""
    config = TrainConfig(
        epochs=1, examples_per_epoch=20_000, batch_size=64, lr=2e-3, schedule="onecycle", seed=seed
    )
    loss = None if target == "labels" else parent_loss(copy.deepcopy(parent), data.task, "both")
    train(module, data, config=config, loss=loss)
    return module.eval()


def torch_pruning(criterion: str, parent: nn.Module, data: Data, kept: float) -> nn.Module:
    """The same net cut by torch-pruning to at most ``kept`` of the MACs, globally ranked, then recalibrated."""
    import torch_pruning as tp

    net = copy.deepcopy(parent).requires_grad_(True)
    example = data.example(1)
    importance = getattr(tp.importance, criterion)()
    pruner = tp.pruner.MetaPruner(
        net, example, importance=importance, global_pruning=True, pruning_ratio=0.9, iterative_steps=200,
        ignored_layers=[net.head],
    )  # fmt: skip
    if criterion == "GroupTaylorImportance":
        for batch in data.need("calibration").batches(64):
            data.task.loss(net(batch.inputs), batch.targets).backward()
    whole = cost(parent, example).macs
    for _ in range(200):
        pruner.step()
        if cost(net, example).macs <= kept * whole:
            break
    net.eval().zero_grad()
    recalibrate_batchnorm(net, data.need("calibration"))
    return net.eval()


def row(
    name: str, module: nn.Module, parent: nn.Module, data: Data, target: str, seed: int, seconds: float
) -> Any:
    example = data.example(1)
    before = evaluate(module, data.need("test"), data.task).metrics["accuracy"]
    after = evaluate(
        finetune(copy.deepcopy(module), parent, data, target, seed), data.need("test"), data.task
    ).metrics["accuracy"]
    share = cost(parent, example).macs / cost(module, example).macs
    found = {
        "method": name,
        "macs": share,
        "before": before,
        "after": after,
        "seconds": seconds,
        "target": target,
    }
    print(f"| {name} | {share:.2f}× | {before:.2%} | {after:.2%} ({target}) | {seconds:.0f} s |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("resnet20.pt"))
    parser.add_argument("--kept", type=float, default=0.46, help="fraction of the MACs that stays")
    parser.add_argument("--methods", nargs="*", default=[*OURS, *THEIRS])
    parser.add_argument("--target", choices=("both", "labels"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load({"source": "fashion_mnist", "calibration": 1500}, "classification")
    parent = network(options.weights, data)
    print(f"float {evaluate(parent, data.need('test'), data.task).metrics['accuracy']:.2%}")
    print("| method | fewer MACs | before | after one epoch | cut |\n|---|---|---|---|---|")
    rows = []
    for method in options.methods:
        began = time.perf_counter()
        if method in OURS:
            module = lwplugin.prune(parent, data, method=method, macs=options.kept).module
        else:
            module = torch_pruning(method, parent, data, options.kept)
        seconds = time.perf_counter() - began
        rows.append(row(method, copy.deepcopy(module), parent, data, options.target, options.seed, seconds))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
