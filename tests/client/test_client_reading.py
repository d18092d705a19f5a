"""Receiving: custody, acknowledgements, iteration, back-pressure, history, gaps."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from imgateway.client import Gap, Received
from imgateway.errors import ConnectRefused, FrameRefused, LinkLost
from imgateway.frames import Bye, Deliver, DeliverAck, Hello, Pull, Refused, RefusedCode, ResumePoint
from tests.client.fake_gateway import EPOCH, ME, World, begin, deliver, done, entry


def acked(world: World) -> list[int]:
    return [ack.upto for frame in world.gateway.pipe.of(DeliverAck) for ack in frame.acks]


def answer(after: int, upto: int, **more: Any) -> Deliver:
    """To a Pull."""
    return deliver(after, upto, pulled=True, **more)


def test_messages_go_to_on_message_and_are_acknowledged_together(world: World) -> None:
    got: list[Received] = []
    world.up(on_message=got.append)
    world.gateway.pipe.say(deliver(0, 2), deliver(2, 3))
    assert [(one.seq, one.message.body, one.address, one.epoch) for one in got] == [
        (n, b"%d" % n, ME, EPOCH) for n in (1, 2, 3)
    ]
    assert acked(world) == []
    world.wait(0.2)
    assert acked(world) == [3]


def test_sixteen_entries_are_acknowledged_at_once(world: World) -> None:
    world.up(on_message=lambda message: None)
    world.gateway.pipe.say(deliver(0, 40))
    assert acked(world) == [16, 32]
    world.wait(0.2)
    assert acked(world) == [16, 32, 40]


def test_custody_waits_for_what_on_message_returns(world: World) -> None:
    got: list[int] = []
    waiting: list[Deferred[None]] = []

    async def on_message(message: Received) -> None:
        got.append(message.seq)
        waiting.append(Deferred())
        await waiting[-1]

    world.up(on_message=on_message)
    world.gateway.pipe.say(deliver(0, 3))
    world.wait(1)
    assert (got, acked(world)) == ([1], [])
    waiting[0].callback(None)
    assert got == [1, 2]
    world.wait(1)
    assert acked(world) == [1]
    for n in (1, 2):
        waiting[n].callback(None)
    world.wait(1)
    assert acked(world) == [1, 3]


def test_custody_is_of_what_the_function_was_given(world: World) -> None:
    """Somebody who waits for the next message gives up and asks again while on_gap is at work."""
    telling: Deferred[None] = Deferred()
    client = world.up(on_gap=lambda gap: telling)
    first = client.next_message()
    world.gateway.pipe.say(deliver(0, 3, gap=True))
    first.addErrback(lambda reason: None).cancel()
    second = client.next_message()
    client.take()
    assert not second.called
    telling.callback(None)
    assert done(second).seq == 1
    world.wait(1)
    assert acked(world) == []
    client.take()
    world.wait(1)
    assert acked(world) == [1]


def test_custody_waits_for_a_function_that_is_not_to_be_called_again(world: World) -> None:
    working: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: working)
    world.gateway.pipe.say(deliver(0, 3))
    client.on_message = None
    second = client.next_message()
    world.wait(1)
    assert (second.called, acked(world)) == (False, [])
    working.callback(None)
    assert done(second).seq == 2
    world.wait(1)
    assert acked(world) == [1]


def test_what_a_function_was_given_is_not_taken_by_what_it_asks_for(world: World) -> None:
    working: Deferred[None] = Deferred()
    asked: list[Deferred[Received]] = []

    def on_message(message: Received) -> Deferred[None]:
        client.on_message = None
        asked.append(client.next_message())
        return working

    client = world.up(on_message=on_message)
    world.gateway.pipe.say(deliver(0, 3))
    world.wait(1)
    assert (asked[0].called, acked(world)) == (False, [])
    working.callback(None)
    assert done(asked[0]).seq == 2
    world.wait(1)
    assert acked(world) == [1]


def test_on_message_may_return_a_deferred(world: World) -> None:
    first: Deferred[None] = Deferred()
    answers: list[Any] = [first, None]
    got: list[int] = []
    world.up(on_message=lambda message: got.append(message.seq) or answers[message.seq - 1])
    world.gateway.pipe.say(deliver(0, 2))
    assert got == [1]
    first.callback(None)
    assert got == [1, 2]


@pytest.mark.parametrize("later", [False, True])
def test_a_message_on_which_the_application_fails_is_logged_and_taken(
    world: World, flush_logged_errors: Any, later: bool
) -> None:
    got: list[int] = []

    def fails(message: Received) -> None:
        got.append(message.seq)
        raise KeyError("mine")

    async def fails_later(message: Received) -> None:
        fails(message)

    world.up(on_message=fails_later if later else fails)
    world.gateway.pipe.say(deliver(0, 2))
    world.wait(1)
    assert got == [1, 2]
    assert acked(world) == [2]
    assert len(flush_logged_errors(KeyError)) == 2


def test_iterating_takes_a_message_when_the_next_is_asked_for(world: World) -> None:
    client = world.up()
    got: list[int] = []

    async def read() -> None:
        async for message in client.messages():
            got.append(message.seq)
            if message.seq == 3:
                break

    reading = begin(read())
    world.gateway.pipe.say(deliver(0, 2))
    world.wait(1)
    assert (got, acked(world)) == ([1, 2], [2])
    world.gateway.pipe.say(deliver(2, 4))
    done(reading)
    world.wait(1)
    assert acked(world) == [2]
    client.take()
    client.take()
    world.wait(1)
    assert acked(world) == [2, 3]
    assert done(client.next_message()).seq == 4


def test_only_one_asks(world: World) -> None:
    client = world.up()
    waiting = client.next_message()
    with pytest.raises(RuntimeError):
        client.next_message()
    waiting.addErrback(lambda reason: None).cancel()
    world.gateway.pipe.say(deliver(0, 1))
    assert done(client.next_message()).seq == 1
    client.on_message = lambda message: None
    with pytest.raises(RuntimeError):
        client.next_message()
    client.take()  # is on_message's business


def test_an_iteration_ends_with_the_client(world: World) -> None:
    client = world.up()

    async def read() -> list[int]:
        return [message.seq async for message in client.messages()]

    reading = begin(read())
    world.gateway.pipe.say(deliver(0, 1))
    client.close()
    world.turn()
    assert done(reading) == [1]
    assert done(begin(read())) == []


def test_an_iteration_fails_when_the_gateway_ends_the_session(world: World) -> None:
    client = world.up()

    async def read() -> None:
        async for _ in client.messages():
            pass

    reading = begin(read())
    world.gateway.pipe.say(Bye(200, "kicked"))
    with pytest.raises(ConnectRefused):
        done(reading)


def test_nothing_is_shown_after_the_end(world: World) -> None:
    got: list[int] = []
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: got.append(message.seq) or slow)
    world.gateway.pipe.say(deliver(0, 2))
    client.close()
    world.turn()
    slow.callback(None)
    world.wait(1)
    assert got == [1]
    assert acked(world) == []


def test_close_acknowledges_what_was_taken(world: World) -> None:
    client = world.up(on_message=lambda message: None)
    world.gateway.pipe.say(deliver(0, 2))
    client.close()
    world.turn()
    assert acked(world) == [2]
    assert isinstance(world.gateway.pipe.got[-1], Bye)


def test_gaps_are_told_in_their_place(world: World) -> None:
    seen: list[Any] = []
    world.up(on_message=lambda message: seen.append(message.seq), on_gap=seen.append)
    world.gateway.pipe.say(deliver(0, 1), deliver(1, 5, [5], gap=True))
    assert seen == [1, Gap(ME, 0, EPOCH, 1, 5), 5]


def test_a_hole_is_pulled(world: World) -> None:
    got: list[int] = []
    world.up(on_message=lambda message: got.append(message.seq))
    world.gateway.pipe.say(deliver(3, 4))
    [pull] = world.gateway.pipe.of(Pull)
    assert (pull.address, pull.after, pull.epoch) == (ME, 0, EPOCH)
    world.gateway.pipe.say(answer(0, 4))
    assert got == [1, 2, 3, 4]
    world.wait(1)
    assert acked(world) == [4]  # as far as it was delivered


def test_a_hole_that_the_wire_cannot_ask_about_waits_for_the_next_link(world: World) -> None:
    got: list[int] = []
    world.up(on_message=lambda message: got.append(message.seq))
    world.gateway.pipe.max_send_bytes = 5
    world.gateway.pipe.say(deliver(3, 4), deliver(4, 5))
    assert (world.gateway.pipe.of(Pull), got) == ([], [])
    world.gateway.pipe.cut()
    world.wait(1)
    world.gateway.pipe.say(deliver(0, 5))
    assert got == [1, 2, 3, 4, 5]


def test_nothing_is_asked_for_on_a_link_that_has_ended(world: World) -> None:
    client = world.up(on_message=lambda message: None)
    pipe = world.gateway.pipe
    client.history(ME).addBoth(lambda _: pipe.cut())
    pipe.say(deliver(3, 4), answer(0, 1, head=4))
    assert [pull.after for pull in pipe.of(Pull)] == [0, 0]


def test_a_pull_that_is_refused_becomes_a_gap(world: World) -> None:
    gaps: list[Gap] = []
    client = world.up(on_message=lambda message: None)
    client.on_gap = gaps.append
    assert client.on_gap is not None
    world.gateway.pipe.say(deliver(3, 4), Refused("pull", "user:me", RefusedCode.FORBIDDEN))
    assert [(gap.after, gap.upto) for gap in gaps] == [(0, 4)]
    world.gateway.pipe.say(Refused("pull", "nonsense", RefusedCode.FORBIDDEN))  # nobody asked that
    world.gateway.pipe.say(deliver(6, 7))
    assert [(gap.after, gap.upto) for gap in gaps] == [(0, 4), (4, 6)]


def test_a_refusal_is_of_what_the_application_asked(world: World) -> None:
    """The inbox asks only for what it may read."""
    got: list[Any] = []
    client = world.up(on_message=lambda message: got.append(message.seq), on_gap=got.append)
    world.gateway.pipe.say(deliver(3, 4))
    asked = client.history(ME, lane=1)
    world.gateway.pipe.say(Refused("pull", "user:me", RefusedCode.NOT_SUPPORTED))
    with pytest.raises(FrameRefused):
        done(asked)
    world.gateway.pipe.say(answer(0, 4))
    assert got == [1, 2, 3, 4]


def test_an_application_that_does_not_read_stops_the_reading(world: World) -> None:
    client = world.up()
    pipe = world.gateway.pipe
    for n in range(100):
        pipe.say(deliver(n * 20, n * 20 + 20))
    assert not pipe.reading
    assert len(client._reading._inbox) <= 1_020
    for _ in range(40):
        world.wait(10)  # our silence is our own: the link stays
    assert pipe.open

    async def read(count: int) -> None:
        for _ in range(count):
            await client.next_message()

    held = len(pipe.held)
    done(begin(read(499)))
    assert len(pipe.held) == held  # not for every message: when half of it is gone
    done(begin(read(2)))
    assert len(pipe.held) < held
    done(begin(read(1_499)))
    assert pipe.reading
    client.take()
    world.wait(1)
    assert acked(world)[-1] == 2_000


def test_bytes_stop_the_reading_too(world: World) -> None:
    world.up()
    for n in range(1, 30):
        world.gateway.pipe.say(deliver(n - 1, n, entries=(entry(n, bytes(60_000)),)))
    assert not world.gateway.pipe.reading


def test_a_full_queue_brakes_the_next_link_too(world: World) -> None:
    client = world.up()
    world.gateway.pipe.say(deliver(0, 1_000))
    assert not world.gateway.pipe.reading
    world.gateway.pipe.cut()
    world.wait(1)
    assert not world.gateway.pipe.reading
    assert client.connected


def test_a_resume_names_what_was_taken(world: World) -> None:
    client = world.up()

    async def read(count: int) -> None:
        for _ in range(count):
            await client.next_message()

    world.gateway.pipe.say(deliver(0, 5))
    done(begin(read(3)))
    world.gateway.pipe.cut()
    world.wait(1)
    [hello] = world.gateway.pipe.of(Hello)
    assert hello.resume == (ResumePoint(ME, 0, EPOCH, 2),)
    world.gateway.pipe.say(deliver(2, 6))
    assert [done(client.next_message()).seq for _ in range(3)] == [4, 5, 6]


def test_byte_by_byte(world: World) -> None:
    world.gateway.chunk = 1
    got: list[int] = []
    client = world.up(on_message=lambda message: got.append(message.seq))
    sent = client.publish("user:bob", b"x")
    world.turn()
    assert done(sent)
    world.gateway.pipe.say(deliver(0, 3), deliver(3, 4))
    assert got == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------- history


def test_history_reads_again_and_moves_nothing(world: World) -> None:
    got: list[int] = []
    client = world.up(on_message=lambda message: got.append(message.seq))
    world.gateway.pipe.say(deliver(0, 9))
    asked = client.history("user:me", after=2, limit=3)
    [pull] = world.gateway.pipe.of(Pull)
    assert (pull.after, pull.limit, pull.epoch) == (2, 3, EPOCH)
    world.gateway.pipe.say(answer(2, 5, head=9))
    page = done(asked)
    assert [one.seq for one in page.messages] == [3, 4, 5]
    assert (page.after, page.upto, page.head, page.gap, page.epoch) == (2, 5, 9, False, EPOCH)
    assert got == list(range(1, 10))


def test_a_delivery_at_the_very_place_is_not_the_answer(world: World) -> None:
    got: list[int] = []
    client = world.up(on_message=lambda message: got.append(message.seq))
    world.gateway.pipe.say(deliver(0, 2))
    asked = client.history(ME, after=2)
    world.gateway.pipe.say(deliver(2, 3))
    assert not asked.called
    assert got == [1, 2, 3]
    world.gateway.pipe.say(answer(2, 4))
    assert [one.seq for one in done(asked).messages] == [3, 4]
    assert got == [1, 2, 3]
    world.gateway.pipe.say(deliver(3, 4))
    world.wait(1)
    assert (got, acked(world)) == ([1, 2, 3, 4], [4])


@pytest.mark.parametrize("upto", [0, 1, 30, 60])
def test_what_history_read_is_shown_and_acknowledged_when_it_is_delivered(world: World, upto: int) -> None:
    """The answer is empty, shorter than the delivery, as long, longer."""
    got: list[int] = []
    client = world.up(on_message=lambda message: got.append(message.seq))
    asked = client.history(ME, limit=0)
    world.gateway.pipe.say(answer(0, upto, head=60))
    assert len(done(asked).messages) == upto
    world.wait(1)
    assert (got, acked(world)) == ([], [])
    world.gateway.pipe.say(deliver(0, 30))
    world.wait(1)
    world.gateway.pipe.say(deliver(30, 60))
    world.wait(1)
    assert (got, acked(world)) == (list(range(1, 61)), [16, 30, 46, 60])


@pytest.mark.parametrize("limits", [(2, 9), (9, 2)])
def test_two_questions_from_one_place_are_answered_in_their_order(
    world: World, limits: tuple[int, ...]
) -> None:
    client = world.up(on_message=lambda message: None)
    asked = [client.history(ME, limit=limit) for limit in limits]
    for limit in limits:
        world.gateway.pipe.say(answer(0, limit, head=20), deliver(0, 1))
    assert [done(one).upto for one in asked] == list(limits)
    world.wait(1)
    assert acked(world) == [1]


@pytest.mark.parametrize("is_first", [True, False])
def test_history_and_a_hole_from_one_place(world: World, is_first: bool) -> None:
    got: list[int] = []
    client = world.up(on_message=lambda message: got.append(message.seq))
    asked = [client.history(ME, limit=1)] if is_first else []
    world.gateway.pipe.say(deliver(3, 4))
    asked = asked or [client.history(ME, limit=1)]
    pulls = world.gateway.pipe.of(Pull)
    assert [(pull.after, pull.limit) for pull in pulls] == (
        [(0, 1), (0, 64)] if is_first else [(0, 64), (0, 1)]
    )
    for pull in pulls:
        world.gateway.pipe.say(answer(0, min(pull.limit, 4), head=4))
    assert [one.seq for one in done(asked[0]).messages] == [1]
    assert got == [1, 2, 3, 4]
    assert len(world.gateway.pipe.of(Pull)) == 2


def test_an_answer_after_the_log_was_replaced(world: World) -> None:
    got: list[Any] = []
    client = world.up(
        on_message=lambda message: got.append(message.seq), on_gap=lambda gap: got.append(gap.upto)
    )
    world.gateway.pipe.say(deliver(0, 2))
    asked = [client.history(ME, after=2), client.history(ME, after=7)]
    world.gateway.pipe.say(answer(2, 3, epoch=8, gap=True), answer(7, 7, epoch=8, gap=True, head=3))
    assert [(page.epoch, page.gap) for page in map(done, asked)] == [(8, True), (8, True)]
    world.gateway.pipe.say(deliver(0, 1, epoch=8, entries=(entry(1, b"", "new"),)))
    world.wait(1)
    assert got == [1, 2, 0, 1]
    assert [ack.epoch for frame in world.gateway.pipe.of(DeliverAck) for ack in frame.acks][-1] == 8


def test_history_of_an_empty_log_and_what_is_said_meanwhile(world: World) -> None:
    got: list[bool] = []
    client = world.up(on_message=lambda message: got.append(message.ephemeral))
    asked = client.history("device:me/phone")
    world.gateway.pipe.say(Deliver(ME, 0, 0, 0, 0, (entry(0, b"typing"),)))
    assert not asked.called
    world.gateway.pipe.say(answer(0, 0))
    assert (done(asked).messages, got) == ((), [True])


def test_history_of_an_unknown_log_waits_for_a_link_and_fails_with_it(world: World) -> None:
    client = world.client(wait=True)
    first, second = client.history("topic:t"), client.history("topic:u")
    second.addErrback(lambda reason: None).cancel()
    done_start = client.start()
    world.turn()
    done(done_start)
    assert [str(pull.address.id) for pull in world.gateway.pipe.of(Pull)] == ["t"]
    client.history("topic:v").addErrback(lambda reason: None).cancel()
    world.gateway.pipe.cut()
    with pytest.raises(LinkLost):
        done(first)


def test_history_that_waits_when_a_link_ends_at_once_waits_for_the_next(world: World) -> None:
    client = world.client()
    first, second = client.history("topic:t"), client.history("topic:u")
    world.gateway.watch = lambda pipe, frame: pipe.cut() if isinstance(frame, Pull) else None
    client.start()
    world.turn()
    with pytest.raises(LinkLost):
        done(first)
    assert not second.called
    world.gateway.watch = lambda pipe, frame: None
    world.wait(1)
    assert [pull.address.id for pull in world.gateway.pipe.of(Pull)] == ["u"]
    second.addErrback(lambda reason: None)


def test_history_that_is_refused(world: World) -> None:
    client = world.up()
    first, second = client.history("user:bob"), client.history("user:me")
    second.addErrback(lambda reason: None).cancel()
    third = client.history("user:me")
    world.gateway.pipe.say(Refused("pull", "user:bob", RefusedCode.FORBIDDEN, "not yours"))
    with pytest.raises(FrameRefused):
        done(first)
    world.gateway.pipe.say(answer(0, 1))  # to the one that was cancelled
    assert not third.called
    world.gateway.pipe.say(answer(0, 2))
    assert done(third).upto == 2


def test_a_refusal_of_what_is_not_waited_for_any_more(world: World) -> None:
    client = world.up()
    client.history("user:bob").addErrback(lambda reason: None).cancel()
    world.gateway.pipe.say(Refused("pull", "user:bob", RefusedCode.FORBIDDEN, "not yours"))
    assert client.connected


def test_history_that_the_wire_cannot_ask_for(world: World) -> None:
    client = world.client(wait=True)
    asked = [client.history(ME, after=-1)]
    client.start()
    world.turn()
    asked.append(client.history(ME, after=-1))
    for one in asked:
        with pytest.raises(ValueError, match="cannot carry"):
            done(one)
    answered = client.history(ME)
    world.gateway.pipe.say(answer(0, 1))
    assert len(done(answered).messages) == 1
