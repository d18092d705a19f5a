"""Bad input, bad networks, peers that do not read: one link pays, the others notice nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from imgateway.errors import CloseCode, LinkLost
from imgateway.frames import Bye, Deliver, Hello, Ping, Pong, PublishAck
from imgateway.node.link import Pause
from imgateway.wire.framing import varint
from tests.conformance.house import House, message_of, publication, settings
from tests.conformance.wires import CONNECTED, JSON, Wire

Build = Callable[..., House]


@pytest.mark.parametrize("when", ["before the greeting", "after the login"])
def test_garbage_ends_one_link_with_its_code(house: House, wire: Wire, when: str) -> None:
    other = house.login(wire, "other")
    client = house.login(wire) if when == "after the login" else house.connect(wire)
    client.raw(wire.garbage)
    assert client.bye() == CloseCode.BAD_FRAME
    assert other.quiet()
    assert sum(house.node.counters.protocol_errors.values()) == 1


def test_what_came_before_the_garbage_counts_what_came_after_does_not(house: House, wire: Wire) -> None:
    bob, alice = house.login(wire, "bob"), house.login(wire, "alice")
    alice.say(publication("user:bob", "1"))
    alice.connection.send(wire.garbage)
    alice.say(publication("user:bob", "2"))
    house.settle()
    assert [message.msg_id for message in bob.messages()] == ["1"]
    assert alice.gone is not None


def test_a_frame_beyond_the_limit(build: Build, wire: Wire) -> None:
    house = build(settings(limits={"max_body_bytes": 1000}))
    client = house.login(wire)
    client.raw(wire.oversize or b" " * (70_000 * wire.adapter.carriage.expansion))
    assert client.gone is not None
    if wire.oversize:
        assert client.bye() == CloseCode.FRAME_TOO_LARGE
    else:  # found before a codec sees it: the transport's own close says it
        assert f"{'' if wire.udp else 4}{CloseCode.FRAME_TOO_LARGE:03}" in client.gone
    assert house.node.counters.links_closed[CloseCode.FRAME_TOO_LARGE] == 1
    assert house.node.counters.protocol_errors[wire.adapter.name] == 1


@pytest.mark.parametrize(
    "text",
    [
        b'{"hello":{"token":"' + b"[" * 40 + b"]" * 40 + b'"}}{}',
        b"[" * 50 + b"]" * 50,
        b'{"hello":{"token":"a\\ud800","device":"phone"}}',
        b'{"ping":{"nonce":NaN}}',
        b'{"ping":{"nonce":Infinity}}',
        b'{"ping":{"nonce":"1"},"ping":{"nonce":"2"}}',
        b'{"nothing":{}}',
        b"",
        b"42",
        b"\xff\xfe",
    ],
)
def test_bad_json(house: House, text: bytes) -> None:
    other = house.login(JSON, "other")
    client = house.login(JSON)
    client.raw(text)
    assert client.gone is not None
    assert all(isinstance(frame, Bye) and frame.code >= 200 for frame in client.frames)
    assert other.quiet()


@pytest.mark.parametrize(
    "bad", ["user:", "nonsense:1", "user:a/b", "device:bob", "user:" + "x" * 65, "user:a\n"]
)
def test_a_bad_address_is_no_frame(house: House, bad: str) -> None:
    import json

    client = house.login(JSON)
    client.raw(json.dumps({"publish": {"msgId": "1", "to": [bad], "text": "x"}}).encode())
    assert client.bye() == CloseCode.BAD_FRAME


def test_json_says_text_as_text(house: House) -> None:
    import json

    alice, bob = house.login(JSON, "alice"), house.login(JSON, "bob")
    heard: list[bytes] = []
    received = bob.received
    bob.received = lambda data: (heard.append(data), received(data))[1]  # type: ignore[func-returns-value, method-assign]
    alice.raw(json.dumps({"publish": {"msgId": "1", "to": ["user:bob"], "text": "grüße", "qos": 1}}).encode())
    assert alice.take(PublishAck).msg_id == "1"
    message = json.loads(heard[0])["deliver"]["entries"][0]["message"]
    assert (message["text"], message["contentType"]) == ("grüße", "text/plain")


# ----------------------------------------------------------------------------------------------- any chunks


@pytest.mark.parametrize("chunk", [1, 3, 17])
def test_bytes_come_in_any_chunks(build: Build, wire: Wire, chunk: int) -> None:
    house = build(chunk=chunk)
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.send(*[publication("user:bob", f"m{n}", b"x" * n) for n in (0, 1, 127, 300)])
    assert [alice.take(PublishAck).msg_id for _ in range(4)] == ["m0", "m1", "m127", "m300"]
    assert bob.bodies() == [b"x" * n for n in (0, 1, 127, 300)]


@pytest.mark.parametrize("wire", CONNECTED, ids=lambda wire: wire.name)
def test_a_byte_a_second_before_login_is_cut_at_the_login_timeout(build: Build, wire: Wire) -> None:
    second: Iterator[int] = iter(range(100))
    house = build()
    other = house.login(wire, "other")
    client = house.connect(wire)
    data = (varint(1000) if wire.oversize else b"") + b"\x0a" * 12
    for byte in data:
        if client.gone is None:
            client.raw(bytes((byte,))) if wire.oversize else client.link.client.writeSomeData(bytes((byte,)))
            house.advance(1)
            next(second)
    assert client.gone is not None
    assert next(second) <= 12
    assert other.quiet()


def test_a_cut_in_the_middle_of_a_frame(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    client = house.connect(wire)
    house.network.chunk = 1
    client.say(Hello("carol", "phone"))
    for _ in range(8):
        house.network.turn()  # a few bytes of it are there
    client.link.cut()
    house.network.chunk = 0
    house.settle()
    assert client.gone is not None
    alice.publish("user:bob")
    assert len(bob.messages()) == 1


# --------------------------------------------------------------------------------------- those who are slow


def test_a_reader_that_stops_holds_a_window_and_loses_nothing(build: Build, wire: Wire) -> None:
    limits = {"deliver_window_entries": 8, "deliver_window_bytes": 100_000}
    house = build(settings(limits=limits), capacity=4096)
    alice, bob, carol = (house.login(wire, name) for name in ("alice", "bob", "carol"))
    bob.connection.pause_reading()
    body = b"x" * 5000
    for number in range(60):
        alice.publish("user:bob user:carol", f"m{number}", body)
        assert [message.msg_id for message in carol.messages()] == [f"m{number}"]  # at once
    held = max(link.connection.unsent() for link in house.node.exchange.links)
    assert held <= 9 * (len(body) * 2 + 1000)
    assert held or wire.udp  # where the window waits on the far side
    assert not bob.frames
    bob.connection.resume_reading()
    assert [message.msg_id for message in bob.messages()] == [f"m{number}" for number in range(60)]


def test_one_that_publishes_and_never_reads_its_answers_is_stopped_then_cut(build: Build, wire: Wire) -> None:
    limits = {"control_pause_bytes": 2000, "control_abort_bytes": 8000}
    house = build(settings(limits=limits), capacity=2048)
    alice, bob, carol = (house.login(wire, name) for name in ("alice", "bob", "carol"))
    alice.connection.pause_reading()
    for number in range(3000):
        alice.say(publication("user:bob", f"m{number}", b"x" * 50))
        if number % 50 == 0:
            house.settle()
    held = max(link.connection.unsent() for link in house.node.exchange.links)
    assert held < 8000
    (stopped,) = [link for link in house.node.exchange.links if link.paused()]
    assert stopped._pauses & Pause.CONTROL
    carol.publish("user:bob", "mine")  # nobody else waits
    assert bob.frames
    house.advance(31)
    house.settle()
    assert house.node.counters.links_closed[CloseCode.SLOW_READER] == 1


def test_more_than_may_wait_for_the_store_stops_the_publishers_alone(build: Build, wire: Wire) -> None:
    house = build(
        settings(
            broker={"waiting_entries": 20, "batch_entries": 10},
            limits={"publish_window": 500},
        )
    )
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    for number in range(200):
        alice.say(publication("user:bob", f"m{number}"))
        house.carry()  # the store does nothing meanwhile
    assert house.node.hub.is_congested
    assert house.health["load"][0] is False
    assert not alice.frames
    assert sum(link.paused() for link in house.node.exchange.links) == 1
    bob.say(Ping(1))
    house.network.settle()
    assert bob.frames == [Pong(1, house.wall_ms())]
    bob.frames.clear()
    house.settle()
    assert [alice.take(PublishAck).msg_id for _ in range(200)] == [f"m{number}" for number in range(200)]
    assert len(bob.messages()) == 200
    assert house.health["load"][0] is True


def test_a_flood_of_pings_waits_like_any_flood(house: House, wire: Wire) -> None:
    client = house.login(wire)
    client.send(*[Ping(number) for number in range(500)])
    assert [client.take(Pong).nonce for _ in range(500)] == list(range(500))


# ---------------------------------------------------------------------------------------------------- drain


def test_drain_finishes_what_was_begun_says_goodbye_and_when_to_come_back(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    alice.say(publication("user:bob", "1"))
    house.network.settle()  # on its way to the disk
    stopped: list[object] = []
    house.node.stop().addBoth(stopped.append)
    assert house.health["drain"] == (False, "draining")
    house.advance(3)
    alice.take(PublishAck)
    frames = [alice.take(Bye), bob.pick(Bye)]
    assert [frame.code for frame in frames] == [CloseCode.GOING_AWAY] * 2
    assert all(200 <= frame.retry_after_ms <= 6000 for frame in frames)
    assert alice.gone is not None
    assert stopped == [None]
    with pytest.raises(LinkLost):
        house.reach(wire)


def test_drain_drops_who_does_not_go(build: Build, wire: Wire) -> None:
    house = build(settings(node={"drain_s": 5.0}))
    client = house.login(wire)
    client.link.fall_silent()
    stopped: list[object] = []
    house.node.stop().addBoth(stopped.append)
    house.advance(7, 0.05)
    assert stopped == [None]


def test_a_second_stop_drops_everybody_at_once(build: Build, wire: Wire) -> None:
    house = build(settings(node={"drain_rate": 1}))
    clients = [house.login(wire, f"u{number}") for number in range(5)]
    house.node.stop()
    house.advance(0.1, 0.05)
    stopped: list[object] = []
    house.node.stop().addBoth(stopped.append)
    house.advance(0.1, 0.05)
    assert stopped
    assert all(client.gone is not None for client in clients)


def test_messages_are_whole_however_large(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob")
    for number in range(10):
        alice.publish("user:bob", f"m{number}", bytes([number]) * 60_000)
    shown = []
    while frames := [frame for frame in bob.deliveries() if isinstance(frame, Deliver)]:
        shown += [message_of(entry).body for frame in frames for entry in frame.entries]
        bob.ack(frames[-1])
    assert shown == [bytes([number]) * 60_000 for number in range(10)]
