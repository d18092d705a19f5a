"""A connection over datagrams: a flow, its keys, and where the peer is.

Idle, it is little more than its numbers, which stand in one object with id, keys and address: a million of
them share one socket and one clock. What happens to it comes from its port (a datagram), the collector (the
end of a turn in which something was sent), the clock, or the core::

    OPEN ── close ──▶ CLOSING: the rest goes out ── all acknowledged, or too late ──▶ ENDED
      │                                                                                 ▲
      └── abort, CLOSE or RESET from the peer, a datagram against the grammar ──────────┘
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import CloseCode
from imgateway.interfaces import IConnection
from imgateway.transports.places import host_port, source_of

from .flow import Flow
from .lone import split
from .messages import Challenge, Close, MalformedDatagram, Note, answer, close, padding
from .packets import CID_BYTES, CLEAR_BYTES
from .path import Place, packed, unpacked
from .port import Port
from .seal import KEY_BYTES, InvalidTag, open_sealed, seal
from .wakeups import TICK_S

__all__ = ("CLOSING", "ENDED", "OPEN", "DatagramConnection")

log = Logger()

OPEN, CLOSING, ENDED = range(3)
LAST_NUMBER = 0xFFFFFFFF
OVER: tuple[Any, ...] = ()
"""Instead of what is said at the end: that was said."""
KEYS_END = CID_BYTES + 2 * KEY_BYTES
"""Of a sealed connection; without keys there are at most 18 bytes behind the id."""


@implementer(IConnection)
class DatagramConnection:
    """One end. `receiver` may be replaced at any time by whoever was given this connection.

    :param keys: for what comes, then for what goes, 16 bytes each; ``b""``: nothing is sealed.
    :param place: where the peer is.
    """

    __slots__ = (
        "_armed",
        "_kept",
        "_parting",
        "_port",
        "_traffic",
        "max_message_bytes",
        "receiver",
    )

    carrier = "udp"
    stream = False
    max_send_bytes = Flow.MAX_MESSAGE

    def __init__(self, port: Port, cid: bytes, keys: bytes, place: Place, flow: Flow) -> None:
        self.receiver: Any = None
        self.max_message_bytes = 0  # set by the core for the time before the login; 0: the wire's own limit
        self._port = port
        self._traffic: Any = flow  # None while it is asleep, and once it has ended
        # One object for all that is bytes, for each one costs 33 more than it holds: the id, the keys, the
        # address, and what is kept of the flow while it is asleep.
        self._kept = cid + keys + packed(place)
        self._parting: tuple[Any, ...] | None = None  # while it is CLOSING: when, and what is said then
        self._armed = inf

    # ---------------------------------------------------------------------------------- what the core calls

    @property
    def peer(self) -> str:
        return host_port(*self.place)

    @property
    def source(self) -> str:
        return source_of(self.place[0])

    @property
    def secure(self) -> bool:
        return len(self._own) >= KEYS_END

    @property
    def place(self) -> Place:
        """Where the peer is."""
        return unpacked(self._address)

    @property
    def is_closing(self) -> bool:
        """It has been closed, and waits for its last acknowledgement."""
        return self._life == CLOSING

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        """:raises MessageTooLarge: it has more than `max_send_bytes`."""
        if self._parting is None:
            self._flow.send(data, order)
            self._port.collector.add(self)

    def unsent(self) -> int:
        return self._traffic.unsent() if self._traffic is not None else 0

    def unacked(self) -> int | None:
        return self._traffic.unacked() if self._traffic is not None else 0

    def is_behind(self) -> bool:
        return self._port.is_behind()

    def has_left(self) -> bool:
        return False

    def proven(self) -> None:
        """Nobody's answers are limited here."""

    def pause_reading(self) -> None:
        flow = self._flow
        if flow is not None:
            flow.pause()
            flow.is_resuming = False

    def resume_reading(self) -> None:
        flow = self._traffic  # paused, it does not sleep
        if flow is not None and flow.is_paused and not flow.is_resuming:
            flow.is_resuming = True
            # Not from within: whoever resumes may be in the middle of a message.
            self._port.reactor.callLater(0, self._read_on)

    def close(self, code: int, flush_s: float = 2.0) -> None:
        self._close(int(code), flush_s, f"closed with code {int(code)}", CloseCode.LOST)

    def abort(self) -> None:
        self._end(CloseCode.LOST, "aborted", CloseCode.LOST)

    # ------------------------------------------------------------------------------------ what its port calls

    def datagram(self, data: bytes, address: bytes | None) -> None:
        """A short datagram with our cid came, maybe from our peer. Nothing is changed until it opened.

        :param address: where from; None: from our one peer.
        """
        flow = self._flow
        if flow is None:
            return
        own = self._kept  # awake, it has no more
        number = int.from_bytes(data[CID_BYTES:CLEAR_BYTES])
        try:
            if flow.seen(number):
                raise InvalidTag
            key = own[CID_BYTES : CID_BYTES + KEY_BYTES] if len(own) >= KEYS_END else b""
            payload = open_sealed(key, number, data[:CLEAR_BYTES], data[CLEAR_BYTES:])
        except InvalidTag:
            self._rest(flow)
            return
        newest = number > flow.largest
        messages: list[bytes] = []
        try:
            if self._parting is None:
                port = self._port
                messages = flow.receive(number, payload, port.now(), port.ack_delay_s)
            else:
                flow.settle(payload, self._port.now())
        except MalformedDatagram as error:
            self._end(CloseCode.BAD_FRAME, str(error), CloseCode.BAD_FRAME)
            return
        if newest and address is not None:
            self._came_from(address, len(data))
        notes = flow.notes
        if notes is not None:
            flow.notes = None
            self._noted(notes, address, len(payload))
        if messages:
            self._hand_over(messages)
        if notes is not None:
            self._parted(notes)
        self._look()

    def flush(self) -> None:
        """Send what may go now. The collector calls it at the end of the turn."""
        if self._traffic is not None:
            self._transmit()

    def woken(self) -> None:
        """The clock has come to where we asked for it, though maybe not for anything that still waits."""
        if self._armed <= self._port.now() + TICK_S / 2:  # else an earlier wake-up has seen to it
            self._armed = inf
            self._wake()

    def _wake(self) -> None:
        flow = self._traffic
        if flow is not None:
            due = flow.due()
            if due is None or due <= self._port.now():
                self._transmit()
            else:
                self._look()

    # -------------------------------------------------------------------------------------------- receiving

    def begin(self, messages: list[bytes]) -> None:
        """The greeting is over, and it brought these; what we have to say comes after."""
        self._hand_over(messages)
        self._look()

    def _hand_over(self, messages: list[bytes]) -> None:
        """Give messages to the receiver, paused or not: they were read."""
        for message in messages:
            if self._parting is not None:
                return  # what comes once we are closing no longer counts
            limit = self._port.max_frame_bytes
            if self.max_message_bytes:
                limit = min(limit, self.max_message_bytes)
            if len(message) > limit:
                self._close(CloseCode.FRAME_TOO_LARGE, 0, "message too large", CloseCode.FRAME_TOO_LARGE)
                return
            try:
                self.receiver.received(message)
            except Exception:
                log.failure("a message could not be dealt with")
                self._end(CloseCode.INTERNAL_ERROR, "a message could not be dealt with", CloseCode.LOST)

    def _read_on(self) -> None:
        flow = self._traffic
        if flow is not None and flow.is_resuming:
            flow.is_resuming = False
            self._hand_over(flow.resume())
            self._look()

    def _noted(self, notes: list[Note], address: bytes | None, size: int) -> None:
        """What the peer's end says to ours, in a payload of `size` bytes from `address`."""

    def _answer(self, notes: list[Note], size: int) -> None:
        """Answer a CHALLENGE with as many bytes as it came with: so the path carries them both ways. One of
        them, lest a small datagram draw many large ones."""
        for note in notes:
            if isinstance(note, Challenge):
                reply = answer(note.nonce)
                self._write(self._flow.next_number(), reply + padding(size - len(reply)), self.place)
                return

    def _parted(self, notes: list[Note]) -> None:
        """The peer's goodbye, after all else that its datagram held."""
        for note in notes:
            if isinstance(note, Close) and self._flow is not None:
                self._hand_over(self._flow.resume())
                self._end(None, f"closed by the peer with code {note.code}", CloseCode.LOST)

    def _came_from(self, address: bytes, size: int) -> None:
        """The newest datagram so far, of `size` bytes, came from there."""

    # ---------------------------------------------------------------------------------------------- sending

    def _collect(self) -> None:
        self._port.collector.add(self)

    def _look(self, has_sent: bool = False) -> None:
        """See that the flow is asked again when it wants to be; if it does not, it rests.

        :param has_sent: what may go has gone: for the rest it is too early, as far as reading has come.
        """
        flow = self._traffic
        if flow is None:
            return
        due = flow.due()
        if due is None:
            if self._life == CLOSING and not flow.unacked():
                self._collect()
            else:
                self._rest(flow)
        elif due <= self._port.now() and not has_sent:
            self._collect()
        elif due < self._armed:
            self._armed = due
            self._port.wakeups.arm(due, self)

    def _transmit(self) -> None:
        flow = self._flow
        place = self.place
        for number, payload in flow.datagrams(self._port.now(), self._port.wakeups.judged):
            self._write(number, payload, place)
        if self._parting is OVER:
            return
        is_clogged = flow.unsent() > 0
        if is_clogged != flow.is_clogged:
            flow.is_clogged = is_clogged
            if self._parting is None:
                if is_clogged:
                    self.receiver.pause_sending()
                else:
                    self.receiver.resume_sending()
        if self._life == CLOSING and not flow.unacked():
            self._over()
        self._look(has_sent=True)

    def _write(self, number: int, payload: bytes, place: Place) -> None:
        if number > LAST_NUMBER:
            # No number is used twice with a key, so this connection is at its end.
            self._end(None, "too many datagrams for one connection", CloseCode.LOST)
            return
        own = self._own
        key = own[CID_BYTES + KEY_BYTES : KEYS_END] if len(own) >= KEYS_END else b""
        clear = own[:CID_BYTES] + number.to_bytes(CLEAR_BYTES - CID_BYTES)
        self._port.write(clear + seal(key, number, clear, payload), place)

    # ---------------------------------------------------------------------------------------------- the end

    def _close(self, code: int, flush_s: float, reason: str, lost_code: int) -> None:
        if self._parting is not None:
            return
        if flush_s <= 0 or not self._flow.unacked():
            self._end(code, reason, lost_code)
            return
        over = self._port.reactor.callLater(flush_s, self._over)
        self._parting = over, code, reason, lost_code

    def _over(self) -> None:
        """What was to be flushed is, or will not be."""
        assert self._parting
        _, code, reason, lost_code = self._parting
        self._end(code, reason, lost_code)

    def _end(self, code: int | None, reason: str, lost_code: int) -> None:
        """Once. The peer is told `code`, unless that is None, and our receiver in the next turn."""
        flow = self._flow
        if flow is None:
            return
        parting, self._parting, self._traffic = self._parting, OVER, None
        if code is not None:
            self._write(flow.next_number(), close(code), self.place)
        if parting and parting[0].active():
            parting[0].cancel()
        self._port.forget(self)
        self._port.reactor.callLater(0, self._lost, reason, lost_code)

    def _lost(self, reason: str, code: int) -> None:
        receiver, self.receiver = self.receiver, None
        receiver.lost(reason, code)

    # ------------------------------------------------------------------------------------------ what it holds

    @property
    def cid(self) -> bytes:
        return self._kept[:CID_BYTES]

    @property
    def _life(self) -> int:
        if self._parting is None:
            return OPEN
        return CLOSING if self._parting else ENDED

    @property
    def _flow(self) -> Any:
        """The flow, woken up; None once the connection has ended."""
        flow = self._traffic
        if flow is None and self._parting is not OVER:
            self._kept, asleep = split(self._kept)
            flow = self._traffic = Flow(self._port.max_resends, asleep)
        return flow

    @_flow.setter
    def _flow(self, flow: Any) -> None:
        self._traffic = flow

    def _rest(self, flow: Any) -> None:
        """Keep of a flow that has nothing to do no more than it takes to make it again; not while it is
        CLOSING, for then its end is about to come."""
        asleep = flow.rest() if self._parting is None else b""
        if asleep:
            self._kept += asleep
            self._traffic = None

    @property
    def _own(self) -> bytes:
        """Id, keys and address."""
        if self._traffic is not None or self._parting is OVER:
            return self._kept
        return split(self._kept)[0]

    @property
    def _address(self) -> bytes:
        own = self._own
        return own[KEYS_END if len(own) >= KEYS_END else CID_BYTES :]
