from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lwplugin.components.step import Step, StepConfig
from lwplugin.pipelines.local import run_plan
from lwplugin.pipelines.plan import Plan, PlannedStep
from lwplugin.pipelines.result import RunResult
from lwplugin.pipelines.summary import summarise

from lwplugin.artifact import Store
from lwplugin.errors import LwpluginError, MethodError
from lwplugin.progress import Progress
from lwplugin.registry import Resolved


class Config(StepConfig):
    behave: str = "write"


def _run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    if config.behave == "raise":
        raise MethodError("it went wrong")
    if config.behave == "break":
        raise KeyError("a bug at http://ana:hunter2@host")
    if config.behave == "interrupt":
        raise KeyboardInterrupt
    (output / "verdict.json").write_text(json.dumps({"status": config.behave, "reason": "", "checks": []}))


def named(name: str) -> Step:
    return Step(name=name, config=Config, inputs=("a",), run=_run, summary="")


def plan_of(*steps: PlannedStep) -> Plan:
    parent = Resolved(name="net", version="1", uri="models:/net/1", source="s")
    return Plan("0" * 64, parent, None, ("x", "y"), steps)


def target(name: str, verdict: str = "pass", measure: str = "write") -> list[PlannedStep]:
    return [
        PlannedStep(f"measure-{name}", "measure", {"behave": measure}, {"a": "prune"}, name),
        PlannedStep(f"gate-{name}", "gate", {"behave": verdict}, {"a": f"measure-{name}"}, name),
        PlannedStep(f"register-{name}", "register", {}, {"a": f"gate-{name}"}, name, f"gate-{name}"),
    ]


def shared(behave: str = "write") -> list[PlannedStep]:
    return [
        PlannedStep("pull", "pull", {}, {}),
        PlannedStep("prune", "prune", {"behave": behave}, {"a": "pull"}),
    ]


def run(tmp_path: Path, *steps: PlannedStep, **options: Any) -> RunResult:
    return run_plan(plan_of(*steps), Store(tmp_path / "store"), steps=named, **options)


def statuses(result: RunResult) -> dict[str, str]:
    return {step.id: step.status for step in result.steps}


def test_everything_runs_once_and_is_found_the_second_time(tmp_path: Path) -> None:
    steps = [*shared(), *target("x"), *target("y")]
    first = run(tmp_path, *steps)
    assert first.verdicts == {"x": "pass", "y": "pass"}
    assert statuses(first)["prune"] == "made"
    second = run(tmp_path, *steps)
    assert set(statuses(second).values()) == {"found"}
    assert [step.digest for step in second.steps] == [step.digest for step in first.steps]


def test_an_error_in_one_target_leaves_the_other_alone(tmp_path: Path) -> None:
    result = run(tmp_path, *shared(), *target("x", measure="raise"), *target("y"))
    assert result.verdicts == {"x": "error", "y": "pass"}
    found = statuses(result)
    assert found["measure-x"] == "failed"
    assert found["gate-x"] == found["register-x"] == "skipped"
    assert found["register-y"] != "skipped"
    assert "it went wrong" in next(step.why for step in result.steps if step.id == "measure-x" and step.why)


def test_an_error_before_the_targets_is_an_error_of_all(tmp_path: Path) -> None:
    result = run(tmp_path, *shared("raise"), *target("x"), *target("y"))
    assert result.verdicts == {"x": "error", "y": "error"}


def test_what_failed_after_the_gate_is_told_and_not_that_the_gate_passed(tmp_path: Path) -> None:
    measure, gate, register = target("x")
    result = run(tmp_path, *shared(), measure, gate, replace(register, config={"behave": "raise"}))
    told = summarise(result, "x")
    assert (told["verdict"], told["reason"]) == ("error", "register-x: it went wrong.")


def test_nothing_is_trained_for_targets_that_cannot_be_judged(tmp_path: Path) -> None:
    pull, prune = shared()
    parent = PlannedStep("export-parent", "export", {"behave": "raise"}, {"a": "pull"})
    steps = [pull, parent, prune, *target("x")]
    judged = [replace(step, inputs={**step.inputs, "b": "export-parent"}) for step in steps[3:4]]
    result = run(tmp_path, pull, parent, prune, *judged, *steps[4:])
    assert list(statuses(result).values()) == ["made", "failed", *4 * ["skipped"]]
    assert [run.why for run in result.steps[2:4]] == [
        "no target can use it without export-parent",
        "prune has no result",
    ]
    other = run(tmp_path, pull, parent, prune, *judged, *steps[4:], *target("y"))
    assert other.verdicts == {"x": "error", "y": "error"}
    assert statuses(other)["prune"] == statuses(other)["gate-y"] == "made"


def test_what_a_step_would_be_in_vain_without(tmp_path: Path) -> None:
    pull, prune = shared()
    exports = [PlannedStep(f"export-{kind}", "export", {}, {"a": "pull"}) for kind in ("onnx", "tflite")]

    def plan(*kinds: str) -> Plan:
        steps = [pull, *exports, prune]
        for name, kind in zip("xy", kinds):
            light = PlannedStep(f"light-{name}", "export", {}, {"a": "prune"}, name)
            measure, *rest = target(name)
            measure = replace(measure, inputs={"a": f"light-{name}", "b": f"export-{kind}"})
            steps += [light, measure, *rest]
        return plan_of(*steps)

    awaited = plan("onnx").awaited()
    assert awaited["prune"] == ("export-onnx",)
    assert not any(awaited[step] for step in awaited if step != "prune")
    several = plan("onnx", "tflite").awaited()
    assert several["prune"] == ()  # each alone leaves a target to train for
    assert (several["light-x"], several["light-y"]) == (("export-onnx",), ("export-tflite",))


def test_a_bug_is_an_error_too_and_says_its_type(tmp_path: Path) -> None:
    result = run(tmp_path, *shared("break"), *target("x"))
    assert result.steps[1].why == "unexpected KeyError: 'a bug at http://host'"


@pytest.mark.parametrize("verdict", ["fail", "inconclusive", "error"])
def test_only_a_pass_registers(tmp_path: Path, verdict: str) -> None:
    result = run(tmp_path, *shared(), *target("x", verdict), *target("y"))
    assert result.verdicts == {"x": verdict, "y": "pass"}
    assert statuses(result)["register-x"] == "skipped"


def test_an_interrupt_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *shared("interrupt"), *target("x"))


def test_one_step_can_be_run_again(tmp_path: Path) -> None:
    steps = [*shared(), *target("x")]
    run(tmp_path, *steps)
    found = statuses(run(tmp_path, *steps, again=("prune",)))
    assert (found["pull"], found["prune"], found["gate-x"]) == ("found", "made", "found")


def test_the_caller_hears_of_every_step(tmp_path: Path) -> None:
    heard: list[str] = []
    run(
        tmp_path,
        *shared(),
        started=lambda step: heard.append(f"+{step.id}"),
        ended=lambda step: heard.append(f"-{step.id}"),
    )
    assert heard == ["+pull", "-pull", "+prune", "-prune"]


def test_the_runner_stays_a_plain_loop() -> None:
    import lwplugin.pipelines.local as module

    assert module.__file__ is not None
    assert len(Path(module.__file__).read_text().splitlines()) < 150
    assert issubclass(MethodError, LwpluginError)
