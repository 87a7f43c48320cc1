"""Deliveries and jobs: taken in once, leased to one worker at a time, settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, func, or_, select, update

from lwplugin.serve.database import clock_s, deliveries, insert, jobs
from lwplugin.serve.intent import Intent

QUEUED, RUNNING, ERROR = "queued", "running", "error"
STATE_OF_EXIT = {0: "pass", 1: "fail", 3: "inconclusive"}
MOST_ATTEMPTS = 4
_BACK_OFF_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One event, reduced to what is looked up in the registry."""

    id: str
    event: str
    model: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker has leased."""

    id: int
    rule: str
    model: str
    version: int
    recipe: str
    engine: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that nobody will run again by itself."""

    id: int
    rule: str
    model: str
    version: int
    attempts: int
    state: str


# Called in the transaction that ends a job, so that what it writes is there exactly when the end is.
Tell = Callable[[Connection, Ended], None]


def nobody(connection: Connection, ended: Ended) -> None:
    """Tells nobody."""


def take_in(engine: Engine, batch: Sequence[Delivery]) -> set[str]:
    """Stores deliveries; answers with the ids that were not there yet. They are on disk when this returns."""
    with engine.begin() as connection:
        now = clock_s(connection)
        rows = {d.id: {**vars(d), "received_s": now} for d in batch}
        # The rows beside the statement, not in it: one that holds them is compiled anew for every batch.
        statement = insert(connection, deliveries).on_conflict_do_nothing().returning(deliveries.c.id)
        return set(connection.execute(statement, list(rows.values())).scalars())


def open_deliveries(engine: Engine, most: int = 500) -> list[Delivery]:
    """The oldest ones nobody has looked into."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(deliveries.c.id, deliveries.c.event, deliveries.c.model, deliveries.c.reference)
            .where(deliveries.c.settled_s.is_(None))
            .order_by(deliveries.c.received_s)
            .limit(most)
        )
        return [Delivery(**row._mapping) for row in rows]


def backlog(engine: Engine) -> int:
    """Deliveries nobody has looked into."""
    with engine.connect() as connection:
        return _count(connection, deliveries.c.settled_s.is_(None))


def settle(engine: Engine, ids: Sequence[str], found: Iterable[tuple[Intent, str]]) -> list[Intent]:
    """Queues what deliveries led to and marks them, in one transaction; answers with what was new."""
    with engine.begin() as connection:
        new = [intent for intent, noticed in found if _add(connection, intent, noticed)]
        marked = update(deliveries).where(deliveries.c.id.in_(ids))
        if ids:
            connection.execute(marked.values(settled_s=clock_s(connection)))
        return new


def forget(engine: Engine, older_than_s: float) -> None:
    """Settled deliveries that can no longer be replayed."""
    with engine.begin() as connection:
        limit = clock_s(connection) - older_than_s
        connection.execute(delete(deliveries).where(deliveries.c.settled_s < limit))


def known_keys(engine: Engine) -> set[str]:
    """Keys of all work there ever was."""
    with engine.connect() as connection:
        return set(connection.execute(select(jobs.c.key)).scalars())


def running_jobs(engine: Engine) -> set[int]:
    """Numbers of the jobs that some replica works at, or died at."""
    with engine.connect() as connection:
        return set(connection.execute(select(jobs.c.id).where(jobs.c.state == RUNNING)).scalars())


def claim(engine: Engine, owner: str, lease_s: float, tell: Tell = nobody) -> Job | None:
    """The oldest job that is due, now leased to ``owner``; of several that ask at once, one gets it.

    A job whose worker died is due again when its lease ends; after four attempts it is an error.
    """
    with engine.begin() as connection:
        now = clock_s(connection)
        dead = and_(jobs.c.state == RUNNING, jobs.c.lease_until_s < now)
        given_up = {"state": ERROR, "finished_s": now, "result": f"its worker died {MOST_ATTEMPTS} times"}
        lost = update(jobs).where(dead, jobs.c.attempts >= MOST_ATTEMPTS).values(given_up)
        columns = [jobs.c[name] for name in Ended.__dataclass_fields__]
        for ended in connection.execute(lost.returning(*columns)).all():
            tell(connection, Ended(**ended._mapping))
        due = or_(and_(jobs.c.state == QUEUED, jobs.c.not_before_s <= now), dead)
        oldest = select(jobs.c.id).where(due).order_by(jobs.c.id).limit(1).with_for_update(skip_locked=True)
        number = connection.execute(oldest).scalar()
        if number is None:
            return None
        lease = {"state": RUNNING, "owner": owner, "lease_until_s": now + lease_s, "started_s": now}
        columns = [jobs.c[name] for name in Job.__dataclass_fields__]
        claimed = update(jobs).where(jobs.c.id == number, due)
        row = connection.execute(
            claimed.values(attempts=jobs.c.attempts + 1, **lease).returning(*columns)
        ).one_or_none()
        return None if row is None else Job(**row._mapping)


def renew(engine: Engine, job: Job, owner: str, lease_s: float) -> bool:
    """False where the job is no longer this owner's: its work must stop."""
    with engine.begin() as connection:
        return _own(connection, job, owner, lease_until_s=clock_s(connection) + lease_s)


def finish(
    engine: Engine,
    job: Job,
    owner: str,
    exit_code: int,
    result: str,
    tell: Tell = nobody,
    *,
    judged: bool = True,
) -> str | None:
    """Writes down how the job ended; an error is tried again later, with growing pauses.

    ``judged``: did it tell of a verdict? An exit code alone says nothing of one: a program that breaks ends with 1 too.
    Answers with the state it is in now, None where it was no longer this owner's.
    """
    with engine.begin() as connection:
        now = clock_s(connection)
        state = STATE_OF_EXIT.get(exit_code, ERROR) if judged or exit_code == 0 else ERROR
        end: dict[str, Any] = {"state": state, "finished_s": now, "exit_code": exit_code, "result": result}
        if state == ERROR and job.attempts < MOST_ATTEMPTS:
            pause_s = _BACK_OFF_S * 4 ** (job.attempts - 1)
            end |= {"state": QUEUED, "finished_s": None, "not_before_s": now + pause_s}
        if not _own(connection, job, owner, **end):
            return None
        if end["state"] != QUEUED:
            known = {name: getattr(job, name) for name in ("id", "rule", "model", "version", "attempts")}
            tell(connection, Ended(**known, state=end["state"]))
        return str(end["state"])


def give_back(engine: Engine, job: Job, owner: str) -> None:
    """A worker that shuts down: somebody else goes on, and the attempt does not count."""
    with engine.begin() as connection:
        _own(connection, job, owner, state=QUEUED, attempts=job.attempts - 1)


def again(engine: Engine, number: int) -> bool:
    """Queues a job that has ended once more, because a person asks for it."""
    with engine.begin() as connection:
        ended = jobs.c.state.not_in([QUEUED, RUNNING])
        fresh = {"state": QUEUED, "attempts": 0, "not_before_s": 0.0, "finished_s": None, "exit_code": None}
        return connection.execute(update(jobs).where(jobs.c.id == number, ended).values(fresh)).rowcount == 1


def job_counts(engine: Engine) -> dict[str, int]:
    """State → number of jobs."""
    with engine.connect() as connection:
        rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
        return {str(state): int(count) for state, count in rows}


def latest_jobs(engine: Engine, most: int = 50) -> list[dict[str, Any]]:
    """What runs or waits first, then what ended last."""
    with engine.connect() as connection:
        active = jobs.c.state.in_([QUEUED, RUNNING])
        rows = connection.execute(select(jobs).order_by(active.desc(), jobs.c.id.desc()).limit(most))
        return [dict(row._mapping) for row in rows]


def _add(connection: Connection, intent: Intent, noticed: str) -> bool:
    row = {**vars(intent), "noticed": noticed, "state": QUEUED, "attempts": 0, "not_before_s": 0.0}
    statement = insert(connection, jobs).values({**row, "created_s": clock_s(connection)})
    return connection.execute(statement.on_conflict_do_nothing().returning(jobs.c.id)).scalar() is not None


def _own(connection: Connection, job: Job, owner: str, **values: Any) -> bool:
    mine = and_(
        jobs.c.id == job.id,
        jobs.c.owner == owner,
        jobs.c.state == RUNNING,
        jobs.c.attempts == job.attempts,
    )
    return connection.execute(update(jobs).where(mine).values(**values)).rowcount == 1


def _count(connection: Connection, condition: Any) -> int:
    return int(connection.execute(select(func.count()).where(condition)).scalar_one())
