"""Bad lines: whatever they lose, repeat and reorder, every message arrives once, in its channel's order."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

import pytest

from imgateway.testing.conditions import LinkConditions
from tests.transports.datagram.pair import End, Pair

LOSSES = (0.0, 0.1, 0.2, 0.3, 0.4)
ORDERS: tuple[Hashable, ...] = (None, "log 1", "log 2", ("room", 3))


def message(random: Random, order: Hashable, number: int, size: int) -> bytes:
    """Starts with its channel and number; the rest is noise, so that a mix-up shows."""
    return b"%r:%d:" % (order, number) + random.randbytes(size)


def sizes(random: Random) -> int:
    roll = random.random()
    if roll < 0.7:
        return random.randrange(300)
    return random.randrange(1500) if roll < 0.95 else random.randrange(20_000)


def by_channel(bodies: list[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for body in bodies:
        found.setdefault(body.split(b":", 1)[0], []).append(body)
    return found


def converse(pair: Pair, random: Random, count: int) -> tuple[list[bytes], list[bytes]]:
    """Both ends say so much, a bit now and a bit later, and finish."""
    said: tuple[list[bytes], list[bytes]] = ([], [])
    for number in range(count):
        up = message(random, None, number, sizes(random))
        pair.a.flow.send(up)
        said[0].append(up)
        order = random.choice(ORDERS)
        down = message(random, order, number, sizes(random))
        pair.b.flow.send(down, order)
        said[1].append(down)
        if random.random() < 0.3:
            pair.run(random.random() / 5)
    pair.finish()
    return said


def settled(end: End) -> None:
    flow = end.flow
    assert (flow.unsent(), flow.unacked(), flow.due(), flow._out) == (0, 0, None, None)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_message_arrives_once_and_in_order(loss: float) -> None:
    for seed in range(1, 51):
        random = Random(seed)
        line = LinkConditions(loss=loss, duplicate=0.1, reorder=0.1, delay_s=0.05, jitter_s=0.04)
        pair = Pair(line, seed=seed)
        up, down = converse(pair, random, 25)
        assert pair.b.got == up
        assert by_channel(pair.a.got) == by_channel(down)
        settled(pair.a)
        settled(pair.b)


@pytest.mark.parametrize("seed", range(1, 6))
def test_many_large_messages_on_many_channels_come_to_an_end(seed: int) -> None:
    random = Random(seed)
    pair = Pair(LinkConditions(loss=0.2, reorder=0.1, delay_s=0.02, jitter_s=0.01), seed=seed)
    said = []
    for number in range(40):
        order = random.choice((None, *range(20)))
        said.append(message(random, order, number, random.choice((50_000, 70_000, 30_000, 1_200, 10))))
        pair.a.flow.send(said[-1], order)
    pair.finish()
    assert by_channel(pair.b.got) == by_channel(said)
    settled(pair.a)


def test_one_way_loses_almost_all() -> None:
    bad, good = LinkConditions(loss=0.8, delay_s=0.02), LinkConditions(delay_s=0.02)
    for up, down in ((bad, good), (good, bad)):
        pair = Pair(up, down, seed=3)
        sent = [b"%d" % number for number in range(30)]
        for body in sent:
            pair.a.flow.send(body)
        pair.finish(100_000)
        assert pair.b.got == sent


def test_pauses_in_the_middle() -> None:
    for seed in range(1, 11):
        random = Random(seed)
        pair = Pair(LinkConditions(loss=0.2, delay_s=0.02), seed=seed)
        sent = [message(random, None, number, sizes(random)) for number in range(150)]
        for body in sent:
            pair.a.flow.send(body)
        for _ in range(10):
            pair.b.flow.pause()
            pair.run(1.0)
            held = pair.b.flow.resume()
            assert len(held) <= 64
            pair.b.got += held
            pair.run(0.5)
        pair.finish()
        assert pair.b.got == sent


def test_the_path_moves_in_the_middle() -> None:
    for seed in range(1, 11):
        pair = Pair(LinkConditions(loss=0.2, delay_s=0.05), seed=seed)
        sent = [b"%d/" % number + b"x" * 900 for number in range(60)]
        for body in sent:
            pair.a.flow.send(body)
        for _ in range(5):
            pair.run(0.3)
            pair.a.flow.moved()
        pair.finish()
        assert pair.b.got == sent


def test_no_message_of_a_log_overtakes_its_welcome() -> None:
    for seed in range(1, 31):
        pair = Pair(LinkConditions(loss=0.4, reorder=0.2, delay_s=0.05, jitter_s=0.05), seed=seed)
        flow = pair.a.flow
        for number in range(5):
            flow.send(b"0:subscribed %d" % number + b" " * 800)
            flow.send(b"%d:first" % number + b" " * 800, number)
            flow.send(b"%d:second" % number, number)
        pair.finish()
        got = pair.b.got
        for number in range(5):
            welcome = next(at for at, body in enumerate(got) if body.startswith(b"0:subscribed %d" % number))
            first = next(at for at, body in enumerate(got) if body.startswith(b"%d:first" % number))
            assert welcome < first < got.index(b"%d:second" % number)


def bytes_sent(loss: float, seed: int, count: int = 200) -> tuple[float, float]:
    """What both ends sent against the bodies of 1,000 B, and the seconds that it took."""
    pair = Pair(LinkConditions(loss=loss, delay_s=0.05), seed=seed)
    sent = [b"%4d" % number + bytes(996) for number in range(count)]
    for body in sent:
        pair.a.flow.send(body)
    pair.run(3600, lambda: len(pair.b.got) == count)
    took = pair.now
    pair.finish()
    assert pair.b.got == sent
    return (pair.a.counts.bytes_in + pair.b.counts.bytes_in) / (1000 * count), took


def test_the_bytes_at_30_percent_loss() -> None:
    """The least possible is (1,000 + 34) / 0.7 = 1.48 × the bodies, without any ACK."""
    runs = [bytes_sent(0.3, seed) for seed in range(1, 51)]
    ratios, times = [ratio for ratio, _ in runs], [took for _, took in runs]
    mean, worst = sum(ratios) / 50, max(ratios)
    print(f"30 % loss each way, 50 ms, 1,000 B: bytes × {mean:.2f} on average, × {worst:.2f} at worst")
    print(f"200 messages in {sum(times) / 50:.1f} s on average, {max(times):.1f} s at worst")
    assert mean <= 1.7
    assert worst <= 2.0


def test_the_bytes_without_loss() -> None:
    ratio, _ = bytes_sent(0.0, 1)
    print(f"no loss, 1,000 B: bytes × {ratio:.3f}")
    assert ratio <= 1.05


@pytest.mark.parametrize(("size", "overhead"), [(10, 32), (100, 32), (1000, 33)])
def test_the_overhead_of_a_message(size: int, overhead: int) -> None:
    """Alone in its datagram: number 4, cid 8, tag 16, and 4 or 5 for itself; its ACK is 41 bytes."""
    pair = Pair()
    pair.a.flow.send(b"x" * size)
    pair.finish()
    assert pair.a.counts.bytes_in == size + overhead
    assert pair.b.counts.bytes_in == 41


def test_an_exchange_costs_one_ack_of_its_own() -> None:
    """Question, answer with an ACK, ACK."""
    pair = Pair(LinkConditions(delay_s=0.05))
    pair.a.flow.send(b"?" * 50)
    pair.run(0.06)
    pair.b.flow.send(b"!" * 50)
    pair.finish()
    assert (pair.a.counts.datagrams_in, pair.b.counts.datagrams_in) == (2, 1)


def test_a_full_line_is_not_flooded() -> None:
    """64 kbit/s and a queue of a second: what does not pass is lost, and the window finds the rate."""
    line = LinkConditions(delay_s=0.05, rate_bits_per_s=64_000, queue_s=1.0)
    pair = Pair(line, LinkConditions(delay_s=0.05))
    sent = [b"%3d" % number + bytes(997) for number in range(200)]
    for body in sent:
        pair.a.flow.send(body)
    pair.finish()
    assert pair.b.got == sent
    assert pair.now < 40  # 26 s if nothing went twice
    assert pair.a.counts.bytes_in < 1.4 * 200_000


def test_bursts_stay_at_ten() -> None:
    pair = Pair(LinkConditions(delay_s=0.05))
    for _ in range(300):
        pair.a.flow.send(bytes(1100))
    pair.finish()
    for at in range(len(pair.a.times) - 11):
        # Ten in a row; the eleventh waits for its turn, but for what a wheel's tick makes late.
        assert pair.a.times[at + 11] > pair.a.times[at]


@pytest.mark.parametrize("resends", [-1, 1, 2, 3])
def test_the_arrival_rate_is_that_of_the_attempts(resends: int) -> None:
    """1 - (1 - r)^(n + 1), whatever befalls the answers."""
    arrived = total = 0
    for seed in range(1, 6):
        line = LinkConditions(loss=0.3, delay_s=0.02)
        pair = Pair(line, LinkConditions(loss=0.1, delay_s=0.02), seed, resends)
        flow = pair.a.flow
        sent = [b"%4d" % number + bytes(1000) for number in range(400)]
        for body in sent:
            flow.send(body)
        pair.finish()
        got = pair.b.got
        assert got == sorted(got)
        assert len(set(got)) == len(got)
        assert set(got) <= set(sent)
        assert flow.given_up >= 400 - len(got)
        settled(pair.a)
        settled(pair.b)
        arrived += len(got)
        total += 400
    expected = 1 - 0.3 ** (max(resends, 0) + 1)
    deviation = (expected * (1 - expected) / total) ** 0.5
    assert abs(arrived / total - expected) < 3 * deviation
