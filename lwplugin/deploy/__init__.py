"""Serving elsewhere than in plain MLflow: Triton model repositories and KServe manifests.

Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.deploy.kserve import inference_service as inference_service
    from lwplugin.deploy.source import Deployable as Deployable
    from lwplugin.deploy.source import deployable as deployable
    from lwplugin.deploy.triton import TritonOptions as TritonOptions
    from lwplugin.deploy.triton import write_repository as write_repository

_HOME = {
    "Deployable": "source",
    "TritonOptions": "triton",
    "deployable": "source",
    "inference_service": "kserve",
    "write_repository": "triton",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
