"""One recipe here, on Prefect and through KFP's own runner: the same digests, the same verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from lwplugin.artifact import Store

MADE = ("pull", "prune", "quantize", "export-parent-onnx", "export-edge-cpu")


def digests(result: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["digest"] for step in result["steps"] if step["id"] in MADE}


def statuses(result: dict[str, Any]) -> dict[str, str]:
    return {step["id"]: step["status"] for step in result["steps"]}


@pytest.mark.slow
def test_kubeflow_from_registry_to_registered_version(
    engine_run: Any, here: dict[str, Any], main_job_environment: dict[str, str], recipe: Path, tmp_path: Path
) -> None:
    there = engine_run("kubeflow", recipe, tmp_path / "store", main_job_environment)
    assert digests(there) == digests(here)
    assert there["verdict"] == here["verdict"] == "pass"
    registration = there["targets"]["edge-cpu"]["registration"]
    assert registration["uri"] == here["targets"]["edge-cpu"]["registration"]["uri"]
    assert registration["alias"] == "light-edge-cpu"
    assert set(statuses(there).values()) == {"made"}
    _, *said = there[
        "stderr"
    ].splitlines()  # after the head a line a step, and progress; KFP's own lie in a file
    ended = [line.split()[:2] for line in said if not line.startswith("  … ")]
    assert ended == [[step["id"], "made"] for step in there["steps"]]
    (log,) = Path(there["store"], "runs").iterdir()
    assert len(log.read_text().splitlines()) > 100
    # What one engine made is there for the next, where they share the store.
    command = [sys.executable, "-c", "from lwplugin.cli import main; main()", "plan", str(recipe), "--json"]
    environment = {**main_job_environment, "LWPLUGIN_STORE": there["store"]}
    planned = json.loads(subprocess.check_output(command, env=environment, cwd=environment["FOLDER"]))
    states = {step["id"]: step["state"] for step in planned["steps"]}
    assert {states[step] for step in MADE} == {"found"}


@pytest.mark.slow
def test_kubeflow_records_a_failure_in_the_registry(
    engine_run: Any, main_job_environment: dict[str, str], recipe: Path, tmp_path: Path
) -> None:
    broken = yaml.safe_load(recipe.read_text())
    broken["compress"] = [{"prune": {"method": "taylor", "macs": 0.5, "skip": ["no-such-layer"]}}]
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(broken))
    result = engine_run("kubeflow", file, tmp_path / "store", main_job_environment, code=2)
    assert statuses(result)["prune"] == "failed"
    assert statuses(result)["register-edge-cpu"] == "skipped"
    (log,) = Path(result["store"], "runs").iterdir()
    error = next(step["error"] for step in result["steps"] if step["id"] == "prune")
    assert "no-such-layer" in error
    assert str(log) in error
    assert "no-such-layer" in result["stderr"]
    assert len(result["stderr"].splitlines()) < 25

    import mlflow

    client = mlflow.MlflowClient(main_job_environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("lwplugin")
    assert experiment is not None
    # by engine: the flows' tests break the same recipe, maybe on the same registry
    wanted = (
        f"tags.`lwplugin.recipe_digest` = '{result['recipe_digest']}' and tags.`lwplugin.engine` = 'kubeflow'"
    )
    (failure,) = client.search_runs([experiment.experiment_id], wanted)
    assert failure.info.status == "FAILED"
    assert failure.data.tags["lwplugin.engine"] == "kubeflow"
    assert failure.data.tags["lwplugin.parent_version"] == "models:/digits-cnn/1"


FLOW = """
import sys
from lwplugin.pipelines.prefect import compress
compress(sys.argv[1])
"""


def ask(environment: dict[str, str], path: str) -> list[dict[str, Any]]:
    """What the Prefect server says."""
    request = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/{path}", b"{}", {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    events: list[dict[str, Any]] = found["events"] if isinstance(found, dict) else found
    return events


@pytest.mark.slow
def test_a_killed_flow_goes_on_where_it_was(
    engine_run: Any,
    here: dict[str, Any],
    main_job_environment: dict[str, str],
    prefect_environment: dict[str, str],
    recipe: Path,
    tmp_path: Path,
) -> None:
    environment = {**main_job_environment, **prefect_environment, "LWPLUGIN_STORE": str(tmp_path / "store")}
    store = Store(tmp_path / "store")
    command = [sys.executable, "-c", FLOW, str(recipe)]
    flow = subprocess.Popen(command, env=environment, cwd=environment["FOLDER"], start_new_session=True)
    deadline = time.monotonic() + 300
    try:
        while len(store.keys()) < 2:  # pull and the parent's export are done, something else is under way
            assert flow.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(flow.pid, signal.SIGKILL)
        flow.wait()

    done = engine_run("prefect", recipe, tmp_path / "store", environment)
    found = statuses(done)
    assert (found["pull"], found["export-parent-onnx"]) == ("found", "found")
    assert {found["export-edge-cpu"], found["gate-edge-cpu"]} == {"made"}
    assert digests(done) == digests(here)
    assert done["verdict"] == here["verdict"] == "pass"

    runs = ask(environment, "flow_runs/filter")
    assert "COMPLETED" in {each["state_type"] for each in runs}
    names = {each["name"] for each in ask(environment, "task_runs/filter")}
    assert set(found) <= names
    artifacts = {each["key"]: each for each in ask(environment, "artifacts/filter")}
    assert set(artifacts) >= {f"{kind}-digits-cnn-edge-cpu" for kind in ("verdict", "numbers", "report")}
    assert "PASS" in artifacts["verdict-digits-cnn-edge-cpu"]["data"]
    deadline = time.monotonic() + 60  # events arrive in their own time
    heard: set[str] = set()
    while time.monotonic() < deadline and "lwplugin.version.registered" not in heard:
        heard = {each["event"] for each in ask(environment, "events/filter")}
        time.sleep(0.5)
    assert heard >= {"lwplugin.verdict.pass", "lwplugin.version.registered"}
