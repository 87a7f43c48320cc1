"""What the body of every Kubeflow component calls: KFP's artifacts in, the step, KFP's artifacts out.

Knows the shape of KFP's artifacts (path, metadata), not KFP.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lwplugin.components.carried import carry_out, numbers
from lwplugin.components.step import Result

from lwplugin.errors import LwpluginError

DIGEST, KEY, STEP, HIT, SECONDS = (f"lwplugin.{name}" for name in ("digest", "key", "step", "hit", "seconds"))

# The output of each component that is the step's result.
RESULT = {
    **dict.fromkeys(("pull", "prune", "factorize", "distill", "quantize"), "light"),
    "export": "exported",
    "measure": "comparison",
    "gate": "verdict",
    "report": "files",
    "register": "registration",
}


class KfpArtifact(Protocol):
    """`dsl.Model`, `dsl.Artifact`, …"""

    path: str
    metadata: dict[str, Any]


class KfpMetrics(Protocol):
    """`dsl.Metrics`."""

    def log_metric(self, metric: str, value: float) -> None: ...


def run_task(
    name: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, KfpArtifact],
    output: KfpArtifact,
    metrics: KfpMetrics | None = None,
) -> Result:
    """Run step ``name``; its key and digest become the artifact's metadata, its numbers the metrics.

    A LwpluginError ends the task with its message alone; a bug keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    directories = {key: (Path(item.path), item.metadata.get(DIGEST)) for key, item in inputs.items()}
    try:
        result = carry_out(name, config, directories, Path(output.path))
    except LwpluginError as error:
        sys.exit(f"error: {name}: {error}")
    output.metadata.update(
        {
            STEP: name,
            KEY: result.key,
            DIGEST: result.digest,
            HIT: result.hit,
            SECONDS: round(result.seconds, 3),
        }
    )
    if metrics is not None:
        for key, value in numbers(name, result.path).items():
            metrics.log_metric(key, value)
    return result
