"""The same recipe for every engine, and a real Prefect server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CLI = [sys.executable, "-c", "from lwplugin.cli import main; main()"]
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


def _run(
    engine: str, recipe: Path, store: Path, environment: dict[str, str], *, code: int = 0
) -> dict[str, Any]:
    command = [*CLI, "run", str(recipe), "--engine", engine, "--store", str(store), "--json"]
    done = subprocess.run(
        command, cwd=environment["FOLDER"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == code, done.stderr[-4000:]
    assert done.stdout, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return {**result, "store": str(store), "stderr": done.stderr}


@pytest.fixture(scope="session")
def engine_run() -> Callable[..., dict[str, Any]]:
    """The command line: (engine, recipe, store, environment, code=0) → what it answers."""
    return _run


@pytest.fixture(scope="session")
def here(
    main_job_environment: dict[str, str], recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the local runner says."""
    return _run("local", recipe, tmp_path_factory.mktemp("here") / "store", main_job_environment)
