"""A node starts while one of its two Redis servers is away: it serves those whose data the other one has, and
the rest as soon as that is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import (
    Deliver,
    Hello,
    Publish,
    PublishAck,
    Subscribe,
    Subscribed,
    Welcome,
    parse_address,
    user_address,
)
from tests.brokers.redis_server import RedisServer
from tests.conformance.redis_house import TwoServers
from tests.conformance.wires import REDIS

pytestmark = pytest.mark.server


@pytest.fixture
def house(redis: RedisServer, other: RedisServer) -> Iterator[TwoServers]:
    other.kill9()
    house = TwoServers(redis, other, is_away=True)
    yield house
    house.close()


def test_users_of_the_server_that_is_there_are_served(house: TwoServers, other: RedisServer) -> None:
    ok, why = house.health["store"]
    assert ok, "routers and HAProxy may send clients here"
    assert why.startswith(f"redis 127.0.0.1:{other.port} cannot be written to: Connection was refused")
    assert house.health["start"] == (True, "")
    alice, bob = house.name("alice", 0), house.name("bob", 0)
    bobs = house.login(REDIS, bob)
    house.login(REDIS, alice).send(Publish("1", (user_address(bob),), body=b"hello"))
    assert bobs.bodies() == [b"hello"]


def test_the_others_wait_until_theirs_is_there(house: TwoServers, other: RedisServer) -> None:
    near, far = house.name("near", 0), house.name("far", 1)
    news, room = (parse_address(house.name(text, 1)) for text in ("topic:news", "room:"))
    alice = house.login(REDIS, f"{near}+{news.id}")
    bob = house.connect(REDIS)
    bob.send(Hello(far, "phone"))
    alice.send(Subscribe(news), Subscribe(room))
    house.advance(3)  # a link is read on though an answer is late
    alice.send(Publish("1", (user_address(far),), body=b"hello"))
    assert (alice.frames, bob.frames) == ([], [])

    other.restart()
    house.is_away = False
    house.advance(2)
    assert house.health["store"] == (True, "")
    bob.welcome = bob.pick(Welcome)
    assert bob.bodies() == [b"hello"]
    assert {alice.pick(Subscribed).address for _ in range(2)} == {news, room}
    assert alice.pick(PublishAck).outcomes[0].seq == 1
    house.login(REDIS, f"!{house.name('service', 1)}").send(Publish("2", (news, room), body=b"news"))
    assert {alice.pick(Deliver).address for _ in range(2)} == {news, room}


def test_one_that_comes_and_loses_all_before_it_is_listened_to(house: TwoServers, other: RedisServer) -> None:
    """What it had answered by then is of data that is gone."""
    near, far = house.name("near", 0), house.name("far", 1)
    news, sport = parse_address(house.name("topic:news", 1)), parse_address(house.name("topic:sport", 0))
    alice, bob = house.login(REDIS, f"{near}+{news.id}+{sport.id}"), house.connect(REDIS)
    primary = house.broker._primaries.each()[1]
    other.options = (*other.options, "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-subscribe")
    other.restart()
    bob.send(Hello(f"{far}+{sport.id}", "phone"))
    alice.send(Subscribe(news))
    house.until(lambda: bob.frames and alice.frames)
    epoch = bob.take(Welcome).resumed[0].epoch
    assert alice.take(Subscribed).epoch == epoch
    bob.send(Subscribe(sport))
    house.until(lambda: bob.frames)
    bob.take(Subscribed)
    other.restart()  # it keeps nothing on its disk
    house.until(lambda: primary.epoch != epoch)
    assert not primary.is_ready
    other.cli("ACL", "SETUSER", "default", "+subscribe")
    house.is_away = False
    house.advance(3)
    assert (bob.bye(), alice.bye()) == (CloseCode.STALE, CloseCode.STALE)
    bob = house.login(REDIS, f"{far}+{sport.id}")
    assert bob.welcome.resumed[0].epoch != epoch
    alice = house.login(REDIS, f"{near}+{sport.id}")
    alice.publish(f"topic:{sport.id}")
    bob.send(Subscribe(sport))
    assert bob.take(Subscribed).position == 0, "it followed before, and that is written again"
    assert bob.bodies() == [b"hello"]
