"""Where else a client may go: only where it is taken, near first, by weight."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from imgateway.cluster import elsewhere
from imgateway.interfaces import NodeInfo, NodeState, Served


def node(name: str, *urls: str, **more: Any) -> NodeInfo:
    served = tuple(Served("native", "tcp", url) for url in urls or (f"tcp://{name}:7901",))
    return NodeInfo(name, f"{name}.1", served=more.pop("served", served), **more)


def places(*nodes: NodeInfo, secure: bool = False, seed: int = 1) -> tuple[str, ...]:
    return elsewhere(nodes, "me.1", "native", "tcp", secure, Random(seed).random)


def test_only_others_that_are_ready_and_speak_what_the_client_speaks() -> None:
    json = (Served("json", "tcp", "tcp://json:1"), Served("native", "websocket", "ws://json:1"))
    assert places(
        node("me"),
        node("busy", state=NodeState.BUSY),
        node("draining", state=NodeState.DRAINING),
        node("nothing", weight=0),
        node("json", served=json),
        node("good"),
    ) == ("tcp://good:7901",)
    assert places() == places(node("me")) == ()


def test_at_most_five_and_none_twice() -> None:
    nodes = [node(f"n{n}", f"tcp://n{n}:1", f"tcp://n{n}:2") for n in range(20)]
    found = places(*nodes)
    assert len({url.split(":")[1] for url in found}) == len(found) == 5


def test_processes_that_share_an_address_are_one_place() -> None:
    shared = [node(f"n{n}", "tcp://gw:7901") for n in range(9)]
    assert places(*shared, node("me", "tcp://gw:7901")) == ("tcp://gw:7901",)
    assert set(places(*shared, node("other"))) == {"tcp://gw:7901", "tcp://other:7901"}


def test_our_own_region_comes_first() -> None:
    nodes = [
        node("me", region="eu"),
        *(node(f"us{n}", region="us") for n in range(9)),
        node("eu", region="eu"),
    ]
    for seed in range(20):
        assert places(*nodes, seed=seed)[0] == "tcp://eu:7901"


def test_with_encryption_if_the_client_has_it() -> None:
    both = node("both", "tcp://both:1", "tls://both:2")
    assert places(both) == ("tcp://both:1",)
    assert places(both, secure=True) == ("tls://both:2",)
    assert places(node("plain"), secure=True) == ("tcp://plain:7901",), (
        "the client leaves out what it must not use"
    )


def test_each_by_its_weight() -> None:
    random = Random(5).random
    nodes = [node("a", weight=100), node("b", weight=200), node("c", weight=100)]
    first = Counter(elsewhere(nodes, "me.1", "native", "tcp", False, random)[0] for _ in range(20_000))
    shares = [first[f"tcp://{name}:7901"] / 20_000 for name in "abc"]
    assert all(abs(share - due) < 0.02 for share, due in zip(shares, (0.25, 0.5, 0.25), strict=True)), shares
