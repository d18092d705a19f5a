"""Rooms, on every way that a client may come."""

from __future__ import annotations

from imgateway.frames import (
    Deliver,
    Hello,
    Mode,
    Notify,
    OutcomeCode,
    Publish,
    PublishAck,
    Pull,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    parse_address,
)
from imgateway.wire.messages import decode_message

from .house import Client, House
from .wires import WIRES, Wire

ROOM, ALL, AREA = parse_address("room:games.7"), parse_address("all"), parse_address("area:games")


def join(client: Client, mode: Mode = Mode.PUSH) -> Subscribed:
    client.send(Subscribe(ROOM, mode))
    return client.take(Subscribed)


def say(house: House, *texts: str, to: str = "room:games.7", lane: int = 0) -> None:
    """As the business does."""
    for text in texts:
        address = parse_address(to)
        house.node.publish(Publish(text, (address,), body=text.encode(), lane=lane), "svc")
    house.settle()


def shown(frames: list[Deliver]) -> list[str]:
    return [decode_message(one.message).msg_id for frame in frames for one in frame.entries]


def test_everybody_in_the_room_gets_it_whatever_the_wire(house: House, wire: Wire) -> None:
    others = [house.login(one, f"u{index}") for index, one in enumerate(WIRES)]
    client = house.login(wire)
    for one in (*others, client):
        join(one)
    client.send(Publish("1", (ROOM,), body=b"hello"))
    outcome = client.pick(PublishAck).outcomes[0]
    assert outcome.code == OutcomeCode.OK
    for one in (*others, client):
        (frame,) = one.deliveries()
        assert (frame.address, frame.upto, shown([frame])) == (ROOM, outcome.seq, ["1"])


def test_a_busy_room_is_gathered_and_lane_1_comes_first(house: House, wire: Wire) -> None:
    client = house.login(wire)
    join(client)
    say(house, "1")
    say(house, "2", "3")
    say(house, "gift", lane=1)
    house.advance(0.05, 0.05)
    assert [(frame.lane, shown([frame])) for frame in client.deliveries()] == [
        (0, ["1"]),
        (1, ["gift"]),
        (0, ["2", "3"]),
    ]


def test_areas_and_everyone(house: House, wire: Wire) -> None:
    client, other = house.login(wire), house.login(wire, "eve")
    join(client)
    say(house, "1", to="area:games")
    say(house, "2", to="all")
    assert shown(client.deliveries()) == ["1", "2"]
    assert shown(other.deliveries()) == ["2"]


def test_who_comes_back_goes_on(house: House, wire: Wire) -> None:
    client = house.login(wire)
    epoch = join(client).epoch
    say(house, "1")
    assert shown(client.deliveries()) == ["1"]
    client.link.cut()
    house.settle()
    say(house, "2")
    house.advance(1)
    points = () if wire.udp else (ResumePoint(ROOM, 0, epoch, 1),)
    client = house.connect(wire)
    client.send(Hello("bob", "phone", resume=points))
    welcome = client.take(Welcome)
    if wire.udp:
        client.send(Subscribe(ROOM, Mode.PUSH, 0, epoch, 1))
        assert client.take(Subscribed).position == 1
    else:
        assert [(one.address, one.lane, one.position) for one in welcome.resumed[1:]] == [
            (ROOM, 0, 1),
            (ROOM, 1, 0),  # nothing came on it yet
        ]
    house.settle()
    entries = [one for frame in client.deliveries() for one in frame.entries if one.seq > 1]
    assert [decode_message(one.message).msg_id for one in entries] == ["2"]


def test_out_of_the_room(house: House, wire: Wire) -> None:
    client = house.login(wire)
    join(client)
    client.send(Unsubscribe(ROOM))
    assert client.take(Unsubscribed) == Unsubscribed(ROOM, UnsubscribedCode.ASKED)
    say(house, "1")
    assert client.quiet()
    assert client.publish("room:games.7").outcomes[0].code == OutcomeCode.FORBIDDEN


def test_the_business_puts_in_and_takes_out(house: House, wire: Wire) -> None:
    client = house.login(wire)
    bob = SessionKey("bob", "phone")
    assert house.result(house.node.join(bob, ROOM))
    assert [client.take(Subscribed).lane for _ in range(2)] == [1, 0]
    say(house, "1")
    assert shown(client.deliveries()) == ["1"]
    assert house.result(house.node.leave(bob, ROOM))
    assert client.take(Unsubscribed).code == UnsubscribedCode.REMOVED


def test_notices_and_pulls(house: House, wire: Wire) -> None:
    client = house.login(wire)
    assert join(client, Mode.NOTIFY).mode is Mode.NOTIFY
    say(house, "1", "2", "3")
    notify = client.take(Notify)
    (told,) = notify.heads
    assert (told.address, told.lane) == (ROOM, 0)
    assert told.head == (3 if wire.on_redis else 1)  # what was published together is told together
    client.send(Pull(ROOM, 0, told.epoch, 0))
    (frame,) = [frame for frame in client.frames if isinstance(frame, Deliver)]
    assert shown([frame]) == ["1", "2", "3"]
    assert (frame.after, frame.upto, frame.pulled) == (0, 3, True)


def test_large_messages_reach_who_can_carry_them(house: House, wire: Wire) -> None:
    client = house.login(wire)
    join(client)
    house.node.publish(Publish("1", (ROOM,), body=b"x" * 60_000), "svc")
    house.node.publish(Publish("2", (ROOM,), body=b"x" * 60_000), "svc")
    house.advance(1)
    frames = client.deliveries()
    assert frames[-1].upto == 2
    if wire.name != "udp":
        assert shown(frames) == ["1", "2"]
    else:
        assert shown(frames) == ["1", "2"] or frames[0].gap
