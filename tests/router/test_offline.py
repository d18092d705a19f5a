"""Messages that a router stored for who is away: the session listeners of one node are told."""

from __future__ import annotations

import pytest

from imgateway.frames import LogKey, Message, parse_address
from imgateway.interfaces import NodeInfo
from imgateway.router import offline
from tests.node.rig import Diary
from tests.router.test_gateway import Place

BOB = parse_address("user:bob")


class Town:
    """A cluster whose nodes `hearing` have session listeners, and a router of it."""

    def __init__(self, hearing: str) -> None:
        self.place = Place()
        self.diaries = {}
        for name, rig in (("a", self.place.a), ("b", self.place.b)):
            self.diaries[name] = diary = Diary()
            rig.hub._listeners = (diary,) if name in hearing else ()
            self.place.board.post(f"{name}.1", NodeInfo(name, f"{name}.1", hears=name in hearing))

    def store(self, *names: str, body: bytes = b"") -> None:
        """As a broker says it, in one turn."""
        for name in names:
            message = Message(name, "service:shop", "api", body=body)
            self.place.facet.listener.unattended(LogKey(BOB), message)

    def heard(self, node: str) -> list[str]:
        self.place.cluster.settle()
        return [event[2] for event in self.diaries[node].events if event[:2] == ("stored", BOB)]

    @property
    def said(self) -> int:
        return len(self.place.cluster.told)


def test_one_node_that_listens_is_told_and_of_several_each_in_turn() -> None:
    town = Town("ab")
    for n in range(4):
        town.store(f"{n}.1", f"{n}.2")
        town.place.cluster.settle()
    a, b = town.heard("a"), town.heard("b")
    assert sorted(a + b) == sorted(f"{n}.{m}" for n in range(4) for m in (1, 2))
    assert len(a) == len(b) == 4
    assert town.said == 4, "what comes in one turn is said at once"


def test_nodes_without_listeners_are_not_bothered() -> None:
    town = Town("b")
    town.store("1")
    assert (town.heard("a"), town.heard("b")) == ([], ["1"])
    town = Town("")
    town.store("1")
    assert (town.heard("a"), town.heard("b"), town.said) == ([], [], 0)


def test_of_a_node_that_has_just_died_another_hears() -> None:
    town = Town("ab")
    town.place.cluster.facets[0].die()
    for n in range(3):
        town.store(str(n))
        town.place.cluster.settle()
    assert town.heard("b") == ["0", "1", "2"]
    town.place.cluster.facets[1].die()
    town.store("3")
    assert (town.heard("a"), town.heard("b")) == ([], ["0", "1", "2"])


@pytest.mark.parametrize(("count", "size", "lines"), [(250, 10, 3), (4, 200_000, 2), (1, 300_000, 1)])
def test_so_much_at_a_time(count: int, size: int, lines: int) -> None:
    town = Town("a")
    names = [str(n) for n in range(count)]
    town.store(*names, body=b"x" * size)
    assert town.heard("a") == names
    assert town.said == lines
    assert offline.MOST == 100
