"""Which primaries are not well, since when, and what the operator is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from imgateway.brokers.redis.primary import Primary

__all__ = ("Health",)


class Health:
    """:param now_ms: the wall clock. :param tell: `IBrokerListener.healthy`; called when what it would say
    changes.
    :param logs: those that have the logs: as long as one of them is well, the node has somebody to serve.
    """

    log = Logger()

    def __init__(
        self, now_ms: Callable[[], int], tell: Callable[[bool, str], None], logs: Sequence[Primary]
    ) -> None:
        self._now_ms = now_ms
        self._tell = tell
        self._logs = logs
        self._since: dict[Primary, int] = {}
        self._whys: dict[Primary, str] = {}
        self._said = ""
        self.losses = 0
        """How often one went away."""

    def changed(self, primary: Primary, up: bool, why: str) -> None:
        """A primary is well again, or not any more."""
        if up:
            if self._since.pop(primary, None) is not None:
                self.log.info("redis {name} is well again", name=primary.name)
            self._whys.pop(primary, None)
        else:
            if primary not in self._since:
                self.losses += 1
                self.log.warn("redis {name} is not well: {why}", name=primary.name, why=why)
            self._since.setdefault(primary, self._now_ms())
            self._whys[primary] = why
        text = "; ".join(self._text(primary) for primary in self._since)
        if text != self._said:
            self._said = text
            self._tell(any(primary not in self._since for primary in self._logs), text)

    def _text(self, primary: Primary) -> str:
        since = time.strftime("%H:%M:%S UTC", time.gmtime(self._since[primary] / 1000))
        return f"redis {primary.name} {self._whys[primary]} (since {since})"
