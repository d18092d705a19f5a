"""How messages get into the tables.

The way decides the speed. Each step of an SQLite statement gives the interpreter's lock away, and beside a
busy reactor it takes up to a switch interval (5 ms) to get it back: 400 rows by `executemany` took 400 of
them (1,460 µs a row). So the messages of a commit are one statement: they are one blob, a JSON object says
where each begins, and the commit's number comes along.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from operator import itemgetter

from imgateway.brokers.appends import Append, Shared

__all__ = ("ENTER", "INSERT_PLAIN", "MERGE", "MOVE", "PLAIN_BYTES", "Row", "packed", "stamp", "write_special")

Row = tuple[int, bytes, bytes]
"""(key, what stands before the message, message)"""

# number: the commit's; at_ms: its time; places: key → value of each row; messages: a digest before each.
# value = offset << 24 | length: longer messages take the other way.
PLAIN_BYTES = 1 << 24
ENTER = "INSERT INTO journal (number, at_ms, places, messages) VALUES (?1, ?2, ?3, ?4)"

# The commit's number to row 0, behind the rows of an INSERT.
NUMBER = """UNION ALL SELECT 0, ?1, NULL, NULL WHERE true
ON CONFLICT (key) DO UPDATE SET at_ms = CASE excluded.key WHEN 0 THEN excluded.at_ms END
"""

# The same to the logs at once.
INSERT_PLAIN = f"""
INSERT INTO entry (key, at_ms, digest, message)
SELECT CAST(key AS INTEGER), ?2, substr(?4, (value >> 24) + 1, 8),
    substr(?4, (value >> 24) + 9, (value & 16777215) - 8)
FROM json_each(?3)
{NUMBER}"""
# What waited of some logs, with its own times: 13 digits before each digest.
MOVE = f"""
INSERT INTO entry (key, at_ms, digest, message)
SELECT CAST(key AS INTEGER), CAST(substr(?4, (value >> 24) + 1, 13) AS INTEGER),
    substr(?4, (value >> 24) + 14, 8), substr(?4, (value >> 24) + 22, (value & 16777215) - 21)
FROM json_each(?3)
{NUMBER}"""
# All that is in the journal to the logs, at a start or after trouble. Some of it may be there already; and
# some of that gone again: its log's `head` says so.
MERGE = """
INSERT INTO entry (key, at_ms, digest, message)
SELECT place, at_ms, substr(messages, (value >> 24) + 1, 8),
    substr(messages, (value >> 24) + 9, (value & 16777215) - 8)
FROM (SELECT CAST(key AS INTEGER) AS place, value, at_ms, messages FROM journal CROSS JOIN json_each(places))
JOIN log ON log.id = place >> 32 WHERE place & 4294967295 > head
UNION ALL SELECT 0, max(number), NULL, NULL FROM journal HAVING max(number) > 0
ORDER BY place
ON CONFLICT (key) DO UPDATE SET at_ms =
    CASE WHEN excluded.key = 0 THEN max(at_ms, excluded.at_ms) WHEN excluded.digest = digest THEN at_ms END
"""
# A conflict with anything else would be a seq used twice: NULL there breaks NOT NULL, and the statement.

INSERT_SPECIAL = """
INSERT INTO entry (key, at_ms, digest, expires_ms, only_device, except_device, body, size, message)
SELECT json_extract(value, '$[0]'), ?2, substr(?1, json_extract(value, '$[1]') + 1, 8),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]'), json_extract(value, '$[7]'),
    CASE json_extract(value, '$[6]') WHEN 0
        THEN substr(?1, json_extract(value, '$[1]') + 9, json_extract(value, '$[2]')) END
FROM json_each(?3)
"""
# Below this, a reference costs more than the copy.
SHARE_BYTES = 512


def stamp(at_ms: int) -> bytes:
    """A time, as `MOVE` reads it."""
    return b"%013d" % at_ms


def packed(rows: Sequence[Row], number: int, now_ms: int) -> tuple[tuple[int, int, str, bytes], int]:
    """The values of `ENTER`, `INSERT_PLAIN` and `MOVE` for these rows, in any order, and their bytes."""
    blobs: list[bytes] = []
    places: list[int] = []
    offset = 0
    for key, before, message in rows:
        size = len(before) + len(message)
        places.append(key)
        places.append(offset << 24 | size)
        offset += size
        blobs.append(before)
        blobs.append(message)
    # All numbers become text in one call: a tenth less than with one for each row.
    text = ",".join(['"%d":%d'] * len(rows)) % tuple(places)
    return (number, now_ms, "{" + text + "}", b"".join(blobs)), offset


def write_special(connection: sqlite3.Connection, rows: list[tuple[int, Append]], now_ms: int) -> None:
    """All others to their logs."""
    rows.sort(key=itemgetter(0))
    bodies: dict[int, int] = {}
    blobs: list[bytes] = []
    places: list[tuple[int, int, int, int, str, str, int, int]] = []
    offset = 0
    for key, append in rows:
        encoded, size = append.encoded, len(append.encoded)
        body = _body(connection, append.shared, encoded, bodies) if append.shared is not None else 0
        stored = 0 if body else size
        expires_ms = now_ms + append.ttl_ms if append.ttl_ms else 0
        places.append(
            (key, offset, size, expires_ms, append.only_device, append.except_device, body, size - stored)
        )
        blobs.append(append.digest)
        if not body:
            blobs.append(encoded)
        offset += 8 + stored
    connection.execute(INSERT_SPECIAL, (b"".join(blobs), now_ms, json.dumps(places)))


def _body(connection: sqlite3.Connection, shared: Shared, encoded: bytes, bodies: dict[int, int]) -> int:
    """The id under which a shared message stands in this commit; 0: not worth it."""
    if shared.refs < 2 or len(encoded) < SHARE_BYTES:
        return 0
    if id(shared) not in bodies:
        entered = connection.execute("INSERT INTO body (refs, message) VALUES (?, ?)", (shared.refs, encoded))
        bodies[id(shared)] = entered.lastrowid or 0
    return bodies[id(shared)]
