"""``/v1/tasks``: push tasks over HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred

from imgateway.router.problems import Problem
from imgateway.router.pushing import code_name
from imgateway.router.routes import Call, Page, Route, Upload
from imgateway.router.tasks.making import Order
from imgateway.router.tasks.orders import Message
from imgateway.router.tasks.service import Tasks
from imgateway.router.tasks.store import Task
from imgateway.router.tasks.tables import ItemState
from imgateway.router.tasks.told import (
    STATES,
    FirstLine,
    NewTask,
    Repush,
    TaskLine,
    TaskList,
    TaskMade,
    TaskReport,
    TaskTold,
    WhichResults,
    WhichTasks,
)
from imgateway.router.tasks.uploads import CSV, MAX_LINE_BYTES, NDJSON, Bad, next_line

__all__ = ("TaskPages",)

NDJSON_KIND = NDJSON[0]
_NAMES = {int(state): name for name, state in STATES.items()}


class TaskPages:
    """The routes of push tasks.

    :param wall_ms: Unix milliseconds.
    """

    def __init__(self, tasks: Tasks, wall_ms: Callable[[], int]) -> None:
        self._tasks = tasks
        self._wall_ms = wall_ms

    def routes(self) -> Sequence[Route]:
        one = "/v1/tasks/{id}"
        upload = Upload(
            (NDJSON_KIND, *NDJSON[1:], *CSV),
            lambda: self._tasks.max_upload_bytes,
            "NDJSON: a line a receiver, with `user` or `to` (an address), and, where it differs from the "
            "task's, `text`, `json` or `body`, `content_type`, `headers`, `ttl_s`. CSV: the first line names "
            "the columns, of user, to, text, content_type and ttl_s.",
        )
        return [
            Route(
                "POST",
                "/v1/tasks",
                self.make,
                "Push one message to many users, at a rate, now or later.",
                "push",
                {201: TaskMade},
                query=NewTask,
                upload=upload,
                problems=("unavailable", "too-large"),
                waits_s=self._long,
                description="The message is in the query (`text` or `message`) or in a first line "
                '{"task": {"message": {…}}} of NDJSON. Bad lines are told with their number; the task is '
                "made from the others unless `strict`. No answer, or a problem with a `msg_id`: it may be "
                "made or not; look at `GET /v1/tasks`, or send it again with that msg_id.",
            ),
            Route(
                "GET",
                "/v1/tasks",
                self.list,
                "Push tasks, the newest first.",
                "read",
                {200: TaskList},
                query=WhichTasks,
                problems=("unavailable",),
            ),
            Route(
                "GET",
                one,
                self.get,
                "A push task and how far it is.",
                "read",
                {200: TaskTold},
                problems=("not-found", "unavailable"),
            ),
            *[
                Route(
                    "POST",
                    f"{one}/{what}",
                    getattr(self, what),
                    summary,
                    "push",
                    {200: TaskTold},
                    problems=("not-found", "conflict", "unavailable"),
                )
                for what, summary in (
                    ("pause", "Push no more of it until it is resumed."),
                    ("resume", "Go on with a paused task."),
                    ("cancel", "Push no more of it; what was pushed stays."),
                )
            ],
            Route(
                "POST",
                f"{one}/repush",
                self.repush,
                "Push once more to those who did not get it.",
                "push",
                {200: TaskTold},
                body=Repush,
                problems=("not-found", "conflict", "unavailable"),
                waits_s=self._long,
                description="Of a task that is done or cancelled: what was never pushed, what was refused, "
                "and what a mailbox lost. What waits in a mailbox has its place there, and is left alone "
                "unless `as_new`: then say `finished_ms`, or a repeat of a request that had no answer makes "
                "one message more.",
            ),
            Route(
                "GET",
                f"{one}/results",
                self.results,
                "What became of each user, one a line.",
                "read",
                {200: NDJSON_KIND},
                query=WhichResults,
                problems=("not-found", "unavailable"),
                waits_s=self._long,
                description='Each line: {"n": line of the upload, "to", "state", "code", "epoch", "seq"}. A '
                'last line {"next": n} says that there is more: ask again with after=n.',
            ),
            Route(
                "GET",
                f"{one}/report",
                self.report,
                "How many have it, how many do not, and why.",
                "read",
                {200: TaskReport},
                problems=("not-found", "unavailable"),
                waits_s=self._long,
            ),
        ]

    def _long(self, _: object) -> float:
        return self._tasks.patience_s

    # ----------------------------------------------------------------------------------------- making a task

    def make(self, call: Call) -> Deferred[TaskMade]:
        """A task from an upload."""
        assert call.file is not None
        order, first = self._order(call.query, call.file, call.kind)
        call.known["msg_id"] = order.msg_id or order.id
        call.known["again"] = "GET /v1/tasks says; send it again with this msg_id, and users have it once"
        made = self._tasks.make(call.sender, order, call.file, call.kind, first)
        return made.addCallback(lambda result: TaskMade(self._told(result[0])))

    def _order(self, query: NewTask, file: IO[bytes], kind: str) -> tuple[Order, int]:
        """What is asked for, and the number of the first line that is a receiver's."""
        line = _task_line(file) if kind in NDJSON else None
        if line is not None:
            if query != NewTask():
                raise Problem(
                    "invalid-request", "the task is in the query and in the first line", "say it in one place"
                )
            return _order_of(line, line.message), 2
        if bool(query.text) == bool(query.message):
            raise Problem(
                "invalid-request",
                "give one of text and message in the query",
                '?text=Hello, or ?message={"json":…} percent-encoded, or a first line {"task":{"message":…}}',
            )
        if query.text:
            return _order_of(query, Message(text=query.text)), 1
        try:
            message = msgspec.json.decode(query.message, type=Message)
        except msgspec.MsgspecError as error:
            raise Problem("invalid-request", f"message in the query: {error}") from None
        except RecursionError:
            raise Problem("invalid-request", "message in the query: nested too deep") from None
        return _order_of(query, message), 1

    # ------------------------------------------------------------------------------------- looking, changing

    def list(self, call: Call) -> Deferred[TaskList]:
        """A page of tasks."""
        query: WhichTasks = call.query

        def told(found: Sequence[Task]) -> TaskList:
            more = len(found) == query.limit
            return TaskList(tuple(map(self._told, found)), found[-1].number if more else 0)

        return self._tasks.page(query.before, query.limit).addCallback(told)

    def get(self, call: Call) -> Deferred[TaskTold]:
        """One task."""
        return self._tasks.get(call.path["id"]).addCallback(self._told)

    def pause(self, call: Call) -> Deferred[TaskTold]:
        """Pause it."""
        return self._tasks.change(call.path["id"], "pause").addCallback(self._told)

    def resume(self, call: Call) -> Deferred[TaskTold]:
        """Go on."""
        return self._tasks.change(call.path["id"], "resume").addCallback(self._told)

    def cancel(self, call: Call) -> Deferred[TaskTold]:
        """End it."""
        return self._tasks.change(call.path["id"], "cancel").addCallback(self._told)

    def repush(self, call: Call) -> Deferred[TaskTold]:
        """A new attempt."""
        asked: Repush = call.body
        rate = asked.rate if isinstance(asked.rate, float) else None
        ended_ms = asked.finished_ms if isinstance(asked.finished_ms, int) else None
        if asked.as_new:
            call.known["again"] = (
                "look at GET /v1/tasks/ID, or ask again with the finished_ms that the task had before: else "
                "each time makes one message more"
            )
        again = self._tasks.repush(call.path["id"], asked.as_new, rate, _ms(asked.at), ended_ms)
        return again.addCallback(self._told)

    def results(self, call: Call) -> Deferred[Page]:
        """A page of results."""
        query: WhichResults = call.query
        states = frozenset(STATES[name] for name in query.state or STATES)

        async def results() -> Page:
            found, following = await self._tasks.results(call.path["id"], states, query.after, query.limit)
            lines: list[Any] = [
                {
                    "n": one.n,
                    "to": one.address,
                    "state": _NAMES[one.state],
                    "code": code_name(one.code) if one.state != ItemState.UNSENT else "",
                    "epoch": one.epoch,
                    "seq": one.seq,
                }
                for one in found
            ]
            if following:
                lines.append({"next": following})
            return Page(NDJSON_KIND, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

        return ensureDeferred(results())

    def report(self, call: Call) -> Deferred[TaskReport]:
        """The report."""

        async def report() -> TaskReport:
            task, counts = await self._tasks.report(call.path["id"])
            many: Counter[int] = Counter()
            refused: Counter[str] = Counter()
            for state, code, count in counts:
                many[state] += count
                if state == ItemState.REFUSED:
                    refused[code_name(code)] += count
            return TaskReport(
                id=task.id,
                state=self._state(task),
                total=task.total,
                delivered=many[ItemState.DELIVERED],
                waiting=many[ItemState.TAKEN],
                refused=dict(refused),
                gone=many[ItemState.GONE],
                unknown=many[ItemState.UNKNOWN],
                unsent=many[ItemState.UNSENT],
                bad=task.bad,
                as_of_ms=self._wall_ms(),
            )

        return ensureDeferred(report())

    # --------------------------------------------------------------------------------------------------------

    def _told(self, task: Task) -> TaskTold:
        return TaskTold(
            id=task.id,
            name=task.name,
            state=self._state(task),
            sender=task.sender,
            router=task.owner if task.until_ms else "",
            rate=task.rate,
            at_ms=task.at_ms,
            created_ms=task.created_ms,
            started_ms=task.started_ms,
            finished_ms=task.finished_ms,
            total=task.total,
            unsent=task.unsent,
            taken=task.total - task.unsent - task.refused,
            refused=task.refused,
            bad=task.bad,
            bad_lines=msgspec.json.decode(task.bad_lines, type=tuple[Bad, ...]),
        )

    def _state(self, task: Task) -> str:
        if task.state != "running" or task.until_ms:
            return task.state
        return "scheduled" if task.at_ms > self._wall_ms() else "queued"


def _task_line(file: IO[bytes]) -> TaskLine | None:
    """The task, if the first line has one; else the file stands at its start again."""
    line = next_line(file)
    if b'"task"' in line[:MAX_LINE_BYTES]:
        try:
            return msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=FirstLine).task
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if b'"user"' not in line and b'"to"' not in line:
                why = "nested too deep" if isinstance(error, RecursionError) else error
                raise Problem("invalid-request", f"line 1: {why}", "see /openapi.json: TaskLine") from None
    file.seek(0)
    return None


def _order_of(asked: NewTask | TaskLine, message: Message) -> Order:
    for name, text in (("name", asked.name), ("msg_id", asked.msg_id)):
        if not text.isprintable():  # PostgreSQL takes no NUL, and a schema's $ lets a last line's end pass
            raise Problem("invalid-request", f"{name}: must be printable", "without control characters")
    return Order(asked.name, message, asked.rate, _ms(asked.at), asked.strict, asked.msg_id)


def _ms(at: Any) -> int:
    return int(at.timestamp() * 1000) if isinstance(at, datetime) else 0
