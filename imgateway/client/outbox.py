"""Publishes that have no final word yet, in order. Pure: `now` is an argument, and nothing here sends.

Reliability belongs to the session and not to a link: a link that ends takes nothing with it. On the next one
everything that is left is sent again, in the order of the calls, and what may have been sent before says so.
"""

from __future__ import annotations

from collections import deque

from msgspec.structs import replace

from imgateway.frames import RING_KINDS, Limits, Publish

__all__ = ("Outbox", "Parcel")


class Parcel:
    """One publish on its way. `first_sent`: when it may first have left, None: never."""

    __slots__ = ("first_sent", "on_link", "publish", "settled")

    def __init__(self, publish: Publish, first_sent: float | None) -> None:
        self.publish = publish
        self.first_sent = first_sent
        self.on_link = False
        self.settled = False

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """It may have left so long ago that the gateway would not recognise a repeat; 0 s: it always does."""
        if self.first_sent is None:
            return False
        dedup_s = limits.dedup_s
        if limits.rooms_dedup_s and any(address.kind in RING_KINDS for address in self.publish.to):
            dedup_s = min(dedup_s or limits.rooms_dedup_s, limits.rooms_dedup_s)
        return now - self.first_sent >= dedup_s > 0


class Outbox:
    """At most `max_messages` and `max_bytes` of bodies; what comes beyond waits outside.

    The parcels that were sent on this link are always a prefix of the order, minus what was settled.
    """

    def __init__(self, max_messages: int = 1_000, max_bytes: int = 16_777_216) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.in_flight = 0
        self._bytes = 0
        self._parcels: dict[str, Parcel] = {}
        self._unsent: deque[Parcel] = deque()

    def __len__(self) -> int:
        return len(self._parcels)

    def has_room(self) -> bool:
        """One more may come, even if it is larger than what is left of the bytes: none is ever stuck."""
        return len(self._parcels) < self.max_messages and self._bytes < self.max_bytes

    def add(self, publish: Publish, first_sent: float | None = None) -> Parcel:
        """Take one at the end; its msg_id must not be in here."""
        parcel = self._parcels[publish.msg_id] = Parcel(publish, first_sent)
        self._unsent.append(parcel)
        self._bytes += len(publish.body)
        return parcel

    def get(self, msg_id: str) -> Parcel | None:
        return self._parcels.get(msg_id)

    def next(self, window: int) -> Parcel | None:
        """The one to send next; None: all are on the link, or `window` of them wait for their final word."""
        if self.in_flight >= window:
            return None
        while self._unsent:
            if not self._unsent[0].settled:
                return self._unsent[0]
            self._unsent.popleft()
        return None

    def send(self, now: float) -> Publish:
        """The frame for what `next` returned, which counts as sent from here on."""
        parcel = self._unsent.popleft()
        parcel.on_link = True
        self.in_flight += 1
        if parcel.first_sent is not None:
            return replace(parcel.publish, resent=True)
        parcel.first_sent = now
        return parcel.publish

    def settle(self, msg_id: str) -> Parcel | None:
        """The final word came: forget it. None: not in here, such as the second of two acknowledgements."""
        parcel = self._parcels.pop(msg_id, None)
        if parcel is not None:
            self._bytes -= len(parcel.publish.body)
            self.in_flight -= parcel.on_link
            parcel.settled = True
        return parcel

    def link_lost(self) -> list[Parcel]:
        """Everything waits for the next link; returns what does not (qos 0), already forgotten."""
        dropped = [parcel for parcel in self._parcels.values() if parcel.publish.qos == 0]
        for parcel in dropped:
            self.settle(parcel.publish.msg_id)
        for parcel in self._parcels.values():
            parcel.on_link = False
        self._unsent = deque(self._parcels.values())
        self.in_flight = 0
        return dropped

    def overdue(self, now: float, limits: Limits) -> list[Parcel]:
        """Forget and return those that the gateway might no longer recognise as repeats.

        What is on a link is left alone: it is not going to be sent again there.
        """
        late = [
            parcel
            for parcel in self._parcels.values()
            if not parcel.on_link and parcel.is_overdue(now, limits)
        ]
        for parcel in late:
            self.settle(parcel.publish.msg_id)
        return late

    def clear(self) -> list[Parcel]:
        """Forget and return all."""
        left = list(self._parcels.values())
        for parcel in left:
            self.settle(parcel.publish.msg_id)
        return left
