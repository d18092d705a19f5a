"""Two flows, step by step: what is in which datagram, and when it goes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.testing.conditions import LinkConditions
from imgateway.transports.datagram import messages
from imgateway.transports.datagram.channels import Channels
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.messages import (
    Ack,
    Answer,
    Challenge,
    Close,
    Data,
    Forget,
    Fragment,
    MalformedDatagram,
    Message,
    MessageTooLarge,
    ResetToken,
    parse,
)
from imgateway.transports.datagram.pieces import CHUNK, PIECE, ROOM
from imgateway.transports.datagram.recovery import Recovery
from tests.transports.datagram.pair import Pair, asleep

Sent = list[tuple[int, bytes]]


def sent(flow: Flow, now: float = 0.0) -> Sent:
    return list(flow.datagrams(now))


def content(datagrams: Sent) -> list[list[Message]]:
    return [list(parse(payload)) for _, payload in datagrams]


def bodies(datagrams: Sent) -> list[bytes]:
    return [one.body for found in content(datagrams) for one in found if isinstance(one, Data | Fragment)]


def give(flow: Flow, datagrams: Sent, now: float = 0.0) -> list[bytes]:
    return [
        message
        for number, payload in datagrams
        if not flow.seen(number)
        for message in flow.receive(number, payload, now)
    ]


def acked(flow: Flow, *numbers: int, now: float = 0.0) -> None:
    """The peer says that it took these."""
    largest = max(numbers)
    taken = sum(1 << (largest - 1 - number) for number in numbers if number != largest)
    flow.receive(flow.largest + 1, messages.ack(largest, taken), now)


def opened_up() -> Flow:
    """A flow that has measured 0.1 s and opened its window, and has nothing to do."""
    flow = Flow()
    flow.moved()
    assert flow._out is not None
    flow._out.recovery = Recovery(0.1, 0.0, 0.1, 64)
    assert sent(flow) == []
    assert asleep(flow)
    return flow


# ------------------------------------------------------------------------------------------- no loss


def test_small_messages_ride_together() -> None:
    a, b = Flow(), Flow()
    for number in range(5):
        a.send(b"%d" % number)
    datagrams = sent(a)
    assert [number for number, _ in datagrams] == [0]
    assert a.unsent() == 0
    assert a.unacked() == 5
    assert give(b, datagrams) == [b"0", b"1", b"2", b"3", b"4"]
    assert sent(b) == []
    assert b.due() == pytest.approx(0.025)
    (answer,) = sent(b, 0.025)
    assert content([answer]) == [[Ack(0, 0)]]
    assert give(a, [answer], 0.05) == []
    assert a.unacked() == 0
    assert sent(a, 0.05) == []
    assert (a.due(), b.due()) == (None, None)


def test_an_answer_carries_the_ack() -> None:
    a, b = Flow(), Flow()
    a.send(b"question")
    give(b, sent(a))
    b.send(b"answer")
    assert content(sent(b)) == [[Data(0, 0, 0, b"answer"), Ack(0, 0)]]
    assert b.due() == 1.0  # no ACK is owed any more: this is the timeout


def test_a_message_goes_whole_if_it_leaves_room_for_an_ack() -> None:
    largest = PIECE - 5
    for size, parts in ((largest, 1), (largest + 1, 2), (2 * CHUNK, 2)):
        a, b = Flow(), Flow()
        body = Random(size).randbytes(size)
        a.send(body)
        datagrams = sent(a)
        assert len(datagrams) == parts
        assert max(len(payload) for _, payload in datagrams) <= PIECE
        assert give(b, datagrams) == [body]


def test_the_largest_message_arrives_and_a_larger_one_is_refused() -> None:
    pair = Pair(LinkConditions(delay_s=0.01))
    body = Random(1).randbytes(Flow.MAX_MESSAGE)
    pair.a.flow.send(body)
    pair.finish()
    assert pair.b.got == [body]
    with pytest.raises(MessageTooLarge, match=r"72,640 bytes, this one 72,641"):
        pair.a.flow.send(body + b"x")
    assert pair.a.flow.unsent() == 0
    assert pair.a.flow.due() is None


def test_an_empty_message_is_a_message() -> None:
    a, b = Flow(), Flow()
    a.send(b"")
    assert give(b, sent(a)) == [b""]


def test_counters_outlive_sleep() -> None:
    pair = Pair(LinkConditions(loss=0.3, delay_s=0.05), seed=3, max_resends=1)
    for _ in range(100):
        pair.a.flow.send(b"x" * 1000)
    a = pair.a.flow
    pair.finish()
    assert asleep(a)
    before = (a.sent, a.lost, a.resent, a.given_up, a.largest)
    a._wake()
    assert before == (a.sent, a.lost, a.resent, a.given_up, a.largest)
    assert a.sent == pair.a.counts.datagrams_in
    assert a.lost > a.given_up > 0
    assert a.resent > 0


def test_a_new_flow_has_done_nothing() -> None:
    flow = Flow()
    assert (flow.sent, flow.lost, flow.resent, flow.given_up) == (0, 0, 0, 0)
    assert (flow.largest, flow.unsent(), flow.unacked(), flow.due(), flow.notes) == (-1, 0, 0, None, None)
    assert flow.resume() == []
    assert sent(flow) == []
    assert not flow.seen(0)


def test_numbers_beyond_32_bits_do_not_wrap_in_sleep() -> None:
    """A number used twice would be a nonce used twice; the connection ends before, the flow must not hide
    it."""
    flow = Flow()
    flow.say(messages.close(0))
    assert flow._out is not None
    flow._out.number = 2**32
    sent(flow)
    assert asleep(flow)
    assert flow.sent == flow.next_number() == 2**32 + 1


# ---------------------------------------------------------------------------------------- other messages


def test_what_is_said_goes_once_and_is_not_waited_for() -> None:
    a, b = Flow(), Flow()
    a.say(messages.challenge(b"12345678"))
    a.say(messages.reset_token(bytes(16)))
    a.send(b"data")
    give(b, sent(a))
    assert b.notes == [Challenge(b"12345678"), ResetToken(bytes(16))]
    b.notes = None
    b.say(messages.answer(b"12345678") + messages.padding(1000))
    b.say(messages.close(5) + messages.padding(500))
    first, second = sent(b)
    assert content([first, second]) == [[Answer(b"12345678"), Ack(0, 0)], [Close(5)]]
    assert sent(b) == []
    assert b.due() is None
    give(a, [first, second])
    assert a.notes == [Answer(b"12345678"), Close(5)]
    assert a.due() is None


def test_what_is_said_passes_a_full_window() -> None:
    flow = Flow()
    for _ in range(5):
        flow.send(b"x" * 1000)
    assert len(sent(flow)) == 4
    flow.say(messages.close(0))
    assert content(sent(flow)) == [[Close(0)]]


def test_no_more_is_said_than_a_datagram_holds() -> None:
    with pytest.raises(ValueError):
        Flow().say(messages.padding(1160))


def test_a_number_taken_by_the_caller_is_not_used_again() -> None:
    flow = Flow()
    assert flow.next_number() == 0
    flow.send(b"x")
    assert flow.next_number() == 1
    assert [number for number, _ in sent(flow)] == [2]
    assert flow.sent == 3
    acked(flow, 1, 2)
    assert flow.unacked() == 0


# -------------------------------------------------------------------------------------- what is malformed


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_bytes_with_a_good_seal_are_taken_or_malformed(payloads: list[bytes]) -> None:
    flow = Flow()
    for number, payload in enumerate(payloads):
        try:
            flow.receive(number, payload, 0.0)
        except MalformedDatagram:
            break
        sent(flow)


def test_mutated_traffic_is_taken_or_malformed() -> None:
    random = Random(4)
    for _ in range(2000):
        a, b = Flow(), Flow(max_resends=1)
        for size in (3, 200, 2000):
            a.send(random.randbytes(size), random.choice((None, 1, 2)))
            b.send(random.randbytes(size))
        give(a, sent(b))
        try:
            for number, payload in sent(a):
                changed = bytearray(payload)
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                b.receive(number, bytes(changed), 0.1)
        except MalformedDatagram:
            continue
        for now in (0.2, 2.0, 5.0):
            sent(b, now)


def test_a_malformed_datagram_changes_nothing() -> None:
    flow = Flow()
    with pytest.raises(MalformedDatagram):
        flow.receive(0, b"\x01\x00\x00\x01a\xff", 0.0)
    assert (flow.largest, flow.due()) == (-1, None)


def test_an_ack_of_what_was_never_sent() -> None:
    flow = Flow()
    flow.send(b"x")
    sent(flow)
    with pytest.raises(MalformedDatagram):
        flow.receive(0, messages.ack(1, 0), 0.0)


# ------------------------------------------------------------------------------------------ loss and time


def test_the_first_timeout_is_a_second_and_doubles() -> None:
    flow = Flow()
    flow.send(b"x")
    times = []
    now = 0.0
    for number in range(6):
        assert bodies(sent(flow, now)) == [b"x"]
        assert flow.sent == number + 1
        due = flow.due()
        assert due is not None
        assert sent(flow, due - 0.001) == []
        times.append(due - now)
        now = due
    assert times == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert (flow.lost, flow.resent) == (5, 5)


def test_one_timeout_repeats_two_datagrams() -> None:
    flow = Flow()
    for number in range(4):
        flow.send(b"%d" % number * 1000)
    sent(flow)
    assert [body[:1] for body in bodies(sent(flow, 1.0))] == [b"0", b"1"]
    assert flow.due() == 2.0
    acked(flow, 2, 4, now=1.1)  # 2 had arrived, and the repetition of 0: so 3 is lost as well
    assert [body[:1] for body in bodies(sent(flow, 1.1))] == [b"3"]
    acked(flow, 5, 6, now=1.2)
    assert sent(flow, 1.2) == []
    assert (flow.lost, flow.resent, flow.due()) == (3, 3, None)


def test_only_what_is_missing_goes_again_oldest_first() -> None:
    flow = opened_up()
    now = 100.0
    for name in b"abcdefgh":
        flow.send(bytes([name]) * 1000)
    first = flow.sent
    sent(flow, now)
    acked(flow, first + 1, first + 3, first + 4, first + 5, now=now + 0.1)
    assert sent(flow, now + 0.1) == []  # not yet older than 9/8 of a round trip
    due = flow.due()
    assert due == pytest.approx(now + 0.1125, rel=1e-4)
    flow.send(b"new" * 300)
    assert [body[:1] for body in bodies(sent(flow, now + 0.1))] == [b"n"]
    flow.send(b"later" * 200)
    assert [body[:1] for body in bodies(sent(flow, due or 0))] == [b"a", b"c", b"l"]
    assert flow.resent == 2


def test_what_a_later_one_overtook_is_no_timeout() -> None:
    """Two later ones are not enough for an early loss; after RTO it is lost, but the link is not slow."""
    flow = opened_up()
    now = 100.0
    first = flow.sent
    for name in b"abc":
        flow.send(bytes([name]) * 1000)
    sent(flow, now)
    acked(flow, first + 1, first + 2, now=now + 0.1)
    due = flow.due()
    assert due == pytest.approx(now + 0.2, rel=1e-3)
    assert [body[:1] for body in bodies(sent(flow, due or 0))] == [b"a"]
    due_again = flow.due()
    assert due_again == pytest.approx((due or 0) + 0.2, rel=1e-3)


def test_a_late_ack_of_a_lost_datagram_is_harmless() -> None:
    flow = Flow()
    flow.send(b"x")
    sent(flow)
    sent(flow, 1.0)
    acked(flow, 0, now=1.1)
    assert flow.unacked() == 1
    acked(flow, 1, now=1.2)
    assert flow.unacked() == 0


def test_the_window_holds_back_and_opens() -> None:
    flow = Flow()
    for _ in range(100):
        flow.send(b"x" * 1000)
    assert len(sent(flow)) == 4
    assert flow.due() == 1.0
    acked(flow, 0, 1, now=0.1)
    assert len(sent(flow, 0.1)) == 4  # two places freed, and two more
    assert flow.unsent() == 92_000
    assert flow.unacked() == 98_000


def test_a_burst_has_ten_datagrams() -> None:
    flow = opened_up()
    for _ in range(64):
        flow.send(b"x" * 1100)
    now = 100.0
    assert len(sent(flow, now)) == 10
    due = flow.due()
    assert due == pytest.approx(now + 0.1 / 64, abs=1e-4)
    assert len(sent(flow, now + 0.005)) == 3
    assert len(sent(flow, now + 0.010)) == 3
    assert len(sent(flow, now + 0.05)) == 10


def test_a_new_path_starts_again() -> None:
    flow = opened_up()
    now = 100.0
    for name in b"abcdefgh":
        flow.send(bytes([name]) * 1100)
    first = sent(flow, now)
    assert len(first) == 8
    flow.moved()
    again = sent(flow, now + 0.01)
    assert [body[:1] for body in bodies(again)] == [b"a", b"b", b"c", b"d"]
    assert flow.lost == 8
    due = flow.due()
    assert due == pytest.approx(now + 1.01)
    flow = Flow()
    flow.moved()
    assert sent(flow) == []


def test_idle_sends_nothing() -> None:
    pair = Pair(LinkConditions(delay_s=0.05))
    pair.a.flow.send(b"x")
    pair.b.flow.send(b"y")
    pair.finish()
    before = (pair.a.flow.sent, pair.b.flow.sent)
    pair.run(100_000.0)
    assert (pair.a.flow.due(), pair.b.flow.due()) == (None, None)
    assert sent(pair.a.flow, pair.now) == sent(pair.b.flow, pair.now) == []
    assert (pair.a.flow.sent, pair.b.flow.sent) == before


# --------------------------------------------------------------------------------------------- channels


def test_a_log_waits_for_control_that_was_sent_since_its_last_message() -> None:
    a, b = Flow(), Flow()
    a.send(b"welcome" * 150)
    a.send(b"entry 1" * 150, "log")
    a.send(b"entry 2" * 150, "log")
    welcome, *entries = sent(a)
    assert [one.barrier for (one,) in content(entries) if isinstance(one, Data)] == [1, 0]
    assert give(b, entries) == []
    assert give(b, [welcome]) == [b"welcome" * 150, b"entry 1" * 150, b"entry 2" * 150]


def test_a_log_that_is_joined_again_waits_for_the_second_answer_too() -> None:
    """And if the messages of its first membership are still on their way, it does so all the same."""
    for settled in (True, False):
        a, b = Flow(), Flow()
        a.send(b"subscribed" * 100)
        a.send(b"entry 1" * 150, "log")
        assert len(give(b, sent(a))) == 2
        if settled:
            acked(a, 0, 1)
        a.send(b"unsubscribed" * 10)
        a.send(b"subscribed again" * 50)
        a.send(b"entry 2" * 150, "log")
        *answers, entry = sent(a)
        assert give(b, [entry]) == []
        assert give(b, answers)[-1] == b"entry 2" * 150


def test_what_has_arrived_over_channel_0_holds_up_nobody() -> None:
    flow = Flow()
    flow.send(b"welcome")
    flow.send(b"entry", "log")
    sent(flow)
    flow.send(b"answer")
    sent(flow)
    acked(flow, 0, 1)
    flow.send(b"entry", "log")
    flow.send(b"entry", "other")
    assert content(sent(flow)) == [[Data(1, 1, 0, b"entry"), Data(2, 0, 0, b"entry")]]


def test_nothing_starts_before_the_control_that_it_waits_for() -> None:
    flow = Flow()
    flow.send(b"answer" * 1000)
    flow.send(b"entry", "log")
    flow.send(b"another", "log")
    first = sent(flow)
    assert len(first) == 4  # the window
    assert all(isinstance(one, Fragment) for payload in content(first) for one in payload)
    acked(flow, *(number for number, _ in first), now=0.1)
    assert content(sent(flow, 0.1))[-1][1:] == [Data(1, 0, 1, b"entry"), Data(1, 1, 0, b"another")]


def test_a_timeout_repeats_although_the_window_is_full() -> None:
    """Halved, it may be full of what waits at the receiver for just what is repeated here."""
    flow = opened_up()
    for number in range(20):
        flow.send(b"%d" % number + b"x" * 1100)
    now = 100.0
    while flow.unsent():
        sent(flow, now)
        now += 0.001
    out = flow._out
    assert out is not None
    out.recovery.window = 4
    assert [body[:2] for body in bodies(sent(flow, 100.25))] == [b"0x", b"1x"]
    assert sent(flow, 100.25) == []


def test_one_log_does_not_hold_up_another() -> None:
    a, b = Flow(), Flow()
    a.send(b"1" * 1000, "one")
    a.send(b"2" * 1000, "two")
    a.send(b"3" * 1000, "two")
    first, second, third = sent(a)
    assert give(b, [third]) == []
    assert give(b, [second]) == [b"2" * 1000, b"3" * 1000]
    assert give(b, [first]) == [b"1" * 1000]


def test_channels_take_turns() -> None:
    flow = Flow()
    for _ in range(10):
        flow.send(b"bulk" * 250, "log")
    flow.send(b"pong" * 250)
    assert [body[:4] for body in bodies(sent(flow))] == [b"bulk", b"pong", b"bulk", b"bulk"]


def test_a_log_at_its_limit_does_not_hold_up_another() -> None:
    flow = opened_up()
    now = 100.0
    for _ in range(70):
        flow.send(b"x", "log")
    (_, payload), *none = sent(flow, now)
    assert none == []
    assert len(list(parse(payload))) == 64
    first = flow.sent - 1
    flow.send(b"y")
    flow.send(b"z", "other")
    assert bodies(sent(flow, now)) == [b"y", b"z"]
    assert sent(flow, now) == []
    acked(flow, first, now=now + 0.1)
    assert len(bodies(sent(flow, now + 0.1))) == 6


def test_four_large_messages_at_a_time() -> None:
    flow = opened_up()
    for log in range(6):
        flow.send(b"x" * 5000, log)
    flow.send(b"small")
    found: list[Message] = []
    now = 100.0
    for _ in range(10):
        now += 0.01
        found += [one for payload in content(sent(flow, now)) for one in payload]
    started = {one.channel for one in found if isinstance(one, Fragment)}
    assert len(started) == 4
    out = flow._out
    assert out is not None
    assert found.count(Data(0, out.channels.nexts[0] - 1, 0, b"small")) == 1
    assert len(found) == 4 * 5 + 1


def test_a_silent_one_of_63_logs_gives_its_channel_away() -> None:
    flow = Flow()
    flow.moved()
    assert flow._out is not None
    flow._out.recovery = Recovery(0.1, 0.0, 0.1, 64)
    flow.send(b"control")
    for log in range(63):
        flow.send(b"first of %d" % log + bytes(100), log)
    datagrams = sent(flow)
    acked(flow, *(number for number, _ in datagrams[:-1]), now=0.1)
    assert 0 < flow.unacked() < 1_200  # it does not sleep: some of the last logs' are on their way
    flow.send(b"more control")
    flow.send(b"new", "new log")
    (datagram,) = sent(flow, 0.1)
    # Not while channel 0 has something on its way: what of the old log may wait for that at the receiver.
    assert content([datagram]) == [[Data(0, 1, 0, b"more control"), Data(0, 2, 0, b"new")]]
    acked(flow, datagram[0], now=0.15)
    flow.send(b"new again", "new log")
    flow.send(b"another", 1)
    flow.send(b"first of 0 again", 0)  # the next channel in turn is busy
    flow.send(b"more of the last", 62)
    (found,) = content(sent(flow, 0.15))
    assert found == [
        Data(1, 1, 0, b"new again"),
        Data(2, 1, 0, b"another"),
        Data(0, 3, 0, b"first of 0 again"),
        Data(63, 1, 4, b"more of the last"),
    ]


def test_the_oldest_log_differs_each_time() -> None:
    channels = Channels((0,))
    for log in range(200):
        assert channels.place(log) == (log % 63 + 1, log // 63, 0)


def test_after_a_silence_logs_take_channels_anew() -> None:
    """With nothing on its way there is nothing to be overtaken; so nobody has to remember who had which."""
    a, b = Flow(), Flow()
    for log in range(100):
        a.send(b"%d" % log, log)
        datagrams = sent(a, log)
        assert content(datagrams) == [[Data(1, log, 0, b"%d" % log)]]
        assert give(b, datagrams, log) == [b"%d" % log]
        give(a, sent(b, log + 0.1), log + 0.1)
        assert sent(a, log + 0.2) == []


# ----------------------------------------------------------------------------------------------- reading


def test_paused_reading_holds_acknowledges_and_then_refuses() -> None:
    pair = Pair(LinkConditions(delay_s=0.01))
    a, b = pair.a.flow, pair.b.flow
    b.pause()
    for number in range(200):
        a.send(b"%d" % number + b"x" * 500)
    pair.run(3.0)
    assert pair.b.got == []
    assert b.due() is None or not pair.quiet()
    assert a.unacked() > 100 * 500  # 64 are held, the others keep being repeated
    pair.b.got += b.resume()
    assert len(pair.b.got) == 64
    pair.finish()
    assert [int(body.split(b"x")[0]) for body in pair.b.got] == list(range(200))


def test_after_a_long_pause_it_goes_on_at_once() -> None:
    pair = Pair(LinkConditions(delay_s=0.01))
    pair.b.flow.pause()
    for number in range(100):
        pair.a.flow.send(b"%d" % number + b"x" * 500)
    pair.run(60.0)
    pair.b.got += pair.b.flow.resume()
    assert len(pair.b.got) == 64
    pair.run(0.2)
    assert len(pair.b.got) == 100
    pair.finish()
    assert pair.b.flow.resume() == []


def test_one_datagram_may_be_more_than_a_pause_holds() -> None:
    a, b = Flow(), Flow()
    b.pause()
    for _ in range(64):
        a.send(b"")
    for _ in range(64):
        a.send(b"", "log")
    datagrams = sent(a)
    assert give(b, datagrams) == []
    assert b.resume() == [b""] * 64  # the others come behind them, and find no room
    assert sent(b) == []  # nothing was taken, so there is nothing to acknowledge
    assert give(b, datagrams) == [b""] * 64


def test_a_paused_flow_does_not_forget_it_in_sleep() -> None:
    a, b = Flow(), Flow()
    b.pause()
    assert sent(b) == []
    a.send(b"x")
    assert give(b, sent(a)) == []
    assert b.resume() == [b"x"]


def test_a_datagram_that_is_refused_is_not_acknowledged_but_its_acks_count() -> None:
    flow = Flow()
    flow.send(b"mine")
    sent(flow)
    for number in range(1, 65):
        flow.receive(number, messages.data_head(0, number, 0, 1) + b"x", 0.0)
    sent(flow)
    flow.receive(65, messages.ack(0, 0) + messages.data_head(0, 65, 0, 1) + b"x", 0.0)
    assert flow.unacked() == 0
    assert not flow.seen(65)
    # An ACK of nothing new: we live, and wait for what is missing.
    assert content(sent(flow, 1.0)) == [[Ack(64, 2**63 - 1)]]
    assert len(flow.receive(66, messages.data_head(0, 0, 0, 1) + b"x", 0.0)) == 65
    assert content(sent(flow)) == [[Ack(66, 2**64 - 1 & ~1)]]


# --------------------------------------------------------------------------------------------- giving up


def test_a_message_lost_too_often_is_forgotten() -> None:
    a, b = Flow(max_resends=1), Flow()
    a.send(b"lost")
    sent(a)
    assert bodies(sent(a, 1.0)) == [b"lost"]
    a.send(b"next")
    sent(a, 1.5)
    (datagram,) = sent(a, 3.0)
    assert content([datagram]) == [[Forget(0, 1)]]
    assert (a.given_up, a.unacked()) == (1, 4)
    assert give(b, [datagram], 3.0) == []
    (again, other) = sent(a, 7.0), sent(a, 15.0)
    assert content(again) == [[Forget(0, 1), Data(0, 1, 0, b"next")]]  # until it is acknowledged
    assert content(other) == [[Forget(0, 2)]]
    assert give(b, again, 7.0) == [b"next"]


def test_what_is_older_may_still_come() -> None:
    """FORGET waits for what is before the message given up: that may be on its way again."""
    flow = Flow(max_resends=1)
    for name in b"abcd":
        flow.send(bytes([name]) * 1000)
    sent(flow)
    out = flow._out
    assert out is not None
    out._lost(1)
    sent(flow, 0.1)  # as 4
    out._lost(4)
    assert flow.given_up == 1
    assert sent(flow, 0.2) == []
    acked(flow, 0, now=0.3)
    assert content(sent(flow, 0.3)) == [[Forget(0, 2)]]
    out._lost(2)
    sent(flow, 0.4)  # 6
    out._lost(6)
    assert content(sent(flow, 0.5)) == [[Forget(0, 3)]]
    acked(flow, 5, now=0.6)  # the older FORGET
    assert flow.due() is not None
    acked(flow, 3, 7, now=0.7)
    assert sent(flow, 0.7) == []
    assert (flow.due(), flow.unacked(), flow.unsent()) == (None, 0, 0)


def test_a_forget_that_is_replaced_goes_no_more() -> None:
    flow = Flow(max_resends=1)
    for name in b"ab":
        flow.send(bytes([name]) * 1000)
    sent(flow)
    out = flow._out
    assert out is not None
    out._lost(0)
    sent(flow, 0.1)  # 2
    out._lost(2)
    assert content(sent(flow, 0.2)) == [[Forget(0, 1)]]  # 3
    out._lost(1)
    sent(flow, 0.3)  # 4
    out._lost(4)
    out._lost(3)
    assert content(sent(flow, 0.4)) == [[Forget(0, 2)]]


def test_a_large_message_is_given_up_with_all_its_parts() -> None:
    flow = Flow(max_resends=1)
    flow.send(b"x" * 20_000, "log")
    sent(flow)
    flow.send(b"y", "log")
    out = flow._out
    assert out is not None
    out._lost(1)
    out._lost(2)
    sent(flow, 0.1)  # 4, 5
    out._lost(4)
    assert flow.given_up == 1
    assert flow.unsent() == 200  # what it takes to hold the smallest
    out._lost(5)
    out._lost(3)
    acked(flow, 0, now=0.2)
    assert [one for found in content(sent(flow, 0.2)) for one in found] == [
        Forget(1, 1),
        Data(1, 1, 0, b"y"),
    ]
    acked(flow, 6, now=0.3)
    assert sent(flow, 0.3) == []
    assert (flow.due(), flow.unacked(), flow.unsent()) == (None, 0, 0)


def test_a_large_message_given_up_with_a_part_waiting_to_go_again() -> None:
    flow = Flow(max_resends=1)
    flow.send(b"x" * 4 * CHUNK)
    sent(flow)
    out = flow._out
    assert out is not None
    out._lost(0)
    sent(flow, 0.1)  # 4
    out._lost(1)
    out._lost(4)
    assert content(sent(flow, 0.2)) == [[Forget(0, 1)]]
    acked(flow, 2, 3, 5, now=0.3)
    assert sent(flow, 0.3) == []
    assert (flow.due(), flow.unacked()) == (None, 0)


def test_the_last_of_a_queue_is_given_up() -> None:
    flow = Flow(max_resends=1)
    flow.send(b"x" * 20 * CHUNK)
    sent(flow)
    out = flow._out
    assert out is not None
    out._lost(0)
    sent(flow, 0.1)
    out._lost(4)
    assert flow.unsent() == 0
    acked(flow, 1, 2, 3, now=0.2)
    assert content(sent(flow, 0.2)) == [[Forget(0, 1)]]


def test_nothing_is_larger_than_a_datagram() -> None:
    random = Random(2)
    for _ in range(50):
        flow = Flow()
        for _ in range(30):
            flow.send(random.randbytes(int(10 ** random.uniform(0, 4))), random.choice((None, 1, 2)))
        flow.receive(0, messages.data_head(0, 0, 0, 1) + b"x", 0.0)
        assert all(len(payload) <= ROOM for _, payload in sent(flow))


def test_no_more_is_sent_than_can_be_held_until_a_forget_arrived() -> None:
    """Otherwise the receiver refuses what it has no room for, and that counts as lost."""
    flow = Flow(max_resends=-1)
    flow.moved()
    flow.send(b"lost")
    sent(flow)
    out = flow._out
    assert out is not None
    out._lost(0)
    for _ in range(70):
        flow.send(b"x")
    (found,) = content(sent(flow, 0.1))
    assert found[0] == Forget(0, 1)
    assert len(found) == 1 + 63
    acked(flow, 1, now=0.3)
    assert len(bodies(sent(flow, 0.3))) == 7


def test_a_large_message_counts_until_its_forget_arrived() -> None:
    flow = Flow(max_resends=-1)
    flow.moved()
    out = flow._out
    assert out is not None
    out.recovery = Recovery(0.1, 0.0, 0.1, 64)
    for log in range(5):
        flow.send(b"x" * 2000, log)
    flow.send(b"y" * 2000, 0)
    assert len(sent(flow, 0.1)) == 8
    out._lost(0)
    out._lost(2)
    assert content(sent(flow, 0.2)) == [[Forget(3, 1), Forget(1, 1)]]
    assert bodies(sent(flow, 0.25)) == []
    acked(flow, 8, now=0.3)
    assert sorted(body[:1] for body in bodies(sent(flow, 0.3))) == [b"x", b"x", b"y", b"y"]
