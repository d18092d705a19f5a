"""A log with many followers: served in slices, in order, whatever comes and whoever goes meanwhile."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Address,
    Deliver,
    DeliverAck,
    Ping,
    Publish,
    Subscribe,
    Unsubscribe,
    log_of,
)
from imgateway.interfaces import Identity
from imgateway.node import crowds
from imgateway.node.delivery import READ_BYTES
from tests.node.rig import Peer, Rig, entry

NEWS, SPORT = Address("topic", "news"), Address("topic", "sport")
NEWS_LOG, SPORT_LOG = log_of(NEWS), log_of(SPORT)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: Any) -> None:
    monkeypatch.setattr(crowds, "SLICE", 3)


def follower(rig: Rig, user: str, *topics: Address) -> Peer:
    rig.tokens.identities[user] = Identity(user, claims={"topics": ["news", "sport"]})
    peer = rig.login(user)
    for topic in topics or (NEWS,):
        peer.send(Subscribe(topic))
    return peer


def crowd(rig: Rig, size: int, *topics: Address) -> list[Peer]:
    return [follower(rig, f"u{n}", *topics) for n in range(size)]


def told(rig: Rig, peers: list[Peer]) -> list[int]:
    """How much each of the peers' sessions has been sent of the news."""
    return [rig.session(peer.user).follows[NEWS].sent for peer in peers]


def ranges(peer: Peer, address: Address = NEWS) -> list[tuple[int, int]]:
    return [(frame.after, frame.upto) for frame in peer.of(Deliver) if frame.address == address]


def reads(rig: Rig) -> int:
    return len(rig.broker.named("read"))


def test_one_turn_serves_a_slice() -> None:
    rig = Rig()
    peers = crowd(rig, 8)
    rig.turn()
    rig.broker.store(NEWS_LOG, entry(0))
    assert told(rig, peers) == [1] * 3 + [0] * 5
    rig.turn()
    assert told(rig, peers) == [1] * 6 + [0] * 2
    rig.turn()
    assert told(rig, peers) == [1] * 8
    rig.settle()
    assert [ranges(peer) for peer in peers] == [[(0, 1)]] * 8


def test_what_comes_during_a_round_is_the_next_one_and_one_delivery() -> None:
    rig = Rig()
    peers = crowd(rig, 5)
    for _ in range(4):
        rig.broker.store(NEWS_LOG, entry(0))
    rig.settle()
    assert [ranges(peer) for peer in peers] == [[(0, 1), (1, 4)]] * 5
    assert reads(rig) == 0


@pytest.mark.parametrize(("count", "size"), [(70, 1), (3, READ_BYTES // 2)])
def test_what_is_more_than_a_delivery_holds_is_let_go_and_read(count: int, size: int) -> None:
    rig = Rig()
    peers = crowd(rig, 5)
    for _ in range(1 + count):
        rig.broker.store(NEWS_LOG, entry(0, b"x" * size))
    held = rig.hub.topics._crowds._crowds[NEWS_LOG].news
    assert held is not None
    assert held.entries is None
    rig.settle()
    for peer in peers:
        peer.send(DeliverAck((Acked(NEWS, 7, ranges(peer)[-1][1]),)))
    assert told(rig, peers) == [1 + count] * 5
    assert reads(rig) > 0


def test_one_commit_of_more_than_a_window_is_read() -> None:
    rig = Rig()
    peers = crowd(rig, 2)
    rig.broker.store(NEWS_LOG, *(entry(0, b"x" * 5_000) for _ in range(60)))
    assert reads(rig) > 1
    rig.settle()
    assert max(max(peer.sizes) for peer in peers) < 2 * READ_BYTES


def test_logs_take_turns() -> None:
    rig = Rig()
    peers = crowd(rig, 8)
    fan = follower(rig, "fan", SPORT)
    rig.turn()
    rig.broker.store(NEWS_LOG, entry(0))
    rig.broker.store(SPORT_LOG, entry(0))
    assert rig.session("fan").follows[SPORT].sent == 0
    for _ in range(3):
        rig.turn()
    assert rig.session("fan").follows[SPORT].sent == 1, "not after all of the others"
    rig.settle()
    assert ranges(fan, SPORT) == [(0, 1)]
    assert told(rig, peers) == [1] * 8


def test_many_small_logs_are_bounded_as_one_large() -> None:
    rig = Rig()
    mine = [Address("service", f"s{n}") for n in range(6)]
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc")
    for address in mine:
        svc.send(Subscribe(address))
    rig.turn()
    for address in mine:
        rig.broker.store(log_of(address), entry(0))
    assert [rig.session("svc").follows[address].sent for address in mine] == [1, 1, 1, 0, 0, 0]
    rig.settle()
    assert [rig.session("svc").follows[address].sent for address in mine] == [1] * 6


def test_large_messages_count_for_more() -> None:
    rig = Rig()
    peers = crowd(rig, 6)
    rig.turn()
    rig.broker.store(NEWS_LOG, entry(0, b"x" * 2 * crowds.FOLLOWER_BYTES))
    assert told(rig, peers) == [1] + [0] * 5
    rig.settle()
    assert told(rig, peers) == [1] * 6


def test_who_leaves_during_a_round_gets_nothing_more_and_who_comes_gets_what_follows() -> None:
    rig = Rig()
    peers = crowd(rig, 8)
    rig.turn()
    rig.broker.store(NEWS_LOG, entry(0))
    rig.hub.topics.unsubscribe(rig.session("u6"), NEWS)
    peers[7].server.lose("cut")
    late = follower(rig, "late")
    rig.broker.store(NEWS_LOG, entry(0))
    rig.settle()
    assert ranges(peers[5]) == [(0, 1), (1, 2)]
    assert ranges(peers[6]) == ranges(peers[7]) == []
    assert ranges(late) == [(1, 2)]


def test_qos_0_is_for_who_is_there_and_does_not_pile_up() -> None:
    rig = Rig()
    peers = crowd(rig, 5)
    rig.turn()
    for n in range(30):
        rig.hub.passed(NEWS, replace(entry(1), seq=0, message=entry(n + 1).message))
    assert len(rig.hub.topics._crowds._crowds[NEWS_LOG].passing or ()) == crowds.MAX_PASSING
    rig.hub.topics.unsubscribe(rig.session("u4"), NEWS)
    rig.settle()
    assert peers[0].shown() == [f"m{n + 1}" for n in range(crowds.MAX_PASSING + 1)]
    assert peers[3].shown() == peers[0].shown()
    assert peers[4].shown() == []


@pytest.mark.parametrize("size", [1, 3])
def test_one_whose_connection_raises_costs_the_others_nothing(flush_logged_errors: Any, size: int) -> None:
    rig = Rig()
    peers = crowd(rig, size)
    rig.turn()

    def send(data: bytes, order: Any = None) -> None:
        raise ZeroDivisionError

    peers[0].server.send = send  # type: ignore[method-assign]
    rig.broker.store(NEWS_LOG, entry(0))
    rig.settle()
    assert len(flush_logged_errors(ZeroDivisionError)) == 1
    assert [ranges(peer) for peer in peers[1:]] == [[(0, 1)]] * (size - 1)
    assert rig.counters.links_closed[CloseCode.INTERNAL_ERROR] == 1


def test_nothing_is_left_of_a_round_when_the_node_stops() -> None:
    rig = Rig()
    crowd(rig, 8)
    rig.turn()
    rig.broker.store(NEWS_LOG, entry(0))
    rig.hub.end_all()
    assert len(rig.hub.topics) == 0
    assert rig.hub.topics._crowds._turning is None


@pytest.mark.parametrize("seed", range(12))
def test_everybody_gets_everything_in_order_whatever_happens(seed: int) -> None:
    random = Random(seed)
    rig = Rig("memory")
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc")
    peers = crowd(rig, 7)
    quitter = follower(rig, "quitter")
    for n in range(120):
        what = random.random()
        if what < 0.6:
            svc.client.send(svc.codec.encode(Publish(str(n), (NEWS,), body=b"x" * (n % 7))) or b"")
        elif what < 0.8:
            peer = random.choice(peers)
            if ranges(peer):
                epoch = peer.of(Deliver)[-1].epoch
                peer.client.send(
                    peer.codec.encode(DeliverAck((Acked(NEWS, epoch, ranges(peer)[-1][1]),))) or b""
                )
        elif what < 0.85:
            quitter.client.send(quitter.codec.encode(Unsubscribe(NEWS)) or b"")
            quitter.client.send(quitter.codec.encode(Subscribe(NEWS)) or b"")
        if random.random() < 0.3:
            rig.settle()
        elif rig.steps.choices() and random.random() < 0.5:
            rig.steps.run()
        rig.turn()
    rig.settle()
    for _ in range(20):
        for peer in peers:
            if ranges(peer):
                epoch = peer.of(Deliver)[-1].epoch
                peer.send(DeliverAck((Acked(NEWS, epoch, ranges(peer)[-1][1]),)))
    heads = set()
    for peer in peers:
        place = 0
        for after, upto in ranges(peer):
            assert after == place
            place = upto
        heads.add(place)
        shown = peer.shown()
        assert shown == sorted(shown, key=int)
        assert len(set(shown)) == len(shown)
    assert len(heads) == 1
    assert heads.pop() == len(peers[0].shown())
    assert quitter.send(Ping()).bye is None
