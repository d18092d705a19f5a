"""What is kept of an MQTT session from one connection to the next, beside the device's positions."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from imgateway.protocols.mqtt.minting import Run

__all__ = ("FOREVER", "Record", "Subscription")

FOREVER = 0xFFFF_FFFF
"""A session expiry that never comes; also what 3.1.1 means by a session that is not clean."""
STAMP_S = 600
"""A connection notes at most so often that it is still there."""


class Subscription(Struct, frozen=True, array_like=True):
    """What a client said when it subscribed. `ident` 0: it named no subscription id."""

    qos: int = 0
    no_local: bool = False
    as_published: bool = False
    ident: int = 0


class Record(Struct, array_like=True):
    """`expiry_s` 0: the session ended with its connection, and what it was subscribed to is to be undone.

    `stamp_s`: Unix seconds when the connection was last known to live. `mint`, `runs`: see `minting`.
    `unreleased`: see `inbox`. `leaving`: see `subscribing`. `is_brief`: with `expiry_s` 0: so it is on the
    disk, whether or not this is there.
    """

    version: int = 1
    expiry_s: int = 0
    stamp_s: int = 0
    mint: str = ""
    runs: tuple[Run, ...] = ()
    subscriptions: dict[str, Subscription] = {}
    unreleased: tuple[int, ...] = ()
    leaving: tuple[str, ...] = ()
    is_brief: bool = False

    def is_over(self, now_s: int) -> bool:
        """The session expired. Late rather than early: nobody noted when its connection was lost."""
        if self.expiry_s in (0, FOREVER):
            return not self.expiry_s
        return now_s > self.stamp_s + self.stamp_after_s() + self.expiry_s

    def stamp_after_s(self) -> int:
        """How old the stamp may become while there is a connection."""
        return max(STAMP_S, self.expiry_s // 4)

    def written(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @staticmethod
    def read(data: bytes) -> Record | None:
        """None: there is none, or another version wrote it."""
        try:
            record = msgspec.msgpack.decode(data, type=Record) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return record if record is not None and record.version == 1 else None
