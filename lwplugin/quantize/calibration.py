"""The streaming calibration pass: which layers run, in which order, over which ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lwplugin.data.batch import Batch, call
from lwplugin.data.padding import attention_mask, real_tokens
from lwplugin.data.split import Split
from lwplugin.model.watching import watching
from lwplugin.progress import Progress, silent
from lwplugin.quantize.layers import Range
from lwplugin.quantize.observers import Observer


@dataclass(frozen=True)
class LayerRanges:
    """What one layer was seen to take and give."""

    inputs: Range
    outputs: Range
    dimensions: int
    """Of the input: 2 for [n, features], 3 for [n, tokens, features]."""


def calibration_batches(split: Split, *, examples: int, batch_size: int) -> Iterator[Batch]:
    """The first ``examples`` examples of a split in natural order."""
    yield from split.head(min(examples, len(split))).batches(batch_size)


def judging_batches(split: Split, *, examples: int, used: int, batch_size: int) -> Iterator[Batch]:
    """Up to ``examples`` examples to judge candidates on: not the first ``used`` ones, which weights were solved for.

    All of them where fewer than ``used`` others are left.
    """
    count = min(examples, len(split))
    first = used if count >= 2 * used else 0
    yield from split.subset(np.arange(first, count)).batches(batch_size)


@torch.no_grad()
def observe(
    module: nn.Module,
    batches: Iterable[Batch],
    names: Iterable[str],
    make: Callable[[], Observer],
    *,
    gains: Mapping[str, torch.Tensor] | None = None,
    total: int | None = None,
    progress: Progress = silent,
) -> dict[str, LayerRanges]:
    """Input and output ranges of the named layers over a stream; memory does not grow with the stream.

    Returned in the order of first call. A layer called twice has both calls in its ranges; one never called
    is missing. Where there are ``gains``, the input range is that of the input times the gain. Padding is left out.
    """
    observers: dict[str, tuple[Observer, Observer]] = {}
    dimensions: dict[str, int] = {}
    valid: torch.Tensor | None = None

    def watch(name: str, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if name not in observers:
            observers[name] = (make(), make())
            dimensions[name] = args[0].ndim
        seen = real_tokens(args[0], valid)
        observers[name][0].update(seen * gains[name] if gains and name in gains else seen)
        observers[name][1].update(real_tokens(output, valid))

    done = 0
    with watching(module, names, watch):
        for batch in batches:
            valid = attention_mask(batch.inputs)
            call(module, batch.inputs)
            done += len(batch)
            progress("calibrate", done, total)
    return {
        name: LayerRanges(pair[0].range(), pair[1].range(), dimensions[name])
        for name, pair in observers.items()
    }
