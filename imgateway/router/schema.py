"""What goes over the HTTP API: each struct checks or makes the JSON, and is drawn in the OpenAPI document.

What comes in refuses fields that it does not know; what goes out may grow.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imgateway.interfaces import NodeInfo

__all__ = (
    "Allocate",
    "Allocated",
    "Answered",
    "AskClient",
    "Backoff",
    "Drained",
    "Endpoint",
    "Health",
    "Kick",
    "Kicked",
    "MakeToken",
    "Nodes",
    "NotReady",
    "Online",
    "OutcomeTold",
    "Pace",
    "Push",
    "Pushed",
    "Ready",
    "Revoke",
    "Revoked",
    "RoomTold",
    "Scheduled",
    "SessionTold",
    "Sessions",
    "Token",
    "UserOnline",
    "WhoIsOnline",
)

Id = Annotated[str, Meta(min_length=1, max_length=64, description="1 to 64 bytes of UTF-8.")]
AddressText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=400,
        description="KIND:ID, such as user:42, device:42/phone, room:7, area:games, topic:news; or all. "
        "A / or % in an id is written %2F or %25.",
    ),
]
Headers = dict[str, str]


# ------------------------------------------------------------------------------------------ what clients need


class MakeToken(Struct, frozen=True, forbid_unknown_fields=True):
    """A token for a user, or for a business server's own connection."""

    user: Id
    device: Annotated[str, Meta(max_length=64, description="Good for this device alone; empty: for any.")] = (
        ""
    )
    ttl_s: Annotated[int, Meta(ge=1, description="How long it is good.")] = 3600
    service: Annotated[
        bool,
        Meta(description="Publishes anywhere, reads any log, has no quotas; needs the scope service-tokens."),
    ] = False
    rooms: Annotated[
        tuple[Id, ...],
        Meta(max_length=1000, description="Ids of rooms that it may publish to without being in them."),
    ] = ()
    topics: Annotated[
        tuple[Id, ...],
        Meta(max_length=1000, description="Ids of topics that it may publish to, read, and subscribe to."),
    ] = ()


class Token(Struct, frozen=True):
    """A new token."""

    token: str
    token_udp: Annotated[
        str,
        Meta(description="The token with its UDP key, for udp:// URLs; empty: this gateway has no UDP keys."),
    ]
    expires_at: Annotated[int, Meta(description="Unix seconds.")]


class Allocate(Struct, frozen=True, forbid_unknown_fields=True):
    """Which nodes a client shall try."""

    transport: Annotated[str, Meta(description="tcp, udp, websocket …; empty: whichever.")] = ""
    protocol: Annotated[str, Meta(description="native, json, mqtt ….")] = "native"
    region: Annotated[str, Meta(description="Nodes of this region come first.")] = ""
    token: Annotated[
        str, Meta(description="The client's token; empty: it is in the header Authorization: Bearer.")
    ] = ""


class Endpoint(Struct, frozen=True):
    """Where a client may connect."""

    url: str
    protocol: str
    transport: str
    node: str
    region: str
    token: Annotated[
        str, Meta(description="Log in there with this token instead of your own; empty: with your own.")
    ] = ""


class Backoff(Struct, frozen=True):
    """Wait min(max_s, first_s × factor ^ attempt) seconds, of which up to `jitter` is left away by chance."""

    first_s: float
    max_s: float
    factor: float
    jitter: float


class Allocated(Struct, frozen=True):
    """Endpoints in the order to try them."""

    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=5)]
    heartbeat_s: Annotated[float, Meta(description="How often to send something.")]
    backoff: Backoff
    expires_at: Annotated[int, Meta(description="When the token expires, Unix seconds; 0: never.")]


# ------------------------------------------------------------------------------------------------------- push


class Push(Struct, frozen=True, forbid_unknown_fields=True):
    """A message: to whom, and one of body, text or json."""

    to: Annotated[tuple[AddressText, ...], Meta(min_length=1)]
    body: Annotated[bytes | UnsetType, Meta(description="The message's bytes, in base64.")] = UNSET
    text: Annotated[str | UnsetType, Meta(description="A text, sent as UTF-8.")] = UNSET
    json: Annotated[msgspec.Raw | UnsetType, Meta(description="Any JSON value, sent as it stands here.")] = (
        UNSET
    )
    content_type: Annotated[
        str,
        Meta(
            max_length=255,
            description="What receivers are told; empty: text/plain for text, application/json for json.",
        ),
    ] = ""
    qos: Annotated[
        Literal[0, 1],
        Meta(
            description="1: stored, acknowledged, once. 0: now or never, to whoever is there; OK says that "
            "nothing forbade it."
        ),
    ] = 1
    ttl_s: Annotated[
        int, Meta(ge=0, le=31_536_000, description="How long it is good; 0: as long as it is kept.")
    ] = 0
    lane: Annotated[
        Literal[0, 1], Meta(description="1: goes before what else a room, an area or all sends.")
    ] = 0
    msg_id: Annotated[
        str,
        Meta(
            max_length=64,
            pattern="^[ -~]*$",
            description="The idempotency key, printable ASCII: pushed again, through whatever router, the "
            "message is there once. Empty: the gateway makes one.",
        ),
    ] = ""
    headers: Annotated[Headers, Meta(description="Texts that receivers get with it.")] = {}
    at: Annotated[
        Annotated[datetime, Meta(tz=True)] | UnsetType,
        Meta(description="When to send it: RFC 3339 with an offset; it becomes a push task."),
    ] = UNSET


class OutcomeTold(Struct, frozen=True):
    """The final word on one address."""

    address: str
    code: Annotated[
        str,
        Meta(
            description="OK, DUPLICATE (there already), FULL, FORBIDDEN, UNKNOWN (no log), RATE (dropped), "
            "TOO_LARGE."
        ),
    ]
    epoch: Annotated[int, Meta(description="The identity of the log; 0: none.")]
    seq: Annotated[int, Meta(description="The message's place in it, with OK and DUPLICATE of qos 1.")]


class Pushed(Struct, frozen=True):
    """The outcomes, in the order of `to`."""

    msg_id: str
    outcomes: tuple[OutcomeTold, ...]


class Scheduled(Struct, frozen=True):
    """The push waits for its time."""

    msg_id: str
    task: Annotated[str, Meta(description="The id of its push task.")]


# ----------------------------------------------------------------------------------------- users, rooms, asks


class WhoIsOnline(Struct, frozen=True, forbid_unknown_fields=True):
    """The users that are asked about."""

    user: Annotated[tuple[Id, ...], Meta(max_length=500, description="Repeated for each user.")] = ()


class UserOnline(Struct, frozen=True):
    user: str
    online: bool
    devices: Annotated[tuple[str, ...], Meta(description="Those that are online.")]


class Online(Struct, frozen=True):
    """Who is online, in the order of the question."""

    users: tuple[UserOnline, ...]


class SessionTold(Struct, frozen=True):
    """A user on a device, also one that is away, as long as its position is kept."""

    user: str
    device: str
    platform: str
    node: Annotated[str, Meta(description="The incarnation of its node.")]
    generation: int
    since_ms: Annotated[int, Meta(description="Unix milliseconds.")]
    online: Annotated[bool, Meta(description="False: the device is away.")]


class Sessions(Struct, frozen=True):
    user: str
    sessions: tuple[SessionTold, ...]


class Kick(Struct, frozen=True, forbid_unknown_fields=True):
    """Why."""

    reason: Annotated[str, Meta(max_length=200, description="Told to the client.")] = "kicked"


class Kicked(Struct, frozen=True):
    user: str
    kicked: Annotated[int, Meta(description="How many sessions there were.")]


class Revoke(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tokens are good no more."""

    not_before_s: Annotated[
        int, Meta(ge=0, description="Those issued before this, Unix seconds; 0: before now.")
    ] = 0


class Revoked(Struct, frozen=True):
    user: str
    not_before_s: int


class RoomTold(Struct, frozen=True):
    room: str
    members: Annotated[int, Meta(description="Sessions in it, on all nodes.")]


class AskClient(Struct, frozen=True, forbid_unknown_fields=True):
    """A request to a client, whose answer is awaited: at most one of body, text and json."""

    user: Id
    device: Id
    service: Annotated[str, Meta(min_length=1, max_length=64)]
    method: Annotated[str, Meta(max_length=64)] = ""
    body: Annotated[bytes | UnsetType, Meta(description="In base64.")] = UNSET
    text: Annotated[str | UnsetType, Meta(description="A text, sent as UTF-8.")] = UNSET
    json: Annotated[msgspec.Raw | UnsetType, Meta(description="Any JSON value, sent as it stands here.")] = (
        UNSET
    )
    deadline_s: Annotated[float, Meta(gt=0, le=600, description="How long its answer may take.")] = 10.0


class Answered(Struct, frozen=True):
    """What the client answered."""

    code: Annotated[int, Meta(description="0, or a number of the client's own from 100.")]
    body: Annotated[bytes, Meta(description="In base64.")]
    text: Annotated[str | None, Meta(description="The same, if it is UTF-8.")]


# ------------------------------------------------------------------------------------------------------ nodes


class Nodes(Struct, frozen=True):
    """The nodes that live, by name."""

    nodes: tuple[NodeInfo, ...]


class Pace(Struct, frozen=True, forbid_unknown_fields=True):
    rate: Annotated[int, Meta(ge=1, le=1_000_000, description="Sessions a second that are sent away.")] = 500


class Since(Struct, frozen=True, forbid_unknown_fields=True):
    order: Annotated[
        int,
        Meta(
            ge=0,
            description="From the answer to `drain`: what was announced before it does not count.",
        ),
    ] = 0


class Drained(Struct, frozen=True):
    """How far a drain is, as the node announced itself last: done when nobody is left to be sent away, and
    not by what it announced before `order`, or before the last order that it had from here."""

    node: str
    incarnation: str
    state: str
    sessions: int
    leaving: Annotated[int, Meta(description="Clients that it has yet to send away.")]
    done: bool
    order: Annotated[
        int,
        Meta(description="The number of this order, 0: it did not say; of GET the last that it announced."),
    ] = 0


# ----------------------------------------------------------------------------------------------------- health


class Health(Struct, frozen=True):
    status: Literal["alive"]


class Ready(Struct, frozen=True):
    """Whether it can work, and if not, why: each part says so itself."""

    ready: bool
    reasons: tuple[str, ...]
    parts: Annotated[dict[str, str], Meta(description="Part → ok, or what is wrong.")]


class NotReady(Ready, frozen=True):
    """It cannot work just now."""
