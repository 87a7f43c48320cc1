"""Retrain, batch and fleet check as flows on a real Prefect server; all they compress is in the store already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

FLOWS = """
import json, os, sys
from lwplugin.pipelines.prefect import LwpluginRegistry, LwpluginStore, batch, compress, fleet_check, retrain

from lwplugin.cli import invoke
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

recipe, broken, lost, train, policy, answer = sys.argv[1:]
assert invoke(["run", broken, "--engine", "prefect"]) == 2
with get_client(sync_client=True) as client:
    (by_command,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
LwpluginRegistry(tracking_uri=os.environ.pop("MLFLOW_TRACKING_URI")).save("registry")
LwpluginStore(path=os.environ.pop("LWPLUGIN_STORE")).save("store")
where = {"registry": "registry", "store": "store"}

def told(state):
    return [state.type.value, state.message, state.result(raise_on_failure=False)]

models = ["models:/digits-cnn/1", "models:/nobody/1"]
found = {
    "by command": [by_command.state_type.value, by_command.state.message],
    "retrain": told(retrain(recipe, train=train, arguments={"version": 1}, return_state=True, **where)),
    "batch": told(batch([recipe], models=models, return_state=True, **where)),
    "broken": told(compress(broken, return_state=True, **where)),
    "lost": told(compress(lost, return_state=True, **where)),
    "fleet": told(fleet_check(policy, registry="registry", return_state=True)),
}
open(answer, "w").write(json.dumps(found, default=str))
"""
TRAIN = """
def train(version):
    return f"models:/digits-cnn/{version}"
"""
POLICY = """\
rules:
  - {name: small, targets: edge-*, budget: {size_bytes: 1_000}, owner: edge-team}
"""


@pytest.mark.slow
def test_ready_flows(
    here: dict[str, Any],
    main_job_environment: dict[str, str],
    prefect_environment: dict[str, str],
    recipe: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "training.py").write_text(TRAIN)
    (tmp_path / "policy.yaml").write_text(POLICY)
    broken = yaml.safe_load(recipe.read_text())
    broken["compress"] = [{"prune": {"method": "taylor", "macs": 0.5, "skip": ["no-such-layer"]}}]
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    lost = yaml.safe_load(recipe.read_text()) | {"seed": 7}  # nothing of it lies in the store but the parent
    lost["targets"] = [{"name": "phone", "format": "executorch"}]
    del lost["register"]
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(lost))
    arguments = [
        str(recipe),
        str(tmp_path / "broken.yaml"),
        str(tmp_path / "lost.yaml"),
        f"{tmp_path / 'training.py'}:train",
        str(tmp_path / "policy.yaml"),
    ]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "flows.py"), *arguments, str(tmp_path / "answer.json")],
        cwd=main_job_environment["FOLDER"],
        env={
            **main_job_environment,
            **prefect_environment,
            "LWPLUGIN_STORE": here["store"],
            "LWPLUGIN_TOOLCHAINS": str(tmp_path / "none"),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads((tmp_path / "answer.json").read_text())

    state, _, retrained = answer["retrain"]
    assert state == "COMPLETED"
    assert retrained["verdicts"] == {"edge-cpu": "pass"}
    assert retrained["digests"]["quantize"] == next(
        step["digest"] for step in here["steps"] if step["id"] == "quantize"
    )

    state, message, batched = answer["batch"]
    assert (state, message) == ("FAILED", "failed: nobody/1")
    rows = {row["model"]: row for row in batched["rows"]}
    assert rows["digits-cnn/1"]["verdict"] == "pass"
    assert rows["digits-cnn/1"]["smaller"] > 1
    assert rows["nobody/1"]["verdict"] == "error"
    assert "no model 'nobody'" in rows["nobody/1"]["reason"]

    state, message, _ = answer["broken"]
    assert state == "FAILED"
    assert message.startswith("prune: ")
    assert answer["by command"] == [state, message]
    client = mlflow.MlflowClient(main_job_environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("lwplugin")
    assert experiment is not None
    failures = client.search_runs([experiment.experiment_id], "tags.`lwplugin.engine` = 'prefect'")
    assert {failure.info.status for failure in failures} == {"FAILED"}
    assert any("no-such-layer" in failure.data.tags["lwplugin.error"] for failure in failures)

    state, message, left = answer[
        "lost"
    ]  # nothing is trained where the parent has no file to be compared with
    assert (state, message.startswith("export-parent-executorch")) == ("FAILED", True)
    assert {step for step, digest in left["digests"].items() if digest} == {"pull"}

    state, message, findings = answer["fleet"]
    assert state == "FAILED", message  # the light version is larger than a kilobyte
    assert findings["status"] == "fail"
