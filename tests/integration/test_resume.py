"""A run that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lwplugin.artifact import Store

ROOT = Path(__file__).parents[2]
RECIPE = """\
model: models:/digits-cnn@champion
data: {source: digits, test_fraction: 0.4}
compress:
  - prune: {method: taylor, macs: 0.5, finetune_epochs: 12}
  - quantize: {method: int8, calibrator: minmax}
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.1}, no_faster: allow}
register: {alias: "light-{target}"}
"""
# The command line itself, with a checkpoint twice a second instead of once a minute.
RUN = """
from lwplugin.training import TrainConfig
TrainConfig.model_fields["checkpoint_every_s"].default = 0.5
TrainConfig.model_rebuild(force=True)
from lwplugin.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the parent, and the recipe."""
    made = tmp_path_factory.mktemp("resume")
    (made / "recipe.yaml").write_text(RECIPE)
    script = ROOT / "examples" / "digits" / "train_and_register.py"
    command = [sys.executable, str(script), "--epochs", "2"]
    subprocess.run(command, cwd=made, env=environment(made), check=True, capture_output=True)
    return made


def environment(folder: Path) -> dict[str, str]:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }


def start(folder: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, "run", "recipe.yaml", "--store", str(store), "--json"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, store: Path) -> dict[str, Any]:
    process = start(folder, store)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def kill_when(folder: Path, store: Path, ready: Callable[[float], bool]) -> bool:
    """Start a run, kill -9 it and its children once ``ready(seconds)``; False where it ended first."""
    process = start(folder, store)
    began = time.monotonic()
    try:
        while process.poll() is None:
            if ready(time.monotonic() - began):
                return True
            time.sleep(0.02)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def checkpoints(store: Path) -> Iterator[Path]:
    return (file for file in store.glob("work/*/*") if not file.name.startswith("."))


def digests(result: dict[str, Any]) -> dict[str, str]:
    steps = {step["id"]: step["digest"] for step in result["steps"]}
    return {name: steps[name] for name in ("pull", "prune", "quantize", "export-edge-cpu")}


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    alone = finish(folder, tmp_path / "alone")
    took_s = time.monotonic() - began
    assert alone["verdict"] == "pass"

    store = tmp_path / "killed"
    steps = []
    for _ in range(2):  # in the middle of the training, right after a checkpoint
        before = {file: file.stat().st_mtime_ns for file in checkpoints(store)}
        assert kill_when(
            folder,
            store,
            lambda seconds, before=before: any(  # type: ignore[misc]
                before.get(file) != file.stat().st_mtime_ns for file in checkpoints(store)
            ),
        )
        (checkpoint,) = checkpoints(store)
        steps.append(torch.load(checkpoint, weights_only=True)["position"]["step"])
    # Had the second run begun anew, its first checkpoint would have come as early as the first run's.
    assert steps[1] > steps[0] > 0

    draw = random.Random(0)
    for _ in range(4):  # anywhere
        moment_s = draw.uniform(0.5, took_s)
        kill_when(folder, store, lambda seconds, moment_s=moment_s: seconds > moment_s)  # type: ignore[misc]
        held = Store(store)
        assert all(held.get(key) is not None for key in held.keys())  # noqa: SIM118
        assert not (store / "damaged").exists()

    ended = finish(folder, store)
    assert digests(ended) == digests(alone)
    assert ended["verdict"] == "pass"
    assert not list(checkpoints(store))
    # Both runs made the same file for the same target: one version, whoever registered it.
    registrations = [run["targets"]["edge-cpu"]["registration"] for run in (alone, ended)]
    assert registrations[0]["uri"] == registrations[1]["uri"]
    assert registrations[1]["created"] is False

    again = finish(folder, store)
    assert {step["status"] for step in again["steps"] if step["step"] != "register"} == {"found"}
