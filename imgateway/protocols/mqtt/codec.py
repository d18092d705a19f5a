"""One MQTT connection, the gateway's end: packets to frames and back, and what MQTT does by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import ClassVar

from zope.interface import implementer

from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Frame,
    Keep,
    PublishAck,
    Refused,
    RefusedCode,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import IMailCodec
from imgateway.protocols.mqtt.answers import goodbye, refusal, welcome
from imgateway.protocols.mqtt.deliveries import UNKNOWN, Outbox, Track
from imgateway.protocols.mqtt.greeting import Greeting
from imgateway.protocols.mqtt.inbox import USUAL, Inbox
from imgateway.protocols.mqtt.memory import Memory
from imgateway.protocols.mqtt.packets import PUBACK, Body, Packet, Splitter, acknowledged, acknowledgement
from imgateway.protocols.mqtt.properties import Property, read
from imgateway.protocols.mqtt.reasons import Broken, Reason, of_refusal
from imgateway.protocols.mqtt.record import FOREVER
from imgateway.protocols.mqtt.subscribing import Subscriptions
from imgateway.protocols.plain import PlainCodec

__all__ = ("MqttCodec",)

PUBLISH = int(Packet.PUBLISH)  # compared faster than the enum's
PINGRESP = bytes((Packet.PINGRESP, 0))
PASSING = (RefusedCode.UNAVAILABLE, RefusedCode.RATE)
"""A refusal for now."""
LOOSE = 1_000
"""Unacknowledged packet ids of what a client unsubscribed from, beyond which it may not subscribe. There are
only 65,535."""


@implementer(IMailCodec)
class MqttCodec(PlainCodec):
    """:param max_keepalive_s: the longest that a client of MQTT 5 may be silent; 0: as long as it likes.

    :param wall_ms: Unix milliseconds. :param draw: gives a text that nobody else is given.
    """

    wire = ""  # packet ids are this connection's own

    __slots__ = (
        "_draw",
        "_expires",
        "_fault",
        "_greeting",
        "_inbox",
        "_is_welcome",
        "_max_keepalive_s",
        "_me",
        "_memory",
        "_outbox",
        "_splitter",
        "_subscriptions",
        "_version",
        "_wall_ms",
        "silence_s",
        "window",
    )

    def __init__(
        self, max_frame_bytes: int, max_keepalive_s: int, wall_ms: Callable[[], int], draw: Callable[[], str]
    ) -> None:
        self.silence_s = 0.0
        self.window = 0
        self._splitter = Splitter(max_frame_bytes)
        self._max_keepalive_s = max_keepalive_s
        self._wall_ms = wall_ms
        self._draw = draw
        self._version = 0
        self._greeting: Greeting | None = None
        self._fault: Reason | None = None
        self._expires = False  # some time after its connection
        self._is_welcome = False
        self._me = ("", "")

    # ------------------------------------------------------------------------------------------------ inwards

    def receive(self, data: bytes) -> Iterator[Frame | Keep | bytes]:
        if self._expires and self._memory.is_old():
            return self._stamped(data)
        if self._is_welcome and data and self._splitter.is_between():
            first = data[0]
            if first == USUAL:
                return self._published(data)
            # Whoever mostly listens sends PUBACKs and nothing else.
            if first == PUBACK and (numbers := acknowledged(data)):
                return self._acks(self._outbox.all_acked(numbers))
        return self._received(data)

    def _stamped(self, data: bytes) -> Iterator[Frame | Keep | bytes]:
        """Whoever is heard is there; a client that has other things to say sends no PINGREQ."""
        yield self._memory.keep()
        yield from self.receive(data)

    def _published(self, data: bytes) -> Iterator[Frame | Keep | bytes]:
        """One usual PUBLISH after the other; from the first packet on that is none, as whatever comes."""
        inbox, most = self._inbox, self._splitter.max_bytes
        at, size = 0, len(data)
        while at < size:
            frame, at = inbox.usual(data, at, most)
            if frame is None:
                yield from self._received(data[at:])
                return
            if inbox.is_changed and self._memory.goes_first():
                yield self._memory.keep()
            yield frame

    def _received(self, data: bytes) -> Iterator[Frame | Keep | bytes]:
        acked: dict[Track, None] = {}
        try:
            for first, body in self._splitter.feed(data):
                if self._greeting is None:
                    yield self._connect(first, body)
                elif first == PUBACK:
                    track = self._outbox.acked(self._packet_id(body, Packet.PUBACK))
                    if track is not None:
                        acked[track] = None
                elif first & 0xF0 == PUBLISH:
                    item = self._inbox.publish(first, body)
                    if self._memory.goes_first():
                        yield self._memory.keep()
                    if item:
                        yield item
                else:
                    # What was acknowledged may be unsubscribed from in a moment.
                    yield from self._acks(acked)
                    yield from self._other(first, body)
            if acked:
                yield from self._acks(acked)
        except Broken as error:
            self._fault = error.said
            raise

    def _connect(self, first: int, body: bytes) -> Frame:
        if first != Packet.CONNECT:
            raise Broken("the first packet must be CONNECT", Reason.PROTOCOL_ERROR)
        self._version = Greeting.version_of(body)
        name = self._draw()
        greeting = Greeting.read(body, name)
        if greeting.auth:
            raise Broken("there is no enhanced authentication here", Reason.BAD_AUTH_METHOD)
        self._greeting = greeting.without_secrets()
        self._inbox = Inbox(self._version, self._draw)
        self._outbox = Outbox(self._version, greeting.max_packet_bytes)
        self._subscriptions = Subscriptions(self._version)
        self._memory = Memory(self._inbox, self._subscriptions, greeting.expiry_s, self._draw, self._wall_ms)
        self.silence_s = greeting.keepalive(self._max_keepalive_s) * 1.5 or inf
        self.window = greeting.receive_maximum
        return greeting.hello(f"mqtt-{name}")

    def _other(self, first: int, body: bytes) -> Iterator[Frame | Keep | bytes]:
        """What comes rarely."""
        if first == Packet.PINGREQ:
            yield from self._ping(body)
        elif first == Packet.PUBREL:
            packet_id = self._packet_id(body, Packet.PUBREL)
            self._inbox.released(packet_id)
            done = acknowledgement(Packet.PUBCOMP, packet_id)
            # A repeat as well: what the first one changed may not be on the disk yet.
            yield self._memory.keep(done) if self._memory.expiry_s else done
        elif first == Packet.SUBSCRIBE:
            if self._outbox.loose > LOOSE:
                reason = "subscribes again and again to what it has not acknowledged"
                raise Broken(reason, Reason.QUOTA)
            yield from self._remembered(self._subscriptions.subscribe(body))
        elif first == Packet.UNSUBSCRIBE:
            yield from self._remembered(self._subscriptions.unsubscribe(body))
        elif first == Packet.DISCONNECT:
            yield from self._disconnect(body)
        else:
            known = first & 0xF0 in (Packet.CONNECT, Packet.AUTH, Packet.PUBREC, Packet.PUBCOMP)
            what = Reason.PROTOCOL_ERROR if known else Reason.MALFORMED
            raise Broken("a packet that a client does not send now", what)

    def _packet_id(self, data: bytes, kind: Packet) -> int:
        """Of a client's acknowledgement. Why it says no is its own business: it has had the message."""
        if len(data) == 2 and (number := int.from_bytes(data)):
            return number
        body = Body(data)
        number = body.packet_id()
        if self._version == 5:
            body.byte()
            if body.more():
                read(body, kind)
        body.end()
        return number

    def _remembered(
        self, asking: Iterator[Subscribe | Unsubscribe | Callable[[], bytes]]
    ) -> Iterator[Frame | Keep | bytes]:
        """The change is on its way to the disk before the core hears of it, and on the disk before the client
        does, unless its session ends with the connection anyhow."""
        for item in asking:
            if callable(item) and self._memory.expiry_s:
                yield self._memory.keep(item)  # a repeat as well, as with PUBREL
                continue
            if self._subscriptions.is_changed:
                yield self._memory.keep()
            if callable(item):
                if answer := item():
                    yield answer
                continue
            if type(item) is Unsubscribe:
                self._let_go(item.address)
            yield item

    def _let_go(self, address: Address) -> None:
        """The core waits for no acknowledgements of what came from there."""
        self._outbox.let_go(address)
        self._fit()

    def _fit(self) -> None:
        """The client's receive maximum is for all that it has not acknowledged."""
        assert self._greeting is not None
        self.window = self._greeting.receive_maximum - self._outbox.loose or -1

    def _acks(self, acked: dict[Track, None]) -> Iterator[DeliverAck]:
        """One acknowledgement for all logs that went on. With none of them it says that the window has
        grown."""
        if not acked:
            return iter(())
        acks = [Acked(track.address, track.epoch, track.upto) for track in acked if track.followed]
        if len(acks) < len(acked):
            self._fit()
        acked.clear()
        return iter((DeliverAck(tuple(acks)),))

    def _ping(self, body: bytes) -> Iterator[Frame | Keep | bytes]:
        Body(body).end()
        yield PINGRESP
        if self._memory.is_due():
            yield self._memory.keep()

    def _disconnect(self, data: bytes) -> Iterator[Frame | Keep]:
        reason = 0
        asked = expiry_s = self._memory.expiry_s
        if data:
            if self._version != 5:
                raise Broken("more in a packet than belongs there")
            body = Body(data)
            reason = body.byte()
            if body.more():
                asked = read(body, Packet.DISCONNECT).get(Property.SESSION_EXPIRY, expiry_s)
            body.end()
            if asked and not expiry_s:
                raise Broken("a session that ends with its connection cannot be kept", Reason.PROTOCOL_ERROR)
            self._memory.expiry_s = asked
        if asked != expiry_s or asked not in (0, FOREVER):
            linger_s = -1.0 if asked == FOREVER else float(asked)
            yield Keep(self._memory.keep().data, linger_s)  # its time runs from now on
        # Any other reason than success wants the will to be published.
        yield Bye(CloseCode.NORMAL if reason == Reason.SUCCESS else CloseCode.LOST)

    def restore(self, record: bytes) -> Iterable[Frame | Keep]:
        greeting = self._greeting
        if greeting is None:
            return ()
        # While the core takes its time for one, it may have said that the client is not in another any more.
        return filter(self._subscriptions.is_wanted, self._memory.restore(record, greeting.clean))

    def undoes(self, record: bytes) -> Sequence[Address]:
        greeting = self._greeting
        return self._memory.undoes(record, self._is_welcome and greeting is not None and greeting.clean)

    def puts_off(self) -> bool:
        return bool(self._subscriptions.put_off)

    def retry(self) -> Iterator[Frame | Keep]:
        yield from self._subscriptions.retry()
        if self._memory.is_due():
            yield self._memory.keep()

    # ----------------------------------------------------------------------------------------------- outwards

    @property
    def version(self) -> int:
        """The client's: 4 is MQTT 3.1.1, 5 is MQTT 5; 0: it has not greeted yet."""
        return self._version

    def encode(self, frame: Frame) -> bytes | None:
        if self._greeting is None:
            return self._bye(frame) if isinstance(frame, Bye) else b""
        if type(frame) is PublishAck:
            return self._inbox.answered(frame)
        if type(frame) is Deliver:
            return self._deliver(frame)
        say = self._words.get(type(frame))
        return say(self, frame) if say is not None else b""

    def mail(self, address: Address, epoch: int, after: int, messages: Sequence[bytes]) -> bytes | None:
        subscriptions = self._subscriptions
        how = subscriptions.how(address) or UNKNOWN
        if address != subscriptions.me or not how.qos or how.no_local or how.as_published:
            return None
        return self._outbox.mail(address, epoch, after, messages, how.ident)

    def _deliver(self, frame: Deliver) -> bytes | None:
        subscriptions = self._subscriptions
        return self._outbox.said(
            frame,
            subscriptions.how(frame.address) or UNKNOWN,
            self._me,
            subscriptions.retained(frame.address),
            self._wall_ms(),
        )

    def _welcome(self, frame: Welcome) -> bytes:
        greeting = self._greeting
        assert greeting is not None
        self._is_welcome = True
        self._expires = greeting.expiry_s not in (0, FOREVER)
        self._me = (frame.user, parse_address(frame.session).device)
        self._subscriptions.me = user_address(frame.user)
        keepalive_s = greeting.keepalive(self._max_keepalive_s)
        return welcome(greeting, frame, self._memory.is_resumed, keepalive_s, self._splitter.max_bytes)

    def _subscribed(self, frame: Subscribed) -> bytes:
        self._outbox.begin(frame.address, frame.lane, frame.epoch, frame.position)
        how = self._subscriptions.how(frame.address)
        if how is not None and not how.qos:
            self._let_go(frame.address)  # it may have come at QoS 1 until now
        return self._subscriptions.subscribed(frame.address, frame.head, frame.anew)

    def _unsubscribed(self, frame: Unsubscribed) -> bytes:
        self._outbox.forget(frame.address)
        return self._subscriptions.unsubscribed(frame.address, frame.code == UnsubscribedCode.ASKED)

    def _refused(self, frame: Refused) -> bytes:
        subscriptions, reason = self._subscriptions, of_refusal(frame.code)
        if frame.frame == "unsubscribe":
            return subscriptions.not_left(parse_address(frame.id), reason)
        if frame.frame != "subscribe":
            return b""
        return subscriptions.refused(parse_address(frame.id), reason, frame.code not in PASSING)

    def _bye(self, frame: Bye) -> bytes:
        if not self._is_welcome or self._greeting is None:
            return refusal(self._version, self._greeting, frame, self._fault)
        return goodbye(self._greeting, frame, self._fault)

    _words: ClassVar[dict[type, Callable[..., bytes]]] = {
        Welcome: _welcome,
        Subscribed: _subscribed,
        Unsubscribed: _unsubscribed,
        Refused: _refused,
        Bye: _bye,
    }
