"""How much a block matters: by what it changes (block influence), or by the loss's gradient by a gate on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwplugin.data.batch import Batch, call
from lwplugin.moments.repair import attention_mask
from lwplugin.progress import Progress
from lwplugin.prune.blocks import Block, answer_of, first_tensor
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
    watch = (
        _Influence(parent, blocks) if importance == "influence" else _Gates(parent, blocks, data.task, seed)
    )
    split = data.need("calibration").head(examples)
    total = -(-len(split) // 32)
    parent.eval()
    with watch:
        for done, batch in enumerate(split.batches(32), start=1):
            watch.batch(batch)
            progress("block importance", done, total)
    return [watch.sums[block.name] / total for block in blocks]


class _Watch:
    """Hooks on blocks for as long as it is entered."""

    def __init__(self, module: nn.Module, blocks: list[Block]) -> None:
        self.module = module
        self.sums = {block.name: 0.0 for block in blocks}
        self._handles: list[Any] = []

    def __enter__(self) -> _Watch:
        self._handles = [
            self.module.get_submodule(name).register_forward_hook(self.hook(name), with_kwargs=True)
            for name in self.sums
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def hook(self, name: str) -> Any:
        raise NotImplementedError

    def batch(self, batch: Batch) -> None:
        raise NotImplementedError


class _Influence(_Watch):
    def __enter__(self) -> _Watch:
        self._valid: Tensor | None = None
        return super().__enter__()

    def hook(self, name: str) -> Any:
        def seen(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            given = first_tensor(args, kwargs)
            assert given is not None
            self.sums[name] += 1 - _cosine(given, answer_of(output), self._valid)

        return seen

    def batch(self, batch: Batch) -> None:
        self._valid = attention_mask(batch.inputs)
        with torch.no_grad():
            call(self.module, batch.inputs)


class _Gates(_Watch):
    def __init__(self, module: nn.Module, blocks: list[Block], task: Task, seed: int) -> None:
        super().__init__(module, blocks)
        self._task = task
        self._generator = torch.Generator().manual_seed(seed)
        self._gates = {block.name: torch.ones((), requires_grad=True) for block in blocks}

    def hook(self, name: str) -> Any:
        def gated(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            given, answer = first_tensor(args, kwargs), answer_of(output)
            mixed = given + self._gates[name].to(answer.device) * (answer - given)
            return mixed if isinstance(output, Tensor) else (mixed, *output[1:])

        return gated

    def batch(self, batch: Batch) -> None:
        with only_trainable(self.module, set()):
            loss = gate_loss(self.module, batch, self._task, self._generator)
            slopes = torch.autograd.grad(loss, list(self._gates.values()))
        for name, slope in zip(self._gates, slopes, strict=True):
            self.sums[name] += abs(float(slope))


def _cosine(given: Tensor, answer: Tensor, valid: Tensor | None) -> float:
    """Mean over examples of the cosine; over real tokens where [n, tokens, d] is given with a mask."""
    if valid is not None and given.ndim == 3 and given.shape[:2] == valid.shape:
        return float(F.cosine_similarity(given[valid].float(), answer[valid].float(), dim=-1).mean())
    return float(F.cosine_similarity(given.flatten(1).float(), answer.flatten(1).float(), dim=1).mean())
