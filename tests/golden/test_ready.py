"""Retrain, batch, fleet check and a pipeline of another team: they compile, and no end hangs loose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lwplugin.pipelines.kubeflow.check import check_file
from lwplugin.pipelines.kubeflow.compile import Deployment
from lwplugin.pipelines.kubeflow.ready import compile_batch, compile_fleet_check, compile_retrain
from lwplugin.pipelines.plan import Plan, make_plan

from lwplugin.recipe import load_recipe
from lwplugin.registry import Resolved

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "kubeflow" / "nightly.py"
RECIPE = load_recipe(HERE / "kubeflow.yaml")
LATE = Deployment(resources=RECIPE.resources, at_start=True)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(RECIPE, Resolved.unknown(RECIPE.model))


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = next(yaml.safe_load_all(file.read_text()))
    return document


def test_retrain_starts_from_what_was_trained(plan: Plan, tmp_path: Path) -> None:
    compile_retrain(plan, LATE, tmp_path / "p.yaml", train="training:fit", arguments={"epochs": 3})
    pipeline = read(tmp_path / "p.yaml")
    assert pipeline["root"]["inputDefinitions"]["parameters"]["arguments"]["defaultValue"] == {"epochs": 3}
    model = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]["pull"]["inputs"]["parameters"][
        "model"
    ]
    assert model["taskOutputParameter"]["producerTask"] == "train"


def test_batch_is_one_loop_however_many_models(plan: Plan, tmp_path: Path) -> None:
    compile_batch(
        plan, LATE, tmp_path / "p.yaml", models=[f"models:/net-{number}@champion" for number in range(99)]
    )
    pipeline = read(tmp_path / "p.yaml")
    assert len(pipeline["root"]["inputDefinitions"]["parameters"]["models"]["defaultValue"]) == 99
    (loop,) = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"].values()
    assert loop["iteratorPolicy"]["parallelismLimit"] == 4


def test_fleet_check_carries_its_policy(tmp_path: Path) -> None:
    compile_fleet_check("rules:\n  - {name: size, budget: {size_bytes: 1}}\n", LATE, tmp_path / "p.yaml")
    parameters = read(tmp_path / "p.yaml")["root"]["inputDefinitions"]["parameters"]
    policy = yaml.safe_load(parameters["policy"]["defaultValue"])
    assert policy == {"rules": [{"name": "size", "budget": {"size_bytes": 1}}]}


def test_another_teams_pipeline_takes_the_components_one_by_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path / "p.yaml")], check=True)
    check_file(tmp_path / "p.yaml")
