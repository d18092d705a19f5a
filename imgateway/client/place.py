"""Where a client stands in one log, and what it has to show. Pure."""

from __future__ import annotations

from collections import deque

from imgateway.client.values import Gap, Received
from imgateway.frames import RING_KINDS, LogKey, Pull

__all__ = ("FILTER_SIZE", "Item", "MessageId", "Place")

FILTER_SIZE = 1_000

MessageId = tuple[str, str, str]


class Place:
    """Where we stand in one log."""

    __slots__ = (
        "_order",
        "acked",
        "begun",
        "delivered",
        "epoch",
        "left",
        "log",
        "pulling",
        "received",
        "shown",
        "tail",
        "taken",
        "taken_epoch",
        "target",
        "told",
        "told_epoch",
        "unpullable",
    )

    def __init__(self, log: LogKey, epoch: int, position: int) -> None:
        self.log = log
        self.epoch = self.taken_epoch = epoch
        self.received = self.taken = position
        self.left = False  # we may have been out of it since: what it goes on beyond was not for us
        self.tail: Item | None = None  # the newest item of this log that is not taken yet
        self.shown: set[MessageId] = set()
        self._order: deque[MessageId] = deque()
        self.new_link()

    def new_link(self) -> None:
        self.delivered = self.acked = 0  # on this link: how far deliveries went, and our acknowledgements
        self.pulling: Pull | None = None  # that is out
        self.begun = 0  # where a Notify had us begin, if one did
        self.target = 0  # how far deliveries went that had to be dropped because of a hole
        self.told = self.told_epoch = 0  # how far the log goes by Notify
        self.unpullable = False

    @property
    def ring(self) -> bool:
        return self.log.address.kind in RING_KINDS

    @property
    def behind(self) -> bool:
        """A Notify told of more than there is here."""
        return bool(self.told) and (self.told_epoch != self.epoch or self.told > self.received)

    def show(self, ident: MessageId) -> bool:
        """False: it is among the last 1,000 that were shown from this log."""
        if ident in self.shown:
            return False
        self.shown.add(ident)
        self._order.append(ident)
        if len(self._order) > FILTER_SIZE:
            self.shown.discard(self._order.popleft())
        return True


class Item:
    """One thing to show. When it is taken, everything up to `mark` of its log is."""

    __slots__ = ("cost", "epoch", "mark", "place", "what")

    def __init__(self, place: Place | None, epoch: int, mark: int, what: Received | Gap, cost: int) -> None:
        self.place = place
        self.epoch = epoch
        self.mark = mark
        self.what = what
        self.cost = cost

    @property
    def loose(self) -> bool:
        """Nobody waits for our acknowledgement before there is more of it."""
        return self.place is None or self.place.ring
