"""What the registry shows that somebody may want to be told, and which of it is new.

Versions, decisions and violations are facts under keys; what is known lies in the database. So nothing is told
twice, whichever replica saw it, and nothing is missed while no replica ran. A fact that was gone for ten minutes
and comes back is new again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from sqlalchemy import Connection, delete, select, update

from lwplugin.notify import Event, Item
from lwplugin.policy import Finding, Findings
from lwplugin.registry import Decision, Holdings, Listed
from lwplugin.serve.database import clock_s, insert
from lwplugin.serve.database import facts as table

_FIRST_LOOK = "first look"
_DAMPING_S = 600.0
_A_STATEMENT = 500
_DECIDED: dict[str, Event] = {"promoted": "promoted", "rolled back": "rolled_back"}


@dataclass(frozen=True)
class Fact:
    """``item`` is made only where the fact turns out to be new; None where it cannot be read."""

    event: Event
    item: Callable[[], Item | None]


def facts_of(held: Holdings, findings: Findings | None, *, mlflow: str = "") -> dict[str, Fact]:
    """By key. ``mlflow``: its address for links."""
    found: dict[str, Fact] = {}
    for version in held.versions:
        if version.light:
            key = _key("registered", version.name, version.version, version.created_ms)
            found[key] = Fact("registered", partial(_registered, version, mlflow))
    for model, texts in held.decisions.items():
        for text in texts:
            event = _event_of(text)
            if event is not None:
                found[_key("decided", model, text)] = Fact(event, partial(_decided, text, mlflow))
    for finding in findings.findings if findings is not None else ():
        if finding.status == "fail" and finding.waived is None:
            parts = (finding.model, finding.version, finding.rule, finding.check, finding.limit)
            violated = Fact("budget_violated", partial(_violated, finding, mlflow))
            found[_key("violated", *parts)] = violated
    return found


def new_facts(connection: Connection, shown: Mapping[str, Fact]) -> list[Fact]:
    """Those nobody had seen before this transaction; none at the very first look, which learns what is there."""
    now = clock_s(connection)
    known = {row.key: row.gone_s for row in connection.execute(select(table.c.key, table.c.gone_s))}
    first_look = _FIRST_LOOK not in known
    gone = known.keys() - shown.keys() - {_FIRST_LOOK}
    for keys in _chunks([key for key in gone if known[key] is None]):
        connection.execute(update(table).where(table.c.key.in_(keys)).values(gone_s=now))
    for keys in _chunks([key for key in gone if known[key] is not None]):
        forgotten = delete(table).where(table.c.key.in_(keys), table.c.gone_s < now - _DAMPING_S)
        connection.execute(forgotten)
    for keys in _chunks([key for key in shown if known.get(key) is not None]):
        connection.execute(update(table).where(table.c.key.in_(keys)).values(gone_s=None))
    added = [key for key in shown if key not in known] + ([_FIRST_LOOK] if first_look else [])
    mine: set[str] = set()
    for keys in _chunks(added):
        statement = insert(connection, table).values([{"key": key, "gone_s": None} for key in keys])
        mine.update(connection.execute(statement.on_conflict_do_nothing().returning(table.c.key)).scalars())
    return [] if first_look else [fact for key, fact in shown.items() if key in mine]


def link_to(mlflow: str, model: str, version: int) -> str | None:
    """A version's page.

    >>> link_to("https://mlflow.example", "a b", 3)
    'https://mlflow.example/#/models/a%20b/versions/3'
    """
    return f"{mlflow}/#/models/{quote(model, safe='')}/versions/{version}" if mlflow else None


def _registered(version: Listed, mlflow: str) -> Item:
    measured = [
        f"{name} {value:g}"
        for name in ("size_bytes", "p95_ms")
        if (value := version.number(name)) is not None
    ]
    parts = [f"for {version.target}", f"verdict {version.verdict}", *measured]
    return Item(
        model=version.name,
        version=version.version,
        text=f"registered {', '.join(parts)}",
        link=link_to(mlflow, version.name, version.version),
        target=version.target,
    )


def _decided(text: str, mlflow: str) -> Item | None:
    try:
        entry = Decision.model_validate_json(text)
        version = int(entry.version)
    except ValueError:
        return None
    over = f", against the verdict ({entry.override})" if entry.override else ""
    return Item(
        model=entry.model,
        version=version,
        text=f"{entry.alias}: {entry.previous or 'none'} → {entry.version} by {entry.who}: {entry.reason}{over}",
        link=link_to(mlflow, entry.model, version),
        alias=entry.alias,
        who=entry.who,
        reason=entry.reason,
    )


def _violated(finding: Finding, mlflow: str) -> Item:
    asked = f" Owner: {finding.owner}." if finding.owner else ""
    return Item(
        model=finding.model,
        version=finding.version,
        text=f"{finding.sentence} Rule '{finding.rule}'.{asked}",
        link=link_to(mlflow, finding.model, finding.version),
        rule=finding.rule,
        owner=finding.owner or None,
        target=finding.target,
        check=finding.check,
        value=finding.value,
        limit=finding.limit,
        severity=finding.severity,
    )


def _event_of(text: str) -> Event | None:
    try:
        return _DECIDED.get(json.loads(text)["action"])
    except (ValueError, KeyError, TypeError):
        return None


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _A_STATEMENT):
        yield keys[start : start + _A_STATEMENT]
