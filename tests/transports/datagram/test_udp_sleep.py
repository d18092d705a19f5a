"""What a connection keeps while it is silent: all that counts, and nothing that takes room."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.interfaces import IMeasured
from imgateway.testing.conditions import LinkConditions
from imgateway.transports.datagram.roll import Roll
from imgateway.transports.datagram.seal import seal
from tests.transports.datagram.test_udp_pair import Room


def is_asleep(connection: Any) -> bool:
    return connection._traffic is None


def test_a_measured_connection_keeps_account_through_silences() -> None:
    room = Room()
    client = room.login(measured=True)
    measured = IMeasured(client.connection)
    for number in range(5):
        room.pass_time(5)
        client.connection.send(b"%d" % number)
        room.network.settle()
    room.pass_time(5)
    found = measured.statistics()
    assert found.sent >= 6
    assert found.received >= 6
    assert (found.lost_up, found.lost_down) == (0, 0)


def test_a_connection_that_was_paused_in_a_silence_sleeps_again() -> None:
    room = Room()
    client = room.login()
    room.pass_time(5)
    ends = (client.connection, room.accepted[0].connection)
    assert all(map(is_asleep, ends))
    for end in ends:
        end.pause_reading()
        assert not is_asleep(end)
        end.resume_reading()
    room.pass_time(5)
    assert all(map(is_asleep, ends))


def test_a_stranger_does_not_hold_up_an_end() -> None:
    """What does not open may come between the last acknowledgement and the end of its turn."""
    room = Room(echo=False)
    room.login()
    room.pass_time(5)
    (served,) = room.accepted
    port = served.connection._port
    collector = port.collector

    class Meddling:
        def add(self, connection: Any) -> None:
            collector.add(connection)
            if connection.is_closing and not connection.unacked():
                connection.datagram(connection.cid + b"\0\0\0\xff" + bytes(32), None)

    port.collector = Meddling()
    served.connection.send(b"last")
    served.connection.close(100, flush_s=60)
    room.pass_time(1)
    assert served.events[-1].startswith("lost")


BAD = (
    LinkConditions(loss=0.3, duplicate=0.05, reorder=0.1, delay_s=0.05, jitter_s=0.02),
    LinkConditions(loss=0.1, duplicate=0.3, reorder=0.3, delay_s=0.4, jitter_s=0.3),
)

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["up", "down"]), st.sampled_from([None, "a", "b"]), st.integers(1, 3_000)),
        st.tuples(st.sampled_from(["pause", "resume", "rebind"]), st.booleans(), st.just(0)),
        st.tuples(st.just("wait"), st.none(), st.sampled_from([1, 2, 16, 64, 400])),
    ),
    max_size=15,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([0, 1, 2]))
def test_no_number_twice_and_no_message_lost(steps: Any, measured: bool, seed: int) -> None:
    """Whatever is said, paused and slept through: every number goes once with a key, and all arrives."""
    room = Room(echo=False, seed=seed)
    numbers: set[tuple[bytes, int]] = set()
    twice: list[int] = []

    def counting(key: bytes, number: int, clear: bytes, payload: bytes) -> bytes:
        if (key, number) in numbers:
            twice.append(number)
        numbers.add((key, number))
        return seal(key, number, clear, payload)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("connection", "server"):
            patch.setattr(f"imgateway.transports.datagram.{module}.seal", counting)
        client = room.login(measured=measured)
        server = room.accepted[0]
        ends = (client, server)
        if seed:
            room.network.datagrams.conditions = BAD[seed - 1]
        said: tuple[dict[Any, list[bytes]], dict[Any, list[bytes]]] = ({}, {})
        count = 0
        for what, which, size in steps:
            if what in ("up", "down"):
                count += 1
                message = b"%s%d/" % (str(which).encode(), count) + bytes(size)
                said[what == "down"].setdefault(which, []).append(message)
                ends[what == "down"].connection.send(message, which)
            elif what == "pause":
                ends[which].connection.pause_reading()
            elif what == "resume":
                ends[which].connection.resume_reading()
            elif what == "rebind":
                client.connection._port.rebind()
            else:
                room.pass_time(size / 64)
        for end in ends:
            end.connection.resume_reading()
        room.network.datagrams.conditions = LinkConditions()
        client.connection.send(b"here")  # where it is now, the gateway learns from this
        said[0].setdefault(None, []).append(b"here")
        room.pass_time(30)
        assert numbers
        assert not twice
        for sent, end, first in ((said[0], server, [b"hello"]), (said[1], client, [])):
            got = end.chunks[len(first) :]
            assert sorted(got) == sorted(one for messages in sent.values() for one in messages)
            for order, messages in sent.items():
                assert [one for one in got if one in messages] == messages, order
        assert all(not end.connection.unacked() and not end.connection.unsent() for end in ends)
        assert not room.network.getDelayedCalls()
        if not measured:
            assert all(is_asleep(end.connection) or end.connection._traffic._out is None for end in ends)


def test_places_given_back_while_one_is_about_to_be_taken() -> None:
    """Who is asked whether another may come in may send somebody away for it."""

    class One:
        def __init__(self, cid: bytes) -> None:
            self.cid = cid

    roll = Roll(lambda size: bytes(size))
    first = One(roll.fresh())
    roll.put(first)
    second = One(roll.fresh())
    roll.leave(first)
    roll.put(second)
    assert roll.get(second.cid) is second
    third = One(roll.fresh())
    roll.put(third)
    assert (roll.get(second.cid), roll.get(third.cid)) == (second, third)
    assert len(roll) == 2
    roll.leave(second)
    roll.leave(third)
    assert len(roll) == 0
