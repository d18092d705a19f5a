"""What a flow holds: little while it is silent, and bounded whatever the peer does."""

from __future__ import annotations

import gc
import tracemalloc
from random import Random

from imgateway.testing.conditions import LinkConditions
from imgateway.transports.datagram import messages
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.messages import MalformedDatagram
from tests.transports.datagram.pair import Pair, asleep

IDLE_BYTES = 80
"""A million silent sessions on a process have 1,200 each for everything; this part of it is the flow's."""


def used(flow: Flow, like: tuple[bytes, ...]) -> Flow:
    """Replays recorded traffic into a fresh flow: it ends silent, with numbers of its own."""
    number = 0
    for number, payload in enumerate(like):
        flow.send(b"an answer", "mailbox" if number % 2 else None)
        flow.receive(number, payload, number / 10)
        for _ in flow.datagrams(number / 10):
            pass
    while flow.due() is not None:
        number += 1
        flow.receive(number, messages.ack(flow.sent - 1, 2**64 - 1), number / 10)
        for _ in flow.datagrams(number / 10):
            pass
    assert flow.due() is None
    return flow


def test_a_silent_flow_is_small() -> None:
    traffic = tuple(messages.data_head(0, n, 0, 5) + b"hello" for n in range(6))
    used(Flow(), traffic)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        flows = [used(Flow(), traffic).rest() for _ in range(10_000)]
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    each = (after - before - 8 * len(flows)) / len(flows)
    print(f"a silent flow with two channels: {each:.0f} bytes")
    assert all(flows)
    assert each <= IDLE_BYTES


def test_bad_traffic_ends_as_small_as_good() -> None:
    """After a conversation over a bad line too, nothing but the packed state is left."""
    pair = Pair(LinkConditions(loss=0.3, duplicate=0.1, reorder=0.1, delay_s=0.05), seed=1)
    for number in range(200):
        pair.a.flow.send(b"x" * 2000 if number % 10 == 0 else b"y" * 100)
        pair.b.flow.send(b"z" * 100, number % 5)
    pair.finish()
    for end in (pair.a, pair.b):
        assert asleep(end.flow)
        assert end.flow._lone.idle
    assert 0 < len(pair.b.flow.rest()) <= 24 + 4 * (6 + 1)


def test_no_cycles_are_left_behind() -> None:
    gc.collect()
    gc.disable()
    try:
        pair = Pair(LinkConditions(loss=0.3, delay_s=0.05), seed=2)
        for _ in range(100):
            pair.a.flow.send(b"x" * 3000, "log")
        pair.run(1.0)
        assert pair.a.flow.due() is not None  # in the middle of it
        del pair
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_garbage_with_a_good_seal_is_bounded() -> None:
    random = Random(11)
    flow = Flow()
    now = 0.0

    def garbage() -> bytes:
        channel = random.randrange(64)
        number = random.choice((random.randrange(50), random.randrange(2**63)))
        barrier = random.randrange(9) if channel else 0
        body = bytes(random.randrange(1100))
        roll = random.random()
        if roll < 0.5:
            return messages.data_head(channel, number, barrier, len(body)) + body
        if roll < 0.9:
            index = random.randrange(63)
            return messages.fragment_head(channel, number, barrier, index, 63, len(body)) + body
        return messages.forget(channel, number) if roll < 0.95 else messages.challenge(b"12345678")

    tracemalloc.start()
    try:
        peak = 0
        for number in range(10_000):
            now += 0.001
            try:
                flow.receive(number, garbage(), now)
            except MalformedDatagram:
                pass  # the connection would end here; this one goes on
            flow.notes = None
            for _ in flow.datagrams(now):
                pass
            peak = max(peak, tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert peak < 262_144 * 2 + 100_000
