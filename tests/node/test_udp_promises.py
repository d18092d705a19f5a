"""What a session over UDP is promised, on lines as bad as they come: whole nodes and clients, in memory."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.client import Client
from imgateway.frames import OutcomeCode
from imgateway.testing.conditions import LinkConditions
from imgateway.transports.datagram.greeting import ClientGreeting
from imgateway.transports.datagram.packets import LARGEST, NO_KEY, hello_clear
from tests.node.udp_place import Place

SEEDS = range(1, 51)
SERVER = ("127.0.0.1", 7901)


class Talk:
    """Two that publish to each other, and what each was shown."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.shown: dict[str, list[bytes]] = {"alice": [], "bob": []}
        self.said: dict[str, list[bytes]] = {"alice": [], "bob": []}
        self.downs: list[str] = []
        self.clients: dict[str, Client] = {}
        self.outcomes: list[Any] = []
        for user, shown in self.shown.items():
            client = place.client(
                user, on_message=lambda message, shown=shown: shown.append(message.message.body), wait=True
            )
            place.result(client.start(), 120)
            client.on_down = lambda code, reason: self.downs.append(reason)
            self.clients[user] = client

    def say(self, user: str, other: str, body: bytes) -> None:
        self.said[user].append(body)
        publishing = self.clients[user].publish(f"user:{other}", body)
        publishing.addBoth(self.outcomes.append)

    def finish(self, within_s: float = 300.0) -> None:
        """Until all have their outcome and all are shown; then nothing more may come."""
        said, waited = sum(map(len, self.said.values())), 0.0
        while len(self.outcomes) < said or sum(map(len, self.shown.values())) < said:
            assert waited < within_s, (len(self.outcomes), said)
            self.place.pass_time(0.5)
            waited += 0.5
        self.place.pass_time(3)

    def check(self) -> None:
        """Acknowledged, once, in order."""
        assert [outcome[0].code for outcome in self.outcomes] == [OutcomeCode.OK] * len(self.outcomes)
        assert self.shown["bob"] == self.said["alice"]
        assert self.shown["alice"] == self.said["bob"]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_message_once_and_in_order(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    place = Place(str(tmp_path), seed=seed)
    worst = 0.4 * (seed - 1) / (len(SEEDS) - 1)
    losses = [worst, random.uniform(0, worst)]
    random.shuffle(losses)
    up, down = (
        LinkConditions(loss=loss, duplicate=0.1, reorder=0.15, delay_s=0.04, jitter_s=0.03) for loss in losses
    )
    place.network.datagrams.conditions = lambda source, to: up if to == SERVER else down
    talk = Talk(place)
    for number in range(100):
        size = random.choice((0, 100, 1_000, 4_000))
        talk.say("alice", "bob", b"%d/" % number + bytes(size))
        if number % 2:
            talk.say("bob", "alice", b"%d/" % number + bytes(size // 4))
        if number % 7 == 0:
            place.pass_time(random.uniform(0, 0.3))
    talk.finish()
    talk.check()
    assert talk.downs == []
    counts = place.network.datagrams.counts
    assert (counts.lost > 0) == (worst > 0)
    assert min(counts.duplicated, counts.reordered) > 0
    place.end()


# ------------------------------------------------------------------------------------------- what it costs

BODIES, SIZE = 300, 1_000


def traffic(place: Place) -> dict[int, int]:
    """Bytes that were sent between each client's port and the gateway since the last call, both ways."""
    captured = place.network.datagrams.captured
    assert captured is not None
    found: dict[int, int] = {}
    for one in captured:
        client = one.destination if one.source == SERVER else one.source
        found[client[1]] = found.get(client[1], 0) + len(one.data)
    captured.clear()
    return found


def carried(place: Place, every_s: float) -> list[float]:
    """The bytes of each line for BODIES from alice to bob, as a multiple of the bodies: alice's, then bob's.

    :param every_s: a message so often.
    """
    talk = Talk(place)
    place.pass_time(3)
    traffic(place)
    for number in range(BODIES):
        talk.say("alice", "bob", b"%4d" % number + bytes(SIZE - 4))
        place.pass_time(every_s)
    talk.finish()
    talk.check()
    return [bytes_ / (BODIES * SIZE) for _, bytes_ in sorted(traffic(place).items())]


@pytest.mark.parametrize("every_s", [0.0, 0.1, 1.0])
def test_bytes_at_30_percent_loss(every_s: float, tmp_path: Path) -> None:
    place = Place(str(tmp_path), seed=7)
    place.network.datagrams.conditions = LinkConditions(loss=0.3, delay_s=0.05)
    ratios = carried(place, every_s)
    print(f"a message every {every_s} s: {ratios} times the bodies")
    assert max(ratios) <= 2.5
    place.end()


def test_bytes_without_loss(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    place.network.datagrams.conditions = LinkConditions(delay_s=0.05)
    ratios = carried(place, 0.5)
    overhead = [(ratio - 1) * SIZE for ratio in ratios]
    print(f"beside the body, publishing and receiving: {overhead} bytes")
    assert max(overhead) < 300
    place.end()


def test_bytes_of_silence(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    Talk(place)
    place.pass_time(5)
    traffic(place)
    place.pass_time(600)
    idle = [size / 10 for size in traffic(place).values()]
    print(f"idle: {idle} bytes a minute")
    assert len(idle) == 2
    assert max(idle) < 500
    place.end()


# -------------------------------------------------------------------------------------------------- strangers

SPOOFED, BATCH = 100_000, 200


def stranger(number: int) -> tuple[str, int]:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1024 + number % 60_000


def hellos() -> list[bytes]:
    """All kinds of greetings that cost the sender nothing."""
    sealed = ClientGreeting(b"i" * 16, b"k" * 16, b"p" * 32, b"").datagram(0.0)
    another_version = b"\xf1\x02" + sealed[2:]
    unsealed = hello_clear(NO_KEY, bytes(32), bytes(24), 0).ljust(LARGEST, b"\0")
    old_cookie = sealed[:50] + b"\x07" * 24 + sealed[74:]
    return [sealed, sealed, sealed, another_version, unsealed, old_cookie]


def test_100_000_spoofed_hellos(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    datagrams = place.network.datagrams
    client = place.client("alice")
    place.result(client.start())
    kinds = hellos()

    def turns() -> int:
        """How many turns of the reactor a question of somebody who is logged in takes."""
        answer: list[Any] = []
        client.history("user:alice").addBoth(answer.append)
        count = 0
        while not answer:
            place.network.turn()
            if place.steps.choices():
                place.steps.run()
            count += 1
        assert answer[0].head == 0
        return count

    def flood(numbers: range) -> None:
        for number in numbers:
            assert datagrams.spoof(kinds[number % len(kinds)], stranger(number), SERVER)

    undisturbed = turns()
    place.pass_time(1)
    flood(range(BATCH))
    place.settle()
    tracemalloc.start()
    try:
        for begin in range(0, SPOOFED, BATCH):
            assert datagrams.captured is not None
            datagrams.captured.clear()
            flood(range(begin, begin + BATCH))
            assert turns() <= undisturbed
            place.settle()
            answers = [one for one in datagrams.captured if one.destination[0].startswith("10.")]
            assert len(answers) == BATCH
            assert max(len(one.data) for one in answers) < LARGEST / 10
            place.pass_time(0.1)
            if begin == SPOOFED // 10:
                gc.collect()
                base = tracemalloc.get_traced_memory()[0]
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - base
    finally:
        tracemalloc.stop()
    print(f"{SPOOFED:,} spoofed HELLOs: {grown:,} bytes grown, {undisturbed} turns a question")
    assert grown < 20_000
    assert client.connected
    place.end()
