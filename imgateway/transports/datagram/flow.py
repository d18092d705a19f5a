"""One connection's traffic inside the seal: messages in, numbered datagrams out, and the other way round.

No socket, no clock, no dice: `now` is an argument (seconds that do not run backwards), and `due` says when to
ask again. The caller seals what `datagrams` gives, and feeds what it has opened to `receive`.

Most connections of a node are silent most of the time. A flow with nothing queued, on its way, held or owed
is put to sleep: what must outlive the silence is packed into one bytes object, the halves that did the work
are dropped, and the next message makes them again. If that is all there is to keep, its owner may keep the
bytes alone.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Hashable, Iterator

from .incoming import Incoming, is_new
from .messages import Ack, Close, Data, Forget, Fragment, Note, parse
from .outgoing import Outgoing
from .pieces import MAX_MESSAGE, PIECE
from .recovery import MIN_WINDOW, Recovery

__all__ = ("REST_BYTES", "Flow")

_ASLEEP = struct.Struct("<QQ QIIII fff BBB")
"""Datagrams: largest + 1, taken; sent, received, lost, resent, given up. The path: srtt, rttvar, best,
window. Then turn, and how many outgoing channels there are. Behind it the numbers of the channels' next
messages, 8 bytes each, the outgoing ones first."""

REST_BYTES = _ASLEEP.size + 16
"""What is kept of a flow asleep that has a channel each way."""

_REPLAY = struct.Struct("<QQ")
_UINT = 0xFFFF_FFFF

_NEW = _ASLEEP.pack(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, MIN_WINDOW, 0, 1) + bytes(16)


class Flow:
    """The state machine of one connection, either end.

    :param now: seconds.
    :param max_resends: send a message again at most so often, then give it up; 0: as often as it takes; -1:
        not once.
    :param asleep: the `rest` of the one that it goes on from.
    """

    MAX_MESSAGE = MAX_MESSAGE
    """Bytes of the largest message that `send` takes."""

    __slots__ = ("_asleep", "_attempts", "_in", "_keys", "_out", "notes")

    def __init__(self, now: float, max_resends: int = 0, asleep: bytes = _NEW) -> None:
        self.notes: list[Note] | None = None
        """What came for the connection or its path: taken, and set to None, by whoever it is for."""
        self._attempts = max(max_resends, 0) + 1 if max_resends else 0
        self._asleep = asleep
        self._keys: tuple[Hashable, ...] = ()
        self._out: Outgoing | None = None  # both halves are there, or neither
        self._in: Incoming | None = None

    # -------------------------------------------------------------------------------------------- sending

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        """Queue a message. What has the same `order` arrives in the order of the calls, None is an order too;
        and with another `order` it arrives after all that was sent before with None.

        :raises MessageTooLarge: above MAX_MESSAGE; nothing is queued.
        """
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
        return (self._out or self._wake()).sent([], 0.0)

    def datagrams(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Number and payload of each datagram to seal and send now; the caller exhausts the iterator."""
        out, arrived = self._out, self._in
        if out is None or arrived is None:
            return
        out.detect(now)
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
            return None
        due = out.due()
        if arrived.ack_at is not None and (due is None or arrived.ack_at < due):
            due = arrived.ack_at
        return due

    def unsent(self) -> int:
        """Bytes that are held for what no datagram has carried yet; a small message takes 200."""
        return self._out.unsent if self._out else 0

    def unacked(self) -> int:
        """Bytes given to `send` that the peer has not acknowledged."""
        return self._out.unacked if self._out else 0

    def moved(self, now: float) -> None:
        """The path changed: what is on its way is lost, and nothing is known of the new one."""
        (self._out or self._wake()).moved()

    # ------------------------------------------------------------------------------------------ receiving

    @property
    def largest(self) -> int:
        """The largest number of a datagram taken so far; -1: none."""
        return self._in.largest if self._in else self._counter(0) - 1

    def seen(self, number: int) -> bool:
        """A replay, or too old to tell: drop the datagram unopened."""
        if self._in is None:
            largest, taken = _REPLAY.unpack_from(self._asleep)
            return not is_new(number, largest - 1, taken)
        return not is_new(number, self._in.largest, self._in.taken)

    def receive(self, number: int, payload: bytes, now: float) -> list[bytes]:
        """Take an opened datagram that was not `seen`; the messages to hand over now, in order.

        :raises MalformedDatagram: the connection must end.
        """
        messages = list(parse(payload))  # whole before anything changes
        out = self._out or self._wake()
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
            arrived.mark(number, answer, now)
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

    def resume(self) -> list[bytes]:
        """Hand over again, first these."""
        return self._in.resume() if self._in else []

    # -------------------------------------------------------------------------------------------- counters

    @property
    def sent(self) -> int:
        """Datagrams sent, and the number of the next one."""
        return self._out.number if self._out else self._counter(2)

    @property
    def received(self) -> int:
        """Datagrams taken."""
        return self._in.received if self._in else self._counter(3)

    @property
    def lost(self) -> int:
        """Datagrams that counted as lost."""
        return self._out.lost if self._out else self._counter(4)

    @property
    def resent(self) -> int:
        """Messages and fragments that were sent again."""
        return self._out.resent if self._out else self._counter(5)

    @property
    def given_up(self) -> int:
        """Messages that were lost too often."""
        return self._out.given_up if self._out else self._counter(6)

    def _counter(self, field: int) -> int:
        return int(_ASLEEP.unpack_from(self._asleep)[field])

    # --------------------------------------------------------------------------------------- sleep and wake

    @property
    def rest(self) -> bytes:
        """REST_BYTES bytes of which another is made that goes on from here. b"": it is awake, or there is
        more to it."""
        return self._asleep if len(self._asleep) == REST_BYTES and not self._keys else b""

    def _wake(self) -> Outgoing:
        fields = _ASLEEP.unpack_from(self._asleep)
        largest, taken, sent, received, lost, resent, given_up, *path, turn, channels = fields
        nexts = array("Q", self._asleep[_ASLEEP.size :])
        self._asleep = b""
        out = Outgoing(Recovery(*path), self._attempts, sent, nexts[:channels], self._keys, turn)
        out.lost, out.resent, out.given_up = lost, resent, given_up
        self._keys = ()
        self._out = out
        self._in = Incoming(largest - 1, taken, received, nexts[channels:])
        return out

    def _sleep(self, out: Outgoing, arrived: Incoming) -> None:
        recovery, channels = out.recovery, out.channels
        self._asleep = (
            _ASLEEP.pack(
                arrived.largest + 1,
                arrived.taken,
                out.number,
                arrived.received & _UINT,
                out.lost & _UINT,
                out.resent & _UINT,
                out.given_up & _UINT,
                recovery.srtt,
                recovery.rttvar,
                recovery.best,
                recovery.window,
                channels.turn,
                len(channels.nexts),
            )
            + array("Q", channels.nexts + arrived.nexts).tobytes()
        )
        self._keys = channels.keys
        self._out = self._in = None
