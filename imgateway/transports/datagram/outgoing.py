"""What is to be sent: messages cut into pieces, the flights they are on, and what has to fly again.

A piece is a whole message, one fragment of a larger one, or a FORGET. It waits in its channel's queue, is in
exactly one flight (the pieces of one datagram), or has come back from a lost one and waits to go again before
all that is new. Channels take turns, so that a log with much to say holds up neither the others nor control.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from heapq import heappop, heappush
from itertools import count

from msgspec import Struct

from .messages import (
    ACK_BYTES,
    CHANNELS,
    FRAGMENTS,
    Ack,
    MalformedDatagram,
    MessageTooLarge,
    data_head,
    forget,
    fragment_head,
)
from .recovery import PROBES, REORDERING, Recovery

__all__ = ("CHUNK", "MAX_MESSAGE", "ROOM", "Outgoing", "Piece")

ROOM = 1_172
"""Bytes for messages in a datagram: 1,200 pass everywhere (RFC 9000 §14), and the seal takes 28."""

PIECE = ROOM - ACK_BYTES
"""The largest piece: an ACK must not have to wait for a datagram of its own."""

CHUNK = PIECE - 24
"""Bytes of a message in one fragment: 24 before it are the most, with numbers of 63 bits."""

MAX_MESSAGE = FRAGMENTS * CHUNK

AHEAD = 64
"""From a channel's oldest unacknowledged message so far and no further: the receiver holds as many."""

BROKEN, BROKEN_PARTS = 4, 262_144 // CHUNK
"""Fragmented messages unacknowledged, and their fragments: the receiver puts together no more at a time."""

_FORGET = -1


class Piece(Struct, gc=False):
    """What is sent and resent as one. `serial` rises in the order of `send`; `parts` of one message."""

    serial: int
    channel: int
    number: int
    parts: int
    head: bytes
    body: bytes
    losses: int = 0


class _Channel:
    """What a channel has unsent and unacknowledged."""

    __slots__ = ("forget", "forgotten", "queue", "unacked")

    def __init__(self) -> None:
        self.queue: deque[Piece] = deque()
        self.unacked: dict[int, int] = {}  # number, rising → pieces unacknowledged; 0: given up
        self.forget: Piece | None = None  # the newest FORGET while it is unacknowledged
        self.forgotten = 0  # the first number that it is about


class Outgoing:
    """The sending half of a flow while it has something to do.

    :param attempts: give a message up that was lost so often; 0: never.
    :param number: the number of the next datagram.
    :param nexts: per channel the number of its next message.
    :param keys: the `order` of channels 1, 2, …; `turn`: which of a full set is replaced next.
    """

    __slots__ = (
        "_attempts",
        "_blocked",
        "_broken",
        "_busy",
        "_channel_of",
        "_flights",
        "_largest",
        "_ready",
        "_resend",
        "_serial",
        "given_up",
        "keys",
        "lost",
        "nexts",
        "number",
        "recovery",
        "resent",
        "said",
        "turn",
        "unacked",
        "unsent",
    )

    def __init__(
        self,
        recovery: Recovery,
        attempts: int = 0,
        number: int = 0,
        nexts: Iterable[int] = (0,),
        keys: tuple[Hashable, ...] = (),
        turn: int = 0,
    ) -> None:
        self.recovery = recovery
        self.number = number
        self.nexts = list(nexts)
        self.keys = keys
        self.turn = turn
        self.lost = self.resent = self.given_up = 0
        self.said: list[bytes] = []  # goes once, with the next datagram
        self.unsent = 0  # bytes that were in no datagram yet
        self.unacked = 0  # these, and bytes on their way
        self._attempts = attempts
        self._channel_of: dict[Hashable, int] | None = None  # of `keys`, once somebody asks
        self._busy: dict[int, _Channel] = {}
        self._ready: deque[int] = deque()  # channels with a queue, the next in turn first
        self._blocked: list[int] = []  # channels with a queue that wait for an acknowledgement
        self._broken: dict[tuple[int, int], int] = {}  # fragmented messages on their way → fragments
        self._flights: dict[int, tuple[float, list[Piece]]] = {}  # by number, rising: when it went, what with
        self._resend: list[tuple[int, Piece]] = []  # a heap by serial
        self._serial = 0
        self._largest = -1  # the largest number that the peer acknowledged

    @property
    def idle(self) -> bool:
        """Nothing to send and nothing on its way."""
        return not (self._flights or self._ready or self._resend or self.said or self._blocked)

    # ------------------------------------------------------------------------------------------ queueing

    def send(self, data: bytes, order: Hashable | None) -> None:
        """Queue a message. :raises MessageTooLarge: above MAX_MESSAGE."""
        size = len(data)
        if size > MAX_MESSAGE:
            raise MessageTooLarge(f"a message over UDP has at most {MAX_MESSAGE:,} bytes, this one {size:,}")
        channel, barrier = (0, 0) if order is None else self._channel(order)
        number = self.nexts[channel]
        self.nexts[channel] = number + 1
        busy = self._busy.get(channel)
        if busy is None:
            busy = self._busy[channel] = _Channel()
        queue = busy.queue
        if not queue:
            self._ready.append(channel)
        self.unsent += size
        self.unacked += size
        serial = self._serial
        head = data_head(channel, number, barrier, size)
        if len(head) + size <= PIECE:
            queue.append(Piece(serial, channel, number, 1, head, data))
            self._serial = serial + 1
            return
        parts = -(-size // CHUNK)
        for index in range(parts):
            body = data[index * CHUNK : (index + 1) * CHUNK]
            head = fragment_head(channel, number, barrier, index, parts - 1, len(body))
            queue.append(Piece(serial + index, channel, number, parts, head, body))
        self._serial = serial + parts

    def _channel(self, order: Hashable) -> tuple[int, int]:
        """The channel for this `order`, and the barrier of its next message.

        The first message waits for all that was sent over channel 0 before it, the later ones only for the
        first: no Deliver overtakes its Welcome, and a lost answer does not hold up a log.
        """
        channels = self._channel_of
        if channels is None:
            channels = self._channel_of = dict(zip(self.keys, count(1)))
        channel = channels.get(order)
        if channel is not None:
            return channel, 0
        if len(self.keys) < CHANNELS - 1:
            self.keys = (*self.keys, order)
            channel = len(self.keys)
        else:
            self.turn, at = (self.turn + 1) % (CHANNELS - 1), self.turn
            del channels[self.keys[at]]
            self.keys = (*self.keys[:at], order, *self.keys[at + 1 :])
            channel = at + 1
        channels[order] = channel
        if channel == len(self.nexts):
            self.nexts.append(0)
        return channel, self.nexts[0]

    # ----------------------------------------------------------------------------------------- datagrams

    def fill(self, room: int, now: float) -> list[Piece]:
        """Take what goes into the next datagram; empty if nothing may go now."""
        pieces: list[Piece] = []
        recovery = self.recovery
        if len(self._flights) >= recovery.window or recovery.free_at() > now:
            return pieces
        while self._resend:
            piece = self._resend[0][1]
            room -= len(piece.head) + len(piece.body)
            if room < 0:
                return pieces
            heappop(self._resend)
            if self._alive(piece):
                self.resent += 1
                pieces.append(piece)
            else:
                self.unacked -= len(piece.body)
        ready = self._ready
        while ready:
            channel = ready[0]
            busy = self._busy[channel]
            piece = busy.queue[0]
            number = piece.number
            if number not in busy.unacked and not self._may_start(busy, piece):
                self._blocked.append(ready.popleft())
                continue
            room -= len(piece.head) + len(piece.body)
            if room < 0:
                break
            if number not in busy.unacked:
                busy.unacked[number] = piece.parts
                if piece.parts > 1:
                    self._broken[channel, number] = piece.parts
            busy.queue.popleft()
            if not busy.queue:
                ready.popleft()
            elif len(ready) > 1:
                ready.rotate(-1)
            self.unsent -= len(piece.body)
            pieces.append(piece)
        return pieces

    def _may_start(self, busy: _Channel, piece: Piece) -> bool:
        if busy.unacked or busy.forget:
            oldest = busy.forgotten if busy.forget else next(iter(busy.unacked))
            if piece.number - oldest >= AHEAD:
                return False
        if piece.parts == 1:
            return True
        broken = self._broken.values()
        return len(broken) < BROKEN and sum(broken) + piece.parts <= BROKEN_PARTS

    def sent(self, pieces: list[Piece], now: float) -> int:
        """The number for a datagram that carries these pieces; none of them: it is not waited for."""
        number = self.number
        self.number = number + 1
        if pieces:
            self._flights[number] = (now, pieces)
            self.recovery.sent(now)
        return number

    def due(self) -> float | None:
        """When `detect` or `fill` will have something to do if nothing arrives before."""
        due = None
        for number, (sent_at, _) in self._flights.items():
            due = sent_at + self._patience(number)
            break
        if (self._ready or self._resend) and len(self._flights) < self.recovery.window:
            free = self.recovery.free_at()
            due = free if due is None else min(due, free)
        return due

    # --------------------------------------------------------------------------------- acknowledged, lost

    def acked(self, ack: Ack, now: float) -> None:
        """The peer took these datagrams. :raises MalformedDatagram: one of them was never sent."""
        largest = ack.largest
        if largest >= self.number:
            raise MalformedDatagram("an acknowledgement of what was never sent")
        self._largest = max(self._largest, largest)
        taken = ack.map << 1 | 1
        newly = []
        for number in self._flights:
            if number > largest:
                break
            if taken >> (largest - number) & 1:
                newly.append(number)
        if not newly:
            self.recovery.heard()
            return
        limited = len(self._flights) >= self.recovery.window
        sent_at = now
        for number in newly:
            sent_at, pieces = self._flights.pop(number)
            for piece in pieces:
                self._arrived(piece)
        self.recovery.acked(len(newly), now - sent_at, limited)
        if self._blocked:  # something may go on; `fill` looks who
            self._ready.extend(self._blocked)
            self._blocked.clear()

    def _arrived(self, piece: Piece) -> None:
        self.unacked -= len(piece.body)
        busy = self._busy[piece.channel]
        if piece.number == _FORGET:
            if piece is busy.forget:
                busy.forget = None
                for key in [key for key in self._broken if key[0] == piece.channel]:
                    if key[1] not in busy.unacked:
                        del self._broken[key]
            return
        left = busy.unacked.get(piece.number)
        if not left:
            return
        if left > 1:
            busy.unacked[piece.number] = left - 1
            return
        del busy.unacked[piece.number]
        if piece.parts > 1:
            del self._broken[piece.channel, piece.number]
        if self._attempts:
            self._forget(piece.channel, busy)

    def _patience(self, number: int) -> float:
        """How long an answer to this datagram is waited for."""
        recovery = self.recovery
        if number + REORDERING <= self._largest:
            return min(recovery.loss_delay, recovery.rto)
        return recovery.rto

    def detect(self, now: float) -> None:
        """Find out which datagrams are lost by now; their pieces go again.

        After a silence only the oldest are: it may be the answers that were lost, and what answers their
        repetition tells of the others too.
        """
        late = []
        probes = 0
        for number, (sent_at, _) in self._flights.items():
            if probes == PROBES or sent_at + self._patience(number) > now:
                break
            if number > self._largest:
                probes += 1
            late.append(number)
        for number in late:
            self._lost(number)
        if probes:
            self.recovery.timed_out()

    def moved(self) -> None:
        """What is on its way went to where nobody is any more; the new path is unknown."""
        for number in list(self._flights):
            self._lost(number)
        self.recovery = Recovery()

    def _lost(self, number: int) -> None:
        _, pieces = self._flights.pop(number)
        self.lost += 1
        self.recovery.lost(number, self.number)
        for piece in pieces:
            piece.losses += 1
            if not self._alive(piece):
                self.unacked -= len(piece.body)
            elif 0 < self._attempts <= piece.losses and piece.number != _FORGET:
                self._give_up(piece)
            else:
                heappush(self._resend, (piece.serial, piece))

    # ------------------------------------------------------------------------------------------ giving up

    def _alive(self, piece: Piece) -> bool:
        busy = self._busy[piece.channel]
        if piece.number == _FORGET:
            return piece is busy.forget
        return bool(busy.unacked.get(piece.number))

    def _give_up(self, piece: Piece) -> None:
        busy = self._busy[piece.channel]
        busy.unacked[piece.number] = 0
        self.given_up += 1
        self.unacked -= len(piece.body)
        while busy.queue and busy.queue[0].number == piece.number:
            rest = busy.queue.popleft()
            self.unsent -= len(rest.body)
            self.unacked -= len(rest.body)
        if not busy.queue and piece.channel in self._ready:
            self._ready.remove(piece.channel)
        self._forget(piece.channel, busy)

    def _forget(self, channel: int, busy: _Channel) -> None:
        """Tell the peer to wait no longer for messages given up; not before all older ones are settled, for
        those may yet arrive."""
        unacked = busy.unacked
        gone = []
        for number, left in unacked.items():
            if left:
                break
            gone.append(number)
        if not gone:
            return
        for number in gone:
            del unacked[number]
        if busy.forget is None:
            busy.forgotten = gone[0]
        self._serial += 1
        piece = Piece(-self._serial, channel, _FORGET, 1, forget(channel, gone[-1] + 1), b"")
        busy.forget = piece
        heappush(self._resend, (piece.serial, piece))
