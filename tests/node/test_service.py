"""Start in order, drain in order, reload; frames that come later; memory."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from imgateway.config import Settings
from imgateway.errors import CloseCode, OperatorError
from imgateway.frames import (
    FRAME_NAMES,
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    Keep,
    Notify,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
    Renew,
    Renewed,
    Seen,
    SeenKind,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity
from imgateway.testing.wires import outcome
from tests.node.rig import AsciiWire, FakeListener, Rig
from tests.node.test_calls import Shop

BOB = user_address("bob")
ROOM, AREA, NEWS = map(parse_address, ("room:7", "area:7", "topic:news"))


# ----------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("frame", [Seen(ROOM, SeenKind.READ, 3)], ids=str)
def test_frames_of_later_features_are_refused(frame: Any) -> None:
    rig = Rig()
    bob = rig.login("bob").send(frame)
    assert bob.of(Refused) == [
        Refused(
            FRAME_NAMES[type(frame)], "room:7", RefusedCode.NOT_SUPPORTED, "not supported by this gateway"
        )
    ]
    assert bob.code is None
    assert rig.counters.refused == {RefusedCode.NOT_SUPPORTED: 1}


@pytest.mark.parametrize(
    "frame",
    [
        Renewed(1),
        PublishAck("1", ()),
        Deliver(BOB, 0, 1, 0, 1, ()),
        Subscribed(ROOM, 0),
        Unsubscribed(ROOM),
        Notify((Told(ROOM, 0, 1, 1),)),
        Refused("ping", "", 1),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_frames_that_only_a_gateway_sends(frame: Any) -> None:
    assert Rig().login("bob").send(frame).code is CloseCode.UNEXPECTED_FRAME


def test_ping_is_answered() -> None:
    rig = Rig()
    assert rig.login("bob").send(Ping(7), Pong(1)).of(Pong) == [Pong(7, rig.wall_ms)]


def test_frames_behind_a_goodbye() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.together(Bye(0), Publish("1", (BOB,)))
    bob.together(Publish("1", (BOB,)))
    assert rig.broker.named("publish") == []


# ------------------------------------------------------------------------------------------------ start, stop


def test_start_and_stop_in_order() -> None:
    order: list[str] = []
    listener = FakeListener()
    shop = Shop()
    rig = Rig(start=False, backends=[shop], doors=[lambda accept: order.append("door") or succeed(listener)])
    rig.broker.hold = {"start"}
    result = rig.start()
    assert (result, order, shop.gateway) == ([], [], None)
    assert rig.health["start"] == (False, "starting")
    rig.broker.release("start")
    assert (order, shop.gateway, rig.node.listeners) == (["door"], rig.node, [listener])
    assert rig.health["start"] == (True, "")
    bob = rig.login("bob")
    stopped = outcome(rig.node.stop())
    assert listener.events == ["stop"]
    assert rig.node.exchange.accept(rig.connect().server) is None, "nobody comes in any more"
    rig.advance(1)
    assert bob.code is CloseCode.GOING_AWAY
    assert stopped == [None]
    assert [call[0] for call in rig.broker.calls][-2:] == ["close", "stop"]
    assert rig.health["drain"] == (False, "draining")
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.parametrize("fault", [lambda accept: fail(OperatorError("in use")), lambda accept: 1 / 0])
def test_a_door_that_does_not_open(fault: Any) -> None:
    listener = FakeListener()
    late: Deferred[Any] = Deferred()
    rig = Rig(start=False, doors=[lambda accept: succeed(listener), fault, lambda accept: late])
    result = rig.start()
    assert result == []
    another = FakeListener()
    late.callback(another)
    assert result[0].check(OperatorError, ZeroDivisionError)
    assert listener.events == another.events == ["stop"]
    assert rig.broker.calls[-1] == ("stop",)
    assert rig.clock.getDelayedCalls() == []
    assert outcome(rig.node.stop()) == [None]
    assert rig.broker.named("stop") == [()], "once"


def test_what_comes_before_the_doors_may_fail() -> None:
    order: list[str] = []
    rig = Rig(
        start=False, doors=[lambda accept: order.append("door")], before=lambda: fail(OperatorError("no"))
    )
    assert rig.start()[0].check(OperatorError)
    assert order == []
    assert rig.broker.calls[-1] == ("stop",)


def test_a_store_that_does_not_open() -> None:
    rig = Rig(start=False)
    rig.broker.fails = OperatorError("locked")
    assert rig.start()[0].check(OperatorError)
    assert outcome(rig.node.stop()) == [None]
    assert rig.broker.named("stop") == []


def test_stop_while_starting() -> None:
    rig = Rig(start=False)
    rig.broker.hold = {"start"}
    started = rig.start()
    stopped = outcome(rig.node.stop())
    assert stopped == []
    rig.broker.release("start")
    assert (started, stopped) == ([None], [None])
    assert rig.listener.events == [], "it was never opened"
    assert rig.broker.calls[-1] == ("stop",)


def test_stop_while_the_store_is_waited_for() -> None:
    """Its server is away, and may be for ever."""
    rig = Rig(start=False)
    rig.broker.hold = {"start"}
    started = rig.start()
    stopped = outcome(rig.node.stop())
    assert ("give_up",) in rig.broker.calls
    rig.broker.fail("start", CancelledError())
    assert started[0].check(CancelledError)
    assert stopped == [None]
    assert rig.broker.named("stop") == [], "it was never open"


def test_stop_while_something_else_is_waited_for() -> None:
    """The registry's server, between the store and the doors."""
    waiting: Deferred[None] = Deferred()
    rig = Rig(start=False, before=lambda: waiting)
    started = rig.start()
    stopped = outcome(rig.node.stop())
    assert started[0].check(CancelledError)
    assert stopped == [None]
    assert rig.listener.events == []
    assert rig.broker.calls[-1] == ("stop",)


def test_stop_while_the_doors_open() -> None:
    opening: Deferred[Any] = Deferred()
    rig = Rig(start=False, doors=[lambda accept: opening])
    rig.start()
    stopped = outcome(rig.node.stop())
    opening.callback(rig.listener)
    assert rig.listener.events == ["stop"]
    assert stopped == [None]


@pytest.mark.parametrize(
    ("held", "frame"),
    [
        ("read", Pull(BOB, 0, 0, 0, 9)),
        ("read", Pull(ROOM, 0, 0, 0, 9)),
        ("watch", Subscribe(NEWS)),
        ("follow", Subscribe(NEWS)),
        ("unfollow", Unsubscribe(NEWS)),
        ("leave", Unsubscribe(ROOM)),
        ("renew", Renew("bob")),
        ("record", Ping()),
        ("open", None),
        ("watch", None),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_waits_for_a_server_when_the_node_stops_is_no_failure(held: str, frame: Any) -> None:
    """`frame` None: a greeting. Everybody was sent away before the broker stops."""
    rig = Rig(set={"node.drain_s": 1.0})
    wire = AsciiWire()
    wire.reads = lambda frame: (Keep(b"kept"),) if isinstance(frame, Ping) else (frame,)
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["news"]})
    bob = rig.login("bob", wire=wire).send(Subscribe(ROOM))
    rig.broker.hold = {held}
    if frame is None:
        rig.login("alice")
    else:
        bob.send(frame)
    assert [name for name, _, _ in rig.broker.waiting] == [held]
    stopped = outcome(rig.node.stop())
    rig.advance(1.5)
    assert stopped == [None]
    rig.broker.fail(held, CancelledError())


def test_a_listener_that_does_not_stop(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.listener.stopping = fail(ZeroDivisionError())
    assert outcome(rig.node.stop()) == [None]
    assert rig.broker.calls[-1] == ("stop",)
    assert flush_logged_errors(ZeroDivisionError)


# ------------------------------------------------------------------------------------------------------ drain


def test_draining_is_paced_and_jittered() -> None:
    waits = iter([0.0, 0.999] * 20)
    rig = Rig(set={"node.drain_rate": 20}, random=lambda: next(waits))
    peers = [rig.login(f"u{n}") for n in range(20)]
    stopped = outcome(rig.node.stop())
    rig.settle()
    gone = []
    for _ in range(4):
        rig.clock.pump([0.05] * 5)
        rig.settle()
        gone.append(sum(peer.code is not None for peer in peers))
    assert gone[0] < 8 < gone[1] < 13 < gone[2] < 20
    rig.advance(0.5)
    assert stopped == [None]
    retry = sorted(peer.bye.retry_after_ms for peer in peers)
    assert 0 < retry[0] < 1000
    assert 5000 < retry[-1] < 6000


def test_draining_waits_for_outcomes() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    alice, bob = rig.login("alice"), rig.login("bob")
    alice.publish("1", "user:x")
    stopped = outcome(rig.node.stop())
    rig.advance(1)
    assert bob.code is CloseCode.GOING_AWAY
    assert alice.code is None
    alice.publish("2", "user:x")
    assert len(rig.broker.named("publish")) == 1, "it is not read any more"
    rig.broker.release("publish")
    rig.advance(1)
    assert [type(frame) for frame in alice.frames] == [Welcome, PublishAck, Bye]
    assert stopped == [None]


def test_who_leaves_while_the_node_drains_takes_no_turn() -> None:
    rig = Rig(set={"node.drain_rate": 20})
    peers = [rig.login(f"u{n}") for n in range(40)]
    stopped = outcome(rig.node.stop())
    rig.settle()
    for peer in peers[1:]:
        peer.cut()
    rig.advance(0.5)  # one turn, not forty
    assert peers[0].code in (None, CloseCode.GOING_AWAY)
    peers[0].cut()
    rig.advance(0.25)
    assert stopped == [None]


@pytest.mark.parametrize("way", ["deadline", "second stop"])
def test_draining_ends(way: str) -> None:
    rig = Rig(set={"node.drain_s": 3.0})
    rig.broker.hold = {"publish"}
    alice, deaf = rig.login("alice"), rig.login("deaf")
    greeting = rig.connect()
    alice.publish("1", "user:x")
    deaf.stop_reading()
    stopped = outcome(rig.node.stop())
    rig.advance(1)
    assert greeting.code is CloseCode.GOING_AWAY
    assert stopped == []
    if way == "deadline":
        rig.advance(2.25)
    else:
        rig.node.stop()
        rig.advance(0.25)
    assert stopped == [None]
    assert alice.server.lost
    assert not rig.hub.sessions
    assert rig.clock.getDelayedCalls() == []


def breaks(*_: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("does", ["close", "pause_reading"])
@pytest.mark.parametrize("is_stop", [True, False])
def test_a_connection_that_raises_ends_the_drain_for_nobody_else(
    does: str, is_stop: bool, flush_logged_errors: Any
) -> None:
    rig = Rig(set={"node.drain_rate": 40})
    peers = [rig.login(f"u{n}") for n in range(20)]
    setattr(peers[10].server, does, breaks)
    done = outcome(rig.node.stop() if is_stop else rig.node.drain("n.1", 40))
    rig.advance(1)
    assert done
    assert all(peer.code is CloseCode.GOING_AWAY for peer in peers if peer is not peers[10])
    assert peers[10].server.lost
    assert not rig.node.exchange.links
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_connection_that_cannot_even_be_dropped_holds_the_stop_up_until_its_deadline(
    flush_logged_errors: Any,
) -> None:
    rig = Rig(set={"node.drain_s": 3.0})
    peers = [rig.login(f"u{n}") for n in range(3)]
    peers[1].server.close = peers[1].server.abort = breaks  # type: ignore[method-assign]
    stopped = outcome(rig.node.stop())
    rig.advance(1)
    assert stopped == []
    assert [peer.code for peer in peers] == [CloseCode.GOING_AWAY] * 3
    rig.advance(2.25)
    assert stopped == [None]
    assert flush_logged_errors(ZeroDivisionError)


def test_a_deadline_with_a_fault_of_its_own(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.node.wheel.arm(0, lambda now: 1 / 0)
    rig.node.wheel.arm(0, lambda now: rig.health.update({"after": (True, "")}))
    rig.advance(0.5)
    assert "after" in rig.health
    assert flush_logged_errors(ZeroDivisionError)


# ----------------------------------------------------------------------------------------------------- reload


class Nobody:
    name = "nobody"

    def may(self, *asked: Any) -> bool:
        return False


def changed() -> Settings:
    settings = Settings()
    return replace(
        settings,
        limits=replace(
            settings.limits, max_body_bytes=10, publish_window=2, deliver_window_entries=2, login_pending=1,
            login_burst=7,
        ),
        quota=replace(settings.quota, publish_burst=1, publish_rate=1.0),
        session=replace(settings.session, linger_s=5.0, login_policy="one"),
    )  # fmt: skip


def test_reload() -> None:
    rig = Rig()
    bob, alice = rig.login("bob"), rig.login("alice")
    rig.node.read(changed(), Nobody())()
    bob.publish("1", "user:bob", body=b"x" * 11).publish("2", "user:bob").publish("3", "user:bob")
    assert [ack.outcomes[0].code for ack in bob.of(PublishAck)] == [6, 3], "one is taken on credit"
    rig.advance(2)
    assert [ack.outcomes[0].code for ack in bob.of(PublishAck)] == [6, 3, 3]
    rig.mail("alice", b"1", b"2", b"3")
    assert alice.shown() == ["m1", "m2"]
    rig.login("alice", "web")
    assert rig.broker.named("open")[-1][0].policy.name == "ONE"
    assert rig.login("carol").of(Welcome)[0].limits.max_body_bytes == 10
    rig.connect()
    assert rig.connect().link is None
    bob.cut()
    rig.advance(6)
    assert "bob" not in [session.user for session in rig.hub.sessions]
    assert rig.gate._bucket.burst == 7


@pytest.mark.parametrize("service", [False, True])
def test_clients_are_told_for_how_long_the_broker_knows_a_repeat_in_rooms(service: bool) -> None:
    """It learns of other settings when it is started again."""
    rig = Rig()
    kept = Settings().rooms.dedup_s
    more = replace(Settings(), rooms=replace(Settings().rooms, dedup_s=86_400))
    rig.node.read(more, Nobody())()
    assert rig.node.limits_for(Identity("bob", service=service)).rooms_dedup_s == kept


def test_a_reload_that_fails_changes_nothing() -> None:
    rig = Rig()
    rig.tokens.unreadable = OperatorError("no such file")
    with pytest.raises(OperatorError):
        rig.node.read(changed(), Nobody())
    assert rig.node.settings == Settings()
    bob = rig.login("bob").publish("1", "user:bob", body=b"x" * 11)
    assert bob.of(PublishAck)[0].outcomes[0].code == 0


def test_measures() -> None:
    rig = Rig()
    rig.login("bob")
    rig.login("eve").cut()
    rig.connect()
    deaf = rig.login("deaf")
    deaf.stop_reading()
    deaf.send(Ping())
    values = {measure.field: value for measure, value in rig.node.measures()}
    assert (values["links_open"], values["links_pending"], values["links_accepted"]) == (3, 1, 4)
    assert (values["sessions"], values["sessions_linked"], values["logins"]) == (3, 2, 3)
    assert values["held_unsent_bytes"] == deaf.server.unsent() > 0
    assert values["store_waiting"] == 0
    assert outcome(rig.node.sessions("bob")) == [()]


# ----------------------------------------------------------------------------------------------------- memory


def test_a_closed_link_leaves_no_cycle() -> None:
    rig = Rig("memory")
    gc.collect()
    gc.disable()
    try:
        for end in ("cut", "bye", "kick", "garbage"):
            bob = rig.login("bob")
            bob.publish(end, "user:bob")
            rig.node.request(rig.session("bob").key, "s", "m", b"").addErrback(lambda failure: None)
            ref = weakref.ref(bob.server)
            session = rig.session("bob")
            if end == "cut":
                bob.cut()
            elif end == "bye":
                bob.send(Bye(0))
            elif end == "kick":
                rig.hub.kick("bob", None, "out")
            else:
                bob.raw(b"\x01\xff")
            assert session.link is None
            rig.advance(80)  # the wheel forgets, too
            # What the pipe and its other end hold.
            bob.client.receiver = bob.client.other = bob.server.other = bob.server.receiver = None
            del bob, session
            assert ref() is None, end
    finally:
        gc.enable()


def test_an_idle_session_is_small() -> None:
    rig = Rig(set={"limits.login_burst": 100_000})
    rig.login("warm")
    link_and_session = []
    gc.collect()
    tracemalloc.start()
    try:
        count, before = 300, tracemalloc.get_traced_memory()[0]
        peers = [rig.login(f"user{n}") for n in range(count)]
        # What the fakes hold is not the node's.
        for peer in peers:
            link_and_session.append(peer.link)
            peer.frames.clear()
            peer.sizes.clear()
            peer.server.sent.clear()
            peer.client.sent.clear()
        rig.broker.calls.clear()
        gc.collect()
        node = tracemalloc.get_traced_memory()[0] - before
        rooms = [tracemalloc.Filter(True, f"*/imgateway/{room}/*") for room in ("node", "core")]
        snapshot = tracemalloc.take_snapshot().filter_traces(rooms)
        ours = sum(stat.size for stat in snapshot.statistics("filename"))
    finally:
        tracemalloc.stop()
    assert node > 0
    assert ours / count < 2500


def test_values_of_this_file() -> None:
    assert DeliverAck((Acked(BOB, 1, 1),)).acks[0].upto == 1


def test_who_is_there() -> None:
    rig = Rig("memory")
    rig.login("bob", "phone")
    rig.login("bob", "web").cut()
    found = outcome(rig.node.sessions("bob"))
    rig.settle()
    assert {one.session.device: one.online for one in found[0]} == {"phone": True, "web": False}
