"""What a log loses, and what of it is told. Runs in the writer's thread, in small transactions between
commits.

Age and quota take entries; acknowledgements alone take none. Quota takes none that a device has set aside,
nor has it hold back what follows: a device may come for ever on a wire that cannot say it. What went by its
own ttl is no gap; everything else raises the log's `lost`, below which a reader is told of a gap. Digests
that still count survive in `trimmed`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from imgateway.config import RetentionSettings
from imgateway.frames import LogKey, parse_address

__all__ = ("Positions", "Retention")

Positions = Callable[[LogKey], tuple[list[tuple[str, str, int, tuple[int, ...]]], int]]
"""How far the devices in memory are in a log, as (user, device, acked, parked); and the furthest that any
device acknowledged lately."""

# Rows that one transaction deletes: about a millisecond.
STEP = 500
# Logs that one sweep looks at.
SWEEP_LOGS = 2_000
# So long a full log with readers of many users is not looked through again when nothing could go: there may
# be very many of them.
IN_VAIN_MS = 1_000
# Logs that this is remembered of.
MAX_IN_VAIN = 10_000

# The positions in memory, as (user, device, acked, parked); of a device that is not on disk, nothing.
KEEP_CURSORS = """
INSERT INTO cursor (log, user, device, acked, parked)
SELECT ?2, device.user, device.device, json_extract(value, '$[2]'), json_extract(value, '$[3]')
FROM json_each(?1)
JOIN device ON device.user = json_extract(value, '$[0]') AND device.device = json_extract(value, '$[1]')
WHERE true
ON CONFLICT (log, user, device) DO UPDATE SET acked = max(acked, excluded.acked), parked = excluded.parked
"""
KEEP_SEEN = """
UPDATE device SET seen_ms = max(seen_ms, ?2) FROM json_each(?1)
WHERE user = json_extract(value, '$[0]') AND device = json_extract(value, '$[1]')
"""
# The oldest of log ?1 up to seq ?2 that nobody set aside who was seen since ?3: ?4 of them, or what takes
# ?5 bytes.
OLDEST = """
SELECT key FROM (
    SELECT key, sum(size + coalesce(length(message), 0)) OVER (ORDER BY key) AS freed,
        size + coalesce(length(message), 0) AS own
    FROM entry WHERE key > ?1 << 32 AND key <= (?1 << 32 | ?2) AND key NOT IN (
        SELECT ?1 << 32 | value FROM cursor JOIN device USING (user, device), json_each(parked)
        WHERE log = ?1 AND parked <> '[]' AND seen_ms >= ?3)
    ORDER BY key LIMIT ?4)
WHERE freed - own < ?5
"""


class Retention:
    """The rules, applied to a connection."""

    def __init__(
        self,
        limits: RetentionSettings,
        dedup_ms: int,
        positions: Positions,
    ) -> None:
        self._limits = limits
        self._dedup_ms = dedup_ms
        self._positions = positions
        self._swept = 0
        self._in_vain: dict[int, int] = {}

    def make_room(
        self, connection: sqlite3.Connection, log: LogKey, log_id: int, size: int, now_ms: int
    ) -> tuple[int, int]:
        """Drop expired entries, then the oldest that every device has, until an eighth of the quota is free.

        :returns: how many entries and bytes went.
        """
        if now_ms - self._in_vain.get(log_id, -IN_VAIN_MS) < IN_VAIN_MS:
            return 0, 0
        connection.execute("BEGIN IMMEDIATE")
        oldest_ms = now_ms - self._limits.device_unseen_s * 1000
        floor = self._floor(connection, log, log_id, now_ms, oldest_ms)
        low, high = log_id << 32, (log_id + 1) << 32
        keys = _keys(
            connection,
            "SELECT key FROM entry WHERE key > ? AND key < ? AND expires_ms > 0 AND expires_ms <= ? LIMIT ?",
            (low, high, now_ms, STEP),
        )
        if not keys:
            want = max(1, self._limits.entries // 8)
            keys = _keys(
                connection, OLDEST, (log_id, floor, oldest_ms, want, max(self._limits.bytes // 8, size))
            )
        gone = self._remove(connection, keys, now_ms)
        # Nothing to delete: then the positions need no commit. With one, whoever writes to a full log would
        # cost everybody a sync a message.
        connection.execute("COMMIT" if keys else "ROLLBACK")
        if not keys and log.address.kind != "user":
            if len(self._in_vain) >= MAX_IN_VAIN:
                self._in_vain.clear()
            self._in_vain[log_id] = now_ms
        return gone

    def sweep(self, connection: sqlite3.Connection, now_ms: int) -> tuple[bool, list[LogKey]]:
        """Take some of what is past its time. :returns: whether there may be more at once, and whose logs
        changed."""
        keys = _keys(
            connection,
            "SELECT key FROM entry WHERE expires_ms > 0 AND expires_ms <= ? LIMIT ?",
            (now_ms, STEP),
        )
        oldest_ms = now_ms - self._limits.age_s * 1000
        end, aged = self._aged_logs(connection, oldest_ms)
        for log_id in aged:
            if len(keys) >= STEP:
                end = log_id - 1
                break
            keys += _keys(
                connection,
                "SELECT key FROM entry WHERE key > ? AND key < ? AND at_ms < ? ORDER BY key LIMIT ?",
                (log_id << 32, (log_id + 1) << 32, oldest_ms, STEP),
            )
        else:
            if len(keys) >= STEP and aged:
                end = aged[-1] - 1
        digests = _keys(
            connection, "SELECT key FROM trimmed WHERE at_ms < ? LIMIT ?", (now_ms - self._dedup_ms, STEP)
        )
        self._swept = end
        touched: list[LogKey] = []
        if keys or digests:
            connection.execute("BEGIN IMMEDIATE")
            logs = sorted({key >> 32 for key in keys})
            self._remove(connection, sorted(set(keys)), now_ms)
            connection.execute(
                "DELETE FROM trimmed WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(digests),)
            )
            connection.execute("COMMIT")
            for log_id in logs:
                address, lane = connection.execute(
                    "SELECT address, lane FROM log WHERE id = ?", (log_id,)
                ).fetchone()
                touched.append(LogKey(parse_address(address), lane))
        return len(keys) >= STEP or len(digests) >= STEP, touched

    def _aged_logs(self, connection: sqlite3.Connection, oldest_ms: int) -> tuple[int, list[int]]:
        """The next logs in turn whose oldest entry is too old, and the id up to which that was looked at (0:
        the end)."""
        count, last, aged = connection.execute(
            "SELECT count(*), coalesce(max(id), 0), json_group_array(CASE WHEN oldest < ? THEN id END)"
            " FROM (SELECT id, (SELECT at_ms FROM entry"
            " WHERE key > log.id << 32 AND key < (log.id + 1) << 32 ORDER BY key LIMIT 1) AS oldest"
            " FROM log WHERE id > ? ORDER BY id LIMIT ?)",
            (oldest_ms, self._swept, SWEEP_LOGS),
        ).fetchone()
        return (last if count == SWEEP_LOGS else 0), [id for id in json.loads(aged) if id is not None]

    def _floor(
        self, connection: sqlite3.Connection, log: LogKey, log_id: int, now_ms: int, oldest_ms: int
    ) -> int:
        """The least acked of the devices that are here or were seen since `oldest_ms`. Without any: 0, for
        mail waits for its device; of a topic all there is, for nobody is owed it. Positions in memory are
        written down first, for what they allow to be deleted must not look lost after a crash."""
        known, seen = self._positions(log)
        not_kept = "[]"
        if known:
            text = json.dumps([(*place, json.dumps(parked)) for *place, parked in known])
            kept = connection.execute(KEEP_CURSORS, (text, log_id)).rowcount
            if kept < len(known):
                not_kept = text
            connection.execute(KEEP_SEEN, (text, now_ms))
            connection.execute("UPDATE log SET seen = max(seen, ?) WHERE id = ?", (seen, log_id))
        (floor,) = connection.execute(
            "SELECT coalesce(min(acked), ?4) FROM ("
            "SELECT acked, seen_ms FROM cursor JOIN device USING (user, device) WHERE log = ?1"
            # A device without a cursor in its user's mailbox has nothing of it yet.
            " UNION ALL SELECT 0, seen_ms FROM device WHERE user = ?2 AND NOT EXISTS ("
            "SELECT 1 FROM cursor WHERE log = ?1 AND user = ?2 AND device = device.device)"
            # One that ends with its session is not on the disk.
            " UNION ALL SELECT json_extract(value, '$[2]'), ?3 FROM json_each(?5) WHERE NOT EXISTS ("
            "SELECT 1 FROM device WHERE user = json_extract(value, '$[0]')"
            " AND device = json_extract(value, '$[1]'))"
            ") WHERE seen_ms >= ?3",
            (
                log_id,
                log.address.id if log.address.kind == "user" else "",
                oldest_ms,
                0xFFFFFFFF if log.address.kind == "topic" else 0,
                not_kept,
            ),
        ).fetchone()
        return int(floor)

    def _remove(self, connection: sqlite3.Connection, keys: list[int], now_ms: int) -> tuple[int, int]:
        """Delete these rows; a log remembers how far it had got. :returns: how many, and their bytes."""
        if not keys:
            return 0, 0
        these = (json.dumps(keys),)
        chosen = "key IN (SELECT value FROM json_each(?1))"
        rows = json.loads(
            connection.execute(
                "SELECT json_group_array(json_array(id, max_key, lost_key)) FROM ("
                "SELECT key >> 32 AS id, max(key) AS max_key,"
                " max(CASE WHEN expires_ms > 0 AND expires_ms <= ?2 THEN 0 ELSE key END) AS lost_key"
                f" FROM entry WHERE {chosen} GROUP BY key >> 32)",
                (*these, now_ms),
            ).fetchone()[0]
        )
        for log_id, max_key, lost_key in rows:
            connection.execute(
                "UPDATE log SET head = max(head, ?), lost = max(lost, ?) WHERE id = ?",
                (max_key & 0xFFFFFFFF, lost_key & 0xFFFFFFFF, log_id),
            )
        connection.execute(
            "INSERT OR REPLACE INTO trimmed SELECT key, at_ms, digest FROM entry"
            f" WHERE {chosen} AND at_ms >= ?2",
            (*these, now_ms - self._dedup_ms),
        )
        bodies = connection.execute(
            f"SELECT count(*), body FROM entry WHERE {chosen} AND body > 0 GROUP BY body", these
        ).fetchall()
        connection.executemany("UPDATE body SET refs = refs - ? WHERE id = ?", bodies)
        connection.executemany("DELETE FROM body WHERE id = ? AND refs <= 0", [(body,) for _, body in bodies])
        (freed,) = connection.execute(
            f"SELECT coalesce(sum(size + coalesce(length(message), 0)), 0) FROM entry WHERE {chosen}", these
        ).fetchone()
        connection.execute(f"DELETE FROM entry WHERE {chosen}", these)
        return len(keys), int(freed)


def _keys(connection: sqlite3.Connection, query: str, values: tuple[int, ...]) -> list[int]:
    """The keys that a query finds, in one step of the database."""
    (found,) = connection.execute(f"SELECT json_group_array(key) FROM ({query})", values).fetchone()
    keys: list[int] = json.loads(found)
    return keys
