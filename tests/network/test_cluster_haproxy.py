"""Two real nodes on a real Redis behind a real HAProxy, each with the file that deploy/ has for it."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import threads

from imgateway.errors import CloseCode
from imgateway.frames import Bye, Hello
from imgateway.protocols.native import NativeAdapter
from imgateway.router.keys import entry_of, make_key
from tests.brokers.redis_server import RedisServer

from .flows import Flow, Listener
from .nodes import DEADLINE_S, Node, Ports, eventually, holding_ports, soon, until

pytestmark = [pytest.mark.network, pytest.mark.server]

DEPLOY = Path(__file__).parents[2] / "deploy"
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
LIMITS = ("--set", "retention.entries=1000000", "--set", "quota.pair_rate=0")
KILLS = 3


class Redis(RedisServer):
    """With the settings that a cluster's has."""

    def command(self) -> list[str]:
        program, *options = super().command()
        return [program, str(DEPLOY / "redis.conf"), *options]


class House:
    """The nodes a and b, and HAProxy, whose ports are `tcp` and `ws`."""

    def __init__(self, place: Path, ports: Ports) -> None:
        self.place = place
        self.redis = Redis(place / "redis", "--daemonize", "no")
        self.key, key = make_key("ops", ["*"], rate=0.0)
        (place / "keys.toml").write_text(entry_of(key))
        listen = (
            "native+tcp:haproxy:tcp:{tcp}:interface=127.0.0.1",
            "native,json+websocket:haproxy:tcp:{ws}:interface=127.0.0.1",
        )
        cluster = ("--broker", self.redis.url, "--registry", self.redis.url)
        self.nodes: dict[str, Node] = {}
        for name, more in (("a", ()), ("b", ("--keys", str(place / "keys.toml")))):
            (place / name).mkdir()
            options = ("--node", name, *cluster, *LIMITS, *more)
            self.nodes[name] = Node(place / name, ports, options, listen)
        self.a, self.b = self.nodes.values()
        self.b.data = self.a.data  # one secret for both
        self.tcp, self.ws, self.stats = ports.take(), ports.take(), ports.take()
        self._haproxy: subprocess.Popen[bytes] | None = None

    def start(self) -> House:
        self.a.token("x")  # makes the secret
        for node in self.nodes.values():
            node.begin()
        for node in self.nodes.values():
            eventually(node.ready, what="a node's readiness")
        assert HAPROXY is not None, "install it with:  sudo apt-get install haproxy"
        environment = {
            "CLIENTS_TCP": f"127.0.0.1:{self.tcp}",
            "CLIENTS_WS": f"127.0.0.1:{self.ws}",
            "STATS": f"127.0.0.1:{self.stats}",
        }
        for name, node in self.nodes.items():
            environment[f"{name.upper()}_TCP"] = f"127.0.0.1:{node.tcp}"
            environment[f"{name.upper()}_WS"] = f"127.0.0.1:{node.ws}"
            environment[f"{name.upper()}_HTTP"] = str(node.http)
        with (self.place / "haproxy.log").open("wb") as log:
            command = [HAPROXY, "-db", "-f", str(DEPLOY / "haproxy.cfg")]
            self._haproxy = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(lambda: self.rotation() == {"a", "b"}, what="both in HAProxy's rotation")
        return self

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()
        if self._haproxy is not None:
            self._haproxy.terminate()
            self._haproxy.wait(DEADLINE_S)
        self.redis.stop()

    @property
    def urls(self) -> tuple[str, str]:
        return f"tcp://127.0.0.1:{self.tcp}", f"ws://127.0.0.1:{self.ws}"

    def rotation(self) -> set[str]:
        """The nodes to which HAProxy gives clients; it says the same of TCP and of WebSocket."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.stats}/;csv", timeout=5) as answer:
                rows = list(csv.DictReader(answer.read().decode().removeprefix("# ").splitlines()))
        except OSError:
            return set()
        up = {
            (row["pxname"], row["svname"])
            for row in rows
            if row["status"].startswith("UP") and row["svname"] in self.nodes
        }
        tcp, ws = ({node for kind, node in up if kind == what} for what in ("tcp", "websocket"))
        return tcp & ws if tcp == ws else set()

    def post(self, path: str) -> int:
        """At b's API."""
        headers = {"Authorization": f"Bearer {self.key}"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.b.http}{path}", b"", headers, method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.status)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with holding_ports() as ports:
        house = House(tmp_path, ports)
        try:
            yield house.start()
        finally:
            house.end()


async def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """What blocks, while the test's clients go on."""
    return await until(threads.deferToThread(function, *arguments))


# --------------------------------------------------------------------------------------- who is it that comes


def nodes_that_saw(house: House, peer: str) -> set[str]:
    """The nodes whose logs name this peer."""
    return {
        name for name, node in house.nodes.items() if any(peer in str(record) for record in node.records())
    }


def as_websocket(frame: bytes) -> bytes:
    """A greeting over WebSocket: the upgrade, then one masked binary message; the mask is 0."""
    head = (
        "GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: imgateway.v1.protobuf\r\n\r\n"
    )
    assert len(frame) < 126
    return head.encode() + struct.pack("!BB4x", 0x82, 0x80 | len(frame)) + frame


def test_the_nodes_see_where_clients_come_from(house: House) -> None:
    hello = Hello("nonsense", "x")  # what fails is logged with its peer
    stream = NativeAdapter().codec(True, 1_048_576).encode(hello)
    message = NativeAdapter().codec(False, 1_048_576).encode(hello)
    assert stream is not None
    assert message is not None
    came: list[str] = []
    for port, data in ((house.tcp, stream), (house.ws, as_websocket(message))):
        for number in range(6):
            source = f"127.0.0.{100 + number}"
            with socket.create_connection(("127.0.0.1", port), 5, (source, 0)) as peer:
                came.append(f"{source}:{peer.getsockname()[1]}")
                peer.sendall(data)
                answer = b""
                while more := peer.recv(65_536):
                    answer += more
            if port == house.tcp:
                (bye,) = NativeAdapter().codec(True, 1_048_576).receive(answer)
                assert isinstance(bye, Bye)
    seen = [nodes_that_saw(house, peer) for peer in came]
    assert all(len(nodes) == 1 for nodes in seen)
    # Both kinds are spread over both nodes.
    assert set.union(*seen[:6]) == set.union(*seen[6:]) == {"a", "b"}


# ------------------------------------------------------------------------------------------------------ drain


@pytest_twisted.ensureDeferred
async def test_a_node_that_drains_leaves_the_rotation_and_loses_nothing(house: House) -> None:
    flow = Flow(house.a, house.place, house.urls)
    others = [Listener(house.a, f"u{number}", None, house.urls[number % 2]) for number in range(12)]
    flow.go()
    try:
        await soon(lambda: flow.acked > 200, what="load")
        for node in (house.a, house.b):
            await soon(lambda node=node: node.measure("imgateway_links_open") > 2, what="clients at both")
        assert await aside(house.post, "/v1/nodes/a/drain?rate=50") == 202
        begun = time.monotonic()
        await soon(lambda: house.rotation() == {"b"}, what="HAProxy's notice")
        assert (await aside(house.a.ask, "readyz"))[0] == 503
        noticed = time.monotonic() - begun
        # Nobody was cut off, everybody was asked to go: all are at b.
        await soon(lambda: house.a.measure("imgateway_links_open") == 0, what="that all have gone")
        before = flow.acked
        await soon(lambda: flow.acked > before + 200, what="load on the other node")
        downs = [down for one in (flow.listener, *others) for down in one.downs]
        assert {code for code, _ in downs} <= {CloseCode.GOING_AWAY}
        accepted = "imgateway_links_accepted_total"
        at_a, at_b = [await aside(node.measure, accepted) for node in (house.a, house.b)]
        for number in range(6):
            socket.create_connection(("127.0.0.1", (house.tcp, house.ws)[number % 2]), 5).close()
        await soon(lambda: house.b.measure(accepted) >= at_b + 6, what="that the other one gets all")
        assert await aside(house.a.measure, accepted) == at_a
        assert await aside(house.post, "/v1/nodes/a/undrain") == 202
        await soon(lambda: house.rotation() == {"a", "b"}, what="its return")
        late = Listener(house.a, "late", None, house.urls[0])
        others.append(late)
        await soon(lambda: house.a.measure("imgateway_links_open") > 0, what="a client for it")
        await flow.stop()
        flow.check()
        print(f"HAProxy had taken the draining node out after {noticed:.2f} s")
    finally:
        await flow.close()
        for one in others:
            await until(one.client.close(1.0))


# ------------------------------------------------------------------------------------------------------- kill


@pytest_twisted.ensureDeferred
async def test_killed_nodes_lose_nothing_and_clients_come_back(house: House) -> None:
    flow = Flow(house.a, house.place, house.urls)
    flow.go()
    took: list[float] = []
    try:
        for kill in range(KILLS):
            before = flow.acked
            await soon(lambda before=before: flow.acked > before + 100, what="load")
            dead = house.b if kill % 2 else house.a
            shown = len(flow.listener.shown)
            dead.kill()
            at = time.monotonic()
            # Through the other one, while this one is dead.
            await soon(lambda shown=shown: len(flow.listener.shown) > shown + 100, what="that it goes on")
            took.append(time.monotonic() - at)
            await soon(lambda: len(house.rotation()) == 1, what="HAProxy's notice")
            await dead.started()
            await soon(lambda: house.rotation() == {"a", "b"}, what="its return")
        await flow.stop()
        flow.check()
        assert flow.acked > KILLS * 100
        assert len(flow.listener.downs) + len(took) > KILLS
        print("messages flowed again after " + ", ".join(f"{seconds:.2f} s" for seconds in took))
    finally:
        await flow.close()
