"""How much a block matters: by what it changes (block influence), or by the loss's gradient by a gate on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.padding import attention_mask
from lwplugin.model.watching import main_output, replacing, watching
from lwplugin.progress import Progress
from lwplugin.prune.blocks import Block, first_tensor
from lwplugin.prune.sensitivity import gate_loss, only_trainable

if TYPE_CHECKING:
    from lwplugin.data import Data, Task


def score(
    parent: nn.Module,
    blocks: list[Block],
    data: Data,
    importance: Literal["influence", "gradient"],
    examples: int,
    seed: int,
    progress: Progress,
) -> list[float]:
    """One importance for each block, the mean over batches; higher is more needed."""
    split = data.to_fit().head(examples)
    total = -(-len(split) // 32)
    sums = {block.name: 0.0 for block in blocks}
    parent.eval()
    add = _influence(parent, sums) if importance == "influence" else _slopes(parent, sums, data.task, seed)
    for done, batch in enumerate(split.batches(32), start=1):
        add(batch)
        progress("block importance", done, total)
    return [value / total for value in sums.values()]


def _influence(module: nn.Module, sums: dict[str, float]) -> Callable[[Batch], None]:
    """Adds to ``sums`` what each block changes of a batch: 1 − cosine of its input and output."""

    def add(batch: Batch) -> None:
        valid = attention_mask(batch.inputs)

        def look(name: str, args: tuple[Any, ...], output: Any) -> None:
            given = first_tensor(args)
            assert given is not None
            sums[name] += 1 - _cosine(given, main_output(output), valid)

        with torch.no_grad(), watching(module, sums, look):
            call(module, batch.inputs)

    return add


def _slopes(module: nn.Module, sums: dict[str, float], task: Task, seed: int) -> Callable[[Batch], None]:
    """Adds to ``sums`` the loss's slope by a gate that fades each block from its output to its input."""
    generator = torch.Generator().manual_seed(seed)
    gates = {name: torch.ones((), requires_grad=True) for name in sums}

    def gate(name: str, args: tuple[Any, ...], output: Any) -> Any:
        given, answer = first_tensor(args), main_output(output)
        mixed = given + gates[name].to(answer.device) * (answer - given)
        return mixed if isinstance(output, Tensor) else (mixed, *output[1:])

    def add(batch: Batch) -> None:
        with only_trainable(module, set()), replacing(module, sums, gate):
            loss = gate_loss(module, batch, task, generator)
            slopes = torch.autograd.grad(loss, list(gates.values()))
        for name, slope in zip(gates, slopes, strict=True):
            sums[name] += abs(float(slope))

    return add


def _cosine(given: Tensor, answer: Tensor, valid: Tensor | None) -> float:
    """Mean over examples of the cosine; over real tokens where [n, tokens, d] is given with a mask."""
    if valid is not None and given.ndim == 3 and given.shape[:2] == valid.shape:
        return float(F.cosine_similarity(given[valid].float(), answer[valid].float(), dim=-1).mean())
    return float(F.cosine_similarity(given.flatten(1).float(), answer.flatten(1).float(), dim=1).mean())
