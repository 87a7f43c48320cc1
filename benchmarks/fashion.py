"""What the Fashion-MNIST ResNet-20 benchmarks share: the data, the float nets of several seeds, rows in parallel."""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lwplugin import students
from lwplugin.data import Data, evaluate, load
from lwplugin.model.placement import chosen_device
from lwplugin.training import TrainConfig, train

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "fashion-resnet20"
sys.path.insert(0, str(EXAMPLE))


def add_options(parser: argparse.ArgumentParser) -> None:
    """--weights, --seeds, --jobs, --data, --epochs, --n-train, --json."""
    parser.add_argument("--net", choices=tuple(NETS), default="resnet20")
    parser.add_argument("--weights", default="{net}-{seed}.pt", help="state dict of each seed's float net")
    parser.add_argument("--epochs", type=int, default=4, help="training of a net whose weights are missing")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="rows worked out at the same time")
    parser.add_argument("--data", type=Path, help="directory of the four idx.gz files")
    parser.add_argument("--n-train", type=int, help="only so many training pictures")
    parser.add_argument("--json", type=Path)


class Cnn(nn.Module):
    """Two convolutions and two linear layers: 206 thousand parameters, nearly all in the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, 28, 28] → logits [n, 10]."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def _resnet20() -> nn.Module:
    from resnet20 import ResNet20

    return ResNet20()


def _mobilenet_v1() -> nn.Module:
    return students.build("mobilenet_v1", width=0.25, channels=1, classes=10, stem="small")


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": _resnet20,
    "cnn": Cnn,
    "mobilenet_v1": _mobilenet_v1,
}


@cache
def pictures(directory: Path | None, n_train: int | None) -> Data:
    """10,000 test and 1,500 calibration pictures."""
    given = {"directory": str(directory)} if directory else {}
    limited = {"n_train": n_train} if n_train else {}
    return load({"source": "fashion_mnist", "calibration": 1500, **given, **limited}, "classification")


def network(options: argparse.Namespace, seed: int) -> nn.Module:
    """The float net of a seed on the chosen device, trained where its weights are not there yet."""
    file = Path(options.weights.format(net=options.net, seed=seed))
    torch.manual_seed(seed)
    net = NETS[options.net]()
    if not file.is_file():
        config = TrainConfig(
            epochs=options.epochs, batch_size=256, lr=8e-3, schedule="onecycle", weight_decay=0.05, seed=seed
        )
        train(net, pictures(options.data, options.n_train), config=config)
        torch.save(net.state_dict(), file)
    net.load_state_dict(torch.load(file, weights_only=True))
    return net.eval().to(chosen_device())


def accuracy(module: nn.Module, data: Data) -> float:
    """On the test pictures, computed on the chosen device."""
    moved = copy.deepcopy(module).to(chosen_device())
    return float(evaluate(moved, data.need("test"), data.task).metrics["accuracy"])


def rows(
    options: argparse.Namespace, work: Callable[..., dict[str, Any]], tasks: Iterable[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """``work(options, *task)`` for every task, ``options.jobs`` at a time; what fails is printed and left out."""
    made: list[dict[str, Any]] = []
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        running = {pool.submit(work, options, *task): task for task in tasks}
        for future, task in running.items():
            try:
                made.append(future.result())
            except Exception as error:
                print(f"{task}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            print(
                f"# {time.perf_counter() - began:.0f} s {json.dumps(made[-1])}", file=sys.stderr, flush=True
            )
            if options.json:
                options.json.write_text(json.dumps(made, indent=1))
    return made


def spread(values: Iterable[float]) -> str:
    """Mean and the range over seeds, in per cent."""
    found = np.array(list(values))
    ends = f" ({found.min():.2%} to {found.max():.2%})" if len(found) > 1 else ""
    return f"{found.mean():.2%}{ends}"
