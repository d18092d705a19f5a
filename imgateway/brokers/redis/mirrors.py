"""What a node keeps of the rings that it watches: the newest entries, as they were told.

The ring is in Redis. Here stands what came since the node began to watch, so that those who lag are served
without asking: from any place at or above `ring.floor`. For the first who is below that, the rest is fetched;
of large rings, only the block.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from imgateway.brokers.redis.primary import Primary
from imgateway.config import RoomSettings
from imgateway.core.ring import Ring, RingLimits, batch
from imgateway.frames import Batch, Entry, LogKey, Position

__all__ = ("ENTRY_HEAD", "Mirror", "Mirrors", "Place", "entry_of")

ENTRY_BYTES = 230
"""What an entry takes besides its message."""
ENTRY_HEAD = Struct(">QQQ")
"""seq, when it was published, when it expires or 0: before the message, as scripts write it; in ms of the
server's clock."""
STEP = 2_000
"""Mirrors that one upkeep looks at, or a tenth of them."""


def entry_of(data: bytes, ahead_ms: int) -> Entry:
    """An entry as it stands in a list. `ahead_ms`: of the server's clock before ours."""
    seq, _, expires_ms = ENTRY_HEAD.unpack_from(data)
    return Entry(seq, data[ENTRY_HEAD.size :], "", "", expires_ms - ahead_ms if expires_ms else 0)


class Place(NamedTuple):
    """Where a ring is, under which name, and what it keeps."""

    log: LogKey
    primary: Primary
    bucket: int
    where: bytes
    limits: RingLimits


class Mirror:
    """Of one ring. `asked`: questions after its position that are not answered.

    :ivar waiting: who waits for the first answer. :ivar held: hints that came before the answers.
    :ivar is_whole: what is below `ring.floor` is gone. :ivar readers: who waits for the rest, and after what.
    """

    __slots__ = (
        "asked",
        "epoch",
        "first",
        "held",
        "is_known",
        "is_whole",
        "place",
        "readers",
        "ring",
        "waiting",
    )

    def __init__(self, place: Place) -> None:
        self.place = place
        self.asked = self.epoch = self.first = 0
        self.is_known = self.is_whole = False
        self.ring: Ring[Entry] = Ring(0)
        self.waiting: list[Deferred[Position]] = []
        self.held: list[list[Any]] = []
        self.readers: list[tuple[int, Deferred[Batch]]] = []

    def position(self) -> Position:
        return Position(self.epoch, self.first, self.ring.head)


class Mirrors:
    """All of a node. They share `memory_bytes`: over it those that were told nothing for longest keep
    nothing. Times are milliseconds of a clock that does not go back.
    """

    def __init__(self, settings: RoomSettings) -> None:
        self._most = settings.memory_bytes
        # First those that were told nothing for longest.
        self._full: OrderedDict[Mirror, None] = OrderedDict()
        self._round: list[Mirror] = []
        self._step = STEP
        self.bytes = 0

    def begin(self, mirror: Mirror, epoch: int, head: int, count: int) -> None:
        """It stands at this head, with nothing in it; so many entries came before."""
        self.empty(mirror)
        mirror.epoch = epoch
        mirror.ring = Ring(head, count)

    def add(self, mirror: Mirror, entries: list[Entry], now_ms: int) -> None:
        """Entries came."""
        ring, now, before = mirror.ring, now_ms / 1000, mirror.ring.bytes
        for entry in entries:
            ring.append(entry.seq, entry, len(entry.message) + ENTRY_BYTES, now)
        ring.trim_late(mirror.place.limits, now)
        self.bytes += ring.bytes - before
        self._full[mirror] = None
        self._full.move_to_end(mirror)
        while self.bytes > self._most and self._full:
            self.empty(next(iter(self._full)))

    def has_room(self, size: int) -> bool:
        """So many bytes more would drive nothing out."""
        return self.bytes + size <= self._most

    def complete(self, mirror: Mirror, floor: int, data: list[bytes], ahead_ms: int) -> None:
        """All that Redis has of it, from this floor on."""
        ring, before = mirror.ring, mirror.ring.bytes
        older = []
        for one in data:
            entry = entry_of(one, ahead_ms)
            if entry.seq <= ring.floor:
                age = (ENTRY_HEAD.unpack_from(one)[1] - ahead_ms) / 1000
                older.append((entry.seq, entry, len(entry.message) + ENTRY_BYTES, age))
        if floor < ring.floor:
            ring.prepend(floor, older)
            self.bytes += ring.bytes - before
            self._full[mirror] = None
        mirror.is_whole = True

    def empty(self, mirror: Mirror) -> None:
        """It stays where it is, and keeps nothing."""
        mirror.is_whole = False
        if mirror in self._full:
            del self._full[mirror]
            self.bytes -= mirror.ring.drop(len(mirror.ring))

    def read(self, mirror: Mirror, after: int, now_ms: int) -> Batch | None:
        """The block that `after` is in; None: it is not here."""
        ring = mirror.ring
        self.bytes -= ring.trim(mirror.place.limits, now_ms / 1000)
        if after < ring.floor and not mirror.is_whole:
            return None
        return batch(ring, mirror.epoch, after, now_ms)

    def upkeep(self, now_ms: int) -> None:
        """Once a second: what is too old goes."""
        if not self._round:
            self._round = [*self._full]
            self._step = max(STEP, len(self._round) // 10)
        for mirror in self._round[-self._step :]:
            if mirror in self._full:
                self.bytes -= mirror.ring.trim(mirror.place.limits, now_ms / 1000)
                if not len(mirror.ring):
                    del self._full[mirror]
        del self._round[-self._step :]
