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


def start(environment: dict[str, str], store: Path) -> subprocess.Popen[str]:
    recipe = store.with_suffix(".yaml")
    recipe.write_text(RECIPE)
    command = [sys.executable, "-c", RUN, "run", str(recipe), "--store", str(store), "--json"]
    return subprocess.Popen(
        command,
        cwd=environment["FOLDER"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(environment: dict[str, str], store: Path) -> dict[str, Any]:
    process = start(environment, store)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def kill_when(environment: dict[str, str], store: Path, ready: Callable[[float], bool]) -> bool:
    """Start a run, kill -9 it and its children once ``ready(seconds)``; False where it ended first."""
    process = start(environment, store)
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
def test_a_killed_run_resumes_and_ends_as_if_nothing_had_happened(
    main_job_environment: dict[str, str], tmp_path: Path
) -> None:
    environment = main_job_environment
    began = time.monotonic()
    alone = finish(environment, tmp_path / "alone")
    took_s = time.monotonic() - began
    assert alone["verdict"] == "pass"

    store = tmp_path / "killed"
    steps = []
    for _ in range(2):  # in the middle of the training, right after a checkpoint
        before = {file: file.stat().st_mtime_ns for file in checkpoints(store)}
        assert kill_when(
            environment,
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
    for _ in range(3):  # anywhere
        moment_s = draw.uniform(0.5, took_s)
        kill_when(environment, store, lambda seconds, moment_s=moment_s: seconds > moment_s)  # type: ignore[misc]
        held = Store(store)
        assert all(held.get(key) is not None for key in held.keys())  # noqa: SIM118
        assert not (store / "damaged").exists()

    ended = finish(environment, store)
    assert digests(ended) == digests(alone)
    assert ended["verdict"] == "pass"
    assert not list(checkpoints(store))
    # Both runs made the same file for the same target: one version, whoever registered it.
    registrations = [run["targets"]["edge-cpu"]["registration"] for run in (alone, ended)]
    assert registrations[0]["uri"] == registrations[1]["uri"]
    assert registrations[1]["created"] is False

    again = finish(environment, store)
    noisy = any(json.loads(file.read_text())["noisy"] for file in store.rglob("output/comparison.json"))
    fresh = (
        {"register", "measure", "gate", "report"} if noisy else {"register"}
    )  # a noisy measurement is taken anew
    assert {step["status"] for step in again["steps"] if step["step"] not in fresh} == {"found"}
