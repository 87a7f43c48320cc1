from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lwplugin.components import step_named
from lwplugin.components.carried import carry_out, complete_config
from lwplugin.components.kubeflow_task import DIGEST, HIT, KEY, run_task
from lwplugin.components.step import Artifact
from lwplugin.components.train import train

from lwplugin.errors import LwpluginError, StoreError
from lwplugin.recipe import Compress

TRAINING = """
def fit(version=1):
    return f"models:/net/{version}"

def forgetful():
    return None
"""


def test_what_is_left_out_has_the_recipes_defaults() -> None:
    given = {"method": "", "options": {"macs": 0.5}, "data": {"source": "digits"}, "task": "classification"}
    found = complete_config(step_named("prune"), given).model_dump()
    line = Compress.model_validate({"prune": {"macs": 0.5}}).complete(0)
    assert (found["method"], found["options"]) == (line.method, line.options)


def test_numbers_that_json_made_integers_are_what_they_were() -> None:
    options: Any = complete_config(
        step_named("prune"),
        {"method": "taylor", "options": {"macs": 1}, "data": {"source": "digits"}, "task": {}},
    )
    assert isinstance(options.options["macs"], float)


@pytest.fixture
def comparison(tmp_path: Path) -> tuple[Path, Path]:
    """Inputs of a gate that will answer with an error: that needs no model."""
    export = tmp_path / "export"
    export.mkdir()
    (export / "cost.json").write_text(json.dumps({"macs": 1, "params": 1}))
    empty = tmp_path / "comparison"
    empty.mkdir()
    return empty, export


def artifact(path: Path, **metadata: Any) -> Any:
    return SimpleNamespace(path=str(path), metadata=metadata)


def test_an_input_that_was_changed_on_the_way_is_refused(
    comparison: tuple[Path, Path], tmp_path: Path
) -> None:
    empty, export = comparison
    digest = Artifact.of(export).digest
    (export / "cost.json").write_text("{}")
    inputs = {"comparison": (empty, None), "export": (export, digest)}
    with pytest.raises(StoreError, match="Input 'export' is not what its step made"):
        carry_out("gate", {"policy": {"max_drop": {"accuracy": 0.1}}}, inputs, tmp_path / "out")


def test_an_error_ends_the_task_with_its_sentence(comparison: tuple[Path, Path], tmp_path: Path) -> None:
    empty, export = comparison
    inputs = {"comparison": artifact(empty), "export": artifact(export, **{DIGEST: "0" * 64})}
    with pytest.raises(SystemExit, match="error: gate: Input 'export'"):
        run_task("gate", {"policy": {"max_drop": {"accuracy": 0.1}}}, inputs, artifact(tmp_path / "out"))


def test_a_result_made_once_is_found_in_the_shared_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lwplugin.components.carried as carried
    from lwplugin.components.step import Step, StepConfig

    def write(config: Any, inputs: Any, output: Path, **rest: Any) -> None:
        (output / "out.txt").write_text("made")

    step = Step("gate", StepConfig, (), write, summary="")
    monkeypatch.setattr(carried, "step_named", lambda name: step)
    monkeypatch.setenv("LWPLUGIN_STORE", str(tmp_path / "store"))
    outputs = [artifact(tmp_path / name) for name in ("first", "second")]
    for output in outputs:
        run_task("gate", {}, {}, output)
    assert [output.metadata[HIT] for output in outputs] == [False, True]
    assert outputs[0].metadata[KEY] == outputs[1].metadata[KEY]
    assert (tmp_path / "second" / "out.txt").read_text() == "made"


def test_a_training_function_says_what_it_registered(tmp_path: Path) -> None:
    file = tmp_path / "training.py"
    file.write_text(TRAINING)
    assert train(f"{file}:fit", {"version": 7}) == "models:/net/7"
    with pytest.raises(LwpluginError, match="must say which version it registered"):
        train(f"{file}:forgetful", {})
