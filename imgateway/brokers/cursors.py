"""What the writer does for sessions: devices, their cursors and records, revocations. Run inside a commit's
transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from imgateway.brokers.records import SAVE_RECORD
from imgateway.brokers.store import Store
from imgateway.brokers.tails import Seat, Tail
from imgateway.frames import LogKey, SessionKey, Start, address_text, user_address

__all__ = (
    "Newcomer",
    "Registered",
    "Saved",
    "follow",
    "forget_device",
    "new_epoch",
    "raise_seen",
    "register_all",
    "revoke",
    "save",
    "unfollow",
)


ENTER_DEVICE = "INSERT INTO device (user, device, platform, seen_ms) VALUES (?, ?, ?, ?)"
# One statement for all of them: each step of one that enters them one by one may cost a switch of threads
# (see `rows`). Beside a busy reactor on another core 16 took up to 84 ms so, and take 5 in one statement.
ENTER_DEVICES = """
INSERT INTO device (user, device, platform, seen_ms)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), ?
FROM json_each(?)
"""


class Saved(Struct, frozen=True, gc=False):
    """What is to be written of one session: cursors as (log, acked, parked); and the furthest that any device
    of the user acknowledged lately, which a cursor alone does not say: it may have begun where it stands."""

    session: SessionKey
    platform: str
    seen_ms: int
    cursors: tuple[tuple[LogKey, int, tuple[int, ...]], ...]
    seen: int


class Newcomer(Struct, frozen=True, gc=False):
    """A device that its user's mailbox does not know, or one that came back while it was forgotten: its seat
    says where it stands. `furthest`: what any of the user's devices acknowledged lately, on the disk or
    not."""

    session: SessionKey
    start: Start
    tail: Tail
    seat: Seat
    furthest: int


Registered = tuple[int, int, int, tuple[str, ...]]
"""Acked, first, head, and the devices that were forgotten."""


def register(
    connection: sqlite3.Connection, store: Store, newcomer: Newcomer, now_ms: int, max_devices: int
) -> Registered:
    """Enter a device, and say where it begins.

    If nothing was ever sent to that mailbox, the device itself is all that is entered: who has no cursor in
    it is at its begin. A device that was entered meanwhile keeps its cursor.

    Who is online by now is never forgotten to make place.
    """
    session, seat = newcomer.session, newcomer.seat
    user, device = session
    mailbox = LogKey(user_address(user))
    book = store.find(connection, mailbox)
    log = None if book is None else book.id
    first, head = store.position(connection, mailbox)
    found = connection.execute(
        "SELECT coalesce(acked, 0) FROM device LEFT JOIN cursor"
        " ON cursor.log = ? AND cursor.user = device.user AND cursor.device = device.device"
        " WHERE device.user = ? AND device.device = ?",
        (log, user, device),
    ).fetchone()
    if found is not None:
        return min(found[0], head), first, head, ()
    others = connection.execute(
        "SELECT device FROM device WHERE user = ? AND device <> ? ORDER BY seen_ms", (user, device)
    ).fetchall()
    surplus = max(0, len(others) + 1 - max_devices)
    keep = {other.device for other in newcomer.tail.seats if other.online}
    forgotten = tuple([other for (other,) in others if other not in keep][:surplus])
    for other in forgotten:
        forget_device(connection, SessionKey(user, other))
    connection.execute(ENTER_DEVICE, (user, device, seat.platform, now_ms))
    if seat.registered:
        # All that it has, in the commit that has the device: no end of the process comes in between.
        owed = seat.owed
        places = [(one, *place) for one, place in owed.others.items()]
        places.append((mailbox, seat.acked, owed.parked))
        save(connection, [Saved(session, seat.platform, now_ms, tuple(places), 0)])
        connection.execute(SAVE_RECORD, (owed.record, *session))
        return seat.acked, first, head, forgotten
    if log is None:
        return 0, first, head, forgotten
    (seen,) = connection.execute("SELECT seen FROM log WHERE id = ?", (log,)).fetchone()
    acked = {
        Start.UNSEEN: min(max(seen, newcomer.furthest), head),
        Start.HEAD: head,
        Start.OLDEST: first - 1,
    }[newcomer.start]
    connection.execute(
        "INSERT INTO cursor (log, user, device, acked) VALUES (?, ?, ?, ?)", (log, user, device, acked)
    )
    return acked, first, head, forgotten


# By their place in the question: users who have a device, or to whom somebody wrote.
NOT_NEW = """
SELECT json_group_array(key) FROM (
    SELECT key FROM json_each(?) WHERE EXISTS (SELECT 1 FROM device WHERE user = value)
    UNION SELECT key FROM json_each(?) WHERE EXISTS (SELECT 1 FROM log WHERE address = value AND lane = 0))
"""


def _json(values: Sequence[object]) -> str:
    return msgspec.json.encode(values).decode()


def register_all(
    connection: sqlite3.Connection,
    store: Store,
    newcomers: Sequence[Newcomer],
    now_ms: int,
    max_devices: int,
) -> list[Registered | None]:
    """`register` for each. The first devices of users to whom nothing was ever sent, as come in crowds, are
    entered by two statements for all of them.

    None: it is new, and nobody waits for it any more, so that it is not entered and makes others no trouble.
    """
    # Looked at once: the other thread may change it in between.
    awaited = [one.seat.online or one.seat.registered for one in newcomers]
    crowd = {one.session.user: one for one, counts in zip(newcomers, awaited, strict=True) if counts}
    users = list(crowd)
    mailboxes = [address_text(user_address(user)) for user in users]
    (known,) = connection.execute(NOT_NEW, (_json(users), _json(mailboxes))).fetchone()
    for place in json.loads(known):
        del crowd[users[place]]
    devices = _json([(*one.session, one.seat.platform) for one in crowd.values()])
    connection.execute(ENTER_DEVICES, (now_ms, devices))
    return [
        None
        if not counts
        else (0, 1, 0, ())
        if crowd.get(one.session.user) is one
        else register(connection, store, one, now_ms, max_devices)
        for one, counts in zip(newcomers, awaited, strict=True)
    ]


def follow(
    connection: sqlite3.Connection, store: Store, session: SessionKey, log: LogKey, begin: int
) -> tuple[bool, int, tuple[int, ...]] | None:
    """Enter a cursor for a device that has none in this log yet; the log is there from now on.

    :returns: whether it had one, and where it stands: acked, parked. None: the device was forgotten
        meanwhile.
    """
    book = store.book(connection, log)
    key = (book.id, *session)
    entered = connection.execute(
        "INSERT INTO cursor (log, user, device, acked) SELECT ?, user, device, ? FROM device"
        " WHERE user = ? AND device = ? ON CONFLICT DO NOTHING",
        (book.id, begin, *session),
    ).rowcount
    found = connection.execute(
        "SELECT acked, parked FROM cursor WHERE log = ? AND user = ? AND device = ?", key
    ).fetchone()
    return None if found is None else (not entered, found[0], tuple(json.loads(found[1])))


def unfollow(connection: sqlite3.Connection, session: SessionKey, log: LogKey) -> None:
    """A device's cursor in this log is not kept any more."""
    connection.execute(
        "DELETE FROM cursor WHERE user = ? AND device = ?"
        " AND log = (SELECT id FROM log WHERE address = ? AND lane = ?)",
        (*session, address_text(log.address), log.lane),
    )


SAVE_DEVICES = """
UPDATE device SET platform = json_extract(value, '$[2]'), seen_ms = max(seen_ms, json_extract(value, '$[3]'))
FROM json_each(?) WHERE user = json_extract(value, '$[0]') AND device = json_extract(value, '$[1]')
"""
# Who made room for this commit wrote down newer places than these, which were taken when they were asked for:
# what is not set aside there, up to the same position, was taken since.
SAVE_CURSORS = """
INSERT INTO cursor (log, user, device, acked, parked)
SELECT log.id, device.user, device.device, json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?)
JOIN log ON log.address = json_extract(value, '$[2]') AND log.lane = json_extract(value, '$[3]')
JOIN device ON device.user = json_extract(value, '$[0]') AND device.device = json_extract(value, '$[1]')
WHERE true
ON CONFLICT (log, user, device) DO UPDATE SET acked = max(acked, excluded.acked),
    parked = CASE WHEN excluded.acked < acked THEN parked
        WHEN excluded.acked > acked OR excluded.parked = '[]' THEN excluded.parked
        ELSE (SELECT json_group_array(value) FROM json_each(excluded.parked)
            WHERE value > acked OR value IN (SELECT value FROM json_each(parked))) END
"""
RAISE_SEEN = """
UPDATE log SET seen = max(seen, far) FROM (
    SELECT json_extract(value, '$[0]') AS address, max(json_extract(value, '$[1]')) AS far
    FROM json_each(?) GROUP BY 1) AS told
WHERE log.address = told.address AND log.lane = 0
"""


def save(connection: sqlite3.Connection, sessions: Sequence[Saved]) -> None:
    """Write positions and parked seqs; of a device that was forgotten meanwhile, nothing. Three statements
    for all."""
    devices = json.dumps([(s.session.user, s.session.device, s.platform, s.seen_ms) for s in sessions])
    cursors = json.dumps(
        [
            (s.session.user, s.session.device, address_text(log.address), log.lane, acked, json.dumps(parked))
            for s in sessions
            for log, acked, parked in s.cursors
        ]
    )
    connection.execute(SAVE_DEVICES, (devices,))
    connection.execute(SAVE_CURSORS, (cursors,))
    raise_seen(connection, [(s.session.user, s.seen) for s in sessions if s.seen])


def raise_seen(connection: sqlite3.Connection, seen: Sequence[tuple[str, int]]) -> None:
    """Write how far the furthest device of each of these users has got."""
    rows = [(address_text(user_address(user)), far) for user, far in seen]
    connection.execute(RAISE_SEEN, (json.dumps(rows),))


def forget_device(connection: sqlite3.Connection, session: SessionKey) -> None:
    """As if it had never logged in."""
    connection.execute("DELETE FROM cursor WHERE user = ? AND device = ?", session)
    connection.execute("DELETE FROM device WHERE user = ? AND device = ?", session)


def revoke(connection: sqlite3.Connection, user: str, not_before_s: int) -> None:
    """Never lowered: an older revocation that comes late changes nothing."""
    connection.execute(
        "INSERT INTO revocation VALUES (?, ?) ON CONFLICT (user) DO UPDATE SET"
        " not_before_s = max(not_before_s, excluded.not_before_s)",
        (user, not_before_s),
    )


def new_epoch(connection: sqlite3.Connection, store: Store, log: LogKey, epoch: int) -> tuple[int, int]:
    """Give one log an identity of its own. :returns: first and head."""
    connection.execute("UPDATE log SET epoch = ? WHERE id = ?", (epoch, store.book(connection, log).id))
    return store.position(connection, log)
