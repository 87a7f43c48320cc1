from __future__ import annotations

import subprocess
import sys

import pytest

from lwplugin.registry.connect import redact
from lwplugin.registry.lineage import flat_params


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql+psycopg://me:s3cr@t:5/x", "postgresql+psycopg://t:5/x"),
        ("postgresql://me:p@ss@db/mlflow is down", "postgresql://db/mlflow is down"),
        ("from http://a/b@c to http://me:x@d/e", "from http://a/b@c to http://d/e"),
        ("GET https://token@host/api failed", "GET https://host/api failed"),
        ("s3://bucket/path@v1", "s3://bucket/path@v1"),
        ("models:/net@champion", "models:/net@champion"),
    ],
)
def test_credentials_are_cut_out_of_addresses(text: str, expected: str) -> None:
    assert redact(text) == expected


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
