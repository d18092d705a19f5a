"""Publishing: window, order, resending, pace, room, refusals, giving up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import CancelledError

from imgateway.client.store import ClientStore
from imgateway.errors import (
    CloseCode,
    FrameRefused,
    InvalidAddress,
    OutboxFull,
    OutcomeUnknown,
    StoreError,
)
from imgateway.frames import (
    Address,
    Hello,
    Limits,
    Outcome,
    OutcomeCode,
    Publish,
    PublishAck,
    Refused,
    RefusedCode,
    parse_address,
)
from tests.client.fake_gateway import BOB, EPOCH, World, begin, done
from tests.client.test_client_files import disk_under


def ack(publish: Publish, seq: int = 1) -> PublishAck:
    return PublishAck(publish.msg_id, (Outcome(0, EPOCH, seq),))


def test_a_publish_comes_back_with_its_outcomes(world: World) -> None:
    client = world.up()
    sent = client.publish(
        ["user:bob", parse_address("user:eve")], "hällo", ttl_s=9, headers={"b": "2", "a": "1"}
    )
    world.turn()
    assert done(sent) == (Outcome(0, EPOCH, 1), Outcome(0, EPOCH, 1))
    [frame] = world.gateway.log
    assert frame.to == (BOB, parse_address("user:eve"))
    assert (frame.body, frame.content_type, frame.ttl_s) == ("hällo".encode(), "text/plain", 9)
    assert frame.headers == (("a", "1"), ("b", "2"))
    assert not frame.resent
    assert frame.qos == 1


def test_msg_ids_are_unique_across_runs(world: World) -> None:
    for _ in range(3):
        client = world.up()
        for _ in range(5):
            client.publish("user:bob", b"x")
        world.turn()
    assert len({frame.msg_id for frame in world.gateway.log}) == 15
    assert all(1 <= len(frame.msg_id) <= 64 for frame in world.gateway.log)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("nobody", b""), {}),
        (([], b""), {}),
        ((Address("user", "b\nb"), b""), {}),
        ((Address("user", "x" * 65), b""), {}),
        ((Address("user"), b""), {}),
        ((Address("nobody", "bob"), b""), {}),
        ((["user:bob", Address("device", "bob", "")], b""), {}),
        ((Address("user", 7), b""), {}),
        ((Address("device", "bob", 7), b""), {}),
        (([7], b""), {}),
        (("user:bob", b""), {"msg_id": ""}),
        (("user:bob", b""), {"msg_id": "x" * 65}),
        (("user:bob", "\ud800"), {}),
        (("user:bob", b""), {"headers": {"a": "\ud800"}}),
        (("user:bob", b""), {"headers": {"a": 1}}),
        (("user:bob", b""), {"headers": {"a": "x" * 16_368}}),
        (("user:bob", b""), {"msg_id": "\ud800"}),
        (("user:bob", b""), {"msg_id": "order 17\n"}),
        (("user:bob", b""), {"content_type": "x" * 256}),
        (("user:bob", b""), {"content_type": "\ud800"}),
        (("user:bob", b""), {"qos": 2}),
        (("user:bob", b""), {"qos": None}),
        (("user:bob", b""), {"lane": 2}),
        (("user:bob", b""), {"lane": -1}),
        (("user:bob", b""), {"ttl_s": 1.5}),
        (("user:bob", b""), {"ttl_s": 1 << 32}),
        (("user:bob", 12), {}),
        (("user:bob", [1, 2]), {}),
        (("user:bob", b""), {"msg_id": 17}),
        (("user:bob", b""), {"content_type": b"text/plain"}),
    ],
)
def test_what_no_wire_carries_is_refused_at_once(world: World, arguments: Any, options: Any) -> None:
    client = world.up()
    with pytest.raises(ValueError):
        client.publish(*arguments, **options)
    assert issubclass(InvalidAddress, ValueError)
    assert world.gateway.pipe.of(Publish) == []


def test_the_most_that_any_wire_carries(world: World) -> None:
    client = world.up()
    options: Any = {"headers": {"a": "x" * 16_367}, "content_type": "x" * 255, "ttl_s": (1 << 32) - 1}
    client.publish("room:7", b"", lane=True, copy_self=1, **options)
    (publish,) = world.gateway.pipe.of(Publish)
    assert (publish.lane, publish.copy_self, publish.ttl_s) == (1, True, (1 << 32) - 1)
    assert type(publish.lane) is int


def test_questions_that_no_wire_carries(world: World) -> None:
    client = world.up()
    for wrong in (
        lambda: client.request("", "say"),
        lambda: client.request("a\nb", "say"),
        lambda: client.request("clock", "\ud800"),
        lambda: client.request("clock", "set", 12),  # type: ignore[arg-type]
        lambda: client.history("user:me", lane=2),
        lambda: client.history(Address("user", "x" * 65)),
        lambda: client.history("user:me", limit=1 << 32),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_no_more_than_the_window_are_unacknowledged(world: World) -> None:
    world.gateway.limits = Limits(publish_window=3)
    world.gateway.acks = False
    client = world.up()
    sent = [client.publish("user:bob", b"%d" % n) for n in range(5)]
    frames = world.gateway.pipe.of(Publish)
    assert [frame.body for frame in frames] == [b"0", b"1", b"2"]
    world.gateway.pipe.say(ack(frames[1]))
    assert done(sent[1])
    frames = world.gateway.pipe.of(Publish)
    assert [frame.body for frame in frames] == [b"0", b"1", b"2", b"3"]
    # The second of two acknowledgements, and one for nothing we know, change nothing.
    world.gateway.pipe.say(ack(frames[1]), PublishAck("unknown", ()))
    assert len(world.gateway.pipe.of(Publish)) == 4
    for one in sent:
        one.addErrback(lambda reason: None)


def test_a_reconnect_sends_everything_unacknowledged_again_in_order(world: World) -> None:
    world.gateway.limits = Limits(publish_window=4)
    world.gateway.acks = False
    client = world.up()
    sent = [client.publish("user:bob", b"%d" % n) for n in range(6)]
    first = world.gateway.pipe.of(Publish)
    world.gateway.pipe.say(ack(first[1]))
    assert done(sent[1])
    world.gateway.pipe.cut()
    world.wait(1)
    again = world.gateway.pipe.of(Publish)
    assert [frame.body for frame in again] == [b"0", b"2", b"3", b"4"]
    # The fifth had left before the cut, when the window had room; the last never has.
    assert [frame.resent for frame in again] == [True, True, True, True]
    assert [frame.msg_id for frame in again[:3]] == [first[0].msg_id, first[2].msg_id, first[3].msg_id]
    for frame in again:
        world.gateway.pipe.say(ack(frame))
    last = world.gateway.pipe.of(Publish)[-1]
    assert (last.body, last.resent) == (b"5", False)
    world.gateway.pipe.say(ack(last))
    assert all(done(one) for one in [sent[0], *sent[2:]])


def test_offline_publishes_wait_for_the_link(world: World) -> None:
    world.gateway.reachable = False
    client = world.client(wait=True)
    started = client.start()
    sent = client.publish("user:bob", b"x")
    world.wait(1)
    assert not sent.called
    world.gateway.reachable = True
    world.wait(1)
    done(started)
    assert done(sent)
    assert not world.gateway.log[0].resent


def test_nothing_is_sent_while_clogged(world: World) -> None:
    client = world.up()
    world.gateway.pipe.receiver.pause_sending()
    sent = client.publish("user:bob", b"x")
    world.turn()
    assert not sent.called
    world.gateway.pipe.receiver.resume_sending()
    world.turn()
    assert done(sent)


def test_qos_0_is_sent_once_and_has_no_outcome(world: World) -> None:
    client = world.up()
    assert done(client.publish("user:bob", b"x", qos=0)) == ()
    assert [frame.qos for frame in world.gateway.pipe.of(Publish)] == [0]
    world.gateway.pipe.receiver.pause_sending()
    waiting = client.publish("user:bob", b"y", qos=0)
    assert not waiting.called
    world.gateway.pipe.cut()
    assert done(waiting) == ()
    assert done(client.publish("user:bob", b"z", qos=0)) == ()
    world.wait(1)
    assert world.gateway.pipe.of(Publish) == []


def test_a_link_that_breaks_under_the_first_of_several(world: World) -> None:
    client = world.up()
    pipe = world.gateway.pipe
    pipe.receiver.pause_sending()
    first = client.publish("user:bob", b"0", qos=0)
    second = client.publish("user:bob", b"1")
    world.gateway.watch = lambda at, frame: at.cut() if at is pipe else None
    pipe.receiver.resume_sending()
    assert [frame.body for frame in pipe.of(Publish)] == [b"0"]
    assert done(first) == ()
    world.wait(1)
    assert done(second)
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"1"]


def test_a_full_outbox_makes_publish_wait_and_then_says_so(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.client.sending.MAX_LINE", 2)
    world.gateway.acks = False
    client = world.up(outbox_messages=2)
    sent = [client.publish("user:bob", b"%d" % n) for n in range(4)]
    with pytest.raises(OutboxFull):
        client.publish("user:bob", b"4")
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"0", b"1"]
    sent[2].addErrback(lambda reason: None).cancel()
    world.gateway.pipe.say(ack(world.gateway.pipe.of(Publish)[0]))
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"0", b"1", b"3"]
    for frame in world.gateway.pipe.of(Publish)[1:]:
        world.gateway.pipe.say(ack(frame))
    assert done(sent[3])


def test_bytes_bound_the_outbox_too(world: World) -> None:
    world.gateway.acks = False
    client = world.up(outbox_bytes=10)
    for _ in range(3):
        client.publish("user:bob", b"123456").addErrback(lambda reason: None)
    assert len(world.gateway.pipe.of(Publish)) == 2


def test_qos_0_in_the_line_is_dropped_with_the_link(world: World) -> None:
    world.gateway.acks = False
    world.gateway.limits = Limits(publish_window=1)
    client = world.up(outbox_messages=2)
    client.publish("user:bob", b"a").addErrback(lambda reason: None)
    dropped = [client.publish("user:bob", b"b", qos=0), client.publish("user:bob", b"c", qos=0)]
    assert not any(one.called for one in dropped)
    world.gateway.pipe.cut()
    assert [done(one) for one in dropped] == [(), ()]


def test_a_cancelled_publish_goes_on_without_its_caller(world: World) -> None:
    world.gateway.acks = False
    client = world.up()
    sent = client.publish("user:bob", b"x")
    cancelled: list[Any] = []
    sent.addErrback(cancelled.append)
    sent.cancel()
    assert cancelled
    world.gateway.pipe.say(ack(world.gateway.pipe.of(Publish)[0]))
    world.turn()
    assert len(world.gateway.pipe.of(Publish)) == 1


def test_the_same_msg_id_joins_and_another_message_under_it_is_an_error(world: World) -> None:
    world.gateway.acks = False
    client = world.up()
    one = client.publish("user:bob", b"x", msg_id="same")
    two = client.publish("user:bob", b"x", msg_id="same")
    with pytest.raises(ValueError, match="another message"):
        done(client.publish("user:bob", b"y", msg_id="same"))
    [frame] = world.gateway.pipe.of(Publish)
    world.gateway.pipe.say(ack(frame))
    assert done(one) == done(two)


def test_limits_are_kept_here_so_that_the_link_survives(world: World) -> None:
    world.gateway.limits = Limits(max_body_bytes=4, max_addresses=2)
    client = world.up()
    assert done(client.publish(["user:bob", "user:eve"], b"12345")) == (Outcome(OutcomeCode.TOO_LARGE),) * 2
    with pytest.raises(FrameRefused) as refused:
        done(client.publish(["user:a", "user:b", "user:c"], b""))
    assert refused.value.code == RefusedCode.INVALID
    assert world.gateway.pipe.of(Publish) == []


@pytest.mark.parametrize("was_sent", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {"to": (Address("user", "b\nb"),)},
        {"to": ()},
        {"qos": 2},
        {"lane": 2},
        {"ttl_s": -1},
        {"msg_id": "x" * 65},
        {"headers": (("a", "x" * 16_384),)},
    ],
)
def test_what_no_wire_carries_is_taken_out_of_the_file(
    world: World, tmp_path: Path, wrong: dict[str, Any], was_sent: bool
) -> None:
    """Other versions may have written it; what stands behind it does not wait for it in every run."""
    path = str(tmp_path / "box")
    bad = replace(Publish("bad", (BOB,)), **wrong)
    store = ClientStore(path)
    store.put(bad)
    store.put(Publish("good", (BOB,)))
    if was_sent:
        store.sent(bad.msg_id, world.clock.seconds())
    store.own("device:me/phone")
    store.commit()
    store.close()
    words: dict[str, Any] = {}

    def note(publish: Publish, word: Any) -> None:
        words[publish.msg_id] = word

    world.gateway.session = "device:somebody/else"
    with pytest.raises(StoreError):
        world.up(outbox=path, on_outcome=note)
    world.wait(1)
    assert not any(type(word) is FrameRefused for word in words.values()), "it is another's"
    world.gateway.session = "device:me/phone"
    world.up(outbox=path, on_outcome=note)
    world.turn()
    assert [publish.msg_id for publish in world.gateway.log] == ["good"]
    refused = words[bad.msg_id]
    assert isinstance(refused, FrameRefused)
    assert refused.code == RefusedCode.INVALID
    assert words["good"] == (Outcome(0, EPOCH, 1),)
    closing = world.clients[-1].close()
    world.wait(1)
    assert done(closing) is None
    store = ClientStore(path)
    assert list(store.publishes()) == []
    store.close()


def test_what_the_wire_cannot_say_fails_alone(world: World) -> None:
    world.gateway.limits = Limits(max_body_bytes=0)
    client = world.up()
    with pytest.raises(FrameRefused):
        done(client.publish("user:bob", bytes(1 << 20)))
    sent = client.publish("user:bob", b"x")
    world.turn()
    assert done(sent)


@pytest.mark.parametrize("narrow", ["bodies", "addresses", "datagrams"])
def test_what_another_link_may_have_carried_is_not_called_refused_by_this_one(
    world: World, narrow: str
) -> None:
    world.gateway.acks = False
    client = world.up()
    both = client.publish(["user:bob", "user:eve"], bytes(2_000))
    plain = client.publish("user:bob", b"x")
    assert len(world.gateway.log) == 2, "taken, and the answers are lost"
    if narrow == "bodies":
        world.gateway.limits = Limits(max_body_bytes=1_000)
    elif narrow == "addresses":
        world.gateway.limits = Limits(max_addresses=1)
    else:
        world.gateway.max_send_bytes = 1_000
    world.gateway.acks = True
    world.gateway.pipe.cut()
    world.wait(1)
    with pytest.raises(OutcomeUnknown, match="may have been taken"):
        done(both)
    assert done(plain) == (Outcome(OutcomeCode.DUPLICATE, EPOCH, 2),)


def test_a_refused_publish_fails_with_the_code(world: World) -> None:
    world.gateway.acks = False
    client = world.up()
    sent = client.publish("user:bob", b"x", msg_id="one")
    world.gateway.pipe.say(Refused("publish", "one", RefusedCode.FORBIDDEN, "no"))
    with pytest.raises(FrameRefused):
        done(sent)
    world.gateway.pipe.say(Refused("publish", "one", RefusedCode.FORBIDDEN, "no"))


def test_the_pace_is_what_welcome_names(world: World) -> None:
    world.gateway.limits = Limits(publish_rate=10, publish_burst=20, publish_window=1_000)
    client = world.up()
    sent = [client.publish(f"user:u{n}", b"x") for n in range(60)]
    times = {}
    while len(times) < 60:
        for n in range(len(times), len(world.gateway.log)):
            times[n] = world.clock.seconds()
        world.wait(0.01)
    began = times[0]
    for n, when in times.items():
        assert n + 1 <= 20 + 10 * (when - began) + 1e-6
    assert times[59] - began < 40 / 10 * 1.15
    assert all(done(one) for one in sent)


def test_a_reconnect_refills_no_bucket(world: World) -> None:
    world.gateway.limits = Limits(publish_rate=1, publish_burst=10)
    client = world.up()
    for n in range(30):
        client.publish(f"user:u{n}", b"x").addErrback(lambda reason: None)
    world.turn()
    before = len(world.gateway.log)
    assert before == 9
    world.gateway.pipe.cut()
    world.wait(1)
    assert len(world.gateway.log) <= before + 1


def test_a_message_that_the_gateway_would_not_recognise_is_given_up(world: World) -> None:
    world.gateway.limits = Limits(dedup_s=600)
    world.gateway.acks = False
    client = world.up()
    sent = client.publish("user:bob", b"x")
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    unsent = client.publish("user:bob", b"y")
    for _ in range(60):
        world.wait(10)
    with pytest.raises(OutcomeUnknown):
        done(sent)
    assert not unsent.called  # it was never sent: it cannot be a repeat
    world.gateway.reachable = world.gateway.acks = True
    world.wait(10)
    assert done(unsent)


def test_to_a_room_it_is_given_up_when_rooms_would_not_recognise_it(world: World) -> None:
    world.gateway.limits = Limits(dedup_s=3_600, rooms_dedup_s=600)
    world.gateway.acks = False
    client = world.up()
    for_rooms = [client.publish(to, b"x") for to in ("room:7", "area:games", "all", ["user:bob", "room:7"])]
    for_bob = client.publish("user:bob", b"y")
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    for _ in range(60):
        world.wait(10)
    for one in for_rooms:
        with pytest.raises(OutcomeUnknown):
            done(one)
    assert not for_bob.called
    world.gateway.reachable = world.gateway.acks = True
    world.wait(10)
    assert done(for_bob)
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"y"]


def test_what_waits_for_its_turn_is_given_up_too(world: World) -> None:
    world.gateway.limits = Limits(dedup_s=600, publish_rate=1, publish_burst=1)
    world.gateway.acks = False
    client = world.up()
    began = world.clock.seconds()
    sent = [client.publish("user:bob", b"%d" % n) for n in range(3)]
    while len(world.gateway.log) < 3:
        world.wait(0.5)
    world.gateway.reachable = False
    world.gateway.pipe.cut()
    unsent = client.publish("user:bob", b"3")
    while world.clock.seconds() < began + 595:
        world.wait(5)
    world.gateway.reachable = world.gateway.acks = True
    world.gateway.limits = Limits(dedup_s=600, publish_rate=0.1, publish_burst=1)
    for _ in range(20):
        world.wait(1)
    assert done(sent[0])
    for _ in range(50):
        world.wait(1)
    for late in sent[1:]:
        with pytest.raises(OutcomeUnknown):
            done(late)
    assert done(unsent)
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"0", b"3"]


def test_on_a_living_link_it_is_not_given_up(world: World) -> None:
    world.gateway.limits = Limits(dedup_s=20)
    world.gateway.acks = False
    client = world.up()
    sent = client.publish("user:bob", b"x")
    for _ in range(40):
        world.wait(1)
    assert not sent.called
    world.gateway.pipe.say(ack(world.gateway.pipe.of(Publish)[0]))
    assert done(sent)


def test_close_waits_for_outcomes_and_then_says_goodbye(world: World) -> None:
    world.gateway.acks = False
    client = world.up()
    sent = client.publish("user:bob", b"x")
    closing = [client.close(), client.close()]
    world.turn()
    assert not closing[0].called
    with pytest.raises(Exception, match="closed"):
        client.publish("user:bob", b"late")
    world.gateway.pipe.say(ack(world.gateway.pipe.of(Publish)[0]))
    world.turn()
    assert [done(one) for one in closing] == [None, None]
    assert done(sent)
    assert world.gateway.pipe.got[-1].code == CloseCode.NORMAL
    assert done(client.close()) is None


def test_close_fires_when_the_goodbye_is_out(world: World) -> None:
    world.gateway.lets_go = False
    client = world.up()
    closing = client.close()
    world.turn()
    assert not closing.called
    world.gateway.pipe.receiver.lost("closed")
    done(closing)


def test_close_does_not_wait_for_ever(world: World) -> None:
    world.gateway.acks = world.gateway.lets_go = False
    world.gateway.limits = Limits(publish_window=1)
    client = world.up(outbox_messages=2)
    sent = [client.publish("user:bob", b"%d" % n) for n in range(3)]
    closing = client.close(5)
    world.wait(5)
    world.wait(3)
    done(closing)
    for one, word in zip(sent, ("may or may not", "was not sent", "was not sent"), strict=True):
        with pytest.raises(OutcomeUnknown, match=word):
            done(one)


def test_what_waits_for_its_turn_while_the_goodbye_leaves_was_not_sent(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = world.gateway.lets_go = False
    world.gateway.limits = Limits(publish_rate=5, publish_burst=5)
    client = world.up(outbox=path)
    sent = [client.publish("user:bob", b"%d" % n, msg_id=f"id{n}") for n in range(9)]
    world.turn()
    closing = client.close(0)
    for _ in range(40):
        world.wait(0.1)
    done(closing)
    left = [frame.msg_id for frame in world.gateway.pipe.of(Publish)]
    assert left == ["id0", "id1", "id2", "id3"]
    for n, one in enumerate(sent):
        with pytest.raises(OutcomeUnknown, match="may or may not" if n < len(left) else "was not sent"):
            done(one)
    store = ClientStore(path)
    assert [one.msg_id for one, first_sent in store.publishes() if first_sent is not None] == left
    store.close()


def test_who_is_closed_by_an_outcome_is_told_what_was_not_sent(world: World) -> None:
    world.gateway.limits = Limits(max_body_bytes=10)
    client = world.client()
    started = client.start()
    started.addErrback(lambda failure: None)
    small, large = client.publish("user:bob", b"x"), client.publish("user:bob", b"x" * 11)
    large.addCallback(lambda outcomes: started.cancel())
    world.turn()
    with pytest.raises(OutcomeUnknown, match="it was not sent"):
        done(small)
    assert world.gateway.pipe.of(Publish) == []


@pytest.mark.parametrize("disk", ["well", "full"])
def test_who_waits_at_the_end_is_told_whether_the_next_run_goes_on_with_it(
    world: World, tmp_path: Path, disk: str, flush_logged_errors: Any
) -> None:
    """What waited for room in the outbox is not in its file."""
    path = str(tmp_path / "box")
    world.gateway.acks = False
    world.gateway.limits = Limits(publish_window=1)
    client = world.up(outbox=path, outbox_messages=2)
    words: dict[str, tuple[bool, str]] = {}

    def note(failure: Any, msg_id: str) -> None:
        words[msg_id] = (failure.value.kept, str(failure.value))

    def publish(msg_id: str) -> None:
        client.publish("user:bob", b"x", msg_id=msg_id).addErrback(note, msg_id)

    publish("sent")
    world.turn()
    failing = disk_under(client)
    failing.full = disk == "full"
    publish("waits")
    publish("in the line")
    closing = client.close(1)
    world.wait(1)
    world.wait(1)
    done(closing)
    assert bool(flush_logged_errors()) is (disk == "full")
    stays = "stays in the outbox file" if disk == "well" else "could not be written"
    assert words["sent"][0] is words["waits"][0] is (disk == "well")
    assert "may or may not have been taken" in words["sent"][1]
    assert "was not sent" in words["waits"][1]
    assert stays in words["sent"][1]
    assert stays in words["waits"][1]
    assert words["in the line"] == (False, "the client was closed; it was not sent")
    store = ClientStore(path)
    assert [one.msg_id for one, _ in store.publishes()] == ["sent", *["waits"] * (disk == "well")]
    store.close()


def test_what_stays_in_the_file_has_no_final_word_yet(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = False
    told: list[Any] = []
    for _ in range(3):
        client = world.up(outbox=path, on_outcome=lambda publish, word: told.append((publish.msg_id, word)))
        if not world.gateway.log:
            client.publish("user:bob", b"x", msg_id="one").addErrback(lambda failure: None)
            world.turn()
        closing = client.close(1)
        world.wait(1)
        world.wait(1)
        done(closing)
    assert told == []
    world.gateway.acks = True
    world.up(outbox=path, on_outcome=lambda publish, word: told.append((publish.msg_id, word)))
    world.turn()
    assert told == [("one", (Outcome(OutcomeCode.DUPLICATE, EPOCH, 1),))]


def test_close_fires_though_one_that_failed_cancels_another(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = False
    client = world.up(outbox=path, outbox_messages=1)
    admitted, first, second = [client.publish("user:bob", b"%d" % n) for n in range(3)]
    admitted.addErrback(lambda reason: None)
    first.addErrback(lambda reason: second.cancel())  # both wait in the line
    closing = client.close(1)
    world.wait(1)
    world.wait(3)
    assert done(closing) is None
    with pytest.raises(CancelledError):
        done(second)
    ClientStore(path).close()  # which is free again


def test_one_who_has_the_outcome_may_cancel_another_who_waits_for_it(world: World) -> None:
    world.gateway.acks = False
    client = world.up()
    one, two, three = [client.publish("user:bob", b"x", msg_id="same") for _ in range(3)]
    one.addCallback(lambda outcomes: two.cancel() or outcomes)
    world.gateway.pipe.say(ack(world.gateway.pipe.of(Publish)[0]))
    assert done(one) == done(three)
    with pytest.raises(CancelledError):
        done(two)
    world.turn()
    assert client.connected
    assert len(world.gateway.pipes) == 1


def test_what_an_outcome_makes_the_application_publish_overtakes_nothing(world: World) -> None:
    client = world.up()
    world.gateway.pipe.receiver.pause_sending()

    async def talk() -> None:
        await client.publish("user:bob", b"0", qos=0)
        client.publish("user:bob", b"late", qos=0)

    talking = begin(talk())
    client.publish("user:bob", b"1", qos=0)
    client.publish("user:bob", b"2", qos=0)
    world.gateway.pipe.receiver.resume_sending()
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"0", b"1", b"2", b"late"]
    done(talking)


def test_the_hello_comes_first_and_says_who(world: World) -> None:
    world.up(platform="ios", client_version="v")
    hello = world.gateway.pipe.got[0]
    assert isinstance(hello, Hello)
    assert (hello.token, hello.device, hello.platform, hello.client_version) == ("t", "phone", "ios", "v")
