"""Words from process to process, where there are several primaries to say them over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    servers = [RedisServer(tmp_path / f"redis{n}") for n in range(2)]
    yield servers
    for server in servers:
        server.kill9()


@pytest.fixture
def desks(servers: list[RedisServer]) -> Iterator[tuple[BrokerDesk, BrokerDesk]]:
    loop = Loop()
    one, two = (BrokerDesk(*servers, loop=loop, incarnation=f"n.{n}", seed=n).start() for n in (1, 2))
    yield one, two
    one.stop()
    two.stop()
    loop.close()


def cut_off(desk: BrokerDesk, server: RedisServer) -> None:
    """It hears nothing more over the first primary, which knows that."""
    desk.broker._primaries.each()[0].subscription.stop()
    desk.loop.until(lambda: server.cli("PUBSUB", "NUMSUB", f"ig:node:{desk.incarnation}")[1] == 0)


def test_who_is_cut_off_from_one_primary_hears_over_another(
    desks: tuple[BrokerDesk, BrokerDesk], servers: list[RedisServer]
) -> None:
    one, two = desks
    cut_off(two, servers[0])
    assert one.now(one.broker.tell("n.2", b"drain")) is True
    assert one.now(one.broker.tell("n.9", b"nobody")) is False
    two.loop.until(lambda: two.listener.named("control"))
    assert two.listener.named("control") == [(b"drain",)]


def test_a_primary_that_goes_before_it_answers(
    desks: tuple[BrokerDesk, BrokerDesk], servers: list[RedisServer]
) -> None:
    """Somebody may have heard it there: said again elsewhere it counts once."""
    one, two = desks
    servers[0].freeze()
    telling = one.later(one.broker.tell("n.2", b"drain"))
    one.loop.iterate(0.01)
    servers[0].kill9()
    one.loop.until(lambda: telling)
    assert telling == [True]
    two.loop.until(lambda: two.listener.named("control"))
    assert two.listener.named("control") == [(b"drain",)]


def test_a_primary_that_goes_costs_no_word_over_another(
    desks: tuple[BrokerDesk, BrokerDesk], servers: list[RedisServer]
) -> None:
    one, two = desks
    cut_off(two, servers[0])
    servers[1].freeze()
    telling = one.later(one.broker.tell("n.2", b"drain"))
    one.loop.spin(0.1)
    servers[0].kill9()
    one.loop.until(lambda: not one.broker._primaries.each()[0].is_up)
    assert telling == []
    servers[1].thaw()
    one.loop.until(lambda: telling)
    assert telling == [True]
    two.loop.until(lambda: two.listener.named("control"))
    assert two.listener.named("control") == [(b"drain",)]


def test_no_primary_is_left(desks: tuple[BrokerDesk, BrokerDesk], servers: list[RedisServer]) -> None:
    one, _ = desks
    for server in servers:
        server.freeze()
    telling = one.later(one.broker.tell("n.2", b"drain"))
    one.loop.iterate(0.01)
    for server in servers:
        server.kill9()
    one.loop.until(lambda: telling)
    assert telling == [False]
