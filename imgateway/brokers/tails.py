"""What the reactor keeps in memory of logs in use and of the sessions at them."""

from __future__ import annotations

from typing import Any

from imgateway.frames import LogKey

__all__ = ("Seat", "Tail")


class Seat:
    """One device of a user who is online, is logging in, or has something that is not on disk yet.

    Its values win over the disk's. `acked` and `parked` are those of the mailbox, `others` those of further
    logs.
    """

    __slots__ = (
        "acked",
        "device",
        "dirty",
        "generation",
        "issued_at_s",
        "online",
        "order",
        "others",
        "parked",
        "platform",
        "record",
        "registered",
        "saving",
        "seen_ms",
        "since_ms",
        "waiting",
    )

    def __init__(self, device: str) -> None:
        self.device = device
        self.platform = ""
        self.generation = 0
        self.issued_at_s = 0
        self.since_ms = 0
        self.seen_ms = 0
        """When the disk last heard of it."""
        self.order = 0
        self.online = False
        self.registered = False
        self.acked = 0
        self.parked: tuple[int, ...] = ()
        self.others: dict[LogKey, tuple[int, tuple[int, ...]]] | None = None
        self.record = b""
        self.dirty = False
        self.saving = 0
        """Changes of it that are on their way to the disk."""
        self.waiting: Any = None
        """The login that its registration answers."""


class Tail:
    """The newest end of a log that somebody watches, or of a mailbox with seats.

    `head` and `first` are -1 until they are known. `seats` is replaced, never changed: the writer's thread
    reads it.
    """

    __slots__ = (
        "asked",
        "first",
        "forgotten",
        "head",
        "log",
        "not_before_s",
        "pins",
        "seats",
        "told",
        "watched",
    )

    def __init__(self, log: LogKey) -> None:
        self.log = log
        self.first = -1
        self.head = -1
        self.watched = False
        self.told = False
        """Whoever watches has the position, and is told of what follows it."""
        self.seats: tuple[Seat, ...] = ()
        self.pins = 0
        """Questions and changes under way that need this object, and its seats, to stay: what the reader
        saw may be older than what was written since."""
        self.forgotten: tuple[str, ...] = ()
        """Devices that were deleted from the disk, which a question under way may have seen there."""
        self.asked = False
        """The disk's part of what follows is known."""
        self.not_before_s = 0

    def seat(self, device: str) -> Seat | None:
        for seat in self.seats:
            if seat.device == device:
                return seat
        return None

    def online(self) -> bool:
        return any(seat.online for seat in self.seats)

    def learn(self, first: int, head: int) -> None:
        """A question was answered. Commits may have told more, or the answer may be ahead of the commits'
        reports: then who is told already is still owed the report, and `head` waits for it."""
        self.first = first
        if not self.told:
            self.head = max(self.head, head)
