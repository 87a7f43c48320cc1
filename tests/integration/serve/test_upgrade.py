"""The service's tables on PostgreSQL, from the first release's layout to today's, by replicas that start at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, inspect, text

from lwplugin.errors import LwpluginError
from lwplugin.serve.database import open_database, tables
from lwplugin.serve.schema import MIGRATIONS, prepare


def test_an_old_database_is_migrated_once_and_a_later_one_refused(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        engine, *_ = pool.map(open_database, [database] * 4)
    today = {name: inspect(engine).get_indexes(name) for name in tables.tables}
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE lwplugin_notices, lwplugin_facts, lwplugin_schema",
            "INSERT INTO lwplugin_deliveries VALUES ('d', 1, 'e', 'net', '1', NULL)",
        ):
            connection.execute(text(statement))
    ran: list[int] = []
    later = [*MIGRATIONS, lambda connection: ran.append(1)]
    with ThreadPoolExecutor(4) as pool:
        reached = list(
            pool.map(lambda _: prepare(create_engine(database), tables, migrations=later), range(4))
        )
    assert (ran, set(reached)) == ([1], {len(MIGRATIONS) + 2})
    assert {name: inspect(engine).get_indexes(name) for name in tables.tables} == today
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM lwplugin_deliveries")).scalar_one() == 1
    with pytest.raises(LwpluginError, match="belongs to a later release"):
        open_database(database)
    engine.dispose()
