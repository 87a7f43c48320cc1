"""Half the feed-forward units and a third of the heads of MiniLM removed without labels: torch-pruning and ours.

    pip install torch-pruning==1.6.1
    python benchmarks/prune_minilm.py --epochs 4

192 unlabelled articles of BBC News calibrate, half of them cut short as `Data.to_fit` does, and the other 2,033 judge
(`real_models.py` says what to install and how): a logistic head, class centroids, zero-shot against the prompt sets of
`int8_cases.py`. torch-pruning's Taylor takes random projections of the model's own answers, since there are no labels.
With `--epochs` every row is then trained for so long against the parent's answers on the calibration articles.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from int8_cases import TEMPLATES
from real_models import CLASSES, Sentences, bbc, judged, tokenized
from torch import nn

import lwplugin
from lwplugin.data import Data
from lwplugin.model.cost import cost
from lwplugin.training import TrainConfig, train
from lwplugin.training.finetune import parent_loss

SHARES = {"*.attention.self.*": 2 / 3, "*.intermediate.dense": 0.5}
OURS: dict[str, dict[str, Any]] = {
    "`reconstruct`": {"shares": SHARES},
    "`reconstruct`, the same of each layer": {"shares": SHARES, "ranking": "per_layer"},
    "`reconstruct`, as few parameters, ratios free": {"params": 0.792},
    "`attention`, 15 % fewer parameters": {"method": "attention", "params": 0.85},
    "`magnitude`, 15 % fewer parameters": {"method": "magnitude", "params": 0.85},
    "`layer`, two layers": {"method": "layer", "blocks": 2},
}
PEERS = ("GroupMagnitudeImportance", "GroupTaylorImportance", "RandomImportance")


def torch_pruning(parent: nn.Module, data: Data, criterion: str) -> nn.Module:
    """The same cut by torch-pruning, which must be told what heads are, what to leave alone and what to count anew."""
    import torch_pruning as tp

    net: Any = copy.deepcopy(parent).requires_grad_(True)
    layers = net.encoder.encoder.layer
    attentions = [layer.attention.self for layer in layers]
    projections = [p for a in attentions for p in (a.query, a.key, a.value)]
    ratios = {layer.intermediate.dense: 0.5 for layer in layers} | dict.fromkeys(projections, 1 / 3)
    kinds = (nn.Linear, nn.Embedding, nn.LayerNorm)
    torch.manual_seed(0)
    pruner = tp.pruner.BasePruner(
        net,
        data.example(2),
        importance=getattr(tp.importance, criterion)(),
        pruning_ratio_dict=ratios,
        ignored_layers=[part for part in net.modules() if isinstance(part, kinds) and part not in ratios],
        num_heads=dict.fromkeys(projections, 12),
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=1 / 3,
    )
    if criterion == "GroupTaylorImportance":
        for batch in data.to_fit().batches(16):
            answers = net(**batch.inputs)
            (answers * torch.randn_like(answers)).sum().backward()
    pruner.step()
    for attention in attentions:
        attention.num_attention_heads = attention.query.out_features // attention.attention_head_size
        attention.all_head_size = attention.query.out_features
    net.zero_grad()
    return net.eval()


def ours(parent: nn.Module, data: Data, options: dict[str, Any]) -> nn.Module:
    return lwplugin.prune(parent, data, **{"method": "reconstruct", **options}).module


def trained(module: nn.Module, parent: nn.Module, data: Data, epochs: int) -> nn.Module:
    """Against the parent's answers, the same for everyone."""
    config = TrainConfig(epochs=epochs, batch_size=16, lr=1e-4, schedule="onecycle", seed=0)
    data = replace(data, train=data.to_fit())
    train(module, data, config=config, loss=parent_loss(copy.deepcopy(parent), data.task, "parent"))
    return module.eval()


@torch.no_grad()
def vectors(module: nn.Module, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """[n, 384]"""
    module.eval()
    ids, mask = (torch.from_numpy(arrays[key]) for key in ("input_ids", "attention_mask"))
    return torch.cat([module(i, m) for i, m in zip(ids.split(32), mask.split(32), strict=True)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calibration", type=int, default=192, help="unlabelled articles")
    parser.add_argument("--epochs", type=int, default=0, help="against the parent's answers, after the cut")
    parser.add_argument(
        "--rows", nargs="*", default=[""], help="only those whose name has one of these in it"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data, arrays, labels = bbc(calibration=options.calibration)
    questions = tokenized([template.format(name) for template in TEMPLATES for name in CLASSES])
    parent = Sentences().eval()
    rows: dict[str, Callable[[], nn.Module]] = {"float": lambda: parent}
    for criterion in PEERS:
        name = f"torch-pruning, {criterion.removesuffix('Importance')}"
        rows[name] = partial(torch_pruning, parent, data, criterion)
    rows |= {name: partial(ours, parent, data, chosen) for name, chosen in OURS.items()}
    wanted = np.empty(0)
    before = cost(parent, data.example(1))
    print(
        "| method | fewer parameters | fewer MACs | logistic head | centroids | zero-shot | cosine | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|")

    def show(name: str, module: nn.Module, seconds: float) -> None:
        nonlocal wanted
        found = vectors(module, arrays)
        anchors = vectors(module, questions).reshape(len(TEMPLATES), len(CLASSES), -1)
        wanted = found if name == "float" else wanted
        scores = judged(found, labels, anchors, skip=options.calibration)
        after = cost(module, data.example(1))
        cosine = float((found * wanted)[options.calibration :].sum(1).mean())
        print(
            f"| {name} | {1 - after.params / before.params:.0%} | {1 - after.macs / before.macs:.0%} "
            f"| {' | '.join(f'{score:.2%}' for score in scores.values())} | {cosine:.4f} | {seconds:.0f} |",
            flush=True,
        )

    for name, make in rows.items():
        if name != "float" and not any(each in name for each in options.rows):
            continue
        began = time.process_time()
        module = make()
        show(name, module, time.process_time() - began)
        if options.epochs and name != "float":
            module = trained(module, parent, data, options.epochs)
            show(f"the same, {options.epochs} epochs", module, time.process_time() - began)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
