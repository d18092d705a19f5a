"""What a silent connection says now and then: one message and its acknowledgement, each way.

A Ping, its Pong, a push to somebody who is idle: of what a flow can do this needs little, and most flows need
no more for hours. So a flow begins like this and comes back to it, and makes its two halves when there is
more: a second message while one is on its way, a fragment, a loss, a pause. What it holds then, the halves go
on with. With nothing on its way it may be packed, and made again from that.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Hashable, Sequence

from .incoming import marked
from .messages import Ack, Data, Message, ack, data_head
from .pieces import PIECE, Piece
from .recovery import ANSWER_DELAY_S, Recovery

__all__ = ("Lone", "split")

_PACKED = struct.Struct("<IQIeeeB")
"""Datagrams: largest, taken; sent. The path: srtt, rttvar, best, window. Behind it the numbers of the
channels' next messages, 4 bytes each, the incoming one first; and in the last byte how long all this is."""

_UINT = 0xFFFF_FFFF
_MOST_OUTS = 50  # more than anybody follows, and its length fits into a byte
_LONGEST_S = 60_000.0
"""What a time is packed as at most."""


class Lone:
    """At most one small message on its way, at most one acknowledgement owed.

    :ivar largest: the largest datagram number taken, -1: none; `taken`: the map of the 64 before it.
    :ivar number: of the next datagram.
    :ivar ins: per incoming channel the number of the message that is handed over next; `outs`: per outgoing
        one that of its next message.
    :ivar ack_at: when an ACK must go; None: none is owed.
    :ivar piece: what is to be sent or on its way; `order` as it was sent with.
    :ivar flight: the datagram that it went in, at `sent_at`; -1: none yet.
    """

    __slots__ = (
        "ack_at",
        "flight",
        "ins",
        "largest",
        "number",
        "order",
        "outs",
        "piece",
        "recovery",
        "sent_at",
        "taken",
    )

    def __init__(
        self,
        largest: int,
        taken: int,
        number: int,
        recovery: Recovery,
        outs: Sequence[int] = (0,),
        ins: Sequence[int] = (0,),
    ) -> None:
        self.largest = largest
        self.taken = taken
        self.number = number
        self.recovery = recovery
        self.outs = list(outs)
        self.ins = list(ins)
        self.ack_at: float | None = None
        self.piece: Piece | None = None
        self.order: Hashable | None = None
        self.flight = -1
        self.sent_at = 0.0

    @property
    def idle(self) -> bool:
        """Nothing on its way, nothing owed."""
        return self.piece is None and self.ack_at is None

    # ------------------------------------------------------------------------------------------- sending

    def send(self, data: bytes, order: Hashable | None) -> bool:
        """Queue a message. False: it takes a whole flow, and nothing has changed."""
        if self.piece is not None:
            return False
        outs = self.outs
        # With nothing on its way any channel but that of control does: nothing is there to be overtaken.
        channel = 0 if order is None else 1
        number = outs[channel] if channel < len(outs) else 0
        head = data_head(channel, number, 0, len(data))
        if len(head) + len(data) > PIECE:
            return False
        if channel == len(outs):
            outs.append(0)
        outs[channel] = number + 1
        self.order = order
        self.piece = Piece(0, channel, number, 1, head, data)
        return True

    def datagrams(self, now: float, judged: float) -> Sequence[tuple[int, bytes]] | None:
        """As `Flow.datagrams`; None: it takes a whole flow."""
        piece = self.piece
        if piece is None:
            payload = b""
        elif self.flight < 0:
            self.flight, self.sent_at = self.number, now
            payload = piece.head + piece.body
        elif self.sent_at + self.recovery.rto > judged:
            payload = b""
        else:
            return None  # it seems to be lost
        if self.ack_at is not None and (payload or self.ack_at <= now):
            self.ack_at = None
            payload += ack(self.largest, self.taken)
        if not payload:
            return ()
        self.number += 1
        return ((self.number - 1, payload),)

    def due(self) -> float | None:
        """As `Flow.due`."""
        due = self.ack_at
        if self.piece is not None:
            going = 0.0 if self.flight < 0 else self.sent_at + self.recovery.rto
            if due is None or going < due:
                due = going
        return due

    # ----------------------------------------------------------------------------------------- receiving

    def receive(
        self, number: int, messages: Sequence[Message], now: float, ack_delay_s: float = ANSWER_DELAY_S
    ) -> list[bytes] | None:
        """The messages of a datagram that is new, as `Flow.receive` takes them; None: they take a whole flow,
        and nothing has changed."""
        data = answer = None
        for message in messages:
            if isinstance(message, Data) and data is None and self._is_due(message):
                data = message
            elif isinstance(message, Ack) and answer is None and not self._misses(message):
                answer = message
            else:
                return None
        if answer is not None and 0 <= self.flight <= answer.largest:
            self.piece = None
            self.flight = -1
            self.recovery.acked(1, now - self.sent_at, False)
        ready = []
        if data is not None:
            if data.number == self.ins[0]:
                self.ins[0] += 1
                ready.append(data.body)
            follows = self.ack_at is None and number == self.largest + 1
            self.ack_at = now + ack_delay_s if follows else now
        self.largest, self.taken = marked(number, self.largest, self.taken)
        return ready

    def _is_due(self, data: Data) -> bool:
        """It is the next message, or one that is repeated: in a crowd that waits for us most are."""
        return data.channel == 0 and data.number <= self.ins[0]

    def _misses(self, answer: Ack) -> bool:
        """It tells of a loss, or of what was never sent."""
        if not 0 <= self.flight <= answer.largest:
            return answer.largest >= self.number
        behind = answer.largest - self.flight
        return answer.largest >= self.number or behind > 64 or not (answer.map << 1 | 1) >> behind & 1

    # -------------------------------------------------------------------------------------- packed, unpacked

    def packed(self) -> bytes:
        """From which `unpacked` makes it again. b"": it is not idle, or there is more to it."""
        outs, ins, recovery = self.outs, self.ins, self.recovery
        if self.piece is not None or self.ack_at is not None or len(ins) > 1 or len(outs) > _MOST_OUTS:
            return b""
        if self.largest < 0 or max(self.largest, self.number, *ins, *outs) > _UINT:
            return b""
        head = _PACKED.pack(
            self.largest,
            self.taken,
            self.number,
            min(recovery.srtt, _LONGEST_S),
            min(recovery.rttvar, _LONGEST_S),
            min(recovery.best, _LONGEST_S),
            recovery.window,
        )
        nexts = array("I", ins + outs).tobytes()
        return b"%b%b%c" % (head, nexts, len(head) + len(nexts) + 1)

    @classmethod
    def unpacked(cls, packed: bytes) -> Lone:
        """b"": a new one."""
        if not packed:
            return cls(-1, 0, 0, Recovery())
        largest, taken, number, *path = _PACKED.unpack_from(packed)
        nexts = array("I", packed[_PACKED.size : -1])
        return cls(largest, taken, number, Recovery(*path), nexts[1:], nexts[:1])


def split(kept: bytes) -> tuple[bytes, bytes]:
    """What stands before something packed, and that itself."""
    size = kept[-1]
    return kept[:-size], kept[-size:]
