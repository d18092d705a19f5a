"""What is to be sent: messages cut into pieces, the flights they are on, and what has to fly again.

A piece is a whole message, one fragment of a larger one, or a FORGET. It waits in its channel's queue, is in
exactly one flight (the pieces of one datagram), or has come back from a lost one and waits to go again before
all that is new. Channels take turns, so that a log with much to say holds up neither the others nor control.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from heapq import heappop, heappush

from .channels import Channel, Channels
from .giving_up import FORGET_NUMBER, give_up, is_wanted, next_forget
from .messages import Ack, MalformedDatagram, MessageTooLarge
from .pieces import CHUNK, MAX_MESSAGE, Piece, cut
from .recovery import PROBES, REORDERING, Recovery

__all__ = ("Outgoing",)

AHEAD = 64
"""From a channel's oldest unacknowledged message so far and no further: the receiver holds as many."""

BROKEN, BROKEN_PARTS = 4, 262_144 // CHUNK
"""Fragmented messages unacknowledged, and their fragments: the receiver puts together no more at a time."""

LATE = 64
"""Datagrams taken for lost that are remembered: an ACK tells of no older ones."""


class Outgoing:
    """The sending half of a flow while it has something to do.

    :param attempts: give a message up that was lost so often; 0: never.
    :param number: the number of the next datagram.
    :param nexts: of its `Channels`.
    """

    __slots__ = (
        "_attempts",
        "_blocked",
        "_broken",
        "_flights",
        "_largest",
        "_late",
        "_probes",
        "_ready",
        "_resend",
        "_serial",
        "channels",
        "given_up",
        "lost",
        "number",
        "recovery",
        "resent",
        "said",
        "unacked",
        "unsent",
    )

    def __init__(
        self,
        recovery: Recovery,
        attempts: int = 0,
        number: int = 0,
        nexts: Iterable[int] = (0,),
    ) -> None:
        self.recovery = recovery
        self.number = number
        self.channels = Channels(nexts)
        self.lost = self.resent = self.given_up = 0
        self.said: list[bytes] = []  # goes once, with the next datagram
        self.unsent = 0  # bytes that are held for what was in no datagram yet
        self.unacked = 0  # bytes of messages that were not, and of those on their way
        self._attempts = attempts
        self._ready: deque[int] = deque()  # channels with a queue, the next in turn first
        self._blocked: list[int] = []  # … that wait for an acknowledgement, or for channel 0
        self._broken: dict[tuple[int, int], int] = {}  # fragmented messages on their way → fragments
        self._flights: dict[int, tuple[float, list[Piece]]] = {}  # by number, rising: when it went, what with
        self._late: dict[int, float] = {}  # the newest that were taken for lost → when they went
        self._resend: list[tuple[int, Piece]] = []  # a heap by serial
        self._probes = 0  # datagrams that a timeout lets go, however many are on their way
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
        channel, number, barrier = self.channels.place(order)
        queue = self.channels.busy[channel].queue
        if not queue:
            self._ready.append(channel)
        pieces = cut(data, self._serial, channel, number, barrier)
        self._serial += len(pieces)
        self.unacked += size
        for piece in pieces:
            self.unsent += piece.held_bytes
        queue.extend(pieces)

    def adopt(self, piece: Piece, order: Hashable | None, flight: int, sent_at: float) -> None:
        """Go on with a message that was numbered before there was this: nothing else is to be sent, or on its
        way.

        :param flight: the datagram that it went in, at `sent_at`; -1: in none yet.
        """
        busy = self.channels.adopt(piece.channel, order)
        self._serial = 1
        self.unacked = len(piece.body)
        if flight < 0:
            self.unsent = piece.held_bytes
            busy.queue.append(piece)
            self._ready.append(piece.channel)
        else:
            busy.unacked[piece.number] = 1
            self._flights[flight] = sent_at, [piece]

    # ----------------------------------------------------------------------------------------- datagrams

    def fill(self, room: int, now: float) -> list[Piece]:
        """Take what goes into the next datagram; empty if nothing may go now."""
        pieces: list[Piece] = []
        recovery = self.recovery
        if self._is_full() or recovery.free_at() > now:
            return pieces
        while self._resend:
            piece = self._resend[0][1]
            room -= len(piece.head) + len(piece.body)
            if room < 0:
                return pieces
            heappop(self._resend)
            if is_wanted(self.channels.busy[piece.channel], piece):
                self.resent += 1
                pieces.append(piece)
            else:
                self.unacked -= len(piece.body)
        ready = self._ready
        while ready:
            channel = ready[0]
            busy = self.channels.busy[channel]
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
            self.unsent -= piece.held_bytes
            pieces.append(piece)
            if channel == 0 and self._blocked and not (busy.queue and busy.queue[0].number == number):
                self._unblock()  # a message of channel 0 is on its way, which others may have waited for
        return pieces

    def _is_full(self) -> bool:
        return len(self._flights) >= self.recovery.window and not self._probes

    def _unblock(self) -> None:
        """Some channel may go on; `fill` looks which."""
        self._ready.extend(self._blocked)
        self._blocked.clear()

    def _may_start(self, busy: Channel, piece: Piece) -> bool:
        if piece.barrier:
            control = self.channels.busy[0].queue
            if control and control[0].number < piece.barrier:
                # It would lie at the receiver until what it waits for is there, and with others like it take
                # all the room and then, refused and repeated, the whole window: for ever.
                return False
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
            self._probes = max(self._probes - 1, 0)
        return number

    def due(self) -> float | None:
        """When `detect` or `fill` will have something to do if nothing arrives before."""
        due = None
        for number, (sent_at, _) in self._flights.items():
            due = sent_at + self._patience(number)
            break
        if (self._ready or self._resend) and not self._is_full():
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
        late = [number for number in self._late if number <= largest and taken >> (largest - number) & 1]
        late_sent_at = now
        for number in late:
            late_sent_at = self._late.pop(number)
        if not newly:
            if late:
                self.recovery.late(now - late_sent_at)
            else:
                self.recovery.heard()
            return
        self._probes = 0
        limited = len(self._flights) >= self.recovery.window
        sent_at = now
        for number in newly:
            sent_at, pieces = self._flights.pop(number)
            for piece in pieces:
                self._arrived(piece)
        self.recovery.acked(len(newly), now - sent_at, limited)
        if self._blocked:
            self._unblock()

    def _arrived(self, piece: Piece) -> None:
        self.unacked -= len(piece.body)
        busy = self.channels.busy[piece.channel]
        if piece.number == FORGET_NUMBER:
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
            # They go even if a halved window is still full of what went before: the answer to one of them is
            # what empties it.
            self._probes = probes
            self.recovery.timed_out()

    def moved(self) -> None:
        """What is on its way went to where nobody is any more; the new path is unknown."""
        for number in list(self._flights):
            self._lost(number)
        self._late.clear()  # what comes of them now tells of the old path
        self.recovery = Recovery()

    def _lost(self, number: int) -> None:
        sent_at, pieces = self._flights.pop(number)
        self._late[number] = sent_at
        if len(self._late) > LATE:
            del self._late[next(iter(self._late))]
        self.lost += 1
        self.recovery.lost(number, self.number)
        for piece in pieces:
            piece.losses += 1
            if not is_wanted(self.channels.busy[piece.channel], piece):
                self.unacked -= len(piece.body)
            elif 0 < self._attempts <= piece.losses and piece.number != FORGET_NUMBER:
                self._give_up(piece)
            else:
                heappush(self._resend, (piece.serial, piece))

    def _give_up(self, piece: Piece) -> None:
        busy = self.channels.busy[piece.channel]
        self.given_up += 1
        self.unacked -= len(piece.body)
        for rest in give_up(busy, piece.number):
            self.unsent -= rest.held_bytes
            self.unacked -= len(rest.body)
        if not busy.queue and piece.channel in self._ready:
            self._ready.remove(piece.channel)
        self._forget(piece.channel, busy)

    def _forget(self, channel: int, busy: Channel) -> None:
        self._serial += 1
        piece = next_forget(busy, channel, -self._serial)  # before all that goes again
        if piece is not None:
            heappush(self._resend, (piece.serial, piece))
