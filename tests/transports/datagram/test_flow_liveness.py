"""Lines and loads under which a flow once stood still, or sent the same for ever: all must come to an end."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

import pytest

from imgateway.testing.conditions import LinkConditions
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.messages import challenge
from tests.transports.datagram.pair import Pair
from tests.transports.datagram.test_flow_over_loss import by_channel, settled

SIZES = (0, 1, 20, 300, 1135, 1136, 1150, 1153, 1154, 1155, 1159, 1160, 2270, 2271, 5000)
"""Around what fits into one datagram, and into two."""


def message(order: object, number: int, size: int) -> bytes:
    return b"%r:%d:" % (order, number) + bytes(size)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("logs", "size"), [(3, 300), (8, 900)])
def test_new_logs_behind_a_large_answer_come_to_an_end(loss: float, logs: int, size: int) -> None:
    """Messages of new logs wait for channel 0 at the receiver. They must not take all its room, and then the
    whole window for their repetition, before what they wait for was sent."""
    pair = Pair(LinkConditions(loss=loss, delay_s=0.05), seed=1)
    said = [message(None, 0, 65_000)]
    pair.a.flow.send(said[0])
    for number in range(64):
        for log in range(logs):
            said.append(message(log, number, size))
            pair.a.flow.send(said[-1], log)
    pair.run(120.0, pair.quiet)
    assert by_channel(pair.b.got) == by_channel(said)
    settled(pair.a)


def test_an_order_keeps_its_order_when_its_channel_is_given_away() -> None:
    """The 64th log takes the first one's channel while that has a message on its way."""
    a, b = Flow(), Flow()
    a.send(b"old 1", "old")
    lost = list(a.datagrams(0.0))
    for log in range(62):
        a.send(b"", log)
    a.send(b"new", "new")  # the 64th: channel 1 is taken from "old"
    a.send(b"old 2", "old")
    got = [body for number, payload in a.datagrams(0.0) for body in b.receive(number, payload, 0.1)]
    for number, payload in lost:  # late, or repeated
        got += b.receive(number, payload, 0.2)
    assert [body for body in got if body.startswith(b"old")] == [b"old 1", b"old 2"]


@pytest.mark.parametrize("seed", range(2))
def test_a_hundred_logs_over_a_bad_line(seed: int) -> None:
    pair = Pair(LinkConditions(loss=0.2, delay_s=0.05, jitter_s=0.04), seed=seed)
    said = []
    for number in range(5):
        for log in range(100):
            said.append(message(log, number, 200))
            pair.a.flow.send(said[-1], log)
    pair.finish()
    assert by_channel(pair.b.got) == by_channel(said)


@pytest.mark.parametrize("round_trip", [1.2, 2.0])
def test_a_line_slower_than_the_first_timeout(round_trip: float) -> None:
    """What is acknowledged after it was taken for lost tells how long the way is."""
    pair = Pair(LinkConditions(delay_s=round_trip / 2))
    pair.a.flow.send(b"welcome")
    pair.run(30.0, pair.quiet)
    settled(pair.a)
    assert pair.a.counts.datagrams_in <= 6


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("round_trip", [0.18, 0.6, 1.6])
def test_a_line_that_becomes_slower(round_trip: float, count: int) -> None:
    pair = Pair(LinkConditions(delay_s=0.01))
    for _ in range(10):
        pair.a.flow.send(b"fast")
        pair.run(0.2)
    before = pair.a.counts.datagrams_in
    pair.a.way.conditions = pair.b.way.conditions = LinkConditions(delay_s=round_trip / 2)
    for number in range(count):
        pair.a.flow.send(b"%d" % number + bytes(1000))
    pair.run(30.0, pair.quiet)
    settled(pair.a)
    assert pair.a.counts.datagrams_in - before <= 2 * count + 6


def any_line(random: Random) -> LinkConditions:
    delay_s = random.choice((0.0, 0.001, 0.05, 0.4))
    return LinkConditions(
        loss=random.choice((0, 0.05, 0.2, 0.4)),
        duplicate=random.choice((0, 0.2)),
        reorder=random.choice((0, 0.3)),
        delay_s=delay_s,
        jitter_s=delay_s * random.random(),
    )


def live(pair: Pair, random: Random, orders: list[Hashable | None]) -> tuple[list[bytes], list[bytes]]:
    """All that may happen to two flows, in any order; what each said."""
    ends = (pair.a, pair.b)
    said: tuple[list[bytes], list[bytes]] = ([], [])
    paused = [False, False]
    for _ in range(random.randrange(20, 120)):
        for _ in range(random.choice((0, 0, 0, 1, 1, 3, 20, 80))):
            who, order = random.randrange(2), random.choice(orders)
            size = 72_600 if random.random() < 0.03 else random.choice(SIZES)
            said[who].append(message(order, len(said[who]), size))
            ends[who].flow.send(said[who][-1], order)
        who, event = random.randrange(2), random.random()
        end = ends[who]
        if event < 0.15:
            if paused[who]:
                end.got += end.flow.resume()
            else:
                end.flow.pause()
            paused[who] = not paused[who]
        elif event < 0.2:
            end.flow.moved()
        elif event < 0.25:
            end.flow.say(challenge(b"8 bytes."))
        elif event < 0.3:
            end.flow.next_number()
        if random.random() < 0.7:
            pair.run(random.choice((0.001, 0.05, 0.3, 2)))
        if random.random() < 0.1:
            for end in ends:
                end.way.conditions = any_line(random)
    for end in ends:
        end.got += end.flow.resume()
    pair.finish(4000.0)
    return said


@pytest.mark.parametrize(("logs", "seeds", "resends"), [(4, 24, 0), (100, 6, 0), (4, 6, 2)])
def test_whatever_happens_all_comes_to_an_end(logs: int, seeds: int, resends: int) -> None:
    for seed in range(seeds):
        random = Random(seed)
        pair = Pair(any_line(random), any_line(random), seed, resends)
        up, down = live(pair, random, [None, None, *range(logs)])
        for said, end in ((up, pair.b), (down, pair.a)):
            got = set(end.got)
            assert len(got) == len(end.got)
            assert len(got) == len(said) or resends
            assert by_channel(end.got) == by_channel([body for body in said if body in got])
        settled(pair.a)
        settled(pair.b)
