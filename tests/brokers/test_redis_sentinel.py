"""A primary behind a real Sentinel, and one behind TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgateway.brokers.redis import primary as primary_module
from imgateway.brokers.redis.scripts import compose, scripts
from tests.brokers.redis_desk import NOTE, RedisDesk, answered, note
from tests.brokers.redis_server import RedisServer, Sentinel, free_port
from tests.certificate import write_certificate

pytestmark = pytest.mark.server


class Nobody:
    def __init__(self, url: str) -> None:
        self.url = url


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"note": compose("note", NOTE)}
    monkeypatch.setattr(primary_module, "scripts", lambda: {**scripts(), **extra})


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    primary, replica = RedisServer(tmp_path / "one"), RedisServer(tmp_path / "two")
    try:
        replica.replica_of(primary)
        sentinel = Sentinel(tmp_path / "sentinel", primary, "mymaster", 1_000)
        yield primary, replica, sentinel
        sentinel.kill9()
    finally:
        for server in (primary, replica):
            server.kill9()


@pytest.fixture
def sit() -> Iterator[Callable[[str], RedisDesk]]:
    made: list[RedisDesk] = []

    def sit(url: str) -> RedisDesk:
        made.append(RedisDesk(Nobody(url)))  # type: ignore[arg-type]
        return made[-1]

    yield sit
    for desk in made:
        desk.stop()


def test_a_failover_is_followed(
    servers: tuple[RedisServer, RedisServer, Sentinel], sit: Callable[[str], RedisDesk]
) -> None:
    primary, replica, sentinel = servers
    end = time.monotonic() + 10
    while not sentinel.cli("SENTINEL", "REPLICAS", "mymaster"):
        assert time.monotonic() < end, "the Sentinel does not find the replica"
        time.sleep(0.02)
    away = free_port()
    url = f"redis+sentinel://127.0.0.1:{away},127.0.0.1:{sentinel.port}/mymaster"
    desk = sit(url).start()
    assert desk.primary.name == "mymaster"
    boxes = note(desk, range(100))
    assert answered(desk, boxes) == list(range(1, 101))
    generation, epoch = desk.primary.generation, desk.primary.epoch
    replica.synced(primary)
    boxes = note(desk, range(100, 200))
    primary.kill9()
    sentinel.is_hasty()
    boxes += note(desk, range(200, 300))
    desk.loop.until(lambda: all(boxes), 20.0)
    # Each was answered once, in order; what only the old primary had it does not have.
    places = [box[0] for box in boxes]
    assert places == sorted(places)
    assert replica.cli("LRANGE", "notes", 0, 99) == [b"%d" % n for n in range(100)]
    assert replica.cli("LRANGE", "notes", -100, -1) == [b"%d" % n for n in range(200, 300)]
    assert (desk.primary.generation, desk.primary.epoch) == (generation + 1, epoch)
    desk.settle()
    assert len(desk.renewals) >= 2


def test_sentinels_that_know_nothing_are_named(servers: Any, sit: Callable[[str], RedisDesk]) -> None:
    _, _, sentinel = servers
    desk = sit(f"redis+sentinel://127.0.0.1:{sentinel.port}/other")
    started = desk.later(desk.primaries.start())
    desk.loop.until(lambda: any("NOSENTINEL" in why for _, why in desk.states))
    assert f"127.0.0.1:{sentinel.port} knows no primary of that name" in desk.states[0][1]
    sentinel.freeze()
    desk.loop.until(lambda: any("no answer within 3 s" in why for _, why in desk.states))
    assert started == []


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisDesk]:
    """A desk at a server with a certificate of its own making, not started."""
    write_certificate(tmp_path)
    certificate, port = str(tmp_path / "cert.pem"), free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-auth-clients", "no")
    tls += ("--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", certificate)
    server = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always", *tls)
    desk = RedisDesk(Nobody(f"rediss://127.0.0.1:{port}"))  # type: ignore[arg-type]
    monkeypatch.setattr("twisted.protocols.tls._get_default_clock", lambda: desk.loop)
    yield desk
    desk.stop()
    server.kill9()


def test_over_tls(encrypted: RedisDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    encrypted.start()
    assert encrypted.run(encrypted.primary.call("note", 1)) == 1


def test_a_certificate_that_nobody_trusts_is_told(encrypted: RedisDesk) -> None:
    started = encrypted.later(encrypted.primaries.start())
    encrypted.loop.until(lambda: encrypted.states)
    assert "certificate verify failed" in encrypted.states[0][1]
    assert started == []
