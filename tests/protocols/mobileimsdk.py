"""What the tests of the MobileIMSDK wire share: objects as its clients write them, codecs with a clock."""

from __future__ import annotations

import json
from typing import Any

from imgateway.frames import (
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Hello,
    Limits,
    Message,
    Outcome,
    PublishAck,
    Welcome,
)
from imgateway.protocols.mobileimsdk.adapter import MobileImsdkAdapter
from imgateway.wire.messages import encode_message

BOB = Address("user", "bob")
NOW_MS = 1_795_217_600_000
OK = Outcome(0, 5, 1)


def said(
    kind: int, data: str | None = None, sender: str = "-1", to: str = "0", **more: Any
) -> dict[str, Any]:
    """An object, all fields there, as clients and server write it."""
    fields = {"bridge": False, "type": kind, "dataContent": data, "from": sender, "to": to}
    fields |= {
        "fp": more.pop("fp", None),
        "QoS": more.pop("qos", False),
        "typeu": more.pop("typeu", -1),
        "sm": -1,
    }
    return {name: value for name, value in (fields | more).items() if value is not None}


def as_bytes(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def login(user: str = "bob", token: str = "tok", first: int = 0) -> dict[str, Any]:
    data = json.dumps(
        {"loginUserId": user, "loginToken": token, "firstLoginTime": first}, separators=(",", ":")
    )
    return said(0, data, user)


def success(user: str = "bob", first: int = NOW_MS) -> dict[str, Any]:
    return said(50, f'{{"code":0,"firstLoginTime":{first}}}', "0", user)


def refusal(code: int = 1025) -> dict[str, Any]:
    return said(50, f'{{"code":{code},"firstLoginTime":-1}}', "0", "-1")


def welcome(user: str = "bob", device: str = "mobileimsdk") -> Welcome:
    return Welcome(f"device:{user}/{device}", user, "node", 1, 30.0, NOW_MS, 0, Limits())


def entry(seq: int, text: str | bytes = "hi", sender: str = "ann", **more: Any) -> Entry:
    body = text.encode() if isinstance(text, str) else text
    fields = {"msg_id": f"m{seq}", "device": "mobileimsdk", "content_type": "text/plain"} | more
    return Entry(seq, encode_message(Message(sender=sender, body=body, sent_ms=1, **fields)))


def deliver(one: Entry, address: Address = BOB, after: int = -1) -> Deliver:
    return Deliver(address, 0, 5, one.seq - 1 if after < 0 else after, one.seq, (one,), head=one.seq)


def acked(upto: int) -> DeliverAck:
    return DeliverAck((Acked(BOB, 5, upto),))


class Talk:
    """A codec in conversation. `hear` gives objects, `say` what became of what it was told."""

    def __init__(self, transport: str = "tcp", sense_mode: str = "none", stamps: bool = False) -> None:
        self.clock = 100.0
        self.wall_ms = NOW_MS
        self.adapter: Any = MobileImsdkAdapter(sense_mode, stamps, lambda: self.clock, lambda: self.wall_ms)
        self.stream = transport == "tcp"
        self.wire = self.adapter.carriage.bare if transport == "udp" else self.adapter
        self.codec: Any = self.wire.codec(self.stream, 1_048_576)

    def framed(self, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + body if self.stream else body

    def heard(self, data: bytes) -> list[dict[str, Any]]:
        """The objects in bytes that went out, exactly one if it is a message."""
        found = []
        while self.stream and data:
            size = int.from_bytes(data[:4], "big")
            assert len(data) >= 4 + size > 4
            found.append(json.loads(data[4 : 4 + size]))
            data = data[4 + size :]
        return found if self.stream else [json.loads(data)] if data else []

    def say(self, *objects: dict[str, Any]) -> list[Any]:
        """Frames, and answers as objects."""
        return self.say_bytes(*(as_bytes(one) for one in objects))

    def say_bytes(self, *bodies: bytes) -> list[Any]:
        found: list[Any] = []
        chunks = [b"".join(map(self.framed, bodies))] if self.stream else bodies
        for chunk in chunks:
            for item in self.codec.receive(chunk):
                found += self.heard(item) if isinstance(item, bytes) else [item]
        return found

    def hear(self, frame: Any) -> list[dict[str, Any]] | None:
        data = self.codec.encode(frame)
        if isinstance(data, tuple):
            return [one for part in data for one in self.heard(part)]
        return None if data is None else self.heard(data)

    def log_in(self, user: str = "bob", first: int = 0, device: str = "mobileimsdk") -> Talk:
        (hello,) = self.say(login(user, first=first))
        assert isinstance(hello, Hello)
        assert self.hear(welcome(user, device)) == [success(user, first or self.wall_ms)]
        return self

    def take(self, msg_id: str, outcome: Outcome = OK) -> list[dict[str, Any]] | None:
        return self.hear(PublishAck(msg_id, (outcome,)))


LEFT = Bye(0)
