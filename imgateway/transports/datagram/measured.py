"""A client's connection that keeps account of every datagram, for whoever measures a path.

What the peer has taken is told by its ACKs, what it has sent by the numbers that arrive: nothing is added for
it but the CHALLENGEs that try how large a datagram may be.
"""

from __future__ import annotations

import secrets
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imgateway.interfaces import IMeasured, PathStatistics

from .client import ClientConnection
from .flow import Flow
from .messages import Ack, Answer, Note, challenge, padding, parse
from .packets import CLEAR_BYTES, TAG_BYTES
from .recovery import ANSWER_DELAY_S

__all__ = ("MeasuredConnection",)


class MeasuredFlow(Flow):
    """Remembers which datagrams arrived, at either end."""

    __slots__ = ("came", "taken")

    def __init__(self, max_resends: int = 0) -> None:
        super().__init__(max_resends)
        self.came: set[int] = set()
        """Numbers of the peer's."""
        self.taken: set[int] = set()
        """Numbers of ours that the peer has acknowledged."""

    def rest(self) -> bytes:
        """Nothing: it cannot be made again, for the account is in no packed state."""
        return b""

    def receive(
        self, number: int, payload: bytes, now: float, ack_delay_s: float = ANSWER_DELAY_S
    ) -> list[bytes]:
        messages = super().receive(number, payload, now, ack_delay_s)
        self.came.add(number)
        for message in parse(payload):
            if isinstance(message, Ack):
                bits = (bit for bit in range(64) if message.map >> bit & 1)
                self.taken.update((message.largest, *(message.largest - 1 - bit for bit in bits)))
        return messages


@implementer(IMeasured)
class MeasuredConnection(ClientConnection):
    """A client's connection with `IMeasured`."""

    __slots__ = ("_answered", "_tries")

    flow_kind = MeasuredFlow

    def __init__(self, port: Any, place: Any) -> None:
        super().__init__(port, place)
        self._tries: dict[int, int] = {}  # numbers of CHALLENGEs → bytes
        self._answered = 0

    def statistics(self) -> PathStatistics:
        flow, tries = self._flow, self._tries
        if not isinstance(flow, MeasuredFlow):  # before the ACCEPT, or over
            return PathStatistics(0, 0, 0, 0, 0, 0, 0)
        known = set(range(max(flow.taken, default=-1) + 1)) - tries.keys()
        due = set(range(max(flow.came, default=-1) + 1))
        # What was answered has arrived, even if its acknowledgement was lost.
        up = [self._answered, *(size for number, size in tries.items() if number in flow.taken)]
        return PathStatistics(
            sent=len(known),
            lost_up=len(known - flow.taken),
            received=len(due),
            lost_down=len(due - flow.came),
            resent=flow.resent,
            largest_up=max(up),
            largest_down=self._answered,
        )

    def challenge(self, size: int) -> None:
        if self._flow is None or self._waiting is not None:
            return
        port: Any = self._port
        port.never_fragment()
        question = challenge(secrets.token_bytes(8))
        number = self._flow.next_number()
        self._tries[number] = size
        self._write(number, question + padding(size - self._around - len(question)), self.place)

    def rebind(self) -> Deferred[None]:
        port: Any = self._port
        rebinding: Deferred[None] = port.rebind()
        return rebinding

    def _noted(self, notes: list[Note], address: bytes | None, size: int) -> None:
        super()._noted(notes, address, size)
        if any(isinstance(note, Answer) for note in notes):
            self._answered = max(self._answered, size + self._around)

    @property
    def _around(self) -> int:
        """Bytes of a datagram beside its messages."""
        return CLEAR_BYTES + (TAG_BYTES if self.secure else 0)
