"""Notify: somebody wrote. After a random while, which keeps a crowd from asking at once, we pull.

Also where we have everything already, for the gateway waits for that Pull: one that does not come looks to it
like a client that does not care any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from imgateway.client.inbox import Inbox
from imgateway.frames import LogKey, Pull, Told

__all__ = ("Notices",)


class Notices:
    """:param ask: sends a Pull over the link that is up. :param random: 0 ≤ x < 1."""

    def __init__(
        self, reactor: Any, inbox: Inbox, ask: Callable[[Pull], None], random: Callable[[], float]
    ) -> None:
        self._reactor = reactor
        self._inbox = inbox
        self._ask = ask
        self._random = random
        self._waiting: dict[LogKey, Any] = {}

    def down(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for call in set(waiting.values()):
            call.cancel()

    def notified(self, heads: Iterable[Told], spread_ms: int) -> None:
        """Each log is waited for once; what is told of it meanwhile is pulled with it."""
        logs = []
        for told in heads:
            log = LogKey(told.address, told.lane)
            self._inbox.told(log, told.epoch, told.head, told.after)
            if log not in self._waiting:
                logs.append(log)
        if logs:
            seconds = self._random() * spread_ms / 1000
            call = self._reactor.callLater(seconds, self._pull, logs)
            self._waiting.update(dict.fromkeys(logs, call))

    def _pull(self, logs: list[LogKey]) -> None:
        """The first Pull for each, lane 1 before lane 0; the inbox asks on for as long as there is more."""
        for log in sorted(logs, key=lambda log: -log.lane):
            del self._waiting[log]
            pull = self._inbox.catch_up(log)
            if pull is not None:
                self._ask(pull)
