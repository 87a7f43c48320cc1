from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from lwplugin.notify import Channel, Item
from lwplugin.serve import outbox, queue
from lwplugin.serve.database import notices
from lwplugin.serve.herald import Herald
from lwplugin.serve.intent import Intent

TEAM = Channel.model_validate({"name": "team", "slack": {"url_variable": "TEAM_URL"}})
OPS = Channel.model_validate({"name": "ops", "slack": {"url_variable": "OPS_URL"}, "events": "job_failed"})


def put(engine: Engine, count: int = 1, event: Any = "passed", items: int = 1) -> None:
    for number in range(count):
        with engine.begin() as connection:
            many = [Item(model="net", version=number + 1, text="passed")] * items
            outbox.put(connection, [TEAM, OPS], event, many)


def now_due(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(notices).values(not_before_s=0.0, lease_until_s=0.0))


def test_a_notice_waits_for_each_channel_that_wants_it(engine: Engine) -> None:
    put(engine, event="passed", items=50)
    put(engine, event="job_failed")
    assert outbox.counts(engine) == {("team", "waiting"): 2, ("ops", "waiting"): 1}
    letter = outbox.claim(engine, "team")
    assert letter is not None
    assert (len(letter.notice.items), letter.notice.more) == (20, 30)


def test_many_senders_share_notices_without_sending_one_twice(engine: Engine) -> None:
    put(engine, 30)
    taken: Counter[str] = Counter()

    def work() -> None:
        while letter := outbox.claim(engine, "team"):
            taken[letter.notice.id] += 1
            outbox.sent(engine, letter)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(taken), set(taken.values())) == (30, {1})
    assert outbox.counts(engine) == {("team", "sent"): 30}


def test_pauses_grow_until_a_notice_is_a_dead_letter_that_can_be_sent_again(engine: Engine) -> None:
    put(engine)
    pauses = []
    for _ in range(outbox.MOST_ATTEMPTS):
        letter = outbox.claim(engine, "team")
        assert letter is not None
        outbox.not_sent(engine, letter, "answered 500")
        (row,) = outbox.latest(engine, 5)
        pauses.append(row["not_before_s"] - row["created_s"])
        assert outbox.claim(engine, "team") is None
        now_due(engine)
    (row,) = outbox.latest(engine, 5)
    assert (row["state"], row["error"], "body" in row) == ("dead", "answered 500", False)
    assert [round(pause / 15) for pause in pauses[:4]] == [1, 2, 4, 8]
    assert max(pauses) < 3700
    outbox.forget(engine, 0)
    assert outbox.counts(engine) == {}
    put(engine)
    letter = outbox.claim(engine, "team")
    assert letter is not None
    assert outbox.not_sent(engine, letter, "answered 404", final=True) == "dead"
    assert outbox.again(engine) == 1
    assert outbox.claim(engine, "team") is not None


def test_a_sender_that_died_is_followed_by_another_and_can_write_nothing(engine: Engine) -> None:
    put(engine)
    first = outbox.claim(engine, "team")
    assert first is not None
    assert outbox.claim(engine, "team") is None
    now_due(engine)
    second = outbox.claim(engine, "team")
    assert second is not None
    assert (second.notice.id, second.attempt) == (first.notice.id, 2)
    outbox.not_sent(engine, first, "answered 404", final=True)
    outbox.sent(engine, second)
    assert outbox.counts(engine) == {("team", "sent"): 1}


def test_what_cannot_be_read_or_kills_its_senders_holds_up_no_other(engine: Engine) -> None:
    put(engine, 3)
    with engine.begin() as connection:
        first, second, third = connection.execute(
            select(notices.c.id).order_by(notices.c.created_s)
        ).scalars()
        by_id = update(notices).where
        connection.execute(by_id(notices.c.id == first).values(body='{"of": "another release"}'))
        killed = {"state": "sending", "attempts": outbox.MOST_ATTEMPTS, "lease_until_s": 0.0}
        connection.execute(by_id(notices.c.id == second).values(killed))
    letter = outbox.claim(engine, "team")
    assert letter is not None
    assert letter.notice.id == third
    errors = {row["id"]: row["error"] for row in outbox.latest(engine, 5) if row["state"] == "dead"}
    assert errors == {first: "written by another release", second: "its sender died 10 times"}


def test_the_end_of_a_job_and_its_notice_are_written_together(
    engine: Engine, intent: Callable[[int], Intent]
) -> None:
    herald = Herald(engine, [TEAM], mlflow="https://mlflow.example")
    queue.settle(engine, [], [(intent(n), "test") for n in range(1, 4)])
    for code in (0, 2):
        job = queue.claim(engine, "a", 60, herald.job_ended)
        assert job is not None
        queue.finish(engine, job, "a", code, "{}", herald.job_ended)
    # The second is tried again, so nobody is told yet; the third kills its workers.
    while queue.claim(engine, "a", -1, herald.job_ended):
        pass
    told = []
    while letter := outbox.claim(engine, "team"):
        told.append((letter.notice.event, letter.notice.items[0]))
    assert [(event, item.job) for event, item in told] == [("passed", 1), ("job_failed", 3)]
    assert told[0][1].link == "https://mlflow.example/#/models/net/versions/1"

    def fails(*_: object) -> None:
        raise OSError

    queue.again(engine, 3)
    job = queue.claim(engine, "a", 60)
    assert job is not None
    with pytest.raises(OSError):
        queue.finish(engine, job, "a", 0, "{}", fails)
    assert queue.job_counts(engine)["running"] == 1
