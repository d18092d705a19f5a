"""How long sessions live, and what a link, a session, a user and the process may hold or send."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from imgateway.config.kinds import PositiveInt, Rate, Seconds

__all__ = ("SessionSettings", "LimitSettings", "QuotaSettings")


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
        PositiveInt,
        Meta(
            description="Publishes of one session that may wait behind a slow interceptor, or for a record "
            "of it that Redis has not written yet."
        ),
    ] = 64
    requests_in_flight: Annotated[
        PositiveInt,
        Meta(description="Requests of one session, in each direction, that wait for their answer."),
    ] = 16
    request_deadline_s: Annotated[
        Seconds, Meta(description="How long a request waits when it does not say.")
    ] = 10.0
    rooms: Annotated[
        PositiveInt,
        Meta(
            description="Rooms that one session may be in; and as many topics and services that it follows."
        ),
    ] = 200
    reads_in_flight: Annotated[
        PositiveInt,
        Meta(description="Reads of the process that the store, or each Redis primary, works on at a time."),
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
