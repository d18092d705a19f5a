"""What happens to the database before the first login: tables, epoch, the number of this start, the digests
to remember."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from msgspec import Struct

from imgateway.brokers.directory import Directory
from imgateway.brokers.journal import merge
from imgateway.brokers.schema import Database, fault_text
from imgateway.errors import StoreError
from imgateway.frames import LogKey, parse_address

__all__ = ("Facts", "new_epoch_number", "open_facts")


# A log has 2³² numbers: the lower half of its entries' keys. With so many used it is numbered anew.
HALF = 1 << 31
# ?1: its id; ?2: by so much all goes back.
RENUMBER = (
    "UPDATE entry SET key = key - ?2 WHERE key > ?1 << 32 AND key < (?1 + 1) << 32",
    "UPDATE trimmed SET key = key - ?2 WHERE key > ?1 << 32 AND key < (?1 + 1) << 32",
    "UPDATE cursor SET acked = max(acked - ?2, 0), parked = (SELECT json_group_array(value - ?2)"
    " FROM json_each(parked) WHERE value > ?2) WHERE log = ?1",
    "UPDATE log SET head = max(head - ?2, 0), lost = max(lost - ?2, 0), seen = max(seen - ?2, 0)"
    " WHERE id = ?1",
)


class Facts(Struct, frozen=True):
    """What the reactor knows of the store.

    `epoch` is that of all logs but those in `epochs`. `starts` counts the processes that opened it.
    `digests`: (digest, seq, at_ms), oldest first. `renewed`: why the epoch is new, or ''. `renumbered`:
    addresses of logs that were numbered anew.
    """

    epoch: int
    starts: int
    secret: bytes
    epochs: dict[LogKey, int]
    digests: list[tuple[bytes, int, int]]
    renewed: str
    renumbered: list[str]


def new_epoch_number(entropy: Callable[[int], bytes]) -> int:
    """48 random bits, never 0: it fits the integers of JSON."""
    return int.from_bytes(entropy(6), "big") or 1


def open_facts(
    database: Database,
    directory: Directory | None,
    entropy: Callable[[int], bytes],
    oldest_ms: int,
    max_digests: int,
) -> Facts:
    """Prepare the database and read what must be known.

    :param oldest_ms: digests from before count no longer.
    :raises StoreError: with the line that mends it.
    """
    connection: sqlite3.Connection | None = None
    try:
        if directory is not None:
            directory.make_private()
        connection = database.open()
        database.prepare(connection)
        return _facts(connection, directory, entropy, oldest_ms, max_digests)
    except StoreError:
        raise
    except Exception as problem:  # what no version wrote raises anything; in this thread nobody else hears it
        raise StoreError(fault_text(problem, database.path)) from None
    finally:
        database.drop(connection)


def _facts(
    connection: sqlite3.Connection,
    directory: Directory | None,
    entropy: Callable[[int], bytes],
    oldest_ms: int,
    max_digests: int,
) -> Facts:
    # Writing already here finds a disk that is full or read-only before anybody listens.
    connection.execute("BEGIN IMMEDIATE")
    merge(connection)
    known = dict(connection.execute("SELECT name, value FROM fact").fetchall())
    epoch, starts = known.get("epoch", 0), known.get("starts", 0) + 1
    secret = known.get("secret") or entropy(32)
    (number,) = connection.execute("SELECT at_ms FROM entry WHERE key = 0").fetchone()
    mark = directory.read_mark() if directory else None
    renewed = ""
    if mark is not None and epoch and (mark.epoch != epoch or mark.number > number):
        renewed = (
            f"the database is at commit {number} of epoch {epoch}, its mark at {mark.number} of {mark.epoch}"
        )
    if renewed or not epoch:
        epoch = new_epoch_number(entropy)
        connection.execute("UPDATE log SET epoch = 0")
    renumbered = _renumber(connection, entropy)
    connection.executemany(
        "INSERT OR REPLACE INTO fact VALUES (?, ?)",
        [("epoch", epoch), ("starts", starts), ("secret", secret)],
    )
    connection.execute("COMMIT")
    epochs = {
        LogKey(parse_address(address), lane): own
        for address, lane, own in connection.execute("SELECT address, lane, epoch FROM log WHERE epoch <> 0")
    }
    digests = connection.execute(
        "SELECT digest, key & 4294967295, at_ms FROM ("
        "SELECT digest, key, at_ms FROM entry WHERE at_ms >= ?1 AND key > 0 UNION ALL"
        " SELECT digest, key, at_ms FROM trimmed WHERE at_ms >= ?1) ORDER BY at_ms DESC LIMIT ?2",
        (oldest_ms, max_digests),
    ).fetchall()
    digests.reverse()
    return Facts(epoch, starts, secret, epochs, digests, renewed, renumbered)


def _renumber(connection: sqlite3.Connection, entropy: Callable[[int], bytes]) -> list[str]:
    """Before its numbers end, a log counts from 1 again, in an epoch of its own: its readers go on where the
    database knows them to be, and are told of a gap. Now, for nobody has it in memory yet.

    A log's `head` is behind its newest entry by no more than a log has entries.
    """
    renumbered = []
    for log, address, head in connection.execute(
        "SELECT id, address, head FROM log WHERE head >= ?", (HALF,)
    ).fetchall():
        (oldest,) = connection.execute(
            "SELECT min(key) FROM (SELECT min(key) AS key FROM entry WHERE key > ?1 AND key < ?2"
            " UNION ALL SELECT min(key) FROM trimmed WHERE key > ?1 AND key < ?2)",
            (log << 32, (log + 1) << 32),
        ).fetchone()
        by = head if oldest is None else (oldest & 0xFFFFFFFF) - 1
        if by >= HALF:  # else old numbers would meet new ones; it has as many left
            for statement in RENUMBER:
                connection.execute(statement, (log, by))
            connection.execute("UPDATE log SET epoch = ? WHERE id = ?", (new_epoch_number(entropy), log))
            renumbered.append(address)
    return renumbered
