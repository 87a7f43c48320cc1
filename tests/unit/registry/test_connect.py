from __future__ import annotations

import subprocess
import sys

from lwplugin.registry.lineage import flat_params


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
