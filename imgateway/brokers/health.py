"""What is wrong with the store, lane by lane, when it is tried again, and what the operator is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from imgateway.core.retry import RetryPolicy
from imgateway.errors import StoreBusy

__all__ = ("Fault", "Health", "Timers", "busy")

log = Logger()

BUSY_S = 5.0
# A store that is well now and then, such as on a disk that is nearly full, is in one trouble for the log.
CALM_S = 5


def busy() -> StoreBusy:
    """What is said to who asks for more than may wait."""
    return StoreBusy("too much waits for the store just now", retry_after_s=BUSY_S)


class Fault:
    """A job that did not succeed, and why."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


class Timers:
    """Delayed calls by name; a name has one at a time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: dict[str, Any] = {}

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self.cancel(name)

        def due() -> None:
            del self._calls[name]
            call()

        self._calls[name] = self._reactor.callLater(seconds, due)

    def cancel(self, name: str) -> None:
        call = self._calls.pop(name, None)
        if call is not None:
            call.cancel()

    def cancel_all(self) -> None:
        for name in list(self._calls):
            self.cancel(name)


class Health:
    """Troubles of lanes.

    :param wait: how long until the next try, by the number of tries before.
    :param tell: `IBrokerListener.healthy`; called when what it would say changes.
    """

    def __init__(self, timers: Timers, wait: RetryPolicy, tell: Callable[[bool, str], None]) -> None:
        self._timers = timers
        self._wait = wait
        self._tell = tell
        self._troubles: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._told = ""
        self._logged: set[str] = set()
        """What the log was told of this trouble."""
        self._calm_s = 0

    def __contains__(self, lane: str) -> bool:
        return lane in self._troubles

    def trouble(self, lane: str, why: str, again: Callable[[], None] | None = None) -> None:
        """`again` is called after a wait; None: whoever tells tries again by itself."""
        self._troubles[lane] = why
        self._say()
        if again is not None:
            attempt = self._attempts.get(lane, 0)
            self._attempts[lane] = attempt + 1
            self._timers.later(lane, self._wait(attempt), again)

    def mended(self, lane: str) -> None:
        if lane in self._troubles:
            del self._troubles[lane]
            self._attempts.pop(lane, None)
            self._say()

    def excuse(self, lane: str) -> bool:
        """Let a lane that is in trouble be tried now, without telling anybody. :returns: whether it was."""
        return self._troubles.pop(lane, None) is not None

    def look(self) -> None:
        """Called once a second: whether the log can be told that the store is well again."""
        if self._logged:
            self._calm_s = 0 if self._troubles else self._calm_s + 1
            if self._calm_s >= CALM_S:
                self._logged.clear()
                log.info("the store is well again")

    def _say(self) -> None:
        for why in self._troubles.values():
            self._calm_s = 0
            if why not in self._logged:
                self._logged.add(why)
                log.warn(
                    "the store is not well: {why}; it is tried again until it is well, and needs no restart",
                    why=why,
                )
        why = "; ".join(dict.fromkeys(self._troubles.values()))
        if why != self._told:
            self._told = why
            self._tell(not why, why)
