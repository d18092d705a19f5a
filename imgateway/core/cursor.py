"""How far one session has got in one log, and what to do when the log or the link moves.

Catch-up and live delivery are one table:

=======  ========  ==================================  =======  ====
state    event     when                                state    step
=======  ========  ==================================  =======  ====
LIVE     arrived   it begins where `sent` is           LIVE     SEND
LIVE     arrived   it ends at or before `sent`         LIVE     HOLD
LIVE     arrived   there is a hole between             READING  READ
LIVE     moved     `sent` < head afterwards            READING  READ
LIVE     moved     `sent` = head afterwards            LIVE     HOLD
LIVE     overflow  half of the window or more is free  READING  READ
LIVE     overflow  less is free                        CLOGGED  HOLD
READING  arrived   any (the head rises)                READING  HOLD
READING  moved     any (the head rises)                READING  HOLD
READING  read      it begins where `sent` is           READING  SEND
READING  read      it begins elsewhere                 READING  HOLD
READING  send      `sent` < head afterwards            READING  –
READING  send      `sent` = head afterwards            LIVE     –
READING  passed    `sent` < head afterwards            READING  –
READING  passed    `sent` = head afterwards            LIVE     –
CLOGGED  arrived   any (the head rises)                CLOGGED  HOLD
CLOGGED  moved     any (the head rises)                CLOGGED  HOLD
CLOGGED  read      any (it will be read again)         CLOGGED  HOLD
CLOGGED  unclog    `sent` < head                       READING  READ
CLOGGED  unclog    `sent` = head                       LIVE     HOLD
any      clog      any                                 CLOGGED  –
=======  ========  ==================================  =======  ====

READ means from `sent`; whoever sends a batch and still finds READING reads on. What is sent or passed in
another state than READING leaves the state alone.

CLOGGED means that the link has unsent bytes or that the window of unacknowledged entries is full. A slow
receiver is a cursor that lags behind `head`; nothing is ever queued for it.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ("Cursor", "State", "Step")


class State(IntEnum):
    LIVE = 0
    READING = 1
    CLOGGED = 2


class Step(IntEnum):
    """What the caller does next."""

    HOLD = 0
    SEND = 1
    READ = 2


# By these names they are found in a third of the time that it takes to ask the classes for them.
LIVE, READING, CLOGGED = State
HOLD, SEND, READ = Step


class Cursor:
    """One session's place in one durable log.

    `sent` ≤ `head`; `acked` is what the session has custody of. The flights between them are remembered as
    (upto, entries, bytes, when), in order, so that an acknowledgement gives back exactly the window that it
    frees.
    """

    __slots__ = ("_flights", "acked", "bytes", "entries", "epoch", "head", "sent", "state")

    def __init__(self, epoch: int, position: int, acked: int, head: int) -> None:
        self.place(epoch, position, acked, head)

    def place(self, epoch: int, position: int, acked: int, head: int) -> None:
        """Begin anew from `position`: nothing is on its way."""
        self.epoch = epoch
        self.sent = position
        self.acked = acked
        self.head = head
        self.state: State = LIVE if position == head else CLOGGED
        self.entries = 0
        self.bytes = 0
        self._flights: list[tuple[int, int, int, float]] | None = None

    def arrived(self, after: int, upto: int) -> Step:
        """The log grew by ``(after, upto]`` and the entries are at hand."""
        if self.state is LIVE:
            if after == self.sent:
                return SEND
            if upto <= self.sent:
                return HOLD
            self.head = upto
            self.state = READING
            return READ
        if upto > self.head:
            self.head = upto
        return HOLD

    def overflow(self, upto: int, window: int) -> Step:
        """Entries up to `upto` are at hand, and more than the window has room for: read them back as room
        appears."""
        self.head = upto
        if self.entries * 2 > window:
            self.state = CLOGGED
            return HOLD
        self.state = READING
        return READ

    def moved(self, head: int) -> Step:
        """The log grew to `head` and its entries must be read."""
        return self.arrived(-1, head)

    def read(self, after: int) -> Step:
        """A batch that begins after `after` came back from the log: SEND it or drop it."""
        return SEND if self.state is READING and after == self.sent else HOLD

    def send(self, upto: int, entries: int, size: int, now: float) -> None:
        """Everything up to `upto` was handed to the link: `entries` entries of `size` bytes."""
        self.sent = upto
        if upto > self.head:
            self.head = upto
        self.entries += entries
        self.bytes += size
        if self._flights is None:
            self._flights = [(upto, entries, size, now)]
        else:
            self._flights.append((upto, entries, size, now))
        if self.state is READING and upto == self.head:
            self.state = LIVE

    def passed(self, upto: int) -> None:
        """Everything up to `upto` is settled without a word to the link (nothing in it for a wire without
        ranges)."""
        self.sent = upto
        if upto > self.head:
            self.head = upto
        if not self._flights and upto > self.acked:
            self.acked = upto
        if self.state is READING and upto == self.head:
            self.state = LIVE

    def ack(self, upto: int) -> bool:
        """The session took custody up to `upto`. False if it was never sent that far: the peer is wrong."""
        if upto > self.sent:
            return False
        if upto > self.acked:
            self.acked = upto
        if upto == self.sent:  # mostly it is all that was sent
            self.entries = self.bytes = 0
            self._flights = None
            return True
        flights, landed = self._flights or [], 0
        for end, entries, size, _ in flights:
            if end > upto:
                break
            landed += 1
            self.entries -= entries
            self.bytes -= size
        del flights[:landed]
        self._flights = flights or None
        return True

    def is_awaited(self) -> bool:
        """Something is on its way, or was passed and not acknowledged."""
        return self._flights is not None or self.sent > self.acked

    def settled(self, unacked: int) -> int | None:
        """How far the peer's system has taken what was sent, of which it has not yet taken `unacked` bytes:
        the newest, at the most. None: it took no whole flight."""
        if unacked <= 0:
            return self.sent
        for upto, _, size, _ in reversed(self._flights or ()):
            if unacked <= 0:
                return upto
            unacked -= size
        return None

    def may_unclog(self, max_entries: int, max_bytes: int) -> bool:
        """Half of the window is free again: enough to make a read worth its while."""
        return self.state is CLOGGED and self.entries * 2 <= max_entries and self.bytes * 2 <= max_bytes

    def clog(self) -> None:
        """The link has unsent bytes, or the window is full."""
        self.state = CLOGGED

    def unclog(self) -> Step:
        """The link is empty and the window has room again."""
        if self.state is not CLOGGED:
            return HOLD
        if self.sent < self.head:
            self.state = READING
            return READ
        self.state = LIVE
        return HOLD

    def unacked_since(self) -> float | None:
        """When the oldest unacknowledged entries were sent; None if there are none."""
        return self._flights[0][3] if self._flights else None
