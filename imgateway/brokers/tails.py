"""What the reactor keeps in memory of logs in use and of the sessions at them.

There is one of each for every session, so they are small: no objects that the collector must look at, and no
key of a mailbox but its user's name.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from msgspec import Struct

from imgateway.frames import Address, LogKey

__all__ = ("MAX_PARKED", "Owed", "Seat", "Tail", "Tails", "UnderWay", "with_parked")

MAX_PARKED = 32

new = tuple.__new__


class Owed(Struct, frozen=True, gc=False):
    """What few devices have besides a position: seqs of the mailbox that are parked, positions and parked
    seqs of further logs, what the wire keeps, and the order of their login."""

    parked: tuple[int, ...] = ()
    others: Mapping[LogKey, tuple[int, tuple[int, ...]]] = {}
    record: bytes = b""
    order: int = 0


NOTHING = Owed()


class Seat(Struct, gc=False, eq=False):
    """One device of a user who is online, is logging in, or has something that is not on disk yet.

    Its values win over the disk's.
    """

    device: str
    platform: str = ""
    generation: int = 0
    """Of the session that is open; 0: none is."""
    issued_at_s: int = 0
    since_ms: int = 0
    seen_ms: int = 0
    """When the disk last heard of it."""
    acked: int = -1
    """In the mailbox; -1: the mailbox does not know the device yet."""
    owed: Owed = NOTHING

    @property
    def online(self) -> bool:
        return self.generation > 0

    @property
    def registered(self) -> bool:
        return self.acked >= 0


class Tail(Struct, gc=False, eq=False):
    """The newest end of a log that somebody watches, or of a mailbox with seats.

    `head` and `first` are -1 until they are known. `seats` is replaced, never changed: the writer's thread
    reads it.
    """

    name: str | LogKey
    """The user of a mailbox; the key of another log."""
    first: int = -1
    head: int = -1
    told: bool | None = None
    """Whoever watches has the position, and is told of what follows it; None: nobody watches."""
    not_before_s: int = 0
    sitting: Seat | tuple[Seat, ...] = ()
    """`seats`, which are known with `not_before_s` from the first login on; most have one, which spares a
    tuple."""

    @property
    def watched(self) -> bool:
        return self.told is not None

    @property
    def log(self) -> LogKey:
        name = self.name
        if not isinstance(name, str):
            return name
        return new(LogKey, (new(Address, ("user", name, "")), 0))  # as the classes do it, in C

    @property
    def seats(self) -> tuple[Seat, ...]:
        sitting = self.sitting  # looked at once: the other thread may change it in between
        return sitting if isinstance(sitting, tuple) else (sitting,)

    @seats.setter
    def seats(self, seats: tuple[Seat, ...]) -> None:
        self.sitting = seats[0] if len(seats) == 1 else seats

    def seat(self, device: str) -> Seat | None:
        sitting = self.sitting
        if isinstance(sitting, Seat):
            return sitting if sitting.device == device else None
        for seat in sitting:
            if seat.device == device:
                return seat
        return None

    def online(self) -> bool:
        sitting = self.sitting
        if isinstance(sitting, Seat):
            return sitting.generation > 0
        return any(seat.generation > 0 for seat in sitting)

    def learn(self, first: int, head: int) -> None:
        """A question was answered. Commits may have told more, or the answer may be ahead of the commits'
        reports: then who is told already is still owed the report, and `head` waits for it."""
        self.first = first
        if not self.told:
            self.head = max(self.head, head)


def with_parked(owed: tuple[int, ...], seq: int) -> tuple[int, ...]:
    """Over the limit the oldest is dropped: it stays in the log, where Pull finds it."""
    return tuple(sorted({*owed, seq})[-MAX_PARKED:])


class UnderWay(dict[Hashable, int]):
    """How much is under way for whom: for most nothing is, so they need no field for it."""

    __slots__ = ()

    def begin(self, one: Hashable) -> None:
        self[one] = self.get(one, 0) + 1

    def end(self, one: Hashable) -> None:
        left = self.pop(one) - 1
        if left:
            self[one] = left


class Tails:
    """The tails in memory, by log. Mailboxes have a table of their own, whose keys are all texts: it is a
    third smaller."""

    def __init__(self) -> None:
        self._mailboxes: dict[str, Tail] = {}
        self._others: dict[LogKey, Tail] = {}
        self.of = self._mailboxes.get
        """The tail of a user's mailbox, or None: asked thrice for each message, so no method of ours."""
        self.pins = UnderWay()
        """Questions and changes that need a tail, and its seats, to stay: what the reader saw may be older
        than what was written since."""

    def __len__(self) -> int:
        return len(self._mailboxes) + len(self._others)

    def get(self, log: LogKey) -> Tail | None:
        """Callable from any thread."""
        address, lane = log
        if address.kind == "user" and not lane:
            return self._mailboxes.get(address.id)
        return self._others.get(log)

    def users(self) -> tuple[str, ...]:
        """Whose mailboxes have a tail now."""
        return tuple(self._mailboxes)

    def enter(self, log: LogKey) -> Tail:
        """The tail of a log, there from now on."""
        address, lane = log
        if address.kind == "user" and not lane:
            return self.enter_mailbox(address.id)
        tail = self._others.get(log)
        if tail is None:
            tail = self._others[log] = Tail(log)
        return tail

    def enter_mailbox(self, user: str) -> Tail:
        """The tail of the user's mailbox, there from now on."""
        tail = self._mailboxes.get(user)
        if tail is None:
            tail = self._mailboxes[user] = Tail(user)
        return tail

    def drop(self, tail: Tail) -> None:
        """Forget it, unless another has taken its place."""
        tails: dict[Any, Tail] = self._mailboxes if isinstance(tail.name, str) else self._others
        if tails.get(tail.name) is tail:
            del tails[tail.name]
