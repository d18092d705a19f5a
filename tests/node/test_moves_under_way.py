"""Sessions that go to another node while something else becomes of them: each end is told once."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.errors import CloseCode
from imgateway.frames import Publish, SessionKey, Subscribe, Welcome, parse_address, user_address
from tests.node.cluster_rig import Cluster
from tests.node.rig import AsciiWire, Diary, Rig

BOB = SessionKey("bob", "phone")
ROOM, OTHER = parse_address("room:7"), parse_address("room:8")


def pair(**options: Any) -> tuple[Cluster, Rig, Rig, Diary, Diary]:
    here, there = Diary(), Diary()
    cluster = Cluster("a", "b", listeners={"a": [here], "b": [there]}, **options)
    return (cluster, *cluster.rigs, here, there)


def told(*diaries: Diary) -> list[str]:
    """What listeners heard of the session, on whatever node."""
    return [event[0] for diary in diaries for event in diary.events if event[1] == "phone"]


def found(cluster: Cluster, deferred: Any) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    cluster.settle()
    return results[0]


# ------------------------------------------------------------------------------------- gone before the answer


def test_a_session_whose_client_is_gone_before_the_other_node_has_it_waits_there_and_ends() -> None:
    cluster, a, b, here, there = pair()
    a.login("bob")
    held = cluster.facets[1]
    held.hold = True
    b.login("bob").cut()
    held.release()
    assert a.session("bob") is None
    assert b.session("bob").link is None
    assert [one.online for one in found(cluster, b.node.sessions("bob"))] == [False]
    cluster.advance(59)
    assert told(here, there) == ["opened"]
    cluster.advance(2)
    assert told(here, there) == ["opened", "closed"]
    assert b.session("bob") is None
    assert [one.generation for one in found(cluster, b.node.sessions("bob"))] == [0]


def test_it_may_come_to_that_node_again() -> None:
    cluster, a, b, here, there = pair()
    a.login("bob")
    held = cluster.facets[1]
    held.hold = True
    b.login("bob").cut()
    held.release()
    held.hold = False
    a.login("eve", "pad").publish("1", "user:bob")
    again = b.login("bob")
    assert again.shown() == ["1"]
    again.ack(1)
    assert told(here, there) == ["opened", "resumed"]
    cluster.advance(61)
    assert (again.code, b.session("bob").link) == (None, again.link)


def test_or_to_any_other() -> None:
    cluster, a, b, here, there = pair()
    a.login("bob")
    held = cluster.facets[1]
    held.hold = True
    b.login("bob").cut()
    held.release()
    a.login("bob")
    assert b.session("bob") is None
    assert told(here, there) == ["opened", "resumed"]


def test_a_session_that_was_nowhere_does_not_begin_without_its_client() -> None:
    cluster, _a, b, here, there = pair()
    held = cluster.facets[1]
    held.hold = True
    b.login("bob").cut()
    held.release()
    assert b.session("bob") is None
    assert told(here, there) == []
    assert [one.generation for one in found(cluster, b.node.sessions("bob"))] == [0]


def test_a_greeting_that_was_not_answered_leaves_no_will_and_its_linger_counts() -> None:
    cluster, a, b, here, there = pair()
    watcher = a.login("watcher", "pad")
    a.login("bob")
    held = cluster.facets[1]
    held.hold = True
    wire = AsciiWire("native")
    will = Publish("w", (user_address("watcher"),), body=b"gone")
    b.login("bob", wire=wire, will=will, linger_s=5.0).cut()
    held.release()
    cluster.advance(6)
    assert told(here, there) == ["opened", "closed"]
    assert watcher.shown() == []


# ----------------------------------------------------------------------------- the end of an older generation


def test_a_session_that_ended_while_its_client_claimed_it_begins_anew() -> None:
    cluster, a, _b, here, _there = pair()
    a.login("bob").cut()
    held = cluster.facets[0]
    held.hold = True
    cluster.advance(55)
    again = a.login("bob")
    cluster.advance(6)  # the store does not answer, and the wait is over
    assert told(here) == ["opened", "closed"]
    held.release()
    assert again.of(Welcome)
    assert told(here) == ["opened", "closed", "opened"]
    again.cut()
    cluster.advance(61)
    assert told(here) == ["opened", "closed", "opened", "closed"]


# ------------------------------------------------------------------------------------------------------ kicks


@pytest.mark.parametrize("by", ["here", "there"])
def test_a_kick_while_the_session_is_on_its_way_to_another_node(by: str) -> None:
    cluster, a, b, here, there = pair()
    old = a.login("bob")
    held = cluster.facets[1]
    held.hold = True
    cluster.late = True  # nor has the old node heard of it
    new = b.login("bob")
    cluster.late = False
    rig = a if by == "here" else b
    kicked = found(cluster, rig.node.kick("bob", None, "enough"))
    held.release()
    cluster.hear()
    assert new.code is CloseCode.KICKED
    assert new.of(Welcome) == []
    assert old.code in (CloseCode.KICKED, CloseCode.REPLACED)
    assert kicked >= 1
    assert (a.session("bob"), b.session("bob")) == (None, None)
    if by == "there":  # else the old node has told its end before it could know better
        assert told(here, there) == ["opened", "closed"]
    assert [one.generation for one in found(cluster, b.node.sessions("bob"))] == [0]


def test_a_kick_of_a_session_that_is_claimed_again_is_told_once() -> None:
    cluster, a, _b, here, _there = pair()
    a.login("bob").cut()
    held = cluster.facets[0]
    held.hold = True
    again = a.login("bob")
    assert found(cluster, a.node.kick("bob", "phone", "enough")) == 1
    held.release()
    assert again.code is CloseCode.KICKED
    assert told(here) == ["opened", "closed"]


def test_a_kick_of_another_device_or_user_does_not_touch_a_login() -> None:
    cluster, a, _b, _here, _there = pair()
    held = cluster.facets[0]
    held.hold = True
    bob = a.login("bob")
    assert found(cluster, a.node.kick("bob", "pad", "enough")) == 0
    assert found(cluster, a.node.kick("eve", None, "enough")) == 0
    held.release()
    assert bob.code is None
    assert bob.of(Welcome)


# ------------------------------------------------------------------------------------------------------ rooms


def test_rooms_of_a_session_that_went_and_came_back_are_left_if_it_does_not_name_them() -> None:
    cluster, a, b, _here, _there = pair()
    a.login("bob").send(Subscribe(ROOM)).send(Subscribe(OTHER))
    b.login("bob")
    back = a.login("bob").send(Subscribe(OTHER))
    generation = a.session("bob").generation
    cluster.advance(61)
    leaves = [call for call in cluster.facets[0].calls if call[0] in ("leave", "close_session")]
    assert leaves == [("leave", BOB, generation, ROOM)], "the room that it did not name, and nothing else"
    assert (back.code, a.session("bob").link) == (None, back.link)


def test_a_room_that_was_being_entered_when_the_session_went_is_left_as_well() -> None:
    cluster, a, b, _here, _there = pair()
    bob = a.login("bob")
    generation = a.session("bob").generation
    facet = cluster.facets[0]
    joining: Deferred[None] = Deferred()
    facet.join = lambda *values: joining
    bob.send(Subscribe(ROOM))
    b.login("bob")
    joining.callback(None)
    cluster.advance(61)
    assert ("close_session", BOB, generation, False) in facet.calls


def test_a_room_that_is_being_entered_again_when_others_are_left_is_not_left() -> None:
    rig = Rig()
    rig.login("bob").send(Subscribe(ROOM), Subscribe(OTHER))
    rig.broker.listener.displaced(BOB, rig.broker.generation, CloseCode.REPLACED, "it is at another node")
    assert rig.session("bob") is None
    bob = rig.login("bob")
    rig.advance(rig.hub.linger_s - 10)
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM))
    rig.advance(20)
    rig.broker.release("join")
    rig.settle()
    assert [room.address for room in rig.session("bob").rooms] == [ROOM]
    assert (BOB in rig.broker.rooms[ROOM], BOB in rig.broker.rooms[OTHER]) == (True, False)


def test_a_room_that_was_being_entered_when_the_session_went_is_left_if_it_comes_back_without() -> None:
    rig = Rig()
    bob = rig.login("bob").send(Subscribe(OTHER))
    rig.broker.hold = {"join"}
    bob.send(Subscribe(ROOM), Subscribe(OTHER))
    rig.broker.listener.displaced(BOB, rig.broker.generation, CloseCode.REPLACED, "it is at another node")
    assert BOB in rig.broker.rooms[ROOM]
    rig.broker.hold = set()
    rig.login("bob")
    rig.broker.release("join")
    rig.advance(rig.hub.linger_s + 1)
    assert rig.session("bob").rooms == ()
    assert (BOB in rig.broker.rooms[ROOM], BOB in rig.broker.rooms[OTHER]) == (False, False)
