"""The registry in Redis: a key for each node that ends with it, and a set of their names.

A node writes its key every few seconds with a short life; everybody reads all of them every few seconds,
which is the truth. A message on a channel only says "look now", or that a node leaves. A key that is missing
is not at once a dead node: a server that lost its data has it again as soon as the node writes the next time.

With several servers a node is in all of them, and lives when any one that can be reached says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import ConfigError, OperatorError
from imgateway.interfaces import IRegistry, NodeInfo
from imgateway.registries.known import Known
from imgateway.registries.redis_line import RedisLine, Target
from imgateway.registries.stored import Reader, write

__all__ = ("Pace", "RedisRegistry")


class Pace(NamedTuple):
    """How often what is done, in seconds.

    A dead node is still there for up to 14 s: `ttl_s`, a look within `poll_s`, and the first look that comes
    `patience_s` after that.
    """

    ttl_s: float = 7.0
    """The life of a node's key."""
    refresh_s: float = 3.0
    poll_s: float = 1.5
    patience_s: float = 4.0
    """How long a node that is missing stays: more than a refresh."""


HINT_S = 0.2
"""Hints that come together are one look."""

NAMES = "ig:registry"
CHANNEL = "ig:registry"


def key_of(incarnation: str) -> str:
    """Where a node stands."""
    return f"ig:registry:{incarnation}"


class Server:
    """One Redis, and what it says.

    :param changed: called when `nodes`, `live` or `why` may have changed.
    """

    def __init__(
        self,
        target: Target,
        password: str,
        changed: Callable[[], None],
        reactor: Any,
        pace: Pace,
        **line: Any,
    ) -> None:
        self.why: OperatorError | None = OperatorError(f"redis {target.name} was not reached yet")
        self.live = False
        """It answers, and its nodes count."""
        self._changed = changed
        self._reactor = reactor
        self._pace = pace
        self._known = Known(pace.patience_s)
        self._reader = Reader(f"redis {target.name}")
        self._line = RedisLine(target, password, CHANNEL, self._up, self._down, self._heard, reactor, **line)
        self._info: NodeInfo | None = None
        self._written: NodeInfo | None = None
        self._timers: dict[Callable[[], None], Any] = {}
        self._looking = False
        self._look_anew = False
        self._left_meanwhile = False
        """Somebody left while it was read: what comes may still have it."""
        self._stopped = False
        self._waiting: list[Deferred[None]] = []

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        return self._known.nodes

    def start(self) -> None:
        self._line.start()

    def stop(self) -> Deferred[None]:
        """Not withdrawn before: then the key's end is the node's."""
        self._stopped = True
        self._quiet()
        return self._line.stop()

    # ------------------------------------------------------------------------------------------- this node

    def announce(self, info: NodeInfo) -> Deferred[None]:
        """Fires when it stands there, or another is to stand in its place; waits while the server is away."""
        self._info = info
        self._settle()  # else they would gather while this server is away and others have them
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        if not self.why:
            self._write()
        return done

    def withdraw(self) -> Deferred[None]:
        """Fires once the server knows it, or is away: then the key ends by itself."""
        info, self._info, self._written = self._info, None, None
        self._cancel(self._write)
        self._settle()
        if info is None or self.why:
            return succeed(None)
        name = info.incarnation
        self._line.ask("DEL", key_of(name)).addErrback(_told)
        self._line.ask("SREM", NAMES, name).addErrback(_told)
        return self._line.ask("PUBLISH", CHANNEL, f"-{name}").addBoth(lambda _: None)

    def _write(self) -> None:
        info = self._info
        if info is None:
            return
        self._later(self._pace.refresh_s, self._write)
        name = info.incarnation
        before, self._written = self._written, info
        asking = [
            self._line.ask("SADD", NAMES, name),
            self._line.ask("SET", key_of(name), write(info), "PX", str(round(self._pace.ttl_s * 1000))),
        ]
        if before is None or _but_sessions(before) != _but_sessions(info):
            asking.append(self._line.ask("PUBLISH", CHANNEL, f"+{name}"))
        gatherResults(asking, consumeErrors=True).addCallbacks(lambda _: self._settle(), _told)

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)

    # -------------------------------------------------------------------------------------------- all nodes

    def _look(self) -> None:
        if self._looking:
            self._look_anew = True
            return
        self._looking = True
        self._look_anew = self._left_meanwhile = False
        self._later(self._pace.poll_s, self._look)
        self._line.ask("SMEMBERS", NAMES).addCallback(self._read).addCallbacks(self._seen, _told).addBoth(
            self._looked
        )

    def _read(self, names: Sequence[bytes]) -> Deferred[dict[str, bytes]] | dict[str, bytes]:
        # A name that is no text is nobody's of ours.
        incarnations = [name.decode() for name in sorted(names) if _is_text(name)]
        if not incarnations:
            return {}

        def found(values: Sequence[bytes | None]) -> dict[str, bytes]:
            self._forget([name for name, value in zip(incarnations, values, strict=True) if value is None])
            return {
                name: value for name, value in zip(incarnations, values, strict=True) if value is not None
            }

        return self._line.ask("MGET", *map(key_of, incarnations)).addCallback(found)

    def _forget(self, names: Sequence[str]) -> None:
        """Take the names of the dead out of the set, once they are no longer known; one that comes back puts
        itself in again."""
        dead = [name for name in names if name not in self._known.nodes]
        if dead:
            self._line.ask("SREM", NAMES, *dead).addErrback(_told)

    def _seen(self, stored: dict[str, bytes]) -> None:
        if self._left_meanwhile:
            return
        self._known.saw(self._reader.nodes(stored), self._reactor.seconds())
        self.live = True
        self._changed()

    def _looked(self, _: object) -> None:
        self._looking = False
        if self._look_anew and not self.why and not self._stopped:
            self._look()

    def _heard(self, message: bytes) -> None:
        if message[:1] == b"-" and _is_text(message):
            self._known.leaves(message[1:].decode())
            if self._looking:
                self._look_anew = self._left_meanwhile = True
            self._changed()
        else:
            self._later(HINT_S, self._look)

    # ------------------------------------------------------------------------------------------- its state

    def _up(self) -> None:
        self.why = None
        self._written = None
        self._known.spare(self._reactor.seconds() + self._pace.patience_s)
        self._write()
        self._look()
        self._changed()

    def _down(self, why: OperatorError) -> None:
        self.why = why
        self.live = False
        self._quiet()
        self._changed()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """One timer for each call; the earlier of two stays."""
        if self._stopped:
            return
        timer = self._timers.get(call)
        if timer is not None and timer.active():
            if timer.getTime() <= self._reactor.seconds() + seconds:
                return
            timer.cancel()
        self._timers[call] = self._reactor.callLater(seconds, call)

    def _cancel(self, call: Callable[[], None]) -> None:
        timer = self._timers.pop(call, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _quiet(self) -> None:
        for call in tuple(self._timers):
            self._cancel(call)


@implementer(IRegistry)
class RedisRegistry:
    """One node's, or one router's, registry in one or several Redis.

    :param password: where a URL has none. :param line: for `RedisLine`.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        reactor: Any,
        password: str = "",
        pace: Pace = Pace(),  # noqa: B008 (a value)
        **line: Any,
    ) -> None:
        self.name = "redis " + ", ".join(target.name for target in targets)
        self._servers = [Server(target, password, self._changes, reactor, pace, **line) for target in targets]
        self._tell: Callable[[Mapping[str, NodeInfo]], None] = lambda nodes: None
        self._healthy: Callable[[bool, str], None] = lambda ok, why: None
        self._nodes: Mapping[str, NodeInfo] | None = None
        self._why: str | None = None
        self._starting: Deferred[None] | None = None

    def start(
        self, changed: Callable[[Mapping[str, NodeInfo]], None], healthy: Callable[[bool, str], None]
    ) -> Deferred[None]:
        """Connect; fires once a server has said who is there.

        :raises ConfigError: (in the Deferred) Redis refuses the password or the database.
        """
        self._tell, self._healthy = changed, healthy
        starting = self._starting = Deferred()
        for server in self._servers:
            server.start()
        return starting

    def announce(self, info: NodeInfo) -> Deferred[None]:
        """Fires when one server has it."""
        said = [server.announce(info) for server in self._servers]
        return DeferredList(said, fireOnOneCallback=True).addCallback(lambda _: None)

    def withdraw(self) -> Deferred[None]:
        """Take the node out of all servers that can be reached; in the others it ends by itself."""
        return DeferredList([server.withdraw() for server in self._servers]).addCallback(lambda _: None)

    def stop(self) -> Deferred[None]:
        """Withdraw, and close the connections."""
        self._tell, self._healthy = lambda nodes: None, lambda ok, why: None
        self._started(None)

        def close(_: object) -> Deferred[Any]:
            return DeferredList([server.stop() for server in self._servers])

        return self.withdraw().addCallback(close).addCallback(lambda _: None)

    def _changes(self) -> None:
        troubles = [server.why for server in self._servers if server.why]
        why = "; ".join(map(str, troubles))
        if why != self._why:
            self._why = why
            self._healthy(not why, why)
        live = [server for server in self._servers if server.live]
        if live:
            nodes: dict[str, NodeInfo] = {}
            for server in reversed(live):  # the first one's word counts
                nodes |= server.nodes
            if nodes != self._nodes:
                self._nodes = nodes
                self._tell(nodes)
            self._started(None)
        elif len(troubles) == len(self._servers):
            wrong = [error for error in troubles if isinstance(error, ConfigError)]
            if wrong:
                self._started(Failure(wrong[0]))

    def _started(self, result: Failure | None) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.callback(result)  # a Failure makes it fail


def _but_sessions(info: NodeInfo) -> tuple[object, ...]:
    """What others shall learn at once; the rest can wait for their next look."""
    return (info.state, info.served, info.orders, info.region, info.zone, info.weight)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _told(failure: Failure) -> None:
    """The line has told it already: the connection was dropped for it."""
