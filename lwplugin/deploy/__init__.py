"""Serving elsewhere than in plain MLflow: Triton model repositories and KServe manifests.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwplugin.lazy import lazily

if TYPE_CHECKING:
    from lwplugin.deploy.kserve import inference_service as inference_service
    from lwplugin.deploy.source import Deployable as Deployable
    from lwplugin.deploy.source import deployable as deployable
    from lwplugin.deploy.triton import TritonOptions as TritonOptions
    from lwplugin.deploy.triton import write_repository as write_repository

__getattr__, __all__ = lazily(
    __name__,
    {
        "source": "Deployable deployable",
        "triton": "TritonOptions write_repository",
        "kserve": "inference_service",
    },
)
