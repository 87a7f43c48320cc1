"""The main job through the command line, as a person or a CI job drives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lwplugin.artifact import Store
from lwplugin.cli import invoke
from lwplugin.registry import inventory, remeasure

RECIPE: dict[str, Any] = {
    "model": "models:/digits-cnn@champion",
    "data": {"source": "digits", "test_fraction": 0.4},
    "compress": [{"quantize": {"method": "int8", "calibrator": "minmax"}}],
    "targets": [{"name": "edge-cpu", "budget": {"size_bytes": 400_000}}],
    "gate": {"max_drop": {"accuracy": 0.1}, "no_faster": "allow"},
    "register": {"alias": "cli-{target}"},
}


class Session:
    """One person's folder; every command answers with exit code, stdout and stderr."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.store = folder / "store"

    def recipe(self, name: str = "recipe", **changes: Any) -> str:
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False), encoding="utf-8")
        return str(file)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = invoke(arguments)
        found = self.capsys.readouterr()
        return code, found.out, found.err

    def json(self, *arguments: str, expect: int = 0) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == expect, err
        return json.loads(out)


def made_anew(store: Path) -> set[str]:
    """Steps that a next run repeats: registering, and what follows from measuring where the machine was noisy."""
    measured = [json.loads(file.read_text())["noisy"] for file in store.rglob("output/comparison.json")]
    assert measured
    return {"register", "measure", "gate", "report"} if any(measured) else {"register"}


@pytest.fixture
def lwplugin(at_home: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Session:
    return Session(tmp_path, capsys)


@pytest.mark.slow
def test_from_a_recipe_to_a_promoted_version_and_back(lwplugin: Session) -> None:
    recipe = lwplugin.recipe()
    planned = lwplugin.json("plan", recipe)
    assert {step["state"] for step in planned["steps"]} == {"run"}
    assert lwplugin("run", recipe, "--dry-run")[0] == 0
    assert Store(lwplugin.store).keys() == []
    assert "The store has not all" in lwplugin("register", recipe)[2]
    assert "no report" in lwplugin("report", recipe)[2]

    code, out, err = lwplugin("run", recipe, "--report", str(lwplugin.folder / "reports"))
    assert code == 0, err
    assert "edge-cpu: PASS" in out
    assert "registered as models:/digits-cnn/" in out
    assert (lwplugin.folder / "reports" / "edge-cpu" / "report.html").is_file()

    again = lwplugin.json("run", recipe)
    fresh = made_anew(lwplugin.store)
    assert again["verdict"] == "pass"
    assert {step["status"] for step in again["steps"] if step["step"] not in fresh} == {"found"}
    target = again["targets"]["edge-cpu"]
    assert target["numbers"]["light"]["size_bytes"] < target["numbers"]["parent"]["size_bytes"] / 2
    registration = target["registration"]
    assert registration["created"] is False

    planned = lwplugin.json("plan", recipe)["steps"]
    assert {step["state"] for step in planned if step["step"] == "register"} == {"run"}
    assert {step["state"] for step in planned if step["step"] not in fresh} == {"found"}
    assert lwplugin.json("register", recipe)["uri"] == registration["uri"]
    assert Path(lwplugin.json("report", recipe)["edge-cpu"], "report.html").is_file()

    paths = {step["id"]: step["path"] for step in again["steps"]}
    assert lwplugin.json("show", paths["quantize"])["kind"] == "bundle"
    judged = lwplugin.json("gate", paths["measure-edge-cpu"], "--recipe", recipe)
    assert judged["status"] == "pass"
    baseline = ("--baseline", paths["export-parent-onnx"], "--recipe", recipe)
    measured = lwplugin.json("measure", paths["export-edge-cpu"], *baseline, "-o", str(lwplugin.folder / "m"))
    assert measured["candidate"]["metrics"]["accuracy"] == target["numbers"]["light"]["accuracy"]
    assert lwplugin.json("gate", str(lwplugin.folder / "m"), "--recipe", recipe)["status"] == "pass"

    (light,) = [version for version in inventory("digits-cnn") if version.uri == registration["uri"]]
    now = remeasure(light, max_seconds=2)
    assert now.why_not.startswith("noisy today") or now.surely is not None
    assert now.version.number("p95_ms") == pytest.approx(now.now["p95_ms"], rel=1e-6)
    assert now.version.number("size_bytes") == light.number("size_bytes")

    promote = ("promote", registration["uri"], "--alias", "prod", "--reason", "it is small")
    assert lwplugin.json(*promote)["version"] == registration["version"]
    first = (
        "promote",
        "models:/digits-cnn/1",
        "--alias",
        "prod",
        "--reason",
        "back to the parent",
        "--override",
        "no light version will do",
    )
    assert lwplugin.json(*first)["previous"] == registration["version"]
    assert lwplugin.json("rollback", "models:/digits-cnn@prod")["version"] == registration["version"]


@pytest.mark.slow
def test_a_target_over_its_budget_fails_alone_and_registers_only_against_its_verdict(
    lwplugin: Session,
) -> None:
    targets = [{"name": "tiny", "budget": {"size_bytes": 1000}}, {"name": "roomy", "batch": 2}]
    recipe = lwplugin.recipe(targets=targets, register={"alias": "two-{target}"})
    result = lwplugin.json("run", recipe, expect=1)
    assert result["verdict"] == "fail"
    assert {name: found["verdict"] for name, found in result["targets"].items()} == {
        "tiny": "fail",
        "roomy": "pass",
    }
    assert result["targets"]["tiny"]["registration"] is None
    assert "size_bytes" in result["targets"]["tiny"]["reason"]
    assert result["targets"]["roomy"]["registration"]["alias"] == "two-roomy"
    skipped = next(step for step in result["steps"] if step["id"] == "register-tiny")
    assert (skipped["status"], skipped["error"]) == ("skipped", "the verdict is fail")

    assert "several targets. Do: say --target tiny|roomy" in lwplugin("register", recipe)[2]
    code, _, err = lwplugin("register", recipe, "--target", "tiny")
    assert code == 2
    assert "verdict is 'fail'" in err
    made = lwplugin.json("register", recipe, "--target", "tiny", "--override", "a demonstration")
    assert made["tags"]["lwplugin.override"] == "a demonstration"


@pytest.mark.slow
def test_what_the_registry_does_not_have_is_said_with_the_nearest_name(lwplugin: Session) -> None:
    code, out, err = lwplugin("run", lwplugin.recipe(model="models:/digit-cnn@champion"))
    assert (code, out) == (2, "")
    assert "digits-cnn" in err
    code, _, err = lwplugin("plan", lwplugin.recipe(), "--model", "models:/digits-cnn@champian")
    assert code == 2
    assert "did you mean 'champion'" in err
    code, _, err = lwplugin("run", lwplugin.recipe(), "--again", "quantise")
    assert code == 4
    assert "did you mean 'quantize'" in err


@pytest.mark.slow
def test_without_a_register_block_nothing_reaches_the_registry(lwplugin: Session) -> None:
    recipe = lwplugin.recipe(register=None)
    result = lwplugin.json("run", recipe)
    assert result["targets"]["edge-cpu"]["registration"] is None
    assert all(step["step"] != "register" for step in result["steps"])
    assert "registers nothing" in lwplugin("register", recipe)[2]
