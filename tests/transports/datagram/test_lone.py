"""One message at a time, each way: what is said without a whole flow is what a whole one would say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.transports.datagram import messages
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.lone import Lone, split
from imgateway.transports.datagram.messages import Ack, Data
from imgateway.transports.datagram.recovery import Recovery
from tests.transports.datagram.pair import asleep


class Whole(Flow):
    """One that always has both halves."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and object.__getattribute__(self, "_out") is None:
            object.__getattribute__(self, "_wake")()
        return object.__getattribute__(self, name)


def content(datagrams: Any) -> list[tuple[int, list[Any]]]:
    """In a whole flow pieces and ACK stand in the same order."""
    return [(number, list(messages.parse(payload))) for number, payload in datagrams]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from([None, None, "log"]), st.sampled_from([1, 1, 2000])),
        st.tuples(st.just("data"), st.sampled_from([0, 0, 0, 1]), st.sampled_from([0, 0, 0, -1, 1])),
        st.tuples(st.just("ack"), st.sampled_from([0, 0, 0, 1, 70]), st.booleans()),
        st.tuples(st.just("both"), st.sampled_from([0, 0, 1]), st.booleans()),
        st.tuples(st.sampled_from(["pause", "resume", "moved", "number"]), st.none(), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 0.03, 0.3, 3.0]), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.sampled_from([0, -1, 2]), st.booleans())
def test_it_says_what_a_whole_flow_says(steps: Any, max_resends: int, packs: bool) -> None:
    flows = [Flow(max_resends), Whole(max_resends)]
    now, number = 0.0, 0
    nexts = [0, 0]
    for what, which, how in steps:
        payload = b""
        if what in ("ack", "both") and flows[0].sent > which:
            payload = messages.ack(flows[0].sent - 1 - which, 0 if how else 2**64 - 1)
        if what == "data" or what == "both":
            channel, ahead = (which, how) if what == "data" else (0, 0)
            payload += messages.data_head(channel, max(nexts[channel] + ahead, 0), 0, 1) + b"%c" % number
            nexts[channel] += ahead == 0
        if what == "wait":
            now += which
        found = []
        for flow in flows:
            if what == "send":
                flow.send(b"x" * how, which)
            elif what == "resume":
                found.append(flow.resume())
            elif what in ("pause", "moved"):
                flow.pause() if what == "pause" else flow.moved()
            elif what == "number":
                found.append(flow.next_number())
            elif payload:
                found.append(flow.receive(number, payload, now))
            found.append((flow.unsent(), flow.unacked(), flow.largest, flow.is_paused))
            found.append(content(flow.datagrams(now)))
            found.append((flow.due(), flow.sent, flow.lost, flow.resent, flow.given_up))
        assert found[: len(found) // 2] == found[len(found) // 2 :]
        number += bool(payload)
        if packs and not flows[0].lost and (kept := flows[0].rest()):
            flows[0] = Flow(max_resends, kept)
            path = flows[0]._lone.recovery  # packed, times have three digits
            assert flows[1]._out is not None
            flows[1]._out.recovery = Recovery(path.srtt, path.rttvar, path.best, path.window)


def test_it_needs_no_halves() -> None:
    flow = Flow()
    flow.send(b"question", "log")
    ((number, _),) = flow.datagrams(0.0)
    assert flow.receive(0, messages.ack(number, 0) + messages.data_head(0, 0, 0, 6) + b"answer", 0.1) == [
        b"answer"
    ]
    assert content(flow.datagrams(0.2)) == [(1, [Ack(0, 0)])]
    assert asleep(flow)
    assert flow.due() is None
    assert flow.rest()


def test_what_is_repeated_takes_no_halves() -> None:
    flow = Flow()
    question = messages.data_head(0, 0, 0, 8) + b"question"
    assert flow.receive(0, question, 0.0) == [b"question"]
    flow.send(b"answer")
    assert content(flow.datagrams(0.0)) == [(0, [Data(0, 0, 0, b"answer"), Ack(0, 0)])]
    flow.next_number()
    for number in (1, 2):
        assert flow.receive(number, question, 0.1) == []
    assert content(flow.datagrams(0.1)) == [(2, [Ack(2, 3)])]
    assert asleep(flow)
    assert flow.unacked() == 6
    assert flow.receive(3, messages.ack(0, 0) + question, 0.2) == []
    assert asleep(flow)
    assert flow.unacked() == 0


def test_an_ack_from_before_changes_nothing() -> None:
    flow = Flow()
    flow.next_number()
    flow.send(b"x")
    assert flow.receive(0, messages.ack(0, 0), 0.0) == []
    tuple(flow.datagrams(0.0))
    assert flow.receive(1, messages.ack(0, 0), 0.1) == []
    assert asleep(flow)
    assert (flow.unacked(), flow.due()) == (1, 1.0)


def test_a_second_message_takes_the_halves_and_comes_behind() -> None:
    flow = Flow()
    flow.send(b"one", "log")
    assert content(flow.datagrams(0.0)) == [(0, [Data(1, 0, 0, b"one")])]
    flow.send(b"two", "log")
    flow.send(b"three")
    flow.send(b"four", "other")
    assert not asleep(flow)
    found = content(flow.datagrams(0.0))
    assert found == [(1, [Data(1, 1, 0, b"two"), Data(0, 0, 0, b"three"), Data(2, 0, 1, b"four")])]


def test_what_is_lost_goes_again() -> None:
    flow = Flow()
    flow.send(b"lost")
    tuple(flow.datagrams(0.0))
    due = flow.due()
    assert due == 1.0
    assert content(flow.datagrams(due - 0.01)) == []
    assert content(flow.datagrams(due)) == [(1, [Data(0, 0, 0, b"lost")])]
    assert flow.lost == flow.resent == 1


def test_an_ack_of_what_was_never_sent() -> None:
    flow = Flow()
    flow.send(b"x")
    tuple(flow.datagrams(0.0))
    with pytest.raises(messages.MalformedDatagram):
        flow.receive(0, messages.ack(1, 2**64 - 1), 0.1)


def test_packed_and_unpacked() -> None:
    lone = Lone(7, 0b1011, 9, Recovery(0.25, 0.125, 0.5, 17), (3, 2**32 - 1), (5,))
    kept = lone.packed()
    assert len(kept) == 24 + 12
    assert split(b"before" + kept) == (b"before", kept)
    found = Lone.unpacked(kept)
    assert (found.largest, found.taken, found.number) == (7, 0b1011, 9)
    assert (found.outs, found.ins) == ([3, 2**32 - 1], [5])
    path = found.recovery
    assert (path.srtt, path.rttvar, path.best, path.window) == (0.25, 0.125, 0.5, 17)


@pytest.mark.parametrize(
    "lone",
    [
        Lone(-1, 0, 0, Recovery()),
        Lone(2**32, 0, 0, Recovery()),
        Lone(0, 0, 2**32, Recovery()),
        Lone(0, 0, 0, Recovery(), (2**32,)),
        Lone(0, 0, 0, Recovery(), (0,), (2**32,)),
        Lone(0, 0, 0, Recovery(), (0,), (0, 0)),
        Lone(0, 0, 0, Recovery(), (0,) * 64),
    ],
)
def test_what_does_not_fit_is_not_packed(lone: Lone) -> None:
    assert lone.packed() == b""


def test_no_round_trip_is_too_long_to_be_packed() -> None:
    lone = Lone(0, 0, 0, Recovery(1e9, 1e9, 1e9, 64))
    assert Lone.unpacked(lone.packed()).recovery.srtt == pytest.approx(60_000, rel=1e-3)
