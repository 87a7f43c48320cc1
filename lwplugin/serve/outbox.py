"""Notices that wait for their channel: written with what they tell of, sent at least once, or kept as dead letters."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, and_, delete, func, or_, select, update

from lwplugin.notify import Channel, Event, Item, Notice
from lwplugin.notify.notice import MOST_ITEMS
from lwplugin.serve.database import clock_s, notices

WAITING, SENDING, SENT, DEAD = "waiting", "sending", "sent", "dead"
STATES = (WAITING, SENDING, SENT, DEAD)
MOST_ATTEMPTS = 10  # over about two hours
_LEASE_S = 120.0
_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 3600.0


@dataclass(frozen=True)
class Letter:
    """A notice that is being sent; ``attempt`` counts this one."""

    notice: Notice
    attempt: int


def put(connection: Connection, channels: Iterable[Channel], event: Event, items: Sequence[Item]) -> int:
    """One notice for each channel that wants any of the items; they are sent once the transaction has ended."""
    now = clock_s(connection)
    rows = []
    for channel in channels:
        wanted = channel.wants(event, items)
        if not wanted:
            continue
        notice = Notice(
            id=uuid.uuid4().hex,
            event=event,
            at=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            items=tuple(wanted[:MOST_ITEMS]),
            more=max(0, len(wanted) - MOST_ITEMS),
        )
        row = {"id": notice.id, "channel": channel.name, "event": event, "about": notice.about}
        rows.append({**row, "body": notice.model_dump_json(), "state": WAITING, "created_s": now})
    if rows:
        connection.execute(notices.insert(), rows)
    return len(rows)


def claim(engine: Engine, channel: str) -> Letter | None:
    """The channel's oldest notice that is due, held for two minutes; of several that ask, one gets it.

    One whose sender died ten times, or that this release cannot read, is a dead letter and holds up no other.
    """
    with engine.begin() as connection:
        now = clock_s(connection)
        left = and_(notices.c.state == SENDING, notices.c.lease_until_s < now)
        given_up = {"state": DEAD, "ended_s": now, "error": f"its sender died {MOST_ATTEMPTS} times"}
        mine = notices.c.channel == channel
        connection.execute(
            update(notices).where(mine, left, notices.c.attempts >= MOST_ATTEMPTS).values(given_up)
        )
        due = and_(
            notices.c.channel == channel,
            or_(and_(notices.c.state == WAITING, notices.c.not_before_s <= now), left),
        )
        oldest = select(notices.c.id).where(due).order_by(notices.c.created_s).limit(1)
        found = connection.execute(oldest.with_for_update(skip_locked=True)).scalar()
        if found is None:
            return None
        lease = {"state": SENDING, "lease_until_s": now + _LEASE_S, "attempts": notices.c.attempts + 1}
        claimed = update(notices).where(notices.c.id == found, due).values(lease)
        row = connection.execute(claimed.returning(notices.c.body, notices.c.attempts)).one_or_none()
        if row is None:
            return None
        try:
            return Letter(Notice.model_validate_json(row.body), row.attempts)
        except ValidationError:
            unread = {"state": DEAD, "ended_s": now, "error": "written by another release"}
            connection.execute(update(notices).where(notices.c.id == found).values(unread))
    return claim(engine, channel)


def sent(engine: Engine, letter: Letter) -> None:
    """It is with its receiver."""
    with engine.begin() as connection:
        _held(connection, letter, state=SENT, ended_s=clock_s(connection), error=None)


def not_sent(
    engine: Engine, letter: Letter, why: str, *, final: bool = False, retry_after_s: float | None = None
) -> str:
    """To be tried again after a pause that doubles each time, or dead; answers with the state."""
    with engine.begin() as connection:
        now = clock_s(connection)
        if final or letter.attempt >= MOST_ATTEMPTS:
            _held(connection, letter, state=DEAD, ended_s=now, error=why)
            return DEAD
        pause_s = max(_PAUSE_S * 2 ** (letter.attempt - 1), retry_after_s or 0.0)
        later = {"not_before_s": now + min(pause_s, _LONGEST_PAUSE_S)}
        _held(connection, letter, state=WAITING, error=why, **later)
        return WAITING


def again(engine: Engine) -> int:
    """Dead letters wait once more, because a person asks for it; answers with how many."""
    with engine.begin() as connection:
        fresh = {"state": WAITING, "attempts": 0, "not_before_s": 0.0, "ended_s": None}
        return int(connection.execute(update(notices).where(notices.c.state == DEAD).values(fresh)).rowcount)


def counts(engine: Engine) -> dict[tuple[str, str], int]:
    """(channel, state) → notices."""
    with engine.connect() as connection:
        grouped = select(notices.c.channel, notices.c.state, func.count())
        rows = connection.execute(grouped.group_by(notices.c.channel, notices.c.state))
        return {(str(channel), str(state)): int(count) for channel, state, count in rows}


def latest(engine: Engine, most: int) -> list[dict[str, Any]]:
    """What is dead first, then what waits, then what was sent last; without bodies."""
    with engine.connect() as connection:
        columns = [column for column in notices.c if column.name != "body"]
        first = [notices.c.state == DEAD, notices.c.state.in_([WAITING, SENDING]), notices.c.created_s]
        rows = connection.execute(select(*columns).order_by(*(key.desc() for key in first)).limit(most))
        return [dict(row._mapping) for row in rows]


def forget(engine: Engine, older_than_s: float) -> None:
    """Sent ones after this long, dead ones after four times as long."""
    with engine.begin() as connection:
        now = clock_s(connection)
        for state, factor in ((SENT, 1), (DEAD, 4)):
            old = notices.c.ended_s < now - factor * older_than_s
            connection.execute(delete(notices).where(notices.c.state == state, old))


def _held(connection: Connection, letter: Letter, **values: Any) -> None:
    """Nothing where its lease has ended and somebody else holds it."""
    mine = and_(
        notices.c.id == letter.notice.id,
        notices.c.state == SENDING,
        notices.c.attempts == letter.attempt,
    )
    connection.execute(update(notices).where(mine).values(**values))
