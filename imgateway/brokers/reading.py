"""What is read for the reactor: committed entries, positions, what a login must know. Runs in the reader's
thread.

What is not with its log yet is taken from the journal's runs: first the runs, then the database (see
`journal`).

Every question is one statement of one row, because each step of a statement gives the interpreter's lock away
(see `rows`) and because one statement sees one moment of the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imgateway.brokers.journal import Journal, Run
from imgateway.brokers.schema import Database
from imgateway.frames import (
    Batch,
    Entry,
    LogKey,
    Position,
    SessionKey,
    address_text,
    parse_address,
    user_address,
)

__all__ = ("Found", "FoundCursor", "FoundDevice", "Reader")

_FIRST = "SELECT key FROM entry WHERE key > log.id << 32 AND key < (log.id + 1) << 32 ORDER BY key"
HEAD = f"max(head, coalesce(({_FIRST} DESC LIMIT 1) & 4294967295, 0))"
FIRST = f"coalesce(({_FIRST} LIMIT 1) & 4294967295, 0)"

POSITION = f"SELECT epoch, {FIRST}, {HEAD}, id FROM log WHERE address = ? AND lane = ?"

MAILBOX = f"SELECT {FIRST}, {HEAD}, seen, id FROM log WHERE address = ? AND lane = 0"

READ = f"""
SELECT epoch, lost, {HEAD}, (
    SELECT json_group_array(json_array(seq, expires_ms, only_device, except_device, hex(message))) FROM (
        SELECT entry.key & 4294967295 AS seq, expires_ms, only_device, except_device,
            coalesce(body.message, entry.message) AS message,
            sum(entry.size + coalesce(length(entry.message), 0)) OVER (ORDER BY entry.key)
                - entry.size - coalesce(length(entry.message), 0) AS before
        FROM entry LEFT JOIN body ON body.id = entry.body
        WHERE entry.key > (log.id << 32 | ?3) AND entry.key < (log.id + 1) << 32 AND (expires_ms = 0 OR
        expires_ms > ?4) ORDER BY entry.key LIMIT ?5)
    WHERE before < ?6), id
FROM log WHERE address = ?1 AND lane = ?2
"""

LOGINS = f"""
SELECT json_group_array(json_array(place, not_before_s, platform, seen_ms, hex(record), json((
    SELECT json_group_array(json_array(address, lane, {FIRST}, {HEAD}, acked, json(parked), log.id))
    FROM cursor JOIN log ON log.id = cursor.log
    WHERE cursor.user = device.user AND cursor.device = device.device))))
FROM (
    SELECT key AS place, json_extract(value, '$[0]') AS who, json_extract(value, '$[1]') AS name
    FROM json_each(?))
LEFT JOIN revocation ON revocation.user = who
LEFT JOIN device ON device.user = who AND device.device = name
WHERE not_before_s IS NOT NULL OR seen_ms IS NOT NULL
"""

DEVICES = "SELECT json_group_array(json_array(device, platform, seen_ms)) FROM device WHERE user = ?"

_rows = msgspec.json.Decoder(list[tuple[int, int, str, str, str]])
_logins = msgspec.json.Decoder(
    list[
        tuple[
            int,
            int | None,
            str | None,
            int | None,
            str,
            list[tuple[str, int, int, int, int, tuple[int, ...], int]],
        ]
    ]
)
_devices = msgspec.json.Decoder(list[tuple[str, str, int]])


class FoundCursor(Struct, frozen=True, gc=False):
    """One cursor of a device, and what there is in its log."""

    log: LogKey
    first: int
    head: int
    acked: int
    parked: tuple[int, ...]


class FoundDevice(Struct, frozen=True, gc=False):
    device: str
    platform: str
    seen_ms: int


class Found(Struct, frozen=True):
    """What the disk knows of a login. `seen_ms` 0: not this device."""

    not_before_s: int
    platform: str
    seen_ms: int
    record: bytes
    cursors: tuple[FoundCursor, ...]


NOTHING_FOUND = Found(0, "", 0, b"", ())


class Reader:
    """One connection that reads what is committed."""

    def __init__(self, database: Database, journal: Journal, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._journal = journal
        self._now_ms = now_ms
        self._connection: sqlite3.Connection | None = None

    def drop(self) -> None:
        """Forget the connection; the next question opens another."""
        self._database.drop(self._connection)
        self._connection = None

    def position(self, log: LogKey) -> Position:
        """Epoch 0: the store's. A log without entries begins behind its head."""
        runs = self._journal.runs
        found = self._one(POSITION, (address_text(log.address), log.lane))
        if found is None:
            return Position(0, 1, 0)
        epoch, first, merged, id = found
        return Position(epoch, first or merged + 1, _head(merged, runs.get(id)))

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Batch:
        """See `IBroker.read`; epoch 0: the store's. At least one entry, and no entry beyond the one that
        reaches `max_bytes`."""
        after = max(after, 0)
        limit, max_bytes = max(limit, 1), max(max_bytes, 1)
        runs = self._journal.runs
        found = self._one(
            READ,
            (address_text(log.address), log.lane, min(after, 0xFFFFFFFF), self._now_ms(), limit, max_bytes),
        )
        if found is None:
            return Batch(0, after, after, (), False, 0)
        epoch, lost, merged, text, id = found
        run = runs.get(id)
        head = _head(merged, run)
        if after >= head:
            return Batch(epoch, after, after, (), False, head)
        entries = [
            Entry(seq, bytes.fromhex(message), only, other, expires_ms)
            for seq, expires_ms, only, other, message in _rows.decode(text)
        ]
        size = sum([len(entry.message) for entry in entries])
        for seq, message, _ in run.beyond(max(after, merged)) if run is not None else ():
            if len(entries) >= limit or size >= max_bytes:
                break
            entries.append(Entry(seq, message))
            size += len(message)
        whole = len(entries) < limit and size < max_bytes
        upto = head if whole else entries[-1].seq
        return Batch(epoch, after, upto, tuple(entries), after < lost, head)

    def logins(self, claimed: Sequence[SessionKey]) -> list[Found]:
        """All that logins need, in one statement for all of them: of most it has nothing to say."""
        found = [NOTHING_FOUND] * len(claimed)
        runs = self._journal.runs
        (text,) = self._one(LOGINS, (msgspec.json.encode(claimed).decode(),))
        for place, not_before_s, platform, seen_ms, record, rows in _logins.decode(text):
            cursors = [
                FoundCursor(
                    LogKey(parse_address(address), lane),
                    first or merged + 1,
                    _head(merged, runs.get(id)),
                    acked,
                    parked,
                )
                for address, lane, first, merged, acked, parked, id in rows
            ]
            log = LogKey(user_address(claimed[place].user))
            # A device's first cursor is not on disk if nothing was sent to the mailbox when it was entered.
            if seen_ms and all(cursor.log != log for cursor in cursors):
                _, first, head = self.position(log)
                cursors.append(FoundCursor(log, first, head, 0, ()))
            found[place] = Found(
                not_before_s or 0, platform or "", seen_ms or 0, bytes.fromhex(record), tuple(cursors)
            )
        return found

    def also(self, found: Found, logs: Collection[LogKey]) -> Found:
        """The same, with a cursor at its begin in each of these logs where the disk has none yet."""
        missing = set(logs).difference(cursor.log for cursor in found.cursors)
        more = [
            FoundCursor(log, first, head, 0, ()) for log in missing for _, first, head in [self.position(log)]
        ]
        return replace(found, cursors=(*found.cursors, *more))

    def mailbox(self, user: str) -> tuple[int, int, int]:
        """First and head of a mailbox, and the furthest that any device acknowledged in it, as far as that is
        on disk."""
        runs = self._journal.runs
        found = self._one(MAILBOX, (address_text(user_address(user)),))
        if found is None:
            return 1, 0, 0
        first, merged, seen, id = found
        return first or merged + 1, _head(merged, runs.get(id)), seen

    def devices(self, user: str) -> tuple[FoundDevice, ...]:
        """The devices that a user has, on disk."""
        (found,) = self._one(DEVICES, (user,))
        return tuple(FoundDevice(*device) for device in _devices.decode(found))

    def _one(self, question: str, values: tuple[object, ...]) -> Any:
        if self._connection is None:
            self._connection = self._database.open()
        return self._connection.execute(question, values).fetchone()


def _head(merged: int, run: Run | None) -> int:
    """The newest committed seq of a log whose entries reach up to `merged`."""
    return merged if run is None else max(merged, run.upto)
