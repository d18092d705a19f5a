"""What one node asks of another: kick, request, drain. Some nodes are dead, and some do not answer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.cluster import Nowhere, Peers
from imgateway.cluster.frames import Ask, Drain, Undrain, encode_control
from imgateway.errors import CloseCode, RequestFailed
from imgateway.frames import (
    Bye,
    Hello,
    Ping,
    PublishAck,
    Request,
    Response,
    ResponseCode,
    SessionKey,
    Welcome,
)
from imgateway.interfaces import NodeInfo, NodeState, Presence, Served
from imgateway.node.drain import IDLE_S
from imgateway.testing.wires import outcome
from tests.node.cluster_rig import Cluster
from tests.node.rig import AsciiWire, Diary, Rig

BOB = SessionKey("bob", "phone")


def pair(**options: Any) -> tuple[Cluster, Rig, Rig]:
    cluster = Cluster("a", "b", **options)
    for rig in cluster.rigs:
        name = rig.node.incarnation
        served = (Served("native", "memory", f"tcp://{name[0]}:7901"),)
        cluster.infos[name] = NodeInfo(name[0], name, served=served)
    return (cluster, *cluster.rigs)


def code(result: list[Any]) -> int:
    (error,) = result
    assert isinstance(error, RequestFailed)
    return error.code


# ------------------------------------------------------------------------------------------------------ kick


def test_a_kick_reaches_all_nodes() -> None:
    cluster, a, b = pair()
    phone, web, pad = a.login("bob", "phone"), b.login("bob", "web"), b.login("bob", "pad")
    eve = b.login("eve")
    assert outcome(a.node.kick("bob", "web", "out")) == []
    cluster.settle()
    assert (phone.code, web.code, pad.code) == (None, CloseCode.KICKED, None)
    kicked = outcome(a.node.kick("bob", None, "out"))
    assert a.session("bob") is None, "those that are here go at once"
    cluster.settle()
    assert kicked == [2]
    assert (phone.code, pad.code, eve.code) == (CloseCode.KICKED, CloseCode.KICKED, None)
    kicked = outcome(a.node.kick("bob", None, "out"))
    cluster.settle()
    assert kicked == [0]
    assert not a.session("bob")


def test_a_kick_does_not_wait_for_the_dead() -> None:
    cluster, a, b = pair()
    a.login("bob", "phone")
    b.login("bob", "web")
    cluster.facets[1].die()
    kicked = outcome(a.node.kick("bob", None, "out"))
    cluster.settle()
    assert kicked == [1]


@pytest.mark.parametrize("mute", ["tell", "sessions"])
def test_a_kick_waits_for_five_seconds_at_most(mute: str) -> None:
    cluster, a, b = pair()
    phone = a.login("bob", "phone")
    b.login("bob", "web")
    cluster.facets[0].mute.add(mute)
    kicked = outcome(a.node.kick("bob", None, "out"))
    cluster.settle()
    assert phone.code is CloseCode.KICKED
    cluster.advance(4.75)
    assert kicked == []
    cluster.advance(0.5)
    assert kicked == [1]


def test_a_kick_and_a_broker_with_a_fault(flush_logged_errors: Any) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.sessions = lambda user: _failed()
    kicked = outcome(rig.node.kick("bob", None, "out"))
    rig.settle()
    assert (kicked, bob.code) == ([1], CloseCode.KICKED)
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def _failed() -> Any:
    from twisted.internet.defer import fail

    return fail(ZeroDivisionError())


# --------------------------------------------------------------------------------------------------- request


def test_a_request_reaches_the_client_wherever_it_is() -> None:
    cluster, a, b = pair()
    bob = b.login("bob")
    timers = len(cluster.clock.getDelayedCalls())
    answers = [outcome(rig.node.request(BOB, "app", "where", b"\xff")) for rig in (a, b)]
    cluster.settle()
    questions = bob.of(Request)
    assert [(one.service, one.method, one.body) for one in questions] == [("app", "where", b"\xff")] * 2
    assert all(9_000 < one.deadline_ms <= 10_000 for one in questions)
    bob.send(*(Response(one.id, 0, f"home {one.id}".encode()) for one in questions))
    assert sorted(answers) == [[b"home 1"], [b"home 2"]]
    assert len(cluster.clock.getDelayedCalls()) == timers, "nobody waits any more"


def test_the_clients_own_code_comes_along() -> None:
    cluster, a, b = pair()
    bob = b.login("bob")
    asking = outcome(a.node.request(BOB, "app", "where", b""))
    cluster.settle()
    bob.send(Response(1, 142, b"not now"))
    assert code(asking) == 142
    assert asking[0].body == b"not now"


def test_a_client_that_is_nowhere() -> None:
    cluster, a, b = pair()
    asking = outcome(a.node.request(BOB, "app", "where", b""))
    b.login("bob").cut()  # it may come back, and is not connected
    gone = outcome(a.node.request(BOB, "app", "where", b""))
    cluster.settle()
    assert code(asking) == code(gone) == ResponseCode.GONE


def test_a_client_whose_node_is_dead() -> None:
    cluster, a, b = pair()
    b.login("bob")
    cluster.facets[1].die()
    asking = outcome(a.node.request(BOB, "app", "where", b""))
    cluster.settle()
    assert code(asking) == ResponseCode.GONE


@pytest.mark.parametrize("mute", ["client", "tell", "sessions"])
def test_nobody_waits_beyond_the_deadline(mute: str) -> None:
    cluster, a, b = pair()
    b.login("bob")
    cluster.facets[0].mute.add(mute)
    asking = outcome(a.node.request(BOB, "app", "where", b"", 3.0))
    cluster.advance(2.75)
    assert asking == []
    cluster.advance(0.5)
    assert code(asking) == ResponseCode.DEADLINE


@pytest.mark.parametrize("where", ["elsewhere", "here"])
def test_a_process_that_stood_still_beyond_the_deadline_asks_nobody(where: str) -> None:
    """What the store said meanwhile is read before the timers run."""
    cluster, a, b = pair()
    bob = b.login("bob")
    held: Deferred[Any] = Deferred()
    cluster.facets[0].sessions = lambda user: held  # type: ignore[method-assign]
    asking = outcome(a.node.request(BOB, "app", "where", b"", 3.0))
    if where == "here":
        bob = a.login("bob")
    cluster.clock.rightNow += 3.0
    held.callback((Presence(BOB, "", "b.1", 1, 0, True),))
    assert code(asking) == ResponseCode.DEADLINE
    cluster.settle()
    assert (bob.of(Request), bob.code) == ([], None)


def test_sixteen_questions_to_a_session_whoever_asks() -> None:
    cluster, a, b = pair()
    bob = b.login("bob")
    asking = [outcome((a, b)[n % 2].node.request(BOB, "app", "m", b"")) for n in range(18)]
    cluster.settle()
    assert len(bob.of(Request)) == 16
    assert sorted(code(one) for one in asking if one) == [ResponseCode.RATE] * 2


def test_a_wire_without_questions() -> None:
    cluster, a, b = pair()
    wire = AsciiWire()
    bob = b.login("bob", wire=wire)
    b.session("bob").link.codec.encode = lambda frame: None
    asking = outcome(a.node.request(BOB, "app", "m", b""))
    cluster.settle()
    assert (code(asking), bob.of(Request)) == (ResponseCode.FAILED, [])


def test_a_fault_while_a_client_is_asked_for_another_node(flush_logged_errors: Any) -> None:
    cluster, a, b = pair()
    b.login("bob")
    b.node.calls.ask = lambda *question: 1 / 0  # type: ignore[method-assign,assignment]
    asking = outcome(a.node.request(BOB, "app", "m", b""))
    cluster.settle()
    assert code(asking) == ResponseCode.FAILED
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_client_that_moves_while_it_is_looked_for() -> None:
    _cluster, a, b = pair()
    b.login("bob")
    asking = outcome(a.node.request(BOB, "app", "m", b""))  # its node is looked for
    bob = a.login("bob")
    question = bob.of(Request)
    assert question or code(asking) == ResponseCode.GONE


def test_a_node_that_stops_waits_for_nobody() -> None:
    cluster, a, b = pair()
    b.login("bob")
    asking = outcome(a.node.request(BOB, "app", "m", b""))
    cluster.settle()
    a.node.stop()
    cluster.advance(1)
    assert code(asking) == ResponseCode.GONE


# ---------------------------------------------------------------------------------------------------- router


def test_a_router_reaches_sessions_and_has_none() -> None:
    cluster, _a, b = pair()
    bob = b.login("bob")
    from tests.node.cluster_rig import Facet

    facet = Facet(cluster, "router.1")
    peers = Peers(facet, Nowhere(), "router.1", cluster.clock)

    class Listener:
        control = staticmethod(peers.heard)
        attended = staticmethod(lambda log: False)

    facet.start(Listener(), "router.1")
    cluster.facets.append(facet)
    asking = outcome(peers.ask(BOB, "app", "m", b"?", 5.0))
    cluster.settle()
    bob.send(Response(1, 0, b"!"))
    assert asking == [b"!"]
    kicked = outcome(peers.kick("bob", None, "out"))
    cluster.settle()
    assert (kicked, bob.code) == ([1], CloseCode.KICKED)
    asking = outcome(peers.ask(BOB, "app", "m", b"?", 5.0))
    cluster.settle()
    assert code(asking) == ResponseCode.GONE
    assert outcome(peers.drain("router.1", 5)) == outcome(peers.undrain("router.1")) == [False]
    # Somebody takes it for a node.
    peers.heard(encode_control(Undrain()))
    peers.heard(encode_control(Ask(number=1, reply_to="a.1", user="bob", device="phone", service="s")))
    assert not Nowhere().has(BOB)
    cluster.settle()


# ----------------------------------------------------------------------------------------------------- drain


def test_another_node_is_drained_and_taken_back() -> None:
    cluster, a, b = pair()
    bobs = [b.login(f"bob{n}") for n in range(40)]
    ordered = outcome(a.node.drain("b.1", 20))
    cluster.settle()
    assert ordered == [1]
    assert (b.node.draining, a.node.draining, cluster.changes) == (True, False, ["b"])
    assert b.health["drain"] == (False, "draining")
    cluster.advance(1)
    gone = sum(peer.code is CloseCode.GOING_AWAY for peer in bobs)
    assert 18 <= gone <= 22
    assert b.node.leaving == {one.field: value for one, value in b.node.measures()}["drain_left"]
    assert b.node.leaving == 40 - gone
    assert b.counters.drained == gone
    ordered = outcome(a.node.undrain("b.1"))
    cluster.advance(2)
    assert (ordered, b.node.peers.orders, a.node.peers.orders) == ([2], 2, 0)
    assert sum(peer.code is None for peer in bobs) == 40 - gone, "who was not sent away stays"
    assert (b.node.draining, b.node.leaving, b.health["drain"]) == (False, 0, (True, ""))
    assert cluster.changes == ["b", "b"]
    late = b.login("late")
    assert late.kinds() == [Welcome]
    stay = next(peer for peer in bobs if peer.code is None)
    stay.publish("1", "user:late")
    assert late.shown() == ["1"]


def test_a_node_that_stops_takes_no_order() -> None:
    cluster, a, b = pair()
    b.login("bob")
    b.node.stop()
    ordered = outcome(a.node.drain("b.1", 20))
    cluster.settle()
    assert ordered == [0]


def test_an_order_that_is_not_answered() -> None:
    """An older node drains, and says nothing; an older router asks for no answer."""
    cluster, a, b = pair()
    listener = cluster.facets[1].listener
    heard, listener.control = listener.control, lambda payload: None
    ordered = outcome(a.node.drain("b.1", 20))
    cluster.advance(4.75)
    assert ordered == []
    cluster.advance(0.5)
    assert ordered == [-1]
    heard(encode_control(Drain(rate=20)))
    cluster.settle()
    assert b.node.draining


def test_nobody_to_drain() -> None:
    cluster, a, _ = pair()
    assert outcome(a.node.drain("c.9", 500)) == outcome(a.node.undrain("c.9")) == [False]
    assert dict(a.node.nodes()) == cluster.infos


@pytest.mark.parametrize("others", [True, False])
def test_whoever_comes_while_the_node_drains_is_sent_on_at_once(others: bool) -> None:
    cluster, a, b = pair()
    if not others:
        del cluster.infos["b.1"]
    bob = a.login("bob")
    assert outcome(a.node.drain("a.1", 500)) == [1]
    late = a.login("late")
    cluster.advance(0.25)
    assert late.kinds() == [Bye]
    assert a.tokens.asked == 1
    assert bob.code is CloseCode.GOING_AWAY
    assert not a.listener.events, "it listens on"
    bye = bob.bye
    assert bye is not None
    assert bye.endpoints == (("tcp://b:7901",) if others else ())
    assert bye.retry_after_ms == (500 if others else 3_000)
    again = a.login("bob")
    assert again.bye is not None
    assert again.bye.retry_after_ms == (500 if others else 10_000)
    if others:
        assert b.login("bob").of(Welcome)
        assert a.session("bob") is None


def test_only_ready_nodes_with_the_same_wire_are_named() -> None:
    cluster, a, _ = pair()
    cluster.infos["b.1"] = NodeInfo("b", "b.1", NodeState.DRAINING, cluster.infos["b.1"].served)
    bob, odd = a.login("bob"), a.login("odd", wire=AsciiWire("ascii"))
    cluster.infos["c.1"] = NodeInfo("c", "c.1", served=(Served("ascii", "memory", "tcp://c:1"),))
    a.node.drain("a.1", 500)
    cluster.advance(0.25)
    assert bob.bye is not None
    assert odd.bye is not None
    assert (bob.bye.endpoints, odd.bye.endpoints) == ((), ("tcp://c:1",))


def test_a_node_that_stops_names_others_too() -> None:
    cluster, a, _ = pair()
    bob = a.login("bob")
    a.node.stop()
    cluster.settle()
    assert bob.bye is not None
    assert bob.bye.endpoints == ("tcp://b:7901",)


def test_the_pace_is_kept() -> None:
    cluster, a, _ = pair()
    peers = [a.login(f"u{n}") for n in range(1_000)]
    began = cluster.clock.seconds()
    a.node.drain("a.1", 500)
    half = 0.0
    while a.node.leaving:
        cluster.clock.advance(0.05)
        cluster.settle()
        if not half and a.node.leaving <= 500:
            half = cluster.clock.seconds() - began
    assert 0.9 <= half <= 1.1
    assert 1.8 <= cluster.clock.seconds() - began <= 2.2
    assert {peer.code for peer in peers} == {CloseCode.GOING_AWAY}
    assert a.counters.drained == 1_000


def test_a_process_that_was_busy_makes_up_for_a_quarter_of_a_second() -> None:
    cluster, a, _ = pair()
    for n in range(1_000):
        a.login(f"u{n}")
    a.node.drain("a.1", 500)
    cluster.clock.advance(0.2)  # late by three ticks
    cluster.settle()
    assert 865 <= a.node.leaving <= 885
    cluster.clock.advance(1.5)
    cluster.settle()
    assert 740 <= a.node.leaving <= 760


def test_another_pace_in_the_middle() -> None:
    cluster, a, _ = pair()
    for n in range(100):
        a.login(f"u{n}")
    a.node.drain("a.1", 0)  # as slow as can be
    cluster.advance(1)
    assert a.node.leaving >= 98
    a.node.drain("a.1", 1_000)
    cluster.advance(0.25)
    assert a.node.leaving == 0
    assert cluster.changes == ["a"]


def test_who_waits_for_outcomes_leaves_with_them_or_stays_if_it_is_taken_back() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice, bob = rig.login("alice"), rig.login("bob")
    for peer in (alice, bob):
        peer.publish("1", "user:x")
    rig.node.drain("n.1", 500)
    rig.advance(1)
    assert (alice.code, bob.code, rig.node.leaving) == (None, None, 2)
    rig.broker.release("publish")
    rig.advance(0.25)
    assert alice.kinds() == [Welcome, PublishAck, Bye]
    rig.node.undrain("n.1")
    rig.broker.release("publish")
    bob.publish("2", "user:x")
    rig.broker.release("publish")
    rig.settle()
    assert bob.kinds() == [Welcome, PublishAck, PublishAck], "it is read again"
    assert rig.node.leaving == 0


def test_who_waits_for_outcomes_and_goes_by_itself() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice = rig.login("alice").publish("1", "user:x")
    rig.node.drain("n.1", 500)
    rig.advance(0.25)
    alice.cut()
    rig.advance(0.25)
    assert rig.node.leaving == 0
    assert rig.counters.drained == 0


def test_a_login_that_was_under_way_has_its_turn_later() -> None:
    rig = Rig()
    rig.tokens.hold = True
    bob = rig.login("bob")
    rig.node.drain("n.1", 500)
    rig.tokens.release()
    rig.settle()
    assert bob.kinds() == [Welcome]
    bob.send(Ping(1))
    rig.advance(IDLE_S + 0.25)
    assert bob.code is CloseCode.GOING_AWAY


def test_who_has_not_greeted_is_answered_when_it_does() -> None:
    rig = Rig()
    slow = rig.connect()
    rig.node.drain("n.1", 500)
    rig.advance(2)
    assert slow.code is None
    slow.send(Hello("slow", "phone"))
    assert slow.kinds() == [Bye]


def test_a_node_that_drains_can_be_stopped_and_is_not_drained_when_it_stops() -> None:
    rig = Rig(set={"node.drain_rate": 1_000})
    peers = [rig.login(f"u{n}") for n in range(50)]
    rig.node.drain("n.1", 1)
    rig.advance(1)
    stopped = outcome(rig.node.stop())
    assert outcome(rig.node.drain("n.1", 5)) == outcome(rig.node.undrain("n.1")) == [False]
    assert rig.node.draining
    rig.advance(1)
    assert stopped == [None]
    assert {peer.code for peer in peers} == {CloseCode.GOING_AWAY}
    assert rig.clock.getDelayedCalls() == []


def test_a_node_that_stops_never_says_that_nobody_is_left_while_somebody_is() -> None:
    told: list[int] = []
    rig = Rig(set={"node.drain_rate": 1}, changed=lambda: told.append(rig.node.leaving))
    for n in range(50):
        rig.login(f"u{n}")
    told.clear()
    rig.node.drain("n.1", 1)
    rig.node.stop()
    assert told
    assert min(told) >= 49


def test_to_take_back_who_was_not_drained_is_nothing() -> None:
    rig = Rig()
    assert outcome(rig.node.undrain("n.1")) == [True]
    assert "drain" not in rig.health


class Weary(Diary):
    """Has enough when the first client has gone: says so once, from within the drain's turn."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.node: Any = None
        self.does: Any = None

    def closed(self, session: Any, code: int, reason: str) -> None:
        does = self.does
        if does is not None and len(self.node.hub.sessions) <= self.least:
            self.does = None
            does(self.node)


@pytest.mark.parametrize("least", [19, 15], ids=["the first turn", "a later one"])
@pytest.mark.parametrize("rate", [40, 500])
def test_who_hears_of_a_client_that_left_may_take_the_node_back(least: int, rate: int) -> None:
    weary = Weary(least)
    rig = Rig(set={"session.linger_s": 0.0}, listeners=[weary])
    weary.node, weary.does = rig.node, lambda node: node.undrain("n.1")
    peers = [rig.login(f"u{n}") for n in range(20)]
    rig.node.drain("n.1", rate)
    rig.advance(5)
    assert sum(peer.code is None for peer in peers) == least, "who has not been told to go stays"
    assert (rig.node.draining, rig.node.leaving, rig.health["drain"]) == (False, 0, (True, ""))
    late = rig.login("late")
    rig.advance(2)
    assert late.kinds() == [Welcome]
    stays = next(peer for peer in peers if peer.code is None)
    stays.publish("1", "user:late")
    assert late.shown() == ["1"], "it is read again"


def test_who_hears_of_a_client_that_left_may_stop_the_node() -> None:
    weary = Weary(19)
    rig = Rig(set={"session.linger_s": 0.0}, listeners=[weary])
    stopped: list[Any] = []
    weary.node, weary.does = rig.node, lambda node: stopped.append(outcome(node.stop()))
    peers = [rig.login(f"u{n}") for n in range(20)]
    rig.node.drain("n.1", 40)
    rig.advance(1)
    assert stopped == [[None]]
    assert {peer.code for peer in peers} == {CloseCode.GOING_AWAY}
    assert rig.counters.drained == 20, "each is told once"
    assert rig.clock.getDelayedCalls() == []


def test_who_hears_of_a_client_that_left_may_have_no_time_left_for_a_stop() -> None:
    """The second stop drops everybody, also from within the first one's first turn."""
    weary = Weary(19)
    rig = Rig(set={"session.linger_s": 0.0, "node.drain_rate": 40}, listeners=[weary])
    peers = [rig.login(f"u{n}") for n in range(20)]
    weary.node, weary.does = rig.node, lambda node: node.stop()
    stopped = outcome(rig.node.stop())
    rig.advance(0.25)
    assert stopped == [None]
    assert len(rig.broker.named("stop")) == 1
    assert all(peer.server.lost for peer in peers)
    assert rig.clock.getDelayedCalls() == []
