"""Where messages live, for how long, and how nodes find each other."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from imgateway.config.kinds import PositiveInt, Rate, Seconds, Text

__all__ = (
    "REDIS_SCHEMES",
    "BrokerSettings",
    "RedisSettings",
    "RegistrySettings",
    "RetentionSettings",
    "RoomSettings",
)

REDIS_SCHEMES = ("redis://", "rediss://", "redis+sentinel://")
"""How `BrokerSettings.url` begins where it names Redis."""


class BrokerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where logs live, and how much may wait for the store."""

    url: Annotated[
        Text,
        Meta(
            description="embedded: is a database in node.data_dir; memory: keeps nothing over a restart; "
            "redis://HOST:PORT/DB, rediss:// (TLS), redis+sentinel://HOST:PORT,HOST:PORT/NAME (several, with "
            "commas: users and topics are spread over them): shared by all nodes."
        ),
    ] = "embedded:"
    dedup_s: Annotated[
        PositiveInt, Meta(description="How long a repeated message is recognised; told to clients.")
    ] = 86_400
    dedup_memory: Annotated[PositiveInt, Meta(description="Message ids that are kept in memory.")] = 1_000_000
    batch_entries: Annotated[PositiveInt, Meta(description="The most entries of one commit.")] = 1_000
    batch_bytes: Annotated[PositiveInt, Meta(description="The most bytes of one commit.")] = 4_194_304
    waiting_entries: Annotated[
        PositiveInt,
        Meta(description="Entries that may wait for the store; above it publishing links are not read from."),
    ] = 10_000
    waiting_bytes: Annotated[PositiveInt, Meta(description="The same, counted in bytes.")] = 16_777_216
    flush_positions_s: Annotated[
        Seconds, Meta(description="How often the sessions' acknowledged positions are written.")
    ] = 5.0

    @property
    def is_shared(self) -> bool:
        """Whether nodes may have this store together, which none of them then keeps in itself."""
        return self.url.startswith(REDIS_SCHEMES)


class RedisSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What counts only where broker.url names Redis."""

    rings: Annotated[
        tuple[str, ...],
        Meta(
            description="Redis servers for what rooms and everyone are sent, as in broker.url; they need no "
            "disk. Empty: the servers of broker.url."
        ),
    ] = ()
    password_file: Annotated[
        str, Meta(description="A file with the password, where a URL has none; empty: no password.")
    ] = ""
    ack: Annotated[
        Literal["local", "replica"],
        Meta(
            description="When a message counts as kept: on the primary's disk, or also on a replica's "
            "(Redis 7.2 and newer)."
        ),
    ] = "local"
    dedup_s: Annotated[
        PositiveInt, Meta(description="As broker.dedup_s: Redis keeps every id in memory for so long.")
    ] = 14_400
    unsafe: Annotated[
        bool,
        Meta(
            description="Start although Redis may lose what was acknowledged: it evicts keys, or does not "
            "write each change to its disk at once."
        ),
    ] = False


class RegistrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How this node tells the others of the cluster, and routers, that it is there."""

    url: Annotated[
        str,
        Meta(
            description="redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/NAME (several, with "
            "commas: in all of them), zookeeper://HOST:PORT,HOST:PORT/PATH; empty: a node knows only itself."
        ),
    ] = ""
    password_file: Annotated[
        str, Meta(description="A file with Redis's password, where the URL has none; empty: no password.")
    ] = ""
    region: Annotated[
        str, Meta(description="Where the node is; routers prefer nodes of the client's region.")
    ] = ""
    zone: Annotated[str, Meta(description="The same within the region, for routers to spread over.")] = ""
    weight: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="The node's share of logins against others' weights; 0: none."),
    ] = 100
    advertise: Annotated[
        tuple[str, ...],
        Meta(
            description="Where clients reach the node, each PROTOCOL[,PROTOCOL]+TRANSPORT=URL, such as "
            "native+tcp=tls://gw1.example.org:7901; empty: its listeners, under the host's name where they "
            "listen on all addresses."
        ),
    ] = ()
    chat_path: Annotated[
        str,
        Meta(
            description="zookeeper: netty-chat's clients look here for servers, such as /Chat/NettyServer; "
            "a node that serves chat over tcp is there while it is ready. Empty: it is not."
        ),
    ] = ""


class RetentionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What a durable log keeps: age and quota; acknowledgements alone delete nothing."""

    age_s: Annotated[PositiveInt, Meta(description="The longest that a message is kept.")] = 604_800
    entries: Annotated[
        PositiveInt,
        Meta(
            description="The most entries of one log; what every device has read goes first, then it is full."
        ),
    ] = 10_000
    bytes: Annotated[PositiveInt, Meta(description="The most bytes of one log, likewise.")] = 67_108_864
    device_unseen_s: Annotated[
        PositiveInt, Meta(description="A device unseen for longer holds back nothing any more.")
    ] = 604_800


class RoomSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What rooms, areas and everyone's log keep, in memory, and how much may be sent to one of them."""

    classes: Annotated[
        tuple[str, ...],
        Meta(
            description="Rooms with limits of their own, by their ids, each PATTERN: KEY=VALUE …, such as "
            "live-*: entries=500 bytes=4MB age=10m tick=50ms notify_above=5000; the first that fits counts."
        ),
    ] = ()
    rate: Annotated[
        Rate,
        Meta(
            description="Messages a second to one room and lane, services' not counted; what is above gets "
            "RATE and is dropped. 0: not limited."
        ),
    ] = 200.0
    burst: Annotated[PositiveInt, Meta(description="Messages to a room at once after a quiet time.")] = 400
    memory_bytes: Annotated[
        PositiveInt,
        Meta(
            description="All rooms together; above it the rooms that were not sent to for longest lose "
            "their oldest messages."
        ),
    ] = 536_870_912
    dedup_s: Annotated[
        PositiveInt, Meta(description="How long a message to a room that is repeated is recognised.")
    ] = 600
    dedup_memory: Annotated[
        PositiveInt, Meta(description="Ids of messages to rooms that are kept for it, at 200 bytes each.")
    ] = 200_000
