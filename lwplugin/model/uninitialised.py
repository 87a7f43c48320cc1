"""Building a model without filling its weights with random numbers that are replaced at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    {
        *("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
        *("xavier_uniform_", "xavier_normal_", "orthogonal_", "sparse_", "log_normal_"),
        *("exponential_", "cauchy_", "geometric_", "bernoulli_", "random_"),
    }
)


class _SkipRandomFills(TorchFunctionMode):
    """Random in-place fills of parameters return at once; everything else runs."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _FILLS:
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **(kwargs or {}))


def build_uninitialised(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with parameters left unfilled where that changes nothing else; the random state is kept.

    A constructor that draws other random numbers (a random buffer, a permutation) or trips over the unfilled
    values is run again in full. For callers that load every tensor afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        try:
            with _SkipRandomFills():
                module = make()
            if torch.equal(before, torch.random.get_rng_state()):
                return module
        except Exception:
            pass  # the full build below raises again what is not our doing
        torch.random.set_rng_state(before)
        return make()
