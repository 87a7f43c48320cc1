"""The plan as a Prefect flow, its blocks, deployments and ready pipelines.

Prefect imports this package as a collection (`prefect.collections`), so that its blocks are known.
"""

from __future__ import annotations

from lwplugin.pipelines.prefect.batch import batch
from lwplugin.pipelines.prefect.blocks import LwpluginRegistry, LwpluginStore
from lwplugin.pipelines.prefect.compress import compress
from lwplugin.pipelines.prefect.fleet import fleet_check
from lwplugin.pipelines.prefect.retrain import retrain

__all__ = ["LwpluginRegistry", "LwpluginStore", "batch", "compress", "fleet_check", "retrain"]
