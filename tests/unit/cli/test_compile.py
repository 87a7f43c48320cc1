from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lwplugin.cli import invoke

RECIPE = """\
model: models:/net@champion
data: {source: digits}
compress: [{prune: {method: taylor, macs: 0.5}}]
targets: [{name: edge}]
gate: {max_drop: {accuracy: 0.1}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def test_compile_at_start_asks_no_registry(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = recipe.with_name("pipeline.yaml")
    assert invoke(["compile", str(recipe), "--at-start", "-o", str(output), "--image", "i:1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["models:/net@champion"]
    document = next(yaml.safe_load_all(output.read_text()))
    images = {each["container"]["image"] for each in document["deploymentSpec"]["executors"].values()}
    assert images == {"i:1"}


def test_many_models_are_one_pipeline(recipe: Path) -> None:
    output = recipe.with_name("pipeline.yaml")
    models = ["--for-model", "models:/a@champion", "--for-model", "models:/b/2"]
    assert invoke(["compile", str(recipe), *models, "-o", str(output)]) == 0
    document = next(yaml.safe_load_all(output.read_text()))
    assert document["root"]["inputDefinitions"]["parameters"]["models"]["defaultValue"] == models[1::2]


def test_a_model_that_no_run_could_find_is_not_compiled(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = recipe.with_name("pipeline.yaml")
    assert invoke(["compile", str(recipe), "--for-model", "net", "-o", str(output)]) == 2
    assert "got 'net'. Do: write models:/" in capsys.readouterr().err
    assert not output.exists()


def test_a_training_function_is_looked_for_where_its_file_lies_here(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, output = recipe.with_name("training.py"), recipe.with_name("pipeline.yaml")
    training.write_text("def main():\n    return 'models:/net/1'\n")
    command = ["compile", str(recipe), "-o", str(output), "--train"]
    assert invoke([*command, f"{training}:mian"]) == 2
    assert "did you mean 'main'" in capsys.readouterr().err
    assert not output.exists()
    assert invoke([*command, f"{training}:main"]) == 0
    assert invoke([*command, "only_in_the_image.training:main"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "RECIPE", "--train", "m:f", "--for-model", "models:/a/1"],
        ["compile", "RECIPE", "--train", "training"],
        ["compile", "RECIPE", "--engine", "prefect"],
        ["run", "RECIPE", "--engine", "airflow"],
        ["run", "RECIPE", "--engine", "prefect", "--host", "http://kfp"],
        ["run", "RECIPE", "--engine", "kubeflow", "--again", "prune"],
        ["run", "RECIPE", "--engine", "kubeflow", "--cron", "0 0 3 * * *"],
        ["run", "RECIPE", "--engine", "kubeflow", "--host", "h", "--cron", "0 0 3 * * *", "--wait"],
        ["run", "RECIPE", "--image", "i:1"],
        ["run", "RECIPE", "--wait"],
    ],
)
def test_wrong_options_are_usage(recipe: Path, arguments: list[str]) -> None:
    assert invoke([str(recipe) if each == "RECIPE" else each for each in arguments]) == 4


def test_the_fleet_check_as_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, output = tmp_path / "policy.yaml", tmp_path / "fleet.yaml"
    policy.write_text("rules:\n  - {name: size, budget: {size_bytes: 1}}\n")
    assert invoke(["check", "--policy", str(policy), "--compile", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(output)}
    document = next(yaml.safe_load_all(output.read_text()))
    assert document["pipelineInfo"]["name"] == "lwplugin-fleet-check"
