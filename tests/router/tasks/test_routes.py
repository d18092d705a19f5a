"""Push tasks over HTTP: each answer is held against the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from imgateway.config import LimitSettings, RouterSettings
from imgateway.errors import StoreError
from imgateway.frames import Address, OutcomeCode
from imgateway.interfaces import IGateway
from imgateway.router.routes import Part
from imgateway.router.schema import Push
from imgateway.router.tasks.making import BAD_LINES
from imgateway.router.tasks.routes import TaskPages
from imgateway.router.tasks.service import CALLS, OPEN_S, UPLOADS, WAITING
from imgateway.router.tasks.store import UPLOAD_MS
from tests.router.desk import Answer, Desk, answers
from tests.router.tasks.rig import EPOCH, WALL_MS, Calls, Rig, away, make_tasks

TEXT = "?text=Hello"


class Office:
    """A desk with push tasks; `run` lets time pass."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        (directory / "rig").mkdir()
        self.rig = Rig(directory / "rig")
        self.gateway = self.rig.gateway
        self.settings = settings
        self.directory = directory
        self.scheduled: list[Any] = []
        self.desk = Desk(schedule=lambda *push: self.tasks.schedule(*push), more=[self])
        self.calls: Calls

    def routes(self) -> Any:
        # The desk's clock is the tasks'.
        return self.pages().routes()

    def pages(self) -> TaskPages:
        clock = self._clock()
        self.tasks, self.calls = make_tasks(self.rig, self.directory, clock, **self.settings)
        self.clock = clock
        return TaskPages(self.tasks, lambda: WALL_MS + round(clock.seconds() * 1000))

    def _clock(self) -> Any:
        from twisted.internet.task import Clock

        return Clock()

    def start(self) -> None:
        self.tasks.start()

    def run(self, seconds: float = 2.0) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)

    def upload(self, lines: str | bytes, query: str = TEXT, kind: str = "application/x-ndjson") -> Answer:
        data = lines if isinstance(lines, bytes) else lines.encode()
        return self.desk.post(f"/v1/tasks{query}", data, Content_Type=kind)

    def make(self, many: int = 3, query: str = TEXT) -> dict[str, Any]:
        answer = self.upload("".join(f'{{"user":"{n}"}}\n' for n in range(1, many + 1)), query)
        assert answer.status == 201, answer.body
        task: dict[str, Any] = answer.json["task"]
        return task

    def task(self, id: str) -> dict[str, Any]:
        told: dict[str, Any] = self.desk.get(f"/v1/tasks/{id}").json
        return told

    def results(self, id: str, query: str = "") -> list[Any]:
        answer = self.desk.get(f"/v1/tasks/{id}/results{query}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
        return [json.loads(line) for line in answer.body.splitlines()]

    def close(self) -> None:
        stopped: list[Any] = []
        self.tasks.stop().addCallback(stopped.append)
        self.gateway.held = False
        self.gateway.answer()
        self.run(9)
        assert stopped == [None]
        assert self.clock.getDelayedCalls() == []
        assert self.calls.stopped
        self.rig.close()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Office]]:
    made: list[Office] = []

    def build(**settings: Any) -> Office:
        office = Office(tmp_path, **settings)
        office.start()
        made.append(office)
        return office

    yield build
    for office in made:
        office.close()


@pytest.fixture
def office(build: Callable[..., Office]) -> Office:
    return build()


# ------------------------------------------------------------------------------------------------- making


def test_an_upload_becomes_a_task_and_is_pushed(office: Office) -> None:
    task = office.make(3, "?text=Hello&name=spring&rate=0")
    assert (task["name"], task["state"], task["total"], task["bad"]) == ("spring", "queued", 3, 0)
    assert task["sender"] == "service:shop"
    office.run()
    told = office.task(task["id"])
    assert (told["state"], told["unsent"], told["taken"], told["refused"]) == ("done", 0, 3, 0)
    [publish] = office.gateway.publishes
    assert (publish.body, publish.content_type) == (b"Hello", "text/plain; charset=utf-8")
    assert publish.to == tuple(Address("user", str(n)) for n in (1, 2, 3))
    assert publish.msg_id == task["id"]
    assert office.desk.get("/v1/tasks").json == {"tasks": [told], "next": 0}


def test_the_message_may_be_json_in_the_query_or_in_the_first_line(office: Office) -> None:
    message = {"json": {"a": [1]}, "headers": {"x": "y"}, "ttl_s": 60, "lane": 1}
    office.make(1, f"?message={quote(json.dumps(message))}&msg_id=m1")
    first = json.dumps({"task": {"message": {**message, "json": 7}, "name": "n", "msg_id": "m2"}})
    answer = office.upload(f'\ufeff{first}\n{{"user":"1"}}\n{{"user"}}\n', "")
    assert answer.json["task"]["name"] == "n"
    assert [bad["line"] for bad in answer.json["task"]["bad_lines"]] == [3]
    office.run()
    one, two = office.gateway.publishes
    assert (one.msg_id, one.body, one.content_type) == ("m1", b'{"a": [1]}', "application/json")
    assert (one.headers, one.ttl_s, one.lane, one.qos) == ((("x", "y"),), 60, 1, 1)
    assert (two.msg_id, two.body) == ("m2", b"7")
    assert office.results(answer.json["task"]["id"])[0]["n"] == 2


def test_the_ids_of_lines_meet_none_that_is_given(office: Office) -> None:
    """Of a line that says something of its own, of a second attempt, and of another's choice."""
    own = office.upload('{"user":"1","text":"own"}\n', TEXT + "&msg_id=2026-11-22").json["task"]["id"]
    office.run()
    office.gateway.first = {"1": 2}  # it was lost
    assert office.desk.post(f"/v1/tasks/{own}/repush", {}).status == 200
    office.run()
    for given in ("2026-11-22", "2026-11-22.1", "2026-11-22.1.r1"):
        office.make(1, f"{TEXT}&msg_id={given}")
    push = {"to": ["user:1"], "text": "x", "at": "2023-11-14T22:13:22Z", "msg_id": "2026-11-22.r1"}
    office.desk.post("/v1/push", push)
    office.run(4)
    assert [one.msg_id for one in office.gateway.publishes] == [
        "2026-11-22·1",
        "2026-11-22·1·r1",
        "2026-11-22",
        "2026-11-22.1",
        "2026-11-22.1.r1",
        "2026-11-22.r1",
    ]
    assert office.gateway.taken() == {"user:1": 6}
    answer = office.upload('{"user":"1"}', TEXT + "&msg_id=a%C2%B71")
    assert "msg_id" in office.desk.refused(400, "invalid-request", answer)


def test_a_csv(office: Office) -> None:
    answer = office.upload("user,text\n1,\n2,Hi\n3\n", kind="Text/CSV; charset=utf-8")
    assert answer.json["task"]["total"] == 2
    assert answer.json["task"]["bad_lines"] == [{"line": 4, "error": "has 1 values, not 2", "upto": 4}]
    office.run()
    assert {one.to[0].id: one.body for one in office.gateway.publishes} == {"1": b"Hello", "2": b"Hi"}


@pytest.mark.parametrize(
    ("lines", "query", "says"),
    [
        ('{"user":"1"}', "", "one of text and message"),
        ('{"user":"1"}', "?text=a&message={}", "one of text and message"),
        ('{"user":"1"}', "?message={}", "one of body, text and json"),
        ('{"user":"1"}', "?message={", "message in the query"),
        ('{"user":"1"}', "?message=%7B%22texts%22:1%7D", "unknown field"),
        pytest.param('{"user":"1"}', f"?message=%7B%22json%22:{'[' * 20_000}", "nested too deep", id="deep"),
        ('{"user":"1"}', "?text=a&rate=-1", ">= 0"),
        ('{"user":"1"}', "?text=a&at=2030-01-01T00:00:00", "timezone"),
        ('{"user":"1"}', "?text=a&colour=red", "colour"),
        ('{"task":{"message":{"text":"a"}}}\n{"user":"1"}', "?name=x", "in the query and in the first line"),
        ('{"task":{"message":{"text":"a"},"nam":1}}\n{"user":"1"}', "", "line 1: "),
        pytest.param(
            '{"task":{"message":{"json":' + "[" * 60_000, "", "line 1: nested too deep", id="deep task"
        ),
        ("", TEXT, "no lines"),
        ('{"task":{"message":{"text":"a"}}}', "", "no lines"),
        ("{}\n[]", TEXT, "2 of 2 lines cannot be used: line 1: names one of user and to; line 2: "),
        ('{"user":"1"}\n{}', "?text=a&strict=true", "1 of 2 lines cannot be used: line 2"),
    ],
)
def test_what_cannot_be_a_task_says_why(office: Office, lines: str, query: str, says: str) -> None:
    assert says in office.desk.refused(400, "invalid-request", office.upload(lines, query))
    assert office.desk.get("/v1/tasks").json["tasks"] == []


def test_an_upload_of_another_kind(office: Office) -> None:
    office.desk.refused(415, "wrong-content-type", office.upload("{}", kind="application/json"))
    said = office.desk.refused(400, "invalid-request", office.upload("1\n2\n", kind="text/csv"))
    assert "names its columns" in said


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param("Größe,user\n1,bob\n".encode("latin-1"), "is not UTF-8", id="latin-1"),
        pytest.param("user\nbob\n".encode("utf-16"), "is not UTF-8", id="utf-16"),
        pytest.param(b"user\rbob\r", "the first line of a CSV: new-line character", id="old ends"),
        pytest.param(b'user,"' + b"x" * 140_000 + b'"\nbob,a\n', "field larger than", id="long column"),
    ],
)
def test_a_csv_whose_first_line_cannot_be_read_is_answered(office: Office, lines: bytes, says: str) -> None:
    answer = office.upload(lines, kind="text/csv")
    assert says in office.desk.refused(400, "invalid-request", answer)
    values: dict[str, Any] = {measure.field: value for measure, value in office.desk.api.measures()}
    assert values["running"] == 0


def test_a_line_that_is_nested_too_deep_costs_only_itself(office: Office) -> None:
    deep = "[" * 60_000
    task = office.upload(f'{{"user":"1"}}\n{{"user":"2","json":{deep}\n{{"user":"3"}}\n').json["task"]
    assert (task["total"], task["bad_lines"]) == (2, [{"line": 2, "error": "is nested too deep", "upto": 2}])
    first = f'{{"user":"1","json":{deep}, "task"\n{{"user":"2"}}\n'  # which is looked at as a task, too
    assert [bad["line"] for bad in office.upload(first).json["task"]["bad_lines"]] == [1]


def test_too_much(build: Callable[..., Office]) -> None:
    office = build(tasks_users=2)
    said = office.desk.refused(413, "too-large", office.upload('{"user":"1"}\n' * 3))
    assert said == "more than 2 lines | make several tasks, or set router.tasks_users"
    assert office.upload('{"user":"1"}\n' * 2).status == 201
    said = office.desk.refused(413, "too-large", office.upload('{"user":"1"}', "?text=" + "x" * 101))
    assert "a body of 101 bytes; the most are 100" in said
    assert len(office.desk.get("/v1/tasks").json["tasks"]) == 1


def test_another_limit_holds_from_the_next_upload_on(office: Office) -> None:
    router = RouterSettings(tasks_upload_bytes=60, tasks_users=2, max_request_bytes=10)
    office.tasks.go_by(router, LimitSettings())
    office.desk.api.settings = router
    assert office.upload('{"user":"1"}\n' * 5).json["detail"] == "the body has more than 60 bytes"
    assert office.upload('{"user":"1"}\n' * 3).json["detail"] == "more than 2 lines"
    assert office.desk.api.room(office.desk.key)[0] == 60


def test_of_many_bad_lines_the_first_hundred_are_told(office: Office) -> None:
    task = office.upload('{"user":"1"}\n' + "{}\n" * 150).json["task"]
    assert (task["bad"], len(task["bad_lines"])) == (150, BAD_LINES)
    said = office.desk.refused(400, "invalid-request", office.upload("{}\n" * 12))
    assert said.count("line ") == 10
    assert "; … |" in said


def test_large_uploads_are_written_in_batches(office: Office) -> None:
    office.make(2_500)
    assert office.calls.names.count("task") == 1
    office.run(20)
    assert len(office.gateway.taken()) == 2_500


@pytest.mark.parametrize("between", [0, 120])
@pytest.mark.parametrize("first", ["user", "device"])
def test_a_user_and_one_of_its_devices_are_one_receiver(office: Office, first: str, between: int) -> None:
    """However far they are apart: in one publish they are one, in two they would be two."""
    lines = ['{"user":"4%2"}', '{"to":"device:4%252/phone"}']
    lines[1:1] = [f'{{"user":"u{n}"}}' for n in range(between)]
    lines += ['{"to":"device:5/phone"}', '{"to":"device:5/pad"}', '{"to":"device:4%252/pad","text":"Hi"}']
    if first == "device":
        lines.reverse()
    id = office.upload("\n".join(lines)).json["task"]["id"]
    office.run(3)
    assert {n: many for n, many in office.gateway.taken().items() if "u" not in n[5:]} == {
        "user:4%252": 2,  # a line with fields of its own is a message of its own
        "user:5": 2,
    }
    assert (office.task(id)["total"], office.task(id)["taken"]) == (between + 5, between + 5)
    results = office.results(id)
    if first == "device":
        results.reverse()
    ends = [results[0], results[-4]]
    assert [(one["to"], one["seq"]) for one in ends] == [("user:4%252", ends[0]["seq"])] * 2


def test_nor_are_they_two_in_a_push_for_later(office: Office) -> None:
    to = ["device:1/a", *[f"user:{n}" for n in range(1, 103)], "device:102/a", "device:103/a"]
    body = {"to": to, "text": "x", "at": "2023-11-14T22:13:25Z", "msg_id": "m"}
    assert office.desk.post("/v1/push", body).status == 202
    office.run(8)
    assert office.gateway.taken() == {f"user:{n}": 1 for n in range(1, 104)}
    assert [to for one in office.gateway.publishes for to in one.to if to.device] == [
        Address("device", "103", "a")
    ]


def test_a_line_that_only_looks_like_a_task_is_a_bad_line(office: Office) -> None:
    task = office.upload('{"user":"1","task":1}\n{"user":"2"}\n').json["task"]
    assert task["bad_lines"] == [{"line": 1, "error": "Object contains unknown field `task`", "upto": 1}]


def test_an_upload_whose_end_has_no_answer_is_pushed_whole_or_not_at_all(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = office.tasks.store
    complete = store.complete

    def loses(*arguments: Any) -> Any:
        complete(*arguments)
        raise away()

    monkeypatch.setattr(store, "complete", loses)
    lines = "".join(f'{{"user":"{n}"}}\n' for n in range(1, 13))
    office.desk.refused(503, "unavailable", office.upload(lines, TEXT + "&msg_id=m"))
    monkeypatch.undo()
    assert office.upload(lines, TEXT + "&msg_id=m").status == 201
    office.run(6)
    assert [task.state for task in store.page(0, 9)] == ["done", "done"]
    assert office.gateway.taken() == {f"user:{n}": 1 for n in range(1, 13)}


def losing(office: Office, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the store does by this name is done, and its answer is lost."""
    does = getattr(office.tasks.store, name)

    def loses(*arguments: Any) -> Any:
        does(*arguments)
        raise away()

    monkeypatch.setattr(office.tasks.store, name, loses)


@pytest.mark.parametrize("given", ["", "m"])
def test_who_does_not_know_whether_it_was_made_is_told_with_what_to_send_it_again(
    office: Office, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    lines = "".join(f'{{"user":"{n}"}}\n' for n in range(1, 4))
    losing(office, monkeypatch, "complete")
    answer = office.upload(lines, TEXT + (given and f"&msg_id={given}"))
    told = office.desk.refused(503, "unavailable", answer)
    assert told.endswith(
        "it may be done or not: GET /v1/tasks says; send it again with this msg_id, and users have it once"
    )
    monkeypatch.undo()
    id = answer.json["msg_id"]
    assert id == (given or office.desk.get("/v1/tasks").json["tasks"][0]["id"])
    assert office.upload(lines, f"{TEXT}&msg_id={id}").status == 201
    office.run(6)
    assert office.gateway.taken() == {f"user:{n}": 1 for n in range(1, 4)}


def test_so_is_who_waited_too_long_for_it(office: Office) -> None:
    office.calls.held = []
    protocol, transport = office.desk.begin(
        "POST", f"/v1/tasks{TEXT}", b'{"user":"1"}', Content_Type="application/x-ndjson"
    )
    office.desk.clock.advance(301)
    [answer] = answers(transport.value())
    assert "GET /v1/tasks says; send it again with this msg_id" in office.desk.refused(504, "timeout", answer)
    office.desk.lose(protocol)
    office.calls.let()
    office.calls.held = None
    assert office.upload('{"user":"1"}', f"{TEXT}&msg_id={answer.json['msg_id']}").status == 201
    office.run()
    assert office.gateway.taken() == {"user:1": 1}


def test_so_is_who_pushes_for_later(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    push = {"to": ["user:1"], "text": "x", "at": "2023-11-14T22:13:22Z"}
    losing(office, monkeypatch, "put")
    answer = office.desk.post("/v1/push", push)
    told = office.desk.refused(503, "unavailable", answer)
    assert told.endswith("it may be done or not: push again with this msg_id, and it is there once")
    monkeypatch.undo()
    assert office.desk.post("/v1/push", {**push, "msg_id": answer.json["msg_id"]}).status == 202
    assert len(office.desk.get("/v1/tasks").json["tasks"]) == 1


@pytest.mark.parametrize("how", ["lost", "late"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_second_message_is_made_once_if_it_is_said_after_what(
    office: Office, monkeypatch: pytest.MonkeyPatch, how: str, ended: bool
) -> None:
    """Whoever repeats it, not knowing whether it was done, says again which end of the task was seen."""
    id = office.make(3)["id"]
    office.run()
    asked = {"as_new": True, "finished_ms": office.task(id)["finished_ms"]}
    if how == "lost":
        losing(office, monkeypatch, "repush")
        told = office.desk.refused(503, "unavailable", office.desk.post(f"/v1/tasks/{id}/repush", asked))
        monkeypatch.undo()
    else:
        office.calls.held = []
        protocol, transport = office.desk.begin("POST", f"/v1/tasks/{id}/repush", asked)
        office.desk.clock.advance(301)
        [answer] = answers(transport.value())
        told = office.desk.refused(504, "timeout", answer)
        office.desk.lose(protocol)
        while office.calls.held:
            office.calls.let()
        office.calls.held = None
    assert (
        "it may be done or not: look at GET /v1/tasks/ID, or ask again with the finished_ms that the task "
        "had before: else each time makes one message more"
    ) in told
    if ended:
        office.run()
    answer = office.desk.post(f"/v1/tasks/{id}/repush", asked)
    assert office.desk.refused(409, "conflict", answer) == (
        "the task was pushed again since | GET /v1/tasks/ID says how far it is"
    )
    office.run(4)
    assert office.gateway.taken() == {f"user:{n}": 2 for n in range(1, 4)}


def test_an_upload_that_took_too_long_is_to_be_sent_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was swept as one that was broken off."""
    store = office.tasks.store
    complete = store.complete

    def late(*arguments: Any) -> Any:
        office.clock.advance(UPLOAD_MS / 1000 + 1)
        while store.sweep(2**40).more:
            pass
        return complete(*arguments)

    monkeypatch.setattr(store, "complete", late)
    said = office.desk.refused(503, "unavailable", office.upload('{"user":"1"}'))
    assert said == "reading the list took too long | send it again"
    assert store.page(0, 9) == []


def test_a_task_that_was_given_back_in_doubt_is_queued_and_nobody_runs_it(office: Office) -> None:
    task = office.make(1)
    (lease,) = office.tasks.store.claim("other", 1)
    told = office.task(task["id"])
    assert (told["state"], told["router"]) == ("running", "other")
    office.tasks.store.write(lease, [], 1, 0, release=True, in_doubt=True)
    told = office.task(task["id"])
    assert (told["state"], told["router"]) == ("queued", "")


def test_a_task_for_later(office: Office) -> None:
    at = "2023-11-14T22:13:25Z"  # 5 s after the clock's start
    task = office.make(1, f"?text=a&at={at}")
    assert (task["state"], task["at_ms"]) == ("scheduled", WALL_MS + 5_000)
    office.run(4)
    assert office.gateway.publishes == []
    office.run(3)
    assert office.task(task["id"])["state"] == "done"


def test_a_push_for_later_is_a_task_and_twice_the_same(office: Office) -> None:
    push = {"to": ["user:1", "room:2"], "text": "x", "at": "2023-11-14T22:13:22Z", "msg_id": "m", "ttl_s": 9}
    first = office.desk.post("/v1/push", push)
    again = office.desk.post("/v1/push", push)
    assert (first.status, first.json["msg_id"]) == (202, "m")
    assert again.json == first.json
    office.run(4)
    again = office.desk.post("/v1/push", push)
    assert again.json == first.json
    office.run(2)
    assert office.task(first.json["task"])["state"] == "done"
    [publish] = office.gateway.publishes
    assert (publish.msg_id, publish.body, publish.ttl_s) == ("m", b"x", 9)
    assert [one["state"] for one in office.results(first.json["task"])] == ["waiting", "unknown"]


def test_a_push_for_later_is_made_in_one_step(office: Office) -> None:
    push = Push(to=("user:1",), text="x")
    made: list[str] = []
    for _ in range(2):
        office.tasks.schedule("shop", push, "m").addCallback(made.append)
    assert made[0] == made[1]
    assert office.calls.names.count("push") == 2
    [task] = office.tasks.store.page(0, 9)
    assert (task.state, task.total, task.unsent) == ("running", 1, 1)


def test_of_two_routers_that_make_the_same_one_loses_and_finds_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(id: str, values: Any, rows: Any) -> Any:
        put(id, values, rows)  # the other one's
        raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))

    put = office.tasks.store.put
    monkeypatch.setattr(office.tasks.store, "put", slower)
    made: list[str] = []
    office.tasks.schedule("shop", Push(to=("user:1",), text="x"), "m").addCallback(made.append)
    assert office.tasks.store.get(made[0]).total == 1


def test_a_push_for_later_that_was_cancelled_is_not_taken_for_made(office: Office) -> None:
    push = {"to": ["user:1"], "text": "x", "msg_id": "m", "at": "2030-01-01T00:00:00Z"}
    id = office.desk.post("/v1/push", push).json["task"]
    assert office.desk.post(f"/v1/tasks/{id}/cancel").status == 200
    answer = office.desk.post("/v1/push", push)
    assert f"was cancelled: task {id}" in office.desk.refused(409, "conflict", answer)


def test_a_push_for_later_that_is_too_large_is_refused_now(office: Office) -> None:
    push = {"to": ["user:1"], "text": "x" * 101, "at": "2030-01-01T00:00:00Z"}
    office.desk.refused(413, "too-large", office.desk.post("/v1/push", push))
    assert office.desk.get("/v1/tasks").json["tasks"] == []


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "1969-12-31T00:00:00Z", "2023-11-14T22:13:19Z"])
def test_a_time_that_is_over_is_now(office: Office, at: str) -> None:
    id = office.desk.post("/v1/push", {"to": ["user:1"], "text": "x", "at": at}).json["task"]
    office.run(2)
    assert office.task(id)["state"] == "done"


def test_a_time_at_the_end_of_days_is_kept(office: Office) -> None:
    push = {"to": ["user:1"], "text": "x", "at": "9999-12-31T23:59:59-23:59"}
    id = office.desk.post("/v1/push", push).json["task"]
    office.run(2)
    assert office.task(id)["state"] == "scheduled"


@pytest.mark.parametrize("query", ["&name=%00a", "&msg_id=a%0a", "&name=a%0ab"])
def test_what_people_read_is_printable(office: Office, query: str) -> None:
    answer = office.upload('{"user":"1"}', TEXT + query)
    assert "must be printable" in office.desk.refused(400, "invalid-request", answer)


@pytest.mark.parametrize("query", ["?before=", "/x/results?after="])
def test_numbers_beyond_all_are_refused(office: Office, query: str) -> None:
    for number in (2**53, 2**63, 10**30):
        office.desk.refused(400, "invalid-request", office.desk.get(f"/v1/tasks{query}{number}"))


def test_a_quote_that_is_not_closed_tells_what_it_takes_along(office: Office) -> None:
    lines = ["user", "a", '"b', *map(str, range(50_000))]
    task = office.upload("\n".join(lines), kind="text/csv").json["task"]
    [bad] = task["bad_lines"]
    assert bad["line"] == 3
    assert f"a quote joins it to what follows, up to line {bad['upto']}" in bad["error"]
    assert bad["upto"] > 10_000
    assert task["bad"] == bad["upto"] - 2
    assert task["total"] + task["bad"] == len(lines) - 1  # nobody is missing


def test_uploads_that_nobody_has_time_for_are_refused(office: Office) -> None:
    office.calls.held = []
    waiting = []
    for _ in range(UPLOADS + WAITING):
        protocol, _ = office.desk.begin(
            "POST", f"/v1/tasks{TEXT}", b'{"user":"1"}', Content_Type="application/x-ndjson"
        )
        waiting.append(protocol)
    answer = office.upload('{"user":"1"}')
    assert "uploads wait already" in office.desk.refused(503, "unavailable", answer)
    for protocol in waiting:
        office.desk.lose(protocol)
    while office.calls.held:
        office.calls.let()
    office.calls.held = None


def test_what_looks_at_a_whole_task_has_time(office: Office) -> None:
    id = office.make(1)["id"]
    office.calls.held = []
    asked = [
        office.desk.begin("GET", f"/v1/tasks/{id}/report"),
        office.desk.begin("GET", f"/v1/tasks/{id}/results"),
        office.desk.begin("POST", f"/v1/tasks/{id}/repush", {}),
        office.desk.begin("POST", f"/v1/tasks{TEXT}", b'{"user":"1"}', Content_Type="application/x-ndjson"),
    ]
    short = office.desk.begin("GET", f"/v1/tasks/{id}")
    office.desk.clock.advance(299)
    assert [transport.value() for _, transport in asked] == [b""] * 4
    assert b" 504 " in short[1].value()
    office.desk.clock.advance(2)
    assert all(b" 504 " in transport.value() for _, transport in asked)
    for protocol, _ in [*asked, short]:
        office.desk.lose(protocol)
    while office.calls.held:
        office.calls.let()
    office.calls.held = None


def test_the_metrics_say_how_far_tasks_are(office: Office) -> None:
    def measured() -> dict[str, Any]:
        return {measure.field: value for measure, value in office.tasks.measures()}

    nothing = {"taken": 0, "refused": 0, "unknown": 0}
    assert measured() == {"running": 0, "unsent": 0, "on_their_way": 0, "outcomes": nothing}
    office.gateway.held = True
    office.gateway.refuses[Address("user", "1")] = OutcomeCode.FULL
    office.make(30)
    office.run(1)
    assert measured() == {"running": 1, "unsent": 30, "on_their_way": 30, "outcomes": nothing}
    office.gateway.answer()
    office.run(2)
    counted = {"taken": 29, "refused": 1, "unknown": 0}
    assert measured() == {"running": 0, "unsent": 0, "on_their_way": 0, "outcomes": counted}


# ----------------------------------------------------------------------------------------------- changing


def test_pause_resume_cancel(office: Office) -> None:
    id = office.make(100, "?text=a&rate=10")["id"]
    office.run(3)
    assert office.task(id)["state"] == "running"
    assert office.task(id)["router"] == "r1"
    for _ in range(2):
        assert office.desk.post(f"/v1/tasks/{id}/pause").json["state"] == "paused"
    pushed = len(office.gateway.taken())
    office.run(3)
    assert 20 <= len(office.gateway.taken()) == pushed <= 32
    assert office.desk.post(f"/v1/tasks/{id}/resume").json["state"] == "queued"
    office.run(3)
    assert len(office.gateway.taken()) > pushed
    assert office.desk.post(f"/v1/tasks/{id}/cancel").json["state"] == "cancelled"
    pushed = len(office.gateway.taken())
    office.run(3)
    assert len(office.gateway.taken()) == pushed
    assert office.task(id)["unsent"] == 100 - pushed
    said = office.desk.refused(409, "conflict", office.desk.post(f"/v1/tasks/{id}/resume"))
    assert said == "the task is cancelled | resume is for tasks that are paused"
    assert office.desk.post(f"/v1/tasks/{id}/repush", {}).status == 200
    office.run(20)
    assert office.task(id)["state"] == "done"
    assert len(office.gateway.taken()) == 100


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/cancel"),
        ("POST", "/repush"),
        ("GET", "/report"),
        ("GET", "/results"),
    ],
)
def test_a_task_that_is_not_there(office: Office, method: str, path: str) -> None:
    body = {} if path == "/repush" else None
    office.desk.refused(404, "not-found", office.desk.ask(method, f"/v1/tasks/nobody{path}", body))


@pytest.mark.parametrize(
    ("method", "path", "scope"), [("GET", "/v1/tasks", "read"), ("POST", "/v1/tasks/x/cancel", "push")]
)
def test_keys_need_the_scope(office: Office, method: str, path: str, scope: str) -> None:
    routes = {(route.method, route.path): route.scope for route in office.desk.api.table.routes}
    assert routes[method, path.replace("/x/", "/{id}/")] == scope


def test_pages(office: Office) -> None:
    ids = [office.make(1)["id"] for _ in range(3)]
    page = office.desk.get("/v1/tasks?limit=2").json
    assert [task["id"] for task in page["tasks"]] == [ids[2], ids[1]]
    page = office.desk.get(f"/v1/tasks?{urlencode({'limit': 2, 'before': page['next']})}").json
    assert ([task["id"] for task in page["tasks"]], page["next"]) == ([ids[0]], 0)


# ------------------------------------------------------------------------------------- what became of them


def judge_all(office: Office) -> str:
    """Of seven: 1 has it, 2 waits, 3 refused, 4 lost it, 5 has another log, 6 has it by then, 7 is full."""
    office.gateway.refuses = {
        Address("user", "3"): OutcomeCode.FORBIDDEN,
        Address("user", "7"): OutcomeCode.FULL,
    }
    id: str = office.make(7)["id"]
    office.run()
    office.gateway.seen = {"1": 1}
    office.gateway.first = {"4": 9}
    office.gateway.epochs = {"5": EPOCH + 1}
    return id


def test_the_report(office: Office) -> None:
    id = judge_all(office)
    told = office.desk.get(f"/v1/tasks/{id}/report").json
    assert told == {
        "id": id,
        "state": "done",
        "total": 7,
        "delivered": 1,
        "waiting": 2,
        "refused": {"FORBIDDEN": 1, "FULL": 1},
        "gone": 1,
        "unknown": 1,
        "unsent": 0,
        "bad": 0,
        "as_of_ms": told["as_of_ms"],
    }
    office.gateway.asked.clear()
    office.gateway.seen["6"] = 5
    told = office.desk.get(f"/v1/tasks/{id}/report").json
    assert (told["delivered"], told["waiting"]) == (2, 1)
    assert sorted(office.gateway.asked) == ["2", "6"]  # what is final is not asked about again


def test_results_say_what_is_true_now(office: Office) -> None:
    id = judge_all(office)
    found = {one["n"]: one for one in office.results(id)}
    assert {n: one["state"] for n, one in found.items()} == {
        1: "delivered",
        2: "waiting",
        3: "refused",
        4: "gone",
        5: "unknown",
        6: "waiting",
        7: "refused",
    }
    assert found[1] == {"n": 1, "to": "user:1", "state": "delivered", "code": "OK", "epoch": EPOCH, "seq": 1}
    assert (found[3]["code"], found[3]["seq"]) == ("FORBIDDEN", 0)
    assert [one["n"] for one in office.results(id, "?state=refused")] == [3, 7]
    assert [one["n"] for one in office.results(id, "?state=waiting&state=gone")] == [2, 4, 6]
    office.gateway.seen["6"] = 1
    assert [one["n"] for one in office.results(id, "?state=delivered")] == [1, 6]
    assert office.results(id, "?state=unsent") == []


def test_results_come_in_pages(office: Office) -> None:
    id = judge_all(office)
    page = office.results(id, "?limit=3")
    assert [one.get("n") for one in page] == [1, 2, 3, None]
    assert page[-1] == {"next": 3}
    page = office.results(id, "?limit=3&after=3")
    assert [one.get("n") for one in page] == [4, 5, 6, None]
    assert [one.get("n") for one in office.results(id, "?limit=3&after=6")] == [7]
    # Sparse ones are looked for behind the others.
    assert [one.get("n") for one in office.results(id, "?limit=1&state=gone")] == [4, None]


def test_a_page_of_what_is_rare_ends_somewhere(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.router.tasks.service.LOOK_AT", 4)
    id = judge_all(office)
    office.gateway.first = {}
    office.gateway.seen = {"6": 1}
    page = office.results(id, "?limit=2&state=delivered")
    assert page == [{"next": 5}]
    assert [one.get("n") for one in office.results(id, "?limit=2&state=delivered&after=5")] == [6]


def test_what_has_no_outcome_yet(office: Office) -> None:
    office.gateway.held = True
    id = office.make(2)["id"]
    office.run(1)
    assert [(one["state"], one["code"]) for one in office.results(id)] == [("unsent", "")] * 2
    assert office.desk.get(f"/v1/tasks/{id}/report").json["unsent"] == 2
    assert office.desk.get(f"/v1/tasks/{id}/report").json["state"] == "running"


@pytest.mark.parametrize("as_new", [False, True])
def test_a_repush_reaches_who_has_not_got_it(office: Office, as_new: bool) -> None:
    id = judge_all(office)
    office.gateway.refuses = {}
    office.gateway.publishes.clear()
    told = office.desk.post(f"/v1/tasks/{id}/repush", {"as_new": as_new, "rate": 100}).json
    again = [2, 3, 4, 5, 6, 7] if as_new else [3, 4, 7]
    assert (told["state"], told["unsent"], told["rate"]) == ("queued", len(again), 100.0)
    office.run()
    pushed = [(int(to.id), one.msg_id) for one in office.gateway.publishes for to in one.to]
    assert pushed == [(n, id if n in (3, 7) else f"{id}·r1") for n in again]
    assert office.task(id)["state"] == "done"
    two = {f"user:{n}": 1 if n in (1, 3, 7) or (n in (2, 5, 6) and not as_new) else 2 for n in range(1, 8)}
    assert office.gateway.taken() == two


def test_a_repush_waits_for_its_time_and_for_the_end_of_the_task(office: Office) -> None:
    office.gateway.held = True
    id = office.make(3)["id"]
    office.run(1)
    said = office.desk.refused(409, "conflict", office.desk.post(f"/v1/tasks/{id}/repush", {}))
    assert said == "the task is running | repush is for tasks that are cancelled or done"
    office.desk.post(f"/v1/tasks/{id}/cancel")
    office.run(1)
    said = office.desk.refused(409, "conflict", office.desk.post(f"/v1/tasks/{id}/repush", {}))
    assert "still being written down" in said
    office.gateway.held = False
    office.gateway.answer()
    office.run(1)
    body = {"as_new": True, "at": "2023-11-14T22:13:30Z"}
    assert office.desk.post(f"/v1/tasks/{id}/repush", body).json["state"] == "scheduled"
    office.run(4)
    assert office.gateway.taken() == {f"user:{n}": 1 for n in (1, 2, 3)}
    office.run(5)
    assert office.gateway.taken() == {f"user:{n}": 2 for n in (1, 2, 3)}


# ------------------------------------------------------------------------------------------- what goes wrong


def test_without_its_database_the_api_says_when_to_ask_again(office: Office) -> None:
    office.make(1)
    office.calls.fails = 1
    answer = office.desk.get("/v1/tasks")
    office.desk.refused(503, "unavailable", answer)
    assert answer.headers["retry-after"] == "5"
    assert "secret" not in answer.body.decode()
    assert office.desk.get("/v1/tasks").status == 200


def test_no_more_than_so_many_wait_for_its_database(office: Office) -> None:
    """It is frozen, and answers nobody."""
    office.make(1)
    office.calls.waiting = CALLS
    office.desk.refused(503, "unavailable", answer := office.desk.get("/v1/tasks"))
    assert answer.json["detail"] == "push tasks: 1000 questions wait for the database already"
    assert answer.headers["retry-after"] == "5"
    office.run()
    assert office.gateway.taken() == {"user:1": 1}  # what runs is not kept waiting
    office.calls.waiting = CALLS - 1
    assert office.desk.get("/v1/tasks").status == 200


def test_a_database_that_is_found_wrong_later_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rig").mkdir()
    rig = Rig(tmp_path / "rig")
    clock = Clock()
    tasks, _ = make_tasks(rig, tmp_path, clock)
    health: list[tuple[bool, str]] = []
    tasks._pulse._healthy = lambda ok, why: health.append((ok, why))
    found: list[Exception] = [away(), StoreError("its push tasks are of version 9")]
    right = tasks.store.open

    def open() -> None:
        if found:
            raise found.pop(0)
        right()

    monkeypatch.setattr(tasks.store, "open", open)
    started: list[Any] = []
    tasks.start().addCallback(started.append)
    assert started == [None]
    clock.advance(OPEN_S)
    assert health[-1] == (False, "push tasks: the database cannot be used: its push tasks are of version 9")
    clock.advance(OPEN_S)
    assert health[-1] == (True, "")
    tasks.stop()
    rig.close()


def test_a_database_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    office = Office(tmp_path)
    health: list[tuple[bool, str]] = []
    office.tasks._pulse._healthy = lambda ok, why: health.append((ok, why))
    office.calls.fails = 2
    office.start()
    office.desk.refused(503, "unavailable", office.desk.get("/v1/tasks"))
    office.run(5)
    assert [ok for ok, _ in health] == [False, True]
    assert "the server is away" in health[0][1]
    assert office.make(1)["total"] == 1
    office.close()


def test_stopped_while_it_waits_for_its_database(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.calls.fails = 99
    office.start()
    office.close()
    office = Office(tmp_path / "rig")
    office.calls.held = []
    office.start()
    stopped: list[Any] = []
    office.tasks.stop().addCallback(stopped.append)
    office.calls.let()
    assert stopped == [None]
    office.rig.close()


def test_who_locked_the_file_has_it_until_it_stops(tmp_path: Path) -> None:
    """Also if its start went no further."""
    rig = Rig(tmp_path)
    first, other = (make_tasks(rig, tmp_path / "tasks", Clock())[0] for _ in range(2))
    first.lock()
    with pytest.raises(StoreError, match="another process runs the push tasks"):
        other.lock()
    first.stop()
    other.lock()
    other.stop()
    rig.close()


def test_who_stops_while_it_opens_the_file_has_it_until_that_is_over(tmp_path: Path) -> None:
    """What opens it gives leases back: they must not be the next one's."""
    rig = Rig(tmp_path)
    first, calls = make_tasks(rig, tmp_path / "tasks", Clock())
    other, _ = make_tasks(rig, tmp_path / "tasks", Clock())
    calls.held = []
    first.lock()
    first.start()
    threads: Deferred[None] = Deferred()
    calls.stop = lambda last: threads.addCallback(lambda _: last())  # type: ignore[method-assign]
    stopped: list[Any] = []
    first.stop().addCallback(stopped.append)
    with pytest.raises(StoreError, match="another process runs the push tasks"):
        other.lock()
    calls.let()
    threads.callback(None)
    assert stopped == [None]
    other.lock()
    other.stop()
    rig.close()


def test_a_file_that_is_no_database_fails_the_start(tmp_path: Path) -> None:
    office = Office(tmp_path)
    (tmp_path / "push-tasks.db").write_bytes(b"no database" * 100)
    failed: list[Any] = []
    office.tasks.start().addErrback(lambda failure: failed.append(failure.getErrorMessage()))
    assert failed == [f"sqlite:///{tmp_path}/push-tasks.db: file is not a database"]
    office.close()


def test_mailboxes_that_cannot_be_asked_fail_the_report(
    office: Office, flush_logged_errors: Callable[..., list[Any]]
) -> None:
    id = judge_all(office)
    office.gateway.fails = True
    office.desk.refused(500, "internal", office.desk.get(f"/v1/tasks/{id}/report"))
    assert flush_logged_errors(RuntimeError)
    office.gateway.fails = False
    assert office.desk.get(f"/v1/tasks/{id}/report").status == 200


def test_two_who_ask_for_a_report_wait_for_the_same(office: Office) -> None:
    id = judge_all(office)
    first: Deferred[Any] = Deferred()
    mailbox = office.gateway.mailbox
    waiting = []

    def slow(user: str) -> Any:
        answer: Deferred[Any] = Deferred()
        waiting.append((answer, user))
        return answer

    office.tasks._deliveries._mailbox = slow
    told: list[Any] = []
    for _ in range(2):
        office.tasks.report(id).addCallback(told.append)
    assert len(waiting) == 5
    for answer, user in waiting:
        mailbox(user).addCallback(answer.callback)
    assert len(told) == 2
    assert told[0] == told[1]
    assert not first.called


def test_the_parts_are_what_they_are_taken_for(office: Office) -> None:
    part: Part = office.pages()
    assert len(part.routes()) == 9
    assert verifyObject(IGateway, office.desk.gateway)
