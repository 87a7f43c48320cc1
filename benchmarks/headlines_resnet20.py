"""The survey's headlines on a Fashion-MNIST ResNet-20: pruning at its budgets, binary weights, several seeds.

    python benchmarks/headlines_resnet20.py --seeds 3 --jobs 2 --rows prune

Each pruning method is followed by `reconstruct` at the same budget with the same training, so that what the method adds
can be told from what repair and training add.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion

import lwplugin
from lwplugin.model.cost import cost

TRAINING = {"finetune_lr": 2e-3, "finetune_batch_size": 256}
ROWS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "prune": [
        ("prune", "iterative", {"params": 0.37, "rounds": 3, "epochs_per_round": 2}),
        ("prune", "reconstruct", {"params": 0.37, "finetune_epochs": 6}),
        ("prune", "search", {"params": 0.5, "evaluations": 24, "finetune_epochs": 6}),
        ("prune", "reconstruct", {"params": 0.5, "finetune_epochs": 6}),
        ("prune", "adversarial", {"params": 0.4, "finetune_epochs": 6}),
        ("prune", "reconstruct", {"params": 0.4, "finetune_epochs": 6}),
    ],
    "binary": [
        ("quantize", "binary", {"finetune_epochs": 6}),
        ("quantize", "binary_learned", {"finetune_epochs": 6}),
    ],
}


def row(
    options: argparse.Namespace, family: str, method: str, chosen: dict[str, Any], seed: int
) -> dict[str, Any]:
    """One method on one seed's net."""
    torch.set_num_threads(1)
    data, parent = fashion.pictures(options.data, options.n_train), fashion.network(options, seed)
    began = time.perf_counter()
    light = getattr(lwplugin, family)(parent, data, method=method, seed=seed, **chosen, **TRAINING)
    seconds = time.perf_counter() - began
    example = data.example(1)
    with tempfile.TemporaryDirectory() as folder:
        light.save(Path(folder) / "bundle")
        stored = (Path(folder) / "bundle" / "weights.safetensors").stat().st_size
    before, after = cost(parent, example), cost(light.module, example)
    metrics = light.history[-1].metrics
    return {
        "family": family,
        "method": method,
        "options": chosen,
        "seed": seed,
        "float": fashion.accuracy(parent, data),
        "accuracy": fashion.accuracy(light.module, data),
        "fewer_params": 1 - after.params / before.params,
        "fewer_macs": before.macs / after.macs,
        "stored": stored / before.size_bytes,
        "seconds": seconds,
        **{name: metrics[name] for name in ("robust_score", "parent_robust_score") if name in metrics},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument("--rows", nargs="+", choices=sorted(ROWS), default=sorted(ROWS))
    options = parser.parse_args()
    for seed in range(options.seeds):
        fashion.network(options, seed)
    chosen = [entry for kind in options.rows for entry in ROWS[kind]]
    made = fashion.rows(options, row, [(*entry, seed) for entry in chosen for seed in range(options.seeds)])
    print("| method | options | fewer parameters | stored | accuracy | change (worst seed) | under attack |")
    print("|---|---|---|---|---|---|---|")
    for family, method, wanted in chosen:
        found = [e for e in made if (e["family"], e["method"], e["options"]) == (family, method, wanted)]
        if not found:
            continue
        change = [100 * (e["accuracy"] - e["float"]) for e in found]
        mean = {k: sum(e[k] for e in found) / len(found) for k in ("fewer_params", "stored")}
        attack = [e for e in found if "robust_score" in e]
        robust = "".join(
            f"{sum(e['parent_robust_score'] for e in attack) / len(attack):.1%} → "
            f"{sum(e['robust_score'] for e in attack) / len(attack):.1%}"
            for _ in attack[:1]
        )
        print(
            f"| `{method}` | {', '.join(f'{k}: {v}' for k, v in wanted.items())} | {mean['fewer_params']:.0%} "
            f"| {mean['stored']:.0%} | {fashion.spread(e['accuracy'] for e in found)} "
            f"| {sum(change) / len(change):+.2f} ({min(change):+.2f}) | {robust} |"
        )


if __name__ == "__main__":
    main()
