"""A disk without room, a locked database, a clock that jumps back, crowds that never log in."""

from __future__ import annotations

import resource
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import task

from imgateway.client import Client
from imgateway.errors import RequestFailed

from .flows import Flow
from .nodes import DEADLINE_S, Node, soon, until

pytestmark = pytest.mark.network
MANY = ("--set", "retention.entries=1000000", "--set", "quota.pair_rate=0")


async def stands_still(flow: Flow) -> int:
    """Wait until nothing is acknowledged for a second; how many are by then."""
    from twisted.internet import reactor

    acked = -1
    while acked != flow.acked:
        acked = flow.acked
        await task.deferLater(reactor, 1.0)  # type: ignore[arg-type]
    return acked


async def outage(node: Node, flow: Flow, why: str) -> None:
    """What must hold while the store takes nothing."""

    def not_ready() -> bool:
        status, text = node.ask("readyz")
        return status == 503 and why in text

    await soon(not_ready, what=f"/readyz saying {why!r}")
    stood = await stands_still(flow)
    assert node.ask("healthz")[0] == 200
    assert flow.listener.client.connected
    assert all(publisher.client.connected for publisher in flow.publishers)
    with pytest.raises(
        RequestFailed
    ):  # there is no such service, but there is an answer: what needs no disk goes on
        await until(flow.listener.client.request("nobody", "knows"))
    assert flow.acked == stood


@pytest_twisted.ensureDeferred
async def test_a_full_disk_stops_acknowledgements_and_nothing_else(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = await make_node(options=MANY).started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url), outbox=False)
    flow.go()
    try:
        await soon(lambda: flow.acked > 200, what="load")
        # The log is a file too: leave it room, so the limit is one that the store reaches first.
        full = max(file.stat().st_size for file in node.data.iterdir()) + 65_536
        before = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (full, before[1]))
        await outage(node, flow, "disk")
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, before)
        stood = flow.acked
        await soon(lambda: flow.acked > stood + 200, what="going on by itself")
        await soon(node.ready, what="readiness")
        await flow.stop()
        flow.check()
        assert flow.listener.downs == []
    finally:
        await flow.close()


@pytest_twisted.ensureDeferred
async def test_a_database_that_another_process_locks(make_node: Callable[..., Node], tmp_path: Path) -> None:
    node = await make_node(options=MANY).started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url), outbox=False)
    flow.go()
    try:
        await soon(lambda: flow.acked > 200, what="load")
        other = sqlite3.connect(node.data / "messages.sqlite3", timeout=20, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await outage(node, flow, "locked")
        other.execute("ROLLBACK")
        other.close()
        stood = flow.acked
        await soon(lambda: flow.acked > stood + 200, what="going on by itself")
        await flow.stop()
        flow.check()
        assert flow.listener.downs == []
    finally:
        await flow.close()


@pytest_twisted.ensureDeferred
async def test_sigterm_while_the_store_is_out_of_order_ends_in_time(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = await make_node(options=[*MANY, "--set", "node.drain_s=2"]).started()
    flow = Flow(node, tmp_path, (node.url,))
    flow.go()
    try:
        await soon(lambda: flow.acked > 100, what="load")
        other = sqlite3.connect(node.data / "messages.sqlite3", timeout=20, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await soon(lambda: node.ask("readyz")[0] == 503, what="the outage")
        node.signal(signal.SIGTERM)
        await soon(node.exited, within_s=14, what="the end")  # it takes 8 s, where nothing else stands still
        other.execute("ROLLBACK")
        other.close()
        await node.started()
        await flow.stop()
        flow.check()
    finally:
        await flow.close()


CLOCK = """
import signal, time
offset = [0]
def shift(number, frame): offset[0] -= 3600
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + offset[0]
time.time_ns = lambda: real_ns() + offset[0] * 1_000_000_000
signal.signal(signal.SIGUSR2, shift)
"""


@pytest_twisted.ensureDeferred
async def test_a_clock_that_jumps_back_an_hour_ends_nothing(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    from twisted.internet import reactor

    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    # Not so short that a busy machine passes them.
    short = ["--set", "session.heartbeat_s=2", "--set", "session.dead_s=5", "--set", "session.linger_s=1"]
    short += ["--set", "limits.login_timeout_s=4.5"]
    node = make_node(options=[*MANY, *short], environment={"PYTHONPATH": str(tmp_path)})
    await node.started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url), outbox=False)
    flow.go()
    away = Client(node.url, token=node.token("carol"), device="x", backoff=lambda attempt: 0.05)
    await until(away.start())
    await until(away.close())
    sender = Client(node.url, token=node.token("dan"), device="x", backoff=lambda attempt: 0.05)
    await until(sender.start())
    silent = socket.create_connection(("127.0.0.1", node.tcp))
    try:
        await soon(lambda: flow.acked > 100, what="load")
        await until(sender.publish("user:carol", "an hour", ttl_s=1800))
        await until(sender.publish("user:carol", "soon over", ttl_s=1))
        node.signal(signal.SIGUSR2)
        stood = flow.acked
        await soon(lambda: flow.acked > stood + 100, what="going on")
        # Longer than a silent link may live: the timers go on, and whoever answers stays.
        await task.deferLater(reactor, 5.5)  # type: ignore[arg-type]
        assert flow.listener.downs == []
        assert sender.connected
        assert node.ask("readyz")[0] == 200
        heard: list[bytes] = []
        # Of the node's present: its clock is an hour behind ours.
        token = node.token("carol", now_s=time.time() - 3600)
        back = Client(
            node.url,
            token=token,
            device="x",
            on_message=lambda received: heard.append(received.message.body),
        )
        await until(back.start())
        await soon(lambda: heard, what="the message that is good for long")
        await until(back.close())
        assert heard == [b"an hour"]
        # The one that never said Hello was turned out in time, by a clock that only goes on.
        silent.settimeout(DEADLINE_S)
        assert silent.recv(100) != b"\0"
        await flow.stop()
        flow.check()
        assert flow.listener.downs == []
    finally:
        silent.close()
        await until(sender.close())
        await flow.close()


@pytest_twisted.ensureDeferred
async def test_a_crowd_that_never_says_hello_is_turned_out_and_nobody_notices(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    from twisted.internet import reactor

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = min(10_000, (hard if hard > 0 else 20_000) - 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, crowd + 500), hard))
    options = [*MANY, "--set", "limits.login_timeout_s=5", "--set", "limits.login_burst=20000"]
    node = await make_node(options=options).started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url), outbox=False)
    silent: list[socket.socket] = []
    try:
        await soon(lambda: flow.listener.client.connected, what="the login")
        flow.go()
        for _ in range(crowd):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", node.tcp))
            silent.append(one)
            if len(silent) % 200 == 0:
                await task.deferLater(reactor, 0)  # type: ignore[arg-type]
        await soon(lambda: node.measure("imgateway_links_pending") > crowd * 0.9, what="the crowd")
        acked = flow.acked
        await soon(lambda: node.measure("imgateway_links_pending") == 0, within_s=30, what="an empty house")
        assert flow.acked > acked + 100
        assert flow.listener.downs == []
        assert node.measure("imgateway_sessions") >= 3
        await flow.stop()
        flow.check()
    finally:
        for one in silent:
            one.close()
        await flow.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_garbage_is_counted_and_logged_once_with_its_peer(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    peers = []
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", node.tcp), 5) as peer:
            peers.append(f"127.0.0.1:{peer.getsockname()[1]}")
            peer.sendall(b"\x04\xff\xff\xff\xff")
            while peer.recv(100):  # its Bye, and the end
                pass
    assert node.measure("imgateway_protocol_errors_total") == 3
    lines = [record for record in node.records() if record.get("peer") in peers]
    assert [line["peer"] for line in lines] == peers
    assert {line["code"] for line in lines} == {"BAD_FRAME"}
    assert node.ask("readyz")[0] == 200
