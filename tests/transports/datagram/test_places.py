"""Ids lead to their connections, and to nobody else's."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from imgateway.transports.datagram.packets import FIRST_RESERVED
from imgateway.transports.datagram.places import Places


def put(places: Places) -> Any:
    connection = SimpleNamespace(cid=int.from_bytes(places.fresh()))
    places.put(connection)
    return connection


def test_a_connection_is_found_by_its_id_alone() -> None:
    places = Places(Random(1).randbytes)
    one, two = put(places), put(places)
    assert (places.get(one.cid), places.get(two.cid)) == (one, two)
    assert places.get(one.cid ^ 1) is None
    assert places.get(2**64 - 1) is None
    assert (list(places), len(places)) == ([one, two], 2)


def test_who_takes_a_place_has_another_id() -> None:
    places = Places(Random(1).randbytes)
    left, stays = put(places), put(places)
    places.leave(left)
    places.leave(left)
    assert (list(places), len(places)) == ([stays], 1)
    new = put(places)
    assert new.cid != left.cid
    assert places.get(left.cid) is None
    places.leave(left)
    assert (list(places), places.get(new.cid)) == ([new, stays], new)


def test_an_id_that_is_not_used_costs_no_place() -> None:
    places = Places(Random(1).randbytes)
    places.fresh()
    put(places)
    assert put(places).cid >> 32 == 1


def test_ids_are_eight_bytes_that_no_packet_begins_with() -> None:
    places = Places(Random(1).randbytes)
    for _ in range(100):
        put(places)
        cid = places.fresh()
        assert len(cid) == 8
        assert cid[0] < FIRST_RESERVED


def test_any_coming_and_going() -> None:
    dice = Random(3)
    places, there, gone = Places(dice.randbytes), [], []
    for _ in range(2_000):
        if there and dice.random() < 0.5:
            gone.append(there.pop(dice.randrange(len(there))))
            places.leave(gone[-1])
        else:
            there.append(put(places))
        assert len(places) == len(there)
    assert {one.cid for one in places} == {one.cid for one in there}
    assert all(places.get(one.cid) is one for one in there)
    assert not any(places.get(one.cid) for one in gone)
