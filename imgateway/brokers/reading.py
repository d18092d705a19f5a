"""What is read for the reactor: committed entries, positions, what a login must know. Runs in the reader's
thread.

Every question is one statement of one row, because each step of a statement gives the interpreter's lock away
(see `store`) and because one statement sees one moment of the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from msgspec import Struct

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

POSITION = f"SELECT epoch, {FIRST}, {HEAD} FROM log WHERE address = ? AND lane = ?"

MAILBOX = f"SELECT {FIRST}, {HEAD}, seen FROM log WHERE address = ? AND lane = 0"

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
    WHERE before < ?6)
FROM log WHERE address = ?1 AND lane = ?2
"""

LOGIN = f"""
SELECT (SELECT not_before_s FROM revocation WHERE user = ?1), platform, seen_ms, record, (
    SELECT json_group_array(json_array(address, lane, {FIRST}, {HEAD}, acked, json(parked)))
    FROM cursor JOIN log ON log.id = cursor.log WHERE cursor.user = ?1 AND cursor.device = ?2)
FROM (SELECT 1) LEFT JOIN device ON device.user = ?1 AND device.device = ?2
"""

DEVICES = "SELECT json_group_array(json_array(device, platform, seen_ms)) FROM device WHERE user = ?"

_rows = msgspec.json.Decoder(list[tuple[int, int, str, str, str]])
_cursors = msgspec.json.Decoder(list[tuple[str, int, int, int, int, tuple[int, ...]]])
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


class Reader:
    """One connection that reads what is committed."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._connection: sqlite3.Connection | None = None

    def drop(self) -> None:
        """Forget the connection; the next question opens another."""
        self._database.drop(self._connection)
        self._connection = None

    def position(self, log: LogKey) -> Position:
        """Epoch 0: the store's. A log without entries begins behind its head."""
        found = self._one(POSITION, (address_text(log.address), log.lane))
        if found is None:
            return Position(0, 1, 0)
        epoch, first, head = found
        return Position(epoch, first or head + 1, head)

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Batch:
        """See `IBroker.read`; epoch 0: the store's. At least one entry, and no entry beyond the one that
        reaches `max_bytes`."""
        after = max(after, 0)
        limit, max_bytes = max(limit, 1), max(max_bytes, 1)
        found = self._one(
            READ,
            (address_text(log.address), log.lane, min(after, 0xFFFFFFFF), self._now_ms(), limit, max_bytes),
        )
        if found is None:
            return Batch(0, after, after, (), False, 0)
        epoch, lost, head, text = found
        if after >= head:
            return Batch(epoch, after, after, (), False, head)
        entries = tuple(
            Entry(seq, bytes.fromhex(message), only, other, expires_ms)
            for seq, expires_ms, only, other, message in _rows.decode(text)
        )
        whole = len(entries) < limit and sum(len(entry.message) for entry in entries) < max_bytes
        upto = head if whole else entries[-1].seq
        return Batch(epoch, after, upto, entries, after < lost, head)

    def login(self, session: SessionKey, also: Collection[LogKey] = ()) -> Found:
        """All that a login needs, in one statement; and `also` logs in which the device's first cursor is not
        on disk yet, as in a mailbox that nothing was sent to when the device was entered."""
        not_before_s, platform, seen_ms, record, cursors = self._one(LOGIN, session)
        found = [
            FoundCursor(LogKey(parse_address(address), lane), first or head + 1, head, acked, parked)
            for address, lane, first, head, acked, parked in _cursors.decode(cursors)
        ]
        mailbox = {LogKey(user_address(session.user))} if seen_ms else set()
        for log in mailbox.union(also).difference(cursor.log for cursor in found):
            _, first, head = self.position(log)
            found.append(FoundCursor(log, first, head, 0, ()))
        return Found(not_before_s or 0, platform or "", seen_ms or 0, record or b"", tuple(found))

    def mailbox(self, user: str) -> tuple[int, int, int]:
        """First and head of a mailbox, and the furthest that any device acknowledged in it, as far as that is
        on disk."""
        first, head, seen = self._one(MAILBOX, (address_text(user_address(user)),)) or (1, 0, 0)
        return first or head + 1, head, seen

    def devices(self, user: str) -> tuple[FoundDevice, ...]:
        """The devices that a user has, on disk."""
        (found,) = self._one(DEVICES, (user,))
        return tuple(FoundDevice(*device) for device in _devices.decode(found))

    def _one(self, question: str, values: tuple[object, ...]) -> Any:
        if self._connection is None:
            self._connection = self._database.open()
        return self._connection.execute(question, values).fetchone()
