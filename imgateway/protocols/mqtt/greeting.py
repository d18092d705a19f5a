"""CONNECT: who comes, with which session, how often it will be heard, and its will."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from imgateway.errors import InvalidAddress
from imgateway.frames import Hello, Publish, Start, check_id
from imgateway.protocols.mqtt.packets import Body, Packet
from imgateway.protocols.mqtt.properties import NONE, WILL, Properties, Property, read
from imgateway.protocols.mqtt.publishing import published
from imgateway.protocols.mqtt.reasons import Broken, Reason
from imgateway.protocols.mqtt.record import FOREVER

__all__ = ("Greeting",)


class Greeting(Struct, frozen=True):
    """What a CONNECT said. `version` is 4 (3.1.1) or 5; `keepalive_s` 0: it may be silent for ever."""

    version: int
    client_id: str
    user: str
    token: str
    clean: bool
    keepalive_s: int
    expiry_s: int = 0
    receive_maximum: int = 65_535
    max_packet_bytes: int = 0
    tell_reasons: bool = True
    auth: bool = False
    will: Publish | None = None
    will_delay_s: int = 0

    @staticmethod
    def version_of(body: bytes) -> int:
        """The protocol level that a CONNECT names, before anything else of it is believed; 0: it is cut off
        or of no MQTT.
        """
        name = body[2:6]
        if body[:2] == b"\0\4" and name == b"MQTT" and len(body) > 6:
            return body[6]
        return 3 if body[:8] == b"\0\6MQIsdp" else 0

    @staticmethod
    def read(data: bytes, will_id: str) -> Greeting:
        """:raises Broken: it is no CONNECT of 3.1.1 or 5."""
        version = Greeting.version_of(data)
        if version not in (4, 5):
            raise Broken("neither MQTT 3.1.1 nor 5", Reason.VERSION if version else Reason.PROTOCOL_ERROR)
        body = Body(data, 7)
        flags = body.byte()
        has_will, will_qos, will_retain = bool(flags & 4), flags >> 3 & 3, bool(flags & 32)
        if flags & 1 or will_qos == 3 or (not has_will and flags & 0x38):
            raise Broken("flags that CONNECT cannot have")
        if version == 4 and flags & 64 and not flags & 128:
            raise Broken("a password without a user name")
        keepalive_s = body.short()
        properties = read(body, Packet.CONNECT) if version == 5 else NONE
        client_id = body.text()
        will, delay_s = None, 0
        if has_will:
            about = read(body, WILL) if version == 5 else NONE
            topic = body.binary()
            payload = body.binary()
            delay_s = about.get(Property.WILL_DELAY, 0)
            qos = min(will_qos, 1)
            try:
                will = published(will_id, topic, payload, qos, will_retain, False, about)
            except InvalidAddress as error:
                raise Broken(f"the will: {error}", Reason.TOPIC_INVALID) from None
        user = body.text() if flags & 128 else ""
        token = body.binary() if flags & 64 else b""
        body.end()
        clean = bool(flags & 2)
        return Greeting(
            version,
            _client_id(client_id, version, clean),
            user,
            token.decode("utf-8", "replace"),
            clean,
            keepalive_s,
            _expiry_s(version, clean, properties),
            properties.get(Property.RECEIVE_MAXIMUM, 65_535),
            properties.get(Property.MAXIMUM_PACKET_SIZE, 0),
            bool(properties.get(Property.PROBLEM_INFORMATION, 1)),
            Property.AUTH_METHOD in properties or Property.AUTH_DATA in properties,
            will,
            delay_s,
        )

    def hello(self, name: str) -> Hello:
        """As the core knows it. `name`: for a device that has none; nobody else is given it."""
        return Hello(
            self.token,
            self.client_id or name,
            start=Start.UNSEEN if self.client_id or self.expiry_s else Start.HEAD,
            user=self.user,
            will=self.will,
            will_delay_s=float(self.will_delay_s),
            linger_s=-1.0 if self.expiry_s == FOREVER else float(self.expiry_s),
            assigned=not self.client_id,
            clean=self.clean,
        )

    def without_secrets(self) -> Greeting:
        """What is kept for as long as the connection lives."""
        return replace(self, user="", token="", will=None)

    def keepalive(self, limit_s: int) -> int:
        """What counts, in seconds: MQTT 5 has a way to tell a client that it is less than it asked for."""
        if self.version == 5 and limit_s and not 0 < self.keepalive_s <= limit_s:
            return limit_s
        return self.keepalive_s


def _expiry_s(version: int, clean: bool, properties: Properties) -> int:
    if version == 4:
        return 0 if clean else FOREVER
    expiry: int = properties.get(Property.SESSION_EXPIRY, 0)
    return expiry


def _client_id(text: str, version: int, clean: bool) -> str:
    if not text and (version == 5 or clean):
        return ""
    try:
        return check_id(text)
    except InvalidAddress as error:
        raise Broken(f"the client id: {error}", Reason.CLIENT_ID) from None
