"""Hypothesis strategies for the vocabulary: every frame that a peer may send, with nothing out of range."""

from __future__ import annotations

from hypothesis import strategies as st

from imgateway.frames import (
    EVERYONE,
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Limits,
    Message,
    Mode,
    Notify,
    Outcome,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    Renew,
    Renewed,
    Request,
    Response,
    Resumed,
    ResumePoint,
    Seen,
    SeenKind,
    Start,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
    Welcome,
)
from imgateway.wire.messages import encode_message

u32 = st.integers(0, 2**32 - 1)
u64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
rates = st.floats(0, 1e12, allow_nan=False)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=16)
maybe_ids = st.just("") | ids
bodies = st.one_of(st.binary(max_size=200), texts.map(str.encode), st.just(b""))
content_types = st.sampled_from(
    ["", "text/plain", "TEXT/html; charset=utf-8", "application/json", "image/png"]
)
lanes = st.integers(0, 1)
headers = st.dictionaries(texts, texts, max_size=3).map(lambda pairs: tuple(sorted(pairs.items())))

addresses: st.SearchStrategy[Address] = st.one_of(
    st.builds(
        Address, st.sampled_from(["user", "topic", "service", "room", "area", "node"]), ids, st.just("")
    ),
    st.builds(Address, st.just("device"), ids, ids),
    st.just(EVERYONE),
)


def some(strategy: st.SearchStrategy, least: int = 0) -> st.SearchStrategy:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


messages: st.SearchStrategy[Message] = st.builds(
    Message, ids, ids, maybe_ids, content_types, bodies, u64, u64, headers, some(addresses)
)
entries: st.SearchStrategy[Entry] = st.builds(Entry, u64, messages.map(encode_message))

publishes = st.builds(
    Publish,
    ids,
    some(addresses, least=1),
    content_types,
    bodies,
    lanes,
    u32,
    lanes,
    st.booleans(),
    st.booleans(),
    headers,
)
publish_acks = st.builds(
    PublishAck, ids, some(st.builds(Outcome, st.sampled_from(OutcomeCode).map(int), u64, u64))
)
delivers = st.builds(
    Deliver, addresses, lanes, u64, u64, u64, some(entries), st.booleans(), u64, pulled=st.booleans()
)
hellos = st.builds(
    Hello,
    texts,
    maybe_ids,
    maybe_ids,
    texts,
    some(texts),
    st.sampled_from(Start),
    some(st.builds(ResumePoint, addresses, lanes, u64, u64, st.sampled_from(Mode))),
)
limits = st.builds(Limits, u32, u32, u32, u32, rates, u32, rates, rates, u32, rates, rates)
welcomes = st.builds(
    Welcome,
    texts,
    ids,
    texts,
    u64,
    rates,
    u64,
    u64,
    limits,
    some(st.builds(Resumed, addresses, lanes, u64, u64, u64, st.booleans())),
)

BY_FRAME: dict[type, st.SearchStrategy] = {
    Publish: publishes,
    PublishAck: publish_acks,
    Deliver: delivers,
    DeliverAck: st.builds(DeliverAck, some(st.builds(Acked, addresses, u64, u64))),
    Ping: st.builds(Ping, u64, u64),
    Pong: st.builds(Pong, u64, u64),
    Hello: hellos,
    Welcome: welcomes,
    Renew: st.builds(Renew, texts),
    Renewed: st.builds(Renewed, u64),
    Subscribe: st.builds(Subscribe, addresses, st.sampled_from(Mode), lanes, u64, u64),
    Subscribed: st.builds(Subscribed, addresses, u32, u64, u64, st.booleans()),
    Unsubscribe: st.builds(Unsubscribe, addresses),
    Unsubscribed: st.builds(Unsubscribed, addresses, u32),
    Notify: st.builds(Notify, some(st.builds(Told, addresses, lanes, u64, u64, u64 | st.none())), u32),
    Pull: st.builds(Pull, addresses, lanes, u64, u64, u32),
    Seen: st.builds(Seen, addresses, st.sampled_from(SeenKind), u64, maybe_ids),
    Request: st.builds(Request, u64, ids, texts, bodies, u32),
    Response: st.builds(Response, u64, u32, bodies),
    Refused: st.builds(Refused, texts, texts, u32, texts),
    Bye: st.builds(Bye, u32, texts, u32, some(texts)),
}
"""What each frame may hold."""

frames: st.SearchStrategy[Frame] = st.one_of(*BY_FRAME.values())


@st.composite
def chunks(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes, cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
