"""UDP over a bad line between real processes: kills, and a NAT that forgets; what was promised holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from twisted.internet import task

from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.config import UdpSettings
from tests.network.flows import Flow, Listener
from tests.network.links import Running, running
from tests.network.nodes import Node, soon, until
from tests.network.test_kill import LIMITS, PUBLISHER

pytestmark = pytest.mark.network

BAD = ("--loss", "20%", "--duplicate", "5%", "--reorder", "10%", "--delay", "15ms~5ms", "--seed", "7")
NODE_KILLS, CLIENT_KILLS = 3, 3
HEARTBEAT = ("--set", "session.heartbeat_s=2", "--set", "session.dead_s=20")
"""Who only listens notices with its next heartbeat that the node, or its own address, is another."""


class WithKeys:
    """A node whose tokens come with their UDP key."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def token(self, user: str, service: bool = False) -> str:
        token = self.node.token(user, service)
        return with_udp_key(token, load_udp_secret(UdpSettings(), str(self.node.data)))


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(options=(*LIMITS, *HEARTBEAT), listen=("native+udp:127.0.0.1:{tcp}",))


@pytest.fixture
def link(node: Node, request: pytest.FixtureRequest) -> Iterator[Running]:
    options = getattr(request, "param", BAD)
    with running("--listen", "udp:0", "--to", f"udp:127.0.0.1:{node.tcp}", *options) as link:
        yield link


def url_of(link: Running) -> str:
    return f"udp://127.0.0.1:{link.place[1]}"


async def load(flow: Flow) -> None:
    """Until something more was acknowledged, and something more was delivered."""
    acked, shown = flow.acked + 20, len(flow.listener.shown) + 20
    await soon(lambda: flow.acked > acked and len(flow.listener.shown) > shown, what="load")


@pytest_twisted.ensureDeferred
async def test_the_node_killed_during_loss(node: Node, link: Running, tmp_path: Path) -> None:
    from twisted.internet import reactor

    random = Random(4)
    await node.started()
    flow = Flow(WithKeys(node), tmp_path, (url_of(link), url_of(link)))  # type: ignore[arg-type]
    flow.go()
    try:
        for _ in range(NODE_KILLS):
            await load(flow)
            await task.deferLater(reactor, random.uniform(0.0, 0.15))  # type: ignore[arg-type]
            node.kill()
            await node.started()
        await load(flow)
        await flow.stop()
        flow.check()
        assert len(flow.listener.downs) >= NODE_KILLS
    finally:
        await flow.close()
    found = link.end()
    assert min(found["up"]["lost"], found["down"]["lost"]) > 5


@pytest_twisted.ensureDeferred
async def test_the_client_killed_during_loss(node: Node, link: Running, tmp_path: Path) -> None:
    random = Random(6)
    await node.started()
    keys = WithKeys(node)
    listener = Listener(keys, "bob", None, url_of(link))  # type: ignore[arg-type]
    token, outbox = keys.token("alice", service=True), str(tmp_path / "outbox")
    arguments = [sys.executable, "-c", PUBLISHER, url_of(link), token, outbox]
    acked: dict[int, int] = {}
    try:
        for run in range(CLIENT_KILLS):
            path = tmp_path / f"out{run}"
            with path.open("w") as out:
                process = subprocess.Popen([*arguments, str(run), "100000"], stdout=out)
            try:
                enough = random.randrange(20, 60)
                await soon(lambda path=path, n=enough: path.read_text().count("\n") > n, what="load")
            finally:
                process.kill()
                process.wait(10)
            acked[run] = path.read_text().count("\n")
        last = subprocess.Popen([*arguments, "last", "0"])
        await soon(lambda: last.poll() is not None, what="the last run")
        assert last.returncode == 0
        await soon(lambda: len(listener.shown) >= sum(acked.values()), what="deliveries")
        assert listener.gaps == []
        shown = [tuple(map(int, body.split())) for body, _ in listener.shown]
        assert [run for run, _ in shown] == sorted(run for run, _ in shown)
        for run, count in acked.items():
            numbers = [number for of, number in shown if of == run]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= count > 0
    finally:
        await until(listener.client.close())


SCRIPT = """
at 1s  rebind
at 3s  rebind
"""


@pytest_twisted.ensureDeferred
async def test_a_nat_that_forgets(node: Node, tmp_path: Path) -> None:
    """Twice every client comes from another port: nobody notices, nothing is lost."""
    from twisted.internet import reactor

    (tmp_path / "nat.txt").write_text(SCRIPT)
    await node.started()
    options = ("--script", str(tmp_path / "nat.txt"), "--delay", "10ms")
    with running("--listen", "udp:0", "--to", f"udp:127.0.0.1:{node.tcp}", *options) as link:
        flow = Flow(WithKeys(node), tmp_path, (url_of(link),))  # type: ignore[arg-type]
        flow.go()
        try:
            reasons: list[str] = []
            flow.publishers[0].client.on_down = lambda code, reason: reasons.append(reason)
            await load(flow)
            logins = node.measure("imgateway_logins_total")
            await task.deferLater(reactor, 3.5)  # type: ignore[arg-type]
            await load(flow)
            await flow.stop()
            flow.check()
            assert (reasons, flow.listener.downs) == ([], [])
            assert node.measure("imgateway_logins_total") == logins
        finally:
            await flow.close()
        assert link.end()["rebinds"] == 2
