"""One connection's traffic inside the seal: messages in, numbered datagrams out, and the other way round.

No socket, no clock, no dice: `now` is an argument (seconds that do not run backwards), and `due` says when to
ask again. The caller seals what `datagrams` gives, and feeds what it has opened to `receive`.

Most connections of a node are silent most of the time, and say one thing at a time when they do. That much a
`Lone` does; the two halves that do all the rest are made when it is needed, and dropped when nothing is
queued, on its way, held or owed any more. A flow that has nothing to do is a few bytes (`rest`), if its owner
likes to keep these instead.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from math import inf

from .incoming import Incoming, is_new
from .lone import Lone
from .messages import Ack, Close, Data, Forget, Fragment, Note, parse
from .outgoing import Outgoing
from .pieces import MAX_MESSAGE, PIECE
from .recovery import ANSWER_DELAY_S, Recovery

__all__ = ("Flow",)


class Flow:
    """The state machine of one connection, either end.

    :param max_resends: send a message again at most so often, then give it up; 0: as often as it takes; -1:
        not once.
    :param asleep: the `rest` of the one that it goes on from.

    :ivar notes: what came for the connection or its path: taken, and set to None, by whoever it is for.
    :ivar is_clogged: for its owner, as `is_resuming`: the receiver was told to stop sending. The latter: to
        read on is decided, and done in a moment.
    """

    MAX_MESSAGE = MAX_MESSAGE
    """Bytes of the largest message that `send` takes."""

    __slots__ = ("_attempts", "_counts", "_in", "_lone", "_out", "is_clogged", "is_resuming", "notes")

    def __init__(self, max_resends: int = 0, asleep: bytes = b"") -> None:
        self.notes: list[Note] | None = None
        self.is_clogged = self.is_resuming = False
        self._attempts = max(max_resends, 0) + 1 if max_resends else 0
        self._lone = Lone.unpacked(asleep)  # counts only while the halves are not there
        self._counts = (0, 0, 0)  # lost, resent, given up, while the halves are not there
        self._out: Outgoing | None = None  # both halves are there, or neither
        self._in: Incoming | None = None

    # -------------------------------------------------------------------------------------------- sending

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        """Queue a message. What has the same `order` arrives in the order of the calls, None is an order too;
        and with another `order` it arrives after all that was sent before with None.

        :raises MessageTooLarge: above MAX_MESSAGE; nothing is queued.
        """
        if self._out is not None or not self._lone.send(data, order):
            (self._out or self._wake()).send(data, order)

    def say(self, message: bytes) -> None:
        """Put a message of `messages` into the next datagram, once, whatever becomes of it.

        :raises ValueError: above 1,159 bytes.
        """
        if len(message) > PIECE:
            raise ValueError("no datagram has room for this")
        (self._out or self._wake()).said.append(message)

    def next_number(self) -> int:
        """A number for a datagram that the caller makes itself and the flow does not wait for."""
        if self._out is not None:
            return self._out.sent([], 0.0)
        self._lone.number += 1
        return self._lone.number - 1

    def datagrams(self, now: float, judged: float = inf) -> Iterable[tuple[int, bytes]]:
        """Number and payload of each datagram to seal and send now; the caller exhausts the iterator.

        :param judged: what came later than this may be unread: by then silence proves nothing.
        """
        judged = min(judged, now)
        if self._out is None:
            datagrams = self._lone.datagrams(now, judged)
            if datagrams is not None:
                return datagrams
            self._wake()
        assert self._out is not None
        assert self._in is not None
        return self._filled(self._out, self._in, now, judged)

    def _filled(
        self, out: Outgoing, arrived: Incoming, now: float, judged: float
    ) -> Iterator[tuple[int, bytes]]:
        out.detect(judged)
        while True:
            parts: list[bytes] = []
            room = PIECE
            while out.said and len(out.said[0]) <= room:
                room -= len(out.said[0])
                parts.append(out.said.pop(0))
            pieces = out.fill(room, now)
            for piece in pieces:
                parts.append(piece.head)
                parts.append(piece.body)
            if arrived.ack_at is not None and (parts or arrived.ack_at <= now):
                parts.append(arrived.ack())
            if not parts:
                break
            yield out.sent(pieces, now), b"".join(parts)
        if out.idle and arrived.idle:
            self._sleep(out, arrived)

    def due(self) -> float | None:
        """When `datagrams` must be asked again if nothing else happens; None: not before something does."""
        out, arrived = self._out, self._in
        if out is None or arrived is None:
            return self._lone.due()
        due = out.due()
        if arrived.ack_at is not None and (due is None or arrived.ack_at < due):
            due = arrived.ack_at
        return due

    def unsent(self) -> int:
        """Bytes that are held for what no datagram has carried yet; a small message takes 200."""
        if self._out is not None:
            return self._out.unsent
        lone = self._lone
        return 0 if lone.piece is None or lone.flight >= 0 else lone.piece.held_bytes

    def unacked(self) -> int:
        """Bytes given to `send` that the peer has not acknowledged."""
        if self._out is not None:
            return self._out.unacked
        return 0 if self._lone.piece is None else len(self._lone.piece.body)

    def moved(self) -> None:
        """The path changed: what is on its way is lost, and nothing is known of the new one."""
        (self._out or self._wake()).moved()

    # ------------------------------------------------------------------------------------------ receiving

    @property
    def largest(self) -> int:
        """The largest number of a datagram taken so far; -1: none."""
        return self._lone.largest if self._in is None else self._in.largest

    def seen(self, number: int) -> bool:
        """A replay, or too old to tell: drop the datagram unopened."""
        arrived = self._lone if self._in is None else self._in
        return not is_new(number, arrived.largest, arrived.taken)

    def receive(
        self, number: int, payload: bytes, now: float, ack_delay_s: float = ANSWER_DELAY_S
    ) -> list[bytes]:
        """Take an opened datagram that was not `seen`; the messages to hand over now, in order.

        :param ack_delay_s: so long its acknowledgement may wait for something that it can ride with.
        :raises MalformedDatagram: the connection must end.
        """
        messages = list(parse(payload))  # whole before anything changes
        out = self._out
        if out is None:
            taken = self._lone.receive(number, messages, now, ack_delay_s)
            if taken is not None:
                return taken
            out = self._wake()
        arrived = self._in
        assert arrived is not None
        ready: list[bytes] = []
        into = ready if arrived.ready is None else arrived.ready
        answer, room = False, True
        for message in messages:
            if isinstance(message, Data):
                answer = True
                room &= arrived.data(message, into)
            elif isinstance(message, Ack):
                out.acked(message, now)
            elif isinstance(message, Fragment):
                answer = True
                room &= arrived.fragment(message, into)
            elif isinstance(message, Forget):
                answer = True
                arrived.forget(message, into)
            elif self.notes is None:
                self.notes = [message]
            else:
                self.notes.append(message)
        if room:
            arrived.mark(number, answer, now, ack_delay_s)
        else:
            arrived.refuse(now)
        return ready

    def settle(self, payload: bytes, now: float) -> None:
        """Take of an opened datagram only what it acknowledges, and a CLOSE: nobody reads any more. The
        datagram itself is not acknowledged, so the peer keeps what else is in it.

        :raises MalformedDatagram: the connection must end.
        """
        messages = list(parse(payload))
        out = self._out or self._wake()
        for message in messages:
            if isinstance(message, Ack):
                out.acked(message, now)
            elif isinstance(message, Close):
                self.notes = [message]

    def pause(self) -> None:
        """Hand over nothing until `resume`."""
        if self._in is None:
            self._wake()
        assert self._in is not None
        self._in.pause()

    @property
    def is_paused(self) -> bool:
        return self._in is not None and self._in.ready is not None

    def resume(self) -> list[bytes]:
        """Hand over again, first these."""
        return self._in.resume() if self._in else []

    # -------------------------------------------------------------------------------------------- counters

    @property
    def sent(self) -> int:
        """Datagrams sent, and the number of the next one."""
        return self._lone.number if self._out is None else self._out.number

    # Since this object was made: whoever keeps the `rest` alone does without.

    @property
    def lost(self) -> int:
        """Datagrams that counted as lost."""
        return self._counts[0] if self._out is None else self._out.lost

    @property
    def resent(self) -> int:
        """Messages and fragments that were sent again."""
        return self._counts[1] if self._out is None else self._out.resent

    @property
    def given_up(self) -> int:
        """Messages that were lost too often."""
        return self._counts[2] if self._out is None else self._out.given_up

    # --------------------------------------------------------------------------------------- sleep and wake

    def rest(self) -> bytes:
        """Bytes of which another is made that goes on from here. b"": it has something to do, or there is
        more to it."""
        out, arrived = self._out, self._in
        if out is not None and arrived is not None:
            if not (out.idle and arrived.idle):
                return b""
            self._sleep(out, arrived)
        return self._lone.packed()

    def _wake(self) -> Outgoing:
        lone = self._lone
        out = Outgoing(lone.recovery, self._attempts, lone.number, lone.outs)
        out.lost, out.resent, out.given_up = self._counts
        if lone.piece is not None:
            out.adopt(lone.piece, lone.order, lone.flight, lone.sent_at)
        self._out = out
        self._in = Incoming(lone.largest, lone.taken, lone.ins, lone.ack_at)
        return out

    def _sleep(self, out: Outgoing, arrived: Incoming) -> None:
        path = out.recovery
        # Nothing is on its way that another message could overtake: which channel had which order is over.
        self._lone = Lone(
            arrived.largest,
            arrived.taken,
            out.number,
            Recovery(path.srtt, path.rttvar, path.best, path.window),
            out.channels.nexts,
            arrived.nexts,
        )
        self._counts = (out.lost, out.resent, out.given_up)
        self._out = self._in = None
