"""Messages on their way into the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from imgateway.brokers.journal import merge
from imgateway.brokers.rows import ENTER, INSERT_PLAIN, MOVE, Row, packed, stamp
from imgateway.brokers.schema import MEMORY, Database
from imgateway.frames import log_of, user_address
from imgateway.testing.disk import Rig, disk_error

BOB = user_address("bob")
LOGS = (1, 2, 77, 2**20, 2**31 - 1)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    database = Database(MEMORY)
    opened = database.open()
    database.prepare(opened)
    yield opened
    database.close()


def some_rows(seed: int, count: int) -> list[Row]:
    """Of a few logs, whose ids come in any order, and with keys up to the largest."""
    random = Random(seed)
    ids = random.sample(LOGS, 4)
    return [
        (ids[n % 4] << 32 | 2**32 - 1 - n // 4, random.randbytes(8), random.randbytes(n * 7))
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 30])
@pytest.mark.parametrize("way", ["at once", "by the journal", "moved"])
def test_rows_in_any_order(connection: sqlite3.Connection, count: int, way: str) -> None:
    rows = some_rows(5, count)
    for id in LOGS:
        connection.execute("INSERT INTO log (id, address, lane) VALUES (?, ?, 0)", (id, str(id)))
    if way == "moved":
        stamped = [(key, stamp(1_234) + digest, message) for key, digest, message in rows]
        connection.execute(MOVE, packed(stamped, 3, 0)[0])
    else:
        values, size = packed(rows, 3, 1_234)
        connection.execute(INSERT_PLAIN if way == "at once" else ENTER, values)
        assert size == sum(8 + len(message) for *_, message in rows)
    if way == "by the journal":
        merge(connection)
    found = connection.execute("SELECT key, at_ms, digest, message FROM entry ORDER BY key").fetchall()
    assert found == [
        (0, 3, None, None),
        *sorted((key, 1_234, digest, message) for key, digest, message in rows),
    ]


def test_who_is_told_hears_the_expiry_that_is_stored(tmp_path: Path) -> None:
    """Also of one that was told after a failure: the time is that of the try that succeeded."""
    rig = Rig(tmp_path / "data").start()
    log = log_of(BOB)
    rig.now(rig.broker.watch(log))
    assert rig.disk is not None
    rig.disk.fail(disk_error())
    rig.publish("user:bob", msg_id="1", ttl_s=60)
    rig.publish("user:bob", msg_id="2")
    rig.run()
    rig.disk.mend()
    rig.pass_time(3)
    told = [entry for *_, entries in rig.listener.named("arrived") for entry in entries]
    stored = rig.now(rig.broker.read(log, 0, 10, 1 << 20)).entries
    assert [entry.expires_ms > 0 for entry in told] == [True, False]
    assert tuple(told) == tuple(stored)
