"""``imgateway push`` against an API whose answers are scripted: messages, and push tasks."""

from __future__ import annotations

import errno
import io
import json
import signal
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imgateway.cli.api import Api
from imgateway.cli.bar import Bar, remark
from imgateway.router.problems import Problem
from imgateway.router.schema import OutcomeTold, Pushed, Scheduled
from imgateway.router.tasks.told import TaskList, TaskMade, TaskReport, TaskTold
from imgateway.router.tasks.uploads import Bad
from tests.cli.fake_api import FakeApi, Pauses

from .conftest import Ask

TASK = TaskTold(
    id="t1",
    name="",
    state="running",
    sender="service:shop",
    router="r.1",
    rate=0.0,
    at_ms=0,
    created_ms=1_795_276_416_685,
    started_ms=0,
    finished_ms=0,
    total=100,
    unsent=100,
    taken=0,
    refused=0,
    bad=0,
    bad_lines=(),
)
REPORT = TaskReport("t1", "done", 100, 60, 40, {}, 0, 0, 0, 0, 1)


def task(**changes: Any) -> TaskTold:
    return msgspec.structs.replace(TASK, **changes)


def report(**changes: Any) -> TaskReport:
    return msgspec.structs.replace(REPORT, **changes)


def done(**changes: Any) -> TaskTold:
    return task(**{"state": "done", "unsent": 0, "taken": 100, **changes})


@pytest.fixture
def users(tmp_path: Path) -> str:
    (tmp_path / "users.csv").write_text("user\nbob\neve\n")
    return str(tmp_path / "users.csv")


# -------------------------------------------------------------------------------------------------- a message


def test_a_message(api: FakeApi, ask: Ask) -> None:
    outcomes = (OutcomeTold("user:bob", "OK", 7, 12), OutcomeTold("room:7", "DUPLICATE", 8, 1))
    api.say(Pushed("m", outcomes))
    result = ask("push", "user:bob,room:7", "grüße")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "ADDRESS   CODE       SEQ\nuser:bob  OK          12\nroom:7    DUPLICATE    1\n"
    (asked,) = api.asked
    assert asked.line == "POST /v1/push"
    made = asked.json
    assert len(made.pop("msg_id")) == 32  # ours, so that it can be pushed again
    assert made == {"to": ["user:bob", "room:7"], "text": "grüße", "qos": 1}
    lines = [json.loads(line) for line in ask("push", "user:bob,room:7", "x", "--json").stdout.splitlines()]
    assert lines[0] == {"msg_id": "m", "address": "user:bob", "code": "OK", "epoch": 7, "seq": 12}


def test_all_that_can_be_said_of_a_message(api: FakeApi, ask: Ask) -> None:
    api.say(Pushed("m", (OutcomeTold("room:7", "OK", 8, 1),)))
    more = ("--msg-id", "m", "--content-type", "a/b", "--ttl", "1h", "--lane", "1", "--qos", "0")
    assert ask("push", "room:7", "x", *more).exit_code == 0
    made = {"to": ["room:7"], "text": "x", "qos": 0, "content_type": "a/b", "ttl_s": 3600, "lane": 1}
    assert api.asked[0].json == made | {"msg_id": "m"}
    assert ask("push", "room:7", "\udcff").exit_code == 0  # a byte that is no UTF-8, as a shell hands it over
    assert api.asked[1].json["body"] == b64encode(b"\xff").decode()


def test_who_did_not_take_it(api: FakeApi, ask: Ask) -> None:
    api.say(Pushed("m", (OutcomeTold("user:bob", "FULL", 0, 0), OutcomeTold("user:eve", "OK", 1, 1))))
    for more in ((), ("--json",)):
        result = ask("push", "user:bob,user:eve", "x", *more)
        assert (result.exit_code, len(result.stdout.splitlines())) == (1, 3 - len(more))
        assert result.stderr == "1 of 2 did not take it (msg_id m)\n"


def test_a_message_for_later(api: FakeApi, ask: Ask) -> None:
    api.say(Scheduled("m", "t1"))
    result = ask("push", "user:bob", "x", "--at", "2027-01-31T18:00:00+01:00")
    assert (result.exit_code, result.output) == (0, "task t1: is pushed when it is time\n")
    assert api.asked[0].json["at"] == "2027-01-31T18:00:00+01:00"
    assert json.loads(ask("push", "user:bob", "x", "--at", "2027-01-31T17:00Z", "--json").stdout) == {
        "msg_id": "m",
        "task": "t1",
    }


@pytest.mark.parametrize(
    ("answer", "status", "is_open"),
    [
        (Problem("timeout", "late"), 1, True),
        (Problem("unavailable", "later"), 1, True),
        (Problem("forbidden", "no"), 1, False),
        (lambda port: None, 3, True),
    ],
)
def test_what_nobody_knows_of(api: FakeApi, ask: Ask, answer: Any, status: int, is_open: bool) -> None:
    api.say(answer)
    result = ask("push", "user:bob", "x")
    assert result.exit_code == status
    said = f"it may be pushed or not: again with --msg-id {api.asked[0].json['msg_id']} it is there once"
    assert (said in result.stderr) is is_open
    assert result.stderr.count("\n") == 1


def test_an_answer_that_comes_late_says_once_what_nobody_knows(api: FakeApi, ask: Ask) -> None:
    """The API says it in its own words, as advice."""
    api.say(Problem("timeout", "no result within 5 s", "it may be done or not: push again with this msg_id"))
    result = ask("push", "user:bob", "x", "--msg-id", "m")
    assert result.stderr == (
        "Error: no result within 5 s; it may be pushed or not: again with --msg-id m it is there once\n"
    )
    api.say(Problem("timeout", "no result within 5 s", "it may be done or not: ask again"))
    assert ask("push", "--tasks").stderr == (
        "Error: no result within 5 s; it may be done or not: ask again\n"
    )


def test_sigterm_tells_how_to_push_again_too(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Api, "ask", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    result = ask("push", "user:bob", "x", "--msg-id", "m")
    assert (result.exit_code, result.stdout) == (143, "")
    assert result.stderr == "it may be pushed or not: again with --msg-id m it is there once\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_there_is_no_api_nothing_was_pushed(api: FakeApi, ask: Ask, users: str) -> None:
    """As at the port of health and metrics."""
    api.say((404, "application/json", b'{"error": "there is no such page"}'))
    for words in (("user:bob", "x"), ("--file", users, "x")):
        result = ask("push", *words)
        assert result.exit_code == 3
        assert result.stderr.endswith(
            "only with --keys FILE, a router at its private port; nothing was done\n"
        )
        assert result.stderr.count("\n") == 1
    assert "nothing was done" not in ask("push", "--tasks").stderr


def test_ctrl_c_tells_how_to_push_again(ask: Ask, users: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the answer is awaited: nobody knows whether it was pushed, or whether there is a task."""
    made: list[Any] = []

    def interrupted(self: Api, method: str, path: str, answer: Any, query: Any = None, **more: Any) -> None:
        made.append(query or more["body"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Api, "ask", interrupted)
    pushed = "it may be pushed or not: again with --msg-id {} it is there once\n"
    tasks = "there may be a task or not: imgateway push --tasks lists them"
    for words, said in (
        (("user:bob", "x"), pushed),
        (("user:bob", "x", "--msg-id", "m"), pushed),
        (("--file", users, "x"), f"{tasks}, and again with --msg-id {{}} users have it once\n"),
    ):
        result = ask("push", *words)
        assert (result.exit_code, result.stdout) == (130, "")
        assert result.stderr == said.format(made[-1]["msg_id"])
    assert (len(made[0]["msg_id"]), made[1]["msg_id"], len(made[2]["msg_id"])) == (32, "m", 32)
    (ndjson := Path(users).with_suffix(".ndjson")).write_text('{"task":{"message":{"text":"x"}}}')
    assert ask("push", "--file", str(ndjson)).stderr == f"{tasks}\n"


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_what_was_pushed_is_told_where_it_cannot_be_shown(
    api: FakeApi, ask: Ask, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    fails: list[OSError] = []

    def full(*_: Any, **__: Any) -> None:
        raise fails[0]

    for name in ("show", "write_line"):
        monkeypatch.setattr(f"imgateway.cli.push.{name}", full)
    monkeypatch.setattr("imgateway.cli.push.click.echo", full)
    monkeypatch.setattr("imgateway.cli.push.tell", lambda text: print(text, file=sys.stderr))
    fails[:] = [OSError(errno.ENOSPC, "No space left on device")]
    api.say(Pushed("m", (OutcomeTold("user:bob", "FULL", 0, 0), OutcomeTold("user:eve", "OK", 1, 1))))
    result = ask("push", "user:bob,user:eve", "x", *more)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "1 of 2 took it (msg_id m)"
    api.say(Scheduled("m", "t1"))
    result = ask("push", "user:bob", "x", "--at", "2027-01-31T17:00Z", *more)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        1,
        "task t1 is pushed when it is time (msg_id m)",
    )
    fails[:] = [BrokenPipeError(errno.EPIPE, "Broken pipe")]
    api.say(Pushed("m", (OutcomeTold("user:bob", "OK", 1, 1),)))
    assert ask("push", "user:bob", "x", *more).stderr == ""


# ------------------------------------------------------------------------------------------------ push tasks


def test_a_task_from_a_file(api: FakeApi, ask: Ask, users: str) -> None:
    api.say(TaskMade(TASK), TASK, task(unsent=50, taken=50), done(), REPORT)
    result = ask("push", "--file", users, "hello", world=Pauses().world)
    assert (result.exit_code, result.stderr) == (0, "task t1: 100 users\n")
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "task t1: done, 100 users",
        "STATE      USERS",
        "delivered     60  a device has it",
        "waiting       40  in the mailbox, nobody has it yet",
    ]
    made = api.asked[0]
    assert (made.line, made.body) == ("POST /v1/tasks", b"user\nbob\neve\n")
    assert made.query.pop("msg_id")  # ours, so that the upload can be repeated
    assert made.query == {"message": ['{"text":"hello"}']}
    assert made.headers["content-type"] == "text/csv"
    assert [one.line for one in api.asked[1:]] == [
        *["GET /v1/tasks/t1"] * 3,
        "GET /v1/tasks/t1/report",
    ]


def test_all_that_can_be_said_of_a_task(api: FakeApi, ask: Ask, users: str) -> None:
    api.say(TaskMade(task(state="scheduled", at_ms=1_795_276_416_685, name="news", rate=50.0)))
    result = ask(
        *("push", "--file", users, "x", "--name", "news", "--rate", "50", "--strict", "--msg-id", "m"),
        *("--at", "2027-01-31T18:00Z", "--lane", "1", "--ttl", "90s", "--content-type", "a/b"),
    )
    assert result.exit_code == 0  # and it is not waited for
    query = {name: value for name, (value,) in api.asked[0].query.items()}
    assert json.loads(query.pop("message")) == {"text": "x", "content_type": "a/b", "lane": 1, "ttl_s": 90}
    at = "2027-01-31T18:00:00+00:00"
    assert query == {"name": "news", "rate": "50.0", "strict": "true", "msg_id": "m", "at": at}
    head, row = result.stdout.splitlines()
    assert head.split() == "TASK STATE USERS UNSENT TAKEN REFUSED BAD RATE CREATED BEGINS NAME".split()
    assert row.split()[:8] == ["t1", "scheduled", "100", "100", "0", "0", "0", "50/s"]


def test_a_file_that_has_the_message(api: FakeApi, ask: Ask, tmp_path: Path) -> None:
    for name in ("u.ndjson", "u.JSONL"):
        (tmp_path / name).write_text('{"task":{"message":{"text":"x"}}}\n{"user":"bob"}\n')
        api.say(TaskMade(TASK))
        result = ask("push", "--file", str(tmp_path / name), "--no-wait", "--json")
        assert (result.exit_code, json.loads(result.stdout)["id"]) == (0, "t1")
        asked = api.asked[-1]
        assert (asked.query, asked.headers["content-type"]) == ({}, "application/x-ndjson")


def test_lines_that_could_not_be_used(api: FakeApi, ask: Ask, users: str) -> None:
    bad = task(bad=12, bad_lines=tuple(Bad(n, "is\nbad") for n in range(2, 14)))
    api.say(TaskMade(bad), done(bad=12), report(bad=12))
    result = ask("push", "--file", users, "x", world=Pauses().world)
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert (told[1], len(told), told[-1]) == ("line 2: is\\nbad", 12, "2 more lines could not be used")
    assert "bad           12  lines that could not be used" in result.stdout
    api.say(TaskMade(bad))
    assert ask("push", "--file", users, "x", "--no-wait").exit_code == 1


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (report(refused={"FULL": 3, "FORBIDDEN": 1_000}), "refused    1,003  FORBIDDEN 1,000, FULL 3"),
        (report(state="cancelled", unsent=7), "unsent         7  no outcome yet"),
        (report(state="cancelled"), "task t1: cancelled, 100 users"),
    ],
)
def test_tasks_that_did_not_reach_all(
    api: FakeApi, ask: Ask, users: str, found: TaskReport, said: str
) -> None:
    api.say(TaskMade(TASK), done(state=found.state), found)
    result = ask("push", "--file", users, "x", world=Pauses().world)
    assert result.exit_code == 1
    assert said in result.stdout


def test_each_change_is_a_line(api: FakeApi, ask: Ask, users: str) -> None:
    api.say(TaskMade(TASK), TASK, TASK, task(unsent=1), done(), REPORT)
    result = ask("push", "--file", users, "x", "--json", world=Pauses().world)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("unsent") for line in lines] == [100, 1, 0, 0]
    assert lines[-1]["delivered"] == 60


def test_a_task_that_is_paused_meanwhile(api: FakeApi, ask: Ask, users: str) -> None:
    paused = task(state="paused")
    api.say(TaskMade(TASK), paused, paused, TASK, paused, done(), REPORT)
    result = ask("push", "--file", users, "x", world=Pauses().world)
    assert result.exit_code == 0
    told = "task t1 is paused; imgateway push --resume t1 goes on with it"
    assert result.stderr.splitlines()[1:] == [told, told]


def test_ctrl_c_leaves_it_running(api: FakeApi, ask: Ask, users: str) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    api.say(TaskMade(TASK), TASK)
    result = ask("push", "--file", users, "x", world=Pauses(interrupt).world)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == (
        "task t1 goes on; imgateway push --cancel t1 ends it, --report tells of it"
    )


def test_a_key_that_may_push_and_not_look(api: FakeApi, ask: Ask, users: str) -> None:
    api.say(TaskMade(TASK), Problem("forbidden", "the key shop has not the scope read"))
    result = ask("push", "--file", users, "x", world=Pauses().world)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == ("Error: the key shop has not the scope read (task t1 goes on)")


@pytest.mark.parametrize("answer", [lambda port: None, Problem("timeout", "late"), Problem("no-key", "no")])
def test_a_task_that_nobody_knows_of(api: FakeApi, ask: Ask, users: str, answer: Any) -> None:
    (ndjson := Path(users).with_suffix(".ndjson")).write_text('{"task":{"message":{"text":"x"}}}')
    api.say(answer)
    is_open = not isinstance(answer, Problem) or answer.kind == "timeout"
    result = ask("push", "--file", users, "x")
    again = f"again with --msg-id {api.asked[0].query['msg_id'][0]} users have it once"
    assert (again in result.stderr) is is_open
    result = ask("push", "--file", str(ndjson))  # which has its own, or none
    assert ("there may be a task or not" in result.stderr) is is_open
    assert "--msg-id" not in result.stderr


@pytest.mark.parametrize("step", ["pause", "resume", "cancel", "repush"])
def test_steps(api: FakeApi, ask: Ask, step: str) -> None:
    api.say(TASK)
    result = ask("push", f"--{step}", "t/1", "--no-wait")
    assert (result.exit_code, result.stdout.splitlines()[1].split()[:2]) == (0, ["t1", "running"])
    assert api.asked[0].line == f"POST /v1/tasks/t%2F1/{step}"
    assert api.asked[0].body == (b"{}" if step == "repush" else b"")
    assert json.loads(ask("push", f"--{step}", "t1", "--no-wait", "--json").stdout)["id"] == "t1"


def test_steps_that_are_followed(api: FakeApi, ask: Ask) -> None:
    """Only a new attempt is, unless it is asked for."""
    api.say(*[TASK, done(), REPORT] * 2, done(), REPORT, TASK)
    for words in (("--repush", "t1"), ("--resume", "t1", "--wait"), ("--report", "t1", "--wait")):
        assert "delivered     60" in ask("push", *words, world=Pauses().world).stdout
    assert ask("push", "--resume", "t1").stdout.startswith("TASK ")
    assert len(api.asked) == 9


def test_a_report_and_a_list(api: FakeApi, ask: Ask) -> None:
    api.say(report(gone=1, unknown=2, state="running", unsent=3), TaskList((TASK, done(id="t0")), 0))
    result = ask("push", "--report", "t1")
    assert result.exit_code == 0  # it was asked for the report alone
    assert "gone           1  lost by the mailbox" in result.stdout
    result = ask("push", "--tasks")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["TASK", "t1", "t0"]
    lines = ask("push", "--tasks", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["t1", "t0"]
    api.say(Problem("not-found", "there is no such task", "GET /v1/tasks lists them"))
    ask("push", "--tasks")
    result = ask("push", "--report", "t9")
    assert (result.exit_code, "there is no such task" in result.stderr) == (1, True)


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "give TO and BODY"),
        (("user:bob",), "give TO and BODY"),
        (("user:bob", "x", "y"), "give TO and BODY"),
        (("pigeon:bob", "x"), "an address is KIND:ID"),
        (("user:bob", "x", "--at", "2027-01-31T18:00"), "the offset from UTC"),
        (("user:bob", "x", "--at", "tomorrow"), "the offset from UTC"),
        (("user:bob", "x", "--rate", "5"), "are for --file"),
        (("user:bob", "x", "--pause", "t"), "--pause takes no message"),
        (("--tasks", "--qos", "0"), "--tasks takes no message"),
        (("--pause", "t", "--cancel", "t"), "at a time"),
        (("--tasks", "--report", "t"), "at a time"),
        (("--file", "{csv}", "x", "--report", "t"), "at a time"),
        (("--file", "{csv}", "x", "--qos", "0"), "--qos 0 is not for tasks"),
        (("--file", "{csv}", "user:bob", "x"), "the file says to whom"),
        (("--file", "{csv}"), "no BODY"),
        (("--file", "{ndjson}", "--lane", "1"), "are for a BODY"),
        (("--file", "{csv}", "x" * 60_000), "the BODY is too long for this way"),
        (("--file", "{txt}", "x"), "must be called .csv, .ndjson or .jsonl"),
        (("--report", "t", "--name", "n"), "are for --file"),
    ],
)
def test_mistakes(api: FakeApi, ask: Ask, tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    names = {kind: str(tmp_path / f"u.{kind}") for kind in ("csv", "ndjson", "txt")}
    for name in names.values():
        Path(name).write_text("user\n")
    result = ask("push", *[word.format(**names) for word in words])
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.split())
    assert api.asked == []


@pytest.mark.parametrize(("name", "why"), [("none.csv", "No such file"), ("folder.csv", "Is a directory")])
def test_files_that_cannot_be_read(api: FakeApi, ask: Ask, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    result = ask("push", "--file", str(tmp_path / name), "x")
    assert result.exit_code == 1
    assert f"{tmp_path / name}: {why}" in result.stderr
    assert api.asked == []


# ----------------------------------------------------------------------------------------------------- bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, *streams: str) -> Terminal:
    """In the test, because pytest puts its own streams there before each."""
    terminal = Terminal()
    for stream in streams:
        monkeypatch.setattr(sys, stream, terminal)
    return terminal


def test_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_a_terminal(monkeypatch, "stderr")
    with Bar("it") as bar:
        bar(0, 10)
        bar(5, 10)
        bar(4, 20)  # it may grow, and go back
        bar(20, 20)
    shown = terminal.getvalue()
    assert "5/10" in shown
    assert "4/20" in shown
    assert "20/20  100%" in shown


def test_a_bar_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_a_terminal(monkeypatch, "stderr")
    with Bar("it") as bar:
        bar(0, 0)
    assert "it" in terminal.getvalue()


def test_no_bar_beside_results(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_a_terminal(monkeypatch, "stderr", "stdout")
    with Bar("it", results=True) as bar:
        bar(1, 10)
    assert terminal.getvalue() == ""


def test_a_remark_beside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_a_terminal(monkeypatch, "stderr")
    with Bar("it") as bar:
        bar(1, 10)
        remark("by the way")
        bar(2, 10)
    assert "\r\x1b[Kby the way\n" in terminal.getvalue()
