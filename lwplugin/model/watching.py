"""Seeing what chosen layers take and give while a module runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def watching(
    module: nn.Module, names: Iterable[str], watch: Callable[[str, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Calls ``watch(name, args, output)`` after each call of the named layers."""

    def hook(name: str) -> Any:
        def forward_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            watch(name, args or tuple(kwargs.values()), output)

        return forward_hook

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
