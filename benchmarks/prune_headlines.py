"""Iterative, search-based and adversarial pruning at the survey's budgets, on a residual net for scikit-learn's digits.

    python benchmarks/prune_headlines.py --seeds 3

The net (four residual blocks of 32 channels) is trained for 20 epochs for each seed. Each row: fewer parameters, test
accuracy of the net and of the pruned net, mean over seeds and the worst difference; for the adversarial row also the
accuracy under attack (PGD, 10 steps, on calibration examples). The same budget by `reconstruct` with the same training
stands beside each, so that what the method adds can be told from what the repair and the training add.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "contract"))

from networks import Blocks  # noqa: E402

import lwplugin  # noqa: E402
from lwplugin.data import Data, evaluate, load  # noqa: E402
from lwplugin.training import TrainConfig, train  # noqa: E402

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("iterative", {"params": 0.37, "rounds": 4, "epochs_per_round": 3}),
    ("reconstruct", {"params": 0.37, "finetune_epochs": 12}),
    ("search", {"params": 0.5, "evaluations": 24, "finetune_epochs": 6}),
    ("reconstruct", {"params": 0.5, "finetune_epochs": 6}),
    ("adversarial", {"params": 0.4, "finetune_epochs": 12}),
    ("reconstruct", {"params": 0.4, "finetune_epochs": 12}),
]


def network(data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Blocks(width=32, blocks=4)
    train(net, data, config=TrainConfig(epochs=20, lr=1e-2, schedule="onecycle", seed=seed))
    return net.eval()


def accuracy(module: nn.Module, data: Data) -> float:
    return evaluate(module, data.need("test"), data.task).metrics["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = load({"source": "digits", "calibration": 256}, "classification")
    nets = [network(data, seed) for seed in range(options.seeds)]
    floats = np.array([accuracy(net, data) for net in nets])
    print(
        f"{options.seeds} seeds, {len(data.need('test'))} test examples, float {floats.mean():.2%}",
        flush=True,
    )
    print("| method | options | fewer parameters | accuracy | change (worst) | under attack | s |")
    print("|---|---|---|---|---|---|---|")
    for method, chosen in ROWS:
        began = time.perf_counter()
        light = [
            lwplugin.prune(net, data, method=method, seed=seed, **chosen) for seed, net in enumerate(nets)
        ]
        seconds = (time.perf_counter() - began) / len(nets)
        after = np.array([accuracy(one.module, data) for one in light])
        metrics = [one.history[-1].metrics for one in light]
        fewer = 1 - np.mean([m["params"] / m["params_before"] for m in metrics])
        attacked = ""
        if "robust_score" in metrics[0]:
            pair = [np.mean([m[name] for m in metrics]) for name in ("parent_robust_score", "robust_score")]
            attacked = f"{pair[0]:.1%} → {pair[1]:.1%}"
        change = 100 * (after - floats)
        written = ", ".join(f"{key}: {value}" for key, value in chosen.items())
        print(
            f"| `{method}` | {written} | {fewer:.0%} | {after.mean():.2%} | {change.mean():+.2f} ({change.min():+.2f}) "
            f"| {attacked} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
