"""``imgateway push``"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from imgateway.cli.access import Access, api_options
from imgateway.cli.api import Api, in_doubt
from imgateway.cli.fleet import json_option
from imgateway.cli.lines import as_line, tell, text_of, write_line
from imgateway.cli.options import DURATION, Decorator, addresses, same_everywhere
from imgateway.cli.tables import show
from imgateway.cli.world import World, pass_world

__all__ = ("push",)

TAKEN = ("OK", "DUPLICATE")
STEPS = ("pause", "resume", "cancel", "repush", "report")


def _step(name: str, text: str) -> Decorator:
    return click.option(f"--{name}", metavar="TASK", help=text)


@click.command()
@api_options()
@click.argument("words", metavar="[TO] [BODY]", nargs=-1)
@click.option("--msg-id", metavar="ID", default="", help="The message's id: pushed again, it is there once.")
@click.option("--content-type", metavar="TYPE", default="", help="text/plain if it is a text.")
@click.option("--ttl", type=DURATION, help="How long the message is of use: 90s, 15m, 1h30m, 7d.")
@click.option("--lane", type=click.IntRange(0, 1), default=0, help="1: to a room, before its chat.")
@click.option("--qos", type=click.IntRange(0, 1), default=1, show_default=True, help="0: now or never.")
@click.option("--at", metavar="TIME", default="", help="When: 2027-01-31T18:00+01:00. It becomes a task.")
@click.option(
    "--file",
    "file_name",
    metavar="FILE",
    help="To all users in this .csv or .ndjson file, as a push task.",
)
@click.option("--name", metavar="TEXT", default="", help="With --file: the task's name, for people.")
@click.option(
    "--rate", type=click.FloatRange(0, 1e6), metavar="R", help="With --file: at most R users a second."
)
@click.option("--strict", is_flag=True, help="With --file: one bad line refuses all of them.")
@_step("pause", "Push no more of this task until it is resumed.")
@_step("resume", "Go on with a paused task.")
@_step("cancel", "End a task; what was pushed stays.")
@_step("repush", "Push once more to those who did not get it.")
@_step("report", "Say what became of a task's users.")
@click.option("--tasks", is_flag=True, help="List the newest tasks.")
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Follow the task to its end, and report.  [default: with --file and --repush]",
)
@json_option
@same_everywhere
@pass_world
def push(
    world: World,
    /,
    access: Access,
    words: tuple[str, ...],
    msg_id: str,
    content_type: str,
    ttl: float | None,
    lane: int,
    qos: int,
    at: str,
    file_name: str | None,
    name: str,
    rate: float | None,
    strict: bool,
    tasks: bool,
    wait: bool | None,
    as_json: bool,
    **steps: str | None,
) -> None:
    """Push a message as a business server does, or look after push tasks.

    \b
      push TO BODY                     user:bob, device:bob/phone, room:7, all; several with commas
      push --file users.csv BODY       to each of its users; a .ndjson file may have the message itself
      push --report TASK               or --pause, --resume, --cancel, --repush; --tasks lists them

    Prints the outcome of each address, or a task's report. Exits with 0 when all of them took it. Ctrl-C
    leaves a task running.
    """
    from imgateway.cli.tasks import Followed, change, list_tasks, make

    of_file = bool(name or strict or rate is not None)
    of_message = bool(words or msg_id or content_type or ttl or lane or at or qos != 1)
    step = _only_one(steps, tasks, file_name)
    if of_file and not file_name:
        raise click.UsageError("--name, --rate and --strict are for --file")
    if step or tasks:
        if of_message:
            raise click.UsageError(f"--{step or 'tasks'} takes no message")
        following = Followed(world, access.open(), as_json)
        if step:
            change(following, step, steps[step] or "", wait)
        else:
            list_tasks(following)
        return
    if file_name:
        if qos == 0:
            raise click.UsageError("--qos 0 is not for tasks: they say who has the message")
        if len(words) > 1:
            raise click.UsageError("with --file there is no TO: the file says to whom")
        message = {**_body(words[0], content_type), **_some(lane, ttl)} if words else None
        if message is None and (content_type or lane or ttl):
            raise click.UsageError("--content-type, --lane and --ttl are for a BODY")
        if message is not None:
            msg_id = msg_id or secrets.token_hex(16)
        about = {"name": name, "rate": rate, "at": _time(at), "strict": "true" if strict else ""}
        following = Followed(world, access.open(), as_json)
        make(following, file_name, message, {**about, "msg_id": msg_id}, wait is not False)
        return
    if len(words) != 2:
        raise click.UsageError("give TO and BODY, such as user:bob hello; or --file, --tasks, --report TASK")
    to = addresses(words[0])
    made = {"to": to, "qos": qos, **_body(words[1], content_type), **_some(lane, ttl)}
    if at:
        made["at"] = _time(at)
    _push(access.open(), {**made, "msg_id": msg_id or secrets.token_hex(16)}, as_json)


def _only_one(steps: dict[str, str | None], tasks: bool, file_name: str | None) -> str:
    """The step that is asked for, if any."""
    asked = [name for name in STEPS if steps[name]]
    if len(asked) + tasks + bool(file_name) > 1:
        raise click.UsageError(
            "one of --file, --tasks, --pause, --resume, --cancel, --repush and --report at a time"
        )
    return asked[0] if asked else ""


def _body(typed: str, content_type: str) -> dict[str, Any]:
    body = os.fsencode(typed)  # what the shell handed over, if it was no UTF-8 too
    text = text_of(body)
    made: dict[str, Any] = {"body": b64encode(body).decode()} if text is None else {"text": text}
    return made | ({"content_type": content_type} if content_type else {})


def _some(lane: int, ttl: float | None) -> dict[str, int]:
    return ({"lane": lane} if lane else {}) | ({"ttl_s": max(1, round(ttl))} if ttl else {})


def _time(text: str) -> str:
    if not text:
        return ""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise click.UsageError(
            f"--at {text!r}: write a date, a time and the offset from UTC: 2027-01-31T18:00:00+01:00, or …Z"
        )
    return at.isoformat()


def _push(api: Api, made: dict[str, Any], as_json: bool) -> None:
    from imgateway.router.schema import Pushed, Scheduled

    with in_doubt(f"it may be pushed or not: again with --msg-id {made['msg_id']} it is there once"):
        told = api.ask("POST", "/v1/push", Scheduled if "at" in made else Pushed, body=made)
    msg_id = told["msg_id"]
    if "task" in told:
        with _told_elsewhere(f"task {told['task']} is pushed when it is time (msg_id {msg_id})"):
            if as_json:
                write_line(as_line(told))
            else:
                click.echo(f"task {told['task']}: is pushed when it is time")
        return
    outcomes = told["outcomes"]
    refused = sum(one["code"] not in TAKEN for one in outcomes)
    many = f"{len(outcomes):,}"
    with _told_elsewhere(f"{len(outcomes) - refused:,} of {many} took it (msg_id {msg_id})"):
        if as_json:
            for one in outcomes:
                write_line(as_line({"msg_id": msg_id, **one}))
        else:
            show(("ADDRESS", "CODE", "SEQ"), [(one["address"], one["code"], one["seq"]) for one in outcomes])
    if refused:
        tell(f"{refused:,} of {many} did not take it (msg_id {msg_id})")
        raise click.exceptions.Exit(1)


@contextmanager
def _told_elsewhere(text: str) -> Iterator[None]:
    """Says this on stderr where stdout takes nothing, such as a full disk."""
    try:
        yield
    except BrokenPipeError:  # whoever read it went away, and saw what it wanted
        raise
    except OSError:
        tell(text)
        raise
