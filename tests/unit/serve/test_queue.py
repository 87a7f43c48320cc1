from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lwplugin.cli import invoke
from lwplugin.errors import LwpluginError
from lwplugin.serve import queue
from lwplugin.serve.database import open_database
from lwplugin.serve.intent import Intent
from lwplugin.serve.queue import Delivery

Make = Callable[[int], Intent]


def delivery(identity: str) -> Delivery:
    return Delivery(id=identity, event="model_version.created", model="net", reference="1")


def fill(engine: Engine, intent: Make, n: int) -> None:
    queue.settle(engine, [], [(intent(number), "test") for number in range(n)])


def test_a_delivery_is_taken_in_once_in_one_batch_and_over_several(engine: Engine) -> None:
    assert queue.take_in(engine, [delivery("a"), delivery("b"), delivery("a")]) == {"a", "b"}
    assert queue.take_in(engine, [delivery("b"), delivery("c")]) == {"c"}
    assert {found.id for found in queue.open_deliveries(engine)} == {"a", "b", "c"}
    queue.settle(engine, ["a", "b"], [])
    assert queue.backlog(engine) == 1
    assert queue.take_in(engine, [delivery("a")]) == set()
    queue.forget(engine, -1.0)
    assert [found.id for found in queue.open_deliveries(engine)] == ["c"]


def test_the_same_intent_makes_one_job_whoever_noticed_it(engine: Engine, intent: Make) -> None:
    assert len(queue.settle(engine, [], [(intent(1), "event"), (intent(1), "reconciler")])) == 1
    assert queue.settle(engine, [], [(intent(1), "event")]) == []


def test_many_workers_share_jobs_without_taking_one_twice(engine: Engine, intent: Make) -> None:
    fill(engine, intent, 60)
    taken: Counter[int] = Counter()

    def work(owner: str) -> None:
        while job := queue.claim(engine, owner, 60):
            taken[job.id] += 1
            queue.finish(engine, job, owner, 0, "{}")

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(taken), set(taken.values())) == (60, {1})
    assert queue.job_counts(engine) == {"pass": 60}


def test_a_dead_workers_job_is_taken_over_and_the_dead_one_can_write_nothing(
    engine: Engine, intent: Make
) -> None:
    fill(engine, intent, 1)
    first = queue.claim(engine, "a", 60)
    assert first is not None
    assert queue.claim(engine, "b", 60) is None
    assert queue.renew(engine, first, "a", -1)
    second = queue.claim(engine, "b", 60)
    assert second is not None
    assert second.attempts == 2
    assert not queue.renew(engine, first, "a", 60)
    assert queue.finish(engine, first, "a", 0, "{}") is None
    queue.give_back(engine, first, "a")
    assert queue.finish(engine, second, "b", 1, "{}") == "fail"


def test_a_job_that_kills_its_workers_is_given_up(engine: Engine, intent: Make) -> None:
    fill(engine, intent, 1)
    attempts = 0
    while queue.claim(engine, "a", -1):
        attempts += 1
    assert attempts == queue.MOST_ATTEMPTS
    assert queue.job_counts(engine) == {"error": 1}


def test_an_error_is_tried_again_later_and_a_verdict_is_final(engine: Engine, intent: Make) -> None:
    fill(engine, intent, 1)
    job = queue.claim(engine, "a", 60)
    assert job is not None
    assert queue.finish(engine, job, "a", 2, "{}") == "queued"
    assert queue.claim(engine, "a", 60) is None  # not yet
    (row,) = queue.latest_jobs(engine)
    assert row["not_before_s"] > row["started_s"]
    assert not queue.again(engine, row["id"])


def test_a_job_given_back_is_due_at_once_and_its_attempt_does_not_count(engine: Engine, intent: Make) -> None:
    fill(engine, intent, 1)
    job = queue.claim(engine, "a", 60)
    assert job is not None
    queue.give_back(engine, job, "a")
    retaken = queue.claim(engine, "b", 60)
    assert retaken is not None
    assert retaken.attempts == 1
    queue.finish(engine, retaken, "b", 1, "{}")
    assert queue.again(engine, retaken.id)
    assert queue.claim(engine, "b", 60) is not None


def test_the_command_line_queues_a_job_again_and_answers_with_json(
    intent: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"sqlite:///{tmp_path}/serve.db"
    monkeypatch.setenv("LWPLUGIN_DATABASE_URL", address)
    engine = open_database(address)
    fill(engine, intent, 1)
    job = queue.claim(engine, "a", 60)
    assert job is not None
    command = ["serve", "--retry", str(job.id), "--json"]
    assert invoke(command) == 2  # it still runs
    queue.finish(engine, job, "a", 1, "{}")
    capsys.readouterr()
    assert invoke(command) == 0
    assert json.loads(capsys.readouterr().out) == {"queued": job.id}
    assert queue.claim(engine, "b", 60) is not None


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "nonsense", "postgresql://u:hunter2@127.0.0.1:1/d"])
def test_a_database_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    with pytest.raises(LwpluginError) as error:
        open_database(url)
    assert "hunter2" not in str(error.value)
