"""``/v1/online``, ``/v1/users``, ``/v1/rooms``, ``/v1/request``: who is there, and what can be done with
them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from imgateway.errors import RequestFailed
from imgateway.frames import Address, ResponseCode, SessionKey
from imgateway.interfaces import IGateway, Presence
from imgateway.router.problems import Problem
from imgateway.router.reading import body_of, id_of
from imgateway.router.routes import Call, Route
from imgateway.router.schema import (
    Answered,
    AskClient,
    Kick,
    Kicked,
    Online,
    Revoke,
    Revoked,
    RoomTold,
    Sessions,
    SessionTold,
    UserOnline,
    WhoIsOnline,
)

__all__ = ("Users",)

SLACK_S = 5.0
"""What a request may take beyond its deadline: finding its client."""

_CODES = {
    ResponseCode.GONE: ("gone", "push to the user instead: a message waits until it comes back"),
    ResponseCode.RATE: ("too-many", "wait until earlier requests to it are answered"),
    ResponseCode.DEADLINE: ("timeout", "ask again, if the request may be done twice"),
}


class Users:
    """Sessions, rooms, requests.

    :param seconds: the wall clock, Unix seconds.
    """

    def __init__(self, gateway: IGateway, seconds: Callable[[], float]) -> None:
        self._gateway = gateway
        self._seconds = seconds

    def routes(self) -> Sequence[Route]:
        return [
            Route(
                "GET",
                "/v1/online",
                self.online,
                "Who of these users is online.",
                "read",
                {200: Online},
                query=WhoIsOnline,
            ),
            Route(
                "GET",
                "/v1/users/{user}/sessions",
                self.sessions,
                "A user's sessions.",
                "read",
                {200: Sessions},
            ),
            Route(
                "DELETE",
                "/v1/users/{user}/sessions",
                self.kick,
                "Close all sessions of a user.",
                "kick",
                {200: Kicked},
                query=Kick,
                description="Their clients are told not to reconnect. Tokens stay good: revoke them, too.",
            ),
            Route(
                "DELETE",
                "/v1/users/{user}/sessions/{device}",
                self.kick,
                "Close the session of one device.",
                "kick",
                {200: Kicked},
                query=Kick,
            ),
            Route(
                "POST",
                "/v1/users/{user}/revoke",
                self.revoke,
                "Make a user's older tokens worthless, and close what was opened with them.",
                "kick",
                {200: Revoked},
                body=Revoke,
            ),
            Route(
                "GET",
                "/v1/rooms/{room}",
                self.room,
                "How many are in a room.",
                "read",
                {200: RoomTold},
            ),
            Route(
                "POST",
                "/v1/request",
                self.request,
                "Ask a client, and await its answer.",
                "request",
                {200: Answered},
                body=AskClient,
                problems=("gone", "client-failed"),
                waits_s=lambda body: body.deadline_s + SLACK_S,
            ),
        ]

    def online(self, call: Call) -> Deferred[Online]:
        """Who is online, in the order of the question."""
        asked: WhoIsOnline = call.query
        if not asked.user:
            raise Problem("invalid-request", "user is missing", "?user=a&user=b …")
        users = [id_of(user, "user") for user in asked.user]
        asking = gatherResults([self._gateway.sessions(user) for user in users], consumeErrors=True)
        asking.addErrback(_first)
        return asking.addCallback(lambda found: Online(tuple(map(_online, users, found))))

    def sessions(self, call: Call) -> Deferred[Sessions]:
        """Every session of a user."""
        user = id_of(call.path["user"], "user")
        return self._gateway.sessions(user).addCallback(
            lambda found: Sessions(user, tuple(map(_session, found)))
        )

    def kick(self, call: Call) -> Deferred[Kicked]:
        """Close sessions."""
        user = id_of(call.path["user"], "user")
        device = id_of(call.path["device"], "device") if "device" in call.path else None
        kicking = self._gateway.kick(user, device, call.query.reason)
        return kicking.addCallback(lambda count: Kicked(user, count))

    def revoke(self, call: Call) -> Deferred[Revoked]:
        """Revoke tokens."""
        user = id_of(call.path["user"], "user")
        not_before_s = call.body.not_before_s or int(self._seconds())
        if not_before_s > self._seconds() + 86_400:
            raise Problem(
                "invalid-request",
                "not_before_s: is more than a day ahead: the user could not log in until then",
                "Unix seconds, not milliseconds",
            )
        return self._gateway.revoke(user, not_before_s).addCallback(lambda _: Revoked(user, not_before_s))

    def room(self, call: Call) -> Deferred[RoomTold]:
        """Count a room's members."""
        room = id_of(call.path["room"], "room")
        counting = self._gateway.members(Address("room", room))
        return counting.addCallback(lambda count: RoomTold(room, count))

    def request(self, call: Call) -> Deferred[Answered]:
        """Ask a client."""
        asked: AskClient = call.body
        body, _ = body_of(asked.body, asked.text, asked.json, needed=False)
        session = SessionKey(id_of(asked.user, "user"), id_of(asked.device, "device"))
        asking = self._gateway.request(session, asked.service, asked.method, body, asked.deadline_s)
        return asking.addCallbacks(lambda body: _answered(0, body), _failed)


def _first(failure: Failure) -> Any:
    failure.trap(FirstError)
    first: Any = failure.value
    return first.subFailure


def _online(user: str, found: Sequence[Presence]) -> UserOnline:
    devices = tuple([one.session.device for one in found if one.online])
    return UserOnline(user, bool(devices), devices)


def _session(one: Presence) -> SessionTold:
    user, device = one.session
    return SessionTold(user, device, one.platform, one.node, one.generation, one.since_ms, one.online)


def _answered(code: int, body: bytes) -> Answered:
    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    return Answered(code, body, text)


def _failed(failure: Failure) -> Answered:
    """The client's own codes are an answer; what the gateway says for it is a problem."""
    failure.trap(RequestFailed)
    error: Any = failure.value
    if error.code >= 100:
        return _answered(error.code, error.body)
    kind, advice = _CODES.get(error.code, ("client-failed", "see the logs of its node, or of the client"))
    why = error.body.decode("utf-8", "replace") or "the client could not be asked"
    raise Problem(kind, why, advice, code=int(error.code), retry_after_s=1 if kind == "too-many" else None)
