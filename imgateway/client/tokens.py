"""The client's credentials: fetched when there are none, kept while good, renewed before they are not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.logger import Logger

from imgateway.client.reading import as_deferred
from imgateway.core.credentials import bare_token
from imgateway.frames import Renew

__all__ = ("Token", "Tokens")

Token = str | Callable[[], str | Awaitable[str]]

RENEW_AHEAD_S = 60.0
RETRY_S = 10.0


class Tokens:
    """:param source: a token, with its UDP key if it has one, or a function that gets a fresh one (a str, or
    something to await for it)."""

    _log = Logger()

    def __init__(self, reactor: Any, source: Token) -> None:
        self._reactor = reactor
        self._source = source
        self._kept = source if isinstance(source, str) else ""
        self._fresh = self._refused = False
        self._timer: Any = None
        self._asking: Any = None
        self._term = 0  # what fails of an earlier one is not tried again

    async def get(self) -> str:
        """The token for the next Hello; whatever the function raises goes through."""
        if self._kept:
            self._fresh = False
        else:
            self._kept = await self._fetch()
            self._fresh = True
        return self._kept

    def expired(self) -> bool:
        """The gateway says it is over. True: come again, with another."""
        if isinstance(self._source, str):
            return False
        self._kept = ""
        return True

    def refused(self) -> bool:
        """A router does not take it. True: another may do, for this one may have run out. So may one that was
        fetched for this very attempt, while routers were asked that are away; the second in a row has not."""
        if isinstance(self._source, str) or (self._fresh and self._refused):
            return False
        self._refused, self._fresh = self._fresh, False
        return True

    @property
    def just_fetched(self) -> bool:
        """It was fetched for this very attempt: another one will hardly do better."""
        return self._fresh

    def accepted(self, lifetime_s: float, renew: Callable[[Renew], object]) -> None:
        """A login or a renewal went through, good for `lifetime_s` (0: for ever). `renew` sends the frame."""
        self._fresh = self._refused = False
        self.disarm()
        if lifetime_s and not isinstance(self._source, str):
            self._arm(max(0.0, lifetime_s - min(RENEW_AHEAD_S, lifetime_s / 4)), renew)

    def disarm(self) -> None:
        """The link is gone; the next login will see to it."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._term += 1
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _arm(self, seconds: float, renew: Callable[[Renew], object]) -> None:
        self._timer = self._reactor.callLater(seconds, self._renew, renew)

    def _renew(self, renew: Callable[[Renew], object]) -> None:
        asking = self._asking = as_deferred(self._renewal(renew, self._term))
        if asking is not None:
            asking.addBoth(self._asked, asking)

    async def _renewal(self, renew: Callable[[Renew], object], term: int) -> None:
        try:
            token = await self._fetch()
        except Exception:
            if term != self._term:  # cancelled by `disarm`, for which some functions have errors of their own
                return
            self._log.failure("no fresh token; trying again in {seconds} s", seconds=RETRY_S)
            self._arm(RETRY_S, renew)
            return
        self._kept = token
        renew(Renew(bare_token(token)))

    def _asked(self, _: object, asking: object) -> None:
        if self._asking is asking:
            self._asking = None

    async def _fetch(self) -> str:
        if isinstance(self._source, str):
            return self._source
        token = self._source()
        return token if isinstance(token, str) else await token
