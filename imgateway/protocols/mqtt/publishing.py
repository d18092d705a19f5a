"""A client's publish, and its will, as our Publish: the topic is an address, the properties are fields and
headers.

Headers whose names begin with ``mqtt.`` carry what only MQTT knows, so that it reaches receivers who speak
it. Names that begin with ``imgateway.`` are what we tell receivers of a message; nobody else may use them.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import lru_cache

from imgateway.frames import Address, Publish
from imgateway.protocols.mqtt.packets import utf8
from imgateway.protocols.mqtt.properties import NONE, Properties, Property
from imgateway.protocols.mqtt.reasons import Broken, Reason
from imgateway.protocols.mqtt.topics import address_of, has_wildcards

__all__ = ("CORRELATION", "FORMAT", "OURS", "RESPONSE_TOPIC", "RETAIN", "THEIRS", "published", "target")

THEIRS = "mqtt."
OURS = "imgateway."
RETAIN = "mqtt.retain"
FORMAT = "mqtt.payload-format"
RESPONSE_TOPIC = "mqtt.response-topic"
CORRELATION = "mqtt.correlation-data"


@lru_cache(maxsize=16384)
def target(topic: bytes) -> Address:
    """Where to publish what has this topic.

    :raises Broken: it is no topic that anything may be published to.
    :raises InvalidAddress: it is one, but none of ours.
    """
    name = utf8(topic)
    if not name or has_wildcards(name):
        raise Broken("a topic to publish to has neither wildcards nor length 0", Reason.TOPIC_INVALID)
    return address_of(name)


def published(
    msg_id: str,
    topic: bytes,
    body: bytes,
    qos: int,
    retain: bool,
    resent: bool,
    properties: Properties = NONE,
) -> Publish:
    """As the core knows it. :raises: as `target`."""
    if not properties and not retain:
        return Publish(msg_id, (target(topic),), "", body, qos, 0, 0, resent)
    ttl_s = 0
    if Property.MESSAGE_EXPIRY in properties:
        ttl_s = max(1, properties[Property.MESSAGE_EXPIRY])  # 0 would mean: never
    content_type = properties.get(Property.CONTENT_TYPE, "")
    more = headers(properties, retain)
    return Publish(msg_id, (target(topic),), content_type, body, qos, ttl_s, 0, resent, False, more)


def headers(properties: Properties, retain: bool) -> tuple[tuple[str, str], ...]:
    """What has no field of its own."""
    pairs = [
        (name, value)
        for name, value in properties.get(Property.USER, ())
        if not name.startswith((THEIRS, OURS))
    ]
    if Property.RESPONSE_TOPIC in properties:
        topic = properties[Property.RESPONSE_TOPIC]
        if not topic or has_wildcards(topic):
            raise Broken("a response topic has neither wildcards nor length 0", Reason.PROTOCOL_ERROR)
        pairs.append((RESPONSE_TOPIC, topic))
    if Property.CORRELATION in properties:
        pairs.append((CORRELATION, urlsafe_b64encode(properties[Property.CORRELATION]).decode()))
    if properties.get(Property.PAYLOAD_FORMAT):
        pairs.append((FORMAT, "1"))
    if retain:
        pairs.append((RETAIN, "1"))
    return tuple(pairs)
