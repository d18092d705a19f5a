"""A small client on the native wire that does everything right, and whatever wrong it is told to do."""

from __future__ import annotations

import random
from typing import Any

from imgateway.client.adapters import transport_for
from imgateway.errors import GatewayError
from imgateway.frames import (
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    Frame,
    Hello,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Renew,
    Request,
    Response,
    ResumePoint,
    Welcome,
    parse_address,
)
from imgateway.protocols.native import NativeAdapter
from imgateway.testing.network import Network
from imgateway.wire.messages import decode_message

URL = "tcp://127.0.0.1:7901"


class ScriptedClient:
    """Acknowledges at once, echoes, keeps its place in memory. `faults`: see where they are asked for."""

    def __init__(self, network: Network, faults: frozenset[str] = frozenset()) -> None:
        self.network = network
        self.name = f"{network.seconds():g}"
        self.faults = faults
        self.log: Any = None
        self.epoch = self.position = self.count = self.attempt = 0
        self.is_over = False
        self.waiting: dict[str, bytes] = {}
        self.flying: set[str] = set()
        self.limits: Any = None
        self.born = 0.0
        self.acked = self.delivered = 0
        self.connection: Any = None
        self.dice = random.Random(7)
        self.timers: list[Any] = []

    # -------------------------------------------------------------------------------------- the connection

    def start(self) -> None:
        connecting = transport_for(URL).connect(URL, NativeAdapter(), self, self.network, {})
        connecting.addCallbacks(self.connected, lambda failure: self.come_again(0.0))

    def opened(self, wire: Any) -> None:
        self.codec = NativeAdapter().codec(True, 1 << 20)

    def connected(self, connection: Any) -> None:
        self.connection = connection
        self.born = self.network.seconds()
        device = f"d{self.born}" if "other device" in self.faults else "d"
        resume = (ResumePoint(self.log, 0, self.epoch, self.position),) if self.epoch else ()
        if "no position" in self.faults:
            resume = ()
        if "false position" in self.faults and resume:
            resume = (ResumePoint(self.log, 0, self.epoch, self.position + 9),)
        if "talks first" in self.faults:
            self.say(Ping())
        if "says nothing" in self.faults:
            return
        self.say(Hello("mine" if "no token" in self.faults else "token", device, resume=resume))

    def say(self, frame: Frame) -> None:
        if self.connection is not None:
            self.connection.send(self.codec.encode(frame))

    def lost(self, reason: str, code: int = 1) -> None:
        self.end(0.0)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def end(self, after_s: float) -> None:
        connection, self.connection = self.connection, None
        for timer in self.timers:
            if timer.active():
                timer.cancel()
        self.timers.clear()
        if connection is not None:
            connection.abort()
            self.come_again(after_s)

    def come_again(self, after_s: float) -> None:
        if self.is_over or "never again" in self.faults:
            return
        if self.network.seconds() - self.born > 10:
            self.attempt = 0
        wait_s = after_s or min(30.0, 0.5 * 2**self.attempt) * (0.5 + self.dice.random() / 2)
        if "steady" in self.faults:
            wait_s = after_s or 1.0
        if "once at once" in self.faults and not self.attempt and not after_s:
            wait_s = 0.0
        if "storms" in self.faults:
            wait_s = 0.0
        self.attempt += 1
        self.network.callLater(wait_s, self.start)

    # -------------------------------------------------------------------------------------------- inwards

    def received(self, data: bytes) -> None:
        if "strict" in self.faults and data.count(b"future") > 1:  # once in the text, once in a field
            self.end(0.0)
            return
        try:
            for frame in self.codec.receive(data):
                if self.connection is not None:
                    getattr(self, "on_" + type(frame).__name__.lower(), lambda frame: None)(frame)
        except GatewayError:
            self.end(0.0)

    def on_welcome(self, frame: Welcome) -> None:
        (point,) = frame.resumed
        self.log = point.address
        if point.epoch != self.epoch:
            if "one epoch" in self.faults and self.epoch:
                return
            self.epoch, self.position = point.epoch, point.position
        self.delivered = point.position
        self.limits = frame.limits
        self.flying.clear()
        if "forgets" in self.faults:
            self.waiting.clear()
        if "new ids" in self.faults:
            self.waiting = {f"again-{name}": body for name, body in self.waiting.items()}
        for name in tuple(self.waiting)[: 1 if "one at a time" in self.faults else None]:
            self.publish(name, resent="not resent" not in self.faults)
        if "silent" not in self.faults:
            self.beat(frame.heartbeat_s * 0.9)
        if frame.token_expires_ms and "no renewal" not in self.faults:
            self.later(1.0, self.say, Renew("a stale one" if "stale renewal" in self.faults else "token"))
        if "babbles" in self.faults:
            self.connection.send(b"\x02\xff\xff")
        if "greets twice" in self.faults:
            self.say(Hello("token"))

    def later(self, seconds: float, call: Any, *values: Any) -> None:
        self.timers.append(self.network.callLater(seconds, call, *values))

    def beat(self, seconds: float) -> None:
        self.say(Ping())
        self.later(seconds, self.beat, seconds)

    def on_ping(self, frame: Ping) -> None:
        self.say(Pong(0 if "no nonce" in self.faults else frame.nonce))

    def on_request(self, frame: Request) -> None:
        if "no answers" not in self.faults:
            self.say(Response(frame.id, 1))

    def on_deliver(self, frame: Deliver) -> None:
        if frame.epoch != self.epoch:
            return
        if not frame.pulled or "acks answers" in self.faults:
            self.delivered = max(self.delivered, frame.upto)
        if frame.after > self.position and not frame.gap and "skips" not in self.faults:
            if "comes again" in self.faults:
                self.end(0.0)
                return
            if "acks a hole" in self.faults:
                self.say(DeliverAck((Acked(frame.address, frame.epoch, frame.upto),)))
            if "waits for ever" not in self.faults:
                self.say(Pull(frame.address, 0, frame.epoch, self.position))
            return
        entries = list(frame.entries)
        if "disorder" in self.faults:
            entries.reverse()
        for entry in entries:
            if entry.seq > self.position or "shows twice" in self.faults:
                self.show(decode_message(entry.message).body)
        if "shows again later" in self.faults:
            for entry in entries:
                self.later(0.1, self.show, decode_message(entry.message).body)
        self.position = max(self.position, frame.upto)
        self.ack(frame)

    def ack(self, frame: Deliver) -> None:
        if "no acks" in self.faults:
            return
        if "no empty acks" in self.faults and not frame.entries:
            return
        if "no second acks" in self.faults:
            if frame.upto <= self.acked or (frame.entries and self.position > frame.upto):
                return
            self.acked = frame.upto
        upto = self.position + 1 if "acks ahead" in self.faults else min(self.position, self.delivered)
        self.say(DeliverAck((Acked(frame.address, frame.epoch, upto),)))

    def on_publishack(self, frame: PublishAck) -> None:
        if "deaf" not in self.faults:
            self.waiting.pop(frame.msg_id, None)
            self.flying.discard(frame.msg_id)
        self.pump()

    def on_bye(self, frame: Bye) -> None:
        self.is_over = frame.code >= 200 and "stubborn" not in self.faults
        self.end(0.1 if "hasty" in self.faults else frame.retry_after_ms / 1000)

    # ------------------------------------------------------------------------------------------- outwards

    def show(self, body: bytes) -> None:
        if "no echo" in self.faults:
            return
        if len(body) > self.limits.max_body_bytes and "too large" not in self.faults:
            return
        self.count += 1
        self.waiting[f"{self.name}-{self.count}"] = body
        self.pump()

    def pump(self) -> None:
        for name in tuple(self.waiting):
            most = 1 if "one at a time" in self.faults else self.limits.publish_window
            full = len(self.flying) >= most and "floods" not in self.faults
            if not full and name not in self.flying:
                self.publish(name)

    def publish(self, name: str, resent: bool = False) -> None:
        self.flying.add(name)
        body = self.waiting[name]
        self.say(Publish(name, (parse_address("user:conformance"),), "text/plain", body, resent=resent))
        if "impatient" in self.faults:
            self.later(1.0, self.repeat, name)

    def repeat(self, name: str) -> None:
        if name in self.waiting:
            self.publish(name, True)
