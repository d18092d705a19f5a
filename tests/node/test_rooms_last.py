"""Subscribe.last in rooms: who comes without a position begins with the newest message."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.frames import Deliver, Mode, Notify, Subscribe, Subscribed, parse_address
from imgateway.interfaces import Identity
from tests.node.rig import Peer, Rig

ROOM = parse_address("room:7")


def rig_with(count: int, lane: int = 0) -> Any:
    """A room in which somebody is, and where `count` messages were sent."""
    rig = Rig("memory")
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    svc = rig.login("svc")
    rig.login("eve").send(Subscribe(ROOM))
    for n in range(count):
        svc.publish(str(n), "room:7", lane=lane)
    rig.pass_ms(100)
    return rig, svc


def shown(peer: Peer, lane: int = 0) -> list[str]:
    """What is beyond the position that it was told."""
    position = next(one.position for one in peer.of(Subscribed) if one.lane == lane)
    frames = [frame for frame in peer.of(Deliver) if frame.lane == lane]
    assert not any(frame.gap for frame in frames)
    newer = {entry.seq for frame in frames for entry in frame.entries if entry.seq > position}
    return [str(seq) for seq in sorted(newer)]


def head(peer: Peer) -> str:
    return str(peer.of(Subscribed)[0].head)


@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_newest_comes_first(lane: int, count: int) -> None:
    rig, svc = rig_with(count, lane)
    bob = rig.login("bob").send(Subscribe(ROOM, lane=lane, last=True))
    rig.pass_ms(100)
    assert shown(bob, lane) == [head(bob)]
    svc.publish("new", "room:7", lane=lane)
    rig.pass_ms(100)
    assert len(shown(bob, lane)) == 2


def test_an_empty_room_has_none() -> None:
    rig, svc = rig_with(0)
    svc.publish("elsewhere", "room:8")
    bob = rig.login("bob").send(Subscribe(ROOM, last=True))
    rig.pass_ms(100)
    assert bob.of(Deliver) == []


def test_a_position_comes_before() -> None:
    rig, _ = rig_with(5)
    first = rig.login("bob").send(Subscribe(ROOM)).of(Subscribed)[0]
    dan = rig.login("dan").send(Subscribe(ROOM, epoch=first.epoch, seq=first.head - 3, last=True))
    rig.pass_ms(100)
    assert len(shown(dan)) == 3


def test_who_is_in_already_is_told_nothing_twice() -> None:
    rig, _ = rig_with(2)
    bob = rig.login("bob").send(Subscribe(ROOM), Subscribe(ROOM, last=True))
    rig.pass_ms(100)
    assert bob.of(Deliver) == []


def test_one_that_pulls_is_told_that_there_is_one() -> None:
    rig, _ = rig_with(2)
    bob = rig.login("bob").send(Subscribe(ROOM, Mode.NOTIFY, last=True))
    rig.pass_ms(100)
    assert bob.of(Deliver) == []
    (told,) = bob.of(Notify)[0].heads
    assert told.head == bob.of(Subscribed)[0].head
