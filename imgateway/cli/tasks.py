"""Push tasks for ``imgateway push``: made from a file, steered, followed with a bar, reported."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click
from msgspec import Struct

from imgateway.cli.api import Api, Refused, Unreachable, in_doubt, looks, segment
from imgateway.cli.bar import Bar, remark
from imgateway.cli.lines import as_line, tell, write_line
from imgateway.cli.tables import show, when
from imgateway.cli.world import World

__all__ = ("Followed", "change", "list_tasks", "make")

KINDS = {".csv": "text/csv", ".ndjson": "application/x-ndjson", ".jsonl": "application/x-ndjson"}
MAX_QUERY_BYTES = 60_000
"""Of the 64 KB that the API takes before a body."""
SHOWN_BAD = 10
OVER = ("done", "cancelled")
STEPS = {"pause": "paused", "resume": "resumed", "cancel": "cancelled", "repush": "pushed again"}


# What is used of the API's answers: its own structs come with the whole database.


class Bad(Struct, frozen=True):
    line: int
    error: str


class TaskTold(Struct, frozen=True):
    id: str
    name: str
    state: str
    rate: float
    at_ms: int
    created_ms: int
    total: int
    unsent: int
    taken: int
    refused: int
    bad: int
    bad_lines: tuple[Bad, ...]


class TaskMade(Struct, frozen=True):
    task: TaskTold


class TaskList(Struct, frozen=True):
    tasks: tuple[TaskTold, ...]


class TaskReport(Struct, frozen=True):
    id: str
    state: str
    total: int
    delivered: int
    waiting: int
    refused: dict[str, int]
    gone: int
    unknown: int
    unsent: int
    bad: int


class Followed(Struct, frozen=True):
    """What every step needs."""

    world: World
    api: Api
    as_json: bool

    def look(self, task: str) -> Any:
        """How far it is now."""
        return self.api.ask("GET", f"/v1/tasks/{segment(task)}", TaskTold)


def make(
    following: Followed,
    file_name: str,
    message: Mapping[str, Any] | None,
    about: Mapping[str, Any],
    wait: bool,
) -> None:
    """A task from a file of users.

    :param message: None: the file has it.
    :param about: the rest of the API's query.
    """
    kind = KINDS.get(os.path.splitext(file_name)[1].lower())
    if kind is None:
        raise click.UsageError(f"{file_name}: must be called .csv, .ndjson or .jsonl, and be that")
    if message is None and kind == KINDS[".csv"]:
        raise click.UsageError(
            "no BODY: a .csv file needs one, for those of its users who have no text of their own"
        )
    said = "" if message is None else json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    query = {"message": said, **about}
    if len(urlencode(query)) > MAX_QUERY_BYTES:
        raise click.UsageError(
            'the BODY is too long for this way: put {"task":{"message":{…}}} before the users in .ndjson'
        )
    with open(file_name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        doubt = "there may be a task or not: imgateway push --tasks lists them"
        if about["msg_id"]:
            doubt += f", and again with --msg-id {about['msg_id']} users have it once"
        with in_doubt(doubt):
            made = following.api.ask(
                "POST", "/v1/tasks", TaskMade, query, upload=(file, size, kind), slow=True
            )
    task = made["task"]
    # Before anything else: who has the id can find it again, whatever happens now.
    tell(f"task {task['id']}: {task['total']:,} users")
    for bad in task["bad_lines"][:SHOWN_BAD]:
        tell(f"line {bad['line']}: {bad['error']}")
    if task["bad"] > SHOWN_BAD:
        tell(f"{task['bad'] - SHOWN_BAD:,} more lines could not be used")
    if wait and task["state"] != "scheduled":
        _to_the_end(following, task["id"])
    else:
        _tell(following, task)
        if task["bad"]:
            raise click.exceptions.Exit(1)


def change(following: Followed, step: str, task_id: str, wait: bool | None) -> None:
    """Take a step with a task; `wait` None: as it is usual for the step."""
    if step == "report":
        if wait:
            _to_the_end(following, task_id)
        else:
            _report(following, task_id)
        return
    body: dict[str, Any] | None = {} if step == "repush" else None
    path = f"/v1/tasks/{segment(task_id)}/{step}"
    with in_doubt(f"it may be {STEPS[step]} or not: imgateway push --report {task_id} tells of it"):
        task = following.api.ask("POST", path, TaskTold, body=body, slow=step == "repush")
    if wait or (wait is None and step == "repush"):
        _to_the_end(following, task["id"])
    else:
        _tell(following, task)


def list_tasks(following: Followed) -> None:
    """The newest fifty."""
    found = following.api.ask("GET", "/v1/tasks", TaskList)["tasks"]
    if following.as_json:
        for task in found:
            write_line(as_line(task))
    else:
        _show(found)


def _to_the_end(following: Followed, task_id: str) -> None:
    """Until it is done or cancelled; then its report, and what became of all of it as the exit status."""
    world, shown, paused = following.world, None, False
    try:
        with Bar(f"task {task_id}", results=following.as_json) as bar:
            for task in looks(lambda: following.look(task_id), world.pause, world.seconds):
                if following.as_json and task != shown:
                    write_line(as_line(task))
                    shown = task
                bar(task["total"] - task["unsent"], task["total"])
                if task["state"] in OVER:
                    break
                if task["state"] == "paused" and not paused:
                    remark(f"task {task_id} is paused; imgateway push --resume {task_id} goes on with it")
                paused = task["state"] == "paused"
    except KeyboardInterrupt:
        tell(f"task {task_id} goes on; imgateway push --cancel {task_id} ends it, --report tells of it")
        raise
    except (Refused, Unreachable) as error:
        error.more = f" (task {task_id} goes on)"
        raise
    report = _report(following, task_id)
    if report["state"] != "done" or report["bad"] or report["refused"] or report["unsent"]:
        raise click.exceptions.Exit(1)


def _report(following: Followed, task_id: str) -> Any:
    report = following.api.ask("GET", f"/v1/tasks/{segment(task_id)}/report", TaskReport, slow=True)
    if following.as_json:
        write_line(as_line(report))
        return report
    refused = report["refused"]
    why = ", ".join(f"{code} {count:,}" for code, count in sorted(refused.items()))
    rows: list[tuple[str, int, str]] = [
        ("delivered", report["delivered"], "a device has it"),
        ("waiting", report["waiting"], "in the mailbox, nobody has it yet"),
        ("refused", sum(refused.values()), why),
        ("gone", report["gone"], "lost by the mailbox: age or quota"),
        ("unknown", report["unknown"], "taken where nobody acknowledges"),
        ("unsent", report["unsent"], "no outcome yet"),
        ("bad", report["bad"], "lines that could not be used"),
    ]
    click.echo(f"task {report['id']}: {report['state']}, {report['total']:,} users")
    show(("STATE", "USERS", ""), [row for row in rows if row[1]])
    return report


def _tell(following: Followed, task: Any) -> None:
    if following.as_json:
        write_line(as_line(task))
    else:
        _show([task])


def _show(tasks: list[Any]) -> None:
    columns = "TASK STATE USERS UNSENT TAKEN REFUSED BAD RATE CREATED BEGINS NAME".split()
    show(
        columns,
        [
            (
                task["id"],
                task["state"],
                task["total"],
                task["unsent"],
                task["taken"],
                task["refused"],
                task["bad"],
                f"{task['rate']:g}/s" if task["rate"] else "",
                when(task["created_ms"]),
                when(task["at_ms"]),
                task["name"],
            )
            for task in tasks
        ],
    )
