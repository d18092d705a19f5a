"""One client for each wire and transport, all used alike: by the table of who can say what to whom."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar

from paho.mqtt.packettypes import PacketTypes
from twisted.internet import task
from twisted.internet.threads import deferToThread

from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.client import Client, Received
from imgateway.config import UdpSettings

from .chat import ChatClient, chatting
from .mobileimsdk import Phone, UdpPhone, WebPhone, said
from .mqtt import V3, V5, Paho, about
from .nodes import Node, until

__all__ = ("CARRIERS", "VALUE", "Look", "Peer")

Look = dict[str, str]
"""A message as one client was shown it: the wire's own fields by name, ``id`` the one that names it."""

VALUE = '{"a":1}'
"""What everybody says in their second message, see `Peer.say`."""


class Peer:
    """A client of one carrier.

    :ivar got: the bodies that its program was shown, as texts of their own wire say them.
    :ivar looks: the same messages, with all that came along.
    :ivar lost: the gateway has closed the connection, though nobody left.
    """

    says: ClassVar[tuple[str, str]] = ("", "")
    """What `say` says, in words: a text alone, and with what else the wire can say."""

    binary: ClassVar[bool] = True
    """It can send bytes that are no text."""
    largest: ClassVar[int] = 65_536
    """The longest text that it can send."""
    device: ClassVar[str] = "phone"

    def __init__(self, node: Node, port: int, user: str) -> None:
        self.node, self.port, self.user = node, port, user
        self.got: list[bytes] = []
        self.looks: list[Look] = []
        self.lost = False

    async def log_in(self) -> None:
        raise NotImplementedError

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        """Returns what an answer of the gateway will name; "": nothing does."""
        raise NotImplementedError

    def was_taken(self, sent: str) -> bool:
        """The gateway has answered what `send` returned."""
        raise NotImplementedError

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        """`says`, to all of them. Returns the id that the client gave the message; "": this wire has none."""
        raise NotImplementedError

    def collect(self) -> None:
        """Have `got` and `looks` up to date."""

    async def leave(self) -> None:
        raise NotImplementedError


class Ours(Peer):
    says = ("`hello`", f"`{VALUE}` as `application/json`, header `colour: red`")
    scheme: ClassVar[str] = "tcp"
    protocol: ClassVar[str] = "native"

    def _token(self) -> str:
        return self.node.token(self.user)

    async def log_in(self) -> None:
        self.client = Client(
            f"{self.scheme}://127.0.0.1:{self.port}",
            token=self._token(),
            device="phone",
            protocol=self.protocol,
            on_message=self._shown,
        )
        await until(self.client.start())

    def _shown(self, received: Received) -> None:
        message = received.message
        self.got.append(message.body)
        self.looks.append(
            {
                "sender": message.sender,
                "device": message.device,
                "content type": message.content_type,
                "body": message.body.decode(errors="replace"),
                "id": message.msg_id,
                "headers": ", ".join(f"{name}: {value}" for name, value in message.headers),
            }
        )

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        said: bytes | str = body.decode() if is_text else body
        kind = "" if is_text else "application/octet-stream"
        self.client.publish(f"user:{to}", said, content_type=kind).addErrback(lambda failure: None)
        return ""

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        msg_id = str(uuid.uuid4())
        more: Any = {"content_type": "application/json", "headers": {"colour": "red"}} if is_rich else {}
        users = [f"user:{user}" for user in to]
        self.client.publish(users, VALUE if is_rich else "hello", msg_id=msg_id, **more)
        return msg_id

    async def leave(self) -> None:
        await until(self.client.close(1.0))


class OursOnWebSocket(Ours):
    scheme = "ws"


class OursInJson(OursOnWebSocket):
    protocol = "json"


class OursOnUdp(Ours):
    scheme = "udp"

    def _token(self) -> str:
        return with_udp_key(super()._token(), load_udp_secret(UdpSettings(), str(self.node.data)))


class Chat(Peer):
    says = ('body `{"text":"hello"}`, to one each', f"body `{VALUE}`, `format` 2, to all as a group")
    binary = False
    device = "chat"

    async def log_in(self) -> None:
        self.client: ChatClient = await chatting(self.port, int(self.user))
        self._beat = task.LoopingCall(self.client.say, msg_type=4)
        self._beat.start(1.0)

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        return self.client.chat(int(to), body.decode())

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        uids = [int(user) for user in to]
        if is_rich:
            return self.client.say(format=2, msg_type=1, chat_type=2, body=VALUE, to_uid_list=uids)
        msg_id = str(uuid.uuid4())
        for uid in uids:
            self.client.chat(uid, "hello", msg_id)
        return msg_id

    def collect(self) -> None:
        shown = [msg for msg in self.client.heard if msg.msg_type == 1]
        self.got = [_text(msg.body) for msg in shown]
        self.looks = [
            {
                "from_uid": str(msg.from_uid),
                "chat_type": str(msg.chat_type),
                "format": str(msg.format),
                "body": msg.body,
                "to_uid_list": ", ".join(map(str, msg.to_uid_list)),
                "id": msg.msg_id,
            }
            for msg in shown
        ]

    async def leave(self) -> None:
        self._beat.stop()
        await self.client.kill()


def _text(body: str) -> bytes:
    value = json.loads(body)
    return str(value.get("text", value)).encode()


class Mobile(Peer):
    says = ("`dataContent` `hello`, with `QoS` and `fp`", f"`dataContent` `{VALUE}`, `typeu` 7, with `QoS` and `fp`")
    binary = False
    device = "mobileimsdk"
    largest = 5_000
    phones: ClassVar[Callable[[int], Phone]] = Phone
    look_s: ClassVar[float] = 60.0

    async def log_in(self) -> None:
        self._leaving = False
        self._lock = threading.Lock()
        self._receipts: set[str] = set()
        self._phone = type(self).phones(self.port)
        await until(deferToThread(self._phone.log_in, self.user, self.node.token(self.user)))
        self._phone.socket.settimeout(self.look_s)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._beat = task.LoopingCall(self._say, 1, "{}", self.user)
        self._beat.start(3.0)
        self.lost = False

    def _say(self, *words: Any, **more: Any) -> None:
        with self._lock, suppress(OSError):  # the gateway may have closed it
            self._phone.say(said(*words, **more))

    def _listen(self) -> None:
        while (heard := self._heard()) is not None:
            if heard["type"] == 4:
                self._receipts.add(heard["dataContent"])
            elif heard["type"] == 2:
                names = {"from": "from", "dataContent": "dataContent", "typeu": "typeu", "QoS": "QoS", "fp": "id"}
                look = {name: heard.get(field, "") for field, name in names.items()}
                self.looks.append({name: str(value) for name, value in look.items()})
                self.got.append(heard["dataContent"].encode())
                if heard.get("QoS"):
                    self._say(4, heard["fp"], heard["to"], heard["from"])
        self.lost = True

    def _heard(self) -> Any:
        try:
            return self._phone.hear()
        except OSError:
            return None

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        fp = str(uuid.uuid4())
        self._say(2, body.decode(), self.user, to, fp=fp, QoS=True)
        return fp

    def was_taken(self, sent: str) -> bool:
        return sent in self._receipts

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        fp = str(uuid.uuid4())
        more = {"typeu": 7} if is_rich else {}
        for user in to:
            self._say(2, VALUE if is_rich else "hello", self.user, user, fp=fp, QoS=True, **more)
        return fp

    async def leave(self) -> None:
        self._beat.stop()
        with suppress(OSError):
            self._phone.socket.shutdown(2)
        await until(deferToThread(self._thread.join))
        self._phone.close()


class MobileOnUdp(Mobile):
    largest = 1_500
    phones = UdpPhone
    look_s = 0.2  # nothing wakes who waits for a datagram


class MobileOnWebSocket(Mobile):
    largest = 65_000
    phones = WebPhone


class Mqtt(Peer):
    says = (
        "payload `hello`",
        f"payload `{VALUE}`, content type `application/json`, user property `colour=red`, response topic "
        "`topic/answers`, correlation data `c1`",
    )
    version: ClassVar[int] = V5
    transport: ClassVar[str] = "tcp"
    secure: ClassVar[bool] = False

    async def log_in(self) -> None:
        place: Any = SimpleNamespace(tcp=self.port, ws=self.port, token=self.node.token)
        self._paho = Paho(place, self.user, self.version, transport=self.transport)
        if self.secure:
            self._paho.client.tls_set(str(self.node.directory / "cert.pem"))
        await until(deferToThread(self._paho.connect))

    def send(self, to: str, body: bytes, is_text: bool) -> str:
        self._paho.client.publish(f"user/{to}", body, 1)
        return ""

    def say(self, to: Sequence[str], is_rich: bool) -> str:
        more: dict[str, Any] = {}
        if is_rich and self.version == V5:
            more["properties"] = about(
                PacketTypes.PUBLISH,
                ContentType="application/json",
                UserProperty=("colour", "red"),
                ResponseTopic="topic/answers",
                CorrelationData=b"c1",
            )
        for user in to:
            self._paho.client.publish(f"user/{user}", VALUE if is_rich else "hello", 1, **more)
        return ""

    def collect(self) -> None:
        while not self._paho.messages.empty():
            message: Any = self._paho.messages.get()
            self.got.append(message.payload)
            look = {"topic": message.topic, "payload": message.payload.decode(errors="replace")}
            if self.version == V5:
                look |= _properties(message.properties)
            self.looks.append(look)

    async def leave(self) -> None:
        await until(deferToThread(self._paho.leave))


def _properties(properties: Any) -> Look:
    """Each in a field of its own, and what is not told apart by names in one."""
    pairs = dict(properties.UserProperty)
    look = {
        "`imgateway.sender`": pairs.pop("imgateway.sender", ""),
        "`imgateway.device`": pairs.pop("imgateway.device", ""),
        "id": pairs.pop("imgateway.msg_id", ""),
        "content type": getattr(properties, "ContentType", ""),
        "user properties": ", ".join(f"{name}={value}" for name, value in pairs.items()),
    }
    more = [getattr(properties, "ResponseTopic", ""), getattr(properties, "CorrelationData", b"").decode()]
    return look | {"response topic, correlation data": ", ".join(filter(None, more))}


class MqttOnTls(Mqtt):
    secure = True


class MqttOnWebSocket(Mqtt):
    says = ("payload `hello`", f"payload `{VALUE}`")
    version = V3
    transport = "websockets"


CARRIERS: dict[str, tuple[str, type[Peer]]] = {
    "native over TCP": ("native+tcp:tcp:{port}:interface=127.0.0.1", Ours),
    "native over WebSocket": ("native+websocket:tcp:{port}:interface=127.0.0.1", OursOnWebSocket),
    "native over UDP": ("native+udp:127.0.0.1:{port}", OursOnUdp),
    "json over WebSocket": ("json+websocket:tcp:{port}:interface=127.0.0.1", OursInJson),
    "mobileimsdk over TCP": ("mobileimsdk+tcp:tcp:{port}:interface=127.0.0.1", Mobile),
    "mobileimsdk over WebSocket": ("mobileimsdk+websocket:tcp:{port}:interface=127.0.0.1", MobileOnWebSocket),
    "mobileimsdk over UDP": ("mobileimsdk+udp:127.0.0.1:{port}", MobileOnUdp),
    "chat over TCP": ("chat+tcp:tcp:{port}:interface=127.0.0.1", Chat),
    "mqtt over TCP": ("mqtt+tcp:tcp:{port}:interface=127.0.0.1", Mqtt),
    "mqtt over TLS": (
        "mqtt+tcp:ssl:{port}:interface=127.0.0.1:privateKey={keys}/key.pem:certKey={keys}/cert.pem",
        MqttOnTls,
    ),
    "mqtt over WebSocket": ("mqtt+websocket:tcp:{port}:interface=127.0.0.1", MqttOnWebSocket),
}
"""Wire and transport → where a node listens for it, and its client."""
