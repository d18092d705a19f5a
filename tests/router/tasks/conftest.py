"""The SQL servers, started when the first test wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.router.tasks.sql_servers import MariaDB, Postgres, SqlServer, served


@pytest.fixture(scope="session")
def postgres() -> Iterator[SqlServer]:
    yield from served(Postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[SqlServer]:
    yield from served(MariaDB)
