"""Topics and services, on every way that a client may come."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    OutcomeCode,
    Publish,
    Refused,
    RefusedCode,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    Welcome,
    parse_address,
)
from imgateway.wire.messages import decode_message

from .house import Client, House, settings
from .wires import WIRES, Wire

NEWS, ORDERS = parse_address("topic:news"), parse_address("service:orders")


def join(client: Client, topic: str = "topic:news", **more: int) -> Subscribed:
    client.send(Subscribe(parse_address(topic), **more))  # type: ignore[arg-type]
    return client.take(Subscribed)


def say(house: House, *texts: str, to: str = "topic:news", qos: int = 1) -> None:
    """As the business does."""
    for text in texts:
        house.node.publish(Publish(text, (parse_address(to),), body=text.encode(), qos=qos), "svc")
    house.settle()


def shown(frames: list[Deliver]) -> list[str]:
    return [decode_message(one.message).msg_id for frame in frames for one in frame.entries]


def test_all_who_follow_get_it_whatever_the_wire(house: House, wire: Wire) -> None:
    others = [house.login(one, f"u{index}+news") for index, one in enumerate(WIRES)]
    client = house.login(wire, "bob+news")
    for one in (*others, client):
        assert join(one).position == 0
    say(house, "1")
    for one in (*others, client):
        (frame,) = one.deliveries()
        assert (frame.address, frame.after, frame.upto, shown([frame])) == (NEWS, 0, 1, ["1"])


def test_it_goes_on_where_the_device_had_acknowledged(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob+news")
    join(client)
    say(house, "1", "2", "3")
    frames = client.deliveries()
    epoch = frames[0].epoch
    client.send(DeliverAck((Acked(NEWS, epoch, 2),)))
    client.link.cut()
    house.settle()
    say(house, "4")
    house.advance(1)
    client = house.login(wire, "bob+news")
    assert client.quiet(), "a login alone follows nothing"
    assert join(client).position == 2
    assert shown(client.deliveries()) == ["3", "4"]
    other = house.login(wire, "bob+news", "pad")
    assert join(other, last=True).position == 3
    assert shown(other.deliveries()) == ["4"]
    third = house.login(wire, "eve+news")
    assert join(third, epoch=epoch, seq=1).position == 1
    assert shown(third.deliveries()) == ["2", "3", "4"]
    fourth = house.login(wire, "dan+news")
    gone = join(fourth, epoch=epoch + 1, seq=1)
    assert (gone.position, gone.gap) == (4, True)


def test_out_of_it_and_in_again(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob+news")
    join(client)
    say(house, "1")
    client.deliveries()
    client.send(Unsubscribe(NEWS))
    assert client.take(Unsubscribed) == Unsubscribed(NEWS, UnsubscribedCode.ASKED)
    say(house, "2")
    assert client.quiet()
    assert join(client).position == 2


def test_who_may_not(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob+news")
    client.send(Subscribe(parse_address("topic:sport")), Subscribe(ORDERS))
    assert [client.take(Refused).code for _ in range(2)] == [RefusedCode.FORBIDDEN] * 2
    assert client.publish("topic:sport").outcomes[0].code == OutcomeCode.FORBIDDEN
    assert client.publish("service:orders").outcomes[0].code == OutcomeCode.OK
    service = house.login(wire, "!sink", "hook")
    assert join(service, "service:orders", last=True).position == 0
    assert len(shown(service.deliveries())) == 1


def test_qos_0(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob+news")
    say(house, "1", qos=0)
    join(client)
    say(house, "2", qos=0)
    (frame,) = client.deliveries()
    assert (frame.address, frame.upto, shown([frame])) == (NEWS, 0, ["2"])


def test_to_acknowledge_more_than_was_sent(house: House, wire: Wire) -> None:
    client = house.login(wire, "bob+news")
    epoch = join(client).epoch
    client.send(DeliverAck((Acked(NEWS, epoch, 1),)))
    assert client.take(Bye).code == CloseCode.BAD_FRAME


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_all_of_it_is_shown_once(build: Callable[..., House], wire: Wire, seed: int) -> None:
    """Random publishes, acknowledgements, cuts and logins; the client drops what it has, by position."""
    house = build(settings(limits={"deliver_window_entries": 3}))
    random = Random(seed)
    names = ("topic:news", "user:bob")
    position = dict.fromkeys(names, 0)
    at = dict.fromkeys(names, 0)  # how far the link has got
    got: dict[str, list[str]] = {name: [] for name in names}
    sent: dict[str, list[str]] = {name: [] for name in names}
    client: Client | None = None

    def read() -> None:
        assert client is not None
        for frame in client.deliveries():
            name = f"{frame.address.kind}:{frame.address.id}"
            assert frame.after == at[name], "a hole, or twice on one link"
            at[name] = frame.upto
            assert not frame.gap
            got[name] += [
                decode_message(one.message).msg_id for one in frame.entries if one.seq > position[name]
            ]
            position[name] = max(position[name], frame.upto)

    def come() -> Client:
        client = house.login(wire, "bob+news")
        assert isinstance(client.welcome, Welcome)
        client.send(Subscribe(NEWS))
        at["topic:news"] = client.pick(Subscribed).position
        at["user:bob"] = client.mailbox().position
        assert all(at[name] <= position[name] for name in names), (
            "it may come again, and is never passed over"
        )
        return client

    def acknowledge() -> None:
        assert client is not None
        for name in names:
            epoch = client.mailbox().epoch
            client.send(DeliverAck((Acked(parse_address(name), epoch, at[name]),)))

    client = come()
    for turn in range(40):
        act = random.choice(("publish", "publish", "ack", "cut"))
        if act == "publish":
            name = random.choice(names)
            sent[name].append(str(turn))
            say(house, str(turn), to=name)
            read()
        elif act == "ack":
            read()
            acknowledge()
        else:
            read()
            client.link.cut()
            house.settle()
            client = come()
    for _ in range(40):
        read()
        acknowledge()
    read()
    assert got == sent
    client.connection.abort()
    house.settle()
