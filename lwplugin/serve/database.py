"""The service's state: deliveries and jobs, in sqlite or PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from lwplugin.errors import LwpluginError
from lwplugin.serve.schema import prepare

tables = MetaData()

deliveries = Table(
    "lwplugin_deliveries",
    tables,
    Column("id", String(200), primary_key=True),
    Column("received_s", Float, nullable=False),
    Column("event", String(80), nullable=False),
    Column("model", String(256), nullable=False),
    Column("reference", String(256), nullable=False, doc="a version's number, or @alias"),
    Column("settled_s", Float),
    Index("lwplugin_deliveries_open", "settled_s", "received_s"),
)

jobs = Table(
    "lwplugin_jobs",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("rule", String(200), nullable=False),
    Column("model", String(256), nullable=False),
    Column("version", Integer, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("recipe_digest", String(64), nullable=False),
    Column("engine", String(40), nullable=False),
    Column("noticed", String(80), nullable=False, doc="by which event, or the reconciler"),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("created_s", Float, nullable=False),
    Column("not_before_s", Float, nullable=False, default=0.0),
    Column("started_s", Float),
    Column("finished_s", Float),
    Column("owner", String(120)),
    Column("lease_until_s", Float),
    Column("exit_code", Integer),
    Column("result", Text),
    Index("lwplugin_jobs_state", "state", "not_before_s"),
)

notices = Table(
    "lwplugin_notices",
    tables,
    Column("id", String(32), primary_key=True),
    Column("channel", String(80), nullable=False),
    Column("event", String(40), nullable=False),
    Column("about", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("created_s", Float, nullable=False),
    Column("not_before_s", Float, nullable=False, default=0.0),
    Column("lease_until_s", Float),
    Column("ended_s", Float),
    Column("error", Text),
    Index("lwplugin_notices_due", "channel", "state", "not_before_s"),
)

facts = Table(
    "lwplugin_facts",
    tables,
    Column("key", String(64), primary_key=True),
    Column("gone_s", Float, doc="since when the registry no longer shows it"),
)

_TRIES = 5


def open_database(url: str) -> Engine:
    """Connects, and creates or migrates the tables. Raises LwpluginError without the address's password."""
    try:
        address = make_url(url)
        if address.get_backend_name() not in ("sqlite", "postgresql"):
            raise LwpluginError(
                "The service keeps its state in sqlite or PostgreSQL",
                got=address.get_backend_name(),
                do="give sqlite:///path or postgresql://…",
            )
        if address.get_backend_name() == "sqlite" and address.database:
            Path(address.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, pool_pre_ping=True, connect_args=_patience(address))
    except (ArgumentError, ImportError) as error:
        raise LwpluginError(
            "The database's address cannot be used",
            got=type(error).__name__,
            do="give sqlite:///path or postgresql://…, the latter with pip install 'lwplugin[postgres]'",
        ) from None
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    for attempt in range(_TRIES):
        try:
            prepare(engine, tables)
            return engine
        except SQLAlchemyError as error:  # it is still starting
            if attempt == _TRIES - 1:
                raise LwpluginError(
                    "The service's database does not answer",
                    got=f"{_reason(error)} at {address.render_as_string(hide_password=True)}",
                    do="check that it runs and that the account may create tables",
                ) from None
            time.sleep(0.2 * 2**attempt)
    raise AssertionError


def _reason(error: SQLAlchemyError) -> str:
    """sqlite's own words, such as that a file cannot be written; a server's may hold what it was sent."""
    own = getattr(error, "orig", None)
    return str(own) if isinstance(own, sqlite3.Error) else type(error).__name__


def _patience(address: URL) -> dict[str, Any]:
    """A server that went away without a word is given up before leases end; the address may say otherwise."""
    if address.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    limits = {"connect_timeout": 10, "tcp_user_timeout": 15_000}
    return {name: limit for name, limit in limits.items() if name not in address.query}


def insert(connection: Connection, table: Table) -> Any:
    """An INSERT that knows `on_conflict_do_nothing`."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def clock_s(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock, so that replicas agree on what a lease is worth."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return time.time()


def _prepare_sqlite(engine: Engine) -> None:
    """A writer takes its lock when it begins, waits for others, and is on disk when it has committed."""

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
