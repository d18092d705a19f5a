"""A cluster under load while its parts are killed: what was acknowledged is shown once and in order, and how
long it takes until deliveries flow again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import task
from twisted.internet.defer import ensureDeferred, gatherResults

from imgateway.client import Client, Gap
from imgateway.errors import CloseCode, ConnectRefused
from tests.brokers.redis_server import RedisServer
from tests.network.clusters import START_S, Cluster, Figures, Forwarder, Pair, Pusher, Reader, Traffic
from tests.network.nodes import holding_ports, soon, until
from tests.registries.zookeeper_server import ZooKeeperServer

pytestmark = [pytest.mark.network, pytest.mark.server]

KILLS = 10
AWAY_S = 30.0
FAILOVERS = 3


@pytest.fixture(scope="module")
def figures(record_testsuite_property: Any) -> Iterator[Figures]:
    figures = Figures()
    yield figures
    table = "\n".join(figures)
    record_testsuite_property("recovery", table)
    print(f"\n\n{table}\n")


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, RedisServer]]:
    """Two nodes and a router; Redis is broker and registry."""
    place = tmp_path_factory.mktemp("redis")
    redis = RedisServer(place / "server")
    with holding_ports() as ports:
        cluster = Cluster(place, ports, redis.url, redis.url)
        try:
            cluster.node("a")
            cluster.node("b")
            cluster.door("r")
            pytest_twisted.blockon(ensureDeferred(cluster.start()))
            yield cluster, redis
        finally:
            cluster.end()
            redis.stop()


@pytest.fixture(scope="module")
def keeper_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, ZooKeeperServer]]:
    """Three nodes, each with its login policy, and two routers; ZooKeeper is the registry."""
    place = tmp_path_factory.mktemp("keeper")
    redis = RedisServer(place / "server")
    keeper = ZooKeeperServer(place / "keeper")
    with holding_ports() as ports:
        cluster = Cluster(place, ports, redis.url, f"zookeeper://{keeper.hosts}/im")
        try:
            for policy in ("one", "one-per-platform", "refuse"):
                cluster.node(policy, "--set", f"session.login_policy={policy}")
            cluster.door("r1")
            cluster.door("r2")
            pytest_twisted.blockon(ensureDeferred(cluster.start()))
            yield cluster, keeper
        finally:
            cluster.end()
            keeper.stop()
            redis.stop()


@pytest.fixture(autouse=True)
def _hung_up() -> Iterator[None]:
    """A link that the gateway ends is closed by the gateway, which may be busy."""
    yield
    from twisted.internet import reactor

    calls = reactor.getDelayedCalls  # type: ignore[attr-defined]
    pytest_twisted.blockon(ensureDeferred(soon(lambda: not calls(), what="the end of all links")))


async def sleep(seconds: float) -> None:
    from twisted.internet import reactor

    await task.deferLater(reactor, seconds)  # type: ignore[arg-type]


def all_ways(cluster: Cluster) -> Traffic:
    """Senders and receivers who stay at their node, who may move, and who ask the router."""
    a, b, router = cluster.nodes["a"].url, cluster.nodes["b"].url, cluster.doors["r"].url
    return Traffic(
        Pair(cluster, "a-b", [a], [b]),
        Pair(cluster, "b-a", [b], [a]),
        Pair(cluster, "moving", [a, b], [b, a]),
        Pair(cluster, "moving-too", [b, a], [a, b]),
        Pair(cluster, "routed", [router], [router]),
    )


MOVING = ("moving", "moving-too", "routed")


async def whole(traffic: Traffic) -> None:
    """All has its outcome and was shown as promised."""
    await traffic.stop()
    await traffic.drained()
    traffic.check()


@pytest_twisted.ensureDeferred
async def test_nodes_are_killed(redis_cluster: tuple[Cluster, RedisServer], figures: Figures) -> None:
    random, (cluster, _) = Random(1), redis_cluster
    traffic = all_ways(cluster)
    try:
        await traffic.go()
        for number in range(KILLS):
            victim = cluster.nodes["ab"[number % 2]]  # the one that the moving clients have fled to
            await sleep(random.uniform(0.0, 0.15))
            began = traffic.mark()
            victim.kill()
            victim.begin()
            await traffic.flowing(*MOVING)
            figures.add("node, kill -9", "clients that may move flow", time.monotonic() - began)
            await traffic.flowing()
            figures.add("node, kill -9", "it is back, and its own flow", time.monotonic() - began)
            await soon(victim.ready, START_S, "the node's readiness")
        await whole(traffic)
        assert len(traffic.downs) >= 2 * KILLS
        figures.more.append(f"\nMessages while nodes were killed: {traffic.acked}.")
    finally:
        await traffic.close()


@pytest_twisted.ensureDeferred
async def test_redis_is_killed(redis_cluster: tuple[Cluster, RedisServer], figures: Figures) -> None:
    random, (cluster, redis) = Random(2), redis_cluster
    traffic = all_ways(cluster)
    try:
        await traffic.go()
        early = traffic.downs  # who came before the router knew a node was told to come again
        for _ in range(KILLS):
            await sleep(random.uniform(0.0, 0.15))
            redis.kill9()
            began = traffic.mark()
            await sleep(random.uniform(0.0, 0.3))
            redis.restart()
            back = time.monotonic()
            await traffic.flowing()
            figures.add("redis-server, kill -9", "all flow", time.monotonic() - began)
            figures.add("redis-server, kill -9", "the same, since it answers again", time.monotonic() - back)
        await whole(traffic)
        assert traffic.downs == early
        figures.more.append(f"Messages while redis-server was killed: {traffic.acked}.")
    finally:
        await traffic.close()


@pytest_twisted.ensureDeferred
async def test_redis_stands_still(redis_cluster: tuple[Cluster, RedisServer], figures: Figures) -> None:
    """Nobody's link breaks, although clients ask every 5 s whether their node lives."""
    cluster, redis = redis_cluster
    traffic = all_ways(cluster)
    try:
        await traffic.go()
        early = traffic.downs  # who came before the router knew a node was told to come again
        for pair in traffic.pairs:
            await until(pair.reader.client.subscribe("room:hall"))
        redis.freeze()
        try:
            await sleep(AWAY_S)
        finally:
            redis.thaw()
        began = traffic.mark()
        await traffic.flowing()
        figures.add("redis-server, stopped for 30 s", "all flow, since it goes on", time.monotonic() - began)
        assert traffic.downs == early
        await traffic.stop()
        # The nodes' leases ran out meanwhile: nobody was put out of a room for it.
        (outcome,) = await until(traffic.pairs[0].publisher.client.publish("room:hall", "all there?"))
        assert outcome.code == 0
        for pair in traffic.pairs:
            await soon(
                lambda pair=pair: pair.reader.shown[-1][0] == b"all there?", what=f"the room at {pair.name}"
            )
            pair.reader.shown.pop()
        await traffic.drained()
        traffic.check()
    finally:
        await traffic.close()


# ------------------------------------------------------------------------------- two routers, and ZooKeeper


@pytest_twisted.ensureDeferred
async def test_routers_and_zookeeper_are_killed(
    keeper_cluster: tuple[Cluster, ZooKeeperServer], figures: Figures
) -> None:
    random, (cluster, keeper) = Random(3), keeper_cluster
    doors = [cluster.doors[name] for name in ("r1", "r2")]
    urls = [node.url for node in cluster.nodes.values()]
    traffic = Traffic(
        Pair(cluster, "routed", [door.url for door in doors], [door.url for door in reversed(doors)]),
        Pair(cluster, "across", urls[:1], urls[1:2]),
    )
    pushers = [
        Pusher(cluster, f"pushed-{number}", names, [doors[0].url, doors[1].url])
        for number, names in enumerate((["r1", "r2"], ["r2", "r1"]))
    ]
    try:
        await soon(lambda: all(pusher.reader.client.connected for pusher in pushers), what="the receivers")
        await traffic.go()
        for pusher in pushers:
            pusher.go()
        for number in range(KILLS):
            victim = doors[number % 2]
            await sleep(random.uniform(0.0, 0.1))
            began = traffic.mark()
            for pusher in pushers:
                pusher.mark()
            victim.kill()
            await soon(lambda: all(pusher.flows for pusher in pushers), what="pushes through the other")
            figures.add("router, kill -9", "pushes flow through the other", time.monotonic() - began)
            began = traffic.mark()
            keeper.kill9()
            await traffic.flowing()
            figures.add("ZooKeeper, kill -9", "all flow", time.monotonic() - began)
            # Who is known stays known, and can be found.
            other = doors[1 - number % 2].directory.name
            assert cluster.knows(other) == set(cluster.nodes)
            victim.begin()
            began = time.monotonic()
            keeper.begin()
            # It is ready when it has read the registry.
            await soon(victim.ready, START_S, "the router")
            name = victim.directory.name
            await soon(lambda name=name: cluster.knows(name) == set(cluster.nodes), what="the nodes")
            figures.add(
                "ZooKeeper and router, restarted", "the router knows all nodes", time.monotonic() - began
            )
        for pusher in pushers:
            await pusher.stop()
        await whole(traffic)
        assert traffic.downs == []
        for pusher in pushers:
            pusher.check()
        again = sum(pusher.again for pusher in pushers)
        figures.more.append(
            f"Pushes while routers were killed: {sum(pusher.begun for pusher in pushers)}, "
            f"{again} of them asked again of the other."
        )
        assert again >= KILLS / 2
    finally:
        for pusher in pushers:
            await pusher.close()
        await traffic.close()


@pytest_twisted.ensureDeferred
async def test_what_is_pushed_through_two_routers_at_once_arrives_once(
    keeper_cluster: tuple[Cluster, ZooKeeperServer],
) -> None:
    cluster, _ = keeper_cluster
    nodes = list(cluster.nodes.values())
    readers = [Reader(nodes[0], f"twice-{node.directory.name}", None, node.url) for node in nodes]
    to = [f"user:twice-{node.directory.name}" for node in nodes]
    try:
        for number in range(100):
            body = {"to": to, "text": str(number), "msg_id": f"twice-{number}"}
            answers = await gatherResults(
                [cluster.asking(name, "POST", "/v1/push", body) for name in ("r1", "r2")]
            )
            assert [status for status, _ in answers] == [200, 200]
            for one, two in zip(*(told["outcomes"] for _, told in answers), strict=True):
                assert sorted((one["code"], two["code"])) == ["DUPLICATE", "OK"]
                assert one["seq"] == two["seq"] == number + 1
        for reader in readers:
            await soon(lambda reader=reader: len(reader.shown) >= 100, what="the last")
            assert reader.shown == [(b"%d" % number, number + 1) for number in range(100)]
            assert reader.gaps == []
    finally:
        for reader in readers:
            await until(reader.client.close(1.0))


class Seat:
    """A client whose end is written down."""

    def __init__(self, cluster: Cluster, node: str, user: str, device: str, platform: str = "") -> None:
        self.over: list[int] = []
        self.client = Client(
            cluster.nodes[node].url,
            token=cluster.nodes[node].token(user),
            device=device,
            platform=platform,
            on_message=lambda received: None,
            backoff=lambda attempt: 0.05,
        )
        self.client.when_closed().addCallbacks(lambda _: self.over.append(0), self._refused)

    def _refused(self, failure: Any) -> None:
        self.over.append(failure.trap(ConnectRefused) and failure.value.code)

    async def taken(self) -> Seat:
        await until(self.client.start())
        return self

    async def ends(self, code: CloseCode) -> None:
        await soon(lambda: self.over, what=f"an end with {code.name}")
        assert self.over == [code]

    async def close(self) -> None:
        if not self.over:
            await until(self.client.close(1.0))


@pytest_twisted.ensureDeferred
async def test_login_policies_count_across_nodes(keeper_cluster: tuple[Cluster, ZooKeeperServer]) -> None:
    cluster, _ = keeper_cluster
    seats: list[Seat] = []

    async def seat(*place: str) -> Seat:
        seats.append(Seat(cluster, *place))
        return await seats[-1].taken()

    try:
        # The node where one logs in says what becomes of the others.
        phone = await seat("refuse", "ann", "phone")
        pad = await seat("one", "ann", "pad")
        await phone.ends(CloseCode.DISPLACED)
        again = await seat("one-per-platform", "ann", "pad")  # the same device, elsewhere
        await pad.ends(CloseCode.REPLACED)
        assert again.client.connected

        old = await seat("one", "ben", "old", "ios")
        desk = await seat("one-per-platform", "ben", "desk", "web")
        new = await seat("one-per-platform", "ben", "new", "ios")
        await old.ends(CloseCode.DISPLACED)

        first = await seat("one", "cleo", "phone")
        with pytest.raises(ConnectRefused) as refused:
            await seat("refuse", "cleo", "pad")
        assert refused.value.code == CloseCode.LOGIN_CONFLICT
        for one in (again, desk, new, first):
            assert one.client.connected
            assert one.over == []
        for user, devices in (("ann", {"pad"}), ("ben", {"desk", "new"}), ("cleo", {"phone"})):
            _, told = await cluster.asking("r1", "GET", f"/v1/users/{user}/sessions")
            assert {one["device"] for one in told["sessions"] if one["online"]} == devices
        await until(first.client.close())
        await seat("refuse", "cleo", "pad")  # now the seat is free
    finally:
        for one in seats:
            await one.close()


@pytest_twisted.ensureDeferred
async def test_kicked_asked_and_revoked_wherever_they_are(
    keeper_cluster: tuple[Cluster, ZooKeeperServer],
) -> None:
    cluster, _ = keeper_cluster
    phone = Seat(cluster, "one-per-platform", "dora", "phone", "ios")
    pad = Seat(cluster, "one-per-platform", "dora", "pad", "web")
    eva = Seat(cluster, "one", "eva", "phone")
    try:
        await phone.taken()
        await pad.taken()
        await eva.taken()
        for seat in (phone, pad, eva):
            name = seat.client.welcome.session if seat.client.welcome else ""
            seat.client.on_request = lambda request, name=name: f"{name} {request.method}".encode()
        asked = {"device": "pad", "service": "where", "method": "now", "text": "?"}
        for door in ("r1", "r2"):
            status, told = await cluster.asking(door, "POST", "/v1/request", {"user": "dora", **asked})
            assert (status, told["code"]) == (200, 0)
            assert told["text"] == f"{pad.client.welcome.session} now"  # type: ignore[union-attr]
        status, _ = await cluster.asking("r1", "POST", "/v1/request", {"user": "nobody", **asked})
        assert status >= 400

        assert (await cluster.asking("r2", "DELETE", "/v1/users/dora/sessions/phone"))[1]["kicked"] == 1
        await phone.ends(CloseCode.KICKED)
        assert pad.client.connected
        assert (await cluster.asking("r1", "DELETE", "/v1/users/dora/sessions"))[1]["kicked"] == 1
        await pad.ends(CloseCode.KICKED)

        later = int(time.time()) + 60
        status, _ = await cluster.asking("r2", "POST", "/v1/users/eva/revoke", {"not_before_s": later})
        assert status == 200
        await eva.ends(CloseCode.REVOKED)
        for node in cluster.nodes:
            with pytest.raises(ConnectRefused) as refused:
                await Seat(cluster, node, "eva", "phone").taken()
            assert refused.value.code == CloseCode.REVOKED
    finally:
        for seat in (phone, pad, eva):
            await seat.close()


# ------------------------------------------------------------------------------------- a promoted replica


@pytest_twisted.ensureDeferred
async def test_promoted_replicas_that_miss_the_last_writes(tmp_path: Path, figures: Figures) -> None:
    servers = [RedisServer(tmp_path / "primary")]
    forwarder = Forwarder(servers[0].port)
    traffic = Traffic()
    away: Reader | None = None
    with holding_ports() as ports:
        cluster = Cluster(tmp_path, ports, f"redis://127.0.0.1:{forwarder.port}")
        a, b = cluster.node("a"), cluster.node("b")
        try:
            await cluster.start()
            traffic = Traffic(
                Pair(cluster, "a-b", [a.url], [b.url]),
                Pair(cluster, "b-a", [b.url], [a.url]),
                Pair(cluster, "at-a", [a.url], [a.url]),
            )
            await traffic.go()
            # Another device of a receiver, that is away whenever it happens.
            name, state = traffic.pairs[0].reader.client.user, tmp_path / "away"
            for number in range(FAILOVERS):
                events, shown = (away.events, away.shown) if away is not None else ([], [])
                away = Reader(a, name, state, [a.url, b.url][number % 2], device="away")
                away.events, away.shown = events, shown
                known = len(shown)
                await soon(
                    lambda shown=shown, known=known: len(shown) > known, what="what the other device is shown"
                )
                await until(away.client.close())
                primary, replica = servers[-1], RedisServer(tmp_path / f"replica{number}")
                servers.append(replica)
                replica.replica_of(primary)
                replica.cli("REPLICAOF", "127.0.0.1", 1)  # from here on it hears nothing
                seen = [len(pair.reader.shown) for pair in traffic.pairs]
                await soon(
                    lambda seen=seen: all(
                        len(pair.reader.shown) > shown + 15
                        for pair, shown in zip(traffic.pairs, seen, strict=True)
                    ),
                    what="what it will miss",
                )
                primary.kill9()
                replica.promote()
                began = traffic.mark()
                forwarder.lead_to(replica.port)
                await traffic.flowing()
                figures.add("primary lost, replica promoted", "all flow", time.monotonic() - began)
                for pair in traffic.pairs:
                    assert len(mailbox_gaps(pair.reader)) == number + 1, "the failover, and nothing else"
            back = Reader(b, name, state, b.url, device="away")
            back.events, back.shown = away.events, away.shown  # type: ignore[union-attr]
            away = back
            await sleep(0.2)
            await traffic.stop()
            for pair in traffic.pairs:
                await followed(pair.reader, pair)
            await followed(away, traffic.pairs[0])
        finally:
            if away is not None:
                await until(away.client.close(1.0))
            await traffic.close()
            try:
                await cluster.stop()  # their way to Redis leads through this process
            finally:
                cluster.end()
                await until(forwarder.close())
                for server in servers:
                    server.stop()


def mailbox_gaps(reader: Reader) -> list[Gap]:
    """Without those of what everybody is sent, which lived in the memory of the same server."""
    return [gap for gap in reader.gaps if gap.address.kind == "user"]


async def followed(reader: Reader, pair: Pair) -> None:
    """Shown from the start to the head, each once, in order; what is missing lies in a gap that was told."""
    sender = pair.publisher.user.encode()
    last = b"%s %d" % (sender, pair.publisher.begun - 1)
    await soon(lambda: last in dict(reader.shown), what=f"the last one at {pair.name}")
    bodies = [int(body.split()[1]) for body, _ in reader.shown]
    assert bodies == sorted(set(bodies)), "twice, or not in order"
    shown = dict(reader.shown)
    # What the sender had no answer for when the primary died is in the log again, and not shown again.
    repeated = {seq for body, seq in pair.publisher.acked.items() if shown.get(body, seq) != seq}
    told: list[tuple[int, int]] = []
    position = 0
    for event in reader.events:
        if isinstance(event, Gap):
            if event.address.kind == "user":
                assert position == event.after < event.upto
                told.append((event.after, event.upto))
            continue
        assert event.seq > position
        # Told before what comes behind it; what is left of a gap is shown.
        least = max([position, *(min(upto, event.seq - 1) for after, upto in told if after <= position)])
        hole = set(range(least + 1, event.seq))
        assert hole <= repeated, f"{sorted(hole)} are missing without a word; told: {told}"
        position = event.seq
    history = await until(reader.client.history(f"user:{reader.client.user}", position - 1))
    assert (history.head, history.messages[-1].seq) == (position, position)
    for number in range(pair.publisher.begun):
        body = b"%s %d" % (sender, number)
        if body not in shown:
            seq = pair.publisher.acked[body]
            assert any(after < seq <= upto for after, upto in told), f"{body!r} went lost without a word"
