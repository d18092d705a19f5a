"""Bad input, deadlines, peers that do not read: one link ends with its code, the others notice nothing."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from imgateway.core.handshake import LinkState
from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    Hello,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Request,
    Response,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Traits
from imgateway.node.exchange import REMARKS
from imgateway.node.link import Pause
from imgateway.ops.logs import json_line
from imgateway.protocols.native import NativeAdapter
from imgateway.testing.wires import connection_pair
from tests.node.rig import EPOCH, AsciiWire, Peer, Rig

BOB = user_address("bob")


@pytest.fixture
def events() -> Any:
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    yield seen
    globalLogPublisher.removeObserver(seen.append)


def test_all_events_of_a_connection_have_a_trace_of_their_own(events: list[Any]) -> None:
    rig = Rig(set={"log.level": "debug"})
    strangers = [rig.connect() for _ in range(3)]
    told = [peer.link.about()["trace"] for peer in strangers]  # before anybody knows who it is
    assert [trace.rpartition(".")[2] for trace in told] == ["n1", "n2", "n3"]
    known = [rig.login("alice"), rig.login("bob"), strangers[0].send(Hello("eve", "phone"))]
    opened = [event["trace"] for event in events if event.get("log_format") == "session opened"]
    assert len(opened) == 3
    assert opened[2] == told[0]
    assert len({*told, *opened}) == 5
    links = [peer.link for peer in known]
    known[0].cut()
    assert [link.about()["trace"] for link in links] == opened


def test_traces_differ_where_a_broker_counts_each_session_by_itself() -> None:
    rig = Rig("memory")
    traces = []
    for name in ("alice", "bob", "carol", "dave"):
        if name != "dave":
            rig.broker._sessions._generations = count(1)
        traces.append(rig.login(name).link.about()["trace"])
    assert len(set(traces)) == 4


def test_the_connections_are_those_of_strangers_of_sessions_and_of_who_is_just_leaving() -> None:
    rig = Rig()
    stranger, alice, bob = rig.connect(), rig.login("alice"), rig.login("bob")
    assert rig.node.exchange.links == {stranger.link, alice.link, bob.link}
    bob.stop_reading()
    bob.link.close(CloseCode.KICKED, "out")
    assert bob.link.session is None
    assert rig.node.exchange.links == {stranger.link, alice.link, bob.link}
    bob.cut()
    stranger.cut()
    assert rig.node.exchange.links == {alice.link}


# -------------------------------------------------------------------------------------------------- bad input


def test_a_frame_before_hello() -> None:
    rig = Rig()
    early = rig.connect().send(Publish("1", (BOB,)))
    assert early.code is CloseCode.UNEXPECTED_FRAME
    assert early.gone is not None
    assert rig.broker.named("publish", "open") == []
    assert rig.tokens.asked == 0
    assert rig.counters.protocol_errors == {"native": 1}
    assert rig.gate.waiting == 0
    assert not rig.node.exchange.links


def test_bye_before_hello() -> None:
    rig = Rig()
    shy = rig.connect().send(Bye(0))
    assert shy.frames == []
    assert shy.gone is not None
    assert rig.counters.links_closed == {CloseCode.NORMAL: 1}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x03\xff\xff\xff", CloseCode.BAD_FRAME),
        (b"\xff\xff\xff\xff\x0f", CloseCode.FRAME_TOO_LARGE),
        (b"\x80\x80\x80\x80\x80\x80\x80", CloseCode.BAD_FRAME),
    ],
)
@pytest.mark.parametrize("logged_in", [False, True])
def test_garbage_ends_that_link_alone(
    events: list[Any], data: bytes, code: CloseCode, logged_in: bool
) -> None:
    rig = Rig()
    other = rig.login("alice")
    bad = rig.login("bob") if logged_in else rig.connect()
    events.clear()
    bad.raw(data)
    assert bad.code is code
    assert rig.counters.protocol_errors == {"native": 1}
    (line,) = [event for event in events if event["log_level"].name == "info"]
    assert (line["peer"], line["code"], line["wire"]) == (bad.server.peer, code, "native")
    assert json.loads(json_line(line))["code"] == code.name
    other.publish("1", "user:alice")
    assert other.kinds() == [Welcome, Deliver, PublishAck]


def remarks(events: list[Any]) -> list[dict[str, Any]]:
    """The lines that are there for an operator, as JSON has them."""
    return [json.loads(json_line(event)) for event in events if event["log_level"].name == "info"]


def test_what_its_transport_cannot_read_is_in_the_log_and_counted_as_that(events: list[Any]) -> None:
    rig = Rig()
    shy = rig.connect()
    shy.link.lost("TLS failed: http request", CloseCode.BAD_FRAME)
    (line,) = remarks(events)
    assert line["message"] == "closed for what it sent: TLS failed: http request"
    assert (line["code"], line["peer"]) == ("BAD_FRAME", shy.server.peer)
    assert rig.counters.links_closed == {CloseCode.BAD_FRAME: 1}


def test_who_does_not_log_in_in_time_is_in_the_log_with_what_was_waited_for(events: list[Any]) -> None:
    rig = Rig()
    rig.tokens.hold = True
    _, unopened = connection_pair(True, 0)
    unopened.receiver = rig.node.exchange.accept(unopened)
    rig.connect()
    rig.login("bob")
    rig.advance(rig.node.exchange.limits.login_timeout_s + 1)
    lines = remarks(events)
    assert {line["event"] for line in lines} == {"no login in time: waited for {waited_for}"}
    assert {line["code"] for line in lines} == {"LOGIN_TIMEOUT"}
    assert [line["waited_for"] for line in lines] == [
        "the end of TLS, of a PROXY header or of an upgrade",
        "a whole greeting",
        "the check of the token, or the store",
    ]
    assert all(line["peer"] for line in lines)


def test_many_strangers_do_not_fill_the_log(events: list[Any]) -> None:
    rig = Rig()
    strangers = [rig.connect() for _ in range(REMARKS + 50)]
    rig.advance(rig.node.exchange.limits.login_timeout_s + 1)
    assert all(stranger.code is CloseCode.LOGIN_TIMEOUT for stranger in strangers)
    assert len(remarks(events)) == REMARKS
    rig.advance(10)
    rig.connect().raw(b"\x03\xff\xff\xff")
    *_, line = remarks(events)
    assert (line["code"], line["unlogged"]) == ("BAD_FRAME", 50)
    assert "unlogged" not in remarks(events)[0]
    rig.advance(10)
    events.clear()
    for _ in range(REMARKS + 50):
        rig.connect().raw(b"\x03\xff\xff\xff")
    assert len(remarks(events)) == REMARKS
    assert rig.counters.protocol_errors == {"native": REMARKS + 51}


def test_half_a_frame_and_then_nothing() -> None:
    rig = Rig()
    slow = rig.connect().raw(b"\x20\x0a")
    slow.cut()
    assert rig.counters.links_closed == {CloseCode.LOST: 1}
    assert rig.gate.waiting == 0


def test_more_than_may_be_sent_before_welcome(events: list[Any]) -> None:
    rig = Rig(set={"limits.login_bytes": 100})
    loud = rig.connect().raw(b"\x7f" * 101)
    assert loud.code is CloseCode.FRAME_TOO_LARGE
    assert [line["reason"] for line in remarks(events)] == ["more than may be sent before Welcome"]
    assert rig.tokens.asked == 0
    rig.tokens.hold = True
    eager = rig.login("bob")
    eager.server.reading = True  # a transport that already had it in its hands
    eager.raw(b"\x7f" * 101)
    assert eager.code is CloseCode.FRAME_TOO_LARGE
    assert rig.login("bob", stream=False).server.max_message_bytes == 100


def test_after_welcome_a_message_may_be_as_long_as_a_frame() -> None:
    rig = Rig()
    assert rig.login("bob", stream=False).server.max_message_bytes == rig.node.exchange.max_frame_bytes


def test_no_frame_is_larger_than_clients_take() -> None:
    rig = Rig(set={"limits.max_body_bytes": 1_000_000, "limits.deliver_window_bytes": 2_000_000})
    assert rig.node.exchange.max_frame_bytes > 1_048_576
    assert rig.login("bob", stream=False).server.max_message_bytes == 1_048_576
    bob = rig.login("bob")
    rig.mail("bob", *[b"x" * 16_380] * 64)
    assert sum(bob.sizes) > 1_048_576 >= max(bob.sizes)
    assert len(bob.shown()) == 64


def test_a_codec_with_a_fault_of_its_own(flush_logged_errors: Any) -> None:
    class Faulty(AsciiWire):
        def codec(self, stream: bool, max_frame_bytes: int) -> Any:
            codec = super().codec(stream, max_frame_bytes)
            codec.receive = lambda data: 1 / 0
            return codec

    rig = Rig()
    bob = rig.connect(Faulty()).raw(b"x")
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_a_codec_that_cannot_even_say_bye(flush_logged_errors: Any) -> None:
    class Mute(AsciiWire):
        def codec(self, stream: bool, max_frame_bytes: int) -> Any:
            codec = super().codec(stream, max_frame_bytes)
            codec.encode = lambda frame: 1 / 0
            return codec

    rig = Rig()
    bob = rig.connect(Mute()).raw(b"\x7f" * 9000)
    assert bob.frames == []
    assert bob.gone == "aborted"
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


def test_answers_of_the_wire_itself() -> None:
    class Echo(AsciiWire):
        def codec(self, stream: bool, max_frame_bytes: int) -> Any:
            codec = super().codec(stream, max_frame_bytes)
            codec.receive = lambda data: iter([codec.encode(Pong(7))])
            return codec

    rig = Rig()
    assert rig.connect(Echo()).raw(b"x").frames == [Pong(7)]


def test_what_comes_after_the_end_counts_for_nothing() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.link.close(CloseCode.KICKED, "out")
    bob.link.received(b"\x7f" * 100_000)
    bob.link.close(CloseCode.KICKED, "again")
    bob.link.opened(NativeAdapter())
    bob.link(1e9)
    rig.settle()
    assert bob.code is CloseCode.KICKED
    assert rig.counters.links_closed == {CloseCode.KICKED: 1}


# -------------------------------------------------------------------------------------------------- deadlines


def test_ten_seconds_for_the_greeting() -> None:
    rig = Rig()
    logged_in = rig.login("alice")
    idle, trickling, bare = rig.connect(), rig.connect(), rig.node.exchange.accept(rig.connect().server)
    for byte in b"\x7f" * 9:
        rig.advance(1)
        trickling.raw(bytes([byte]))
    assert (idle.code, trickling.code, bare.state) == (None, None, LinkState.CONNECTED)
    rig.advance(1.25)
    assert idle.code is trickling.code is CloseCode.LOGIN_TIMEOUT
    assert bare.state is LinkState.CLOSED
    assert logged_in.code is None
    assert rig.gate.waiting == 1  # the bare one's socket never said that it is gone


def test_any_traffic_is_life_and_silence_is_asked_before_it_is_death() -> None:
    rig = Rig()
    bob = rig.login("bob")
    for _ in range(10):
        rig.advance(40)
        bob.send(Pong())
    assert bob.kinds() == [Welcome]
    rig.advance(52)
    assert bob.kinds() == []
    rig.advance(1)
    assert bob.kinds() == [Ping]
    bob.send(Pong())
    rig.advance(52)
    assert bob.kinds() == []
    rig.advance(1)
    assert bob.kinds() == [Ping]
    rig.advance(21.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.HEARTBEAT_TIMEOUT
    assert rig.session("bob").link is None


def test_a_wire_with_a_limit_of_its_own() -> None:
    rig = Rig()
    short = rig.login("short", wire=AsciiWire(silence_s=20.0))
    quiet = rig.login("quiet", wire=AsciiWire(pings=False, silence_s=100.0))
    rig.advance(19.5)
    assert short.code is None
    rig.advance(1)
    assert short.code is CloseCode.HEARTBEAT_TIMEOUT
    rig.advance(79)
    assert quiet.kinds() == [Welcome]
    rig.advance(1)
    assert quiet.code is CloseCode.HEARTBEAT_TIMEOUT


def test_silence_proves_nothing_while_we_do_not_listen() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.link.pause(Pause.STORE)
    rig.advance(300)
    assert bob.kinds() == [Welcome]
    bob.link.resume(Pause.STORE)
    rig.advance(52)
    assert bob.kinds() == []
    rig.advance(24)
    assert bob.code is CloseCode.HEARTBEAT_TIMEOUT


def test_deliveries_must_be_acknowledged_in_time() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    rig.advance(15)
    rig.mail("bob", b"2")
    rig.advance(10)
    bob.ack(1)
    rig.advance(19.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.ACK_TIMEOUT
    assert rig.session("bob").link is None, "it waits for the client to come back"


def test_acknowledged_in_time_is_never_closed() -> None:
    rig = Rig()
    bob = rig.login("bob")
    for n in range(1, 20):
        rig.mail("bob", b"x")
        rig.advance(20)
        bob.ack(n)
    assert bob.code is None


def test_the_time_for_acknowledging_counts_from_the_flush() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.stop_reading()
    rig.mail("bob", b"1")
    rig.advance(35)
    assert bob.link.state is LinkState.OPEN
    bob.read_on()
    rig.advance(29)
    assert bob.code is None
    rig.advance(2)
    assert bob.code is CloseCode.ACK_TIMEOUT


def test_the_time_for_acknowledging_does_not_count_while_paused() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    bob.link.pause(Pause.STORE)
    rig.advance(100)
    assert bob.code is None
    bob.link.resume(Pause.STORE)
    rig.advance(31)
    assert bob.code is CloseCode.ACK_TIMEOUT


def unacked(peer: Peer, size: int | None) -> None:
    """From now on this is what the peer's system has not acknowledged."""
    peer.server.unacked = lambda: size  # type: ignore[method-assign]


def test_what_is_under_way_to_a_living_device_need_not_be_acknowledged_yet() -> None:
    rig = Rig()
    bob = rig.login("bob")
    unacked(bob, 7)
    rig.mail("bob", b"1")
    for _ in range(30):
        rig.advance(10)
        bob.send(Ping())
    assert bob.code is None
    unacked(bob, 0)
    rig.advance(14)
    assert bob.code is None
    rig.advance(31)
    assert bob.code is CloseCode.ACK_TIMEOUT, "it arrived, and the device says nothing of it"


def test_who_just_got_it_has_half_the_time_at_least() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    unacked(bob, 7)
    rig.advance(14)
    bob.send(Ping())
    rig.advance(1.5)  # half of the time is over
    unacked(bob, 0)
    rig.advance(20)
    assert bob.code is None
    bob.ack(1)
    rig.advance(35)
    assert bob.code is None


@pytest.mark.parametrize("size", [7, 0, None])
def test_the_dead_are_ended_in_time_whatever_is_under_way_to_them(size: int | None) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.advance(10)
    unacked(bob, size)
    rig.mail("bob", b"1")
    rig.advance(29.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.ACK_TIMEOUT


def test_a_device_that_dies_while_something_is_under_way_to_it_is_ended_in_time() -> None:
    rig = Rig()
    bob = rig.login("bob")
    unacked(bob, 7)
    rig.mail("bob", b"1")
    rig.advance(12)
    bob.send(Ping())
    rig.advance(29.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.ACK_TIMEOUT, "after its last word"


def test_no_acknowledgement_is_missed_while_not_all_is_read() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    bob.server.is_behind = lambda: True  # type: ignore[method-assign]
    for _ in range(4):
        rig.advance(50)
        bob.send(Ping())
    assert bob.code is None
    bob.server.is_behind = lambda: False  # type: ignore[method-assign]
    rig.advance(14)
    assert bob.code is None
    rig.advance(31)
    assert bob.code is CloseCode.ACK_TIMEOUT


def stall(rig: Rig, seconds: float) -> None:
    """The reactor does nothing for a while; then what is due comes first, as in a turn of Twisted's."""
    rig.clock.rightNow += seconds
    rig.turn()


def test_what_came_during_a_stall_is_read_before_anybody_is_judged() -> None:
    rig = Rig()
    bob, carol = rig.login("bob"), rig.login("carol")
    rig.mail("bob", b"1")
    carol.client.send(carol.codec.encode(Ping()))
    bob.client.send(bob.codec.encode(DeliverAck((Acked(user_address("bob"), EPOCH, 1),))))
    stall(rig, 90)
    rig.settle()
    rig.advance(20)
    assert bob.code is carol.code is None


def test_who_said_nothing_is_ended_after_a_stall_too() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    stall(rig, 90)
    assert bob.code is None
    stall(rig, 1)
    assert bob.link.state is LinkState.CLOSED, "even if each turn is late"
    rig.settle()
    assert bob.code is CloseCode.HEARTBEAT_TIMEOUT


def test_a_wire_may_never_ask_for_acknowledgements_in_time() -> None:
    rig = Rig()
    peers = [
        rig.login("bob", "a", wire=AsciiWire("a", ack_timeout_s=0.0)),
        rig.login("bob", "b", wire=AsciiWire("b", acks=False)),
    ]
    rig.mail("bob", b"1")
    rig.advance(60)
    assert [peer.code for peer in peers] == [None, None]


def test_a_link_has_few_entries_at_the_wheel() -> None:
    rig = Rig()
    armed: list[float] = []
    arm, rig.node.exchange.arm = rig.node.exchange.arm, lambda due, wake: armed.append(due) or arm(due, wake)
    bob = rig.login("bob")
    for n in range(1, 200):
        rig.mail("bob", b"x")
        bob.ack(n)
        bob.link.pause_sending()
        bob.link.send(Ping())
        rig.settle()
        bob.link.expire_token(rig.clock.seconds() + 3000 + n)
    rig.advance(30)
    assert len(armed) <= 4


# ------------------------------------------------------------------------------------- peers that do not read


def test_unread_answers_stop_the_reading_then_cut_the_link() -> None:
    rig = Rig()
    bob, alice = rig.login("bob"), rig.login("alice")
    bob.stop_reading()
    bob.send(*[Ping(n) for n in range(4)])
    limits = rig.node.settings.limits
    sent = 4
    while bob.server.reading:
        bob.send(Ping(sent))
        sent += 1
    size = bob.server.unsent()
    assert limits.control_pause_bytes <= size < limits.control_pause_bytes + 100
    more = [Ping(n) for n in range(1000)]
    bob.send(*more)
    assert bob.server.unsent() == size, "what it sends stays with it"
    while bob.link.state is LinkState.OPEN:  # others may make the gateway speak
        bob.link.send(Request(1, "s", "m", b"x" * 10_000))
        size = max(size, bob.server.unsent())
    assert size <= limits.control_abort_bytes + 10_100
    assert bob.server.lost
    assert rig.counters.links_closed == {CloseCode.SLOW_READER: 1}
    assert rig.session("bob").link is None, "the session stays"
    alice.publish("1", "user:alice")
    assert alice.shown() == ["m1"] or alice.shown() == ["1"]


def test_unread_answers_age() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.stop_reading()
    rig.mail("bob", b"x" * 1000)  # clogged by a delivery first: that alone may last
    rig.advance(20)
    bob.send(Ping())
    rig.advance(29)
    assert bob.link.state is LinkState.OPEN
    rig.advance(1.5)
    assert bob.link.state is LinkState.CLOSED
    assert rig.counters.links_closed == {CloseCode.SLOW_READER: 1}


def test_answers_of_the_turn_that_clogged_age_too() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.stop_reading()
    bob.together(*[Ping(n) for n in range(20_000)])
    assert bob.link.clogged
    assert not bob.server.reading, "64 KB were passed within one read"
    rig.advance(30.5)
    assert rig.counters.links_closed == {CloseCode.SLOW_READER: 1}


def test_reading_again_forgives() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.stop_reading()
    bob.together(*[Ping(n) for n in range(20_000)])
    rig.advance(29)
    bob.read_on()
    rig.advance(10)
    assert bob.link.state is LinkState.OPEN
    assert len(bob.of(Pong)) == 20_000


def test_publishing_and_never_reading_the_acks() -> None:
    rig = Rig()
    bob, alice = rig.login("bob"), rig.login("alice")
    bob.stop_reading()
    for n in range(20_000):
        if not bob.server.reading:
            break
        bob.publish(str(n), "user:nobody")
    limits = rig.node.settings.limits
    assert bob.server.unsent() < limits.control_pause_bytes + 200
    before = rig.clock.seconds()
    rig.mail("alice", b"at once")
    assert alice.shown() == ["m1"]
    assert rig.clock.seconds() == before


# ------------------------------------------------------------------------------------------- pause and resume


def test_frames_held_while_paused_come_in_order_and_once() -> None:
    rig = Rig()
    rig.broker.hold = {"publish"}
    bob = rig.login("bob")
    bob.link.pause(Pause.STORE)
    frames = [Publish(str(n), (BOB,)) for n in range(10)]
    for frame in frames[:5]:  # what the transport had already read
        bob.link.received(bob.codec.encode(frame))
    bob.link.received(b"".join(bob.codec.encode(frame) for frame in frames[5:]))
    assert rig.broker.named("publish") == []
    bob.link.resume(Pause.CONTROL)
    assert rig.broker.named("publish") == [], "another reason still stands"
    bob.link.resume(Pause.STORE)
    assert [one.message.msg_id for (one,) in rig.broker.named("publish")] == list("0123456789")


def test_pausing_at_every_frame() -> None:
    rig = Rig(set={"limits.publish_window": 1})
    rig.broker.hold = {"publish"}
    bob = rig.login("bob")
    bob.together(*[Publish(str(n), (BOB,)) for n in range(8)])
    bob.link.received(bob.codec.encode(Publish("8", (BOB,))))
    for n in range(9):
        assert len(rig.broker.named("publish")) == n + 1
        rig.broker.release("publish")
        rig.settle()
    assert [ack.msg_id for ack in bob.of(PublishAck)] == list("012345678")
    assert bob.server.reading


def test_resumed_within_the_frame_that_paused() -> None:
    rig = Rig(set={"limits.publish_window": 1})
    bob = rig.login("bob")
    bob.together(*[Publish(str(n), (BOB,)) for n in range(150)])
    assert [ack.msg_id for ack in bob.of(PublishAck)] == [str(n) for n in range(150)]
    assert bob.server.reading


def test_bytes_that_come_while_a_frame_is_handled() -> None:
    rig = Rig()
    bob = rig.login("bob")
    late = [bob.codec.encode(Publish(str(n), (BOB,))) for n in (2, 3)]
    publish, broker = rig.broker.publish, rig.broker

    def reentrant(publication: Any) -> Any:
        if late:
            bob.link.received(late.pop(0))
        return publish(publication)

    broker.publish = reentrant
    bob.publish("1", "user:bob")
    assert [ack.msg_id for ack in bob.of(PublishAck)] == ["1", "2", "3"]


def test_what_waits_is_dropped_with_the_link() -> None:
    rig = Rig()
    bob = rig.login("bob")
    bob.together(Publish("1", (BOB,)), Hello("bob"), Publish("2", (BOB,)))
    assert bob.code is CloseCode.UNEXPECTED_FRAME
    assert [one.message.msg_id for (one,) in rig.broker.named("publish")] == ["1"]
    assert bob.link._left is None


def test_a_response_larger_than_a_frame_is_an_error_not_a_silence() -> None:
    rig = Rig()
    bob = rig.login("bob")
    assert not bob.link.send(Response(1, 0, b"x" * 200_000))
    assert bob.kinds() == [Welcome]


def test_traits_are_the_wires() -> None:
    assert NativeAdapter().traits == Traits(mail=True, compressions=("zstd", "br"))
    assert parse_address("user:bob") == BOB


def test_a_deadline_before_the_one_that_was_waited_for() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.advance(15)
    rig.mail("bob", b"1")
    rig.advance(29.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.ACK_TIMEOUT
