"""listen: what it prints, when it acknowledges, how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from twisted.internet.defer import CancelledError

from imgateway.cli.lines import write_line
from imgateway.cli.reception import line_of
from imgateway.client import Gap
from imgateway.errors import ConnectRefused, FrameRefused
from imgateway.frames import Message, Start, parse_address
from tests.cli.fake_client import FakeClient, Stage, message, received

Run = Callable[..., Result]
LOGIN = ("tcp://127.0.0.1:7901", "--token", "t")


def coming(*what: Any) -> Callable[[FakeClient], None]:
    return lambda client: client.inbox.extend(what)


def test_where_nothing_can_be_shown_nothing_is_begun(
    run: Run, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.cli.login.sys", SimpleNamespace(stdout=None))
    for words in (("listen", *LOGIN), ("send", *LOGIN, "user:bob", "x")):
        result = run(*words, stage=stage)
        assert (result.exit_code, stage.client) == (1, None)
        assert result.stderr == "Error: standard output is closed; if nobody shall read it: >/dev/null\n"


def test_a_line_for_a_stream_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_line(b"{}\n")


def test_a_message_is_one_json_line(run: Run, stage: Stage) -> None:
    stage.prepare = coming(received())
    result = run("listen", *LOGIN, "--count", "1", "--json", stage=stage)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "address": "user:alice",
        "epoch": 7,
        "seq": 1,
        "msg_id": "m1",
        "sender": "bob",
        "device": "phone",
        "content_type": "text/plain",
        "sent_ms": 1_700_000_000_000,
        "body": "hello",
    }


def test_what_is_seldom_there() -> None:
    to = (parse_address("user:a"), parse_address("device:b/c"))
    what = message(expires_ms=9, headers=(("k", "v"),), to=to)
    line = line_of(received(what))
    assert (line["expires_ms"], line["headers"], line["to"]) == (9, {"k": "v"}, ["user:a", "device:b/c"])


@pytest.mark.parametrize(("body", "base64"), [(b"\xff\x00", "/wA="), (b"a\0", "YQA=")])
def test_a_body_that_is_no_text_is_base64(body: bytes, base64: str) -> None:
    line = line_of(received(message(body)))
    assert "body" not in line
    assert line["body_base64"] == base64


@pytest.mark.parametrize("text", ["", "a\n\x1b[2J\x7f\x9b1m", "é \u202e\u2028\u00a0", "\U000e0001😀", "نعم"])
def test_a_body_cannot_break_the_line_or_command_the_terminal(run: Run, stage: Stage, text: str) -> None:
    stage.prepare = coming(received(message(text.encode())))
    result = run("listen", *LOGIN, "--count", "1", stage=stage)
    assert json.loads(result.stdout)["body"] == text
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout[:-1].isprintable()


def test_each_is_acknowledged_when_it_was_written(run: Run, stage: Stage) -> None:
    log: list[Any] = []

    def prepare(client: FakeClient) -> None:
        client.log = log
        client.inbox.extend([received(message(msg_id="a"), 1), received(message(msg_id="b"), 2)])

    def write(line: bytes) -> None:
        log.append(json.loads(line)["msg_id"])

    stage.prepare = prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgateway.cli.reception.write_line", write)
        assert run("listen", *LOGIN, "--count", "2", stage=stage).exit_code == 0
    assert log == ["start", "a", "take", "b", "take", "close"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BrokenPipeError(32, "Broken pipe"), ""),
        (OSError(28, "No space left on device"), "Error: No space left on device\n"),
        (OSError(5, "I/O error", "out"), "Error: out: I/O error\n"),
    ],
)
def test_what_could_not_be_written_is_not_acknowledged(
    run: Run, stage: Stage, error: OSError, told: str
) -> None:
    def write(line: bytes) -> None:
        raise error

    stage.prepare = coming(received())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgateway.cli.reception.write_line", write)
        result = run("listen", *LOGIN, stage=stage)
    assert (result.exit_code, result.stderr) == (1, told)
    assert stage.client is not None
    assert stage.client.log == ["start", "close"]


def test_after_count_nothing_more_is_shown(run: Run, stage: Stage) -> None:
    stage.prepare = coming(*(received(message(msg_id=str(n)), n) for n in range(1, 5)))
    result = run("listen", *LOGIN, "--count", "3", stage=stage)
    assert len(result.stdout.splitlines()) == 3
    assert stage.client is not None
    assert len(stage.client.inbox) == 1


def test_a_person_is_told_that_it_waits(monkeypatch: pytest.MonkeyPatch, run: Run, stage: Stage) -> None:
    stage.prepare = coming(received())
    assert run("listen", *LOGIN, "--count", "1", stage=stage).stderr == ""
    monkeypatch.setattr("imgateway.cli.listen.at_a_terminal", lambda: True)
    told = run("listen", *LOGIN, "--count", "1", stage=stage).stderr
    assert told == "connected as alice, waiting\n"


def test_the_timeout_ends_it(run: Run, stage: Stage) -> None:
    stage.prepare = coming(received())
    result = run("listen", *LOGIN, "--timeout", "5", stage=stage)
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1
    assert stage.clock.seconds() == 5


def test_the_timeout_begins_anew_with_every_message(run: Run, stage: Stage) -> None:
    def later(client: FakeClient) -> None:
        stage.clock.advance(4)
        client.deliver(received())

    stage.script = [later, later]
    assert len(run("listen", *LOGIN, "--timeout", "5", stage=stage).stdout.splitlines()) == 2
    assert stage.clock.seconds() == 13


def test_too_few_are_status_1(run: Run, stage: Stage) -> None:
    stage.prepare = coming(received())
    result = run("listen", *LOGIN, "--timeout", "5", "--count", "3", stage=stage)
    assert (result.exit_code, result.stderr) == (1, "1 of 3 messages came\n")


def test_an_interruption_is_how_it_ends(run: Run, stage: Stage) -> None:
    stage.script = [lambda client: stage.task is not None and stage.task.cancel()]
    assert run("listen", *LOGIN, stage=stage).exit_code == 0
    assert stage.client is not None
    assert stage.client.log == ["start", "close"]


def test_an_interruption_before_count_is_none(run: Run, stage: Stage) -> None:
    stage.script = [lambda client: stage.task is not None and stage.task.cancel()]
    with pytest.raises(CancelledError):
        run("listen", *LOGIN, "--count", "1", stage=stage)


def test_options_reach_the_client(run: Run, stage: Stage) -> None:
    args = ("--start", "oldest", "--state", "s.db", "--device", "tv", "--platform", "web", "--timeout", "1")
    run("listen", *LOGIN, *args, stage=stage)
    assert stage.client is not None
    options = stage.client.options
    assert options.pop("reactor") is stage.clock
    assert options == {
        "token": "t",
        "device": "tv",
        "platform": "web",
        "protocol": "native",
        "tls": None,
        "wait": False,
        "start": Start.OLDEST,
        "state": "s.db",
    }


def test_gaps_and_lost_links_are_told(run: Run, stage: Stage) -> None:
    stage.script = [
        lambda client: client.on_gap(Gap(parse_address("user:alice"), 0, 7, 3, 9)),
        lambda client: client.on_gap(Gap(parse_address("room:7"), 1, 7, 4, 9)),
        lambda client: client.on_gap(Gap(parse_address("room:7"), 0, 8, 4, 4)),
        lambda client: client.on_gap(Gap(parse_address("room:7"), 1, 8, 0, 0)),
        lambda client: client.on_gap(Gap(parse_address("room:8"), 1, 8, 0, 0)),
        lambda client: client.down(5, "\x1b[2J"),
        lambda client: client.up(),
        lambda client: client.down(103, ""),
        lambda client: client.down(77, ""),
        lambda client: client.down(1, "cannot connect: 111: Connection refused."),
    ]
    result = run("listen", *LOGIN, "--timeout", "1", stage=stage)
    assert result.stderr.splitlines() == [
        "user:alice (epoch 7): something after 3 and up to 9 is lost",
        "room:7 (lane 1, epoch 7): something after 4 and up to 9 is lost",
        "room:7 (epoch 8): what came before may be lost (the gateway was restarted)",
        "room:8 (epoch 8): what came before may be lost (the gateway was restarted)",
        "no connection (\\u001b[2J); trying again",
        "connected again",
        "no connection (UNAVAILABLE); trying again",
        "no connection (code 77); trying again",
        f"no connection (nothing listens at {LOGIN[0]}; is the node running?); trying again",
    ]


def test_being_sent_away_is_status_1(run: Run, stage: Stage) -> None:
    stage.prepare = coming(received(), ConnectRefused(201, "there is another"))
    result = run("listen", *LOGIN, stage=stage)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "REPLACED: there is another; " in result.stderr
    assert "--device" in result.stderr


def test_an_entry_outside_any_log() -> None:
    from imgateway.client import Received

    line = line_of(Received(parse_address("user:a"), 0, 0, 0, Message("m", "b", "d"), True))
    assert (line["epoch"], line["seq"], line["body"]) == (0, 0, "")


def test_rooms_are_joined_first(run: Run, stage: Stage) -> None:
    stage.prepare = coming(received(address="room:7"))
    args = ("--subscribe", "room:7,room:8", "--subscribe", "room:9", "--mode", "notify", "--count", "1")
    result = run("listen", *LOGIN, *args, stage=stage)
    assert (result.exit_code, json.loads(result.stdout)["address"]) == (0, "room:7")
    assert stage.client is not None
    assert stage.client.rooms == [("room:7", "notify"), ("room:8", "notify"), ("room:9", "notify")]


def test_only_rooms_are_notified_of(run: Run, stage: Stage) -> None:
    result = run("listen", *LOGIN, "--mode", "notify", stage=stage)
    assert (result.exit_code, stage.client) == (2, None)
    assert "--mode notify is for rooms: name them with --subscribe" in result.stderr


def test_a_room_that_refuses_ends_it(run: Run, stage: Stage) -> None:
    stage.prepare = lambda client: setattr(client, "admit", lambda room: FrameRefused(2, "not you"))
    result = run("listen", *LOGIN, "--subscribe", "room:7", stage=stage)
    assert (result.exit_code, result.stderr) == (1, "Error: room:7: not you (code 2)\n")
    assert run("listen", *LOGIN, "--subscribe", "seven", stage=stage).exit_code == 2
