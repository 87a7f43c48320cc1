from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lwplugin.components import installed_steps, step_named
from lwplugin.components.code import code_digest
from lwplugin.components.step import Artifact, Step, StepConfig, execute, find

from lwplugin.artifact import Store
from lwplugin.errors import MethodError, RecipeError
from lwplugin.progress import Progress


class Config(StepConfig):
    text: str = "hello"
    where: str = "here"


def write(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    before = "".join((path / "out.txt").read_text() for _, path in sorted(inputs.items()))
    (output / "out.txt").write_text(before + config.text)


WRITE = Step(
    name="write",
    config=Config,
    inputs=("a",),
    run=write,
    summary="",
    outside_key=frozenset({"where"}),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, **options: Any) -> Any:
    return execute(WRITE, Config(**options), {}, store)


def test_the_second_time_is_a_hit_with_the_same_result(store: Store) -> None:
    first, second = made(store), made(store)
    assert (first.hit, second.hit) == (False, True)
    assert (first.path, first.digest, first.key) == (second.path, second.digest, second.key)
    assert (second.path / "out.txt").read_text() == "hello"


def test_find_runs_nothing(store: Store) -> None:
    assert find(WRITE, Config(), {}, store) is None
    done = made(store)
    assert find(WRITE, Config(), {}, store) == Artifact(done.path, done.digest)


def test_the_key_follows_config_inputs_context_and_code_and_nothing_else(tmp_path: Path) -> None:
    key = WRITE.key(Config(), {"a": "1"})
    assert WRITE.key(Config(where="there"), {"a": "1"}) == key
    others = [
        WRITE.key(Config(text="bye"), {"a": "1"}),
        WRITE.key(Config(), {"a": "2"}),
        replace(WRITE, name="gate").key(Config(), {"a": "1"}),
        replace(WRITE, context=lambda config: {"data": "x"}).key(Config(), {"a": "1"}),
        replace(WRITE, packages=("pydantic",)).key(Config(), {"a": "1"}),
    ]
    assert len({key, *others}) == 6


def test_inputs_reach_the_step_and_decide_its_key(store: Store) -> None:
    hello, bye = made(store), made(store, text="bye")
    after_hello = execute(WRITE, Config(text="!"), {"a": hello}, store)
    after_bye = execute(WRITE, Config(text="!"), {"a": bye}, store)
    assert (after_hello.path / "out.txt").read_text() == "hello!"
    assert (after_bye.path / "out.txt").read_text() == "bye!"
    # An engine hands over a directory, not a result of ours: the same content is the same key.
    assert execute(WRITE, Config(text="!"), {"a": Artifact.of(hello.path)}, store).key == after_hello.key


def test_a_failed_step_leaves_nothing_but_its_checkpoints(store: Store) -> None:
    seen: list[list[str]] = []

    def fail_once(
        config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
    ) -> None:
        seen.append(sorted(file.name for file in scratch.iterdir()))
        (output / "half.txt").write_text("half")
        (scratch / "checkpoint").write_text("1")
        if len(seen) == 1:
            raise MethodError("it went wrong")

    step = replace(WRITE, run=fail_once)
    with pytest.raises(MethodError):
        execute(step, Config(), {}, store)
    assert store.keys() == []
    done = execute(step, Config(), {}, store)
    assert seen == [[], ["checkpoint"]]
    assert not any((store.root / "work").iterdir())
    assert done.hit is False


def test_a_damaged_result_is_made_again(store: Store) -> None:
    done = made(store)
    (done.path / "out.txt").write_text("tampered")
    again = made(store)
    assert again.hit is False
    assert (again.path / "out.txt").read_text() == "hello"


def test_again_replaces_a_result(store: Store) -> None:
    clock = replace(WRITE, run=lambda c, i, output, scratch, progress: _time(output))
    first = execute(clock, Config(), {}, store)
    assert execute(clock, Config(), {}, store).digest == first.digest
    assert execute(clock, Config(), {}, store, again=True).digest != first.digest
    assert execute(clock, Config(), {}, store).digest != first.digest


def test_a_result_that_may_not_stand_is_replaced(store: Store) -> None:
    unusable = replace(
        WRITE, run=lambda c, i, output, scratch, progress: _time(output), reusable=lambda path: False
    )
    first = execute(unusable, Config(), {}, store)
    second = execute(unusable, Config(), {}, store)
    assert (first.hit, second.hit) == (False, False)
    assert first.digest != second.digest
    assert find(unusable, Config(), {}, store) is None
    last = find(unusable, Config(), {}, store, judge=False)
    assert last is not None
    assert last.digest == second.digest


def test_a_step_that_is_not_cached_runs_every_time(store: Store) -> None:
    asks = replace(WRITE, cached=False, run=lambda c, i, output, scratch, progress: _time(output))
    assert execute(asks, Config(), {}, store).digest != execute(asks, Config(), {}, store).digest
    assert find(asks, Config(), {}, store) is None


def _time(output: Path) -> None:
    (output / "time.txt").write_text(str(time.perf_counter_ns()))


def _slow(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    with (Path(config.text) / "runs").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    (output / "out.txt").write_text("slow")


def _run_slow(root: Path) -> None:
    execute(replace(WRITE, run=_slow), Config(text=str(root)), {}, Store(root / "store"))


def test_two_processes_do_the_same_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run_slow, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len((tmp_path / "runs").read_text().split()) == 1


def test_every_installed_step_says_what_it_is() -> None:
    for name in installed_steps():
        step = step_named(name)
        assert step.name == name
        assert step.summary
        assert len(code_digest(name)) == 64


def test_an_unknown_step_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'measure'"):
        step_named("mesure")


def test_the_code_of_one_family_is_no_matter_to_another() -> None:
    from lwplugin.components import code

    def reached(step: str) -> set[str]:
        rooms, waiting = {f"components.{step}"}, [f"components.{step}"]
        while waiting:
            _, imports = code._room(waiting.pop())
            waiting += imports - rooms
            rooms |= imports
        return rooms

    assert {"quantize", "model", "data", "components.family"} <= reached("quantize")
    assert not {"report", "cli"} & reached("quantize")
    assert "registry" in reached("register")
