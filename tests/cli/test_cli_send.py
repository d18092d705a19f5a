"""send: windows, order, refusals, standard input."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from twisted.internet.defer import Deferred

from imgateway.errors import ConnectRefused, FrameRefused, OutcomeUnknown
from imgateway.frames import Outcome, OutcomeCode, RefusedCode
from tests.cli.fake_client import FakeClient, Stage, Typed

Run = Callable[..., Result]
LOGIN = ("tcp://127.0.0.1:7901", "--token", "t")


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_message_is_one_line(run: Run, stage: Stage) -> None:
    result = run("send", *LOGIN, "user:bob", "hello", "--msg-id", "m1", "--json", stage=stage)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == '{"msg_id": "m1", "address": "user:bob", "code": "OK", "seq": 1}\n'
    assert stage.client is not None
    ((msg_id, to, body, fields),) = stage.client.published
    assert (msg_id, to, body) == ("m1", ("user:bob",), b"hello")
    assert fields == {"qos": 1, "content_type": "text/plain", "ttl_s": 0, "lane": 0, "copy_self": False}
    assert stage.client.log == ["start", "close"]


def test_all_options_reach_the_message(run: Run, stage: Stage) -> None:
    options = ("--content-type", "a/b", "--ttl", "2m", "--lane", "1", "--copy-self")
    assert run("send", *LOGIN, "room:7", b"\xff".decode("utf-8", "surrogateescape"), *options, stage=stage)
    assert stage.client is not None
    ((_, to, body, fields),) = stage.client.published
    assert (to, body) == (("room:7",), b"\xff")
    assert fields == {"qos": 1, "content_type": "a/b", "ttl_s": 120, "lane": 1, "copy_self": True}


def test_made_up_ids_differ_between_messages_and_runs(run: Run) -> None:
    seen = set()
    for _ in range(2):
        result = run("send", *LOGIN, "user:bob", "x", "--count", "3", stage=Stage())
        seen |= {line["msg_id"] for line in lines(result.stdout)}
    assert len(seen) == 6


def test_several_addresses_are_a_line_each_in_order(run: Run, stage: Stage) -> None:
    outcomes = (
        Outcome(OutcomeCode.OK, 1, 5),
        Outcome(OutcomeCode.DUPLICATE, 1, 6),
        Outcome(OutcomeCode.OK, 2, 7),
    )
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: outcomes)
    result = run("send", *LOGIN, "user:a,b,user:c,all", "x", "--msg-id", "m", stage=stage)
    assert result.exit_code == 0
    assert [(line["address"], line["code"], line["seq"]) for line in lines(result.stdout)] == [
        ("user:a,b", "OK", 5),
        ("user:c", "DUPLICATE", 6),
        ("all", "OK", 7),
    ]


def test_refusals_go_to_stderr_and_end_with_status_1(run: Run, stage: Stage) -> None:
    outcomes = (Outcome(OutcomeCode.OK, 1, 5), Outcome(OutcomeCode.FULL), Outcome(99))
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: outcomes)
    result = run("send", *LOGIN, "user:a,user:b,user:c", "x", "--msg-id", "m", stage=stage)
    assert result.exit_code == 1
    assert [line["address"] for line in lines(result.stdout)] == ["user:a"]
    assert lines(result.stderr) == [
        {"msg_id": "m", "address": "user:b", "code": "FULL"},
        {"msg_id": "m", "address": "user:c", "code": "99"},
    ]


def test_who_may_not_send_to_a_room_or_topic_is_told_what_it_takes(run: Run, stage: Stage) -> None:
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: (Outcome(OutcomeCode.FORBIDDEN),))
    (line,) = lines(run("send", *LOGIN, "room:7", "x", stage=stage).stderr)
    assert line["reason"].startswith("who sends there must be in the room, or have a token that names it")
    assert line["reason"].endswith("imgateway token USER --room 7")
    (line,) = lines(run("send", *LOGIN, "topic:news", "x", stage=stage).stderr)
    assert line["reason"].startswith("who sends there must have a token that names it")
    assert line["reason"].endswith("imgateway token USER --topic news")
    (line,) = lines(run("send", *LOGIN, "all", "x", stage=stage).stderr)
    assert line["reason"] == "who sends to all needs a service token: imgateway token USER --service"
    (line,) = lines(run("send", *LOGIN, "service:7", "x", stage=stage).stderr)
    assert "reason" not in line


def test_a_body_above_the_limit_is_told_the_limit(run: Run, stage: Stage) -> None:
    def prepare(client: FakeClient) -> None:
        client.answer = lambda msg_id: (Outcome(OutcomeCode.TOO_LARGE),)
        client.max_body_bytes = 3

    stage.prepare = prepare
    result = run("send", *LOGIN, "user:a", "four", "--msg-id", "m", stage=stage)
    assert lines(result.stderr)[0]["reason"] == "the body has 4 bytes, and the gateway takes 3"
    # Not the body, then: a rule of the node's own, or the headers.
    assert "reason" not in lines(run("send", *LOGIN, "user:a", "abc", stage=stage).stderr)[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FrameRefused(RefusedCode.INVALID, "too many"), "INVALID"),
        (FrameRefused(77, "later"), "77"),
        (OutcomeUnknown("closed"), "OUTCOME_UNKNOWN"),
    ],
)
def test_a_message_without_outcomes_is_told_and_the_next_is_sent(
    run: Run, stage: Stage, error: Exception, code: str
) -> None:
    stage.prepare = lambda client: setattr(
        client, "answer", lambda msg_id: error if msg_id == "m-1" else (Outcome(0, 1, 2),)
    )
    result = run("send", *LOGIN, "user:a", "x", "--msg-id", "m", "--count", "2", stage=stage)
    assert result.exit_code == 1
    (refused,) = lines(result.stderr)
    assert (refused["msg_id"], refused["code"], refused["reason"]) == ("m-1", code, str(error))
    assert [line["msg_id"] for line in lines(result.stdout)] == ["m-2"]


def test_the_window_bounds_what_is_unacknowledged_and_order_is_that_of_sending(
    run: Run, stage: Stage
) -> None:
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: None)
    sizes: list[int] = []

    def newest_first(client: FakeClient) -> None:
        sizes.append(len(client.waiting))
        msg_id, word = client.waiting.popitem()
        word.callback((Outcome(0, 1, int(msg_id[2:])),))

    stage.script = [newest_first] * 10
    result = run("send", *LOGIN, "user:bob", "x", "--msg-id", "m", "--count", "10", stage=stage)
    assert result.exit_code == 0
    assert max(sizes) == 4
    assert [line["seq"] for line in lines(result.stdout)] == list(range(1, 11))
    assert [line["msg_id"] for line in lines(result.stdout)] == [f"m-{n}" for n in range(1, 11)]


def test_lines_of_standard_input_are_messages(run: Run) -> None:
    stage = Stage(Typed(b"one", b"", b"three"))
    result = run("send", *LOGIN, "user:bob", "-", "--msg-id", "m", stage=stage)
    assert result.exit_code == 0
    assert stage.client is not None
    assert [(one[0], one[2]) for one in stage.client.published] == [
        ("m-1", b"one"),
        ("m-2", b""),
        ("m-3", b"three"),
    ]


def test_outcomes_are_printed_while_the_next_line_is_awaited(run: Run) -> None:
    stage = Stage(Typed(b"one", ended=False))
    seen: list[bool] = []

    def write(line: bytes) -> None:
        seen.append(stage.typed.asked is not None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgateway.cli.dispatch.write_line", write)
        stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: None)
        stage.script = [
            lambda client: client.waiting.popitem()[1].callback((Outcome(0, 1, 1),)),
            lambda client: stage.typed.type(None),
        ]
        assert run("send", *LOGIN, "user:bob", "-", stage=stage).exit_code == 0
    assert seen == [True]


def test_the_rate_spreads_the_messages(run: Run, stage: Stage) -> None:
    times: list[float] = []
    stage.prepare = lambda client: setattr(
        client, "answer", lambda msg_id: times.append(stage.clock.seconds()) or (Outcome(0, 1, 1),)
    )
    assert run("send", *LOGIN, "user:bob", "x", "--count", "4", "--rate", "0.5", stage=stage).exit_code == 0
    assert times == [0, 2, 4, 6]


def test_qos_0_prints_nothing(run: Run, stage: Stage) -> None:
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: ())
    result = run("send", *LOGIN, "user:bob", "x", "--qos", "0", stage=stage)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert stage.client is not None
    assert stage.client.published[0][3]["qos"] == 0


def test_qos_0_without_a_link_is_told(run: Run) -> None:
    stage = Stage(Typed(ended=False))
    stage.script = [
        lambda client: client.down(),
        lambda client: stage.typed.type(b"lost"),
        lambda client: client.up(),
        lambda client: stage.typed.type(None),
    ]
    result = run("send", *LOGIN, "user:bob", "-", "--qos", "0", "--msg-id", "m", stage=stage)
    assert result.exit_code == 1
    assert stage.client is not None
    assert stage.client.published == []
    told = result.stderr.splitlines()
    assert told[0] == "no connection (gone); trying again"
    assert json.loads(told[1])["code"] == "NOT_SENT"
    assert told[2] == "connected again"


def test_the_timeout_gives_up(run: Run, stage: Stage) -> None:
    stage.prepare = lambda client: setattr(client, "answer", lambda msg_id: None)
    result = run("send", *LOGIN, "user:bob", "x", "--msg-id", "m", "--timeout", "3", stage=stage)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: no acknowledgement of m within 3 s; it may or may not have been taken\n"


def test_the_timeout_is_for_the_login_too(run: Run, stage: Stage) -> None:
    began: Deferred[None] = Deferred()
    stage.prepare = lambda client: setattr(client, "start", lambda: began)
    result = run("send", *LOGIN, "user:bob", "x", "--wait", "--timeout", "3", stage=stage)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {LOGIN[0]}: no login within 3 s\n"
    assert stage.clock.seconds() == 3
    assert stage.client is not None
    assert (stage.client.published, stage.client.log) == ([], ["close"])


def test_a_login_in_time_is_no_timeout(run: Run, stage: Stage) -> None:
    began: Deferred[None] = Deferred()

    def up(client: FakeClient) -> None:
        client.up()
        began.callback(None)

    stage.prepare = lambda client: setattr(client, "start", lambda: began)
    stage.script = [lambda client: stage.clock.advance(2), up]
    assert run("send", *LOGIN, "user:bob", "x", "--timeout", "3", stage=stage).exit_code == 0


def test_an_acknowledgement_in_time_is_no_timeout(run: Run, stage: Stage) -> None:
    assert run("send", *LOGIN, "user:bob", "x", "--timeout", "3", stage=stage).exit_code == 0


def test_being_sent_away_ends_it_with_one_line(run: Run) -> None:
    stage = Stage(Typed(ended=False))

    def kicked(client: FakeClient) -> None:
        client.down(200, "bye")
        client.publish = refuse  # type: ignore[assignment,method-assign]
        stage.typed.type(b"x")

    def refuse(*args: Any, **fields: Any) -> Any:
        raise ConnectRefused(200, "bye")

    stage.script = [kicked]
    result = run("send", *LOGIN, "user:bob", "-", stage=stage)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: tcp://127.0.0.1:7901: KICKED: bye; ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("bob", "x"), "KIND:ID"),
        (("user:a,bob:", "x", "--rate", "0"), "--rate"),
        (("user:a", "x", "--count", "0"), "--count"),
        (("user:a", "-", "--count", "2"), "--count"),
        (("user:a", "x", "--qos", "2"), "--qos"),
        (("user:a", "x", "--lane", "1"), "--lane 1 is for rooms"),
        (("room:7,device:a/d", "x", "--lane", "1"), "--lane 1 is for rooms"),
        (("user:a", "x", "--ttl", "soon"), "--ttl"),
        (("user:a", "x", "--msg-id", ""), "msg_id"),
        (("user:a", "x", "--msg-id", "m" * 65), "64"),
        (("user:a", "x", "--msg-id", "m" * 62, "--count", "10"), "64"),
    ],
)
def test_wrong_command_lines(run: Run, stage: Stage, args: tuple[str, ...], said: str) -> None:
    result = run("send", *LOGIN, *args, stage=stage)
    assert result.exit_code == 2
    assert said in result.stderr
    assert stage.client is None
