"""The same student on digits with and without a teacher: every method, same steps, several seeds.

`python benchmarks/distill_digits.py [--seeds 3] [--epochs 10] [--labelled 1182]`
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate, from_arrays, load
from lwplugin.training import TrainConfig, train

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "labels alone": ("soft", {"alpha": 0.0}),
    "soft": ("soft", {}),
    "soft, teacher alone": ("soft", {"alpha": 1.0}),
    "hard": ("hard", {}),
    "feature, attention": ("feature", {}),
    "feature, hint": ("feature", {"kind": "hint"}),
    "dynamic": ("dynamic", {}),
    "gradient": ("gradient", {}),
    "bootstrap, 2 generations": ("bootstrap", {}),
    "bootstrap, mutual": ("bootstrap", {"kind": "mutual"}),
    "bootstrap, bagged": ("bootstrap", {"kind": "bagged"}),
}


def net(width: int) -> nn.Sequential:
    """Images [n, 1, 8, 8] → logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def accuracy(module: nn.Module, data: Data) -> float:
    """On the test split, in per cent."""
    return 100 * evaluate(module, data.need("test"), data.task).metrics["accuracy"]


def fewer(data: Data, labelled: int) -> Data:
    """The first ``labelled`` training examples alone."""
    parts = {"train": data.need("train").head(labelled), "test": data.need("test")}
    whole = {name: next(split.batches(len(split))) for name, split in parts.items()}
    images = next(data.need("calibration").batches(256)).inputs
    return from_arrays(
        train=(whole["train"].inputs, whole["train"].targets),
        test=(whole["test"].inputs, whole["test"].targets),
        calibration=images,
        duplicates="ignore",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--labelled", type=int, help="training examples the student gets; all by default")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    whole = load({"source": "digits", "calibration": 256}, "classification")
    torch.manual_seed(0)
    teacher = net(32)
    train(teacher, whole, config=TrainConfig(epochs=30, lr=1e-2, schedule="onecycle"))
    data = whole if asked.labelled is None else fewer(whole, asked.labelled)
    sizes = f"{len(data.need('train'))} training and {len(data.need('test'))} test examples"
    print(f"teacher {accuracy(teacher, data):.1f} %, {sizes}")
    print("| student learns from | accuracy, % by seed | mean | s |\n|---|---|---:|---:|")
    for name in asked.rows:
        method, options = ROWS[name]
        found, began = [], time.perf_counter()
        for seed in range(asked.seeds):
            torch.manual_seed(seed)
            student = net(4)
            light = lwplugin.distill(
                student, data, teacher=teacher, method=method, epochs=asked.epochs, lr=1e-2,
                schedule="onecycle", seed=seed, collapse=0, **options,
            )  # fmt: skip
            found.append(accuracy(light.module, data))
        seconds = (time.perf_counter() - began) / asked.seeds
        each = " ".join(f"{value:.1f}" for value in found)
        print(f"| {name} | {each} | {statistics.mean(found):.1f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
