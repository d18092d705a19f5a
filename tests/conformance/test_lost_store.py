"""Redis comes back empty while clients are connected: nobody stays at a log that is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import Acked, Bye, DeliverAck, Subscribe, Subscribed, parse_address
from tests.brokers.redis_server import RedisServer
from tests.conformance.redis_house import RedisHouse
from tests.conformance.wires import REDIS

pytestmark = pytest.mark.server

NEWS = parse_address("topic:news")


@pytest.fixture
def house(redis: RedisServer) -> Iterator[RedisHouse]:
    house = RedisHouse(redis)
    yield house
    house.close()


@pytest.mark.parametrize("where", ["user:bob", "topic:news"])
@pytest.mark.parametrize("new", [0, 2, 5, 7])
def test_who_stays_connected_has_to_come_again_and_gets_all_of_the_new_log(
    house: RedisHouse, redis: RedisServer, where: str, new: int
) -> None:
    """However far it had got in the old one, and without saying where it stands."""
    bob, alice = house.login(REDIS, "bob+news"), house.login(REDIS, "alice+news")
    bob.send(Subscribe(NEWS))
    epoch = bob.take(Subscribed).epoch
    for n in range(5):
        alice.publish(where, f"old {n}")
    assert len(bob.deliveries()) == 5
    bob.send(DeliverAck((Acked(parse_address(where), epoch, 5),)))
    house.advance(6)
    redis.cli("FLUSHALL")
    house.advance(1)
    assert bob.pick(Bye).code == CloseCode.STALE
    alice = house.login(REDIS, "alice+news")
    bodies = [b"%d" % n for n in range(new)]
    for n, body in enumerate(bodies):
        alice.publish(where, f"new {n}", body)
    bob = house.login(REDIS, "bob+news")
    assert bob.mailbox().position == 0
    bob.send(Subscribe(NEWS))
    news = bob.pick(Subscribed)
    assert news.epoch != epoch
    assert news.position == 0
    assert bob.bodies() == bodies
