"""What one node has of the Redis broker, on a real server, turned by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.urls import parse_urls
from tests.brokers.redis_server import Loop, RedisServer

# Writes down what it was called with, once; the answer is its place.
NOTE = """
if redis.call('HSETNX', 'seen', ARGV[2], 0) == 1 then
  redis.call('HSET', 'seen', ARGV[2], redis.call('RPUSH', 'notes', ARGV[2]))
end
return tonumber(redis.call('HGET', 'seen', ARGV[2]))
"""


class RedisDesk:
    """The lines of one node to some servers, and what it hears over them.

    Several desks may share a `loop`; stop the one that made it last. `heard` and `renewed` may be replaced
    before `start`; unless they are, items are kept in `items`, and the primaries in `renewals`.
    """

    def __init__(
        self,
        *servers: RedisServer,
        rings: tuple[RedisServer, ...] = (),
        loop: Loop | None = None,
        incarnation: str = "n.1",
        seed: int = 7,
        path: str = "",
        **more: Any,
    ) -> None:
        self.loop = loop or Loop()
        self.owns_loop = loop is None
        self.incarnation = incarnation
        self.shift_ms = 0
        self.items: list[list[Any]] = []
        self.renewals: list[Any] = []
        self.states: list[tuple[bool, str]] = []
        self.heard: Callable[[Any, list[Any]], None] = lambda primary, item: self.items.append(item)
        self.renewed: Callable[[Any], None] = self.renewals.append
        random = Random(seed)
        self.primaries = Primaries(
            reactor=self.loop,
            urls=parse_urls(",".join(server.url + path for server in servers)),
            rings=parse_urls(",".join(server.url for server in rings)) if rings else (),
            incarnation=incarnation,
            changed=lambda primary, up, why: self.states.append((up, why)),
            entropy=random.randbytes,
            random=random.random,
            shift_ms=lambda: self.shift_ms,
            heard=lambda primary, item: self.heard(primary, item),
            renewed=lambda primary: self.renewed(primary),
            **more,
        )

    @property
    def primary(self) -> Any:
        """The first one."""
        return self.primaries.each()[0]

    @property
    def wall_ms(self) -> int:
        return int(time.time() * 1000) + self.shift_ms

    def start(self) -> RedisDesk:
        """Back when every line is up and every subscription listens."""
        self.loop.run(self.primaries.start())
        self.settle()
        return self

    def run(self, result: Any, patience_s: float = 10.0) -> Any:
        """The result of a Deferred; raises what it failed with, and AssertionError if it does not come."""
        return self.loop.run(result, patience_s)

    def later(self, deferred: Any) -> list[Any]:
        """A list that will hold the result."""
        box: list[Any] = []
        deferred.addBoth(box.append)
        return box

    def settle(self) -> None:
        """Every call is answered, and every hint that was published before is heard."""
        primaries = self.primaries.all()
        self.loop.until(lambda: all(one.is_up and one.subscription.is_up for one in primaries))
        self.loop.until(lambda: not any(one.unanswered for one in primaries))
        beats = [(one.subscription, one.subscription.beat()) for one in primaries]
        self.loop.until(lambda: all(one.echoed >= number for one, number in beats))
        # What came in with the hints may have made calls in its turn.
        self.loop.until(lambda: not any(one.unanswered for one in primaries))

    def hush(self) -> None:
        """No beat by itself from here on: on a busy machine one comes while calls, or beats, are counted."""
        for one in self.primaries.all():
            one._timer.reset(3_600.0)

    def pass_time(self, seconds: float) -> None:
        """Timers fire, and scripts see the time moved."""
        self.shift_ms += int(seconds * 1000)
        self.loop.shift_s += seconds
        self.loop.spin(0.02)

    def stop(self) -> None:
        self.primaries.stop()
        self.loop.spin(0.02)
        if self.owns_loop:
            self.loop.close()


def note(desk: RedisDesk, numbers: range) -> list[list[Any]]:
    return [desk.later(desk.primary.call("note", number)) for number in numbers]


def answered(desk: RedisDesk, boxes: list[list[Any]]) -> list[Any]:
    desk.loop.until(lambda: all(boxes))
    return [box[0] for box in boxes]
