from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from lwplugin.errors import LwpluginError
from lwplugin.serve.database import open_database, tables
from lwplugin.serve.schema import MIGRATIONS, prepare

KNOWN = len(MIGRATIONS) + 1


def number(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT version FROM lwplugin_schema")).scalar_one()


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def layout(engine: Engine) -> dict[str, Any]:
    """Table → its columns with type and nullability, and its indexes."""
    seen = inspect(engine)
    return {
        table: (
            [
                (c["name"], str(c["type"]), c["nullable"], bool(c["primary_key"]))
                for c in seen.get_columns(table)
            ],
            [(index["name"], index["column_names"]) for index in seen.get_indexes(table)],
        )
        for table in seen.get_table_names()
    }


def test_every_layout_there_was_becomes_todays(engine: Engine, tmp_path: Path) -> None:
    assert number(engine) == KNOWN
    execute(
        engine,
        "INSERT INTO lwplugin_deliveries VALUES ('d', 1, 'e', 'net', '1', NULL)",
        "DROP TABLE lwplugin_notices",
        "DROP TABLE lwplugin_facts",
        "DROP TABLE lwplugin_schema",  # as the first release left it
    )
    old = open_database(str(engine.url))
    assert number(old) == KNOWN
    assert layout(old) == layout(open_database(f"sqlite:///{tmp_path}/fresh.db"))
    with old.connect() as connection:
        assert connection.execute(text("SELECT model FROM lwplugin_deliveries")).scalar_one() == "net"
    execute(old, "DROP TABLE lwplugin_schema")  # the second one
    assert number(open_database(str(engine.url))) == KNOWN


def test_migrations_run_in_order_and_once_however_many_replicas_start(engine: Engine) -> None:
    ran: list[str] = []
    later = [*MIGRATIONS, lambda connection: ran.append("a"), lambda connection: ran.append("b")]
    with ThreadPoolExecutor(4) as pool:
        reached = list(pool.map(lambda _: prepare(engine, tables, migrations=later), range(4)))
    assert (ran, set(reached), number(engine)) == (["a", "b"], {KNOWN + 2}, KNOWN + 2)


def test_a_migration_that_breaks_leaves_everything_as_it_was(engine: Engine) -> None:
    def breaks(connection: Any) -> None:
        connection.execute(text("DROP TABLE lwplugin_facts"))
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        prepare(engine, tables, migrations=[*MIGRATIONS, breaks])
    assert number(engine) == KNOWN
    assert "lwplugin_facts" in inspect(engine).get_table_names()


def test_tables_of_a_later_release_or_of_nobody_are_refused(engine: Engine) -> None:
    execute(engine, "ALTER TABLE lwplugin_jobs DROP COLUMN owner")
    with pytest.raises(LwpluginError, match=r"unknown layout: got no lwplugin_jobs\.owner"):
        open_database(str(engine.url))
    execute(engine, "UPDATE lwplugin_schema SET version = 99")
    with pytest.raises(
        LwpluginError, match=f"later release.*got layout 99, this release knows up to {KNOWN}"
    ):
        open_database(str(engine.url))
