"""One session: a user on a device, for as long as one generation of it lives.

A session is made by a claim and ends by goodbye, displacement or when its resume window passes; the link it
uses comes and may go earlier. It is flat, because a node holds very many of them and most are idle: what an
idle session does not need (flights, calls, parked entries, an interceptor chain) is made when it is needed.
"""

from __future__ import annotations

from typing import Any

from imgateway.core.cursor import Cursor, State
from imgateway.core.parking import Parking
from imgateway.frames import Entry, LogKey, SessionKey

__all__ = ("Session", "for_device")


class Session:
    """State only; `node` moves it.

    :ivar link: what carries it just now, or None. Typed by whoever sets it.
    :ivar mailbox: the cursor in the user's own log, `log`.
    :ivar told: the session listeners know of it.
    :ivar publishing: publishes that wait for their outcome.
    :ivar detached_at: when the link went, on the node's clock; meaningless while there is one.
    """

    __slots__ = (
        "answering",
        "calls",
        "chain",
        "detached_at",
        "generation",
        "identity",
        "key",
        "link",
        "log",
        "mailbox",
        "parking",
        "publishing",
        "reading",
        "told",
    )

    def __init__(self, key: SessionKey, generation: int, identity: Any, log: LogKey, mailbox: Cursor) -> None:
        self.key = key
        self.generation = generation
        self.identity = identity
        self.log = log
        self.mailbox = mailbox
        self.link: Any = None
        self.parking: Parking | None = None
        self.calls: dict[int, Any] | None = None
        self.chain: Any = None
        self.publishing = 0
        self.answering = 0
        self.reading = False
        self.told = False
        self.detached_at = 0.0

    def detach(self, now: float) -> None:
        """The link is gone: remember since when, and let the log run ahead."""
        self.link = None
        self.detached_at = now
        self.mailbox.clog()

    def may_unclog(self, max_entries: int, max_bytes: int) -> bool:
        """Half of the window is free again: enough to make a read worth its while."""
        cursor = self.mailbox
        return (
            cursor.state is State.CLOGGED
            and cursor.entries * 2 <= max_entries
            and cursor.bytes * 2 <= max_bytes
        )


def for_device(entries: tuple[Entry, ...], device: str) -> tuple[Entry, ...]:
    """The entries that `device` is meant to see; the very tuple if none of them names a device."""
    for entry in entries:
        if entry.only_device or entry.except_device:
            break
    else:
        return entries
    return tuple(
        entry
        for entry in entries
        if (not entry.only_device or entry.only_device == device)
        and (not entry.except_device or entry.except_device != device)
    )
