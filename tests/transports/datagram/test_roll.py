"""Ids lead to their connections, and to nobody else's."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

from imgateway.transports.datagram.packets import FIRST_RESERVED
from imgateway.transports.datagram.roll import Roll


def put(roll: Roll) -> Any:
    connection = SimpleNamespace(cid=roll.fresh())
    roll.put(connection)
    return connection


def test_a_connection_is_found_by_its_id_alone() -> None:
    roll = Roll(Random(1).randbytes)
    one, two = put(roll), put(roll)
    assert (roll.get(one.cid), roll.get(two.cid)) == (one, two)
    assert roll.get(one.cid[:-1] + bytes((one.cid[-1] ^ 1,))) is None
    assert roll.get(b"\xff" * 8) is None
    assert (list(roll), len(roll)) == ([one, two], 2)


def test_who_takes_a_place_has_another_id() -> None:
    roll = Roll(Random(1).randbytes)
    left, stays = put(roll), put(roll)
    roll.leave(left)
    roll.leave(left)
    assert (list(roll), len(roll)) == ([stays], 1)
    new = put(roll)
    assert new.cid != left.cid
    assert roll.get(left.cid) is None
    roll.leave(left)
    assert (list(roll), roll.get(new.cid)) == ([new, stays], new)


def test_an_id_that_is_not_used_costs_no_place() -> None:
    roll = Roll(Random(1).randbytes)
    roll.fresh()
    put(roll)
    assert put(roll).cid[:4] == b"\0\0\0\1"


def test_ids_are_eight_bytes_that_no_packet_begins_with() -> None:
    roll = Roll(Random(1).randbytes)
    for _ in range(100):
        put(roll)
        cid = roll.fresh()
        assert len(cid) == 8
        assert cid[0] < FIRST_RESERVED


def test_any_coming_and_going() -> None:
    dice = Random(3)
    roll, there, gone = Roll(dice.randbytes), [], []
    for _ in range(2_000):
        if there and dice.random() < 0.5:
            gone.append(there.pop(dice.randrange(len(there))))
            roll.leave(gone[-1])
        else:
            there.append(put(roll))
        assert len(roll) == len(there)
    assert {one.cid for one in roll} == {one.cid for one in there}
    assert all(roll.get(one.cid) is one for one in there)
    assert not any(roll.get(one.cid) for one in gone)
