"""The same recipe for every engine, and a real Prefect server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RECIPE = """\
model: models:/digits-cnn@champion
data: {source: digits, test_fraction: 0.4}
compress:
  - prune: {method: taylor, macs: 0.5, finetune_epochs: 1}
  - quantize: {method: int8, calibrator: minmax}
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.1}, no_faster: allow}
register: {alias: "light-{target}"}
"""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="session")
def prefect_environment(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server on sqlite; the variables a process needs to talk to it."""
    home = tmp_path_factory.mktemp("prefect")
    port = servers.free_port()
    quiet = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--host", "127.0.0.1"]
    process = servers.start([*command, "--port", str(port)], home / "server.log", **quiet)
    try:
        servers.wait_for(f"http://127.0.0.1:{port}/api/health", process, home / "server.log")
        yield {**quiet, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    finally:
        servers.stop(process)
