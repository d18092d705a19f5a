"""One client's translator: what it says becomes frames, and what it is told becomes objects of this wire.

Much is answered here and never becomes a frame: echo, keepalive, a repeated login, whatever a stranger may
not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from secrets import token_hex
from typing import Any

from zope.interface import implementer

from imgateway.errors import CloseCode, FrameTooLarge, LinkError, ProtocolError
from imgateway.frames import (
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    Frame,
    Hello,
    OutcomeCode,
    Publish,
    PublishAck,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import ICodec
from imgateway.protocols.plain import PlainCodec

from .flights import Flights
from .framing import Splitter
from .mapping import WIRE, as_msg_id, as_object, as_publish, as_receiver, as_user
from .packet import (
    ACK,
    DATA,
    ECHO,
    KEEPALIVE,
    LOGIN,
    LOGOUT,
    Packet,
    quoted,
    read_greeting,
    read_packet,
    write_packet,
)
from .receipts import Receipt, Receipts
from .words import REFUSED, Form, Words

__all__ = ("MobileImsdkCodec",)

WINDOW = 32
"""Deliveries that may be without a receipt at once."""
SHORT_FP = 64
"""Characters of an fp whose receipt fits everywhere."""
STUCK_S = 15.0
"""A receiver whose window is full for so long is sent away, to come again."""

_GONE = (Bye(CloseCode.NORMAL),)
_TAKEN = (OutcomeCode.OK, OutcomeCode.DUPLICATE)


@implementer(ICodec)
class MobileImsdkCodec(PlainCodec):
    """Holds one unfinished body, and of 32 deliveries what is sent once more and what their receipts name."""

    wire = ""  # each receiver stands in what it is sent, and its receipts must be recognised
    window = WINDOW

    __slots__ = (
        "_epoch",
        "_first_ms",
        "_flights",
        "_form",
        "_ids",
        "_keeps_fps",
        "_log",
        "_me",
        "_number",
        "_receipts",
        "_splitter",
        "_user",
        "_words",
        "silence_s",
    )

    def __init__(self, words: Words) -> None:
        self._words = words
        self._form: Form = words.form
        self.silence_s = self._form.silence_s
        self._splitter = Splitter(self._form.max_in) if self._form.is_stream else None
        self._first_ms = 0
        self._me = b""  # until it has said who it is
        self._user = ""  # until it is logged in
        self._log = user_address("")
        self._epoch = 0
        self._keeps_fps = False
        self._ids = ""
        self._number = 0
        self._flights: Flights | None = None
        self._receipts = Receipts()

    # ----------------------------------------------------------------------------------------- what it says

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        settled = 0
        try:
            for body in self._bodies(data):
                packet = read_packet(body)
                kind = packet.type
                if not self._user:
                    yield from self._stranger(packet, len(body))
                    continue
                flights = self._flights
                if flights is not None:
                    settled = flights.heard() or settled
                    if kind == ACK:
                        settled = flights.received((packet.to or "", packet.data or "")) or settled
                if kind == DATA:
                    publish = self._publish(packet)
                    if publish is not None:
                        yield publish
                elif kind == KEEPALIVE:
                    yield self._words.kept(self._me)
                elif kind == ECHO:
                    yield from _if_any(self._words.echo(packet))
                elif kind in (LOGIN, LOGOUT):
                    if settled:
                        yield self._arrived(settled)
                        settled = 0
                    yield from self._login_again(packet) if kind == LOGIN else _GONE
        except ProtocolError:
            if settled:
                yield self._arrived(settled)
            raise
        if settled:
            yield self._arrived(settled)

    def _bodies(self, data: bytes) -> Iterable[bytes]:
        if self._splitter is not None:
            return self._splitter.feed(data)
        if len(data) > self._form.max_in:
            raise FrameTooLarge(f"a body of {len(data)} bytes; {self._form.max_in} are allowed")
        return (data,)

    def _arrived(self, upto: int) -> DeliverAck:
        return DeliverAck((Acked(self._log, self._epoch, upto),))

    def _stranger(self, packet: Packet, size: int) -> Iterator[Frame | bytes]:
        """Who has not logged in may do that, and hear an echo."""
        kind = packet.type
        if kind == ECHO:
            yield from _if_any(self._words.echo(packet))
        elif kind == LOGIN:
            yield from self._greet(packet)
        elif kind == LOGOUT:
            yield from _GONE
        elif kind in (KEEPALIVE, DATA, ACK):
            yield from _if_any(self._words.not_logged_in(packet, size))
            if not self._form.is_bare:
                yield from _GONE

    def _greet(self, packet: Packet) -> Iterator[Frame | bytes]:
        greeting = read_greeting(packet.data)
        user = as_user(greeting.user or "")
        if user is None:
            yield self._words.refusal(REFUSED)
            yield from _GONE
            return
        self._me = quoted(user.id)
        is_first = greeting.first <= 0
        self._first_ms = self._form.fresh_ms() if is_first else greeting.first
        yield Hello(
            greeting.token or "",
            on_same_device="replace" if is_first else "newest-order-wins",
            order=self._first_ms,
            user=user.id,
        )

    def _login_again(self, packet: Packet) -> Iterator[Frame | bytes]:
        """Its answer got lost, or it did not wait for it. As somebody else it must come anew."""
        if read_greeting(packet.data).user == self._user:
            yield self._words.success(self._me, self._first_ms)
        else:
            yield self._words.refusal(REFUSED)
            yield from _GONE

    def _publish(self, packet: Packet) -> Publish | None:
        """None: it is for nobody, or no receipt could be given for it."""
        to = as_receiver(packet.to or "")
        if to is None:
            return None
        fp = packet.fp
        if not (fp and packet.qos):
            # Nobody repeats what gets no receipt, so it is another message even if its fp is not.
            return as_publish(packet, to, self._fresh_id(), True)
        msg_id = as_msg_id(fp)
        receipt = (quoted(fp), quoted(packet.to), packet.bridge)
        if len(fp) > SHORT_FP and not self._taken(receipt):
            return None  # its sender, without a receipt, would say that it is lost
        self._receipts.ask(msg_id, receipt)
        return as_publish(packet, to, msg_id, self._keeps_fps)

    def _fresh_id(self) -> str:
        self._ids = self._ids or token_hex(8)
        self._number += 1
        return f"{self._ids}-{self._number:x}"

    # ---------------------------------------------------------------------------------------- what it is told

    def encode(self, frame: Frame) -> Any:
        if isinstance(frame, Deliver):
            return self._deliver(frame)
        if isinstance(frame, PublishAck):
            return self._receipt(frame)
        if isinstance(frame, Welcome):
            return self._welcome(frame)
        if isinstance(frame, Bye):
            return self._words.goodbye(frame, self._me, self._first_ms, is_in=bool(self._user))
        return b""

    def again(self, now: float) -> tuple[bytes, float]:
        """:raises LinkError: it takes nothing any more."""
        flights = self._flights
        if flights is None:
            return b"", inf
        stuck_at = flights.full_since(WINDOW) + STUCK_S
        if now >= stuck_at:
            raise LinkError("its window is full and stays so", CloseCode.ACK_TIMEOUT)
        due, next_at = flights.again(now, one=self._splitter is None)
        return b"".join(due), min(next_at, stuck_at)

    def waive(self) -> int:
        """What wants no receipt has arrived once it is written, if there is much of it."""
        return 0 if self._flights is None else self._flights.heard()

    def _deliver(self, frame: Deliver) -> bytes | None:
        is_mail = frame.address.kind == "user" and frame.upto > 0
        entries = frame.entries
        if len(entries) != 1:
            if is_mail and self._flights is not None and not entries:
                self._flights.passed(frame.upto)
            return None if entries else b""
        words = self._words
        relayed = as_object(entries[0], frame.epoch, is_mail, self._me, words.sm())
        if relayed is None:
            return None
        body, key = relayed
        data = words.fitting(body)
        if is_mail and data:
            if self._flights is None:
                self._flights = Flights()
            self._epoch = frame.epoch
            self._flights.began(frame.upto, key, data, words.form.now())
        return data or None

    def _receipt(self, frame: PublishAck) -> bytes | tuple[bytes, ...]:
        """Only for what was taken: the sender repeats what it has no receipt for, and then says it is
        lost."""
        due = self._receipts.answer(frame.msg_id, frame.outcomes[0].code in _TAKEN)
        if len(due) == 1:
            return self._taken(due[0])
        return tuple([self._taken(one) for one in due]) if due else b""

    def _taken(self, receipt: Receipt) -> bytes:
        fp, receiver, bridge = receipt
        words = self._words
        return words.fitting(write_packet(ACK, fp, receiver, self._me, None, False, -1, bridge, words.sm()))

    def _welcome(self, frame: Welcome) -> bytes:
        self._user = frame.user
        self._me = quoted(frame.user)
        self._log = user_address(frame.user)
        # A token may name another device; then it is not the device that tells an fp from other ids.
        self._keeps_fps = parse_address(frame.session).device != WIRE
        return self._words.success(self._me, self._first_ms)


def _if_any(answer: bytes) -> tuple[bytes, ...]:
    return (answer,) if answer else ()
