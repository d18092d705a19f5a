"""Which node a client shall use: the strategies, and what is the same for all of them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyObject

from imgateway.interfaces import IAllocation, NodeInfo, NodeState, Served
from imgateway.router.allocation import (
    MOST,
    Allocation,
    ConsistentHash,
    Hash,
    LeastConnections,
    RoundRobin,
    Weighted,
)
from tests.router.fake_gateway import node

STRATEGIES = (RoundRobin, Hash, ConsistentHash, Weighted, LeastConnections)


def nodes(*weights: int, **fields: Any) -> tuple[NodeInfo, ...]:
    return tuple(node(f"n{place}", weight=weight, **fields) for place, weight in enumerate(weights))


def spread(strategy: Any, infos: tuple[NodeInfo, ...], calls: int = 100_000) -> Counter[str]:
    """How often each node comes first."""
    choose = strategy.choose
    return Counter(choose(infos, f"user{turn}", turn)[0].node for turn in range(calls))


def within(counts: Counter[str], infos: tuple[NodeInfo, ...], part: float) -> None:
    """Each has its share, give or take so much of it."""
    weights = sum(info.weight for info in infos)
    for info in infos:
        share = counts.total() * info.weight / weights
        assert abs(counts[info.node] - share) <= share * part, (info.node, counts[info.node], share)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_they_are_strategies(kind: Any) -> None:
    verifyObject(IAllocation, kind())
    assert kind().choose((), "bob", 7) == []


def test_they_are_installed() -> None:
    found = {plugin.name: plugin for plugin in getPlugins(IAllocation)}
    assert set(found) >= {"round-robin", "hash", "consistent-hash", "weighted", "least-connections"}
    infos = nodes(100, 50, 10)
    for kind in STRATEGIES:
        plugin = found[kind.name]
        assert IPlugin.providedBy(plugin)
        verifyObject(IAllocation, plugin)
        assert plugin.choose(infos, "bob", 3) == kind().choose(infos, "bob", 3)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_the_order_of_the_nodes_does_not_count(kind: Any) -> None:
    infos = list(nodes(100, 50, 10, 100, 70))
    source = random.Random(1)
    for turn in range(200):
        expected = kind().choose(tuple(infos), f"u{turn}", turn)
        assert sorted(info.node for info in expected) == ["n0", "n1", "n2", "n3", "n4"]
        source.shuffle(infos)
        assert kind().choose(tuple(infos), f"u{turn}", turn) == expected


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        ((100, 200, 300, 50), 100_000),
        ((1, 1), 2_000),
        ((7,), 100),
        ((100,) * 10, 5_000),
        ((1000, 10), 10_000),
    ],
)
def test_weighted_is_even(weights: tuple[int, ...], calls: int) -> None:
    infos = nodes(*weights)
    within(spread(Weighted(), infos, calls), infos, 0.05)


def test_weighted_is_even_at_every_time() -> None:
    infos = nodes(100, 200, 300)
    within(spread(Weighted(), infos, 600), infos, 0.05)


def test_who_cannot_reach_the_first_is_spread_too() -> None:
    infos = nodes(100, 100, 100, 100)
    second = Counter(Weighted().choose(infos, "", turn)[1].node for turn in range(10_000))
    within(second, infos, 0.05)


def test_consistent_hash_is_even_by_weight() -> None:
    infos = nodes(100, 200, 300, 100)
    within(spread(ConsistentHash(), infos, 40_000), infos, 0.05)


def test_hash_is_even() -> None:
    infos = nodes(100, 100, 100)
    within(spread(Hash(), infos, 40_000), infos, 0.05)


def test_round_robin_takes_turns() -> None:
    infos = nodes(1, 100, 100)
    assert spread(RoundRobin(), infos, 300) == {"n0": 100, "n1": 100, "n2": 100}


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_consistent_hash_moves_few_when_a_node_joins(count: int) -> None:
    before, after = nodes(*[100] * count), nodes(*[100] * (count + 1))
    users = [f"user{number}" for number in range(5_000)]
    moved = stayed_wrong = 0
    for user in users:
        old = ConsistentHash().choose(before, user, 0)[0].node
        new = ConsistentHash().choose(after, user, 1)[0].node
        moved += old != new
        stayed_wrong += old != new and new != f"n{count}"
    assert moved <= 1.3 / (count + 1) * len(users)
    assert stayed_wrong == 0  # nothing moves between those that were there


def test_consistent_hash_keeps_its_users_over_a_restart() -> None:
    infos = nodes(100, 100, 100)
    again = tuple(node(info.node, incarnation=f"{info.node}.2", started_ms=9) for info in infos)
    for user in map(str, range(500)):
        old = [info.node for info in ConsistentHash().choose(infos, user, 0)]
        assert [info.node for info in ConsistentHash().choose(again, user, 0)] == old


def test_least_connections_counts_by_weight() -> None:
    infos = (
        node("a", sessions=100),
        node("b", sessions=150, weight=200),
        node("c", sessions=80),
        node("d", sessions=0, weight=1),
    )
    chosen = LeastConnections().choose(infos, "", 0)
    assert [info.node for info in chosen] == ["b", "c", "d", "a"]


# --------------------------------------------------------------------------------- what is the same for all


def allocation(*infos: NodeInfo, strategy: Any = None) -> Allocation:
    known = {info.incarnation: info for info in infos}
    return Allocation(strategy or RoundRobin(), lambda: known)


def names(places: Any) -> list[str]:
    return [place.node.node for place in places]


def test_only_ready_nodes_that_serve_it() -> None:
    chosen = allocation(
        node("a"),
        node("b", state=NodeState.DRAINING),
        node("c", state=NodeState.BUSY),
        node("d", weight=0),
        node("e", served=(Served("mqtt", "tcp", "tcp://e:1883"),)),
        node("f", served=()),
    )
    assert names(chosen.choose("bob", "native", "tcp")) == ["a"]
    assert [place.served.url for place in chosen.choose("bob", "mqtt")] == ["tcp://e:1883"]
    assert chosen.choose("bob", "native", "udp") == ()
    assert allocation().choose("bob", "native") == ()


def test_the_asked_region_comes_first() -> None:
    chosen = allocation(
        node("a", region="eu"), node("b", region="us"), node("c", region="eu"), node("d", region="")
    )
    for _ in range(8):
        found = names(chosen.choose("bob", "native", "tcp", "eu"))
        assert set(found[:2]) == {"a", "c"}
        assert set(found[2:]) == {"b", "d"}
    firsts = {names(chosen.choose("bob", "native", "tcp", "eu"))[0] for _ in range(8)}
    assert firsts == {"a", "c"}
    assert {names(chosen.choose("bob", "native", "tcp"))[0] for _ in range(8)} == {"a", "b", "c", "d"}


def test_an_answer_is_spread_over_zones() -> None:
    infos = [node(f"n{place}", zone="x" if place < 6 else "y") for place in range(8)]
    chosen = allocation(*infos)
    for _ in range(20):
        found = chosen.choose("bob", "native", "tcp")
        assert len(found) == MOST
        assert {place.node.zone for place in found[:2]} == {"x", "y"}
    unzoned = allocation(*[node(f"n{place}") for place in range(3)])
    assert names(unzoned.choose("bob", "native", "tcp")) == ["n0", "n1", "n2"]


def test_few_nodes_give_all_that_they_listen_on() -> None:
    served = tuple(Served("native", kind, f"{kind}://a") for kind in ("tcp", "udp", "websocket"))
    chosen = allocation(node("a", served=served), node("b", served=served))
    urls = [place.served.url for place in chosen.choose("bob", "native")]
    assert urls == ["tcp://a", "tcp://a", "udp://a", "websocket://a", "udp://a"]
    assert [place.served.url for place in chosen.choose("bob", "native", "udp")] == ["udp://a"] * 2


def test_of_two_with_one_name_the_younger_counts() -> None:
    old, new = node("a", incarnation="a.1", started_ms=1), node("a", incarnation="a.0", started_ms=2)
    for infos in ((old, new), (new, old)):
        [place] = allocation(*infos).choose("bob", "native", "tcp")
        assert place.node.incarnation == "a.0"


@pytest.mark.parametrize(
    "younger",
    [
        {"state": NodeState.BUSY},
        {"state": NodeState.DRAINING},
        {"weight": 0},
        {"served": (Served("mqtt", "tcp", "mqtt://a:1883"),)},
    ],
)
def test_nobody_is_sent_to_the_former_life_of_a_node_that_is_not_ready(younger: dict[str, Any]) -> None:
    former, now = node("a", started_ms=1), node("a", incarnation="a.2", started_ms=2, **younger)
    for infos in ((former, now), (now, former)):
        chosen = allocation(*infos, node("b")).choose("bob", "native", "tcp")
        assert [place.node.node for place in chosen] == ["b"]


def test_a_crowd_between_two_announcements_is_spread() -> None:
    known = {info.incarnation: info for info in (node("a", sessions=5), node("b", sessions=100))}
    chosen = Allocation(LeastConnections(), lambda: known)
    counts = Counter(names(chosen.choose(f"u{turn}", "native", "tcp"))[0] for turn in range(295))
    assert counts == {"a": 195, "b": 100}
    known["a.1"] = node("a", sessions=205)  # it announced itself anew, with those in it
    counts = Counter(names(chosen.choose(f"u{turn}", "native", "tcp"))[0] for turn in range(5))
    assert counts["b"] == 5


def test_nodes_that_are_gone_are_forgotten() -> None:
    known: dict[str, NodeInfo] = {}
    chosen = Allocation(RoundRobin(), lambda: known)
    for number in range(50):
        known.clear()
        known[f"a.{number}"] = node("a", incarnation=f"a.{number}")
        chosen.choose("bob", "native")
    assert len(chosen._given) <= 2


def test_several_routers_do_not_begin_alike() -> None:
    known = {info.incarnation: info for info in (node("a"), node("b"))}
    firsts = [
        names(Allocation(RoundRobin(), lambda: known, start).choose("bob", "native"))[0] for start in (0, 1)
    ]
    assert firsts == ["a", "b"]
