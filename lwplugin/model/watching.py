"""Seeing what chosen layers take and give while a module runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def watching(
    module: nn.Module, names: Iterable[str], watch: Callable[[str, tuple[Any, ...], Any], object]
) -> Iterator[None]:
    """Calls ``watch(name, args, output)`` after each call of the named layers.

    ``args`` are all arguments, those given by name after those given by position.
    """

    def only_look(name: str, args: tuple[Any, ...], output: Any) -> None:
        watch(name, args, output)

    with replacing(module, names, only_look):
        yield


@contextmanager
def replacing(
    module: nn.Module, names: Iterable[str], replace: Callable[[str, tuple[Any, ...], Any], Any]
) -> Iterator[None]:
    """As ``watching``; what ``replace`` returns, unless it is None, stands for the layer's output."""

    def hook(name: str) -> Any:
        def forward_hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            return replace(name, (*args, *kwargs.values()), output)

        return forward_hook

    handles = [
        module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def main_output(output: Any) -> Any:
    """The part of a block's output that goes on: the first of a tuple."""
    return output[0] if isinstance(output, tuple) and output else output
