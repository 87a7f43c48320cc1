"""The plan as a Prefect flow, its blocks, deployments and ready pipelines.

Prefect imports this package as a collection (`prefect.collections`), so that its blocks are known.
"""

from __future__ import annotations

from lwplugin.pipelines.prefect.blocks import LwpluginRegistry, LwpluginStore
from lwplugin.pipelines.prefect.compress import compress

__all__ = ["LwpluginRegistry", "LwpluginStore", "compress"]
