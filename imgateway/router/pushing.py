"""``/v1/push``: a message to up to some hundred addresses, now or at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import UNSET
from twisted.internet.defer import Deferred

from imgateway.config import LimitSettings
from imgateway.frames import MAX_MSG_ID_BYTES, Outcome, OutcomeCode, Publish
from imgateway.interfaces import IGateway
from imgateway.router.problems import Problem
from imgateway.router.reading import addresses_of, body_of
from imgateway.router.routes import Call, Route
from imgateway.router.schema import OutcomeTold, Push, Pushed, Scheduled

__all__ = ("Pushing", "Schedule", "code_name", "publish_of")

Schedule = Callable[[str, Push, str], Deferred[str]]
"""(id of the API key, push, msg_id) → the id of the push task that was made."""


class Pushing:
    """Pushes.

    :param limits: how many addresses a push may have.
    :param schedule: keeps pushes that have a time; None: they are refused.
    """

    def __init__(self, gateway: IGateway, limits: LimitSettings, schedule: Schedule | None = None) -> None:
        self._gateway = gateway
        self.limits = limits
        self._schedule = schedule

    def routes(self) -> Sequence[Route]:
        return [
            Route(
                "POST",
                "/v1/push",
                self.push,
                "Push a message to users, devices, rooms, areas, topics, services or all.",
                "push",
                {200: Pushed, 202: Scheduled},
                body=Push,
                description="Answered once every log that stores it has it on disk, or finally has not. No "
                "answer, or a problem with a `msg_id`: it may have been taken or not; push it again with "
                "that msg_id. With `at` it becomes a push task, and the answer is 202; 409 says that the "
                "task of this msg_id was cancelled.",
                problems=("conflict",),
            )
        ]

    def push(self, call: Call) -> Deferred[Any]:
        """Push, or keep for later."""
        asked: Push = call.body
        publish = publish_of(asked, self.limits.max_addresses_service)
        call.known["msg_id"] = publish.msg_id
        call.known["again"] = "push again with this msg_id, and it is there once"
        if asked.at is not UNSET:
            if self._schedule is None:
                raise Problem("invalid-request", "at: no push tasks are kept here", "push it when it is time")
            scheduling = self._schedule(call.key, asked, publish.msg_id)
            return scheduling.addCallback(lambda task: Scheduled(publish.msg_id, task))
        answer = self._gateway.publish(publish, call.sender, "api")
        return answer.addCallback(self._pushed, publish, asked.to)

    def _pushed(self, outcomes: tuple[Outcome, ...], publish: Publish, to: tuple[str, ...]) -> Pushed:
        told = [
            OutcomeTold(text, code_name(outcome.code), outcome.epoch, outcome.seq)
            for text, outcome in zip(to, outcomes, strict=True)
        ]
        return Pushed(publish.msg_id, tuple(told))


def publish_of(asked: Push, most: int) -> Publish:
    """The publish that is asked for; a msg_id is made if it has none.

    :param most: addresses that it may have.
    :raises Problem: it cannot be one.
    """
    body, kind = body_of(asked.body, asked.text, asked.json, needed=True)
    msg_id = asked.msg_id or secrets.token_hex(16)
    if len(msg_id) > MAX_MSG_ID_BYTES or not (msg_id.isascii() and msg_id.isprintable()):
        raise Problem("invalid-request", f"msg_id: 1 to {MAX_MSG_ID_BYTES} printable ASCII characters")
    to = addresses_of(asked.to, most)
    headers = tuple(asked.headers.items())
    kind = asked.content_type or kind
    return Publish(msg_id, to, kind, body, asked.qos, asked.ttl_s, asked.lane, headers=headers)


def code_name(code: int) -> str:
    """``OK`` for 0; a number that has no name is itself."""
    try:
        return OutcomeCode(code).name
    except ValueError:
        return str(code)
