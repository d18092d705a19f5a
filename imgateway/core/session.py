"""One session: a user on a device, for as long as one generation of it lives.

A session is made by a claim and ends by goodbye, displacement or when its resume window passes; the link it
uses comes and may go earlier. It is flat, because a node holds very many of them and most are idle: what an
idle session does not need (flights, calls, parked entries, an interceptor chain) is made when it is needed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from imgateway.core.cursor import Cursor
from imgateway.core.parking import Parking
from imgateway.frames import Address, Entry, LogKey, SessionKey

__all__ = ("Follows", "Session", "for_device")

new = tuple.__new__


class Follows(dict[Address, Any]):
    """The cursors of a session that reads more than its mailbox, that one among them, by address; whose turn
    it is to read comes first.

    :ivar entries: what waits for its acknowledgement in all of them; `bytes`: the same in bytes. Summed up as
        they are moved, for that is done with every message.
    """

    __slots__ = ("bytes", "entries")

    def __init__(self, session: Session) -> None:
        super().__init__({session.address: session})
        self.entries = session.entries
        self.bytes = session.bytes

    def leave(self, address: Address) -> None:
        """This log is read no more."""
        one = self.pop(address)
        self.entries -= one.entries
        self.bytes -= one.bytes


class Rare:
    """What few sessions have: made when the first of it is set, as every session would pay for its place."""

    __slots__ = ("answering", "calls", "chain", "parking")

    def __init__(self) -> None:
        self.answering = 0
        self.calls: dict[int, Any] | None = None
        self.chain: Any = None
        self.parking: Parking | None = None


def _rare(name: str, absent: Any) -> Any:
    """An attribute of `Rare`, as one of the session's; `absent` while there is none."""

    def get(session: Session) -> Any:
        rare = session._rare
        return absent if rare is None else getattr(rare, name)

    def put(session: Session, value: Any) -> None:
        if session._rare is None:
            if value == absent:
                return
            session._rare = Rare()
        setattr(session._rare, name, value)

    return property(get, put)


class Session(Cursor):
    """State only; `node` moves it. It is itself the cursor in its user's mailbox, which every session has.

    :ivar link: what carries it just now, or None. Typed by whoever sets it.
    :ivar told: the session listeners know of it.
    :ivar publishing: publishes that wait for their outcome.
    :ivar answering: its questions that wait for our answer; `calls` are ours.
    :ivar parking: entries that its wire could not say, and owes.
    :ivar chain: publishes and wills that wait for an interceptor, or behind a record that is being kept.
    :ivar rooms: those that it is in; typed by whoever puts it there.
    :ivar follows: the cursors in all its logs; None: its mailbox is all that it reads.
    :ivar form: how its link's deliveries are written: one object for all links that are alike in that.
    """

    __slots__ = (
        "_rare",
        "device",
        "follows",
        "form",
        "generation",
        "identity",
        "link",
        "publishing",
        "reading",
        "rooms",
        "told",
        "user",
    )

    def __init__(
        self, key: SessionKey, generation: int, identity: Any, epoch: int, acked: int, head: int
    ) -> None:
        # Clogged until its link is ready: what arrives meanwhile only raises the head.
        super().__init__(epoch, acked, acked, head)
        self.clog()
        self.user, self.device = key
        self.generation = generation
        self.identity = identity
        self.link: Any = None
        self._rare: Rare | None = None
        self.publishing = 0
        self.reading = False
        self.told = False
        self.rooms: tuple[Any, ...] = ()
        self.follows: Follows | None = None
        self.form: Any = None

    answering = _rare("answering", 0)
    calls = _rare("calls", None)
    chain = _rare("chain", None)
    parking = _rare("parking", None)

    receipts = True
    """What comes from a mailbox is always acknowledged."""

    # Made when somebody asks: as objects of every session they would take 200 bytes.

    @property
    def key(self) -> SessionKey:
        return new(SessionKey, (self.user, self.device))  # as the class does it, without a call in Python

    @property
    def address(self) -> Address:
        """The user's."""
        return Address("user", self.user)

    @property
    def log(self) -> LogKey:
        """The user's mailbox."""
        return LogKey(Address("user", self.user))

    def detach(self) -> None:
        """The link is gone: let the logs run ahead."""
        self.link = None
        self.clog_all()

    def cursors(self) -> Collection[Any]:
        """Its places in all the logs that it reads: itself, and each Follow."""
        return (self,) if self.follows is None else self.follows.values()

    def clog_all(self) -> None:
        """The link has unsent bytes."""
        for cursor in self.cursors():
            cursor.clog()

    def bytes_unacked(self) -> int:
        """In all its logs."""
        return self.bytes if self.follows is None else sum(one.bytes for one in self.follows.values())

    def oldest_unacked(self) -> float | None:
        """When the oldest unacknowledged entries of any of its logs were sent; None if there are none."""
        if self.follows is None:
            return self.unacked_since()
        times = [since for one in self.cursors() if (since := one.unacked_since()) is not None]
        return min(times, default=None)


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
