"""The gate: who may come in, before anybody knows who it is.

Counts connections that have not logged in, per process and per source, paces accepting with a bucket, and
bounds how many tokens are being checked at once. A storm waits in the system's backlog; nobody is refused for
coming in a crowd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from imgateway.config import LimitSettings
from imgateway.core.throttle import TokenBucket
from imgateway.interfaces import IListener
from imgateway.node.link import Link

__all__ = ("Gate",)


class Stranger(Struct, gc=False, eq=False):
    """What is counted of one who has not logged in. `source`: a connection that is lost knows it no more."""

    source: str
    arrived_bytes: int = 0


class Gate:
    """Admission of connections, and of token checks.

    :param listeners: called for the listeners to pause and resume.
    """

    def __init__(
        self,
        limits: LimitSettings,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        listeners: Callable[[], Iterable[IListener]],
    ) -> None:
        self.links: dict[Link, Stranger] = {}
        """Those that have not logged in."""
        self.checking = 0
        self.limits = limits
        self._now = now
        self._arm = arm
        self._listeners = listeners
        self._per_source: dict[str, int] = {}
        self._bucket = TokenBucket(limits.login_rate, limits.login_burst, now())
        # Links that wait for their check. Who leaves is taken out, so there are never more than `waiting`.
        self._checks: dict[Link, Callable[[], None]] = {}
        self._starting = False
        self._shut = False

    @property
    def waiting(self) -> int:
        """How many have not logged in."""
        return len(self.links)

    def admits(self, source: str) -> bool:
        """Whether a connection from `source` ('' is not counted by source) may come in. False: too many wait
        for their login."""
        if len(self.links) >= self.limits.login_pending:
            return False
        return not source or self._per_source.get(source, 0) < self.limits.login_per_source

    def admit(self, link: Link, source: str) -> None:
        """It comes in."""
        self.links[link] = Stranger(source)
        if source:
            self._per_source[source] = self._per_source.get(source, 0) + 1
        wait = self._bucket.charge(1, self._now())
        if wait:
            self._shut_for(wait)

    def arrived(self, link: Link, size: int) -> bool:
        """So many bytes came from one who has not logged in. False: more than may come."""
        stranger = self.links[link]
        stranger.arrived_bytes += size
        return stranger.arrived_bytes <= self.limits.login_bytes

    def release(self, link: Link) -> None:
        """An admitted link has logged in, or is gone; only the first call counts."""
        stranger = self.links.pop(link, None)
        if stranger is None:
            return
        source = stranger.source
        if source:
            left = self._per_source[source] - 1
            if left:
                self._per_source[source] = left
            else:
                del self._per_source[source]

    def _shut_for(self, seconds: float) -> None:
        if not self._shut:
            self._shut = True
            for listener in self._listeners():
                listener.pause()
            self._arm(self._now() + seconds, self._reopen)

    def _reopen(self, now: float) -> None:
        self._shut = False
        wait = self._bucket.charge(0, now)  # more came before the listeners had stopped
        if wait:
            self._shut = True
            self._arm(now + wait, self._reopen)
            return
        for listener in self._listeners():
            listener.resume()

    def check(self, link: Link, start: Callable[[], None]) -> None:
        """Call `start` when fewer than `checks_in_flight` tokens are being checked, unless the link is gone
        by then; it ends with `checked`."""
        if self._checks or self.checking >= self.limits.checks_in_flight:
            self._checks[link] = start
            self._start()
        else:
            self.checking += 1
            start()

    def left(self, link: Link) -> None:
        """It has closed, and waits for no check any more; its connection may take a while to go."""
        self._checks.pop(link, None)

    def checked(self) -> None:
        """One check is over; the next may start."""
        self.checking -= 1
        if self._checks:
            self._start()

    def _start(self) -> None:
        if self._starting:
            return  # a check that was over at once: the loop below goes on
        self._starting = True
        try:
            while self._checks and self.checking < self.limits.checks_in_flight:
                start = self._checks.pop(next(iter(self._checks)))
                self.checking += 1
                start()
        finally:
            self._starting = False

    def set_limits(self, limits: LimitSettings) -> None:
        """Go on with other limits."""
        self.limits = limits
        self._bucket.rate, self._bucket.burst = limits.login_rate, limits.login_burst
