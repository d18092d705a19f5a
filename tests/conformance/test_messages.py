"""Publishing and delivering: custody, order, once, devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Address,
    Deliver,
    DeliverAck,
    Outcome,
    OutcomeCode,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
)
from tests.conformance.house import House, message_of, publication, settings, user
from tests.conformance.wires import Wire

Build = Callable[..., House]


def codes(ack: PublishAck) -> list[int]:
    return [outcome.code for outcome in ack.outcomes]


def test_publish_ack_deliver(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    headers = (("reply-to", "7"), ("trace", "ü"))
    ack = alice.publish("user:bob", "m1", "grüße".encode(), content_type="text/plain", headers=headers)
    assert ack == PublishAck("m1", (Outcome(OutcomeCode.OK, bob.mailbox().epoch, 1),))
    frame = bob.take(Deliver)
    assert (frame.address, frame.lane, frame.epoch) == (user("bob"), 0, bob.mailbox().epoch)
    assert (frame.after, frame.upto, frame.gap, frame.head) == (0, 1, False, 1)
    (entry,) = frame.entries
    assert entry.seq == 1
    message = message_of(entry)
    assert (message.msg_id, message.sender, message.device) == ("m1", "alice", "phone")
    assert (message.content_type, message.body.decode()) == ("text/plain", "grüße")
    assert dict(message.headers) == dict(headers)
    assert message.sent_ms == house.wall_ms()
    assert alice.quiet()


def test_nothing_is_acknowledged_or_delivered_before_the_commit(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.say(publication("user:bob"))
    house.network.settle()  # the network alone: the store's work is waiting
    assert house.has_work()
    assert not alice.frames
    assert not bob.frames
    house.settle()
    alice.take(PublishAck)
    bob.take(Deliver)


def test_order_is_the_order_of_publishing(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    expected = [b"%d" % number for number in range(150)]
    shown: list[bytes] = []
    for start in range(0, 150, 50):  # 50 at once: within the window
        alice.send(*[publication("user:bob", f"m{n}", expected[n]) for n in range(start, start + 50)])
        assert [alice.take(PublishAck).outcomes[0].seq for _ in range(50)] == list(
            range(start + 1, start + 51)
        )
        shown += bob.bodies()
    assert shown == expected


def test_every_range_continues_the_one_before(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob", "phone")
    position = 0
    for number in range(20):
        alice.send(publication("device:bob/tablet" if number % 3 else "user:bob", f"m{number}"))
        for frame in bob.deliveries():
            assert frame.after == position
            position = frame.upto
            bob.ack(frame)
    assert position == 20


def test_a_repeat_gets_the_same_seq_and_is_delivered_once(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    first = alice.publish("user:bob", "m1")
    again = alice.publish("user:bob", "m1", b"another body", resent=True)
    assert again.outcomes == (first.outcomes[0]._replace(code=OutcomeCode.DUPLICATE),)
    assert bob.bodies() == [b"hello"]


def test_a_repeat_of_an_uncommitted_message_joins_it(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.send(publication("user:bob"), publication("user:bob"))
    one, two = alice.take(PublishAck), alice.take(PublishAck)
    assert one.outcomes[0].seq == two.outcomes[0].seq == 1
    assert len(bob.messages()) == 1


def test_the_same_id_from_others_is_another_message(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    house.login(wire, "alice", "phone").publish("user:bob")
    house.login(wire, "alice", "tablet").publish("user:bob")
    house.login(wire, "carol", "phone").publish("user:bob")
    assert len(bob.messages()) == 3


def test_a_repeat_over_another_link_is_recognised(house: House, wire: Wire) -> None:
    alice = house.login(wire, "alice")
    seq = alice.publish("user:bob", "m1").outcomes[0].seq
    alice.link.cut()
    outcome = house.login(wire, "alice").publish("user:bob", "m1", resent=True).outcomes[0]
    assert (outcome.code, outcome.seq) == (OutcomeCode.DUPLICATE, seq)


def test_several_addresses_each_with_its_outcome(house: House, wire: Wire) -> None:
    alice, bob, carol = (house.login(wire, name) for name in ("alice", "bob", "carol"))
    ack = alice.publish("user:bob all user:carol area:games user:bob service:orders")
    assert codes(ack)[:4] == [OutcomeCode.OK, OutcomeCode.FORBIDDEN, OutcomeCode.OK, OutcomeCode.FORBIDDEN]
    assert ack.outcomes[4].code in (OutcomeCode.OK, OutcomeCode.DUPLICATE)
    assert ack.outcomes[4].seq == ack.outcomes[0].seq == 1
    assert ack.outcomes[5].code == OutcomeCode.OK
    assert bob.bodies() == carol.bodies() == [b"hello"]


def test_some_addresses_repeated_some_new(house: House, wire: Wire) -> None:
    alice, bob, carol = (house.login(wire, name) for name in ("alice", "bob", "carol"))
    alice.publish("user:bob", "m1")
    assert codes(alice.publish("user:bob user:carol", "m1")) == [OutcomeCode.DUPLICATE, OutcomeCode.OK]
    assert bob.bodies() == carol.bodies() == [b"hello"]


def test_a_body_too_large_is_refused_the_largest_arrives(build: Build, wire: Wire) -> None:
    house = build(settings(limits={"max_body_bytes": 50_000}))
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    assert codes(alice.publish("user:bob", "1", b"x" * 50_001)) == [OutcomeCode.TOO_LARGE]
    assert codes(alice.publish("user:bob", "2", b"y" * 50_000)) == [OutcomeCode.OK]
    assert bob.bodies() == [b"y" * 50_000]


def test_a_full_mailbox_says_so_and_takes_again_when_it_was_read(build: Build, wire: Wire) -> None:
    house = build(settings(retention={"entries": 3}))
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    answers = [codes(alice.publish("user:bob", str(number)))[0] for number in range(5)]
    assert answers == [OutcomeCode.OK] * 3 + [OutcomeCode.FULL] * 2
    assert len(bob.messages()) == 3
    house.advance(6)  # the acknowledged positions are written
    assert codes(alice.publish("user:bob", "5")) == [OutcomeCode.OK]
    assert [message.msg_id for message in bob.messages()] == ["5"]


def test_more_addresses_than_told_is_an_error(build: Build, wire: Wire) -> None:
    house = build(settings(limits={"max_addresses": 2}))
    alice = house.login(wire, "alice")
    assert codes(alice.publish("user:a user:b")) == [OutcomeCode.OK] * 2
    alice.send(publication("user:a user:b user:c", "2"))
    assert alice.bye() == CloseCode.BAD_FRAME


# --------------------------------------------------------------------------------------------------- devices


def test_a_users_message_reaches_every_device_a_devices_one_only_that(house: House, wire: Wire) -> None:
    alice = house.login(wire, "alice")
    phone, tablet = house.login(wire, "bob", "phone"), house.login(wire, "bob", "tablet")
    alice.publish("user:bob", "1", b"both")
    alice.publish("device:bob/tablet", "2", b"tablet")
    alice.publish("user:bob", "3", b"both again")
    assert tablet.bodies() == [b"both", b"tablet", b"both again"]
    assert phone.bodies() == [b"both", b"both again"]


def test_copy_self_reaches_the_senders_other_devices(house: House, wire: Wire) -> None:
    phone, tablet = house.login(wire, "alice", "phone"), house.login(wire, "alice", "tablet")
    bob = house.login(wire, "bob")
    phone.send(publication("user:bob", "1", b"hi", copy_self=True))
    assert phone.pick(PublishAck).outcomes[0].code == OutcomeCode.OK
    (copy,) = tablet.messages()
    assert (copy.body, copy.to, copy.sender) == (b"hi", (user("bob"),), "alice")
    (original,) = bob.messages()
    assert original.to == ()
    assert phone.bodies() == []
    assert house.login(wire, "alice", "phone", resume=phone.at(0)).bodies() == []


def test_a_message_to_oneself(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    bob.send(publication("user:bob"))
    assert bob.pick(PublishAck).outcomes[0].seq == 1
    assert bob.bodies() == [b"hello"]


# ----------------------------------------------------------------------------------------------------- qos 0


def test_qos_0_is_now_or_never(house: House, wire: Wire) -> None:
    alice, phone, tablet = (
        house.login(wire, name, device)
        for name, device in (("alice", "x"), ("bob", "phone"), ("bob", "tablet"))
    )
    alice.send(publication("user:bob", "1", b"typing", qos=0))
    for device in (phone, tablet):
        frame = device.take(Deliver)
        assert (frame.upto, frame.entries[0].seq) == (0, 0)
        assert message_of(frame.entries[0]).body == b"typing"
    alice.send(publication("device:bob/tablet", "2", b"only one", qos=0))
    assert tablet.bodies() == [b"only one"]
    assert phone.quiet()
    assert alice.quiet()
    phone.link.cut()
    alice.send(publication("user:bob", "3", b"gone", qos=0))
    assert house.login(wire, "bob", "phone").bodies() == []


# ------------------------------------------------------------------------------------------------ the window


def test_unacknowledged_deliveries_stop_at_the_window(build: Build, wire: Wire) -> None:
    house = build(settings(limits={"deliver_window_entries": 4}))
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    for number in range(10):
        alice.publish("user:bob", str(number))
    frames = bob.deliveries()
    assert sum(len(frame.entries) for frame in frames) == 4
    bob.ack(frames[-1])
    assert [message.msg_id for message in bob.messages()] == list("456789")


def test_a_delivery_that_is_not_acknowledged_in_time_ends_the_link(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.publish("user:bob")
    bob.take(Deliver)
    house.advance(32)
    assert bob.bye() == CloseCode.ACK_TIMEOUT
    assert len(house.login(wire, "bob").messages()) == 1


@pytest.mark.parametrize(
    "ack",
    [
        lambda bob: Acked(user("bob"), bob.mailbox().epoch, 5),
        lambda bob: Acked(user("alice"), bob.mailbox().epoch, 1),
    ],
    ids=["what was not sent", "another ones log"],
)
def test_acknowledging_what_one_was_not_given_ends_the_link(house: House, wire: Wire, ack: Any) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.publish("user:bob")
    bob.take(Deliver)
    bob.send(DeliverAck((ack(bob),)))
    assert bob.bye() == CloseCode.BAD_FRAME
    assert alice.quiet()


def test_an_old_or_foreign_epochs_acknowledgement_changes_nothing(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.publish("user:bob")
    bob.take(Deliver)
    bob.send(DeliverAck((Acked(user("bob"), 1, 1),)))
    bob.send(DeliverAck((Acked(user("bob"), bob.mailbox().epoch, 0),)))
    assert bob.quiet()
    bob.link.cut()
    assert len(house.login(wire, "bob").messages()) == 1


# --------------------------------------------------------------------------------------------- what expires


def test_a_message_ends_with_its_ttl_and_leaves_no_gap(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    bob.link.cut()
    alice.publish("user:bob", "1", b"soon over", ttl_s=5)
    alice.publish("user:bob", "2", b"stays")
    house.advance(8)
    bob = house.login(wire, "bob")
    frames = bob.deliveries()
    assert [message_of(entry).body for frame in frames for entry in frame.entries] == [b"stays"]
    assert not any(frame.gap for frame in frames)
    assert (frames[0].after, frames[-1].upto) == (0, 2)


def test_nobody_reads_anothers_mailbox(house: House, wire: Wire) -> None:
    alice = house.login(wire, "alice")
    alice.send(Pull(user("bob")))
    refused = alice.take(Refused)
    assert (refused.frame, refused.id, refused.code) == ("pull", "user:bob", RefusedCode.FORBIDDEN)


def test_history_is_pulled_and_moves_nothing(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    for number in range(5):
        alice.publish("user:bob", str(number))
    assert len(bob.messages()) == 5
    bob.send(Pull(user("bob"), 0, bob.mailbox().epoch, 1, 2))
    frame = bob.take(Deliver)
    assert (frame.after, frame.upto, frame.head, frame.pulled) == (1, 3, 5, True)
    assert [entry.seq for entry in frame.entries] == [2, 3]
    alice.publish("user:bob", "next")
    assert [message.msg_id for message in bob.messages()] == ["next"]


def test_only_what_was_delivered_may_be_acknowledged(build: Build, wire: Wire) -> None:
    """A Pull reads on where the deliveries stopped, and the gateway goes on from there all the same."""
    house = build(settings(limits={"deliver_window_entries": 2}))
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    for number in range(4):
        alice.publish("user:bob", str(number))
    delivered = bob.deliveries()
    assert (delivered[-1].upto, [frame.pulled for frame in delivered]) == (2, [False] * len(delivered))
    epoch = bob.mailbox().epoch
    bob.send(Pull(user("bob"), 0, epoch, 2, 2))
    answer = bob.take(Deliver)
    assert (answer.after, answer.upto, answer.pulled) == (2, 4, True)
    bob.send(DeliverAck((Acked(user("bob"), epoch, 2),)))
    delivered = bob.deliveries()
    assert (delivered[0].after, delivered[-1].upto) == (2, 4)
    assert not any(frame.pulled for frame in delivered)
    bob.send(DeliverAck((Acked(user("bob"), epoch, 4),)), Ping(1))
    assert bob.take(Pong).nonce == 1


def test_over_the_quota_a_publisher_waits_and_nothing_is_refused(build: Build, wire: Wire) -> None:
    house = build(settings(quota={"publish_rate": 1.0, "publish_burst": 2}))
    alice = house.login(wire, "alice")
    alice.send(*[publication("user:bob", str(number)) for number in range(6)])
    acked = len(alice.frames)
    assert acked < 6
    house.advance(10)
    acks = [alice.take(PublishAck) for _ in range(6)]
    assert [codes(ack)[0] for ack in acks] == [OutcomeCode.OK] * 6
    assert [ack.msg_id for ack in acks] == list("012345")


def test_a_publish_without_addresses_or_id_is_no_frame(house: House, wire: Wire) -> None:
    alice = house.login(wire, "alice")
    alice.send(Publish("", (user("bob"),)))
    assert alice.bye() == CloseCode.BAD_FRAME


def test_topic_and_service_logs_take_messages(house: House, wire: Wire) -> None:
    service = house.login(wire, "!billing")
    ack = service.publish("topic:news service:orders room:1")
    assert codes(ack)[:2] == [OutcomeCode.OK] * 2
    service.send(Pull(Address("service", "orders")))
    assert len(service.take(Deliver).entries) == 1
