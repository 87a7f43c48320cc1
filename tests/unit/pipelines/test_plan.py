from __future__ import annotations

import json
import time
from typing import Any

import yaml
from lwplugin.components import step_named
from lwplugin.pipelines.plan import Plan, PlannedStep, make_plan

from lwplugin.recipe import Recipe
from lwplugin.recipe_file import parse_recipe
from lwplugin.registry import Resolved

PARENT = Resolved(
    name="net", version="3", uri="models:/net/3", alias="champion", source="models:/m-1", tags={"a": "b"}
)
ONE = {"name": "edge-cpu", "budget": {"size_bytes": 400_000}}
TWO = {"name": "server", "threads": 2}


def recipe(**blocks: Any) -> Recipe:
    base: dict[str, Any] = {
        "model": "models:/net@champion",
        "data": {"source": "digits"},
        "seed": 7,
        "compress": [{"quantize": {}}],
        "targets": [ONE],
        "gate": {"max_drop": {"accuracy": 0.01}},
        "register": {"alias": "light-{target}"},
    }
    return parse_recipe(yaml.safe_dump({**base, **blocks}))


def steps_of(plan: Plan) -> dict[str, PlannedStep]:
    return {step.id: step for step in plan.steps}


def test_the_steps_of_one_target_in_their_order() -> None:
    assert [step.id for step in make_plan(recipe(), PARENT).steps] == [
        "pull",
        "export-parent-onnx",
        "quantize",
        "export-edge-cpu",
        "measure-edge-cpu",
        "gate-edge-cpu",
        "report-edge-cpu",
        "register-edge-cpu",
    ]


def test_every_input_is_made_before_it_is_used_and_is_one_the_step_has() -> None:
    plan = make_plan(recipe(targets=[ONE, TWO], compress=[{"quantize": {}}, {"quantize": {}}]), PARENT)
    before: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs.values()) <= before
        assert set(step.inputs) == set(step_named(step.step).inputs)
        step_named(step.step).config.model_validate(step.config)
        before.add(step.id)


def test_files_of_a_fixed_batch_are_made_for_the_target_s_own() -> None:
    phones = [
        {"name": f"phone-{batch}-{threads}", "format": "executorch", "batch": batch, "threads": threads}
        for batch, threads in ((1, 1), (1, 2), (8, 1))
    ]
    steps = steps_of(make_plan(recipe(targets=[ONE, *phones]), PARENT))
    assert [step for step in steps if step.startswith("export-parent")] == [
        "export-parent-onnx",
        "export-parent-executorch-1",
        "export-parent-executorch-8",
    ]
    assert "batch" not in steps["export-edge-cpu"].config
    assert steps["export-phone-8-1"].config["batch"] == 8
    assert steps["measure-phone-8-1"].inputs["baseline"] == "export-parent-executorch-8"


def test_int8_is_rounded_for_calibrated_ranges_where_all_targets_take_them() -> None:
    two = {"name": "two", "format": "openvino"}

    engine = {"name": "engine", "format": "tensorrt", "device": "cuda"}

    def ranges(targets: list[dict[str, Any]], **options: Any) -> Any:
        plan = make_plan(recipe(targets=targets, compress=[{"quantize": options}], register=None), PARENT)
        made = steps_of(plan)["quantize"].config["options"]
        return made["activations"], made["symmetric"]

    assert ranges([two]) == ("static", "auto")
    assert ranges([two, ONE]) == ("auto", "auto")
    assert ranges([two], activations="dynamic") == ("dynamic", "auto")
    assert ranges([engine]) == ("static", True)
    assert ranges([engine, two]) == ("static", "auto")
    assert ranges([engine], symmetric=False) == ("static", False)
    assert ranges([engine], activations="dynamic") == ("dynamic", "auto")


def test_targets_share_the_parents_export() -> None:
    steps = steps_of(make_plan(recipe(targets=[ONE, TWO]), PARENT))
    assert sum(step.id.startswith("export-parent") for step in steps.values()) == 1
    for target in ("edge-cpu", "server"):
        assert steps[f"measure-{target}"].inputs["baseline"] == "export-parent-onnx"
        assert steps[f"measure-{target}"].inputs["candidate"] == f"export-{target}"
    assert steps["measure-server"].config["threads"] == 2


def test_a_student_learns_from_the_registered_version_whatever_was_done_before() -> None:
    steps = steps_of(
        make_plan(recipe(compress=[{"prune": {"macs": 0.5}}, {"distill": {"epochs": 2}}]), PARENT)
    )
    assert steps["distill"].inputs == {"bundle": "prune", "teacher": "pull"}
    assert steps["export-edge-cpu"].inputs == {"bundle": "distill"}


def test_compression_is_a_chain_and_a_family_may_come_twice() -> None:
    steps = steps_of(make_plan(recipe(compress=[{"quantize": {}}, {"quantize": {"skip": ["a"]}}]), PARENT))
    assert steps["quantize"].inputs == {"bundle": "pull"}
    assert steps["quantize-2"].inputs == {"bundle": "quantize"}
    assert steps["export-edge-cpu"].inputs == {"bundle": "quantize-2"}


def test_registration_stands_behind_the_gate_and_carries_the_alias_of_its_target() -> None:
    register = steps_of(make_plan(recipe(), PARENT))["register-edge-cpu"]
    assert register.only_if_passed == "gate-edge-cpu"
    assert register.config["alias"] == "light-edge-cpu"
    assert register.config["recipe_digest"] == recipe().digest


def test_without_a_register_block_nothing_registers() -> None:
    plan = make_plan(parse_recipe(yaml.safe_dump(_without_register())), PARENT)
    assert all(step.step != "register" for step in plan.steps)


def _without_register() -> dict[str, Any]:
    document = recipe().document()
    del document["register"]
    return document


def test_options_are_written_out_so_that_a_default_written_down_changes_nothing() -> None:
    plain = steps_of(make_plan(recipe(), PARENT))["quantize"]
    spelled = recipe(compress=[{"quantize": {"method": "int8", "skip": []}}])
    written = steps_of(make_plan(spelled, PARENT))["quantize"]
    assert plain == written
    assert "calibrator" in plain.config["options"]


def test_an_alias_that_moves_onto_the_same_version_changes_no_key() -> None:
    other = PARENT.model_copy(update={"alias": "prod", "tags": {}})
    assert make_plan(recipe(), other).steps[0] == make_plan(recipe(), PARENT).steps[0]


def test_a_plan_survives_json() -> None:
    plan = make_plan(recipe(targets=[ONE, TWO]), PARENT, tracking_uri="sqlite:///x.db")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False))) == plan
    assert plan.steps[0].config["tracking_uri"] == "sqlite:///x.db"


def test_planning_takes_milliseconds() -> None:
    read = recipe(targets=[{"name": f"t{i}"} for i in range(20)])
    make_plan(read, PARENT)
    began = time.process_time()
    make_plan(read, PARENT)
    assert time.process_time() - began < 0.5
