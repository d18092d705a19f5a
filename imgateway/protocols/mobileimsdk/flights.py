"""What was delivered over one connection and has no receipt yet, in order.

Receivers name what they received by its sender and its fp, in any order; a log's position can only move over
what is complete. What wants no receipt has arrived when the receiver is heard again.
"""

from __future__ import annotations

from collections import deque
from math import inf

__all__ = ("ONCE_MORE_S", "Flights")

ONCE_MORE_S = 5.0
"""Without a receipt for so long a message is sent once more, and then no more."""

Key = tuple[str, str]


class Flight:
    """One entry on its way. `key` None: no receipt is awaited; `data` empty: not to be sent again."""

    __slots__ = ("data", "key", "loose", "sent_at", "upto")

    def __init__(self, upto: int, key: Key | None, data: bytes, sent_at: float) -> None:
        self.upto = upto
        self.key = key
        self.loose = key is None
        self.data = data
        self.sent_at = sent_at


class Flights:
    """The flights of one connection; its node lets as many out as the window has."""

    __slots__ = ("_loose", "_open")

    def __init__(self) -> None:
        self._open: deque[Flight] = deque()
        self._loose = 0

    def __len__(self) -> int:
        return len(self._open)

    def began(self, upto: int, key: Key | None, data: bytes, now: float) -> None:
        """An entry went out. `key`: the sender and the fp that its receipt will have; None: it wants none."""
        self._open.append(Flight(upto, key, data if key is not None else b"", now))
        self._loose += key is None

    def passed(self, upto: int) -> None:
        """Up to `upto` there was nothing more to send."""
        if self._open:
            self._open[-1].upto = upto

    def heard(self) -> int:
        """The receiver said something: what wants no receipt has arrived. The position that this makes, or
        0."""
        if not self._loose:
            return 0
        for flight in self._open:
            flight.loose = False
        self._loose = 0
        return self._settled()

    def received(self, key: Key) -> int:
        """A receipt: the oldest flight of this key has arrived. The position that this makes, or 0."""
        for flight in self._open:
            if flight.key == key:
                flight.key, flight.data = None, b""
                return self._settled()
        return 0

    def again(self, now: float, one: bool) -> tuple[list[bytes], float]:
        """What is to be sent once more, at most one if `one`, and when to ask next."""
        due: list[bytes] = []
        for flight in self._open:
            if flight.data:
                if now < flight.sent_at + ONCE_MORE_S or (one and due):
                    return due, max(now, flight.sent_at + ONCE_MORE_S)
                due.append(flight.data)
                flight.data = b""
        return due, inf

    def owed_since(self) -> float:
        """When the oldest that wants a receipt was sent; inf: none does."""
        return next((flight.sent_at for flight in self._open if flight.key is not None), inf)

    def _settled(self) -> int:
        upto = 0
        while self._open and self._open[0].key is None and not self._open[0].loose:
            upto = self._open.popleft().upto
        return upto
