"""A client's half of MQTT for tests: packets as bytes, and a codec that was brought through its login."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from imgateway.frames import (
    Address,
    Deliver,
    Entry,
    Frame,
    Hello,
    Keep,
    Limits,
    Message,
    Outcome,
    PublishAck,
    Welcome,
    address_text,
)
from imgateway.protocols.mqtt.adapter import MqttAdapter
from imgateway.protocols.mqtt.codec import MqttCodec
from imgateway.protocols.mqtt.packets import length, packet, text
from imgateway.protocols.mqtt.properties import Property, written
from imgateway.wire.messages import encode_message

ME = Address("user", "alice")
ROOM = Address("room", "7")
NEWS = Address("topic", "news/today")
NOW_MS = 1_700_000_000_000
MAX = 100_000


class Clock:
    """Unix milliseconds that a test moves."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def properties(*pairs: tuple[Property, Any]) -> bytes:
    """Properties behind their length."""
    about = b"".join(written(*pair) for pair in pairs)
    return length(len(about)) + about


def connect(
    version: int = 4,
    client_id: str = "phone",
    clean: bool = False,
    user: str | None = None,
    token: bytes | None = b"secret",
    keepalive_s: int = 60,
    about: Sequence[tuple[Property, Any]] = (),
    will: tuple[str, bytes] | None = None,
    will_flags: int = 0,
    will_about: Sequence[tuple[Property, Any]] = (),
) -> bytes:
    if user is None and token is not None:
        user = ""
    flags = clean << 1 | (4 | will_flags if will else 0)
    flags |= (128 if user is not None else 0) | (64 if token is not None else 0)
    parts = [text("MQTT"), bytes((version, flags)), keepalive_s.to_bytes(2)]
    if version == 5:
        parts.append(properties(*about))
    parts.append(text(client_id))
    if will:
        if version == 5:
            parts.append(properties(*will_about))
        parts += [text(will[0]), len(will[1]).to_bytes(2), will[1]]
    if user is not None:
        parts.append(text(user))
    if token is not None:
        parts += [len(token).to_bytes(2), token]
    return packet(0x10, *parts)


def publish(
    topic: str,
    body: bytes,
    packet_id: int = 1,
    qos: int = 1,
    dup: bool = False,
    retain: bool = False,
    about: Sequence[tuple[Property, Any]] | None = None,
) -> bytes:
    """With `about` (an empty one too) in MQTT 5."""
    parts = [text(topic)] + ([packet_id.to_bytes(2)] if qos else [])
    if about is not None:
        parts.append(properties(*about))
    return packet(0x30 | dup << 3 | qos << 1 | retain, *parts, body)


def subscribe(*filters: tuple[str, int], packet_id: int = 9, v5: bool = False, ident: int = 0) -> bytes:
    about = properties(*([(Property.SUBSCRIPTION_ID, ident)] if ident else [])) if v5 else b""
    return packet(0x82, packet_id.to_bytes(2), about, *[text(name) + bytes((how,)) for name, how in filters])


def unsubscribe(*filters: str, packet_id: int = 8, v5: bool = False) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2), b"\0" if v5 else b"", *map(text, filters))


def puback(packet_id: int) -> bytes:
    return packet(0x40, packet_id.to_bytes(2))


PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"


class Peer:
    """A codec, and what it remembers over connections.

    :ivar hello: what it made of the CONNECT. :ivar connack: what it answered.
    """

    def __init__(self, max_keepalive_s: int = 0, stream: bool = True) -> None:
        self.clock = Clock()
        names = count(1)
        self.adapter = MqttAdapter(max_keepalive_s, self.clock, lambda: f"name{next(names)}-")
        self.stream = stream
        self.record = b""
        self.codec: Any = None
        self.hello: Any = None
        self.connack = b""
        self.begun()

    def begun(self) -> MqttCodec:
        """A new connection."""
        codec = self.adapter.codec(self.stream, MAX)
        assert isinstance(codec, MqttCodec)
        self.codec = codec
        return codec

    def login(
        self,
        version: int = 4,
        user: str = "alice",
        device: str = "phone",
        limits: Limits | None = None,
        **how: Any,
    ) -> list[Frame]:
        """Connect and be welcomed; what the codec does with what was left before."""
        codec = self.begun()
        how.setdefault("client_id", device)
        (self.hello,) = codec.receive(connect(version, **how))
        assert isinstance(self.hello, Hello)
        frames = codec.restore(self.record)
        session = address_text(Address("device", user, device))
        self.connack = codec.encode(Welcome(session, user, "n", 1, 30.0, 0, 0, limits or Limits())) or b""
        return self._took(frames)

    def take(self, data: bytes) -> list[Any]:
        """What comes of these bytes; records are kept."""
        return self._took(self.codec.receive(data))

    def retry(self) -> list[Any]:
        """What it asks once more by itself."""
        return self._took(self.codec.retry())

    def _took(self, items: Iterable[Any]) -> list[Any]:
        taken = []
        for item in items:
            if isinstance(item, Keep):
                self.record = item.data
                item = item.reply() if callable(item.reply) else item.reply
            if item != b"":
                taken.append(item)
        return taken

    def answer(self, msg_id: str, code: int = 0) -> bytes:
        answer = self.codec.encode(PublishAck(msg_id, (Outcome(code, 1, 1),)))
        assert isinstance(answer, bytes)
        return answer

    def deliver(self, address: Address, *entries: Entry, upto: int = 0, epoch: int = 1) -> bytes | None:
        after = entries[0].seq - 1 if entries else 0
        upto = upto or (entries[-1].seq if entries else 0)
        said: bytes | None = self.codec.encode(Deliver(address, 0, epoch, after, upto, entries))
        return said


def entry(seq: int, body: bytes = b"hello", sender: str = "bob", device: str = "pad", **more: Any) -> Entry:
    return Entry(seq, encode_message(Message(f"m{seq}", sender, device, body=body, sent_ms=NOW_MS, **more)))
