from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import lwplugin
from lwplugin.errors import RecipeError
from lwplugin.methods import families, methods, option_model
from lwplugin.recipe import Recipe, json_schema
from lwplugin.recipe_file import parse_recipe

GOOD = """\
model: models:/digits-cnn@champion
data: {source: digits}
compress:
  - quantize: {method: int8, calibrator: entropy}
targets:
  - {name: edge-cpu, budget: {size_bytes: 400_000, p95_ms: 5}}
gate: {max_drop: {accuracy: 0.01}}
"""


def changed(**blocks: Any) -> str:
    return yaml.safe_dump({**yaml.safe_load(GOOD), **blocks}, sort_keys=False)


def message(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="r.yaml")
    return str(caught.value)


def test_a_recipe_is_read_with_defaults_filled_in() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.task.name == "classification"
    assert recipe.targets[0].format == "onnx"
    assert recipe.targets[0].budget.limits() == {"p95_ms": 5.0, "size_bytes": 400_000.0}
    assert recipe.register_ is None
    assert (recipe.compress[0].family, recipe.compress[0].method) == ("quantize", "int8")


def test_load_recipe_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert lwplugin.load_recipe(file) == parse_recipe(GOOD)


@pytest.mark.parametrize(
    ("text", "line", "place", "hint"),
    [
        (GOOD.replace("model:", "modle:"), 1, "modle", "did you mean 'model'"),
        (
            GOOD.replace("method: int8", "methd: int8"),
            4,
            "compress[0].quantize.methd",
            "did you mean 'method'",
        ),
        (GOOD.replace("calibrator:", "calibrtor:"), 4, "compress[0].quantize.calibrtor", "'calibrator'"),
        (
            GOOD.replace("size_bytes", "size_byte"),
            6,
            "targets[0].budget.size_byte",
            "did you mean 'size_bytes'",
        ),
        (GOOD.replace("max_drop", "maxdrop"), 7, "gate.maxdrop", "did you mean 'max_drop'"),
        (GOOD.replace("{source: digits}", "{source: digits, sed: 1}"), 2, "data.sed", "did you mean 'seed'"),
        (GOOD.replace("int8", "int9"), 4, "compress[0].quantize.method", "did you mean 'int8'"),
        (GOOD.replace("- quantize", "- quantise"), 4, "compress[0]", "did you mean 'quantize'"),
        (GOOD.replace("source: digits", "source: digit"), 2, "data", "did you mean 'digits'"),
        (GOOD.replace("edge-cpu,", "edge-cpu, format: aotinductor,"), 6, "targets[0].format", "'openvino'"),
    ],
)
def test_a_misspelt_name_is_named_with_line_place_and_the_nearest_known_one(
    text: str, line: int, place: str, hint: str
) -> None:
    lines = [part for part in message(text).splitlines() if f"r.yaml:{line}: {place}: " in part]
    assert lines, message(text)
    assert hint in lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed(model="digits-cnn"), "models:/name@alias"),
        (changed(model=None), "r.yaml:1: model:"),
        (changed(compress=[]), "compress"),
        (changed(compress=[{"quantize": {}, "prune": {}}]), "one family"),
        (changed(compress=["quantize"]), "one family"),
        (changed(compress=[{"quantize": 8}]), "must be a mapping"),
        (changed(targets=[{"name": "a"}, {"name": "a"}]), "share the name"),
        (changed(targets=[{"name": "Edge CPU"}]), "targets[0].name"),
        (changed(targets=[{"name": "a", "format": "onxx"}]), "did you mean 'onnx'"),
        (changed(targets=[{"name": "a", "threads": 0}]), "targets[0].threads"),
        (changed(targets=[{"name": "a"}, {"name": "b"}], register={"alias": "light"}), "{target}"),
        (changed(register={"alias": "light-{engine}"}), "{target}"),
        (changed(register={"alias": "v{target}!"}), "MLflow allows"),
        (changed(register={"alias": "latest"}), "latest"),
        (changed(resources={"prun": {"count": 1}}), "'prun' is no step"),
        (changed(resources={"export": {"memory": "lots"}}), "resources.export.memory"),
        (changed(tracking_uri="http://me:secret@host"), "no password"),
        (changed(tracking_uri="${TRACKING}"), "not filled in"),
        (changed(model="models:/$NAME/1"), "not filled in"),
        (changed(seed=-1), "seed"),
        (changed(data={"source": 3}), "data"),
        (changed(data=[]), "data"),
        (changed(task="clasification"), "did you mean 'classification'"),
        (changed(gate={"max_drop": {"accuracy": 0}}), "gate.max_drop"),
        (changed(gate={"max_drop": {"accuracy": 0.1}, "max_drop_corrupted": 0.1}), "measure.corruptions"),
        (changed(targets=[{"name": "a", "format": "torch_export"}]), "after compress[0] (quantize: int8)"),
        (
            changed(targets=[{"name": "a", "format": "tensorrt", "device": "cuda"}], register={}),
            "leave `register` out",
        ),
        (changed(targets=[{"name": "a", "format": "tensorrt"}]), "write device 'cuda'"),
        (changed(gate={}), ": gate: has no threshold; give max_drop, must_reach or min_agreement"),
        (changed(gate={"must_reach": {"acuracy": 0.9}}), "gate.must_reach.acuracy: is no metric"),
        (
            changed(gate={"max_drop": {"acuracy": 0.1}}),
            "gate.max_drop.acuracy: is no metric of classification",
        ),
        (changed(gate={"max_drop": {"log_loss": 0.1}}), "known: accuracy"),
        (changed(task="regression", gate={"max_drop": {"rmse": 0.1}}), "known: mae, neg_mae"),
        (changed(gate={"max_drop": {"accuracy": 0.1}, "slices": ["labl"]}), "did you mean 'label'"),
        (
            changed(task="regression", gate={"max_drop": {"mae": 1}, "slices": ["label"]}),
            "slices; known: none",
        ),
        (GOOD + "seed: 1\nseed: 2\n", "written twice"),
        ("model: [", "line"),
        ("- just\n- a list\n", "holds no recipe"),
        ("", "holds no recipe"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text: str, expected: str) -> None:
    assert expected in message(text)


@pytest.mark.parametrize("password", ["secret", "a@secret"])
def test_a_refused_password_is_not_repeated(password: str) -> None:
    assert "secret" not in message(changed(tracking_uri=f"http://me:{password}@host"))


def test_what_a_function_of_the_users_own_may_bring_is_not_judged_beforehand() -> None:
    own = {"max_drop": {"f1_macro": 0.1}, "slices": ["country"]}
    assert parse_recipe(changed(data={"source": "m:f"}, gate=own)).gate.slices == ("country",)


def test_all_problems_are_told_at_once() -> None:
    text = message(GOOD.replace("size_bytes", "size_byte").replace("max_drop", "maxdrop"))
    assert "size_byte" in text
    assert "maxdrop" in text


@pytest.mark.parametrize("absent", [True, False])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, absent: bool) -> None:
    file = tmp_path / "recipe.yaml"
    if not absent:
        file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        lwplugin.load_recipe(file)


def test_the_digest_is_of_the_meaning() -> None:
    digest = parse_recipe(GOOD).digest
    assert parse_recipe("# a comment\n" + GOOD + "task: classification\nseed: 0\n").digest == digest
    written_out = changed(compress=[{"quantize": {"calibrator": "entropy", "skip": []}}])
    assert parse_recipe(written_out).digest == digest
    assert parse_recipe(changed(resources={"export": {"memory": "1Gi"}})).digest == digest
    assert parse_recipe(changed(model="models:/other/3")).digest == digest
    assert parse_recipe(changed(seed=1)).digest != digest
    assert parse_recipe(changed(compress=[{"quantize": {"calibrator": "mse"}}])).digest != digest


def test_an_option_that_a_release_adds_leaves_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(option_model("quantize", "int8")):  # type: ignore[misc]
        added: bool = True

    before = parse_recipe(GOOD).digest
    for module in ("recipe", "recipe_file"):
        monkeypatch.setattr(f"lwplugin.{module}.option_model", lambda family, method: Later)
    assert parse_recipe(GOOD).digest == before
    assert (
        parse_recipe(changed(compress=[{"quantize": {"calibrator": "entropy", "added": False}}])).digest
        != before
    )


def test_a_recipe_survives_its_own_document() -> None:
    recipe = parse_recipe(changed(register={"alias": "light-{target}"}, resources={"export": {"cpu": 2}}))
    assert Recipe.model_validate(recipe.document()).digest == recipe.digest
    json.dumps(recipe.document(), allow_nan=False)


def test_the_json_schema_holds_every_option_of_every_method() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert {"model", "data", "compress", "targets", "gate", "register"} <= set(schema["properties"])
    lines = {next(iter(line["properties"])): line for line in schema["$defs"]["Compress"]["anyOf"]}
    assert set(lines) == set(families())
    for family, line in lines.items():
        variants = line["properties"][family]["anyOf"]
        by_name = {variant["properties"]["method"]["const"]: variant for variant in variants}
        assert set(by_name) == set(methods(family))
        for name, method in methods(family).items():
            assert set(method.config.model_fields) <= set(by_name[name]["properties"])
            assert by_name[name]["additionalProperties"] is False
