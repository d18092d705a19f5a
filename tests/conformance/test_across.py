"""Who speaks one wire and who speaks another meet in the same logs."""

from __future__ import annotations

from itertools import product

import pytest

from imgateway.frames import Deliver
from imgateway.wire.messages import decode_message
from tests.conformance.house import House, publication
from tests.conformance.wires import WIRES, Wire


@pytest.mark.parametrize(
    ("one", "two"),
    list(product(WIRES, WIRES)),
    ids=[f"{a.name}-to-{b.name}" for a, b in product(WIRES, WIRES)],
)
def test_what_one_sends_the_other_gets_unchanged(house: House, one: Wire, two: Wire) -> None:
    alice, bob = house.login(one, "alice"), house.login(two, "bob", "tablet")
    headers = (("a", "1"), ("ü", "\u0001 \U0001f600"))
    bodies = {
        "text/plain": 'grüße \U0001f600\n"quoted" \\'.encode(),
        "text/html; charset=utf-8": b"<b>&</b>",
        "text/plain; broken": b"\xff\xfe",
        "application/octet-stream": bytes(range(256)),
        "": b"",
    }
    for number, (content_type, body) in enumerate(bodies.items()):
        alice.publish("user:bob", f"m{number}", body, content_type=content_type, headers=headers, ttl_s=60)
    shown = bob.messages()
    assert [message.msg_id for message in shown] == [f"m{number}" for number in range(len(bodies))]
    assert [(message.content_type, message.body) for message in shown] == list(bodies.items())
    for message in shown:
        assert (message.sender, message.device) == ("alice", "phone")
        assert dict(message.headers) == dict(headers)
        assert message.expires_ms == message.sent_ms + 60_000


def test_the_largest_body_crosses_whatever_it_holds(house: House, wire: Wire) -> None:
    alice, bob = house.login(wire, "alice"), house.login(wire, "bob", "tablet")
    for number, body in enumerate((b"\n" * 65_536, b"\x01" * 65_536, b"\xff" * 65_536)):
        alice.publish("user:bob", f"m{number}", body, content_type="text/plain")
        assert [message.body for message in bob.messages()] == [body]


def test_all_devices_of_a_user_get_the_same(house: House) -> None:
    alice = house.login(WIRES[0], "alice")
    devices = [house.login(wire, "bob", wire.name) for wire in WIRES]
    for number in range(20):
        alice.send(publication("user:bob", f"m{number}", b"x" * number))
    shown = [device.messages() for device in devices]
    assert shown[0] == shown[1] == shown[2]
    assert len(shown[0]) == 20


def test_a_session_may_come_back_on_another_wire(house: House) -> None:
    alice = house.login(WIRES[1], "alice")
    bob = house.login(WIRES[0], "bob")
    seen: list[str] = []
    for number in range(6):
        alice.publish("user:bob", f"m{number}")
        (frame,) = bob.deliveries()
        assert isinstance(frame, Deliver)
        seen += [decode_message(entry.message).msg_id for entry in frame.entries]
        bob.link.cut()
        bob = house.login(WIRES[(number + 1) % 3], "bob", resume=bob.at(frame.upto))
        assert bob.quiet()
    assert seen == [f"m{number}" for number in range(6)]
