"""The survey's headlines on Fashion-MNIST, a ResNet-20 or a MobileNet: pruning at its budgets, binary weights, both.

    python benchmarks/headlines_resnet20.py --seeds 3 --jobs 2 --rows prune
    python benchmarks/headlines_resnet20.py --net mobilenet_v1 --epochs 3 --rows binary camera \\
        --finetune-epochs 4 --finetune-examples 15000 --finetune-batch-size 64

Each pruning method is followed by `reconstruct` at the same budget with the same training, so that what the method adds
can be told from what repair and training add.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion

import lwplugin
from lwplugin.model.cost import cost
from lwplugin.quantize.packed import PackedLayer

LR = 2e-3
Step = tuple[str, str, dict[str, Any]]
ROWS: dict[str, list[tuple[Step, ...]]] = {
    "prune": [
        (("prune", "iterative", {"params": 0.37, "rounds": 3, "epochs_per_round": 2}),),
        (("prune", "reconstruct", {"params": 0.37, "finetune_epochs": 6}),),
        (("prune", "search", {"params": 0.5, "evaluations": 24, "finetune_epochs": 6}),),
        (("prune", "reconstruct", {"params": 0.5, "finetune_epochs": 6}),),
        (("prune", "adversarial", {"params": 0.4, "finetune_epochs": 6}),),
        (("prune", "reconstruct", {"params": 0.4, "finetune_epochs": 6}),),
    ],
    "binary": [
        (("quantize", "binary", {"finetune_epochs": 6}),),
        (("quantize", "binary_learned", {"finetune_epochs": 6}),),
    ],
    "camera": [
        (
            ("prune", "reconstruct", {"params": 0.5, "finetune_epochs": 6}),
            ("quantize", "binary_learned", {"finetune_epochs": 6}),
        ),
    ],
}


def named(steps: Iterable[Step]) -> str:
    """A row's methods and their own options."""
    return ", then ".join(
        f"`{method}` ({', '.join(f'{name}: {value}' for name, value in chosen.items())})"
        for _, method, chosen in steps
    )


def lasting(steps: tuple[Step, ...], epochs: int | None) -> tuple[Step, ...]:
    """The steps that train with so many epochs of it; as they are for None."""
    return tuple(
        (
            family,
            method,
            chosen | {"finetune_epochs": epochs} if epochs and "finetune_epochs" in chosen else chosen,
        )
        for family, method, chosen in steps
    )


def row(options: argparse.Namespace, steps: tuple[Step, ...], seed: int) -> dict[str, Any]:
    """One line of methods on one seed's net."""
    torch.set_num_threads(1)
    data, parent = fashion.pictures(options.data, options.n_train), fashion.network(options, seed)
    training = {
        "finetune_lr": LR,
        "finetune_batch_size": options.finetune_batch_size,
        "finetune_examples": options.finetune_examples,
    }
    began = time.perf_counter()
    light = lwplugin.light(parent)
    for family, method, chosen in steps:
        light = getattr(lwplugin, family)(light, data, method=method, seed=seed, **chosen, **training)
    seconds = time.perf_counter() - began
    example = data.example(1)
    with tempfile.TemporaryDirectory() as folder:
        light.save(Path(folder) / "bundle")
        stored = (Path(folder) / "bundle" / "weights.safetensors").stat().st_size
    before, after = cost(parent, example), cost(light.module, example)
    metrics = light.history[-1].metrics
    return {
        "row": named(steps),
        "seed": seed,
        "float": fashion.accuracy(parent, data),
        "accuracy": fashion.accuracy(light.module, data),
        "fewer_params": 1 - after.params / before.params,
        "fewer_macs": before.macs / after.macs,
        "stored": stored / before.size_bytes,
        "packed_layers": packed_share(light.module),
        "seconds": seconds,
        **{name: metrics[name] for name in ("robust_score", "parent_robust_score") if name in metrics},
    }


def packed_share(module: torch.nn.Module) -> float | None:
    """Stored bytes of the packed layers' weights, scales included, as a share of their float bytes."""
    packed = [layer for layer in module.modules() if isinstance(layer, PackedLayer)]
    stored = sum(tensor.nbytes for layer in packed for tensor in layer.stored.values())
    return stored / sum(4 * layer.weight.numel() for layer in packed) if packed else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument("--rows", nargs="+", choices=sorted(ROWS), default=sorted(ROWS))
    parser.add_argument("--finetune-epochs", type=int, help="in place of the table's")
    parser.add_argument("--finetune-examples", type=int, help="training pictures an epoch; all by default")
    parser.add_argument("--finetune-batch-size", type=int, default=256)
    options = parser.parse_args()
    for seed in range(options.seeds):
        fashion.network(options, seed)
    lines = [lasting(steps, options.finetune_epochs) for kind in options.rows for steps in ROWS[kind]]
    made = fashion.rows(options, row, [(steps, seed) for steps in lines for seed in range(options.seeds)])
    columns = ("fewer parameters", "stored", "packed layers", "accuracy", "change (worst)", "under attack")
    print("| |", " | ".join(columns), "|")
    print("|" + "---|" * (1 + len(columns)))
    for steps in lines:
        found = [entry for entry in made if entry["row"] == named(steps)]
        if not found:
            continue
        change = [100 * (e["accuracy"] - e["float"]) for e in found]
        mean = {k: sum(e[k] for e in found) / len(found) for k in ("fewer_params", "stored")}
        packed = f"1/{1 / found[0]['packed_layers']:.1f}" if found[0]["packed_layers"] else ""
        attack = [e for e in found if "robust_score" in e]
        robust = "".join(
            f"{sum(e['parent_robust_score'] for e in attack) / len(attack):.1%} → "
            f"{sum(e['robust_score'] for e in attack) / len(attack):.1%}"
            for _ in attack[:1]
        )
        print(
            f"| {named(steps)} | {mean['fewer_params']:.0%} "
            f"| {mean['stored']:.1%} | {packed} | {fashion.spread(e['accuracy'] for e in found)} "
            f"| {sum(change) / len(change):+.2f} ({min(change):+.2f}) | {robust} |"
        )


if __name__ == "__main__":
    main()
