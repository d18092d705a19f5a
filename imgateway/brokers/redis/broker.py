"""The broker on Redis: one face for logs, claims, rings and rooms on all primaries.

What is acknowledged is on a primary's disk; a node keeps nothing that another could miss. Whatever a primary
cannot do just now waits for it, in order.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.brokers.clock import wall_ms
from imgateway.brokers.health import Timers
from imgateway.brokers.redis.entrance import Entrance
from imgateway.brokers.redis.health import Health
from imgateway.brokers.redis.leases import Leases
from imgateway.brokers.redis.logs import Logs
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.rings import RedisRings
from imgateway.brokers.redis.rooms import RedisRooms
from imgateway.brokers.redis.sessions import Sessions
from imgateway.brokers.redis.urls import RedisUrl, parse_urls
from imgateway.config import BrokerSettings, RedisSettings, RetentionSettings, RoomSettings
from imgateway.errors import ConfigError, StoreError
from imgateway.frames import (
    RING_KINDS,
    Address,
    Batch,
    LogKey,
    Message,
    Outcome,
    Position,
    SessionKey,
    address_text,
)
from imgateway.interfaces import Claim, Followed, IBroker, Mailbox, Presence, Publication, Verdict

__all__ = ("RedisBroker", "find_primaries")

UPKEEP_S = 1.0
STOP_S = 15.0
"""What has no answer by then stays unacknowledged, as with a primary that is away."""
NAME_BYTES = 8
RECENT = 10_000
"""Names of control words that are remembered, so that one that was sent again is heard once."""


def find_primaries(
    settings: BrokerSettings, redis: RedisSettings
) -> tuple[tuple[RedisUrl, ...], tuple[RedisUrl, ...]]:
    """Those with logs, and those with rings only. :raises ConfigError: a URL is wrong, or named twice."""
    logs = parse_urls(settings.url)
    rings = parse_urls(",".join(redis.rings), "redis.rings") if redis.rings else ()
    seen = set()
    for url in (*logs, *rings):
        place = (url.hosts, url.sentinel)
        if place in seen:
            raise ConfigError(
                f"broker.url, redis.rings: {url.name} is named twice; each primary is a server of its own"
            )
        seen.add(place)
    return logs, rings


@implementer(IBroker)
class RedisBroker:
    """Everything by keyword.

    :param max_devices: devices that are remembered per user.
    :param reaps: take back what a dead node had, and tell `left` of it. Not for who tells nobody: a router.
    :param reactor: for connections and ``callLater``.
    :param now_ms: wall clock in milliseconds.
    :param entropy: ``n -> n`` random bytes.
    :param random: in [0, 1), for the jitter of retries.
    :param shift_ms: what tests move Redis's time by.
    :raises OperatorError: a URL is wrong.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        settings: BrokerSettings,
        redis: RedisSettings = RedisSettings(),  # noqa: B008 (frozen)
        retention: RetentionSettings = RetentionSettings(),  # noqa: B008
        rooms: RoomSettings = RoomSettings(),  # noqa: B008
        max_devices: int = 16,
        reaps: bool = True,
        now_ms: Callable[[], int] = wall_ms,
        entropy: Callable[[int], bytes] = os.urandom,
        random: Callable[[], float] = random,
        shift_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._urls = find_primaries(settings, redis)
        self.name = ",".join(f"redis:{url.name}" for url in self._urls[0])
        self.dedup_s = redis.dedup_s
        self._reactor = reactor
        self._settings = settings
        self._redis = redis
        self._retention = retention
        self._room_settings = rooms
        self._max_devices = max_devices
        self._reaps = reaps
        self._now_ms = now_ms
        self._entropy = entropy
        self._random = random
        self._shift_ms = shift_ms
        self._timers = Timers(reactor)
        self._recent: OrderedDict[bytes, None] = OrderedDict()
        self._telling: dict[Deferred[Any], Primary] = {}
        self._parting: dict[tuple[SessionKey, int], tuple[int, str]] = {}
        self._listener: Any = None
        self._health: Health
        self._primaries: Primaries
        self._logs: Logs
        self._sessions: Sessions
        self._leases: Leases
        self._rings: RedisRings
        self._entrance: Entrance
        self._rooms: RedisRooms
        self._is_made = False
        self._stopped: Deferred[None] | None = None
        self._is_over = False

    # ---------------------------------------------------------------------------------------- start and stop

    def start(self, listener: Any, incarnation: str) -> Deferred[None]:
        self._listener = listener
        try:
            self._make(incarnation, self._password())
        except StoreError as problem:
            failed: Deferred[None] = Deferred()
            failed.errback(problem)
            return failed
        return self._primaries.start().addCallback(self._begin)

    def _password(self) -> str:
        path = self._redis.password_file
        try:
            return Path(path).read_text().strip() if path else ""
        except (OSError, ValueError) as problem:
            raise StoreError(f"redis.password_file: {path} cannot be read: {problem}") from None

    def _make(self, incarnation: str, password: str) -> None:
        tell, reactor, entropy = self._tell, self._reactor, self._entropy
        logs, rings = self._urls
        self._primaries = primaries = Primaries(
            reactor=reactor,
            urls=logs,
            rings=rings,
            incarnation=incarnation,
            password=password,
            to_replica=self._redis.ack == "replica",
            unsafe=self._redis.unsafe,
            changed=self._changed,
            heard=self._heard,
            renewed=self._renewed,
            entropy=entropy,
            random=self._random,
            shift_ms=self._shift_ms,
        )
        self._health = Health(self._now_ms, partial(tell, "healthy"), primaries.each())
        self._rings = RedisRings(
            primaries=primaries,
            settings=self._room_settings,
            reactor=reactor,
            arrived=partial(tell, "arrived"),
            moved=partial(tell, "moved"),
            now_ms=self._now_ms,
            entropy=entropy,
        )
        self._entrance = Entrance(
            rings=self._rings, settings=self._settings, congested=partial(tell, "congested")
        )
        self._logs = Logs(
            primaries=primaries,
            incarnation=incarnation,
            reactor=reactor,
            tell=self._tell_logs,
            attended=self._listener.attended,
            rings=self._entrance,
            settings=self._settings,
            retention=self._retention,
            dedup_s=self.dedup_s,
            entropy=entropy,
        )
        self._sessions = Sessions(
            primaries=primaries,
            incarnation=incarnation,
            displaced=self._displaced,
            reactor=reactor,
            flush_s=self._settings.flush_positions_s,
            max_devices=self._max_devices,
            entropy=entropy,
        )
        self._rooms = RedisRooms(
            primaries=primaries,
            reactor=reactor,
            entered=partial(tell, "entered"),
            left=partial(tell, "left"),
        )
        self._leases = Leases(
            primaries=primaries,
            incarnation=incarnation,
            reactor=reactor,
            online=self._sessions.online_at,
            regained=self._regained,
            reap=self._reap if self._reaps else None,
        )
        self._is_made = True

    def _begin(self, _: Any) -> None:
        self._leases.start()  # what is asked of a primary comes behind: nobody waits for the lease itself
        self._logs.start()
        self._upkeep()

    def _upkeep(self) -> None:
        self._timers.later("upkeep", UPKEEP_S, self._upkeep)
        self._rings.upkeep()
        self._entrance.relax()

    def give_up(self) -> None:
        if self._is_made:
            self._primaries.stop()

    def stop(self) -> Deferred[None]:
        """What waits for a primary that is away stays unacknowledged."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._timers.cancel_all()
            if not self._is_made:
                self._stopped.callback(None)
                return self._stopped
            self._timers.later("stop", STOP_S, self._end)
            self._rings.stop()
            self._rooms.stop()
            self._sessions.stop().addErrback(self._failed)
            self._logs.stop().addCallback(self._leave).addErrback(self._failed)
        return self._stopped

    def _leave(self, _: Any) -> None:
        self._leases.stop().addErrback(self._failed)
        self._primaries.idle().addCallback(lambda _: self._end())

    def _end(self) -> None:
        self._timers.cancel_all()
        if self._stopped is not None and not self._is_over:
            self._is_over = True  # what waits for the primaries comes here once more
            self._primaries.stop()
            self._stopped.callback(None)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # a call that waited when the broker stopped
            self.log.failure("a call to redis failed", failure)

    # -------------------------------------------------------------------------- what comes from the primaries

    def _changed(self, primary: Primary, up: bool, why: str) -> None:
        if not up:
            # Words to others are for now or never.
            for telling, over in tuple(self._telling.items()):
                if over is primary:
                    telling.cancel()
            for session, generation in tuple(self._parting):
                self._parted(None, session, generation)
        self._sessions.changed(primary)
        self._health.changed(primary, up, why)

    def _heard(self, primary: Primary, item: list[Any]) -> None:
        """A bad hint must not cost the connection."""
        try:
            kind = item[0]
            if kind == b"a" or kind == b"p":
                self._logs.heard(primary, item)
            elif kind == b"r":
                self._rings.heard(primary, item)
            elif kind == b"d":
                self._sessions.heard(primary, item)
            elif kind == b"c":
                self._heard_control(item[1], item[2])
        except Exception:
            self.log.failure("a hint of {primary} failed", primary=primary.name)

    def _heard_control(self, payload: bytes, name: bytes) -> None:
        if name not in self._recent:
            self._recent[name] = None
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            self._tell("control", payload)

    def _renewed(self, primary: Primary) -> None:
        """Hints may have been lost, or its data is another."""
        if primary in self._primaries.each():
            self._logs.renewed(primary)
            self._sessions.renewed(primary)
            self._rooms.renewed(primary)
        if primary in self._primaries.each_ring():
            self._rings.renewed(primary)

    def _regained(self, primary: Primary) -> None:
        """Others may have taken this node for dead; and the server may have forgotten what it watches."""
        if primary in self._primaries.each():
            self._sessions.renewed(primary)
            self._rooms.reclaim(primary)
        if primary in self._primaries.each_ring():
            self._rings.renewed(primary)

    def _reap(self, primary: Primary, dead: str) -> Deferred[bool] | bool:
        return self._rooms.reap(primary, dead) if primary in self._primaries.each() else False

    # ------------------------------------------------------------------------------------------------- logs

    def publish(self, publication: Publication) -> Deferred[tuple[Outcome, ...]]:
        to = publication.to
        if len(to) == 1 and to[0].kind in RING_KINDS and not publication.copy_self:
            return self._entrance.publish_alone(publication, to[0])
        return self._logs.publish(publication)

    def take(
        self, message: Message, address: Address, answer: Callable[..., None], about: tuple[Any, ...]
    ) -> None:
        self._logs.publish(Publication(message, (address,))).addCallback(answer, *about)

    def emit(self, publication: Publication) -> None:
        self._logs.emit(publication)

    def watch(self, log: LogKey) -> Deferred[Position]:
        return self._rings.watch(log) if log.address.kind in RING_KINDS else self._logs.watch(log)

    def watch_now(self, log: LogKey) -> None:
        """Only its primary knows."""

    def unwatch(self, log: LogKey) -> None:
        if log.address.kind in RING_KINDS:
            self._rings.unwatch(log)
        else:
            self._logs.unwatch(log)

    def server(self, log: LogKey) -> Primary:
        if log.address.kind in RING_KINDS:
            return self._primaries.rings_of(address_text(log.address))[0]
        return self._logs.server(log)

    def read(self, log: LogKey, after: int, limit: int, max_bytes: int) -> Deferred[Batch]:
        if log.address.kind in RING_KINDS:
            return self._rings.read(log, after)
        return self._logs.read(log, after, limit, max_bytes)

    def reset_log(self, log: LogKey) -> Deferred[Position]:
        return self._logs.reset_log(log)

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        return self._logs.mailbox(user)

    # --------------------------------------------------------------------------------------------- sessions

    def open_session(self, claim: Claim, answer: Callable[..., None], about: tuple[Any, ...]) -> None:
        self._sessions.open(claim).addBoth(answer, *about)

    def withdraw(self, claim: Claim) -> None:
        self._sessions.withdraw(claim)

    def follow(self, session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Followed]:
        return self._sessions.follow(session, generation, log, begin)

    def unfollow(self, session: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        return self._sessions.unfollow(session, generation, log)

    def advance(
        self,
        session: SessionKey,
        generation: int,
        upto: Sequence[tuple[LogKey, int]],
        parked: Sequence[tuple[LogKey, int]] = (),
    ) -> None:
        self._sessions.advance(session, generation, upto, parked)

    def unpark(self, session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        self._sessions.unpark(session, generation, log, seq)

    def linger(self, session: SessionKey, generation: int) -> None:
        self._sessions.linger(session, generation)

    in_line = False
    """The record may stand at another server than the message."""

    def record(self, session: SessionKey, generation: int, data: bytes) -> Deferred[bool]:
        return self._sessions.record(session, generation, data)

    def renew_session(self, session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Verdict]:
        return self._sessions.renew(session, generation, issued_at_s)

    def close_session(self, session: SessionKey, generation: int, forget: bool = False) -> Deferred[None]:
        # A newer generation that is open here has the rooms; one at another node has those it named there.
        ends = self._sessions.is_open(session, generation) or not self._sessions.has(session)
        closed = self._sessions.close(session, generation, forget)
        if not ends:
            return closed
        left = self._rooms.end(session, generation)
        return closed.addCallback(lambda _: left)

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        return self._sessions.present(user)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        return self._sessions.revoke(user, not_before_s)

    def _displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        """Told once it has left its rooms, or cannot. What it says meanwhile is stale, which is not why it
        must go."""
        parting = session, generation
        if parting in self._parting:
            return
        self._parting[parting] = code, reason
        left = self._rooms.displaced(session, generation, code)
        left.addCallback(self._parted, session, generation)
        left.addErrback(self._failed)

    def _parted(self, _: None, session: SessionKey, generation: int) -> None:
        why = self._parting.pop((session, generation), None)
        if why is not None:
            self._tell("displaced", session, generation, *why)

    # ------------------------------------------------------------------------------------------------ rooms

    def join(
        self, session: SessionKey, generation: int, address: Address, areas: tuple[str, ...] = ()
    ) -> Deferred[None]:
        if self._sessions.is_current(session, generation):
            return self._rooms.join(session, generation, address, areas)
        return succeed(None)

    def leave(self, session: SessionKey, generation: int, address: Address) -> Deferred[None]:
        if self._sessions.is_current(session, generation):
            return self._rooms.leave(session, generation, address)
        return succeed(None)

    def members(self, address: Address) -> Deferred[int]:
        if address.kind == "all":
            # Those of other nodes as these told with their last leases, a few seconds ago.
            return succeed(self._sessions.online + self._leases.others_online())
        return self._rooms.members(address)

    # ------------------------------------------------------------------------------------------- the cluster

    def tell(self, incarnation: str, payload: bytes) -> Deferred[bool]:
        primaries = self._primaries.each() if self._is_made else ()
        return self._tell_over(primaries, incarnation, payload, self._entropy(NAME_BYTES))

    def _tell_over(self, primaries: tuple[Primary, ...], incarnation: str, *word: bytes) -> Deferred[bool]:
        """One after the other, until somebody heard: a node may be cut off from one of them, or just be
        making that connection anew. What it hears twice counts once."""
        up = next((place for place, one in enumerate(primaries) if one.is_up), None)
        if up is None:
            return succeed(False)
        telling: Deferred[Any] = primaries[up].call("tell", incarnation, *word)
        self._telling[telling] = primaries[up]

        def told(result: Any) -> bool | Deferred[bool]:
            self._telling.pop(telling, None)
            # A Failure: away before it answered, and nobody knows whether somebody heard.
            return result == 1 or self._tell_over(primaries[up + 1 :], incarnation, *word)

        return telling.addBoth(told)

    def measure(self, counters: Any) -> None:
        if self._is_made:
            self._logs.measure(counters)
            self._rings.measure(counters)
            self._rooms.measure(counters)
            counters.store_retries = self._health.losses

    def _tell_logs(self, what: str, *values: Any) -> None:
        if what == "congested":
            self._entrance.logs_congested(*values)
        else:
            self._tell(what, *values)

    def _tell(self, what: str, *values: Any) -> None:
        """A listener that raises must not cost others their messages."""
        try:
            getattr(self._listener, what)(*values)
        except Exception:
            self.log.failure("the listener's {what} raised", what=what)
