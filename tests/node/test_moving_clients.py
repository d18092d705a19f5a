"""Clients of the SDK on two nodes under load: they move without a lost or repeated message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.client import Client, Received
from imgateway.client.router import Allocation, Place, RouterAway
from imgateway.core.retry import fixed
from imgateway.errors import LinkLost
from imgateway.frames import OutcomeCode
from imgateway.interfaces import Accept, ITransportAdapter, NodeInfo, NodeState, Served
from imgateway.testing.wires import connection_pair
from tests.node.cluster_rig import Cluster
from tests.node.rig import Rig


class Way:
    """One connection, as a rig carries it."""

    def __init__(self, rig: Rig, wire: Any, receiver: Any) -> None:
        self.client, self.server = connection_pair(True, 0)
        self.client.receiver = receiver
        self.link = rig.node.exchange.accept(self.server)
        if self.link is not None:
            self.server.receiver = self.link
            self.link.opened(wire)


@implementer(ITransportAdapter)
class Roads:
    """Connects to the node whose name is the URL's host."""

    name, schemes = "memory", ("memory",)

    def __init__(self, rigs: Mapping[str, Rig]) -> None:
        self.rigs = dict(rigs)
        self.dialled: list[str] = []

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        raise NotImplementedError

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        host = url.partition("://")[2].partition(":")[0]
        self.dialled.append(host)
        rig = self.rigs.get(host)
        if rig is None:
            return fail(LinkLost(f"{host} is not there"))
        way = Way(rig, wire, receiver)
        if way.link is None:
            return fail(LinkLost("accepts nobody"))
        rig.peers.append(way)  # type: ignore[arg-type]
        receiver.opened(wire)
        return succeed(way.client)


class FakeRouter:
    secure = False

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.asked = 0

    async def allocate(self, token: str) -> Allocation:
        self.asked += 1
        ready = [node for node in self.cluster.infos.values() if node.state is NodeState.READY]
        if not ready:
            raise RouterAway("no node is ready", 1.0)
        return Allocation(tuple(Place(node.served[0].url) for node in ready))


class Town:
    def __init__(self, *names: str) -> None:
        self.cluster = Cluster(*names)
        for name in names:
            served = (Served("native", "memory", f"tcp://{name}:7901"),)
            self.cluster.infos[f"{name}.1"] = NodeInfo(name, f"{name}.1", served=served)
        self.roads = Roads(dict(zip(names, self.cluster.rigs, strict=True)))
        self.router = FakeRouter(self.cluster)
        self.clients: dict[str, Client] = {}
        self.got: dict[str, list[tuple[str, str]]] = {}
        self.outcomes: list[Any] = []
        self.sent = 0

    def client(self, user: str, url: str = "", **options: Any) -> Client:
        got = self.got[user] = []

        def on_message(one: Received) -> None:
            got.append((one.message.sender, one.message.body.decode()))

        where = {"url": url} if url else {"router": self.router}
        client = self.clients[user] = Client(
            token=user,
            device="phone",
            transport=self.roads,
            backoff=fixed(1.0),
            reactor=self.cluster.clock,
            on_message=on_message,
            **where,
            **options,
        )
        client.start().addErrback(lambda failure: self.outcomes.append(failure.value))
        self.cluster.settle()
        return client

    def everybody_writes(self) -> None:
        """A message from each to the next one; they are numbered by sender."""
        self.sent += 1
        users = list(self.clients)
        for n, user in enumerate(users):
            to = users[(n + 1) % len(users)]
            self.clients[user].publish(f"user:{to}", str(self.sent)).addBoth(self.outcomes.append)

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.cluster.wall_ms += 50
            self.cluster.clock.advance(0.05)
            self.cluster.settle()

    def check(self) -> None:
        users = list(self.clients)
        for n, user in enumerate(users):
            expected = [(users[n - 1], str(number)) for number in range(1, self.sent + 1)]
            assert self.got[user] == expected, user
        assert len(self.outcomes) == self.sent * len(users)
        assert {one[0].code for one in self.outcomes} <= {OutcomeCode.OK, OutcomeCode.DUPLICATE}

    def end(self) -> None:
        for client in self.clients.values():
            client.close(0)
        self.pass_s(1)


def test_a_drain_under_load_loses_and_repeats_nothing() -> None:
    town = Town("a", "b")
    assert verifyObject(ITransportAdapter, town.roads)
    a, b = town.cluster.rigs
    for n in range(40):
        town.client(f"u{n}", "tcp://a:7901")
    assert len(a.hub.sessions) == 40
    town.everybody_writes()
    a.node.drain("a.1", 20)
    for step in range(60):
        if step % 3 == 0:
            town.everybody_writes()
        town.pass_s(0.05)
    assert a.node.leaving == 0
    town.pass_s(3)
    assert (len(a.hub.sessions), len(b.hub.sessions)) == (0, 40)
    town.check()
    assert town.roads.dialled == ["a"] * 40 + ["b"] * 40, "each went once, and to the right place"
    town.end()


def test_a_drain_that_is_called_off_and_one_back() -> None:
    town = Town("a", "b")
    a, b = town.cluster.rigs
    for n in range(20):
        town.client(f"u{n}", "tcp://a:7901")
    a.node.drain("a.1", 20)
    for _ in range(10):
        town.everybody_writes()
        town.pass_s(0.05)
    a.node.undrain("a.1")
    town.pass_s(2)
    here, there = len(a.hub.sessions), len(b.hub.sessions)
    assert here + there == 20
    assert 8 <= here <= 12
    b.node.drain("b.1", 100)
    for _ in range(10):
        town.everybody_writes()
        town.pass_s(0.1)
    town.pass_s(2)
    assert (len(a.hub.sessions), len(b.hub.sessions)) == (20, 0)
    town.check()
    town.end()


def test_a_node_that_dies_under_load() -> None:
    town = Town("a", "b")  # and the router has not heard of it
    a, b = town.cluster.rigs
    for n in range(10):
        town.client(f"u{n}")
    assert len(a.hub.sessions) == 10
    town.everybody_writes()
    town.cluster.facets[0].die()
    del town.roads.rigs["a"]
    for way in list(a.peers):
        way.client.lose("the process is gone")
    town.everybody_writes()
    town.pass_s(5)
    assert {client.connected for client in town.clients.values()} == {True}
    town.check()
    assert len(b.hub.sessions) == 10
    assert town.router.asked == 10, "the router named the other one as well"
    town.end()


def test_two_drains_and_a_router() -> None:
    """The last node names no other; a while later the router does."""
    town = Town("a", "b")
    a, b = town.cluster.rigs
    for n in range(10):
        town.client(f"u{n}")
    town.cluster.infos["b.1"] = NodeInfo("b", "b.1", NodeState.DRAINING, town.cluster.infos["b.1"].served)
    a.node.drain("a.1", 100)
    town.cluster.infos["a.1"] = NodeInfo("a", "a.1", NodeState.DRAINING, town.cluster.infos["a.1"].served)
    town.everybody_writes()
    town.pass_s(6)
    assert {client.connected for client in town.clients.values()} == {False}
    town.everybody_writes()
    town.cluster.infos["b.1"] = NodeInfo("b", "b.1", NodeState.READY, town.cluster.infos["b.1"].served)
    town.pass_s(8)
    assert len(b.hub.sessions) == 10
    town.check()
    town.end()
