from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import Engine, update

from lwplugin.notify import Item
from lwplugin.policy import FleetPolicy, evaluate
from lwplugin.registry import Decision, Holdings, Listed
from lwplugin.serve.database import facts
from lwplugin.serve.facts import facts_of, new_facts

POLICY = FleetPolicy.model_validate(
    {
        "rules": [
            {"name": "edge", "budget": {"p95_ms": 2}, "bounds": "optional", "verdict": "any", "owner": "ana"}
        ]
    }
)


def light(version: int, p95_ms: str = "1.5") -> Listed:
    known = {"digest": "d", "target": "edge-cpu", "verdict": "pass", "size_bytes": "100", "p95_ms": p95_ms}
    return Listed(name="net", version=version, tags={f"lwplugin.{key}": v for key, v in known.items()})


def decision(number: int, action: Any = "promoted") -> str:
    return Decision(
        number=number,
        at="2026-11-24T12:00:00+00:00",
        who="ana",
        action=action,
        model="net",
        alias="champion",
        version="3",
        previous="2",
        reason="faster",
        verdict="pass",
        verdict_digest=None,
        before=None,
    ).model_dump_json()


def look(engine: Engine, *versions: Listed, log: tuple[str, ...] = ()) -> list[tuple[str, Item]]:
    held = Holdings(versions=versions, decisions={"net": list(log)})
    findings = evaluate(POLICY, versions, today=datetime.date(2026, 11, 24))
    with engine.begin() as connection:
        found = new_facts(connection, facts_of(held, findings))
    items = [(fact.event, fact.item()) for fact in found]
    assert all(item is not None for _, item in items)
    return items  # type: ignore[return-value]


def test_what_was_there_at_first_is_not_told_and_what_comes_is_told_once(engine: Engine) -> None:
    assert look(engine, light(1), light(2, "9"), log=(decision(1),)) == []
    log = (decision(1), decision(2), decision(3, "rolled back"), decision(4, "registered"), "{no json")
    found = look(engine, light(1), light(2, "9"), light(3, "2.5"), log=log)
    assert [event for event, _ in found] == ["registered", "promoted", "rolled_back", "budget_violated"]
    registered, promoted, _, violated = (item for _, item in found)
    assert registered.text == "registered for edge-cpu, verdict pass, size_bytes 100, p95_ms 2.5"
    assert promoted.text == "champion: 2 → 3 by ana: faster"
    assert (violated.owner, violated.check, violated.value, violated.limit) == (
        "ana",
        "budget:p95_ms",
        2.5,
        2,
    )
    assert "models:/net/1 meets this rule" in violated.text
    assert look(engine, light(1), light(2, "9"), light(3, "2.5"), log=log) == []


def test_an_empty_registry_is_a_first_look_too(engine: Engine) -> None:
    assert look(engine) == []
    assert [event for event, _ in look(engine, light(1))] == ["registered"]


def test_a_fact_that_flickers_is_told_once_and_one_that_comes_back_later_again(engine: Engine) -> None:
    look(engine)
    assert len(look(engine, light(1, "9"))) == 2
    look(engine, light(1))
    assert look(engine, light(1, "9")) == []
    look(engine, light(1))
    with engine.begin() as connection:
        long_ago = update(facts).where(facts.c.gone_s.is_not(None)).values(gone_s=1.0)
        connection.execute(long_ago)
    look(engine, light(1))
    assert [event for event, _ in look(engine, light(1, "9"))] == ["budget_violated"]


def test_of_two_replicas_that_look_at_once_one_tells(engine: Engine) -> None:
    look(engine)
    held = Holdings(versions=tuple(light(n) for n in range(1, 1200)), decisions={})
    shown = facts_of(held, None)
    told = 0
    for _ in range(2):
        with engine.begin() as connection:
            told += len(new_facts(connection, shown))
    assert told == 1199
