"""Where the next attempt goes, and what to log in with there: as the application, a router or a Bye said.

The places are tried in their order, a place that was good again first. Once all have failed they are tried
anew, or a router is asked for others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger

from imgateway.client.adapters import Dial, alternatives
from imgateway.client.link import Ended
from imgateway.client.router import RouterAway, RouterRefused, Routing
from imgateway.client.tokens import Tokens
from imgateway.core.credentials import Credentials, credentials_for
from imgateway.errors import CloseCode, LinkLost

__all__ = ("Course",)

# A token that was good for one place may be good no more: it ran out, the secret or the node's name changed.
NOT_TAKEN = (CloseCode.TOKEN_EXPIRED, CloseCode.BAD_TOKEN)

MOST = 32
"""Places of one Bye, and beside our own those that are kept from one to the next."""

Wait = Callable[[Deferred[Any]], Awaitable[Any]]


class Course:
    """:param wait_for: waits for something that the end of the client cancels."""

    _log = Logger()

    def __init__(self, dial: Dial, tokens: Tokens, wait_for: Wait) -> None:
        self._dial = dial
        self._tokens = tokens
        self._wait_for = wait_for
        self._places = [] if dial.router is not None else list(dial.own)
        self._next = 0
        self._asked = False  # a router was, for this attempt, and has answered
        self._at = ""
        self.bound = ""
        """The token for this place alone, if it has one."""

    def __len__(self) -> int:
        """Places that are known."""
        return len(self._places)

    async def find(self, token: str) -> Ended | None:
        """Begin an attempt. What is returned is one that failed: no router says where to go."""
        self.bound, self._asked = "", False
        router = self._dial.router
        if router is None or self._next < len(self._places):
            return None
        return await self._ask(router, token)

    def take(self, token: str) -> tuple[str, Credentials]:
        """The place of this attempt.

        :raises ConnectRefused: the token does not do there; trying again does not help.
        """
        url = self._at = self._places[self._next % len(self._places)]
        self.bound = self._dial.tokens.get(url, "")
        return url, credentials_for(url, self.bound or token)

    def welcomed(self) -> None:
        """The place of this attempt was a good one."""
        self._asked = False

    def failed(self) -> None:
        """The place of this attempt was none."""
        self._next += 1

    def ended(self, ended: Ended) -> bool:
        """A link ended, which may have said where to go. True: a router has to give another token for this
        place, at once."""
        dial = self._dial
        own = dial.own if dial.router is None else self._places
        told = ended.endpoints[:MOST]
        places = alternatives(told, own, dial.must_encrypt) if told else own
        if dial.router is not None and (dial.tokens or set(places) == set(own)) and 100 <= ended.code < 200:
            # It is sent away, and the router knows where to, or what to log in with there; if none answers,
            # to those of the told that are known.
            self._places = [url for url in places if url in own]
            self._next = len(self._places)
        elif told:
            self._places, self._next = places[:MOST] if own is self._places else places, 0
        if ended.code not in NOT_TAKEN or not self.bound or self._asked:
            return False
        # Until a router names it again, with another token: else, with all routers away, the same refusal
        # would be the last word.
        self._places = [url for url in self._places if url != self._at]
        self._next = len(self._places)
        dial.tokens.pop(self._at, None)
        return True

    async def _ask(self, router: Routing, token: str) -> Ended | None:
        dial = self._dial
        try:
            found = await self._wait_for(ensureDeferred(router.allocate(token)))
        except RouterRefused as error:
            another = not error.forbidden and self._tokens.refused()
            refused = CloseCode.FORBIDDEN if error.forbidden else CloseCode.BAD_TOKEN
            return Ended(CloseCode.TOKEN_EXPIRED if another else refused, str(error))
        except (RouterAway, LinkLost) as error:
            places = self._places or dial.own
            if error.retry_after_s or not places:
                code = CloseCode.UNAVAILABLE if error.retry_after_s else CloseCode.LOST
                return Ended(code, str(error), error.retry_after_s)
            self._log.warn("{why}; going on with the places that are known", why=str(error))
            self._places, self._next = places, 0
            return None
        self._asked = True
        self._places, self._next = dial.allocated(found, "~" in token), 0
        if not self._places:
            return Ended(CloseCode.LOST, "the router named only places where this client does not go")
        return None
