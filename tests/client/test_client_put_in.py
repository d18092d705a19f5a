"""A client that the business puts into a room and takes out of it, and a whole node, on every wire."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.frames import SessionKey, Subscribed, parse_address
from tests.client.test_client_against_node import Town
from tests.conformance.wires import WIRES, Wire

ROOM, BOB = parse_address("room:7"), SessionKey("bob", "phone")


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
@pytest.mark.parametrize("how", ["at once", "while it hears of it", "after it asked to be in"])
def test_who_is_taken_out_within_a_round_trip_is_out(wire: Wire, how: str) -> None:
    """What it says meanwhile reaches the node behind that, and does not bring it in again."""
    town = Town(wire)
    house = town.house
    shown: list[Any] = []
    told: list[Any] = []
    bob = town.client("bob", on_message=shown.append)
    bob.on_unsubscribed = told.append
    hear = bob._rooms.subscribed

    def out_first(frame: Subscribed) -> None:
        bob._rooms.subscribed = hear  # type: ignore[method-assign]
        house.node.leave(BOB, ROOM)
        hear(frame)

    if how != "at once":
        bob._rooms.subscribed = out_first  # type: ignore[method-assign]
    if how == "after it asked to be in":
        bob.subscribe("room:7").addErrback(lambda failure: None)
    else:
        house.node.join(BOB, ROOM)
    if how == "at once":
        house.node.leave(BOB, ROOM)
    house.advance(5)
    house.result(town.client("!service").publish("room:7", b"not for bob"))
    house.advance(5)
    session = house.node.hub.sessions.get(BOB)
    assert session is not None
    assert not session.rooms
    assert shown == []
    assert [one.active for one in told] == [False]
    assert house.result(bob.subscribe("room:7")).active
    town.end()
