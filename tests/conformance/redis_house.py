"""The same house on a real Redis: its broker has a reactor of its own, which turns while the store works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from imgateway.brokers.redis import RedisBroker
from imgateway.config import RedisSettings
from tests.brokers.redis_server import Loop, RedisServer
from tests.conformance.house import START_MS, House

__all__ = ("RedisHouse", "TwoServers")


class RedisHouse(House):
    """:param server: which will have nothing but this house's data."""

    def __init__(self, server: RedisServer, *arguments: Any, **more: Any) -> None:
        server.cli("FLUSHALL")
        self._server = server
        self._loop = Loop()
        super().__init__(*arguments, **more)

    def urls(self) -> str:
        return self._server.url

    def make_broker(self, **arguments: Any) -> Any:
        arguments["settings"] = replace(arguments["settings"], url=self.urls())
        return RedisBroker(
            reactor=self._loop,
            redis=RedisSettings(unsafe=True),
            shift_ms=lambda: self.wall_ms() - START_MS,
            **arguments,
        )

    def has_work(self) -> bool:
        """Something is asked, or to be asked now. What was told before was heard with the work before."""
        self._loop.shift_s = self.network.seconds()
        stopped = self.broker._stopped
        if stopped is not None:
            return not stopped.called
        now = self._loop.seconds()
        is_due = any(call.getTime() <= now for call in self._loop.getDelayedCalls())
        return is_due or any(primary.unanswered for primary in self._primaries())

    def work(self) -> None:
        """Every call is answered, and what was told by then is heard."""
        loop, primaries = self._loop, self._primaries()
        loop.iterate(0)
        if self.broker._stopped is not None:
            loop.iterate(0.001)
            return
        loop.until(lambda: all(one.is_up and one.subscription.is_up for one in primaries))
        loop.until(lambda: not any(one.unanswered for one in primaries))
        beats = [(one.subscription, one.subscription.beat()) for one in primaries]
        loop.until(lambda: all(subscription.echoed >= number for subscription, number in beats))

    def _primaries(self) -> Any:
        return self.broker._primaries.all() if self.broker._is_made else ()

    def result(self, deferred: Deferred[Any]) -> Any:
        def fired() -> bool:
            self.settle()
            return deferred.called

        self._loop.until(fired)
        return super().result(deferred)

    def close(self) -> None:
        super().close()
        self._loop.spin(0.01)
        self._loop.close()


class TwoServers(RedisHouse):
    """On two servers, of which the other one may be away: what waits for it is not waited for here.

    :param is_away: it is when the node starts.
    """

    def __init__(
        self, server: RedisServer, other: RedisServer, *arguments: Any, is_away: bool = False, **more: Any
    ) -> None:
        self.other = other
        self.is_away = is_away
        super().__init__(server, *arguments, **more)

    def urls(self) -> str:
        return f"{self._server.url},{self.other.url}"

    def _primaries(self) -> Any:
        return super()._primaries()[:1] if self.is_away else super()._primaries()

    def name(self, text: str, at: int) -> str:
        """A user, or an address, that begins like this, and that the first server has, or the second."""
        primaries = self.broker._primaries
        texts = (f"{text}{n}" for n in range(200))
        return next(text for text in texts if primaries.of(text)[0] is primaries.each()[at])

    def until(self, done: Callable[[], Any]) -> None:
        """For what comes of a server that is not waited for otherwise."""

        def turned() -> Any:
            self.settle()
            return done()

        self._loop.until(turned)

    def stop(self) -> None:
        """To the end, however long that takes by the clocks of the node and of its store."""
        stopped: list[Any] = []
        self.node.stop().addBoth(stopped.append)
        for _ in range(100):
            self.network.advance(0.25)
            self._loop.shift_s = self.network.seconds()
            self._loop.iterate(0)
        assert stopped == [None]
