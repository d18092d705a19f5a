"""Clients of other makers' wires that say and hear the same as ours."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from twisted.internet import task
from twisted.internet.threads import deferToThread

from .chat import ChatClient, chatting
from .mobileimsdk import Phone, UdpPhone, WebPhone, said
from .mqtt import V3, V5, Paho, about
from .nodes import until
from .speakers import VALUE, Look, Peer

__all__ = ("Chat", "Mobile", "MobileOnUdp", "MobileOnWebSocket", "Mqtt", "MqttOnTls", "MqttOnWebSocket")


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
        await self.client.pinged()  # without a word more nothing has arrived
        await self.client.kill()


def _text(body: str) -> bytes:
    value = json.loads(body)
    return str(value.get("text", value)).encode()


class Mobile(Peer):
    says = ("`dataContent` `hello`, with `QoS`", f"`dataContent` `{VALUE}`, `typeu` 7, with `QoS`")
    binary = False
    device = "mobileimsdk"
    largest = 5_000
    phones: ClassVar[type[Phone]] = Phone
    wait_s: ClassVar[float] = 60.0

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self._shown: set[tuple[str, str]] = set()

    async def log_in(self) -> None:
        self._leaving = self.lost = False
        self._lock = threading.Lock()
        self._receipts: set[str] = set()
        self._phone = type(self).phones(self.port)
        await until(deferToThread(self._phone.log_in, self.user, self.node.token(self.user)))
        self._phone.socket.settimeout(self.wait_s)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._beat = task.LoopingCall(self._say, 1, "{}", self.user)
        self._beat.start(3.0)

    def _say(self, *words: Any, **more: Any) -> None:
        with self._lock, suppress(OSError):  # the gateway may have closed it
            self._phone.say(said(*words, **more))

    def _listen(self) -> None:
        """Until the gateway closes it, or we leave."""
        while not self._leaving:
            try:
                heard = self._phone.hear()
            except TimeoutError:
                continue
            except OSError:
                heard = None
            if heard is None:
                break
            if heard["type"] == 4:
                self._receipts.add(heard["dataContent"])
            elif heard["type"] == 2:
                if heard.get("QoS"):
                    self._say(4, heard["fp"], heard["to"], heard["from"])
                    if (heard["from"], heard["fp"]) in self._shown:
                        continue  # its receipt was late, or got lost: its clients show it once, too
                    self._shown.add((heard["from"], heard["fp"]))
                look = {
                    "from": heard["from"],
                    "dataContent": heard["dataContent"],
                    "typeu": str(heard["typeu"]),
                }
                self.looks.append(look | {"QoS": json.dumps(heard["QoS"]), "id": heard.get("fp", "")})
                self.got.append(heard["dataContent"].encode())
        self.lost = not self._leaving

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
        self._leaving = True
        self._beat.stop()
        with suppress(OSError):
            self._phone.socket.shutdown(2)
        await until(deferToThread(self._thread.join))
        self._phone.close()


class MobileOnUdp(Mobile):
    largest = 1_500
    phones = UdpPhone
    wait_s = 0.2  # nothing wakes who waits for a datagram


class MobileOnWebSocket(Mobile):
    largest = 65_000
    phones = WebPhone


class Mqtt(Peer):
    says = (
        "payload `hello`",
        f"payload `{VALUE}`, content type `application/json`, user property `colour=red`, response topic "
        "`topic/answers`, correlation data `c1`",
    )
    version: ClassVar[MQTTProtocolVersion] = V5
    transport: ClassVar[Literal["tcp", "websockets"]] = "tcp"
    secure: ClassVar[bool] = False

    async def log_in(self) -> None:
        place: Any = SimpleNamespace(tcp=self.port, ws=self.port, token=self.node.token)
        self._paho = Paho(place, self.user, self.version, transport=self.transport)
        if self.secure:
            self._paho.client.tls_set(str(self.node.directory.parent / "cert.pem"))
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
