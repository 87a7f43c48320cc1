"""Several processes that train one model: every one runs the same program, and what they share is said here.

Each takes its part of every batch; gradients are summed, so a step is the one a single process would take (2006.15704).
Batch norms see the part, as with torch's DistributedDataParallel; running statistics are averaged when they count.
Without a process group all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lwplugin.data.batch import Batch, map_inputs
from lwplugin.errors import MethodError


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leads() -> bool:
    """Whether this process is the one that writes and reports."""
    return not several() or dist.get_rank() == 0


def part_of(batch: Batch) -> Batch:
    """This process's examples of a batch, in order; the parts differ by one example at most and may be empty."""
    if not several():
        return batch
    rank, size = dist.get_rank(), dist.get_world_size()
    start, end = (len(batch) * place // size for place in (rank, rank + 1))
    targets = None if batch.targets is None else batch.targets[start:end]
    return Batch(map_inputs(batch.inputs, lambda tensor: tensor[start:end]), targets, batch.ids[start:end])


def begin_alike(module: nn.Module, identity: str) -> None:
    """The first process's weights for all.

    Raises MethodError where the processes have not come to the same model: a choice that rests on measured times, say.
    """
    if not several():
        return
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, identity)
    if len(set(found)) > 1:
        raise MethodError(
            "The processes that train together have not made the same model",
            got=f"{len(set(found))} different ones",
            do="give no budget in latency with several processes, or train with one",
        )
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, 0)


def sum_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Sums gradients over the processes, in place, and returns the sum of their ``loss``."""
    if not several():
        return loss
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([loss.float().reshape(1), *(p.grad.float().reshape(-1) for p in held)])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    for parameter, summed in zip(held, flat[1:].split([p.numel() for p in held]), strict=True):
        parameter.grad.copy_(summed.view_as(parameter))  # type: ignore[union-attr]
    return flat[0]


def average_buffers(module: nn.Module) -> None:
    """The mean over the processes of every floating-point buffer, such as running statistics."""
    if not several():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def leaders(value: float) -> float:
    """The first process's value for all: clocks and sums differ, decisions must not."""
    if not several():
        return value
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]
