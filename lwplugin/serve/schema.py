"""Which layout the service's tables have: a number in the database, and the ordered steps from one to the next.

Layouts 1 and 2 were written without a number. A new layout is one more entry of ``MIGRATIONS``, in words of its own:
what `database.py` says today may change tomorrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    update,
)

from lwplugin.errors import LwpluginError
from lwplugin.log import log

Migration = Callable[[Connection], None]


def _notices(connection: Connection) -> None:
    """1 → 2: the outbox, and what of the registry is known."""
    for statement in (
        """CREATE TABLE lwplugin_notices (
            id VARCHAR(32) NOT NULL PRIMARY KEY, channel VARCHAR(80) NOT NULL, event VARCHAR(40) NOT NULL,
            about TEXT NOT NULL, body TEXT NOT NULL, state VARCHAR(20) NOT NULL, attempts INTEGER NOT NULL,
            created_s FLOAT NOT NULL, not_before_s FLOAT NOT NULL, lease_until_s FLOAT, ended_s FLOAT, error TEXT)""",
        "CREATE INDEX lwplugin_notices_due ON lwplugin_notices (channel, state, not_before_s)",
        "CREATE TABLE lwplugin_facts (key VARCHAR(64) NOT NULL PRIMARY KEY, gone_s FLOAT)",
    ):
        connection.exec_driver_sql(statement)


# The n-th leads from layout n to n + 1, in one transaction with the number.
MIGRATIONS: tuple[Migration, ...] = (_notices,)

_schema = Table(
    "lwplugin_schema", MetaData(), Column("version", Integer, primary_key=True, autoincrement=False)
)
_ADVISORY_LOCK = 0x6C77706C7567696E  # "lwplugin"


def prepare(engine: Engine, tables: MetaData, *, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Creates the tables or brings them to this release's layout, whose number it answers with.

    All or nothing, and one replica at a time. Raises LwpluginError where the tables are a later release's or nobody's.
    """
    known = len(migrations) + 1
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # sqlite's writers take turns by themselves
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        found = _version(connection, tables)
        if found is None:
            tables.create_all(connection)
            connection.execute(insert(_schema).values(version=known))
            return known
        if found > known:
            raise LwpluginError(
                "The service's database belongs to a later release of lwplugin",
                got=f"layout {found}, this release knows up to {known}",
                do="start that release, restore the copy made before its upgrade, or name another database",
            )
        for number in range(found, known):
            migrations[number - 1](connection)
            connection.execute(update(_schema).values(version=number + 1))
            log("database migrated", layout=number + 1)
        _check(connection, tables)
    return known


def _version(connection: Connection, tables: MetaData) -> int | None:
    """None for a database without tables of ours."""
    there = set(inspect(connection).get_table_names())
    fresh = there.isdisjoint(tables.tables)
    if _schema.name not in there:
        _schema.create(connection)
        if not fresh:
            connection.execute(insert(_schema).values(version=2 if "lwplugin_notices" in there else 1))
    return connection.execute(select(_schema.c.version)).scalar_one_or_none()


def _check(connection: Connection, tables: MetaData) -> None:
    """Tables of ours that are not as this release has them would fail later, in the middle of work."""
    seen = inspect(connection)
    there = set(seen.get_table_names())
    lacking = [name for name in tables.tables if name not in there]
    for table in tables.tables.values():
        if table.name in there:
            columns = {column["name"] for column in seen.get_columns(table.name)}
            lacking += [f"{table.name}.{column.name}" for column in table.c if column.name not in columns]
    if lacking:
        raise LwpluginError(
            "The service's database has tables of an unknown layout",
            got=f"no {', '.join(lacking)}",
            do="name another database: the reconciler finds again what the registry lacks",
        )
