"""Attention as importance: channel attention for convolutions, gate gradients for heads.

Convolutions (after PCAS, Yamamoto 2018, 1806.05382): a squeeze-and-excitation module (1709.01507) is put before every
convolution that reads a group, trained for a short while with the network frozen, and a channel's importance is its
mean attention over calibration examples. Ours starts as the identity (all attention at one) and pays a penalty for
attention kept up, so that channels which are not missed lose theirs.

Heads and what else linear layers read (Michel 2019, 1905.10650): the mean over batches of |∂loss/∂gate|, relative to
the norm of its group as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call, device_of
from lwplugin.model.graph import Graph, Group
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig
from lwplugin.prune.reading import Reading, by_unit, readings
from lwplugin.prune.select import Importance
from lwplugin.prune.sensitivity import gate_loss, only_trainable, unit_slopes
from lwplugin.training.finetune import LOGITS, imitation

if TYPE_CHECKING:
    from lwplugin.data import Data, Split, Task


class AttentionConfig(PruneConfig):
    """Options of ``attention``."""

    attention_examples: int = Field(
        512, ge=2, description="Calibration examples looked at; their labels are used where there are some."
    )
    attention_batch_size: int = Field(32, ge=1, description="Examples a gradient.")
    attention_steps: int = Field(
        100, ge=1, description="Steps the attention before convolutions is trained for (Adam)."
    )
    attention_penalty: float = Field(
        0.1, ge=0, description="Weight of the mean attention in that training: what lets go of channels."
    )


def score(
    module: nn.Module, graph: Graph, data: Data, config: AttentionConfig, progress: Progress
) -> Importance:
    """Mean attention of channels that convolutions read, gate sensitivity of all other units.

    Both are relative to their group, so that they compare across layers. Groups that neither reaches stay whole.
    """
    split = data.need("calibration").head(config.attention_examples)
    module.eval()
    channels = [reading for reading in readings(module, graph) if reading.spatial]
    by_attention = {reading.group for reading in channels}
    rest = [group for group in graph.groups if group.index not in by_attention]
    found: list[np.ndarray] = [np.full(len(group), np.inf) for group in graph.groups]
    if channels:
        for index, importance in _channel_attention(
            module, graph, channels, split, data.task, config, progress
        ):
            found[index] = importance
    if rest:
        for group, importance in _gates(module, rest, split, data.task, config, progress):
            found[group.index] = importance
    return found


class _Attention(nn.Module):
    """Squeeze (mean over positions), excite (two linear layers): one factor a channel, all ones at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(4, channels // 4))
        self.excite = nn.Linear(max(4, channels // 4), channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[n, channels, …] → [n, channels] in (0, 2)."""
        factors: Tensor = 2 * torch.sigmoid(
            self.excite(torch.relu(self.squeeze(features.flatten(2).mean(2))))
        )
        return factors


def _channel_attention(
    module: nn.Module,
    graph: Graph,
    channels: list[Reading],
    split: Split,
    task: Task,
    config: AttentionConfig,
    progress: Progress,
) -> list[tuple[int, np.ndarray]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        attentions = {r.layer: _Attention(len(r.owner)).to(device_of(module)) for r in channels}
    seen: dict[str, Tensor] = {}

    def attend(name: str) -> object:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            factors = seen[name] = attentions[name](args[0])
            return (args[0] * factors.reshape(*factors.shape, *[1] * (args[0].ndim - 2)), *args[1:])

        return hook

    answers = [task.outputs(call(module, batch.inputs)).detach() for batch in _batches(split, config)]
    handles = [module.get_submodule(name).register_forward_pre_hook(attend(name)) for name in attentions]  # type: ignore[arg-type]
    try:
        with only_trainable(module, set()):
            _train(module, attentions, seen, split, answers, task, config, progress)
        sums = {name: torch.zeros(len(r.owner), dtype=torch.float64) for r in channels for name in [r.layer]}
        with torch.no_grad():
            for batch in _batches(split, config):
                call(module, batch.inputs)
                for name, factors in seen.items():
                    sums[name] += factors.double().sum(0).cpu()
    finally:
        for handle in handles:
            handle.remove()
    parts: dict[int, list[np.ndarray]] = {}
    for reading in channels:
        units = by_unit(reading, sums[reading.layer] / len(split), len(graph.groups[reading.group]))
        parts.setdefault(reading.group, []).append(units / units.mean())
    return [(index, np.mean(part, axis=0)) for index, part in parts.items()]


def _train(
    module: nn.Module,
    attentions: dict[str, _Attention],
    seen: dict[str, Tensor],
    split: Split,
    answers: list[Tensor],
    task: Task,
    config: AttentionConfig,
    progress: Progress,
) -> None:
    optimizer = torch.optim.Adam([p for a in attentions.values() for p in a.parameters()], lr=1e-2)
    step = 0
    while step < config.attention_steps:
        for batch, wanted in zip(_batches(split, config), answers, strict=True):
            if step == config.attention_steps:
                return
            outputs = task.outputs(call(module, batch.inputs))
            kept = torch.stack([factors.mean() for factors in seen.values()]).mean()
            loss = _loss(outputs, wanted, batch, task) + config.attention_penalty * kept
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            progress("attention", step, config.attention_steps)


def _loss(outputs: Tensor, wanted: Tensor, batch: Batch, task: Task) -> Tensor:
    if batch.targets is None:
        return imitation(outputs, wanted, logits=task.name in LOGITS)
    return task.loss(outputs, batch.targets.to(outputs.device))


def _batches(split: Split, config: AttentionConfig) -> list[Batch]:
    return list(split.batches(config.attention_batch_size))


def _gates(
    module: nn.Module,
    groups: list[Group],
    split: Split,
    task: Task,
    config: AttentionConfig,
    progress: Progress,
) -> list[tuple[Group, np.ndarray]]:
    generator = torch.Generator().manual_seed(config.seed)
    sums = [np.zeros(len(group)) for group in groups]
    total = -(-len(split) // config.attention_batch_size)
    slopes_of = unit_slopes(
        module,
        groups,
        split.batches(config.attention_batch_size),
        lambda batch: gate_loss(module, batch, task, generator),
    )
    for done, slopes in enumerate(slopes_of, start=1):
        for tally, slope in zip(sums, slopes, strict=True):
            tally += np.abs(slope)
        progress("head gates", done, total)
    return [
        (group, tally / max(float(np.linalg.norm(tally)), 1e-30))
        for group, tally in zip(groups, sums, strict=True)
    ]


METHOD = Method(
    "attention",
    AttentionConfig,
    score,
    "channel attention for convolutions, gate gradients for attention heads",
)
