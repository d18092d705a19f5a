"""What a node counts, as plain ints that the hot path raises and the metrics page reads.

Each field says here what it is; the page and the table in the docs are made from that. A count per code is a
dict from the code to an int: ``counters.outcomes[code] += 1`` works from the first time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from imgateway.errors import CloseCode
from imgateway.frames import OutcomeCode, RefusedCode, ResponseCode

__all__ = ("MEASURES", "Counters", "Measure")


class Measure(NamedTuple):
    """One metric: its field in `Counters`, ``counter`` or ``gauge``, its name on the page, what it is.

    `label` is what a count is split by, such as ``code``; empty: it is one number. Units stand in the names.
    `codes` names the values of the label where they are numbers.
    """

    field: str
    kind: str
    metric: str
    help: str
    label: str = ""
    codes: type[IntEnum] | None = None


COUNTER, GAUGE = "counter", "gauge"

MEASURES = (
    Measure("links_accepted", COUNTER, "imgateway_links_accepted_total", "Connections accepted."),
    Measure("links_open", GAUGE, "imgateway_links_open", "Connections open now, logged in or not."),
    Measure(
        "links_pending", GAUGE, "imgateway_links_pending", "Connections open now that are not logged in."
    ),
    Measure(
        "paused_links",
        GAUGE,
        "imgateway_links_paused",
        "Connections that are not read from now: quota, store or unread answers.",
    ),
    Measure(
        "links_closed",
        COUNTER,
        "imgateway_links_closed_total",
        "Connections closed, by close code.",
        label="code",
        codes=CloseCode,
    ),
    Measure("logins", COUNTER, "imgateway_logins_total", "Logins that opened or resumed a session."),
    Measure(
        "logins_refused",
        COUNTER,
        "imgateway_logins_refused_total",
        "Logins turned down, by close code.",
        label="code",
        codes=CloseCode,
    ),
    Measure(
        "protocol_errors",
        COUNTER,
        "imgateway_protocol_errors_total",
        "Connections closed for what they sent, by wire; none: TLS or a PROXY header was not over.",
        label="wire",
    ),
    Measure("sessions", GAUGE, "imgateway_sessions", "Sessions now, with or without a connection."),
    Measure("sessions_linked", GAUGE, "imgateway_sessions_linked", "Sessions now that have a connection."),
    Measure(
        "resumed", COUNTER, "imgateway_sessions_resumed_total", "Sessions that a new connection took over."
    ),
    Measure(
        "drained",
        COUNTER,
        "imgateway_drained_links_total",
        "Connections told to go elsewhere: the node stopped, or was told to drain.",
    ),
    Measure(
        "drain_left",
        GAUGE,
        "imgateway_drain_left_links",
        "Connections that the drain which goes on has yet to tell.",
    ),
    Measure("publishes", COUNTER, "imgateway_publishes_total", "Publishes received from clients."),
    Measure(
        "outcomes",
        COUNTER,
        "imgateway_outcomes_total",
        "Final words on addresses of publishes, by outcome code.",
        label="code",
        codes=OutcomeCode,
    ),
    Measure(
        "quota_waits",
        COUNTER,
        "imgateway_quota_waits_total",
        "Times that a connection had to wait because its user was over quota.",
    ),
    Measure("deliver_frames", COUNTER, "imgateway_deliver_frames_total", "Deliver frames sent."),
    Measure(
        "entries_delivered", COUNTER, "imgateway_entries_delivered_total", "Entries sent in Deliver frames."
    ),
    Measure("acks", COUNTER, "imgateway_deliver_acks_total", "DeliverAck frames received."),
    Measure("gaps_told", COUNTER, "imgateway_gaps_told_total", "Gaps that sessions were told of."),
    Measure(
        "gaps_unsaid",
        COUNTER,
        "imgateway_gaps_unsaid_total",
        "Gaps that sessions were not told of, since their wire has no word for it.",
    ),
    Measure(
        "parked",
        COUNTER,
        "imgateway_parked_entries_total",
        "Entries set aside because the session's wire cannot say them.",
    ),
    Measure("requests", COUNTER, "imgateway_requests_total", "Requests received from clients."),
    Measure(
        "responses",
        COUNTER,
        "imgateway_responses_total",
        "Requests answered, by response code.",
        label="code",
        codes=ResponseCode,
    ),
    Measure(
        "refused",
        COUNTER,
        "imgateway_refused_frames_total",
        "Frames answered with Refused, by reason code.",
        label="code",
        codes=RefusedCode,
    ),
    Measure("bytes_in", COUNTER, "imgateway_received_bytes_total", "Bytes received from connections."),
    Measure("bytes_out", COUNTER, "imgateway_sent_bytes_total", "Bytes given to connections."),
    Measure("reads", COUNTER, "imgateway_reads_total", "Reads of logs."),
    Measure(
        "store_commits", COUNTER, "imgateway_store_commits_total", "Transactions committed by the store."
    ),
    Measure("store_entries", COUNTER, "imgateway_store_entries_total", "Entries committed by the store."),
    Measure(
        "store_retries",
        COUNTER,
        "imgateway_store_retries_total",
        "Transactions that failed and were tried again.",
    ),
    Measure("store_waiting", GAUGE, "imgateway_store_waiting_entries", "Entries that wait for the store."),
    Measure("store_waiting_bytes", GAUGE, "imgateway_store_waiting_bytes", "The same in bytes."),
    Measure(
        "store_dedup_ids",
        GAUGE,
        "imgateway_store_dedup_ids",
        "Message ids kept in memory to recognise repeats.",
    ),
    Measure(
        "room_publishes",
        COUNTER,
        "imgateway_room_publishes_total",
        "Messages taken by rooms, areas and everyone's log.",
    ),
    Measure(
        "room_rate_drops",
        COUNTER,
        "imgateway_room_rate_drops_total",
        "Messages dropped because the room had too many a second.",
    ),
    Measure("rings", GAUGE, "imgateway_rings", "Rooms, areas and their lanes that have messages in memory."),
    Measure("ring_bytes", GAUGE, "imgateway_ring_bytes", "Bytes that these messages take."),
    Measure(
        "ring_evictions",
        COUNTER,
        "imgateway_ring_evictions_total",
        "Messages that went early because all rooms together had too many.",
    ),
    Measure(
        "room_members", GAUGE, "imgateway_room_members", "Sessions in rooms, counted once for each room."
    ),
    Measure("users", GAUGE, "imgateway_users", "Users with a session now."),
    Measure("rooms", GAUGE, "imgateway_rooms", "Rooms and areas now that somebody here is in."),
    Measure(
        "room_lagging",
        GAUGE,
        "imgateway_room_lagging_members",
        "Members of rooms that are behind now, counted once for each room.",
    ),
    Measure("room_rounds", COUNTER, "imgateway_room_rounds_total", "Rounds in which rooms were served."),
    Measure(
        "room_slices", COUNTER, "imgateway_room_slices_total", "Slices of rounds: one a turn of the process."
    ),
    Measure(
        "room_deliveries",
        COUNTER,
        "imgateway_room_deliveries_total",
        "Deliver frames that members of rooms got in rounds.",
    ),
    Measure(
        "room_blocks",
        COUNTER,
        "imgateway_room_blocks_total",
        "Deliver frames that members who were behind got to catch up.",
    ),
    Measure("room_notifies", COUNTER, "imgateway_room_notifies_total", "Notify frames sent."),
    Measure("room_pulls", COUNTER, "imgateway_room_pulls_total", "Pulls of rooms, areas and everyone's log."),
    Measure(
        "room_not_pulling",
        COUNTER,
        "imgateway_room_not_pulling_total",
        "Members removed from a room because they did not pull.",
    ),
    Measure(
        "compression_in",
        COUNTER,
        "imgateway_compression_in_bytes_total",
        "Bytes of messages in what rooms wrote for connections that take compression; each text counts once, "
        "however many get it.",
        label="compression",
    ),
    Measure(
        "compression_out",
        COUNTER,
        "imgateway_compression_out_bytes_total",
        "Bytes of the frames that these messages became.",
        label="compression",
    ),
    Measure(
        "held_unsent_bytes",
        GAUGE,
        "imgateway_held_unsent_bytes",
        "Bytes that connections hold because the socket is full.",
    ),
    Measure(
        "plugin_errors",
        COUNTER,
        "imgateway_plugin_errors_total",
        "Errors raised by backends, interceptors and listeners, by plugin.",
        label="plugin",
    ),
)


class Counters:
    """One int per measure without a label, one `collections.Counter` per measure with one; all start at zero.

    Raised on the reactor's thread only. A gauge may be set just before it is read.
    """

    __slots__ = tuple(measure.field for measure in MEASURES)

    links_accepted: int
    links_open: int
    links_pending: int
    paused_links: int
    links_closed: Counter[int]
    logins: int
    logins_refused: Counter[int]
    protocol_errors: Counter[str]
    sessions: int
    sessions_linked: int
    resumed: int
    drained: int
    drain_left: int
    publishes: int
    outcomes: Counter[int]
    quota_waits: int
    deliver_frames: int
    entries_delivered: int
    acks: int
    gaps_told: int
    gaps_unsaid: int
    parked: int
    requests: int
    responses: Counter[int]
    refused: Counter[int]
    bytes_in: int
    bytes_out: int
    reads: int
    store_commits: int
    store_entries: int
    store_retries: int
    store_waiting: int
    store_waiting_bytes: int
    store_dedup_ids: int
    room_publishes: int
    room_rate_drops: int
    rings: int
    ring_bytes: int
    ring_evictions: int
    room_members: int
    users: int
    rooms: int
    room_lagging: int
    room_rounds: int
    room_slices: int
    room_deliveries: int
    room_blocks: int
    room_notifies: int
    room_pulls: int
    room_not_pulling: int
    compression_in: Counter[str]
    compression_out: Counter[str]
    held_unsent_bytes: int
    plugin_errors: Counter[str]

    def __init__(self) -> None:
        for measure in MEASURES:
            setattr(self, measure.field, Counter() if measure.label else 0)

    def read(self) -> Iterator[tuple[Measure, int | Mapping[str, int]]]:
        """Every measure with its value now; the counts of a measure with a label by the label's text."""
        for measure in MEASURES:
            value = getattr(self, measure.field)
            yield (
                measure,
                ({_text(measure, key): count for key, count in value.items()} if measure.label else value),
            )


def _text(measure: Measure, key: int | str) -> str:
    if measure.codes is not None and key in measure.codes.__members__.values():
        return measure.codes(int(key)).name
    return str(key)  # a plugin may have codes of its own
