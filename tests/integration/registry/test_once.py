"""One version per content: through crashes at the worst moments and through two processes at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lwplugin import registry

REGISTER = """
import json, os, signal, sys, time
from pathlib import Path
import mlflow
from lwplugin import registry

arguments, kill_at, start = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
if kill_at:
    setattr(mlflow.MlflowClient, kill_at, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
for name in ("bundle", "exported", "report"):
    arguments[name] = Path(arguments[name])
arguments["parent"] = registry.Resolved(**arguments["parent"])
start.with_name(f"{start.name}.{os.getpid()}").touch()
while not start.exists():
    time.sleep(0.01)
print(registry.register(**arguments).model_dump_json())
"""


def in_process(arguments: dict[str, Any], start: Path, kill_at: str = "") -> subprocess.Popen[str]:
    plain = {**arguments, "parent": arguments["parent"].model_dump()}
    command = [sys.executable, "-c", REGISTER, json.dumps(plain, default=str), kill_at, str(start)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def runs(uri: str) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("lwplugin")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed_in", "versions_after_crash"),
    [
        ("log_model_artifacts", [1]),
        ("create_model_version", [1]),
        ("set_registered_model_alias", [1, 2]),
    ],
)
def test_killed_on_the_way_and_run_again(
    killed_in: str,
    versions_after_crash: list[int],
    prepared: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lwplugin.registry.turn.ABANDONED_S", 0.5)
    start = tmp_path / "start"
    start.touch()
    crashed = in_process(prepared.arguments, start, killed_in)
    crashed.communicate(timeout=300)
    assert crashed.returncode == -signal.SIGKILL
    assert prepared.versions() == versions_after_crash
    assert prepared.alias("light-edge-cpu") is None

    made = registry.register(**prepared.arguments)
    assert made.version == "2"
    assert prepared.versions() == [1, 2]
    assert prepared.alias("light-edge-cpu") == "2"
    statuses = sorted(run.info.status for run in runs(prepared.uri))
    assert statuses == (["FINISHED", "KILLED"] if killed_in == "log_model_artifacts" else ["FINISHED"])


def test_what_was_deleted_with_its_upload_is_registered_anew(prepared: Any) -> None:
    import mlflow

    client = mlflow.MlflowClient(prepared.uri)
    made = registry.register(**{**prepared.arguments, "alias": None})
    client.delete_model_version(made.name, made.version)
    client.delete_logged_model(made.model_id)
    again = registry.register(**{**prepared.arguments, "alias": None})
    assert again.created
    assert again.model_id != made.model_id


def test_of_two_versions_written_at_once_the_later_is_taken_back(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    create = mlflow.MlflowClient.create_model_version
    waiting = [True]

    def overtaken(client: Any, *arguments: Any, **options: Any) -> Any:
        if waiting.pop() if waiting else False:
            monkeypatch.setattr("lwplugin.registry.registration.find_upload", lambda *_: None)
            other = registry.register(**prepared.arguments)
            assert (other.version, other.created) == ("2", True)
        return create(client, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", overtaken)
    made = registry.register(**prepared.arguments)
    assert (made.version, made.created) == ("2", False)
    assert prepared.versions() == [1, 2]
    assert prepared.alias("light-edge-cpu") == "2"


@pytest.mark.slow
def test_two_processes_at_once_make_one_version(
    prepared: Any, postgres_server_uri: str, log_parent: Callable[..., str], tmp_path: Path
) -> None:
    uri = postgres_server_uri
    name = log_parent(uri, name="raced")
    parent = registry.resolve(f"models:/{name}@champion", tracking_uri=uri)
    bundle = registry.pull(parent, tmp_path / "raced", tracking_uri=uri)
    raced = replace(prepared, uri=uri, parent=parent)
    arguments = {**prepared.arguments, "parent": parent, "bundle": bundle, "tracking_uri": uri}
    start = tmp_path / "start"
    both = [in_process(arguments, start) for _ in range(2)]
    while len(list(tmp_path.glob("start.*"))) < 2:
        assert all(process.poll() is None for process in both)
    start.touch()
    answers = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    made = [json.loads(answer.splitlines()[-1]) for answer, _ in answers]
    assert {one["version"] for one in made} == {str(raced.versions()[-1])}
    assert len(raced.versions()) == 2
    assert sorted(one["created"] for one in made) == [False, True]
    assert raced.alias("light-edge-cpu") == made[0]["version"]


def test_another_target_or_file_is_another_version(prepared: Any) -> None:
    registry.register(**prepared.arguments)
    other = registry.register(**{**prepared.arguments, "target": "phone", "alias": "light-phone"})
    assert (other.version, other.created) == ("3", True)
    assert prepared.alias("light-edge-cpu") == "2"
