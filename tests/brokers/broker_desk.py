"""A whole Redis broker on a real server, turned by hand, as `imgateway.testing.disk.Rig` is for the embedded
one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from typing import Any

from imgateway.brokers.redis import RedisBroker
from imgateway.config import BrokerSettings, RedisSettings
from imgateway.frames import Message, Outcome, SessionKey, parse_address
from imgateway.interfaces import Claim, LoginPolicy, Publication
from imgateway.testing.disk import Recorder
from tests.brokers.redis_server import Loop, RedisServer


class BrokerDesk:
    """One node. Several may share a `loop`; stop the one that made it last."""

    def __init__(
        self,
        *servers: RedisServer,
        rings: Sequence[RedisServer] = (),
        loop: Loop | None = None,
        incarnation: str = "n.1",
        seed: int = 7,
        url: str = "",
        redis: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self.loop = loop or Loop()
        self.owns_loop = loop is None
        self.incarnation = incarnation
        self.shift_ms = 0
        self.listener = Recorder()
        self._is_stopped = False
        random = Random(seed)
        self.broker = RedisBroker(
            reactor=self.loop,
            settings=BrokerSettings(
                url=url or ",".join(server.url for server in servers), **(settings or {})
            ),
            redis=RedisSettings(rings=tuple(server.url for server in rings), **(redis or {})),
            now_ms=lambda: self.wall_ms,
            entropy=random.randbytes,
            random=random.random,
            shift_ms=lambda: self.shift_ms,
            **more,
        )

    @property
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.shift_ms

    @wall_ms.setter
    def wall_ms(self, value: int) -> None:
        self.shift_ms += value - self.wall_ms

    def start(self) -> BrokerDesk:
        self.loop.run(self.broker.start(self.listener, self.incarnation))
        self.run()
        return self

    def run(self) -> None:
        """Every call is answered, and every hint that was published before is heard."""
        loop, primaries = self.loop, self.broker._primaries.all()
        for _ in range(2):
            loop.iterate(0)
            loop.iterate(0)
            loop.until(lambda: all(one.is_up and one.subscription.is_up for one in primaries))
            loop.until(lambda: not any(one.unanswered for one in primaries))
            beats = [(one.subscription, one.subscription.beat()) for one in primaries]
            loop.until(lambda beats=beats: all(one.echoed >= number for one, number in beats))
            loop.until(lambda: not any(one.unanswered for one in primaries))

    def now(self, deferred: Any) -> Any:
        """The result, once everything has run; raises what the Deferred failed with."""
        result = self.loop.run(deferred)
        self._is_stopped = self._is_stopped or self.broker._stopped is not None
        if not self._is_stopped:
            self.run()
        return result

    def later(self, deferred: Any) -> list[Any]:
        """A list that will hold the result."""
        box: list[Any] = []
        deferred.addBoth(box.append)
        return box

    def pass_time(self, seconds: float) -> None:
        """The clocks, ours and the server's, go on by steps of a second at most, and all work is done."""
        while seconds > 0:
            step = min(seconds, 1.0)
            self.shift_ms += int(step * 1000)
            self.loop.shift_s += step
            self.loop.iterate(0)
            seconds -= step
        self.run()

    def publish(
        self,
        *to: str,
        msg_id: str,
        sender: str = "alice",
        device: str = "phone",
        body: bytes = b"hello",
        ttl_s: int = 0,
        **more: Any,
    ) -> list[tuple[Outcome, ...]]:
        sent_ms = self.wall_ms
        expires_ms = sent_ms + ttl_s * 1000 if ttl_s else 0
        message = Message(msg_id, sender, device, "text/plain", body, sent_ms, expires_ms)
        return self.later(self.broker.publish(Publication(message, tuple(map(parse_address, to)), **more)))

    def claim(self, user: str, device: str = "phone", **more: Any) -> Claim:
        return Claim(SessionKey(user, device), **{"policy": LoginPolicy.MANY, **more})

    def stop(self) -> None:
        self.loop.run(self.broker.stop(), 20.0)
        self.loop.spin(0.02)
        self._is_stopped = True
        if self.owns_loop:
            self.loop.close()
