"""All primaries, and which one has what."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from random import random
from typing import Any
from zlib import crc32

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.urls import RedisUrl
from imgateway.core.retry import backoff

__all__ = ("BUCKETS", "Primaries")

BUCKETS = 1024


class Primaries:
    """Everything by keyword; see `Primary` for what is not said here.

    :param urls: of the primaries with logs and claims.
    :param rings: of those with rings; empty: the same.
    :param random: in [0, 1), for the jitter of retries.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        urls: Sequence[RedisUrl],
        rings: Sequence[RedisUrl] = (),
        incarnation: str,
        password: str = "",
        to_replica: bool = False,
        unsafe: bool = False,
        changed: Callable[[Primary, bool, str], None] = lambda primary, up, why: None,
        heard: Callable[[Primary, list[Any]], None] = lambda primary, item: None,
        renewed: Callable[[Primary], None] = lambda primary: None,
        entropy: Callable[[int], bytes] = os.urandom,
        random: Callable[[], float] = random,
        shift_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.incarnation = incarnation
        self._told = changed
        self._starting: Deferred[None] | None = None
        made = [
            Primary(
                reactor=reactor,
                url=url,
                index=index,
                incarnation=incarnation,
                password=password,
                logs=index < len(urls),
                place=_place(index, len(urls), len(rings)),
                to_replica=to_replica,
                unsafe=unsafe,
                wait=backoff(random, first_s=0.05, max_s=1.0),
                entropy=entropy,
                changed=self._changed,
                heard=heard,
                renewed=renewed,
                shift_ms=shift_ms,
            )
            for index, url in enumerate((*urls, *rings))
        ]
        self._all = tuple(made)
        self._logs = tuple(made[: len(urls)])
        self._rings = tuple(made[len(urls) :]) or self._logs

    def of(self, tag: str) -> tuple[Primary, int]:
        """The primary and the bucket of a user id, or of an address's text."""
        bucket = crc32(tag.encode()) % BUCKETS
        return self._logs[bucket * len(self._logs) // BUCKETS], bucket

    def rings_of(self, tag: str) -> tuple[Primary, int]:
        """The same for a ring."""
        bucket = crc32(tag.encode()) % BUCKETS
        return self._rings[bucket * len(self._rings) // BUCKETS], bucket

    def each(self) -> tuple[Primary, ...]:
        """Those with logs and claims."""
        return self._logs

    def each_ring(self) -> tuple[Primary, ...]:
        """Those with rings."""
        return self._rings

    def all(self) -> tuple[Primary, ...]:
        """Each once."""
        return self._all

    def start(self) -> Deferred[None]:
        """Fires when one of those with logs is there, and each of the others is there or known to be away:
        that is taken in when it comes.

        :raises StoreError: (in the Deferred) one of those that answer will not do.
        """
        starting: Deferred[None] = Deferred()
        self._starting = starting
        for primary in self._all:
            primary.start().addCallbacks(self._look, self._refused)
        return starting

    def _changed(self, primary: Primary, up: bool, why: str) -> None:
        self._told(primary, up, why)
        self._look()

    def _look(self, _: object = None) -> None:
        """Can the start go on?"""
        starting = self._starting
        if (
            starting is not None
            and any(primary.is_ready for primary in self._logs)
            and all(primary.is_ready or primary.is_away for primary in self._all)
        ):
            self._starting = None
            for primary in self._all:
                primary.excuse()
            starting.callback(None)

    def _refused(self, failure: Failure) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            self.stop()
            starting.errback(failure)

    def idle(self) -> Deferred[None]:
        """Fires when every call that writes is answered; those of a primary that is away do not count."""
        return gatherResults([primary.idle() for primary in self._all]).addCallback(_none)

    def stop(self) -> None:
        """Calls that wait for an answer fail with CancelledError."""
        for primary in self._all:
            primary.stop()


def _place(index: int, logs: int, rings: int) -> str:
    """What it is among the primaries: all nodes must mean the same one."""
    if index >= logs:
        return f"primary {index - logs + 1} of {rings} for rings"
    return f"primary {index + 1} of {logs}" + (f", with rings at {rings} others" if rings else "")


def _none(result: object) -> None:
    pass
