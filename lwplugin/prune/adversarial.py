"""Masks by projected gradient descent, minding attacked inputs too (HYDRA, 2002.10509; GAL, 1903.09291).

Every unit has a mask in [0, 1] on what reads it. The masks descend the divergence between the masked model and the
original on clean inputs and on inputs attacked within a small L∞ ball (PGD, 1706.06083), and after each step are
projected onto the budget: the nearest masks in [0, 1] whose cost is low enough. Their mean over the second half of the
descent is the importance of the units; all else is shared. No labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from lwplugin.data.batch import Batch, Inputs, call, device_of
from lwplugin.model.graph import Graph
from lwplugin.progress import Progress
from lwplugin.prune.attack import Attack
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.select import Cost, Importance, saved_by_unit
from lwplugin.prune.sensitivity import only_trainable
from lwplugin.training.finetune import LOGITS, imitation

if TYPE_CHECKING:
    from lwplugin.data import Data, Split, Task


class AdversarialConfig(PruneConfig):
    """Options of ``adversarial``."""

    epsilon: float = Field(
        8 / 255, gt=0, lt=1, description="Largest change of an input, as a share of the inputs' range."
    )
    attack_steps: int = Field(3, ge=1, description="Gradient steps of the attack while masks are learned.")
    report_attack_steps: int = Field(10, ge=1, description="Gradient steps of the attack that is reported.")
    report_examples: int = Field(256, ge=1, description="Calibration examples the report attacks.")
    mask_steps: int = Field(
        60, ge=2, description="Steps of the masks; the budget tightens over the first half."
    )
    mask_batch_size: int = Field(64, ge=1, description="Examples a step.")
    mask_lr: float = Field(
        0.1, gt=0, description="Step of the masks, in units of their root mean square slope."
    )


def score(
    module: nn.Module, graph: Graph, data: Data, config: AdversarialConfig, progress: Progress
) -> Importance:
    """Mean mask of each unit, times the unit's cost: the shared selection divides by it again.

    Raises:
        MethodError: inputs that hold no floating-point numbers.
    """
    split = data.need("calibration")
    attack = Attack.on(split, config.epsilon, config.attack_steps)
    generator = torch.Generator().manual_seed(config.seed)
    counted = graph.macs if config.budget.kind == "macs" else graph.params
    whole = float(counted())
    saved = [unit / whole for unit in saved_by_unit(counted, graph.groups)]
    cost = torch.from_numpy(
        np.concatenate([np.full(len(g), s) for g, s in zip(graph.groups, saved, strict=True)])
    )
    most = _mask_budget(graph, counted, config.budget.kept) * float(cost.sum())
    masks = torch.ones(len(cost), dtype=torch.float64)
    total = torch.zeros_like(masks)
    batches = _forever(split, config)
    module.eval()
    with only_trainable(module, set()):
        for step in range(config.mask_steps):
            slope = _slope(module, graph, masks, next(batches), data.task, attack, generator)
            size = slope.square().mean().sqrt()
            if float(size) > 0:
                masks = masks - config.mask_lr * slope / size
            tight = min(1.0, 2 * (step + 1) / config.mask_steps)
            masks = project(masks, cost, float(cost.sum()) * (1 - tight) + most * tight)
            if 2 * step >= config.mask_steps:
                total += masks
            progress("masks", step + 1, config.mask_steps)
    mean = total / (config.mask_steps // 2)
    parts = torch.split(mean, [len(group) for group in graph.groups])
    return [part.numpy() * s for part, s in zip(parts, saved, strict=True)]


def project(masks: Tensor, cost: Tensor, most: float) -> Tensor:
    """The nearest masks in [0, 1] with Σ cost × mask ≤ ``most``: clip(masks − λ cost), λ by bisection."""
    clipped = masks.clamp(0, 1)
    if float((clipped * cost).sum()) <= most:
        return clipped
    low, high = 0.0, float((masks.max().clamp_min(1) + 1) / cost.min())
    for _ in range(80):
        middle = (low + high) / 2
        spent = float(((masks - middle * cost).clamp(0, 1) * cost).sum())
        low, high = (middle, high) if spent > most else (low, middle)
    return (masks - high * cost).clamp(0, 1)


def _slope(
    module: nn.Module,
    graph: Graph,
    masks: Tensor,
    batch: Batch,
    task: Task,
    attack: Attack,
    generator: torch.Generator,
) -> Tensor:
    """Derivative by the masks of the divergence on clean and on attacked inputs."""
    batch = batch.to(device_of(module))
    with torch.no_grad():
        wanted = task.outputs(call(module, batch.inputs))

    def divergence(inputs: Inputs, held: Tensor) -> Tensor:
        outputs = task.outputs(call(_masked(module, graph, held), inputs))
        return imitation(outputs, wanted, logits=task.name in LOGITS, temperature=1.0)

    attacked = attack(lambda inputs: divergence(inputs, masks), batch.inputs, generator)
    held = masks.clone().requires_grad_()
    loss = divergence(batch.inputs, held) + divergence(attacked, held)
    (slope,) = torch.autograd.grad(loss, held)
    return slope


def _masked(module: nn.Module, graph: Graph, masks: Tensor) -> Callable[..., object]:
    """The module with every reading weight scaled by its units' masks."""
    states = dict(module.named_parameters())
    changed: dict[str, Tensor] = {}
    for group, mask in zip(graph.groups, torch.split(masks, [len(g) for g in graph.groups]), strict=True):
        for name, axis in group.readers:
            if name not in states:
                continue
            owner = torch.from_numpy(group.owners[name, axis])
            weight: Tensor = changed[name] if name in changed else states[name]
            factors = torch.where(owner >= 0, mask[owner.clamp_min(0)], 1.0).to(weight)
            shape = [1] * weight.ndim
            shape[axis] = -1
            changed[name] = weight * factors.reshape(shape)
    return lambda *args, **kwargs: functional_call(module, changed, args, kwargs)


def _mask_budget(graph: Graph, cost: Cost, budget: float) -> float:
    """The share of every group that may stay, were all cut alike, under the budget."""
    wanted = budget * float(cost({}))
    for kept in np.linspace(1, 0, 101):
        removed = {g.index: list(range(len(g) - max(1, round(kept * len(g))))) for g in graph.groups}
        if float(cost(removed)) <= wanted:
            return float(kept)
    return 0.0


def _forever(split: Split, config: AdversarialConfig) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from split.batches(config.mask_batch_size, seed=config.seed + epoch)
        epoch += 1


def report(parent: nn.Module, module: nn.Module, data: Data, config: AdversarialConfig) -> dict[str, float]:
    """Clean and attacked, side by side, of the finished model and of the parent, each attacked on its own.

    ``*_agreement`` is with the parent's answers to the clean examples; ``*_score`` is the task's, with labels only.
    """
    split = data.need("calibration").head(config.report_examples)
    attack = Attack.on(data.need("calibration"), config.epsilon, config.report_attack_steps)
    found: dict[str, list[np.ndarray]] = {}
    for name, judged in (("", module), ("parent_", parent)):
        generator = torch.Generator().manual_seed(config.seed)
        with only_trainable(judged, set()):
            for batch in split.batches(64):
                for column, values in _judged(judged, parent, batch, data.task, attack, generator).items():
                    found.setdefault(f"{name}{column}", []).append(values)
    found.pop("parent_clean_agreement")
    return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}


def _judged(
    judged: nn.Module, parent: nn.Module, batch: Batch, task: Task, attack: Attack, generator: torch.Generator
) -> dict[str, np.ndarray]:
    batch = batch.to(device_of(parent))
    with torch.no_grad():
        wanted = task.outputs(call(parent, batch.inputs))

    def loss(inputs: Inputs) -> Tensor:
        outputs = task.outputs(call(judged, inputs))
        if batch.targets is None:
            return imitation(outputs, wanted, logits=task.name in LOGITS, temperature=1.0)
        return task.loss(outputs, batch.targets)

    found = {}
    for kind, inputs in (("clean", batch.inputs), ("robust", attack(loss, batch.inputs, generator))):
        with torch.no_grad():
            outputs = task.outputs(call(judged, inputs))
        found[f"{kind}_agreement"] = task.agreement(outputs, wanted)
        if batch.targets is not None:
            found[f"{kind}_score"] = task.scores(outputs, batch.targets)
    return found


METHOD = Method(
    "adversarial", AdversarialConfig, score, "masks learned on clean and attacked inputs; robustness is reported",
    report=report, counts_only=True,
)  # fmt: skip
