"""Every setting, as frozen values with safe defaults; a section of the file is a class, a key is a field.

Units stand in the names, what a field is for and what it may be in its annotation: the check of a file, the
file that `generate` writes and the table in the docs are all made from there. What is wrong is a
`ConfigError` that names the dotted path and what is allowed. Rooms take the section they need as
a value; only `tap` and `cli` load files.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from imgateway.errors import ConfigError

PositiveInt = Annotated[int, Meta(ge=1, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]  # a year: what is longer is a slip of the keyboard
Rate = Annotated[float, Meta(ge=0, le=1e9)]
Text = Annotated[str, Meta(min_length=1)]


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The process: its name, where it keeps things, how it stops."""

    name: Annotated[
        str, Meta(description="This node's name in Welcome, logs and metrics; empty: the host's name.")
    ] = ""
    data_dir: Annotated[
        Text, Meta(description="The directory of the message store and the secrets; made if absent.")
    ] = "./data"
    drain_s: Annotated[
        Seconds, Meta(description="The longest that a stopping node takes to say goodbye and flush.")
    ] = 30.0
    drain_rate: Annotated[
        PositiveInt, Meta(description="Sessions a second that a stopping node sends away.")
    ] = 500


class ListenSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where clients, and operators' HTTP tools, connect."""

    clients: Annotated[
        tuple[str, ...],
        Meta(
            description="Listeners, each PROTOCOL+TRANSPORT:ENDPOINT; for tcp and websocket ENDPOINT is a "
            "Twisted endpoint description."
        ),
    ] = ("native+tcp:tcp:7901:interface=127.0.0.1", "native,json+websocket:tcp:7902:interface=127.0.0.1")
    http: Annotated[
        str,
        Meta(
            description="The Twisted endpoint description of /healthz, /readyz and /metrics; empty: no HTTP."
        ),
    ] = "tcp:7980:interface=127.0.0.1"
    api: Annotated[
        str,
        Meta(
            description="The Twisted endpoint description of the HTTP API of router.keys_file's keys; empty: "
            "it is served where http is."
        ),
    ] = ""


class SessionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How long sessions live, and what a login does to the user's other devices."""

    login_policy: Annotated[
        Literal["many", "one-per-platform", "one", "refuse"],
        Meta(
            description="many: devices side by side; one-per-platform, one: the newest login displaces the "
            "others; refuse: a second device is turned away."
        ),
    ] = "many"
    heartbeat_s: Annotated[
        Seconds,
        Meta(description="How often a client shall send something; half way to dead_s the gateway asks."),
    ] = 30.0
    dead_s: Annotated[
        Seconds, Meta(description="A link that was silent this long is closed; more than heartbeat_s.")
    ] = 75.0
    linger_s: Annotated[
        Seconds, Meta(description="How long a session waits for its client to come back.")
    ] = 60.0
    renew_grace_s: Annotated[
        Seconds, Meta(description="How long a session outlives its token while it may be renewed.")
    ] = 60.0
    max_devices: Annotated[
        PositiveInt,
        Meta(description="Devices of one user whose positions are kept; the longest unseen is forgotten."),
    ] = 16


class LimitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What one link, one session and the process may hold."""

    # 1,000,000: with its headers a message must fit into a frame, and a frame ends at 1 MiB.
    max_body_bytes: Annotated[
        int, Meta(ge=1, le=1_000_000, description="The largest body of one message.")
    ] = 65_536
    max_addresses: Annotated[
        PositiveInt, Meta(description="Addresses that one publish of a client may name.")
    ] = 200
    max_addresses_service: Annotated[PositiveInt, Meta(description="The same for a service.")] = 500
    publish_window: Annotated[
        PositiveInt, Meta(description="Publishes of one session that may wait for their answer.")
    ] = 64
    deliver_window_entries: Annotated[
        PositiveInt, Meta(description="Entries on their way to one session that it has not acknowledged.")
    ] = 64
    deliver_window_bytes: Annotated[PositiveInt, Meta(description="The same, counted in bytes.")] = 262_144
    login_timeout_s: Annotated[
        Seconds, Meta(description="The time from connecting to a complete greeting, TLS included.")
    ] = 10.0
    login_bytes: Annotated[
        PositiveInt, Meta(description="Bytes that a link may send before it is logged in.")
    ] = 8_192
    login_per_source: Annotated[
        PositiveInt,
        Meta(description="Links of one IP address that are not logged in yet; loopback is not counted."),
    ] = 64
    login_pending: Annotated[
        PositiveInt, Meta(description="Links of the process that are not logged in yet.")
    ] = 10_000
    login_rate: Annotated[PositiveInt, Meta(description="Logins a second; above it, accepting waits.")] = (
        3_000
    )
    login_burst: Annotated[PositiveInt, Meta(description="Logins at once after a quiet time.")] = 5_000
    checks_in_flight: Annotated[
        PositiveInt, Meta(description="Logins that may wait for the authenticator.")
    ] = 256
    interceptor_chain: Annotated[
        PositiveInt, Meta(description="Publishes of one session that may wait behind a slow interceptor.")
    ] = 64
    requests_in_flight: Annotated[
        PositiveInt,
        Meta(description="Requests of one session, in each direction, that wait for their answer."),
    ] = 16
    request_deadline_s: Annotated[
        Seconds, Meta(description="How long a request waits when it does not say.")
    ] = 10.0
    rooms: Annotated[PositiveInt, Meta(description="Rooms that one session may be in.")] = 200
    reads_in_flight: Annotated[
        PositiveInt, Meta(description="Reads of the process that the store works on at a time.")
    ] = 64
    control_pause_bytes: Annotated[
        PositiveInt, Meta(description="Unsent answers at which a link is no longer read from.")
    ] = 65_536
    control_abort_bytes: Annotated[
        PositiveInt, Meta(description="Unsent answers at which a link is cut.")
    ] = 262_144
    control_abort_s: Annotated[
        Seconds, Meta(description="The age of an unsent answer at which a link is cut.")
    ] = 30.0


class QuotaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What one user may send, however many links it has. Services have no quota. A rate of 0: not limited."""

    publish_rate: Annotated[Rate, Meta(description="Publishes a second.")] = 50.0
    publish_burst: Annotated[PositiveInt, Meta(description="Publishes at once after a quiet time.")] = 500
    publish_bytes_rate: Annotated[Rate, Meta(description="Bytes of bodies a second.")] = 262_144.0
    publish_bytes_burst: Annotated[
        PositiveInt, Meta(description="Bytes of bodies at once after a quiet time.")
    ] = 2_097_152
    pair_rate: Annotated[Rate, Meta(description="Messages a second from one user to one address.")] = 20.0
    pair_burst: Annotated[
        PositiveInt, Meta(description="Messages to one address at once after a quiet time.")
    ] = 200
    request_rate: Annotated[Rate, Meta(description="Requests a second.")] = 50.0
    request_burst: Annotated[PositiveInt, Meta(description="Requests at once after a quiet time.")] = 100
    subscribe_rate: Annotated[Rate, Meta(description="Subscriptions a second.")] = 20.0
    subscribe_burst: Annotated[PositiveInt, Meta(description="Subscriptions at once after a quiet time.")] = (
        100
    )


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


class CompressionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How what rooms send is made smaller, for clients that offer it. Levels cost the time that serves
    everybody."""

    algorithms: Annotated[
        tuple[Literal["zstd", "br"], ...],
        Meta(
            description="What is used at all; of these each client gets the first of its own list. "
            "Empty: nothing is compressed."
        ),
    ] = ("zstd", "br")
    min_bytes: Annotated[
        Count, Meta(description="Messages that go out together are left as they are below this.")
    ] = 512
    zstd_level: Annotated[int, Meta(ge=1, le=12, description="zstd's level; more is smaller and slower.")] = 3
    br_level: Annotated[
        int, Meta(ge=0, le=9, description="brotli's quality; more is smaller and slower.")
    ] = 5


class AuthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may log in. If no file is named, a secret made in the data directory signs the tokens (HS256)."""

    authenticator: Annotated[Text, Meta(description="The plugin that checks a greeting.")] = "token"
    policy: Annotated[Text, Meta(description="The plugin that says who may do what to which address.")] = (
        "default"
    )
    audience: Annotated[Text, Meta(description="What a token's aud must name.")] = "imgateway"
    secret_file: Annotated[
        str,
        Meta(description="A file with the shared secret of HS256 tokens, at least 32 bytes."),
    ] = ""
    public_key_file: Annotated[
        str, Meta(description="A PEM file with the RSA (RS256) or P-256 (ES256) key that checks tokens.")
    ] = ""
    jwks_file: Annotated[
        str, Meta(description="A JSON Web Key Set with such keys; a token's kid chooses.")
    ] = ""
    leeway_s: Annotated[
        int, Meta(ge=0, le=600, description="How far the clocks of issuer and gateway may differ.")
    ] = 5
    node: Annotated[
        str,
        Meta(
            description="Tokens must name this node in their claim node, as a router with router.bind_tokens "
            "makes them; empty: the claim is not looked at."
        ),
    ] = ""


class WebSocketSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which pages may connect."""

    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose pages may connect, such as https://chat.example.org; empty: pages of "
            "the same host. Who sends no Origin always may."
        ),
    ] = ()


class UdpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Sealed datagrams: ``imgateway token --udp`` gives their key with the token."""

    secret_file: Annotated[
        str,
        Meta(
            description="A file with the secret that all UDP keys are made from: 32 random bytes in base64, "
            "the same on all nodes; empty: the data directory's own, made at the first start."
        ),
    ] = ""
    max_resends: Annotated[
        Count,
        Meta(
            description="How often a lost message is sent again before it is given up; 0: until it arrives "
            "or the connection ends, which alone keeps the promises."
        ),
    ] = 0


class MobileImsdkSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For MobileIMSDK's clients, which must be set to the same."""

    sense_mode: Annotated[
        Literal["none", "3S", "5S", "10S", "15S", "30S", "60S", "120S"],
        Meta(
            description="How often the clients say that they are there, which decides how long silence is "
            "taken for life; none: 20 s over TCP and WebSocket, 10 s over UDP."
        ),
    ] = "none"
    sm: Annotated[bool, Meta(description="Whatever is sent to them says when, in milliseconds.")] = False


class MqttSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """For clients of MQTT."""

    max_keepalive_s: Annotated[
        int,
        Meta(
            ge=0,
            le=65_535,
            description="The longest keepalive of a client of MQTT 5, which is told so; 0: whatever it asks "
            "for. 3.1.1 has no way to tell it.",
        ),
    ] = 0


class RouterSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API of a cluster: `twistd imrouter`, or a node that serves it (listen.api, or listen.http)."""

    public: Annotated[
        str,
        Meta(
            description="imrouter: the Twisted endpoint description of what clients may ask, allocate and "
            "health; empty: none."
        ),
    ] = "tcp:7990:interface=127.0.0.1"
    private: Annotated[
        Text,
        Meta(description="imrouter: the same of everything else, for business servers and operators."),
    ] = "tcp:7991:interface=127.0.0.1"
    keys_file: Annotated[
        str,
        Meta(
            description="The file of the API keys (imgateway apikey makes one); read again at SIGHUP. Empty: "
            "a node serves no API, and imrouter does not start."
        ),
    ] = ""
    allocation: Annotated[
        Text,
        Meta(
            description="The plugin that says which node a client shall use: round-robin, hash, "
            "consistent-hash, weighted, least-connections, or another package's."
        ),
    ] = "weighted"
    bind_tokens: Annotated[
        bool,
        Meta(
            description="Allocate gives each endpoint with a token of its own, good for that node alone "
            "(auth.node). The tokens' shared secret must be here."
        ),
    ] = False
    max_token_s: Annotated[PositiveInt, Meta(description="The longest that a token may be good.")] = 2_592_000
    max_request_bytes: Annotated[
        PositiveInt, Meta(description="The largest body of a request; uploads of tasks have their own limit.")
    ] = 1_048_576
    timeout_s: Annotated[
        Seconds,
        Meta(description="How long a request may take to arrive, and how long its answer."),
    ] = 30.0
    tasks_timeout_s: Annotated[
        Seconds,
        Meta(
            description="The same where it takes longer: the upload of a push task may take so long to "
            "arrive, and as long to be read; so may a task's report, its results and its repush."
        ),
    ] = 300.0
    connections: Annotated[
        PositiveInt, Meta(description="Connections of one port; what comes above it is cut.")
    ] = 1_000
    backoff_first_s: Annotated[
        Seconds, Meta(description="What clients are told: the wait after the first failed attempt.")
    ] = 0.5
    backoff_max_s: Annotated[Seconds, Meta(description="The same: the longest wait.")] = 30.0
    drain_s: Annotated[
        Seconds, Meta(description="How long requests of the API have to finish when the process is stopped.")
    ] = 10.0
    tasks_url: Annotated[
        str,
        Meta(
            description="Where push tasks are kept: a database URL of SQLAlchemy, such as "
            "postgresql+psycopg://user:password@host/db or mysql+pymysql://…; empty: SQLite in "
            "node.data_dir, which one process can use."
        ),
    ] = ""
    tasks_users: Annotated[PositiveInt, Meta(description="The most lines of one push task.")] = 100_000
    tasks_upload_bytes: Annotated[
        int, Meta(ge=1, le=1_073_741_824, description="The largest upload of a push task.")
    ] = 67_108_864
    tasks_window: Annotated[
        int,
        Meta(ge=1, le=5_000, description="Addresses of a push task whose outcome is not written down yet."),
    ] = 500
    tasks_at_once: Annotated[
        PositiveInt, Meta(description="Push tasks that one process runs side by side; others wait.")
    ] = 4
    tasks_keep_s: Annotated[
        PositiveInt, Meta(description="How long a push task that is over is kept, with its results.")
    ] = 2_592_000


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of installed plugins to use, in order."""

    backends: Annotated[tuple[str, ...], Meta(description="Services that answer clients' requests.")] = ()
    interceptors: Annotated[
        tuple[str, ...], Meta(description="Those that look at a publish before it counts.")
    ] = ()
    listeners: Annotated[
        tuple[str, ...], Meta(description="Those that are told what becomes of sessions.")
    ] = ()


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, as JSON lines or for reading."""

    level: Annotated[
        Literal["debug", "info", "warn", "error"], Meta(description="What is less severe is left out.")
    ] = "info"
    format: Annotated[
        Literal["json", "text"], Meta(description="json: one object a line, for programs; text: for people.")
    ] = "json"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    node: NodeSettings = NodeSettings()
    listen: ListenSettings = ListenSettings()
    session: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    quota: QuotaSettings = QuotaSettings()
    broker: BrokerSettings = BrokerSettings()
    redis: RedisSettings = RedisSettings()
    registry: RegistrySettings = RegistrySettings()
    retention: RetentionSettings = RetentionSettings()
    rooms: RoomSettings = RoomSettings()
    compression: CompressionSettings = CompressionSettings()
    auth: AuthSettings = AuthSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    udp: UdpSettings = UdpSettings()
    mobileimsdk: MobileImsdkSettings = MobileImsdkSettings()
    mqtt: MqttSettings = MqttSettings()
    router: RouterSettings = RouterSettings()
    plugins: PluginSettings = PluginSettings()
    log: LogSettings = LogSettings()


# ------------------------------------------------------------------------------------------ what a setting is


class Setting(NamedTuple):
    """One setting, for people: `allowed` is a phrase such as "a whole number, at least 1"."""

    section: str
    key: str
    kind: Any
    allowed: str
    unit: str
    default: Any
    description: str

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}"


@cache
def describe() -> tuple[Setting, ...]:
    """All settings in the order of the file."""
    return tuple(_described())


def section_text(section: str) -> str:
    """What a section is about: one paragraph."""
    return " ".join((_sections()[section].__doc__ or "").split())


@cache
def _sections() -> dict[str, type[Struct]]:
    return get_type_hints(Settings)


def _described() -> Iterator[Setting]:
    for section, cls in _sections().items():
        hints = get_type_hints(cls, include_extras=True)
        for field in msgspec.structs.fields(cls):
            kind = hints[field.name]
            metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, Meta)]
            description = next(meta.description for meta in metas if meta.description)
            yield Setting(
                section, field.name, kind, _allowed(kind), _unit(field.name), field.default, description
            )


def _allowed(kind: Any) -> str:
    plain, *metas = get_args(kind)
    if get_origin(plain) is Literal:
        return "one of " + ", ".join(get_args(plain))
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        return "a list of " + (" and ".join(get_args(item)) if get_origin(item) is Literal else "texts")
    if plain is bool:
        return "true or false"
    if plain is str:
        return "text, not empty" if any(meta.min_length for meta in metas) else "text"
    bounds = []
    for name, phrase in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
        for bound in (getattr(meta, name) for meta in metas):
            # The bounds that only keep arithmetic sane would be noise.
            if bound is not None and bound not in (2**53, 1e9):
                bounds.append("at most a year" if bound == 31_536_000 else f"{phrase} {bound:,}")
    return ", ".join(["a whole number" if plain is int else "a number", " and ".join(bounds)])


UNITS = {
    "_bytes_rate": "bytes per second",
    "_s": "seconds",
    "_bytes": "bytes",
    "_bytes_burst": "bytes",
    "_rate": "per second",
}


def _unit(name: str) -> str:
    return next((unit for ending, unit in UNITS.items() if f"_{name}".endswith(ending)), "")


# ---------------------------------------------------------------------------------------------------- loading


def load(path: str | None, sets: Sequence[str] = ()) -> Settings:
    """The settings of a TOML file, then of ``section.key=value`` texts, over the defaults.

    A value in `sets` is written as in TOML; quotes may be left out, and a list of texts may be ``a,b``.

    :param path: None: no file.
    :raises ConfigError: one line with the dotted path and what is allowed; file, line, column of bad TOML.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for section, values in (_parsed(path) if path is not None else {}).items():
        if section not in _sections():
            raise ConfigError(f"{section}: no such section{_nearest(section, _sections())}")
        if not isinstance(values, dict):
            raise ConfigError(f"{section}: must be a section, [{section}], not {_shown(values)}")
        for key, value in values.items():
            wanted.setdefault(section, {})[key] = _checked(_setting(section, key), value)
    for text in sets:
        setting, value = _override(text)
        wanted.setdefault(setting.section, {})[setting.key] = _checked(setting, value)
    sections: dict[str, Any] = {name: _sections()[name](**values) for name, values in wanted.items()}
    settings = Settings(**sections)
    check(settings)
    return settings


def _parsed(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(path, str(error))) from None


def _syntax_error(path: str, text: str) -> str:
    what, _, where = text.partition(" (at ")
    place = re.fullmatch(r"line (\d+), column (\d+)\)", where)
    if place:
        return f"{path}: line {place[1]}, column {place[2]}: {what}"
    with open(path, "rb") as file:
        lines = file.read().decode().split("\n")
    return f"{path}: line {len(lines)}, column {len(lines[-1]) + 1}: {what} at the end of the file"


def _setting(section: str, key: str) -> Setting:
    known = {setting.key: setting for setting in describe() if setting.section == section}
    if not known:
        raise ConfigError(f"{section}.{key}: no such section{_nearest(section, _sections())}")
    if key not in known:
        raise ConfigError(f"{section}.{key}: no such setting{_nearest(key, known)}")
    return known[key]


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, 1)
    return (f"; did you mean {near[0]}?" if near else ";") + " there are " + ", ".join(known)


def _override(text: str) -> tuple[Setting, Any]:
    path, equals, value = text.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot):
        raise ConfigError(f"{_shown(text)}: must be section.key=value")
    setting, value = _setting(section, key), value.strip()
    plain = get_args(setting.kind)[0]
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    found = parsed["value"] if len(parsed) == 1 else value
    if get_origin(plain) is tuple and not isinstance(found, list):
        found = [part.strip() for part in str(found).split(",") if part.strip()]
    elif (plain is str or get_origin(plain) is Literal) and not isinstance(found, str):
        found = value  # node.name=42 means the text
    return setting, found


def _checked(setting: Setting, value: Any) -> Any:
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError
        return msgspec.convert(value, setting.kind)
    except msgspec.ValidationError:
        unit = f" ({setting.unit})" if setting.unit else ""
        raise ConfigError(f"{setting.path}: must be {setting.allowed}{unit}, not {_shown(value)}") from None


def _shown(value: Any) -> str:
    """A value of the file as the file may write it, shortened."""
    text = (
        _toml(value) if isinstance(value, str | bool | int | float | list | tuple) else type(value).__name__
    )
    return text if len(text) <= 60 else text[:57] + "..."


# The first must not be less than the second.
_AT_LEAST = (
    ("limits.max_addresses_service", "limits.max_addresses"),
    ("limits.control_abort_bytes", "limits.control_pause_bytes"),
    ("broker.waiting_entries", "broker.batch_entries"),
    ("broker.waiting_bytes", "broker.batch_bytes"),
    ("retention.bytes", "limits.max_body_bytes"),
    ("rooms.memory_bytes", "limits.max_body_bytes"),
    ("broker.batch_bytes", "limits.max_body_bytes"),
)
_LISTENER = re.compile(r"[\w.-]+(,[\w.-]+)*\+[\w.-]+:.+")


def check(settings: Settings) -> None:
    """What no single field can say.

    :raises ConfigError:
    """

    def value(path: str) -> Any:
        section, _, key = path.partition(".")
        return getattr(getattr(settings, section), key)

    for larger, smaller in _AT_LEAST:
        if value(larger) < value(smaller):
            raise ConfigError(f"{larger}: must be at least {smaller} ({value(smaller)}), not {value(larger)}")
    session, auth = settings.session, settings.auth
    if session.dead_s <= session.heartbeat_s:
        raise ConfigError(
            f"session.dead_s: must be above session.heartbeat_s ({session.heartbeat_s}), not {session.dead_s}"
        )
    keys = [name for name in ("secret_file", "public_key_file", "jwks_file") if getattr(auth, name)]
    if len(keys) > 1:
        raise ConfigError(
            f"auth.{keys[1]}: must be empty when auth.{keys[0]} is set: one kind of key checks tokens"
        )
    router = settings.router
    if settings.listen.api and not router.keys_file:
        raise ConfigError(
            "listen.api: needs router.keys_file: nobody may use the API without a key; "
            "make one: imgateway apikey --id NAME --scopes push,read --file FILE"
        )
    if router.backoff_max_s < router.backoff_first_s:
        raise ConfigError(
            f"router.backoff_max_s: must be at least router.backoff_first_s ({router.backoff_first_s}), "
            f"not {router.backoff_max_s}"
        )
    for one in settings.listen.clients:
        if not _LISTENER.fullmatch(one):
            what = "must be PROTOCOL+TRANSPORT:ENDPOINT each, such as native+tcp:tcp:7901"
            raise ConfigError(f"listen.clients: {what}, not {_shown(one)}")


# ------------------------------------------------------------------------------------------------- generating


def generate() -> str:
    """A TOML file with every setting at its default, and what it means; `load` reads it as ``Settings()``."""
    lines = ["# imgateway: every setting, at its default. What you do not change you may delete."]
    section = ""
    for setting in describe():
        if setting.section != section:
            section = setting.section
            lines += ["", *_comment(section_text(section)), f"[{section}]"]
        about = f"{setting.allowed[0].upper()}{setting.allowed[1:]}" + (
            f"; {setting.unit}" if setting.unit else ""
        )
        lines += [
            "",
            *_comment(f"{setting.description} {about}."),
            f"{setting.key} = {_toml(setting.default)}",
        ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # TOML's basic strings escape as JSON's do, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
