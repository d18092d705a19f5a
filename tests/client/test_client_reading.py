"""Receiving: custody, acknowledgements, iteration, back-pressure, history, gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imgateway.client import Client, Gap, Received
from imgateway.errors import ClientError, ConnectRefused, FrameRefused, LinkLost, OutcomeUnknown
from imgateway.frames import (
    Bye,
    Deliver,
    DeliverAck,
    Hello,
    Outcome,
    OutcomeCode,
    Publish,
    PublishAck,
    Pull,
    Refused,
    RefusedCode,
    ResumePoint,
)
from tests.client.fake_gateway import EPOCH, ME, ROOM, World, begin, deliver, done, entry


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


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_who_wants_to_end_the_program_and_cannot_is_shown_the_next(
    world: World, ends: type[BaseException]
) -> None:
    """Reactors let nothing out that the network called."""
    got: list[int] = []

    def on_message(message: Received) -> None:
        got.append(message.seq)
        if message.seq == 1:
            raise ends

    client = world.up(on_message=on_message)
    with pytest.raises(ends):
        world.gateway.pipe.say(deliver(0, 2))
    world.gateway.pipe.cut()
    world.wait(1)
    world.gateway.pipe.say(deliver(0, 3))
    assert got == [1, 2, 3]
    closing = client.close()
    world.turn()
    assert done(closing) is None


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_who_wants_to_end_the_program_after_a_deferred_is_shown_the_rest(
    world: World, ends: type[BaseException]
) -> None:
    """It is the Deferred of the one before that keeps it."""
    first: Deferred[None] = Deferred()
    got: list[int] = []

    def on_message(message: Received) -> Any:
        got.append(message.seq)
        if message.seq in (2, 3):
            raise ends
        return first if message.seq == 1 else None

    world.up(on_message=on_message)
    world.gateway.pipe.say(deliver(0, 5))
    first.callback(None)
    assert got == [1, 2]
    with pytest.raises(ends):
        world.turn()
    world.turn()
    assert got == [1, 2, 3, 4, 5]
    world.wait(1)
    assert acked(world) == [5]
    kept: list[Failure] = []
    first.addErrback(kept.append)
    assert [failure.type for failure in kept] == [ends]


def test_who_wants_to_end_the_program_is_shown_no_more_after_the_end_of_the_client(world: World) -> None:
    got: list[int] = []

    def on_message(message: Received) -> None:
        got.append(message.seq)
        raise SystemExit

    client = world.up()
    world.gateway.pipe.say(deliver(0, 3))
    for _ in range(2):
        with pytest.raises(SystemExit):
            client.on_message = on_message
    world.gateway.pipe.say(Bye(200, "kicked"))
    world.wait(1)
    assert got == [1, 2]


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
    client.take()


def test_a_function_that_is_given_later_has_what_came_before(world: World) -> None:
    got: list[int] = []
    client = world.up()
    world.gateway.pipe.say(deliver(0, 2))
    client.on_message = lambda message: got.append(message.seq)
    assert got == [1, 2]
    world.wait(1)
    assert acked(world) == [2]


def test_a_function_goes_on_when_what_an_iteration_was_given_is_taken(world: World) -> None:
    got: list[int] = []
    client = world.up()
    world.gateway.pipe.say(deliver(0, 3))
    assert done(client.next_message()).seq == 1
    client.on_message = lambda message: got.append(message.seq)
    world.wait(1)
    assert (got, acked(world)) == ([], [])
    client.take()
    assert got == [2, 3]
    world.wait(1)
    assert acked(world) == [3]


def test_what_a_function_works_on_is_not_taken_for_it(world: World) -> None:
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: slow)
    world.gateway.pipe.say(deliver(0, 1))
    client.take()
    world.wait(1)
    assert acked(world) == []
    slow.callback(None)
    world.wait(1)
    assert acked(world) == [1]


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


def test_close_waits_for_the_message_in_hand_and_shows_no_other(world: World) -> None:
    got: list[int] = []
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: got.append(message.seq) or slow)
    pipe = world.gateway.pipe
    pipe.say(deliver(0, 2))
    closing = client.close()
    pipe.say(deliver(2, 3))
    world.wait(4)
    assert (closing.called, acked(world)) == (False, [])
    slow.callback(None)
    world.turn()
    assert done(closing) is None
    assert (got, acked(world)) == ([1], [1])
    assert isinstance(pipe.got[-1], Bye)


def test_close_waits_no_longer_than_it_may(world: World) -> None:
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: slow)
    world.gateway.pipe.say(deliver(0, 2))
    closing = client.close(5)
    world.wait(4.9)
    assert not closing.called
    world.wait(0.1)
    assert done(closing) is None
    slow.callback(None)
    world.wait(1)
    assert acked(world) == []


def test_close_has_one_time_for_the_message_in_hand_and_for_outcomes(world: World) -> None:
    world.gateway.acks = False
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: slow)
    sent = client.publish("user:bob", b"x")
    world.gateway.pipe.say(deliver(0, 1))
    closing = client.close(5)
    world.wait(4)
    slow.callback(None)
    world.wait(0.9)
    assert not closing.called
    world.wait(0.1)
    assert done(closing) is None
    assert acked(world) == [1]
    with pytest.raises(OutcomeUnknown):
        done(sent)


def test_close_when_the_message_in_hand_is_done_after_a_stall(world: World) -> None:
    world.gateway.acks = False
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: slow)
    client.publish("user:bob", b"x").addErrback(lambda reason: None)
    world.gateway.pipe.say(deliver(0, 1))
    world.clock.callLater(5, slow.callback, None)
    closing = client.close(5)
    world.wait(7)
    assert done(closing) is None
    assert acked(world) == [1]


def test_close_waits_for_what_is_told_of_a_gap(world: World) -> None:
    telling: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: None, on_gap=lambda gap: telling)
    world.gateway.pipe.say(deliver(0, 5, [5], gap=True))
    closing = client.close()
    telling.callback(None)
    world.turn()
    assert done(closing) is None
    assert acked(world) == []  # the gap's place is taken with what is left


@pytest.mark.parametrize("how", ["call", "coroutine", "later"])
def test_a_function_may_close_the_client_with_its_message(world: World, how: str) -> None:
    closing: list[Deferred[None]] = []
    stored: Deferred[None] = Deferred()

    def at_once(message: Received) -> None:
        closing.append(client.close())

    async def awaits(message: Received) -> None:
        if how == "later":
            await stored
        await client.close()
        closing.append(client.close())

    client = world.up(on_message=at_once if how == "call" else awaits)
    ended = client.when_closed()
    world.gateway.pipe.say(deliver(0, 2))
    stored.callback(None)
    assert done(closing[0]) is None
    world.turn()
    assert done(ended) is None
    assert len(closing) == 1
    assert acked(world) == [1]


@pytest.mark.parametrize("at", [1, 2])
def test_a_function_that_closes_the_client_has_all_the_time_it_wants(world: World, at: int) -> None:
    """Also the next one's, which is shown as soon as the one before is over."""
    stored: list[Deferred[None]] = [Deferred(), Deferred()]

    async def on_message(message: Received) -> None:
        if message.seq == at:
            client.close(1)
        await stored[message.seq - 1]
        client.publish("user:bob", b"I saw it", msg_id=f"saw {message.seq}")

    client = world.up(on_message=on_message)
    pipe = world.gateway.pipe
    ended = client.when_closed()
    pipe.say(deliver(0, 2))
    for number in range(at):
        assert not ended.called
        world.live(60)
        stored[number].callback(None)
        world.turn()
    world.wait(5)
    assert done(ended) is None
    assert [one.msg_id for one in pipe.of(Publish)] == ["saw 1", "saw 2"][:at]
    assert acked(world)[-1] == at


def test_the_function_that_closes_the_client_cannot_wait_for_its_end(world: World) -> None:
    async def on_message(message: Received) -> None:
        await client.close()
        with pytest.raises(RuntimeError):
            await client.when_closed()

    client = world.up(on_message=on_message)
    ended = client.when_closed()
    world.gateway.pipe.say(deliver(0, 2))
    world.wait(5)
    assert done(ended) is None
    assert acked(world) == [1]
    assert done(client.when_closed()) is None


def test_whoever_closes_the_client_from_outside_waits_no_longer_than_that(world: World) -> None:
    async def on_message(message: Received) -> None:
        client.close()
        await Deferred()

    client = world.up(on_message=on_message)
    world.gateway.pipe.say(deliver(0, 2))
    world.live(60)
    closing = client.close(3)
    world.wait(2.5)
    assert not closing.called
    world.wait(2)
    assert done(closing) is None
    assert acked(world) == []


def test_the_function_that_close_waits_for_may_publish(world: World) -> None:
    world.gateway.acks = False
    stored: Deferred[None] = Deferred()

    async def on_message(message: Received) -> None:
        await stored
        client.publish("user:bob", b"I saw it", msg_id="saw")

    client = world.up(on_message=on_message)
    pipe = world.gateway.pipe
    pipe.say(deliver(0, 2))
    closing = client.close()
    with pytest.raises(ClientError):
        client.publish("user:bob", b"nobody waits for this")
    stored.callback(None)
    world.turn()
    assert (closing.called, [one.msg_id for one in pipe.of(Publish)]) == (False, ["saw"])
    pipe.say(PublishAck("saw", (Outcome(OutcomeCode.OK, EPOCH, 1),)))
    world.turn()
    assert done(closing) is None
    assert acked(world) == [1]


def test_what_a_function_began_waits_like_others_when_another_message_is_in_hand(world: World) -> None:
    stops: Deferred[None] = Deferred()
    slow: Deferred[None] = Deferred()
    closing: list[Deferred[None]] = []

    async def stop() -> None:
        await stops
        closing.append(client.close())

    def on_message(message: Received) -> Deferred[None] | None:
        if message.seq == 1:
            begin(stop())
            return None
        return slow

    client = world.up(on_message=on_message)
    world.gateway.pipe.say(deliver(0, 2))
    stops.callback(None)
    assert not closing[0].called
    slow.callback(None)
    world.turn()
    assert done(closing[0]) is None
    assert acked(world) == [2]


@pytest.mark.parametrize("waits_for", ["outcome", "answer"])
def test_what_a_function_fails_with_because_of_the_end_takes_nothing(
    world: World, tmp_path: Path, waits_for: str, flush_logged_errors: Any
) -> None:
    world.gateway.acks = False
    state, got = str(tmp_path / "state"), list[int]()

    async def on_message(message: Received) -> None:
        got.append(message.seq)
        await (client.publish(ME, b"x") if waits_for == "outcome" else client.history(ME))

    client = world.up(state=state, on_message=on_message)
    world.gateway.pipe.say(deliver(0, 1))
    closing = client.close(1)
    world.wait(1)
    assert done(closing) is None
    assert len(flush_logged_errors(OutcomeUnknown, LinkLost)) == 1
    world.up(state=state, on_message=lambda message: got.append(message.seq))
    [hello] = world.gateway.pipe.of(Hello)
    assert hello.resume == (ResumePoint(ME, 0, EPOCH, 0),)
    world.gateway.pipe.say(deliver(0, 1))
    assert got == [1, 1]


def test_close_ends_when_the_gateway_ends_the_session_first(world: World) -> None:
    slow: Deferred[None] = Deferred()
    client = world.up(on_message=lambda message: slow)
    world.gateway.pipe.say(deliver(0, 2))
    closing = client.close()
    world.gateway.pipe.say(Bye(200, "kicked"))
    assert done(closing) is None


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


def crowd(after: int, upto: int, size: int = 1) -> Deliver:
    """Of the room."""
    return deliver(
        after,
        upto,
        address=ROOM,
        entries=tuple(entry(n, bytes(size)) for n in range(after + 1, upto + 1)),
    )


def in_the_room(world: World, **options: Any) -> Client:
    world.gateway.acks = False
    client = world.up(**options)
    client.subscribe(ROOM)
    world.turn()
    return client


async def read(client: Client, count: int) -> list[int]:
    return [(await client.next_message()).seq for _ in range(count)]


@pytest.mark.parametrize(
    ("step", "size", "held"), [(20, 1, 1_000), (1, 100_000, 11)], ids=["messages", "bytes"]
)
def test_a_room_lies_while_the_queue_is_full_and_is_pulled_then(
    world: World, step: int, size: int, held: int
) -> None:
    client = in_the_room(world)
    pipe = world.gateway.pipe
    for n in range(60):
        pipe.say(crowd(n * step, n * step + step, size))
    assert len(client._reading._inbox) == held
    half = (held + 1) // 2
    assert done(begin(read(client, half - 1))) == list(range(1, half))
    pipe.say(crowd(60 * step, 60 * step + 1))
    assert pipe.of(Pull) == []  # not for every message: when half of it was shown
    done(begin(read(client, 1)))
    assert pipe.of(Pull) == [Pull(ROOM, 0, EPOCH, held, 64)]
    last = held + 64
    pipe.say(answer(held, last, address=ROOM))
    assert done(begin(read(client, last - half))) == list(range(half + 1, last + 1))
    assert [pull.after for pull in pipe.of(Pull)] == ([held, last] if last < 60 * step + 1 else [held])


def test_what_the_application_waits_for_comes_however_full_the_queue_is(world: World) -> None:
    got: list[int] = []

    async def on_message(message: Received) -> None:
        got.append(message.seq)
        await client.publish("user:bob", b"I saw it", msg_id=f"saw {message.seq}")

    client = in_the_room(world, on_message=on_message)
    world.gateway.pipe.say(crowd(0, 1_000), crowd(1_000, 1_020), deliver(0, 3))
    for n in range(1, 4):
        assert got == list(range(1, n + 1))
        world.gateway.pipe.say(PublishAck(f"saw {n}", (Outcome(OutcomeCode.OK, EPOCH, n),)))
    assert got == [1, 2, 3, 4]
    world.gateway.acks = True
    world.gateway.pipe.cut()
    world.wait(1)
    world.wait(60)  # and all the others
    assert len(got) == 1_003


def test_the_mailbox_comes_in_while_a_room_lies(world: World) -> None:
    client = in_the_room(world)
    world.gateway.pipe.say(crowd(0, 1_000), crowd(1_000, 1_001), deliver(0, 3))
    world.gateway.pipe.say(Deliver(ME, 0, 0, 0, 0, (entry(0, b"typing"),)))  # is lost
    assert done(begin(read(client, 1_003)))[-3:] == [1, 2, 3]
    nothing = client.next_message().addErrback(lambda reason: None)
    assert not nothing.called


def test_who_takes_nothing_stays_as_long_as_the_gateway_gives_signs_of_life(world: World) -> None:
    in_the_room(world)
    world.gateway.pipe.say(crowd(0, 1_000), crowd(1_000, 1_001))
    world.live(100)
    assert world.gateway.pipe.open
    world.wait(100)
    world.wait(1)
    assert len(world.gateway.pipes) == 2


def test_what_lies_when_the_link_ends_comes_over_the_next_one(world: World) -> None:
    client = in_the_room(world)
    world.gateway.pipe.say(crowd(0, 1_000), crowd(1_000, 1_001))
    world.gateway.pipe.cut()
    world.wait(1)
    [hello] = world.gateway.pipe.of(Hello)
    assert hello.resume[-2:] == (ResumePoint(ROOM, 1, EPOCH, 0), ResumePoint(ROOM, 0, EPOCH, 1_000))
    assert done(begin(read(client, 600)))[-1] == 600
    assert world.gateway.pipe.of(Pull) == []
    world.gateway.pipe.say(crowd(1_000, 1_001))
    assert done(begin(read(client, 401)))[-1] == 1_001


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


def test_a_refusal_of_a_lane_that_there_is_not_is_of_that_lane(world: World) -> None:
    client = world.up()
    first, second = client.history(ME), client.history(ME, lane=1)
    world.gateway.pipe.say(Refused("pull", "user:me", RefusedCode.NOT_SUPPORTED, "no such log"))
    with pytest.raises(FrameRefused):
        done(second)
    world.gateway.pipe.say(answer(0, 1))
    assert done(first).upto == 1


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
