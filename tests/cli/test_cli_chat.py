"""chat: lines in, lines out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from imgateway.cli.conversation import address_of, room_of, shown
from imgateway.errors import ConnectRefused, FrameRefused, InvalidAddress, OutcomeUnknown
from imgateway.frames import (
    Address,
    Outcome,
    OutcomeCode,
    UnsubscribedCode,
    address_text,
    parse_address,
)
from tests.cli.fake_client import FakeClient, Stage, Typed, message, received

Run = Callable[..., Result]
LOGIN = ("tcp://127.0.0.1:7901", "--token", "t")
NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def said(stage: Stage) -> list[tuple[str, Any]]:
    assert stage.client is not None
    return [(address_text(to), body) for _, to, body, _ in stage.client.published]  # type: ignore[arg-type]


def chat(run: Run, *lines: bytes, stage: Stage | None = None) -> tuple[Result, Stage]:
    stage = stage or Stage(Typed(*lines))
    return run("chat", *LOGIN, stage=stage), stage


def test_name_and_text(run: Run) -> None:
    result, stage = chat(run, b"bob hello there", b"device:bob/tv  off ", b"", b"  ")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert said(stage) == [("user:bob", "hello there"), ("device:bob/tv", "off")]
    assert stage.client is not None
    assert stage.client.published[0][3] == {"content_type": "text/plain"}


def test_to_keeps_the_receiver_until_it_is_taken_away(run: Run) -> None:
    result, stage = chat(run, b"/to bob", b"hello there", b"/to", b"eve hi", b"/to all", b"news")
    assert result.exit_code == 0
    assert said(stage) == [("user:bob", "hello there"), ("user:eve", "hi"), ("all", "news")]


def test_quit_ends_it(run: Run) -> None:
    result, stage = chat(run, b"bob one", b"/quit", b"bob two")
    assert result.exit_code == 0
    assert said(stage) == [("user:bob", "one")]
    assert stage.client is not None
    assert stage.client.log[-1] == "close"


@pytest.mark.parametrize(
    ("line", "told"), [(b"bob", "to whom?"), (b"x:y hi", "KIND:ID"), (b"/to \x07", "control")]
)
def test_lines_that_say_nothing_are_told_and_count(run: Run, line: bytes, told: str) -> None:
    result, stage = chat(run, line, b"bob hi")
    assert result.exit_code == 1
    assert told in result.stderr
    assert said(stage) == [("user:bob", "hi")]


def test_unknown_commands_give_help(run: Run) -> None:
    result, _ = chat(run, b"/help")
    assert (result.exit_code, "/quit" in result.stderr) == (0, True)


def test_a_person_is_told_how(run: Run) -> None:
    result, _ = chat(run, stage=Stage(Typed(interactive=True)))
    assert result.stderr.startswith("you are alice.")


def test_a_refusal_is_told(run: Run) -> None:
    stage = Stage(Typed(b"bob hi", b"bob ho", b"bob hu"))
    answers = iter([(Outcome(OutcomeCode.FULL),), OutcomeUnknown("closed"), (Outcome(55),)])
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: next(answers))
    result, _ = chat(run, stage=stage)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "user:bob did not get that: FULL",
        "user:bob may not get that: closed",
        "user:bob did not get that: 55",
    ]


def test_the_end_of_input_waits_for_outcomes(run: Run) -> None:
    stage = Stage(Typed(b"bob hi"))
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: None)
    stage.script = [lambda client: client.waiting.popitem()[1].callback((Outcome(0, 1, 1),))]
    result, _ = chat(run, stage=stage)
    assert (result.exit_code, result.stderr) == (0, "")


def test_but_not_for_ever(run: Run) -> None:
    stage = Stage(Typed(b"bob hi"))
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: None)
    result, _ = chat(run, stage=stage)
    assert result.exit_code == 1
    assert result.stderr.startswith("1 of your messages")
    assert stage.clock.seconds() == 30


def test_what_comes_is_shown_and_acknowledged(run: Run) -> None:
    stage = Stage(Typed(ended=False))
    stage.script = [
        lambda client: client.deliver(received(message(b"hello"))),
        lambda client: client.deliver(received(message(b"you\x1b[2J\nthere"))),
        lambda client: stage.typed.type(None),
    ]
    result, _ = chat(run, stage=stage)
    assert result.exit_code == 0
    assert result.stdout == "22:13 bob: hello\n22:13 bob: you\\u001b[2J\\nthere\n"
    assert stage.client is not None
    assert stage.client.log == ["start", "take", "take", "close"]


def test_a_refusal_for_good_ends_it(run: Run) -> None:
    stage = Stage(Typed(ended=False))

    def kicked(client: FakeClient) -> None:
        assert client.asked is not None
        client.asked.errback(ConnectRefused(200, ""))

    stage.script = [kicked]
    result, _ = chat(run, stage=stage)
    assert result.exit_code == 1
    assert "KICKED" in result.stderr


def test_an_interruption_leaves(run: Run) -> None:
    stage = Stage(Typed(ended=False))
    stage.script = [lambda client: stage.task is not None and stage.task.cancel()]
    result, _ = chat(run, stage=stage)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (received(), "22:13 bob: hello"),
        (received(message(b"\xff")), "22:13 bob: [text/plain, 1 bytes]"),
        (received(message(b"hi"), address="room:7"), "22:13 bob to room:7: hi"),
        (received(message(b"hi", to=(parse_address("user:eve"),))), "22:13 bob to user:eve: hi"),
        (received(message("\u202egnp.exe 👩‍🚀".encode())), "22:13 bob: \\u202egnp.exe 👩‍🚀"),
    ],
)
def test_how_a_message_is_shown(what: Any, line: str) -> None:
    assert shown(what, "alice", NOW) == line


def test_a_message_of_another_day_has_its_date() -> None:
    assert shown(received(), "alice", NOW + 86_400) == "2023-11-14 22:13 bob: hello"


def test_names_are_users() -> None:
    assert address_of(" bob ") == Address("user", "bob")
    assert address_of("a/b") == Address("user", "a/b")
    assert address_of("service:x") == Address("service", "x")
    with pytest.raises(InvalidAddress):
        address_of("")


# ------------------------------------------------------------------------------------------------------ rooms


def test_who_joins_a_room_speaks_there(run: Run) -> None:
    result, stage = chat(
        run, b"/join 7", b"hello all", b"/join room:a.b", b"hi", b"/to bob", b"psst", b"/leave 7"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert said(stage) == [("room:7", "hello all"), ("room:a.b", "hi"), ("user:bob", "psst")]
    assert stage.client is not None
    assert stage.client.rooms == [("room:7", "push"), ("room:a.b", "push"), ("room:7", "left")]


def test_who_leaves_speaks_to_whom_he_names(run: Run) -> None:
    _, stage = chat(run, b"/join 7", b"/leave 7", b"bob hi")
    assert said(stage) == [("user:bob", "hi")]


def test_who_leaves_where_he_is_not_is_told(run: Run) -> None:
    stage = Stage(Typed(b"/leave 9", b"/join 7", b"/leave 7", b"/leave 7", b"/leave topic:news", b"bob hi"))
    result, _ = chat(run, stage=stage)
    assert result.stderr.splitlines() == ["you are not in room:9", "you are not in room:7"]
    assert (result.exit_code, said(stage)) == (0, [("user:bob", "hi")])


def test_who_was_put_out_is_not_there_either(run: Run) -> None:
    stage = Stage(Typed(b"/leave 7"))

    def put_out(client: FakeClient) -> None:
        subscribe = client.subscribe

        def subscribed(room: Any, mode: str = "push") -> Any:
            return subscribe(room, mode).addCallback(lambda one: setattr(one, "ended", 2) or one)

        client.subscribe = subscribed  # type: ignore[method-assign]

    stage.prepare = put_out
    result = run("chat", *LOGIN, "--room", "7", stage=stage)
    assert "you are not in room:7" in result.stderr


def test_a_person_is_told_where_lines_go(run: Run) -> None:
    result, _ = chat(run, stage=Stage(Typed(b"/to bob", b"/to", interactive=True)))
    assert result.stderr.splitlines()[1:] == ["lines go to user:bob", "lines begin with a name again"]


def test_rooms_at_the_start(run: Run) -> None:
    stage = Stage(Typed(b"hello"))
    result = run("chat", *LOGIN, "--room", "7", "--room", "room:8", stage=stage)
    assert result.exit_code == 0
    assert said(stage) == [("room:8", "hello")]
    assert run("chat", *LOGIN, "--room", "", stage=Stage()).exit_code == 2


def test_a_person_is_told_of_being_in_a_room(run: Run) -> None:
    stage = Stage(Typed(b"/join 9", interactive=True))
    stage.prepare = lambda client: setattr(
        client, "admit", lambda room: FrameRefused(2, "not you") if room == "room:8" else None
    )
    result = run("chat", *LOGIN, "--room", "7", "--room", "8", stage=stage)
    assert result.stderr.splitlines()[1:] == [
        "you are in room:7; lines go there",
        "room:8: not you (code 2)",
        "you are in room:9; lines go there",
    ]


def test_who_may_not_speak_in_a_room_is_told_what_it_takes(run: Run) -> None:
    stage = Stage(Typed(b"room:7 hi"))
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: (Outcome(OutcomeCode.FORBIDDEN),))
    result, _ = chat(run, stage=stage)
    assert result.stderr.startswith("room:7 did not get that: FORBIDDEN: who sends there must be in the room")


@pytest.mark.parametrize("to", ["all", "area:games", "node:n1"])
def test_who_may_not_speak_to_many_is_told_what_it_takes(run: Run, to: str) -> None:
    stage = Stage(Typed(f"{to} hi".encode()))
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: (Outcome(OutcomeCode.FORBIDDEN),))
    result, _ = chat(run, stage=stage)
    assert result.stderr == (
        f"{to} did not get that: FORBIDDEN: who sends to {to} needs a service token: "
        "imgateway token USER --service\n"
    )


def test_a_room_that_does_not_let_us_in_is_told(run: Run) -> None:
    stage = Stage(Typed(b"/join 7", b"bob hi", b"/join \x07", b"/join", b"/leave"))
    stage.prepare = lambda client: setattr(client, "admit", lambda room: FrameRefused(2, "not you"))
    result, _ = chat(run, stage=stage)
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert told[0] == "room:7: not you (code 2)"
    assert "control" in told[1]
    assert told[2] == told[3]
    assert said(stage) == [("user:bob", "hi")]


def test_what_we_said_in_a_room_is_not_shown_to_us(run: Run) -> None:
    from imgateway.frames import Message

    def own(device: str, address: str) -> Any:
        return received(Message("m", "alice", device, "text/plain", b"hi", 1_700_000_000_000), 1, address)

    stage = Stage(Typed(ended=False))
    coming = [
        own("cli-chat", "room:7"),
        own("tv", "room:7"),
        own("", "room:7"),
        own("cli-chat", "user:alice"),
    ]
    stage.prepare = lambda client: setattr(client, "session", "device:alice/cli-chat")
    stage.script = [
        *(lambda client, one=one: client.deliver(one) for one in coming),
        lambda client: stage.typed.type(None),
    ]
    result, _ = chat(run, stage=stage)
    assert result.stdout.splitlines() == [
        "22:13 alice to room:7: hi",
        "22:13 alice to room:7: hi",
        "22:13 alice: hi",
    ]
    assert stage.client is not None
    assert stage.client.log.count("take") == 4


def test_being_put_out_is_told(run: Run) -> None:
    from imgateway.client import Subscription
    from imgateway.frames import Mode

    def put_out(client: FakeClient) -> None:
        for code in (UnsubscribedCode.REMOVED, 77):
            subscription = Subscription(parse_address("room:7"), Mode.PUSH)
            subscription.ended = code
            client.on_unsubscribed(subscription)

    stage = Stage(Typed(ended=False))
    stage.script = [put_out, lambda client: stage.typed.type(None)]
    result, _ = chat(run, stage=stage)
    assert result.stderr.splitlines() == [
        "room:7: no more from there (REMOVED)",
        "room:7: no more from there (code 77)",
    ]


def test_names_of_rooms() -> None:
    assert room_of(" 7 ") == Address("room", "7")
    assert room_of("topic:x") == Address("topic", "x")
    with pytest.raises(InvalidAddress):
        room_of("room:")
