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


class Facts(Struct, frozen=True):
    """What the reactor knows of the store.

    `epoch` is that of all logs but those in `epochs`. `starts` counts the processes that opened it.
    `digests`: (digest, seq, at_ms), oldest first. `renewed`: why the epoch is new, or ''.
    """

    epoch: int
    starts: int
    secret: bytes
    epochs: dict[LogKey, int]
    digests: list[tuple[bytes, int, int]]
    renewed: str


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
    except (sqlite3.Error, OSError) as problem:
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
    return Facts(epoch, starts, secret, epochs, digests, renewed)
