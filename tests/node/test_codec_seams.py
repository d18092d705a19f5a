"""What a codec may leave to the node: its window, its record, whom its greeting names, and sending again."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from msgspec.structs import replace
from zope.interface import implementer

from imgateway.core.policy import may
from imgateway.errors import BadFrame, CloseCode, LoginRefused
from imgateway.frames import (
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Hello,
    Keep,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    Renew,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity, IInterceptor, Verdict
from imgateway.node import ingress
from imgateway.node.link import Pause
from imgateway.wire.messages import decode_message
from tests.node.rig import EPOCH, AsciiCodec, AsciiWire, Diary, Rig

BOB = SessionKey("bob", "phone")
ROOM = parse_address("room:7")
ALICE = user_address("alice")


# ---------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [1, 2, 3, 5, 63])
def test_no_more_is_on_its_way_than_the_codec_wants(window: int) -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(window=window))
    rig.mail("bob", *(b"x" for _ in range(200)))
    acked = 0
    while acked < 200:
        shown = len(bob.shown())
        assert acked < shown <= acked + window
        acked = shown if acked % 2 else acked + 1
        bob.ack(acked)
    assert bob.shown() == [f"m{n}" for n in range(1, 201)]


def test_live_entries_fill_the_window_too() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(window=2))
    for _ in range(5):
        rig.mail("bob", b"x")
    assert bob.shown() == ["m1", "m2"]
    bob.ack(1)
    bob.ack(2)
    assert bob.shown() == ["m1", "m2", "m3", "m4"]


def test_the_node_may_want_less_and_others_of_the_wire_have_their_own() -> None:
    rig = Rig(set={"limits.deliver_window_entries": 4})
    wire = AsciiWire(window=9)
    bob = rig.login("bob", wire=wire)
    wire.window = 3
    pad = rig.login("bob", "pad", wire=wire)
    plain = rig.login("bob", "web")
    rig.mail("bob", *(b"x" for _ in range(9)))
    assert [len(peer.shown()) for peer in (bob, pad, plain)] == [4, 3, 4]


def test_what_is_parked_is_offered_in_the_window() -> None:
    rig = Rig()
    rig.mail("bob", *(b"\xff" for _ in range(6)))
    rig.login("bob", wire=AsciiWire()).cut()
    assert rig.broker.parked[BOB] == (1, 2, 3, 4, 5, 6)
    rig.mail("bob", b"7")
    bob = rig.login("bob", wire=AsciiWireForAll(window=2))
    assert bob.shown() == ["m1", "m2"]
    bob.ack(2)
    bob.ack(4)
    bob.ack(6)
    assert bob.shown() == [f"m{n}" for n in range(1, 8)]


class AsciiWireForAll(AsciiWire):
    """Says everything, one entry at a time."""

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        codec = super().codec(stream, max_frame_bytes)
        codec.encode = codec._inner.encode
        return codec


# ---------------------------------------------------------------------------------------------------- records


def keeping(frame: Any) -> Any:
    """A record goes before each publish: its id."""
    if type(frame) is Publish:
        yield Keep(frame.msg_id.encode())
    yield frame


def test_a_record_is_on_its_way_before_what_follows_it() -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    bob.together(*(Publish(str(n), (user_address("eve"),)) for n in range(3)))
    order = [call[2] if call[0] == "record" else call[1].message.msg_id for call in rig.broker.calls[-6:]]
    assert order == [b"0", "0", b"1", "1", b"2", "2"]
    assert bob.of(PublishAck)


def ids(rig: Rig, *names: str) -> list[str]:
    return [one[0].message.msg_id for one in rig.broker.named(*names)]


@pytest.mark.parametrize("qos", [0, 1])
def test_what_follows_a_record_is_published_once_that_is_kept(qos: int) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = lambda frame: keeping(frame) if getattr(frame, "msg_id", "") in "03" else (frame,)
    bob, eve = rig.login("bob", wire=wire), rig.login("eve")
    rig.broker.hold.add("record")
    to = (user_address("eve"),)
    bob.together(*(Publish(str(n), to, qos=qos) for n in range(3)))
    bob.send(Ping(7))
    bob.together(*(Publish(str(n), to, qos=qos) for n in range(3, 5)))
    eve.publish("e", "user:bob")
    assert ids(rig, "publish", "emit") == ["e"], "others do not wait"
    assert bob.of(Pong), "and what is no publish does not"
    rig.broker.release("record")
    assert ids(rig, "publish", "emit") == ["e", "0", "1", "2"]
    rig.broker.release("record")
    rig.settle()
    assert ids(rig, "publish", "emit") == ["e", "0", "1", "2", "3", "4"]
    assert [ack.msg_id for ack in bob.of(PublishAck)] == (["0", "1", "2", "3", "4"] if qos else [])
    assert rig.session("bob").chain is None
    bob.together(Publish("5", to, qos=qos))
    assert ids(rig, "publish", "emit")[-1] == "5"


def test_records_that_are_kept_in_another_order_change_nothing() -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    bob.together(*(Publish(str(n), (user_address("eve"),)) for n in range(3)))
    rig.broker.release("record", 1)
    assert ids(rig, "publish") == []
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0", "1"]
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0", "1", "2"]


@pytest.mark.parametrize("late", [False, True])
def test_without_its_record_nothing_is_published(late: bool) -> None:
    """Somebody else has the session: there the client sends it again."""
    rig = Rig()
    wire = AsciiWire()
    wire.reads = lambda frame: keeping(frame) if getattr(frame, "msg_id", "") == "1" else (frame,)
    bob = rig.login("bob", wire=wire)
    rig.broker.is_kept = False
    if late:
        rig.broker.hold.add("record")
    bob.together(*(Publish(str(n), (user_address("eve"),)) for n in range(3)))
    if late:
        rig.broker.release("record")
    bob.publish("3", "user:eve")
    assert ids(rig, "publish") == ["0"]
    assert bob.code is None, "why it must go it is told by whoever knows"
    rig.broker.listener.displaced(BOB, rig.session("bob").generation, CloseCode.REPLACED, "taken over")
    rig.settle()
    assert bob.code is CloseCode.REPLACED
    assert ids(rig, "publish") == ["0"]


def test_a_record_that_comes_to_nothing_after_its_link_changes_nothing() -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    bob.publish("0", "user:eve")
    bob.cut()
    rig.broker.is_kept = False
    rig.broker.release("record")
    assert ids(rig, "publish") == []
    rig.broker.is_kept = True
    again = rig.login("bob", wire=wire)
    again.publish("0", "user:eve")
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0"]


def test_what_was_said_before_the_link_was_lost_is_published_when_its_record_is_kept() -> None:
    """Clients say goodbye without waiting for their answers."""
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    bob.together(Publish("0", (user_address("eve"),)), Bye(CloseCode.NORMAL))
    assert ids(rig, "publish") == []
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0"]


@pytest.mark.parametrize("qos", [0, 1])
def test_what_was_said_in_a_room_counts_though_its_sender_left_it_behind_that(qos: int) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    bob.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(Publish("in", (ROOM,), qos=qos), Unsubscribe(ROOM), Publish("out", (ROOM,), qos=qos))
    rig.broker.release("record")
    rig.broker.release("record")
    rig.settle()
    assert ids(rig, "publish", "emit") == ["in"]


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_will_comes_behind_what_was_said_before_it(qos: int, is_kept: bool) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    will = Publish("will", (user_address("eve"),), qos=qos)
    bob = rig.login("bob", wire=wire, will=will)
    rig.broker.hold.add("record")
    bob.publish("0", "user:eve")
    bob.cut()
    rig.advance(60)
    assert ids(rig, "publish", "emit") == []
    rig.broker.is_kept = is_kept
    rig.broker.release("record")
    rig.settle()
    # What is not kept its client says again elsewhere; but that it was cut off here is so.
    assert ids(rig, "publish", "emit") == (["0", "will"] if is_kept else ["will"])
    assert rig.node.ingress._chained == 0


def test_a_record_that_fails_closes_the_link(flush_logged_errors: Any) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    bob.together(*(Publish(str(n), (user_address("eve"),)) for n in range(3)))
    rig.broker.fail("record", ZeroDivisionError())
    rig.settle()
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert ids(rig, "publish") == []
    assert flush_logged_errors(ZeroDivisionError)


def test_all_that_waits_for_records_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "CHAINED_BYTES", 4_000)
    rig = Rig()
    wire = AsciiWire()
    wire.reads = lambda frame: keeping(frame) if getattr(frame, "msg_id", "") == "0" else (frame,)
    peers = [rig.login(name, wire=wire) for name in ("bob", "ann", "joe")]
    rig.broker.hold.add("record")
    for peer in peers:
        for n in range(4):
            peer.publish(str(n), "user:eve")
    held = [len(rig.session(name).chain) - 1 for name in ("bob", "ann", "joe")]
    assert held == [4, 1, 1]
    assert not any(peer.server.reading for peer in peers[1:])
    for _ in peers:
        rig.broker.release("record")
        rig.settle()
    assert all(peer.server.reading for peer in peers)
    assert ids(rig, "publish") == ["0", "1", "2", "3"] * 3
    assert rig.node.ingress._chained == 0


# Where records and messages stand in one line to the disk, only what never touches it waits.

EVE = user_address("eve")


def in_line(**how: Any) -> tuple[Rig, AsciiWire]:
    rig = Rig(**how)
    rig.broker.in_line = True
    wire = AsciiWire()
    wire.reads = lambda frame: keeping(frame) if getattr(frame, "msg_id", "").endswith("0") else (frame,)
    return rig, wire


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_said_in_a_room_waits_for_the_record_and_what_follows_it_does(qos: int) -> None:
    rig, wire = in_line()
    bob, eve = rig.login("bob", wire=wire), rig.login("eve")
    bob.send(Subscribe(ROOM))
    eve.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(Publish("0", (EVE,)), Publish("1", (EVE, EVE)), Publish("2", (EVE, ROOM)), Ping(1))
    bob.together(Publish("3", (EVE,), qos=qos), Publish("4", (ROOM,), qos=qos))
    eve.publish("e", "room:7")
    assert ids(rig, "publish", "emit") == ["0", "1", "e"]
    assert bob.of(Pong)
    rig.broker.release("record")
    rig.settle()
    assert ids(rig, "publish", "emit") == ["0", "1", "e", "2", "3", "4"]
    assert [ack.msg_id for ack in bob.of(PublishAck)] == ["0", "1", "2", *(["3", "4"] if qos else [])]
    assert rig.session("bob").chain is None
    assert (rig.node.ingress._chained, rig.node.ingress._unwritten) == (0, {})
    bob.publish("5", "room:7")
    assert ids(rig, "publish")[-1] == "5"


def test_what_was_said_at_qos_0_in_a_room_has_no_id_that_comes_again() -> None:
    rig, wire = in_line()
    bob = rig.login("bob", wire=wire)
    bob.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(Publish("0", (EVE,)), Publish("1", (ROOM,), qos=0))
    assert ids(rig, "publish", "emit") == ["0", "1"]


def test_a_newer_record_is_waited_for_by_what_comes_after_it() -> None:
    rig, wire = in_line()
    bob = rig.login("bob", wire=wire)
    bob.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(Publish("0", (EVE,)), Publish("1", (ROOM,)), Publish("10", (EVE,)), Publish("2", (ROOM,)))
    assert ids(rig, "publish") == ["0"]
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0", "1", "10"]
    rig.broker.release("record")
    assert ids(rig, "publish") == ["0", "1", "10", "2"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_said_in_a_room_without_its_record_goes_nowhere(
    fails: bool, flush_logged_errors: Any
) -> None:
    rig, wire = in_line()
    bob = rig.login("bob", wire=wire)
    bob.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(*(Publish(str(n), (ROOM,)) for n in range(3)))
    if fails:
        rig.broker.fail("record", ZeroDivisionError())
    else:
        rig.broker.is_kept = False
        rig.broker.release("record")
    rig.settle()
    bob.publish("3", "room:7")
    assert ids(rig, "publish") == []
    assert bob.code is (CloseCode.INTERNAL_ERROR if fails else None)
    assert (rig.node.ingress._chained, rig.node.ingress._unwritten) == (0, {})
    assert len(flush_logged_errors(ZeroDivisionError)) == fails


def test_all_that_waits_for_records_is_bounded_where_only_rooms_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingress, "CHAINED_BYTES", 4_000)
    rig, wire = in_line()
    peers = [rig.login(name, wire=wire) for name in ("bob", "ann", "joe")]
    for peer in peers:
        peer.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    for peer in peers:
        for n in range(5):
            peer.publish(str(n), "room:7")
    held = [len(rig.session(name).chain) for name in ("bob", "ann", "joe")]
    assert held == [5, 1, 1]
    assert not any(peer.server.reading for peer in peers[1:])
    for _ in peers:
        rig.broker.release("record")
        rig.settle()
    assert all(peer.server.reading for peer in peers)
    assert sorted(ids(rig, "publish")) == sorted(["0", "1", "2", "3", "4"] * 3)
    assert rig.node.ingress._chained == 0


@pytest.mark.parametrize("to", [ROOM, EVE])
def test_what_an_interceptor_sends_to_a_room_waits_for_the_record_as_well(to: Address) -> None:
    @implementer(IInterceptor)
    class Turn:
        name = "turn"

        def before_publish(self, identity: Any, publish: Publish) -> Publish:
            return replace(publish, to=(to,))

    rig, wire = in_line(interceptors=[Turn()])
    bob = rig.login("bob", wire=wire)
    bob.send(Subscribe(ROOM))
    rig.broker.hold.add("record")
    bob.together(*(Publish(str(n), (ALICE,)) for n in range(3)))
    assert ids(rig, "publish") == ([] if to is ROOM else ["0", "1", "2"])
    rig.broker.release("record")
    rig.settle()
    assert ids(rig, "publish") == ["0", "1", "2"]
    # What was asked for is what is answered.
    assert [one.code for ack in bob.of(PublishAck) for one in ack.outcomes] == [OutcomeCode.FORBIDDEN] * 3


# ---------------------------------------------------------------------------------- answers that rely on them


def test_an_answer_is_made_when_its_record_is_kept_and_not_before() -> None:
    rig = Rig()
    wire = AsciiWire()
    said: list[bytes] = []

    def reply() -> bytes:
        return said.pop(0)

    wire.reads = lambda frame: (Keep(b"x", reply=reply),) if type(frame) is Ping else (frame,)
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    bob.together(Ping(1), Ping(2), Ping(3))
    said += [b"", bob.link.codec.encode(Pong(7)), b"never"]
    for _ in range(2):
        rig.broker.release("record")
        rig.settle()
    assert [pong.nonce for pong in bob.of(Pong)] == [7]
    bob.cut()
    rig.broker.release("record")
    assert said == [b"never"]
    assert rig.node.exchange._unwritten == {}


def test_an_answer_that_cannot_be_made_closes_its_link(flush_logged_errors: Any) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = lambda frame: (Keep(b"x", reply=lambda: bytes(1 // 0)),) if type(frame) is Ping else (frame,)
    bob = rig.login("bob", wire=wire)
    bob.send(Ping(1))
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert flush_logged_errors(ZeroDivisionError)


def test_a_link_is_read_on_when_as_few_records_are_under_way_as_now_may_be() -> None:
    rig = Rig(set={"limits.publish_window": 4})
    wire = AsciiWire()
    wire.reads = lambda frame: (Keep(b"x"),) if type(frame) is Ping else (frame,)
    bob = rig.login("bob", wire=wire)
    rig.broker.hold.add("record")
    for n in range(4):
        bob.send(Ping(n))
    rig.node.exchange.limits = replace(rig.node.exchange.limits, publish_window=1)
    assert bob.server.reading
    bob.send(Ping(4))
    for left in range(5):
        assert bob.server.reading is (left > 3), "one may be under way"
        rig.broker.release("record")
        rig.settle()
    assert bob.server.reading


@pytest.mark.parametrize("ends", ["kept", "lost", "another's", "fails"])
def test_a_welcome_waits_for_a_record_that_it_tells_of(ends: str, flush_logged_errors: Any) -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.restores = lambda record: [Keep(b"over", before_welcome=True), Ping(1), Keep(b"new")]
    rig.broker.hold.add("record")
    bob = rig.login("bob", wire=wire)
    bob.send(Ping(2))
    assert bob.kinds() == []
    rig.mail("bob", b"1")
    rig.broker.hold.clear()
    if ends == "lost":
        bob.cut()
    rig.broker.is_kept = ends != "another's"
    if ends == "fails":
        rig.broker.fail("record", ZeroDivisionError())
    else:
        rig.broker.release("record")
    rig.settle()
    assert bob.code is (CloseCode.INTERNAL_ERROR if ends == "fails" else None)
    found = {"kept": [Welcome, Deliver, Pong, Pong], "fails": [Bye]}
    assert bob.kinds() == found.get(ends, [])
    assert rig.broker.records[BOB] == (b"new" if ends == "kept" else b"over")
    assert len(flush_logged_errors(ZeroDivisionError)) == (ends == "fails")


def test_the_record_comes_back_before_welcome_and_its_frames_after_it() -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = keeping
    seen: list[bytes] = []
    wire.restores = lambda record: (
        seen.append(record)
        or (
            [Subscribe(parse_address("room:7")), Publish("restored", (user_address("bob"),))]
            if record
            else []
        )
    )
    bob = rig.login("bob", wire=wire)
    bob.publish("1", "user:eve")
    bob.cut()
    bob = rig.login("bob", wire=wire)
    assert seen == [b"", b"1"]
    assert bob.kinds() == [Welcome, Subscribed, Deliver, PublishAck]


def test_restored_frames_wait_and_go_before_what_the_client_sent_with_its_greeting() -> None:
    rig = Rig(set={"limits.publish_window": 1})
    rig.broker.hold.add("publish")
    wire = AsciiWire()
    wire.restores = lambda record: [Publish(f"r{n}", (user_address("eve"),)) for n in range(2)]
    bob = rig.connect(wire)
    bob.user = "bob"
    bob.together(Hello("bob", "phone"), Ping(1), Publish("own", (user_address("eve"),)))
    published = rig.broker.named("publish")
    assert [one[0].message.msg_id for one in published] == ["r0"]
    assert bob.kinds() == [Welcome]
    for _ in range(3):
        rig.broker.release("publish")
        rig.settle()
    assert [one[0].message.msg_id for one in rig.broker.named("publish")] == ["r0", "r1", "own"]
    assert bob.kinds() == [PublishAck, PublishAck, Pong, PublishAck]


def test_a_restored_record_that_makes_no_sense_closes_its_link_only(flush_logged_errors: Any) -> None:
    rig = Rig()
    wire = AsciiWire()
    other = rig.login("bob", "web", wire=wire)
    wire.restores = lambda record: 1 / 0  # type: ignore[assignment]
    bob = rig.login("bob", wire=wire)
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert flush_logged_errors("a login failed")
    wire.restores = lambda record: [Welcome("", "", "", 0, 0.0, 0, 0, None)]  # type: ignore[list-item, arg-type]
    bob = rig.login("bob", wire=wire)
    assert bob.code is CloseCode.UNEXPECTED_FRAME
    assert other.code is None


def test_a_record_before_the_greeting_is_a_mistake_of_the_wire() -> None:
    rig = Rig()
    wire = AsciiWire()
    wire.reads = lambda frame: (Keep(b"x"), frame)
    assert rig.login("bob", wire=wire).code is CloseCode.UNEXPECTED_FRAME
    assert rig.broker.records == {}


@pytest.mark.parametrize("plain", [True, False])
def test_what_a_codec_puts_off_is_taken_as_if_its_client_had_sent_it(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    monkeypatch.setattr(AsciiCodec, "puts_off", lambda codec: True)
    if not plain:
        monkeypatch.setattr(AsciiCodec, "retry", lambda codec: iter((Pull(ALICE), Ping(1))))
    bob = rig.login("bob", wire=AsciiWire())
    bob.send(Pull(ALICE))
    rig.advance(20)
    bob.send(Ping(2))
    asked = 0 if plain else 4
    assert [one.frame for one in bob.of(Refused)] == ["pull"] * (1 + asked)
    assert [pong.nonce for pong in bob.of(Pong)] == [1] * asked + [2]


@pytest.mark.parametrize("code", [CloseCode.BAD_FRAME, CloseCode.INTERNAL_ERROR])
def test_one_that_fails_then_closes_its_link(
    code: CloseCode, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    def fail(codec: Any) -> Any:
        yield Ping(1)
        raise BadFrame("of its own") if code is CloseCode.BAD_FRAME else ZeroDivisionError

    rig = Rig()
    monkeypatch.setattr(AsciiCodec, "puts_off", lambda codec: True)
    monkeypatch.setattr(AsciiCodec, "retry", fail)
    bob = rig.login("bob", wire=AsciiWire())
    bob.send(Pull(ALICE))
    rig.advance(1)
    assert bob.of(Pong)
    assert bob.code is code
    assert len(flush_logged_errors(ZeroDivisionError)) == (code is CloseCode.INTERNAL_ERROR)


# -------------------------------------------------------------------------------------------- whom it names


def test_a_wire_without_proof_is_believed_and_asks_nobody() -> None:
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", service=True)
    wire = AsciiWire(authenticates=False)
    bob = rig.login("bob", wire=wire, token="", user="bob")
    assert bob.of(Welcome)[0].user == "bob"
    assert rig.tokens.asked == 0
    session = rig.session("bob")
    assert session.identity == Identity("bob")
    assert not may("bob", session.identity.service, {}, "publish", parse_address("all"))
    assert rig.broker.named("open")[-1][0].issued_at_s == 0, "older than any revocation"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_a_name_that_is_none(name: str) -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(authenticates=False), token="", user=name)
    assert bob.code is CloseCode.BAD_FRAME


def test_who_was_revoked_does_not_come_in_without_a_token() -> None:
    rig = Rig("memory")
    wire = AsciiWire(authenticates=False)
    bob = rig.login("bob", wire=wire, token="", user="bob")
    rig.node.revoke("bob", 5)
    rig.settle()
    assert bob.code is CloseCode.REVOKED
    assert rig.login("bob", wire=wire, token="", user="bob").code is CloseCode.REVOKED


def test_a_wire_without_proof_gets_no_rights_from_a_token() -> None:
    rig = Rig()
    rig.tokens.identities["root"] = Identity("bob", service=True)
    bob = rig.login("bob", wire=AsciiWire(authenticates=False), token="", user="bob")
    bob.send(Renew("root"))
    assert bob.code is CloseCode.UNEXPECTED_FRAME


def test_a_refusal_carries_the_applications_own_number() -> None:
    rig = Rig()
    rig.tokens.identities["bad"] = LoginRefused("not you", detail=1030)
    bob = rig.login("bob", token="bad")
    assert bob.bye == Bye(CloseCode.BAD_TOKEN, "not you", detail=1030)
    rig.tokens.identities["bad"] = LoginRefused("not you")
    assert rig.login("bob", token="bad").bye == Bye(CloseCode.BAD_TOKEN, "not you")


# ---------------------------------------------------------------------------------------------- by the order


ORDERED: dict[str, Any] = {"on_same_device": "newest-order-wins", "wire": AsciiWire()}


@pytest.mark.parametrize("broker", [None, "memory"])
def test_who_comes_again_in_the_same_login_takes_over_without_a_word(broker: str | None) -> None:
    diary = Diary()
    rig = Rig(broker, listeners=[diary])
    first = rig.login("bob", order=5, **ORDERED)
    second = rig.login("bob", order=5, **ORDERED)
    assert (first.code, second.code) == (CloseCode.STALE, None)
    third = rig.login("bob", order=6, **ORDERED)
    assert (second.code, third.code) == (CloseCode.REPLACED, None)
    fourth = rig.login("bob")
    assert third.code is CloseCode.REPLACED
    assert [event[0] for event in diary.events] == ["opened", "resumed", "resumed", "resumed"]
    assert rig.session("bob").link is fourth.link


def test_an_older_login_is_turned_away() -> None:
    rig = Rig("memory")
    new = rig.login("bob", order=5, **ORDERED)
    old = rig.login("bob", order=4, **ORDERED)
    assert (old.kinds(), old.bye) == ([Bye], None)
    assert new.code is None
    assert rig.counters.logins_refused[CloseCode.REPLACED] == 1


def test_the_session_of_a_silent_takeover_goes_on_without_a_link() -> None:
    rig = Rig()
    rig.login("bob", order=5, **ORDERED).cut()
    waiting = rig.session("bob")
    rig.broker.hold = {"open"}
    again = rig.login("bob", order=5, **ORDERED)
    rig.hub.displaced(BOB, waiting.generation, CloseCode.STALE, "")
    assert rig.session("bob") is waiting
    rig.broker.release("open")
    rig.settle()
    assert rig.session("bob").link is again.link
    assert again.kinds() == [Welcome]


# ------------------------------------------------------------------------------------------- once more


def test_what_is_not_acknowledged_is_sent_again_when_the_codec_wants_it() -> None:
    rig = Rig()
    wire = AsciiWire(resend_s=5.0, ack_timeout_s=15.0)
    again, asked = Pong(7), []

    def answer(now: float) -> tuple[bytes, float]:
        asked.append(now - begun)
        return wire.codec(True, 1 << 20).encode(again), inf

    wire.agains = answer
    bob = rig.login("bob", wire=wire)
    rig.advance(20)
    assert asked == [], "nothing was delivered"
    bob.send(Ping())
    begun = rig.clock.seconds()
    rig.mail("bob", b"1")
    rig.advance(4.75)
    assert asked == []
    bob.take()
    sent = rig.counters.bytes_out
    rig.advance(0.5)
    assert (asked, bob.kinds()) == ([5.0], [Pong])
    assert rig.counters.bytes_out > sent
    rig.advance(9.25)
    assert len(asked) == 1
    assert bob.code is None
    rig.advance(0.75)
    assert bob.code is CloseCode.ACK_TIMEOUT


def test_it_is_asked_again_when_it_says_and_after_the_next_delivery() -> None:
    rig = Rig()
    wire = AsciiWire(resend_s=5.0, ack_timeout_s=0.0, pings=False, silence_s=inf)
    asked: list[float] = []
    dues = [8.0, inf, inf]
    wire.agains = lambda now: (asked.append(now), (b"", dues.pop(0)))[1]
    bob = rig.login("bob", wire=wire)
    rig.mail("bob", b"1")
    rig.advance(7)
    rig.mail("bob", b"2")
    rig.advance(20)
    assert asked == [5.0, 8.0]
    rig.mail("bob", b"3")
    rig.advance(20)
    assert asked == [5.0, 8.0, 32.0]
    assert len(bob.shown()) == 3


@pytest.mark.parametrize("why", ["paused", "clogged"])
def test_whom_we_do_not_hear_nothing_is_sent_again(why: str) -> None:
    rig = Rig()
    wire = AsciiWire(resend_s=5.0, ack_timeout_s=0.0)
    asked: list[float] = []
    wire.agains = lambda now: (asked.append(now), (b"", inf))[1]
    bob = rig.login("bob", wire=wire)
    rig.mail("bob", b"1")
    if why == "paused":
        bob.link.pause(Pause.STORE)
    else:
        bob.stop_reading()
        rig.mail("bob", b"2")
    rig.advance(12)
    assert asked == []
    if why == "paused":
        bob.link.resume(Pause.STORE)
    else:
        bob.read_on()
    rig.advance(5)
    assert len(asked) == 1


def test_who_can_take_it_again_has_time_to_answer() -> None:
    rig = Rig()
    wire = AsciiWire(resend_s=5.0, ack_timeout_s=0.0)
    asked: list[float] = []
    wire.agains = lambda now: (asked.append(now - able), (b"", inf))[1]
    bob = rig.login("bob", wire=wire)
    rig.mail("bob", b"1")
    bob.stop_reading()
    rig.mail("bob", b"2")
    rig.advance(14)  # it would be asked for the third time in a second
    bob.read_on()
    able = rig.clock.seconds()
    rig.advance(4.5)
    assert asked == []
    rig.advance(1)
    assert asked == [5.0]


def test_a_codec_that_raises_there_ends_its_link_only(flush_logged_errors: Any) -> None:
    rig = Rig()
    wire = AsciiWire(resend_s=5.0)
    wire.agains = lambda now: 1 / 0  # type: ignore[assignment, return-value]
    bob, web = rig.login("bob", wire=wire), rig.login("bob", "web")
    rig.mail("bob", b"1")
    rig.advance(6)
    assert bob.gone is not None
    assert rig.session("bob").link is None
    assert web.code is None
    assert flush_logged_errors("raised")


# ---------------------------------------------------------------------------------------------- silence


def test_a_wire_that_never_calls_silence_death() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(pings=False, silence_s=inf))
    rig.advance(10_000)
    assert bob.kinds() == [Welcome]
    rig.mail("bob", b"1")
    rig.advance(31)
    assert bob.code is CloseCode.ACK_TIMEOUT, "its other deadlines count"


def test_a_greeting_may_set_a_limit_that_is_shorter_than_the_time_for_greeting() -> None:
    rig = Rig()
    wire = AsciiWire()

    def reads(frame: Any) -> Any:
        bob.link.codec.silence_s = 1.5
        yield frame

    wire.reads = reads
    bob = rig.connect(wire)
    bob.send(Hello("bob", "phone"))
    rig.advance(1.25)
    assert bob.code is None
    rig.advance(0.75)
    assert bob.code is CloseCode.HEARTBEAT_TIMEOUT


def test_who_is_asked_before_the_time_for_greeting_is_over() -> None:
    rig = Rig(set={"session.heartbeat_s": 2.0, "session.dead_s": 4.0})
    bob = rig.login("bob", wire=AsciiWire(silence_s=100.0))
    rig.advance(2.75)
    assert bob.kinds() == [Welcome]
    rig.advance(0.75)
    assert bob.kinds() == [Ping]


# ------------------------------------------------------------------------------------- gaps that are not said


def test_a_gap_that_the_wire_cannot_say_is_counted_and_told_to_the_business() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    log = rig.broker
    rig.mail("bob", b"1", b"2")
    log.lost[log_of_bob()] = 2
    log.logs[log_of_bob()] = log.logs[log_of_bob()][1:]
    log.read_batch = lambda batch: batch
    bob = rig.login("bob", wire=AsciiWire(gaps=False))
    web = rig.login("bob", "web")
    assert bob.shown() == web.shown() == ["m2"]
    assert (rig.counters.gaps_unsaid, rig.counters.gaps_told) == (1, 1)
    assert diary.events == [
        ("opened", "phone"),
        ("gap", "phone", user_address("bob")),
        ("opened", "web"),
    ]


def log_of_bob() -> Any:
    from imgateway.frames import log_of

    return log_of(user_address("bob"))


def test_it_is_logged_once_a_session() -> None:
    diary = Diary()
    rig = Rig(listeners=[diary])
    for _ in range(3):
        bob = rig.login("bob", wire=AsciiWire(gaps=False), resume=())
        rig.hub.delivery.told_gap(rig.session("bob"), user_address("bob"))
        bob.cut()
    assert rig.counters.gaps_unsaid == 3
    assert len(rig.hub._missing) == 1
    assert [event[0] for event in diary.events].count("gap") == 3
    rig.advance(61)
    assert not rig.hub._missing


# ---------------------------------------------------------------------------------------- wires without acks


def test_what_the_peers_system_has_taken_of_a_stream_has_arrived() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(acks=False))
    rig.mail("bob", b"1", b"2", b"3")
    sizes = bob.sizes[-3:]
    for unacked, acked in [
        (sum(sizes), 0),
        (sum(sizes[1:]) + 1, 0),
        (sum(sizes[1:]), 1),
        (sizes[2], 2),
        (1, 2),
        (0, 3),
    ]:
        bob.server.unacked = lambda unacked=unacked: unacked
        bob.send(Ping())
        assert rig.broker.acked.get(BOB, 0) == acked, unacked
    # What is told nobody is settled with what was sent before it.
    rig.mail("bob", b"4", only_device="web")
    bob.send(Ping())
    assert rig.broker.acked[BOB] == 4


# ----------------------------------------------------------------------------- codecs that write for one link


def test_rooms_reach_links_whose_codecs_write_for_them_alone(flush_logged_errors: Any) -> None:
    rig = Rig("memory")
    wire = AsciiWire(shared=False)
    raising = AsciiWire("raises", shared=False)
    own = [rig.login(name, wire=wire) for name in ("a", "b", "c")]
    bad, plain = rig.login("d", wire=raising), rig.login("e")
    room = parse_address("room:7")
    for peer in (*own, bad, plain):
        peer.send(Subscribe(room))

    def fails(frame: Any, encode: Any = bad.link.codec.encode) -> Any:
        return 1 / 0 if type(frame) is Deliver else encode(frame)

    bad.link.codec.encode = fails
    for n in range(3):
        plain.publish(f"p{n}", "room:7", body=b"hello")
        rig.advance(1)
    for peer in (*own, plain):
        assert peer.shown() == ["p0", "p1", "p2"]
        assert decode_message(peer.of(Deliver)[0].entries[0].message).sender == "e"
    assert bad.shown() == []
    assert {peer.code for peer in (*own, bad, plain)} == {None}
    assert flush_logged_errors("raised")


def test_acknowledgements_of_an_old_epoch_are_passed_over() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(window=2))
    rig.mail("bob", b"1", b"2", b"3")
    bob.send(DeliverAck((Acked(user_address("bob"), EPOCH + 1, 2),)))
    assert bob.shown() == ["m1", "m2"]


def test_the_answer_to_an_outrun_login(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.verdict = Verdict.OUTRUN
    assert rig.login("bob", order=1, **ORDERED).code is CloseCode.REPLACED
