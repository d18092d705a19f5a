"""A node stops while one of its two Redis servers answers nothing: whoever waits for that is sent away, and
nothing of it is a failure for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from imgateway.frames import (
    Address,
    Bye,
    Frame,
    Hello,
    Publish,
    Pull,
    Renew,
    ResumePoint,
    SessionKey,
    Subscribe,
    Unsubscribe,
    parse_address,
    user_address,
)
from tests.brokers.redis_server import RedisServer
from tests.conformance.house import Client, settings
from tests.conformance.redis_house import TwoServers
from tests.conformance.wires import REDIS

pytestmark = pytest.mark.server


@pytest.fixture
def house(redis: RedisServer, other: RedisServer) -> Iterator[TwoServers]:
    house = TwoServers(redis, other, settings(node={"drain_s": 2.0}))
    yield house
    other.thaw()
    house.close()


def asks(
    news: Address, room: Address, away: str
) -> dict[str, tuple[bool, Callable[[str], tuple[Frame, ...]]]]:
    """By the beginning of a user's name: is it in the room and at the topic, and what does it say."""
    return {
        "publisher": (False, lambda user: (Publish("1", (user_address(away),)),)),
        "several": (False, lambda user: (Publish("1", (user_address(away), user_address(user))),)),
        "publisher-in-room": (True, lambda user: (Publish("1", (room,)),)),
        "reader": (False, lambda user: (Pull(news, 0, 0, 0, 9),)),
        "reader-of-room": (True, lambda user: (Pull(room, 0, 0, 0, 9),)),
        "follower": (False, lambda user: (Subscribe(news),)),
        "comer": (False, lambda user: (Subscribe(room),)),
        "leaver": (True, lambda user: (Unsubscribe(news), Unsubscribe(room))),
        "undecided": (
            True,
            lambda user: (Unsubscribe(news), Subscribe(news), Unsubscribe(room), Subscribe(room)),
        ),
        "renewer": (False, lambda user: (Renew(user),)),
        "polite": (True, lambda user: (Bye(0),)),
    }


@pytest.mark.parametrize("homes", [0, 1], ids=["users-there", "users-away"])
def test_a_stop_while_everything_waits(house: TwoServers, other: RedisServer, homes: int) -> None:
    """`homes`: users whose server answers, or is frozen."""
    news = parse_address(house.name("topic:news", 1))
    room = parse_address(house.name("room:", 1))
    away = house.name("away", 1)
    clients: list[tuple[Client, tuple[Frame, ...]]] = []
    for name, (is_in, says) in asks(news, room, away).items():
        user = house.name(name, homes)
        client = house.login(REDIS, f"{user}+{news.id}")
        if is_in:
            client.send(Subscribe(news), Subscribe(room))
        clients.append((client, says(user)))
    brief = house.login(REDIS, f"{house.name('brief', homes)}+{news.id}")
    brief.send(Subscribe(news))
    session = next(one for one in house.node.hub.sessions if one.user.startswith("brief"))
    house.node.hub.partings.wait(session, 0.0)  # as a clean session of MQTT
    comers = [house.connect(REDIS) for _ in range(3)]

    other.freeze()
    house.is_away = True
    for client, frames in clients:
        client.send(*frames)
    brief.link.cut()
    comers[0].send(Hello(house.name("new", homes), "phone"))
    comers[1].send(Hello(house.name("publisher", homes), "phone"))  # another link of the same session
    comers[2].send(Hello(house.name("named", homes), "phone", resume=(ResumePoint(room, 0, 0, 0),)))
    node, key = house.node, SessionKey(house.name("follower", homes), "phone")
    asked: list[Deferred[Any]] = [
        node.publish(Publish("1", (user_address(away),)), "business"),
        node.join(key, room),
        node.sessions(away),
        node.mailbox(away),
        node.members(room),
        node.revoke(away, 1),
    ]
    answers: list[Any] = []
    for one in asked:
        one.addBoth(answers.append)
    house.settle()
    assert answers == []
    house.stop()
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    assert all(failure.check(CancelledError) for failure in failures)
