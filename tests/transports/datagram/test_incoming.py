"""The receiving half: replays, order, holding, fragments, and bounds that no peer breaks."""

from __future__ import annotations

from random import Random

import pytest

from imgateway.transports.datagram.incoming import (
    HELD,
    HELD_BYTES,
    PARTIAL,
    PARTIAL_BYTES,
    Incoming,
    is_new,
    marked,
)
from imgateway.transports.datagram.messages import Data, Forget, Fragment, MalformedDatagram


def data(channel: int, number: int, body: bytes = b"", barrier: int = 0) -> Data:
    return Data(channel, number, barrier, body or b"%d/%d" % (channel, number))


def fragment(channel: int, number: int, index: int, last: int, size: int = 4, barrier: int = 0) -> Fragment:
    return Fragment(channel, number, barrier, index, last, bytes([65 + index]) * size)


class Fed:
    """An Incoming, and all that it handed over."""

    def __init__(self) -> None:
        self.incoming = Incoming()
        self.got: list[bytes] = []

    def __call__(self, *messages: Data | Fragment | Forget) -> list[bool]:
        taken = []
        incoming = self.incoming
        into = self.got if incoming.ready is None else incoming.ready
        for message in messages:
            if isinstance(message, Forget):
                incoming.forget(message, into)
            elif isinstance(message, Fragment):
                taken.append(incoming.fragment(message, into))
            else:
                taken.append(incoming.data(message, into))
        return taken


# ------------------------------------------------------------------------------------- datagram numbers


def test_numbers_against_a_plain_set() -> None:
    random = Random(5)
    largest, taken, known = -1, 0, set()
    for _ in range(20_000):
        jump = random.choice((1, 1, 1, 2, 5, 63, 64, 65, 66, 200)) if random.random() < 0.5 else 0
        number = max(0, largest + jump if jump else largest - random.randrange(70))
        fresh = number not in known and (number > largest or largest - number <= 64)
        assert is_new(number, largest, taken) == fresh
        if fresh:
            largest, taken = marked(number, largest, taken)
            known.add(number)
            assert taken < 1 << 64
            expected = sum(1 << i for i in range(64) if largest - 1 - i in known)
            assert taken == expected


def test_a_number_far_away_costs_nothing() -> None:
    assert marked(2**32 - 1, 0, 0) == (2**32 - 1, 0)
    assert marked(0, 2**32 - 1, 5) == (2**32 - 1, 5)
    assert not is_new(0, 2**32 - 1, 0)


def acks(*numbers: int) -> list[float | None]:
    incoming = Incoming()
    due = []
    for number in numbers:
        incoming.mark(number, True, 100.0)
        due.append(incoming.ack_at)
    return due


def test_an_ack_goes_with_the_second_datagram_or_after_25_ms() -> None:
    assert acks(0, 1) == [100.025, 100.0]


def test_an_ack_goes_at_once_on_a_hole_and_on_what_fills_it() -> None:
    assert acks(0, 2)[1] == acks(1)[0] == 100.0
    incoming = Incoming(largest=9, taken=2)
    incoming.mark(8, True, 100.0)
    assert incoming.ack_at == 100.0


def test_what_wants_no_ack_gets_none() -> None:
    incoming = Incoming()
    incoming.mark(0, False, 1.0)
    assert incoming.ack_at is None
    assert incoming.idle
    assert incoming.largest == 0


def test_an_ack_tells_of_all() -> None:
    incoming = Incoming()
    for number in (0, 1, 3):
        incoming.mark(number, True, 1.0)
    assert incoming.ack() == b"\x04\x00\x00\x00\x03" + bytes(7) + b"\x06"
    assert incoming.ack_at is None


# ------------------------------------------------------------------------------------------------ order


def test_in_order_at_once_and_repeats_dropped() -> None:
    fed = Fed()
    assert fed(data(0, 0), data(0, 1), data(0, 0), data(0, 1)) == [True] * 4
    assert fed.got == [b"0/0", b"0/1"]
    assert fed.incoming.idle


def test_a_later_one_waits_once() -> None:
    fed = Fed()
    fed(data(0, 2), data(0, 2), data(0, 1))
    assert fed.got == []
    assert not fed.incoming.idle
    fed(data(0, 0))
    assert fed.got == [b"0/0", b"0/1", b"0/2"]
    assert fed.incoming.idle


def test_a_channel_does_not_wait_for_another() -> None:
    fed = Fed()
    fed(data(3, 0), data(0, 1), data(4, 1), data(3, 1))
    assert fed.got == [b"3/0", b"3/1"]


def test_a_barrier_waits_for_channel_0() -> None:
    fed = Fed()
    fed(data(3, 0, barrier=2), data(3, 1), data(4, 0, barrier=1))
    assert fed.got == []
    fed(data(0, 0))
    assert fed.got == [b"0/0", b"4/0"]
    fed(data(0, 1))
    assert fed.got == [b"0/0", b"4/0", b"0/1", b"3/0", b"3/1"]
    assert fed.incoming.idle


def test_what_waited_in_channel_0_opens_barriers_too() -> None:
    fed = Fed()
    fed(data(5, 0, barrier=3), data(0, 2), data(0, 1), data(0, 0))
    assert fed.got == [b"0/0", b"0/1", b"0/2", b"5/0"]


# -------------------------------------------------------------------------------------------- fragments


def test_fragments_in_any_order() -> None:
    fed = Fed()
    parts = [fragment(0, 0, index, 3) for index in range(4)]
    assert fed(parts[2], parts[0], parts[2], parts[3]) == [True] * 4
    assert fed.got == []
    fed(parts[1])
    assert fed.got == [b"AAAABBBBCCCCDDDD"]
    fed(parts[1], parts[0])
    assert len(fed.got) == 1
    assert fed.incoming.idle


def test_a_whole_message_of_fragments_waits_its_turn() -> None:
    fed = Fed()
    fed(fragment(2, 1, 0, 1, barrier=1), fragment(2, 1, 1, 1, barrier=1), fragment(2, 1, 1, 1, barrier=1))
    fed(data(2, 0))
    assert fed.got == [b"2/0"]
    fed(data(0, 0))
    assert fed.got == [b"2/0", b"0/0", b"AAAABBBB"]


@pytest.mark.parametrize("other", [fragment(2, 0, 1, 4), fragment(2, 0, 1, 3, barrier=1)])
def test_fragments_that_disagree(other: Fragment) -> None:
    fed = Fed()
    fed(fragment(2, 0, 0, 3))
    with pytest.raises(MalformedDatagram):
        fed(other)


def test_four_messages_are_put_together_at_a_time() -> None:
    fed = Fed()
    assert fed(*(fragment(channel, 0, 0, 1) for channel in range(6))) == [True] * PARTIAL + [False] * 2
    fed(fragment(0, 0, 1, 1))
    assert fed(fragment(5, 0, 0, 1)) == [True]


def test_fragments_have_a_limit_in_bytes() -> None:
    fed = Fed()
    parts = [fragment(channel, 0, index, 63, 1172) for channel in range(4) for index in range(63)]
    taken = fed(*parts)
    assert sum(taken) == PARTIAL_BYTES // 1172
    assert fed.incoming._partial_bytes <= PARTIAL_BYTES
    assert fed(fragment(0, 0, 63, 63, 1172)) == [True]  # the last one is not held: it makes a message
    assert len(fed.got) == 1


def test_the_last_fragment_is_refused_while_the_message_has_no_room() -> None:
    fed = Fed()
    fed(*(data(0, number) for number in range(1, HELD + 1)))
    assert fed(fragment(2, 1, 0, 1), fragment(2, 1, 1, 1)) == [True, False]
    fed(data(0, 0))
    assert fed(fragment(2, 1, 1, 1), data(2, 0)) == [True, True]
    assert fed.got[-1] == b"AAAABBBB"
    assert fed.incoming.idle


# ----------------------------------------------------------------------------------------------- bounds


def test_64_are_held_and_the_next_in_order_is_always_taken() -> None:
    fed = Fed()
    assert fed(*(data(0, number) for number in range(1, HELD + 11))) == [True] * HELD + [False] * 10
    assert fed(data(1, 1)) == [False]
    assert fed(data(1, 0)) == [True]
    assert fed(data(0, 0)) == [True]
    assert len(fed.got) == HELD + 2
    assert fed.incoming.idle


def test_256_kb_are_held() -> None:
    fed = Fed()
    body = bytes(HELD_BYTES // 8)
    assert fed(*(data(0, number, body) for number in range(1, 12))) == [True] * 8 + [False] * 3
    assert fed(data(0, 0, body)) == [True]
    assert fed.incoming._held_bytes == 0


def test_a_pause_holds_what_comes_in_order_within_the_same_bounds() -> None:
    fed = Fed()
    fed(data(0, 1))
    fed.incoming.pause()
    fed.incoming.pause()
    assert fed(data(0, 0)) == [True]
    assert fed(*(data(0, number) for number in range(2, HELD + 10))) == [True] * (HELD - 2) + [False] * 10
    assert fed.incoming.resume() == [b"0/%d" % number for number in range(HELD)]
    assert fed.incoming.resume() == []
    assert fed.got == []
    assert fed.incoming._held_bytes == 0
    assert fed.incoming.idle
    assert fed(data(0, HELD)) == [True]
    assert fed.got == [b"0/%d" % HELD]


def test_garbage_with_a_good_seal_takes_no_memory() -> None:
    random = Random(9)
    fed = Fed()
    incoming = fed.incoming
    for _ in range(10_000):
        channel, number = (
            random.randrange(64),
            random.choice((random.randrange(100), random.randrange(2**63))),
        )
        barrier = random.randrange(5) if channel else 0
        size = random.randrange(1172)
        roll = random.random()
        if roll < 0.5:
            fed(Data(channel, number, barrier, bytes(size)))
        elif roll < 0.95:
            try:
                fed(fragment(channel, number, random.randrange(4), random.choice((4, 63)), size, barrier))
            except MalformedDatagram:
                pass  # the connection would end here; this one goes on
        else:
            fed(Forget(channel, number))
        if roll < 0.01:
            incoming.pause()
        elif roll > 0.99:
            incoming.resume()
        fed.got.clear()
        ready = incoming.ready or []
        held = incoming._held.values()
        partial = incoming._partial.values()
        assert len(ready) + len(held) <= HELD
        assert sum(map(len, ready)) + sum(len(one.body) for one in held) == incoming._held_bytes <= HELD_BYTES
        assert len(partial) <= PARTIAL
        size = sum(len(body) for one in partial for body in one.bodies.values())
        assert size == incoming._partial_bytes <= PARTIAL_BYTES
        assert len(incoming._forgotten) <= 64
        assert len(incoming.nexts) <= 64


# ------------------------------------------------------------------------------------------- forgetting


def test_what_will_not_come_is_passed_over() -> None:
    fed = Fed()
    fed(data(2, 1), data(2, 3), data(2, 6), Forget(2, 5))
    assert fed.got == [b"2/1", b"2/3"]
    fed(data(2, 4), Forget(2, 5), Forget(2, 2))
    assert fed.got == [b"2/1", b"2/3"]
    fed(data(2, 5))
    assert fed.got == [b"2/1", b"2/3", b"2/5", b"2/6"]
    assert fed.incoming.idle


def test_passing_over_may_reach_what_waits() -> None:
    fed = Fed()
    fed(data(0, 2), data(3, 0, barrier=3), Forget(0, 2))
    assert fed.got == [b"0/2", b"3/0"]


def test_what_waits_for_a_barrier_goes_on_waiting() -> None:
    fed = Fed()
    fed(data(3, 0, barrier=1), Forget(3, 4), data(3, 4))
    assert fed.got == []
    fed(data(0, 0))
    assert fed.got == [b"0/0", b"3/0", b"3/4"]
    assert fed.incoming.idle


def test_fragments_of_what_will_not_come_are_dropped() -> None:
    fed = Fed()
    fed(fragment(2, 0, 0, 3), fragment(2, 7, 0, 3), fragment(3, 0, 0, 3), Forget(2, 2))
    assert sorted(fed.incoming._partial) == [3, 7 << 6 | 2]
    assert fed(fragment(2, 0, 1, 3)) == [True]
    assert len(fed.incoming._partial) == 2
    fed(data(4, 0, barrier=1), Forget(4, 9))
    assert fed(fragment(4, 8, 1, 3)) == [True]  # forgotten, although its turn has not come
    assert len(fed.incoming._partial) == 2


def test_passed_over_while_paused() -> None:
    fed = Fed()
    fed.incoming.pause()
    fed(data(2, 1), Forget(2, 1))
    assert fed.incoming.resume() == [b"2/1"]
