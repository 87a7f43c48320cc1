"""Where a compression computes: on the GPU where there is one, and back home when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from lwplugin.data.batch import device_of
from lwplugin.errors import LwpluginError, MethodError, RecipeError
from lwplugin.model.forward_error import answer_of
from lwplugin.settings import settings, variable

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel


def chosen_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` asks the settings, and there means a GPU where torch sees one.

    Raises RecipeError for an unknown name, MethodError for a GPU that is not there.
    """
    name = settings().device if name == "auto" else name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError("Unknown device", got=repr(name), do="use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MethodError(
            "There is no CUDA device",
            got=name,
            do=f"use device 'auto' or 'cpu' (also in {variable('device')})",
        )
    return device


def computed(run: Callable[[], LightModel], source: LightModel, data: Data, *others: nn.Module) -> LightModel:
    """What ``run`` makes of ``source`` with all modules on the chosen device; each goes home afterwards.

    Forward passes follow the modules: ``lwplugin.data.batch.call`` takes the inputs to where they lie.
    Raises ModelError where ``run`` failed because the module does not take the examples.
    """
    device, modules = chosen_device(), (source.module, *others)
    homes = [device_of(module) for module in modules]
    try:
        for module in modules:
            module.to(device)
        with _full_precision():
            made = run()
    except LwpluginError:
        raise
    except Exception:
        answer_of(source.module, data.task, data.example())
        raise
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)
    made.module.to(homes[0])
    return made


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32: ten bits of mantissa are fewer than what moments and comparisons are made of."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept
