"""The compiled pipeline of a recipe, kept. After a wanted change: LWPLUGIN_UPDATE_GOLDEN=1 pytest tests/golden"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lwplugin.components import kubeflow as components
from lwplugin.components import step_named
from lwplugin.pipelines.kubeflow.check import check_file, problems_of
from lwplugin.pipelines.kubeflow.compile import Deployment, cache_keys, compile_plan, plain
from lwplugin.pipelines.plan import Plan, make_plan

from lwplugin.errors import LwpluginError
from lwplugin.recipe import STEPS, Target, load_recipe
from lwplugin.registry import Resolved

HERE = Path(__file__).parent
RECIPE = load_recipe(HERE / "kubeflow.yaml")
PARENT = Resolved(name="digits-cnn", version="3", uri="models:/digits-cnn/3", source="models:/m-1")
GOLDEN = HERE / "kubeflow_pipeline.yaml"
# What changes with every new option of a method is no news about the pipeline.
_MASKED = {"options", "recipe", "recipe_digest", "policy", "budget", "target", "data"}
Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(RECIPE, PARENT)


@pytest.fixture(scope="module")
def compiled(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Documents:
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_plan(plan, Deployment("registry.example/lwplugin:cpu", RECIPE.resources), file)
    check_file(file)
    return list(yaml.safe_load_all(file.read_text()))


def masked(value: Any, name: str = "") -> Any:
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if name in _MASKED and "runtimeValue" in value:
        return "…"
    skipped = {"sdkVersion", "cacheKey", "description"}
    return {key: masked(item, key) for key, item in value.items() if key not in skipped}


def test_every_config_field_of_a_step_is_an_input_of_its_component() -> None:
    lacking = {
        name: set(step_named(name).config.model_fields) - set(getattr(components, name).component_spec.inputs)
        for name in STEPS
    }
    assert {name: fields for name, fields in lacking.items() if fields} == {
        "pull": {"version"}
    }  # it looks it up


def test_a_format_of_one_batch_size_can_be_compiled(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(
        update={"targets": (Target(name="phone", format="executorch", batch=4),), "register_": None}
    )
    compile_plan(make_plan(recipe, PARENT), Deployment(), tmp_path / "pipeline.yaml")
    tasks = steps([next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))])
    batches = [tasks[name]["inputs"]["parameters"]["batch"] for name in ("export", "export-2")]
    assert batches == 2 * [{"runtimeValue": {"constant": 4}}]


def test_the_pipeline_is_the_one_that_was_kept(compiled: Documents) -> None:
    text = yaml.safe_dump_all(masked(compiled), sort_keys=True, allow_unicode=True)
    if os.environ.get("LWPLUGIN_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def executor(documents: Documents, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    container = documents[0]["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return container, executors.get(f"exec-{name}", {})


def test_every_resource_of_the_recipe_reaches_its_task(compiled: Documents) -> None:
    container, pod = executor(compiled, "prune")
    assert container["image"] == "registry.example/lwplugin:gpu"
    assert container["resources"]["resourceMemoryLimit"] == "16Gi"
    assert container["resources"]["resourceCpuRequest"] == "4"
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "2"
    assert container["env"] == [{"name": "LWPLUGIN_STORE", "value": "/store"}]
    assert pod["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["activeDeadlineSeconds"] == "3600"
    assert pod["pvcMount"][0]["mountPath"] == "/store"
    assert pod["secretAsEnv"][0]["keyToEnv"][0] == {
        "envVar": "MLFLOW_TRACKING_PASSWORD",
        "secretKey": "password",
    }
    assert pod["imagePullSecret"][0]["secretName"] == "registry"
    other, other_pod = executor(compiled, "gate")
    assert other["image"] == "registry.example/lwplugin:cpu"
    assert "resources" not in other
    assert "nodeSelector" not in other_pod


def test_nothing_is_installed_when_a_task_starts(compiled: Documents) -> None:
    for each in compiled[0]["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(each["container"]["command"])


def steps(documents: Documents) -> dict[str, Any]:
    found: dict[str, Any] = documents[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return found


def test_targets_do_not_wait_for_each_other_and_only_a_pass_registers(compiled: Documents) -> None:
    tasks = steps(compiled)
    assert not {"measure", "gate", "report"} & set(tasks["measure-2"]["dependentTasks"])
    assert "register" not in tasks
    conditions = [task["triggerPolicy"]["condition"] for name, task in tasks.items() if "condition" in name]
    assert len(conditions) == 2
    assert all("== 'pass'" in condition for condition in conditions)


def test_retries_and_caches(compiled: Documents, plan: Plan) -> None:
    tasks = steps(compiled)
    assert tasks["prune"]["retryPolicy"]["maxRetryCount"] == 3
    assert tasks["gate"]["retryPolicy"]["maxRetryCount"] == 1
    keys = cache_keys(plan, Deployment("registry.example/lwplugin:cpu", RECIPE.resources))
    assert tasks["prune"]["cachingOptions"] == {"cacheKey": keys["prune"], "enableCache": True}
    assert {name for name, key in keys.items() if key is None} == {
        f"{step}-{target}"
        for step in ("measure", "gate", "report", "register")
        for target in ("edge-cpu", "server")
    }
    assert not tasks["measure"]["cachingOptions"].get("enableCache")
    other = cache_keys(plan, Deployment("registry.example/lwplugin:other"))
    assert other["pull"] != keys["pull"]


def test_at_start_needs_no_registry_and_leaves_the_alias_to_the_run(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    late = make_plan(RECIPE, Resolved.unknown(RECIPE.model))
    compile_plan(late, Deployment(at_start=True), file)
    document = next(yaml.safe_load_all(file.read_text()))
    model = document["root"]["inputDefinitions"]["parameters"]["model"]
    assert model["defaultValue"] == "models:/digits-cnn@champion"
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in steps([document]).values())


def drop_producer(pipeline: dict[str, Any]) -> None:
    del steps([pipeline])["prune"]


def rename_key(pipeline: dict[str, Any]) -> None:
    source = steps([pipeline])["quantize"]["inputs"]["artifacts"]["bundle"]["taskOutputArtifact"]
    source["outputArtifactKey"] = "lihgt"


def drop_executor(pipeline: dict[str, Any]) -> None:
    del pipeline["deploymentSpec"]["executors"]["exec-gate"]


def drop_component(pipeline: dict[str, Any]) -> None:
    del pipeline["components"]["comp-gate"]


def drop_input(pipeline: dict[str, Any]) -> None:
    del steps([pipeline])["measure"]["inputs"]["artifacts"]["parent"]


def misspell(pipeline: dict[str, Any]) -> None:
    steps([pipeline])["gate"]["retryPolcy"] = {}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_producer, "comes from task 'prune', which is not there"),
        (rename_key, "comes from 'prune.lihgt', which it does not make"),
        (drop_executor, "names executor 'exec-gate', which is not there"),
        (drop_component, "calls component 'comp-gate', which is not there"),
        (drop_input, "gives no 'parent'"),
        (misspell, "retryPolcy"),
    ],
)
def test_a_pipeline_with_a_hole_is_found_out(
    compiled: Documents, damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    pipeline = copy.deepcopy(compiled[0])
    damage(pipeline)
    assert any(said in problem for problem in problems_of(pipeline, compiled[1]))


def test_a_kubernetes_part_about_nobody_is_found_out(compiled: Documents) -> None:
    platform = copy.deepcopy(compiled[1])
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-pruen"] = {"pvcMuont": []}
    found = " ".join(problems_of(compiled[0], platform))
    assert "names executor 'exec-pruen'" in found
    assert "pvcMuont" in found


def test_what_kubeflow_cannot_carry_is_refused(plan: Plan, tmp_path: Path) -> None:
    assert plain({"a": None, "b": [1.0, None, 0.5]}) == {"b": [1, None, 0.5]}
    damaged = copy.deepcopy(plan)
    prune = next(step for step in damaged.steps if step.step == "prune")
    prune.config["options"]["collapse"] = None  # null is not its default
    with pytest.raises(LwpluginError, match="an option that Kubeflow cannot carry"):
        compile_plan(damaged, Deployment(), tmp_path / "pipeline.yaml")
