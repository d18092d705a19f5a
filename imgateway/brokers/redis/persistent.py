"""A connection that is made again whenever it is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.redis.connection import Connection
from imgateway.core.retry import RetryPolicy

__all__ = ("Persistent",)

GREET_S = 5.0
"""A server that takes longer to be ready for us is tried anew."""


class Persistent:
    """The life of a connection; what it is for, subclasses say in `_greet`, `_opened` and `_broken`.

    :param reactor: for ``callLater``.
    :param connect: makes a Connection.
    :param wait: how long until the next try, by the number of tries before.
    """

    log = Logger()

    def __init__(
        self, *, reactor: Any, connect: Callable[[], Awaitable[Connection]], wait: RetryPolicy
    ) -> None:
        self._reactor = reactor
        self._connect = connect
        self._wait = wait
        self._connection: Connection | None = None
        self._trying: Deferred[None] | None = None
        self._timer: Any = None
        self._attempt = 0
        self._stopped = False
        self.is_up = False

    @property
    def tries(self) -> int:
        """How often it was tried since it worked last."""
        return self._attempt

    def start(self) -> None:
        self._try()

    def stop(self) -> None:
        """For good."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._trying is not None:
            self._trying.cancel()
        self.drop(CancelledError())

    def retry_now(self) -> None:
        """Whatever it waited for is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._try()

    def drop(self, why: Exception) -> None:
        """The connection is no good: take a new one."""
        if self._connection is not None:
            self._connection.abort(why)

    # ------------------------------------------------------------------------------------- for the subclasses

    async def _greet(self, connection: Connection) -> None:
        """Make it ready; what it raises ends this try."""

    def _opened(self) -> None:
        """It is ready."""

    def _broken(self, failure: Failure) -> None:
        """It is lost, or could not be made; it will be tried again."""

    # ---------------------------------------------------------------------------------------------- the tries

    def _try(self) -> None:
        self._timer = None
        self._trying = trying = Deferred.fromCoroutine(self._make())
        trying.addErrback(self._failed)

    async def _make(self) -> None:
        connection = await self._connect()
        greeting = Deferred.fromCoroutine(self._greet(connection))
        lost: list[Failure] = []

        def broke(reason: Failure) -> None:
            lost.append(reason)
            greeting.cancel()

        connection.lost = broke
        late = TimeoutError(f"no answer within {GREET_S:g} s")
        deadline = self._reactor.callLater(GREET_S, connection.abort, late)
        try:
            await greeting
        except BaseException:
            connection.lost = _nothing
            connection.abort()
            if lost:
                lost[0].raiseException()
            raise
        finally:
            if deadline.active():
                deadline.cancel()
        self._trying = None
        self._connection = connection
        connection.lost = self._lost
        self.is_up = True
        self._opened()

    def _failed(self, failure: Failure) -> None:
        self._trying = None
        if not self._stopped:
            self._later()
            self._broken(failure)

    def _lost(self, reason: Failure) -> None:
        self._connection = None
        self.is_up = False
        if not self._stopped:
            self._later()
            self._broken(reason)

    def _later(self) -> None:
        self._timer = self._reactor.callLater(self._wait(self._attempt), self._try)
        self._attempt += 1


def _nothing(reason: Failure) -> None:
    pass
