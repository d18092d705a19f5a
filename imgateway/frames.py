"""The vocabulary: addresses, logs, positions, messages, outcomes and the frames, as frozen values.

A frame is what one peer tells the other, whatever the wire; a protocol adapter turns bytes into frames and
back. Values have no behaviour. They are `msgspec.Struct` because a frozen dataclass costs 0.6 µs to make and
a Struct 0.08 µs, and a node makes a dozen per message.

Units stand in the names: ``_s`` seconds, ``_ms`` milliseconds, ``_bytes`` bytes; times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from imgateway.errors import InvalidAddress

# -------------------------------------------------------------------------------------------------- addresses

DURABLE_KINDS = frozenset({"user", "topic", "service"})
FOLLOWED_KINDS = frozenset({"topic", "service"})
"""Durable logs that are read by whoever subscribes to them."""
RING_KINDS = frozenset({"room", "area", "all"})
KINDS = DURABLE_KINDS | RING_KINDS | {"device", "node"}

MAX_ID_BYTES = 64
MAX_MSG_ID_BYTES = 64
MAX_CONTENT_TYPE_BYTES = 255  # a registered type and subtype have at most 127 characters each
MAX_HEADER_BYTES = 16_384
"""As `header_bytes` counts them: what is acknowledged must still fit, with the largest body, into the frame
that delivers it."""
FRAME_ROOM = 65_536
"""What a frame may hold besides the largest body: 200 addresses of 230 bytes, or 500 of 90, and headers."""


class Address(NamedTuple):
    """Where a message goes: ``user:42``, ``device:42/phone``, ``room:7``, ``all``.

    `id` and `device` are plain (unescaped) text. Make one from text with `parse_address`, which checks the
    rules and keeps the addresses in use as shared objects; `str()` would show the tuple, `address_text` the
    one written form.
    """

    kind: str
    id: str = ""
    device: str = ""


class LogKey(NamedTuple):
    """Names one log. `lane` is 0 but for a room's second lane."""

    address: Address
    lane: int = 0


class SessionKey(NamedTuple):
    """Names one session: a user on a device."""

    user: str
    device: str


def check_id(text: str) -> str:
    """Return `text` if it may be an id of a user, device, room …: 1–64 bytes of UTF-8 without control
    characters.

    :raises InvalidAddress: saying which rule it breaks.
    """
    if text.isascii() and text.isprintable() and 0 < len(text) <= MAX_ID_BYTES:
        return text
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidAddress("an id must be valid Unicode (it has a lone surrogate)") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidAddress(f"an id must be 1 to {MAX_ID_BYTES} bytes of UTF-8, not {size}")
    if not text.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise InvalidAddress("an id must not contain control characters")
    return text


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    plain = text.replace("%2F", "/").replace("%2f", "/").replace("%25", "%")
    if _escape(plain) != text.replace("%2f", "%2F"):
        raise InvalidAddress("only %2F and %25 may follow a % in an address")
    return plain


@lru_cache(maxsize=65536)
def parse_address(text: str) -> Address:
    """Parse ``kind:id``; ``/`` and ``%`` inside an id are written ``%2F`` and ``%25``.

    Equal texts give the same object as long as it is in use among the newest 65,536.

    :raises InvalidAddress: with the rule that the text breaks.
    """
    if text == "all":
        return EVERYONE
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon or kind == "all":
        raise InvalidAddress(
            "an address is KIND:ID with a kind of " + ", ".join(sorted(KINDS - {"all"})) + "; or all"
        )
    ident, slash, device = rest.partition("/")
    if bool(slash) != (kind == "device") or "/" in device:
        raise InvalidAddress(
            "device:USER/DEVICE has one '/', other addresses none; write it %2F inside an id"
        )
    return Address(kind, check_id(_unescape(ident)), check_id(_unescape(device)) if slash else "")


def address_text(address: Address) -> str:
    """The one written form of an address; `parse_address` reads it back."""
    kind, ident, device = address  # by its names an address takes thrice as long
    if "/" in ident or "%" in ident:
        ident = _escape(ident)
    if kind == "device":
        return f"{kind}:{ident}/{_escape(device)}"
    return "all" if kind == "all" else f"{kind}:{ident}"


def user_address(user: str) -> Address:
    """The address of a user's mailbox; `user` has passed `check_id` already."""
    return Address("user", user)


@lru_cache(maxsize=65536)
def log_of(address: Address, lane: int = 0) -> LogKey:
    """The log that takes what is published to `address`: a device's messages stand in its user's log."""
    if address.kind == "device":
        return LogKey(Address("user", address.id), lane)
    return LogKey(address, lane)


EVERYONE = Address("all")


# ------------------------------------------------------------------------------------------ messages and logs


class Message(Struct, frozen=True, gc=False):
    """What somebody published, as its receivers see it.

    `sender` is an identity that the gateway set, never the client. `to` is filled only in the copy that the
    sender's own log takes (copy_self). `expires_ms` 0: kept as long as retention allows.
    """

    msg_id: str
    sender: str
    device: str
    content_type: str = ""
    body: bytes = b""
    sent_ms: int = 0
    expires_ms: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    to: tuple[Address, ...] = ()


class Entry(Struct, frozen=True, gc=False):
    """One message as it stands in a log.

    `message` is the message in its stored encoding (`imgateway.wire.messages`): encoded once at publish,
    stored so, and wrapped into frames without decoding. `seq` 0: in no log (qos 0 to a user). A session skips
    an entry whose `only_device` is another device, or whose `except_device` is its own.
    """

    seq: int
    message: bytes
    only_device: str = ""
    except_device: str = ""
    expires_ms: int = 0


class Position(NamedTuple):
    """The state of a log: its identity, the oldest seq that can still be read (head + 1 if empty), the
    newest."""

    epoch: int
    first: int
    head: int


class Batch(Struct, frozen=True):
    """What a read returned: everything that still exists in ``(after, upto]``, in seq order.

    `gap`: entries between `after` and `upto` were lost to retention, a failover or a new epoch, not merely
    expired by their own ttl. `head` is the newest committed seq at the time of the read.
    """

    epoch: int
    after: int
    upto: int
    entries: tuple[Entry, ...]
    gap: bool
    head: int


class OutcomeCode(IntEnum):
    """The final word on one address of one publish."""

    OK = 0
    """The log has it, on stable storage; a room, an area or `all` has it in order, in memory."""
    DUPLICATE = 1
    """The log had it already; seq is that of the first time."""
    FULL = 2
    """The log is at its quota, with messages that some device has not read yet."""
    FORBIDDEN = 3
    """The policy or an interceptor says no."""
    UNKNOWN = 4
    """There is no log for this address here."""
    RATE = 5
    """The room has too many a second, and this one was dropped; final, and not remembered as taken."""
    TOO_LARGE = 6
    """The body is larger than Welcome allows."""


class Outcome(NamedTuple):
    """`seq` counts only with OK and DUPLICATE; `epoch` is 0 where there is no log."""

    code: int
    epoch: int = 0
    seq: int = 0


# ----------------------------------------------------------------------------------------------------- frames


class Start(IntEnum):
    """Where a device that the log has never seen begins to read."""

    UNSEEN = 0
    HEAD = 1
    OLDEST = 2


class Mode(IntEnum):
    """How a subscriber is told: the entries themselves, or only that there are some."""

    PUSH = 0
    NOTIFY = 1


class ResumePoint(Struct, frozen=True, gc=False):
    """How far a client has got in one log."""

    address: Address
    lane: int = 0
    epoch: int = 0
    seq: int = 0
    mode: Mode = Mode.PUSH


class Resumed(Struct, frozen=True, gc=False):
    """Where the gateway will go on in one log. `gap`: something between the client's position and here is
    gone."""

    address: Address
    lane: int
    epoch: int
    position: int
    head: int
    gap: bool = False


class Limits(Struct, frozen=True, gc=False):
    """What one session may do; told in Welcome. Rates are per second; 0 = not limited."""

    max_body_bytes: int = 65_536
    max_addresses: int = 200
    publish_window: int = 64
    dedup_s: int = 86_400
    publish_rate: float = 0.0
    publish_burst: int = 0
    publish_bytes_rate: float = 0.0
    pair_rate: float = 0.0
    pair_burst: int = 0
    request_rate: float = 0.0
    subscribe_rate: float = 0.0
    rooms_dedup_s: int = 0  # of what has a ring; 0: not told, as `dedup_s`


class Hello(Struct, frozen=True):
    """The greeting. What follows `resume` is filled by adapters whose wire has more to say.

    `on_same_device` and `order`: its own replacement rule. `user`: whom the greeting names; a token must not
    name another. `will`: published if the connection breaks, `will_delay_s` later unless the client is
    back by then. `linger_s`: how long the session waits for its client, if that is less than the node's
    setting; negative: as the node has it; 0: nothing that it follows outlives its link.
    `assigned`: the wire named the device, not its client: a name in the token goes before that one, and if
    nobody waits for the client (`linger_s` 0) the device is forgotten when its session ends.
    `clean`: for the client an older session is over, not gone on with: a will that waits there is due.
    """

    token: str
    device: str = ""
    platform: str = ""
    client_version: str = ""
    compressions: tuple[str, ...] = ()
    start: Start = Start.UNSEEN
    resume: tuple[ResumePoint, ...] = ()
    on_same_device: str = "replace"
    order: int = 0
    user: str = ""
    will: Publish | None = None
    will_delay_s: float = 0.0
    linger_s: float = -1.0
    assigned: bool = False
    clean: bool = False


class Welcome(Struct, frozen=True):
    session: str
    user: str
    node: str
    generation: int
    heartbeat_s: float
    server_time_ms: int
    token_expires_ms: int
    limits: Limits
    resumed: tuple[Resumed, ...] = ()


class Renew(Struct, frozen=True):
    token: str


class Renewed(Struct, frozen=True):
    token_expires_ms: int


class Ping(Struct, frozen=True):
    nonce: int = 0
    time_ms: int = 0


class Pong(Struct, frozen=True):
    nonce: int = 0
    time_ms: int = 0


class Publish(Struct, frozen=True):
    """`to` is parsed already; `ttl_s` 0 = as long as retention allows; `resent`: may have been sent
    before."""

    msg_id: str
    to: tuple[Address, ...]
    content_type: str = ""
    body: bytes = b""
    qos: int = 1
    ttl_s: int = 0
    lane: int = 0
    resent: bool = False
    copy_self: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def header_bytes(headers: tuple[tuple[str, str], ...]) -> int:
    """Of the names and values together, and 16 more for each."""
    texts = [name + value for name, value in headers]
    return len("".join(texts).encode("utf-8", "surrogatepass")) + 16 * len(texts)


class PublishAck(Struct, frozen=True):
    msg_id: str
    outcomes: tuple[Outcome, ...]


class Deliver(Struct, frozen=True):
    """Speaks for the range ``(after, upto]`` of one log: these entries and no others are in it for the
    receiver.

    It carries nothing that differs per receiver, so it is encoded once for all who are at the same place.
    `upto` 0: qos 0 entries outside any log. `compression`: how a codec shall pack the entries, if that makes
    them smaller; in what was received, how `compressed` has them (`entries` is empty then). `pulled`: it
    answers a Pull, and the gateway counts nothing of it as delivered.
    """

    address: Address
    lane: int
    epoch: int
    after: int
    upto: int
    entries: tuple[Entry, ...]
    gap: bool = False
    head: int = 0
    compression: str = ""
    compressed: bytes = b""
    pulled: bool = False


class Acked(Struct, frozen=True, gc=False):
    address: Address
    epoch: int
    upto: int


class DeliverAck(Struct, frozen=True):
    """Takes custody of everything up to and including `upto`, an empty range too."""

    acks: tuple[Acked, ...]


class Subscribe(Struct, frozen=True):
    address: Address
    mode: Mode = Mode.PUSH
    lane: int = 0
    epoch: int = 0
    seq: int = 0
    last: bool = False
    """Whoever has no position here begins with the newest entry, not after it."""
    acks: bool = True
    """False: what comes from this durable log is not acknowledged; what was sent is taken."""


class Subscribed(Struct, frozen=True):
    """The answer to Subscribe: deliveries of this lane go on after `position`. `gap` as in `Resumed`."""

    address: Address
    code: int = 0
    epoch: int = 0
    head: int = 0
    gap: bool = False
    mode: Mode = Mode.PUSH
    lane: int = 0
    position: int = 0
    anew: bool = False
    """It had no position here."""


class Unsubscribe(Struct, frozen=True):
    address: Address


class UnsubscribedCode(IntEnum):
    ASKED = 0
    """The client wanted it."""
    NOT_PULLING = 1
    """It was notified three times and did not pull."""
    REMOVED = 2
    """The business took the session out of the room."""


class Unsubscribed(Struct, frozen=True):
    address: Address
    code: int = 0


class Told(Struct, frozen=True, gc=False):
    """How far a log goes. `after`: where a client begins that has no position; None: at its end."""

    address: Address
    lane: int
    epoch: int
    head: int
    after: int | None = None


class Notify(Struct, frozen=True):
    heads: tuple[Told, ...]
    spread_ms: int = 0


class Pull(Struct, frozen=True):
    """Asks for what stands after `after`; answered with a Deliver that is `pulled`, for exactly that `after`;
    of a ring, with the block that has it."""

    address: Address
    lane: int = 0
    epoch: int = 0
    after: int = 0
    limit: int = 64


class SeenKind(IntEnum):
    DELIVERED = 0
    READ = 1


class Seen(Struct, frozen=True):
    address: Address
    kind: SeenKind
    upto: int
    who: str = ""


class ResponseCode(IntEnum):
    OK = 0
    """The body is the answer."""
    NO_SUCH_SERVICE = 1
    """No backend has this name."""
    FORBIDDEN = 2
    """For the answering side to say; the gateway itself does not."""
    DEADLINE = 3
    """No answer in time."""
    FAILED = 4
    """The service raised an error; the gateway's log says which."""
    RATE = 5
    """Too many requests: by this user a second, or unanswered by this client."""
    GONE = 6
    """The client that was asked is not connected, or its connection ended first."""


class Request(Struct, frozen=True):
    id: int
    service: str
    method: str
    body: bytes = b""
    deadline_ms: int = 0


class Response(Struct, frozen=True):
    id: int
    code: int = 0
    body: bytes = b""


class RefusedCode(IntEnum):
    NOT_SUPPORTED = 1
    """This gateway cannot do that, or not with this address."""
    FORBIDDEN = 2
    """The policy says no."""
    RATE = 3
    """It is in as many rooms, or follows as many logs, as it may."""
    INVALID = 4
    """A field has a value that makes no sense here; reserved."""
    UNAVAILABLE = 5
    """Not just now: ask again later."""


class Refused(Struct, frozen=True):
    """`frame` is the name of the frame that was refused, `id` its msg_id, request id or address as text."""

    frame: str
    id: str
    code: int
    reason: str = ""


class Bye(Struct, frozen=True):
    """`code` is an `errors.CloseCode`; its range says whether to reconnect. `detail`: the application's own
    number, for wires that can carry one (0: none)."""

    code: int
    reason: str = ""
    retry_after_ms: int = 0
    endpoints: tuple[str, ...] = ()
    detail: int = 0


class Keep(Struct, frozen=True):
    """Goes over no wire: a codec's own state, to be kept with the session for its next login.

    No publish that the codec says after it is stored, or shown to anybody, before it is stored. `linger_s`:
    counts from now on, and not what Hello said of it; None: nothing changes. `reply`: the wire's answer, sent
    once this is on stable storage, or what gives it then (b"": there is none). `before_welcome`: of the first
    that a codec restores: the Welcome waits for that. `relied_on`: False: nothing waits for it.
    """

    data: bytes
    linger_s: float | None = None
    reply: bytes | Callable[[], bytes] = b""
    before_welcome: bool = False
    relied_on: bool = True


Frame = (
    Hello
    | Welcome
    | Renew
    | Renewed
    | Ping
    | Pong
    | Publish
    | PublishAck
    | Deliver
    | DeliverAck
    | Subscribe
    | Subscribed
    | Unsubscribe
    | Unsubscribed
    | Notify
    | Pull
    | Seen
    | Request
    | Response
    | Refused
    | Bye
)
"""Any frame: the union that codecs produce and consume."""

FRAME_NAMES: dict[type, str] = {
    Publish: "publish",
    PublishAck: "publish_ack",
    Deliver: "deliver",
    DeliverAck: "deliver_ack",
    Ping: "ping",
    Pong: "pong",
    Hello: "hello",
    Welcome: "welcome",
    Renew: "renew",
    Renewed: "renewed",
    Subscribe: "subscribe",
    Subscribed: "subscribed",
    Unsubscribe: "unsubscribe",
    Unsubscribed: "unsubscribed",
    Notify: "notify",
    Pull: "pull",
    Seen: "seen",
    Request: "request",
    Response: "response",
    Refused: "refused",
    Bye: "bye",
}
"""Every frame and its name in the wire contract, which is also what `Refused.frame` says."""

_BOTH_WAYS = {Ping, Pong, Seen, Request, Response, Bye}
CLIENT_FRAMES = frozenset({Hello, Renew, Publish, DeliverAck, Subscribe, Unsubscribe, Pull} | _BOTH_WAYS)
"""What a client may send. What is in both sets goes both ways."""
SERVER_FRAMES = frozenset(
    {Welcome, Renewed, PublishAck, Deliver, Subscribed, Unsubscribed, Notify, Refused} | _BOTH_WAYS
)
"""What a gateway may send."""
