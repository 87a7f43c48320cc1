from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lwplugin.registry.lineage import flat_params


def test_a_first_look_at_a_registry_says_one_line(tmp_path: Path) -> None:
    """MLflow's import sets the level of its loggers, and making a database is news to them."""
    code = "import sys, lwplugin.cli as c; sys.exit(c.invoke(['decisions', 'net']))"
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MLFLOW_TRACKING_URI": place},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: The registry at {place} has no model 'net': got an empty registry. "
        "Do: check the name, or MLFLOW_TRACKING_URI if this is the wrong registry.\n"
    )


def test_settings_become_flat_params() -> None:
    nested = {"compress": [{"prune": {"macs": 0.5}}, {"quantize": {}}], "seed": 1, "odd?key": "x" * 900}
    flat = flat_params(nested)
    assert flat["compress.0.prune.macs"] == "0.5"
    assert flat["seed"] == "1"
    assert len(flat["odd_key"]) == 500


def test_importing_the_registry_costs_neither_mlflow_nor_torch() -> None:
    code = "import sys, lwplugin.registry as r; r.Resolved; print({'mlflow', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
