"""From an alias that somebody sets in MLflow to a light version in the registry, with nothing faked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow

ROOT = Path(__file__).parents[3]
RECIPE = """\
model: models:/digits-cnn@champion
data: {source: digits, test_fraction: 0.4}
compress: [{quantize: {method: int8, calibrator: minmax}}]
targets: [{name: edge-cpu, budget: {size_bytes: 400_000}}]
gate: {max_drop: {accuracy: 0.1}, no_faster: allow}
register: {alias: "light-{target}"}
"""
POLICY = """\
rules: [{name: edge, targets: edge-cpu, budget: {size_bytes: 400_000, p95_ms: 100}, max_drop: {accuracy: 0.1}}]
"""


def test_an_alias_set_in_mlflow_ends_in_a_light_version_that_meets_the_policy(site: Any) -> None:
    site.rules("{models: digits-*, alias: champion}", program=False, recipe=RECIPE)
    script = [sys.executable, str(ROOT / "examples/digits/train_and_register.py"), "--epochs", "2"]
    subprocess.run(script, cwd=site.folder, env=site.full_environment, check=True, capture_output=True)
    client = site.registry.client
    client.delete_registered_model_alias("digits-cnn", "champion")
    replica = site.ready(site.serve("--reconcile-every", "3600"))
    site.registry.hook(replica.hook_url)
    client.set_registered_model_alias("digits-cnn", "champion", "1")

    def ended() -> bool:
        text = replica.get("/metrics")[1]
        assert 'lwplugin_jobs{state="error"} 0.0' in text
        return 'lwplugin_jobs{state="pass"} 1.0' in text

    site.wait(ended, 180)
    light = client.get_model_version_by_alias("digits-cnn", "light-edge-cpu")
    assert light.tags["lwplugin.parent_version"] == "models:/digits-cnn/1"
    assert site.once()["queued"] == []  # what should exist does, and the light version starts nothing
    (site.folder / "policy.yaml").write_text(POLICY)
    check = [sys.executable, "-c", "from lwplugin.cli import main; main()", "check", "--json"]
    done = subprocess.run(check, cwd=site.folder, env=site.full_environment, capture_output=True, check=False)
    answer = json.loads(done.stdout)
    assert (done.returncode, len(answer["findings"])) == (0, 4), answer
    assert mlflow.MlflowClient(site.registry.backend).get_model_version("digits-cnn", light.version)
