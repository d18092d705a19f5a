"""A client's PUBLISH packets: each becomes a publish of ours, and its outcome the packet that answers it.

QoS 2 is taken as such: PUBREC stands for PUBACK, and a repeat finds its message by the id that it was given.
Until PUBREL the same packet id is the same message, whatever DUP says. It releases nothing else, but PUBCOMP
waits until that is on the disk: what has this packet id next must not be taken for this one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

from imgateway.errors import InvalidAddress
from imgateway.frames import Address, Publish, PublishAck
from imgateway.protocols.mqtt.minting import KEPT, Mint
from imgateway.protocols.mqtt.packets import Body, Packet, acknowledgement
from imgateway.protocols.mqtt.properties import NONE, Properties, Property, read
from imgateway.protocols.mqtt.publishing import published, target
from imgateway.protocols.mqtt.reasons import Broken, Reason, of_outcome

__all__ = ("ALIASES", "USUAL", "Inbox")

ALIASES = 16
"""Topic aliases that a client may have."""
LARGEST = 16_383
"""What a packet's length of two bytes says at most."""
LONGEST = 512
"""Bytes of a topic that is an address, and more."""
USUAL = Packet.PUBLISH | 2
"""How a publish at QoS 1 begins that is sent for the first time."""
_KINDS = (0, Packet.PUBACK, Packet.PUBREC)
_YES = (0, Packet.PUBACK << 24 | 2 << 16, Packet.PUBREC << 24 | 2 << 16)
"""What says yes to a publish of this QoS, as a number, without its packet id."""


class Inbox:
    """:param version: 4 or 5. :param draw: gives a text that nobody else is given.

    :ivar mint: gives the message ids; may be set until the first publish.
    :ivar unreleased: packet ids of QoS 2 that wait for their PUBREL, the newest last; set likewise.
    :ivar is_changed: one of them has changed, which must be remembered before what was given last goes on.
    """

    __slots__ = (
        "_aliases",
        "_draw",
        "_name",
        "_passed",
        "_v5",
        "_waiting",
        "is_changed",
        "mint",
        "unreleased",
    )

    def __init__(self, version: int, draw: Callable[[], str]) -> None:
        self.mint = Mint("", (), draw)
        self.unreleased: dict[int, None] = {}
        self.is_changed = False
        self._v5 = version == 5
        self._draw = draw
        self._name = ""
        self._passed = 0  # publishes of QoS 0
        self._waiting: dict[str, int] = {}  # by message id: what says yes to it, as a number
        self._aliases: dict[int, bytes] | None = None

    def usual(self, data: bytes, at: int, most: int) -> tuple[Publish | None, int]:
        """The PUBLISH that begins at `at`, if it is whole and as nearly all are, and where it ends: at QoS 1,
        sent for the first time, with nothing else said about it.

        None: `publish` is the way for it, or says what is wrong with it; nothing was done.

        :param most: bytes of the largest packet.
        """
        try:
            if data[at] != USUAL:
                return None, at
            count, topic = data[at + 1], at + 4
            if count > 127:
                count, topic = count + (data[at + 2] << 7) - 128, at + 5
                if count < 128:
                    return None, at
            end, topic_end = topic - 2 + count, topic + data[topic - 1]
            packet_id = data[topic_end] << 8 | data[topic_end + 1]
            body = topic_end + 2
            if self._v5:
                if data[body]:  # it has properties
                    return None, at
                body += 1
            if (
                count > LARGEST
                or data[topic - 2]
                or not packet_id
                or body > end
                or end > len(data)
                or end - at > most
            ):
                return None, at
            to, content = _to(data[topic:topic_end])
        except (IndexError, Broken, InvalidAddress):
            return None, at
        said = data[body:end]
        msg_id, begun = self.mint.fresh(packet_id, crc32(said, content))
        if begun:
            self.is_changed = True
        self._waiting[msg_id] = _YES[1] | packet_id
        return Publish(msg_id, to, "", said), end

    def publish(self, first: int, body: bytes) -> Publish | bytes:
        """The publish; or the answer to one that goes nowhere.

        :raises Broken: it is none.
        """
        size = len(body)
        at = 2 + (body[0] << 8 | body[1]) if size > 1 else 2
        qos = first >> 1 & 3
        if qos:
            at += 2
        if at > size or qos == 3 or (first & 8 and not qos):
            raise Broken("a PUBLISH that is cut off, or with flags that it cannot have")
        topic = body[2 : at - 2] if qos else body[2:at]
        packet_id = body[at - 2] << 8 | body[at - 1] if qos else 0
        if qos and not packet_id:
            raise Broken("a packet id must not be 0", Reason.PROTOCOL_ERROR)
        properties = NONE
        if not self._v5:
            body = body[at:]
        elif topic and body[at : at + 1] == b"\0":
            body = body[at + 1 :]
        else:
            rest = Body(body, at)
            properties = read(rest, Packet.PUBLISH)
            body = rest.rest()
            if not topic or Property.TOPIC_ALIAS in properties:
                topic = self._aliased(topic, properties)
        resent = bool(first & 8) or (qos == 2 and packet_id in self.unreleased)
        if not qos:
            msg_id = self._pass()
        else:
            mint = self.mint.again if resent else self.mint.fresh
            msg_id, begun = mint(packet_id, crc32(body, crc32(topic)))
            if begun:
                self.is_changed = True
        try:
            frame = published(msg_id, topic, body, qos and 1, first & 1 == 1, resent, properties)
        except InvalidAddress:
            return self._answer(_KINDS[qos], packet_id, Reason.TOPIC_INVALID) if qos else b""
        if qos:
            self._waiting[msg_id] = _YES[qos] | packet_id
        if qos == 2 and packet_id not in self.unreleased:
            if len(self.unreleased) == KEPT:  # the mint may know older ones no more
                del self.unreleased[next(iter(self.unreleased))]
            self.unreleased[packet_id] = None
            self.is_changed = True
        return frame

    def released(self, packet_id: int) -> None:
        """PUBREL came: from now on this packet id is another message's."""
        if packet_id in self.unreleased:
            del self.unreleased[packet_id]
            self.is_changed = True

    def answered(self, ack: PublishAck) -> bytes:
        """The core has decided."""
        yes = self._waiting.pop(ack.msg_id, 0)
        if not yes:
            return b""
        code = ack.outcomes[0].code
        if not code:
            return yes.to_bytes(4)
        packet_id, reason = yes & 65_535, of_outcome(code)
        if reason and self._v5:
            self.released(packet_id)  # after a PUBREC that says no there is no PUBREL
        return self._answer(yes >> 24, packet_id, reason)

    def _answer(self, kind: int, packet_id: int, reason: int) -> bytes:
        # 3.1.1 has no other answer, and to hang up would make the client send it again for ever.
        return acknowledgement(kind, packet_id, reason if self._v5 else 0)

    def _pass(self) -> str:
        """An id for what nobody will repeat."""
        if not self._name:
            self._name = self._draw() + "q"
        self._passed += 1
        return f"{self._name}{self._passed:x}"

    def _aliased(self, topic: bytes, properties: Properties) -> bytes:
        alias = properties.get(Property.TOPIC_ALIAS)
        if alias is None:
            raise Broken("a PUBLISH without a topic", Reason.PROTOCOL_ERROR)
        if not 1 <= alias <= ALIASES:
            raise Broken("a topic alias that was not offered", Reason.ALIAS_INVALID)
        if self._aliases is None:
            self._aliases = {}
        if topic:
            # What is longer stands for no address.
            self._aliases[alias] = topic if len(topic) <= LONGEST else b"?"
            return topic
        if alias not in self._aliases:
            raise Broken("a topic alias that stands for nothing", Reason.PROTOCOL_ERROR)
        return self._aliases[alias]


@lru_cache(maxsize=16384)
def _to(topic: bytes) -> tuple[tuple[Address], int]:
    """Where to, and the beginning of the checksum of what is published there."""
    return (target(topic),), crc32(topic)
