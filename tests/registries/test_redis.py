"""What is Redis's own: refusals, Sentinel, several servers, lost hints."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.testing import MemoryReactorClock

from imgateway.brokers.redis.urls import RedisUrl
from imgateway.errors import ConfigError
from imgateway.interfaces import NodeState
from imgateway.registries.redis_line import RedisLine
from imgateway.registries.stored import write
from tests.brokers.redis_server import RedisServer, Sentinel, free_port
from tests.brokers.scripted_redis import KeptOut
from tests.certificate import write_certificate
from tests.registries.desks import RedisDesk, Watcher, node

pytestmark = pytest.mark.server
ONE, TWO = node("one"), node("two")
CLI_PASSWORD = ("--requirepass", "geheim")


@pytest.fixture
def open_desk() -> Iterator[Callable[..., RedisDesk]]:
    """Desks that are closed at the end, however that comes."""
    with ExitStack() as desks:

        def opened(*arguments: Any) -> RedisDesk:
            desk = RedisDesk(*arguments)
            desks.callback(desk.close)
            return desk

        yield opened


@pytest.fixture
def desk(open_desk: Callable[..., RedisDesk], tmp_path: Path) -> RedisDesk:
    return open_desk(tmp_path)


def begin(desk: RedisDesk, url: str, password: str = "") -> Watcher:
    watcher = Watcher(desk.make(url, password), desk.loop)
    desk.watchers.append(watcher)
    return watcher


def fails(desk: RedisDesk, url: str, password: str = "") -> str:
    watcher = begin(desk, url, password)
    watcher.until(lambda: watcher.failure)
    assert isinstance(watcher.failure, ConfigError)
    assert "geheim" not in str(watcher.failure)
    return str(watcher.failure)


def test_a_password_is_told_and_a_wrong_one_fails_the_start(open_desk: Any, tmp_path: Path) -> None:
    desk = open_desk(tmp_path, 1, *CLI_PASSWORD)
    url = desk.server.url
    place = url.removeprefix("redis://")
    assert fails(desk, url).startswith("registry.url: redis ")
    assert "WRONGPASS" in fails(desk, f"redis://:falsch@{place}")
    assert "WRONGPASS" in fails(desk, f"redis://nobody:geheim@{place}")
    for watcher in (
        begin(desk, f"redis://:geheim@{place}"),
        begin(desk, f"redis://default:geheim@{place}"),
        begin(desk, url, "geheim"),
    ):
        watcher.until(lambda watcher=watcher: watcher.started)


def test_a_password_that_changes_later_is_told_and_forgiven(desk: RedisDesk) -> None:
    first, other = desk.new(), desk.new()
    first.announces(ONE)
    first.sees("one")
    desk.server.cli("CONFIG", "SET", "requirepass", "geheim")
    # Who is connected stays; whoever has to connect anew may not.
    for kind in ("normal", "pubsub"):
        with_password(desk.server, "CLIENT", "KILL", "TYPE", kind)
    first.until(lambda: "NOAUTH" in first.states[-1][1])
    assert first.names == ["one"]
    with_password(desk.server, "CONFIG", "SET", "requirepass", "")
    first.until(lambda: first.is_well)
    other.until(lambda: other.is_well)
    other.sees("one")


def with_password(server: RedisServer, *words: str) -> None:
    command = ["redis-cli", "-p", str(server.port), "-a", "geheim", "--no-auth-warning", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=10)


def test_a_database_of_its_own(desk: RedisDesk) -> None:
    inside, outside = begin(desk, f"{desk.server.url}/3"), desk.new()
    inside.until(lambda: inside.started)
    inside.announces(ONE)
    inside.sees("one")
    desk.loop.spin(0.6)
    assert outside.names == []
    assert "DB index" in fails(desk, f"{desk.server.url}/99")


def test_a_replica_is_not_good_enough(desk: RedisDesk, tmp_path: Path) -> None:
    desk.is_patient()
    first = desk.new()
    first.announces(ONE)
    first.sees("one")
    primary = RedisServer(tmp_path / "primary")
    desk.server.cli("REPLICAOF", "127.0.0.1", primary.port)
    first.until(lambda: not first.is_well)
    first.until(lambda: "cannot be written to" in first.states[-1][1])
    assert first.names == ["one"]
    desk.server.promote()
    first.until(lambda: first.is_well)
    desk.loop.spin(0.1)
    assert first.names == ["one"]
    primary.stop()


def test_a_server_without_memory_is_told(desk: RedisDesk) -> None:
    first = desk.new()
    desk.server.cli("CONFIG", "SET", "maxmemory", "1")
    announced: list[object] = []
    first.registry.announce(ONE).addCallback(announced.append)
    first.until(lambda: "OOM" in first.states[-1][1])
    assert not announced
    desk.server.cli("CONFIG", "SET", "maxmemory", "0")
    first.until(lambda: announced)
    first.sees("one")


def test_a_lost_hint_is_made_up_for_by_the_next_look(desk: RedisDesk) -> None:
    first, other = desk.new(), desk.new()
    desk.put(ONE.incarnation, write(ONE))
    for watcher in (first, other):
        watcher.sees("one")


def test_hints_that_are_none_do_no_harm(desk: RedisDesk) -> None:
    first = desk.new()
    first.announces(ONE)
    first.sees("one")
    for message in (b"", b"-", b"-\xff", b"+\xff", b"-nobody", b"what"):
        desk.server.cli("PUBLISH", "ig:registry", message)
    desk.server.cli("SADD", "ig:registry", b"\xff\xfe")
    desk.loop.spin(0.7)
    assert first.names == ["one"]
    assert first.is_well


def test_names_of_the_dead_are_swept_out(desk: RedisDesk) -> None:
    first = desk.new()
    desk.server.cli("SADD", "ig:registry", "long.gone", ONE.incarnation)
    first.announces(ONE)
    first.until(lambda: desk.server.cli("SMEMBERS", "ig:registry") == [ONE.incarnation.encode()])


def test_a_lost_connection_alone_is_made_again(desk: RedisDesk) -> None:
    first, other = desk.new(), desk.new()
    first.announces(ONE)
    other.sees("one")
    for kind in ("pubsub", "normal"):
        states = len(first.states)
        desk.server.cli("CLIENT", "KILL", "TYPE", kind)
        first.until(lambda states=states: len(first.states) >= states + 2 and first.is_well)
        other.until(lambda: other.is_well)
    first.announces(replace(ONE, state=NodeState.DRAINING))
    other.sees_info(replace(ONE, state=NodeState.DRAINING))


def test_several_servers_and_one_is_away(open_desk: Any, tmp_path: Path) -> None:
    desk = open_desk(tmp_path, 2)
    first, other = desk.new(), desk.new()
    first.announces(ONE)
    other.announces(TWO)
    for watcher in (first, other):
        watcher.sees("one", "two")
    desk.servers[0].kill9()
    first.until(lambda: not first.is_well)
    assert str(desk.servers[0].port) in first.states[-1][1]
    other.withdraws()
    first.sees("one")
    late = desk.new()
    late.sees("one")
    changed = replace(ONE, state=NodeState.BUSY)
    first.announces(changed)
    late.sees_info(changed)
    desk.servers[1].kill9()
    late.until(lambda: str(desk.servers[1].port) in late.states[-1][1])
    assert late.names == ["one"]
    for server in desk.servers:
        server.start()
    for watcher in (first, late):
        watcher.until(lambda watcher=watcher: watcher.is_well)
        watcher.sees("one")  # the key of the other ends by itself, where it was not told


def test_over_tls(open_desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_certificate(tmp_path)
    certificate, port = str(tmp_path / "cert.pem"), free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-auth-clients", "no")
    desk = open_desk(tmp_path / "redis", 1, *tls, "--tls-key-file", str(tmp_path / "key.pem"))
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: desk.loop)
    url = f"rediss://127.0.0.1:{port}"
    stranger = begin(desk, url)
    stranger.until(lambda: stranger.states)
    assert "certificate" in stranger.states[0][1]
    assert not stranger.started
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    first = begin(desk, url)
    first.until(lambda: first.started)
    first.announces(ONE)
    first.sees("one")


def test_after_a_good_connection_the_next_wait_is_short_again(desk: RedisDesk) -> None:
    first = desk.new()
    line = first.registry._servers[0]._line
    line._tries = 9
    desk.loop.shift_s += 6.0
    desk.server.cli("CLIENT", "KILL", "TYPE", "pubsub")
    first.until(lambda: not first.is_well)
    assert line._tries == 1
    first.until(lambda: first.is_well)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_to_stop_while_it_connects_ends_that(host: str) -> None:
    reactor: Any = MemoryReactorClock()
    told: list[object] = []
    target = RedisUrl(((host, 6379),))
    line = RedisLine(target, "", "channel", lambda: None, told.append, told.append, reactor)
    line.start()
    assert {client[0] for client in reactor.tcpClients} == {host}
    box: list[Any] = []
    line.ask("PING").addErrback(box.append)
    assert len(box) == 1
    stopped: list[object] = []
    line.stop().addCallback(stopped.append)
    assert (stopped, told, reactor.getDelayedCalls()) == ([None], [], [])


def test_sentinel_says_where_the_primary_is(desk: RedisDesk, tmp_path: Path) -> None:
    desk.is_patient()
    replica = RedisServer(tmp_path / "replica")
    replica.replica_of(desk.server)
    sentinel = Sentinel(tmp_path / "sentinel", desk.server, "nodes", 2_000)
    nobody = f"127.0.0.1:{free_port()}"
    url = f"redis+sentinel://{nobody},127.0.0.1:{sentinel.port}/nodes"
    try:
        first, unknown = begin(desk, url), begin(desk, url.replace("/nodes", "/others"))
        first.until(lambda: first.started)
        first.announces(ONE)
        first.sees("one")
        unknown.until(lambda: unknown.states)
        assert "does not know this name" in unknown.states[0][1]
        until_sentinel_knows(sentinel, replica)
        desk.server.kill9()
        sentinel.is_hasty()
        first.until(lambda: not first.is_well)
        first.until(lambda: first.is_well, 30.0)
        desk.loop.spin(0.1)
        assert first.names == ["one"]
        assert replica.cli("SMEMBERS", "ig:registry") == [ONE.incarnation.encode()]
    finally:
        for watcher in tuple(desk.watchers):
            desk.ends(watcher)
        sentinel.stop()
        replica.stop()


def until_sentinel_knows(sentinel: RedisServer, replica: RedisServer) -> None:
    end = time.monotonic() + 15
    while str(replica.port).encode() not in str(sentinel.cli("SENTINEL", "REPLICAS", "nodes")).encode():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_server_in_protected_mode_fails_the_start(desk: RedisDesk) -> None:
    """It says a page of text, and would say it again to each connection."""
    server = KeptOut(desk.loop)
    try:
        said = fails(desk, server.url)
        assert "DENIED Redis is running in protected mode" in said
        assert said.endswith("no password is set for the default user")
    finally:
        server.stop()
        desk.ends(desk.watchers[0])
        desk.loop.spin(0.02)  # what was being connected ends a turn later


def test_a_name_that_cannot_be_reached_is_told(desk: RedisDesk) -> None:
    closed: Any = free_port()
    watcher = begin(desk, f"redis://127.0.0.1:{closed}")
    watcher.until(lambda: watcher.states)
    assert watcher.states[0][1].startswith(f"redis 127.0.0.1:{closed} cannot be used: ")
    assert "refused" in watcher.states[0][1]
