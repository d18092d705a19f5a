"""Coming back: with a position, without, with a wrong one; what is missing is told."""

from __future__ import annotations

from collections.abc import Callable

from imgateway.frames import Acked, Address, Bye, Deliver, DeliverAck, PublishAck, ResumePoint
from tests.conformance.house import Client, House, message_of, publication, settings, user
from tests.conformance.wires import Wire

Build = Callable[..., House]


def fill(house: House, wire: Wire, count: int, start: int = 0) -> Client:
    """Messages 0 … count - 1 from alice to bob."""
    alice = house.login(wire, "alice")
    for number in range(start, start + count):
        alice.publish("user:bob", f"m{number}", b"%d" % number)
    return alice


def bodies(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def test_offline_messages_come_with_the_next_login(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    bob.send(Bye(0))
    fill(house, wire, 100)
    bob = house.login(wire, "bob")
    assert (bob.mailbox().position, bob.mailbox().head) == (0, 100)
    assert bob.bodies() == bodies(*range(100))


def test_a_first_login_gets_what_was_sent_before(house: House, wire: Wire) -> None:
    fill(house, wire, 3)
    assert house.login(wire, "bob").bodies() == bodies(0, 1, 2)


def test_without_a_position_the_acknowledged_one_counts(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    fill(house, wire, 5)
    frames = bob.deliveries()
    bob.send(DeliverAck((Acked(user("bob"), frames[0].epoch, 3),)))
    bob.link.cut()
    bob = house.login(wire, "bob")
    assert (bob.mailbox().position, bob.mailbox().gap) == (3, False)
    assert bob.bodies() == bodies(3, 4)


def test_with_a_position_the_clients_counts(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    fill(house, wire, 5)
    assert bob.bodies() == bodies(0, 1, 2, 3, 4)
    bob.link.cut()
    again = house.login(wire, "bob", resume=bob.at(1))
    assert (again.mailbox().position, again.mailbox().gap) == (1, False)
    assert again.bodies() == bodies(1, 2, 3, 4)
    ahead = house.login(wire, "bob", resume=bob.at(4))
    assert ahead.bodies() == bodies(4)


def test_a_position_ahead_of_the_acknowledged_one_is_taken_as_its_acknowledgement(
    house: House, wire: Wire
) -> None:
    bob = house.login(wire, "bob")
    fill(house, wire, 5)
    bob.link.cut()
    assert house.login(wire, "bob", resume=bob.at(5)).bodies() == []


def test_what_came_during_the_break_follows_without_a_hole(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    alice = fill(house, wire, 3)
    first = bob.deliveries()
    bob.link.cut()
    alice.publish("user:bob", "m3", b"3")
    bob = house.login(wire, "bob", resume=bob.at(first[-1].upto))
    alice.publish("user:bob", "m4", b"4")
    frames = bob.deliveries()
    assert frames[0].after == 3
    assert [frame.after for frame in frames[1:]] == [frame.upto for frame in frames[:-1]]
    assert [message_of(entry).body for frame in frames for entry in frame.entries] == bodies(3, 4)


def test_another_epoch_is_a_gap(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    fill(house, wire, 2)
    again = house.login(wire, "bob", resume=bob.at(1, epoch=4711))
    assert again.mailbox().gap
    assert again.mailbox().epoch == bob.mailbox().epoch
    assert again.bodies() == bodies(0, 1)


def test_a_client_that_knows_more_than_the_log_gets_a_new_epoch_and_a_gap(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    alice = fill(house, wire, 2)
    again = house.login(wire, "bob", resume=bob.at(9))
    assert again.mailbox().gap
    assert again.mailbox().epoch != bob.mailbox().epoch
    again.messages()
    ack = alice.publish("user:bob", "new", b"new")
    assert ack.outcomes[0].epoch == again.mailbox().epoch
    assert again.bodies() == [b"new"]


def test_a_new_epoch_ends_the_links_that_read_the_old_one(house: House, wire: Wire) -> None:
    """The other devices come again, and are told."""
    phone, tablet = house.login(wire, "bob", "phone"), house.login(wire, "bob", "tablet")
    alice = fill(house, wire, 2)
    assert len(tablet.messages()) == 2
    house.login(wire, "bob", "phone", resume=phone.at(9))
    alice.publish("user:bob", "new")
    assert any(isinstance(frame, Bye) for frame in tablet.frames)
    again = house.login(wire, "bob", "tablet", resume=tablet.at(2))
    assert again.mailbox().gap
    assert "new" in [message.msg_id for message in again.messages()]


def test_what_retention_took_is_told(build: Build, wire: Wire) -> None:
    house = build(settings(retention={"entries": 4}))
    phone = house.login(wire, "bob", "phone")
    tablet = house.login(wire, "bob", "tablet")
    alice = house.login(wire, "alice")
    for number in range(8):
        alice.publish("user:bob", f"m{number}", b"%d" % number)
        phone.messages()
        tablet.messages()
        house.advance(6)  # both positions are written: what is behind them may go
    again = house.login(wire, "bob", "phone", resume=phone.at(1))
    frames = again.deliveries()
    assert frames[0].after == 1
    assert frames[0].gap or again.mailbox().gap
    shown = [message_of(entry).body for frame in frames for entry in frame.entries]
    assert shown == bodies(*range(8 - len(shown), 8))
    assert 1 <= len(shown) <= 4


def test_a_resume_of_logs_that_are_not_followed_is_ignored(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    fill(house, wire, 1)
    strange = (ResumePoint(Address("room", "1"), 0, 5, 5), *bob.at(0))
    assert house.login(wire, "bob", resume=strange).bodies() == bodies(0)


def test_unacknowledged_publishes_repeated_after_a_break_count_once(house: House, wire: Wire) -> None:
    bob, alice = house.login(wire, "bob"), house.login(wire, "alice")
    for number in range(5):
        alice.say(publication("user:bob", f"m{number}", b"%d" % number))
    house.network.settle()
    alice.link.cut()  # nobody knows which of them were taken
    again = house.login(wire, "alice")
    for number in range(5):
        again.say(publication("user:bob", f"m{number}", b"%d" % number, resent=True))
    house.settle()
    seqs = [again.take(PublishAck).outcomes[0].seq for _ in range(5)]
    assert seqs == sorted(set(seqs))
    assert bob.bodies() == bodies(0, 1, 2, 3, 4)


def test_half_open_the_client_comes_back_and_nothing_is_missing(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    alice = fill(house, wire, 2)
    assert bob.bodies() == bodies(0, 1)
    bob.link.fall_silent()
    for number in range(2, 90):
        alice.publish("user:bob", f"m{number}", b"%d" % number)
    again = house.login(wire, "bob", resume=bob.at(2))
    assert again.bodies() == bodies(*range(2, 90))


def test_half_open_the_node_notices(house: House, wire: Wire) -> None:
    bob = house.login(wire, "bob")
    bob.link.fall_silent()
    house.advance(76)
    assert not house.node.exchange.links or house.advance(3) or not house.node.exchange.links
    house.advance(61)
    assert not house.node.hub.sessions


def test_every_device_has_its_own_position(house: House, wire: Wire) -> None:
    phone, tablet = house.login(wire, "bob", "phone"), house.login(wire, "bob", "tablet")
    fill(house, wire, 3)
    assert len(phone.messages()) == 3
    tablet.link.cut()
    phone.link.cut()
    assert house.login(wire, "bob", "phone").bodies() == []
    assert house.login(wire, "bob", "tablet").bodies() == bodies(0, 1, 2)


def test_deliveries_say_how_far_the_log_goes(house: House, wire: Wire) -> None:
    fill(house, wire, 3)
    frame = house.login(wire, "bob").pick(Deliver)
    assert frame.head >= frame.upto > frame.after == 0
