"""A transport that carries only small messages at once: what is too large for it is split, parked, or said
with less; who has another transport gets it whole."""

from __future__ import annotations

import pytest

from imgateway.frames import Deliver, Pull, Request, Response, ResponseCode, SessionKey, user_address
from tests.node.rig import EPOCH, Rig
from tests.node.test_calls import Shop

BOB = user_address("bob")
LARGEST = 200


def test_what_comes_in_one_commit_goes_in_as_many_messages_as_it_takes() -> None:
    rig = Rig()
    bob = rig.login("bob", stream=False)
    bob.server.max_send_bytes = LARGEST
    rig.mail("bob", *(b"x" * 80 for _ in range(5)))
    assert bob.shown() == ["m1", "m2", "m3", "m4", "m5"]
    assert [(one.after, one.upto) for one in bob.of(Deliver)] == [(n, n + 1) for n in range(5)]
    assert max(bob.sizes) <= LARGEST
    assert rig.counters.parked == 0


def test_a_message_too_large_for_the_transport_waits_for_one_that_carries_it() -> None:
    rig = Rig()
    small, large = rig.login("bob", stream=False), rig.login("bob", "desk", stream=False)
    small.server.max_send_bytes = LARGEST
    rig.mail("bob", b"1", b"x" * 300)
    rig.mail("bob", b"3")
    assert small.shown() == ["m1", "m3"]
    assert large.shown() == ["m1", "m2", "m3"]
    assert rig.broker.parked[SessionKey("bob", "phone")] == (2,)
    small.ack(3).cut()
    assert rig.login("bob").shown() == ["m2"]


def test_of_a_long_answer_to_pull_the_first_part_goes() -> None:
    rig = Rig()
    rig.mail("bob", *(b"x" * 80 for _ in range(4)))
    bob = rig.login("bob", stream=False)
    bob.server.max_send_bytes = LARGEST
    before = len(bob.of(Deliver))
    bob.send(Pull(BOB, epoch=EPOCH, after=0, limit=4))
    answer = bob.of(Deliver)[before]
    assert (answer.after, answer.upto, answer.gap, answer.head) == (0, 1, False, 4)
    assert answer.pulled


@pytest.mark.parametrize("bodies", [(300, 0), (0, 300)])
def test_an_entry_that_does_not_fit_beside_a_gap_comes_without_it(bodies: tuple[int, int]) -> None:
    """One of two entries is too large, and the other of every size."""
    fits = []
    for size in range(80, LARGEST):
        rig = Rig()
        rig.mail("bob", *(b"x" * (body or size) for body in bodies))
        bob = rig.login("bob", stream=False)
        bob.server.max_send_bytes = LARGEST
        after = 0
        while after < 2:
            before = len(bob.of(Deliver))
            bob.send(Pull(BOB, epoch=EPOCH, after=after, limit=4))
            (answer,) = bob.of(Deliver)[before:]
            assert answer.pulled
            assert answer.after == after < answer.upto
            after = answer.upto
            if answer.entries:
                fits.append(size)
    assert fits == list(range(80, fits[-1] + 1))  # what fits alone is never given up for a gap


def test_an_answer_that_is_too_large_comes_without_its_body() -> None:
    rig = Rig(backends=[Shop(b"x" * 300)])
    bob = rig.login("bob", stream=False)
    bob.server.max_send_bytes = LARGEST
    bob.send(Request(1, "shop", "get"))
    assert [(one.id, one.code, one.body) for one in bob.of(Response)] == [(1, ResponseCode.FAILED, b"")]
