"""``/v1/tokens`` and ``/v1/allocate``: how clients get in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from imgateway.config import RouterSettings
from imgateway.errors import CloseCode, LoginRefused
from imgateway.frames import Hello
from imgateway.interfaces import IAuthenticator, Identity
from imgateway.router.allocation import Allocation, Place
from imgateway.router.problems import Problem
from imgateway.router.reading import id_of
from imgateway.router.routes import Call, Route
from imgateway.router.schema import Allocate, Allocated, Backoff, Endpoint, MakeToken, Token

__all__ = ("Doors", "Mint")

NOBODY_READY_S = 5.0
"""When to ask again: nodes announce themselves every few seconds."""
FACTOR, JITTER = 2.0, 0.5
"""Of the backoff that clients are told: as the SDK has it by itself."""


class Mint(Protocol):
    """Makes tokens."""

    def make(self, asked: MakeToken, now_s: float) -> str:
        """A token as asked for, issued at `now_s` (Unix seconds)."""

    def bound(self, identity: Identity, node: str, now_s: float) -> str:
        """A token for what `identity` may, as long as that is good, and for one node alone."""

    def with_udp_key(self, token: str) -> str:
        """The token with its UDP key; empty: the secret of the UDP keys is not here."""


class Doors:
    """Tokens and allocation.

    :param mint: None: this gateway has only a public key, and makes no tokens.
    :param seconds: the wall clock, Unix seconds.
    """

    def __init__(
        self,
        allocation: Allocation,
        authenticator: IAuthenticator,
        mint: Mint | None,
        settings: RouterSettings,
        heartbeat_s: float,
        seconds: Callable[[], float],
    ) -> None:
        self._allocation = allocation
        self._authenticator = authenticator
        self.mint = mint
        self.settings = settings
        self.heartbeat_s = heartbeat_s
        self._seconds = seconds

    def routes(self) -> Sequence[Route]:
        return [
            Route(
                "POST",
                "/v1/tokens",
                self.token,
                "Make a token for a user.",
                "tokens",
                {201: Token},
                body=MakeToken,
                problems=("conflict",),
            ),
            Route(
                "GET",
                "/v1/allocate",
                self.allocate,
                "Where a client shall connect.",
                "",
                {200: Allocated},
                query=Allocate,
                problems=("bad-token", "unavailable"),
                public=True,
                description="With the client's own token, as Authorization: Bearer or ?token=. Try the "
                "endpoints in their order.",
            ),
        ]

    # ----------------------------------------------------------------------------------------------- tokens

    def token(self, call: Call) -> Token:
        """Make a token."""
        asked: MakeToken = call.body
        if self.mint is None:
            raise Problem(
                "conflict",
                "this gateway checks tokens with a public key, and cannot make any",
                "whoever has the private key makes them",
            )
        # What API keys push comes from service:ID: nobody shall look like that by a name alone.
        is_service = asked.service or asked.user.startswith("service:")
        if is_service and "service-tokens" not in call.scopes:
            raise Problem(
                "forbidden",
                f"the key {call.key} has not the scope service-tokens",
                "ask the operator for a key that has it",
            )
        id_of(asked.user, "user")
        if asked.device:
            id_of(asked.device, "device")
        for name, ids in (("rooms", asked.rooms), ("topics", asked.topics)):
            for place, one in enumerate(ids):
                id_of(one, f"{name}[{place}]")
        if asked.ttl_s > self.settings.max_token_s:
            raise Problem(
                "invalid-request", f"ttl_s: at most {self.settings.max_token_s}", "renew it while connected"
            )
        now_s = self._seconds()
        token = self.mint.make(asked, now_s)
        return Token(token, self.mint.with_udp_key(token), int(now_s + asked.ttl_s))

    # --------------------------------------------------------------------------------------------- allocate

    def allocate(self, call: Call) -> Deferred[Allocated]:
        """Where to go."""
        asked: Allocate = call.query
        token = asked.token or call.token
        if not token:
            raise Problem(
                "bad-token", "there is no token", "send the client's token as Authorization: Bearer TOKEN"
            )
        authenticate: Callable[..., Any] = self._authenticator.authenticate
        checking: Deferred[Identity] = maybeDeferred(authenticate, Hello(token), call.peer)
        return checking.addCallbacks(self._allocated, _refused, (asked,))

    def _allocated(self, identity: Identity, asked: Allocate) -> Allocated:
        places = self._allocation.choose(identity.user, asked.protocol, asked.transport, asked.region)
        if not places:
            raise Problem(
                "unavailable",
                "no node is ready that serves this protocol and transport",
                "ask again after Retry-After; GET /v1/nodes says what nodes serve",
                retry_after_s=NOBODY_READY_S,
            )
        settings = self.settings
        pace = Backoff(settings.backoff_first_s, settings.backoff_max_s, FACTOR, JITTER)
        endpoints = tuple([self._endpoint(place, identity) for place in places])
        return Allocated(endpoints, self.heartbeat_s, pace, identity.expires_at_s)

    def _endpoint(self, place: Place, identity: Identity) -> Endpoint:
        node, served = place
        token = ""
        if self.settings.bind_tokens and self.mint is not None:
            token = self.mint.bound(identity, node.node, self._seconds())
            if served.transport == "udp":
                token = self.mint.with_udp_key(token) or token
        return Endpoint(served.url, served.protocol, served.transport, node.node, node.region, token)


def _refused(failure: Failure) -> Any:
    failure.trap(LoginRefused)
    error: Any = failure.value
    if error.code == CloseCode.UNAVAILABLE:
        raise Problem(
            "unavailable", error.reason, "ask again", retry_after_s=error.retry_after_s or NOBODY_READY_S
        )
    raise Problem("bad-token", error.reason, "get a new token where users log in")
