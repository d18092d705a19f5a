"""The registry in ZooKeeper: each node is an ephemeral znode, which ends with the session of its process.

Watches say that something has changed; what they cannot say (a znode that was deleted by hand, a directory
that is gone) a look every few seconds finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from kazoo.exceptions import ConnectionLoss, KazooException, NoNodeError, SessionExpiredError
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import ConfigError
from imgateway.interfaces import IRegistry, NodeInfo, NodeState
from imgateway.registries.ephemerals import Ephemerals
from imgateway.registries.keeper import Keeper, kazoo_client
from imgateway.registries.known import Known
from imgateway.registries.stored import Reader, write

__all__ = ("SESSION_S", "ZooKeeperRegistry", "parse_zookeeper_url")

SESSION_S = 9.0
PATIENCE_S = 2.0
"""How long a node whose znode is missing stays: it may only be changing its session. ZooKeeper ends a session
up to one of its ticks (2 s by default) late, so a dead node is there for 13 s."""
RENEW_S = 8.0
"""Without a connection for so long there is a new client; then it may be that the server has lost everything,
and the other nodes have the same time to come back to it."""
SPARE_S = RENEW_S + 4.0
LOOK_S = 5.0
CLOSE_S = 2.0
DEFAULT_PATH = "/imgateway"
PREFIX = "zookeeper://"
WANTED = "zookeeper://HOST:PORT,HOST:PORT/PATH"


def parse_zookeeper_url(text: str, setting: str) -> tuple[str, str]:
    """The hosts, as kazoo writes them, and the path under which the nodes stand.

    :raises ConfigError: naming `setting`.
    """
    hosts, _, path = text.removeprefix(PREFIX).partition("/")
    bad = not text.startswith(PREFIX) or "@" in hosts
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        name, port = (name, port) if colon else (host, "2181")
        bad = bad or not name or any(c.isspace() for c in name)
        bad = bad or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536)
        bad = bad or (":" in name and not (name.startswith("[") and name.endswith("]")))
    path = path.strip("/")
    if bad or any(part in ("", ".", "..") for part in (path or "x").split("/")):
        raise ConfigError(f"{setting}: {text!r} is not {WANTED}")
    return hosts, f"/{path}" if path else DEFAULT_PATH


log = Logger()


@implementer(IRegistry)
class ZooKeeperRegistry:
    """One node's, or one router's, registry in one ZooKeeper ensemble.

    :param hosts: ``HOST:PORT,…``. :param path: where the nodes stand; made if absent.
    :param chat_path: where netty-chat's clients look for servers; "": they do not.
    """

    def __init__(
        self,
        hosts: str,
        path: str,
        reactor: Any,
        chat_path: str = "",
        session_s: float = SESSION_S,
        renew_s: float = RENEW_S,
        spare_s: float = SPARE_S,
        patience_s: float = PATIENCE_S,
        close_s: float = CLOSE_S,
        make: Callable[[str, float, logging.Logger], Any] = kazoo_client,
    ) -> None:
        self.name = f"zookeeper {hosts}"
        self._base = f"{path}/nodes"
        self._chat_path = chat_path
        self._reactor = reactor
        self._spare_s = spare_s
        self._close_s = close_s
        self._keeper = Keeper(
            hosts, session_s, renew_s, self._connected, self._lost, self._event, reactor, make
        )
        self._ephemerals = Ephemerals(self._keeper, self._failed)
        self._known = Known(patience_s)
        self._reader = Reader(self.name)
        self._tell: Callable[[Mapping[str, NodeInfo]], None] = lambda nodes: None
        self._healthy: Callable[[bool, str], None] = lambda ok, why: None
        self._why: str | None = None
        self._starting: Deferred[None] | None = None
        self._told: Mapping[str, NodeInfo] | None = None
        self._session = 0
        self._connection = 0
        self._data: dict[str, bytes] = {}
        self._reading: set[str] = set()  # by the last look, and not changed meanwhile
        self._looking = False
        self._look_anew = False
        self._timer: Any = None
        self._stopped = False

    def start(
        self, changed: Callable[[Mapping[str, NodeInfo]], None], healthy: Callable[[bool, str], None]
    ) -> Deferred[None]:
        """Connect; fires once it is known who is there."""
        self._tell, self._healthy = changed, healthy
        starting = self._starting = Deferred()
        self._keeper.start()
        return starting

    def announce(self, info: NodeInfo) -> Deferred[None]:
        """Fires when the znode is there; waits while ZooKeeper is away."""
        wanted = {f"{self._base}/{info.incarnation}": write(info)}
        if self._chat_path and info.state is NodeState.READY:
            wanted |= {f"{self._chat_path}/{place}": place.encode() for place in _chat_places(info)}
        return self._ephemerals.want(wanted)

    def withdraw(self) -> Deferred[None]:
        """Fires when the znode is gone, or ZooKeeper away: then it goes with the next connection, or with the
        session."""
        gone = self._ephemerals.want({})
        return gone if self._keeper.is_connected else succeed(None)

    def stop(self) -> Deferred[None]:
        """Close the session, and with it the znode; does not wait long for a server that does not answer."""
        self._tell, self._healthy = lambda nodes: None, lambda ok, why: None
        self._started()
        self._stopped = True
        self._cancel()
        stopping = self.withdraw().addTimeout(self._close_s, self._reactor).addErrback(_late)
        stopping.addCallback(lambda _: self._keeper.stop().addTimeout(self._close_s, self._reactor))
        return stopping.addErrback(_late)

    # --------------------------------------------------------------------------------------- the connection

    def _connected(self, session: int) -> None:
        if session != self._session:
            # Its znodes are not ours any more, or it is the first. Nor does anybody else have to be back yet.
            self._session = session
            self._known.spare(self._reactor.seconds() + self._spare_s)
            self._ephemerals.forget()
        self._connection += 1
        self._looking = False
        self._data.clear()  # the watches went with the connection
        self._well()
        self._ephemerals.settle()
        self._look()

    def _lost(self, why: str) -> None:
        self._cancel()
        self._ill(f"{self.name} cannot be used: {why}")

    def _well(self) -> None:
        if self._why != "":
            self._why = ""
            self._healthy(True, "")

    def _ill(self, why: str) -> None:
        if self._why != why:
            self._why = why
            self._healthy(False, why)

    def _failed(self, failure: Failure) -> None:
        """What a new connection mends is told by `_lost`; everything else by this, and tried again."""
        if not failure.check(ConnectionLoss, SessionExpiredError):
            if not failure.check(KazooException):
                log.failure("a bug in the registry", failure)
            self._ill(
                f"{self.name} refuses: {type(failure.value).__name__} {failure.getErrorMessage()}".strip()
            )

    # ---------------------------------------------------------------------------------------------- looking

    def _event(self, event: Any) -> None:
        """A watch has fired: it does so once."""
        if event.path is not None and event.path != self._base:
            name = event.path.rpartition("/")[2]
            self._data.pop(name, None)
            self._reading.discard(name)
        self._look()

    def _look(self) -> None:
        if self._stopped or not self._keeper.is_connected:
            return
        if self._looking:
            self._look_anew = True
            return
        self._looking = True
        self._look_anew = False
        self._later(LOOK_S)
        connection = self._connection
        looking = self._keeper.ask("get_children", self._base, watch=True)
        looking.addCallback(self._read_new).addCallback(self._seen)
        looking.addErrback(self._make_base).addErrback(self._failed)
        looking.addCallback(lambda _: self._looked(connection))

    def _make_base(self, failure: Failure) -> Deferred[Any]:
        failure.trap(NoNodeError)
        self._look_anew = True
        return self._keeper.ask("ensure_path", self._base)

    def _read_new(self, names: list[str]) -> Deferred[Any]:
        self._data = {name: data for name, data in self._data.items() if name in names}
        self._reading = {name for name in names if name not in self._data}
        reading = [self._read(name) for name in sorted(self._reading)]
        return DeferredList(reading, fireOnOneErrback=True, consumeErrors=True).addCallbacks(
            lambda _: names, lambda failure: failure.value.subFailure
        )

    def _read(self, name: str) -> Deferred[None]:
        def keep(found: tuple[bytes, Any]) -> None:
            # Events have a thread of their own: if one came first, this is old, and its watch is spent.
            if name in self._reading:
                self._data[name] = found[0]

        def gone(failure: Failure) -> None:
            failure.trap(NoNodeError)

        return self._keeper.ask("get", f"{self._base}/{name}", watch=True).addCallbacks(keep, gone)

    def _seen(self, names: list[str]) -> None:
        now = self._reactor.seconds()
        again = self._known.saw(self._reader.nodes(self._data), now)
        if again is not None:
            self._later(again - now)
        self._ephemerals.check(self._base, names)
        if self._known.nodes != self._told:
            self._told = self._known.nodes
            self._tell(self._told)
        self._started()
        if not self._ephemerals.refused:
            self._well()

    def _looked(self, connection: int) -> None:
        if connection == self._connection:
            self._looking = False
            if self._look_anew:
                self._look()

    def _later(self, seconds: float) -> None:
        if self._stopped:
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._reactor.seconds() + seconds:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(seconds, self._look)

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _started(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.callback(None)


def _chat_places(info: NodeInfo) -> list[str]:
    """``HOST:PORT`` of each address that netty-chat's clients can use."""
    return [
        one.url.partition("://")[2].partition("/")[0]
        for one in info.served
        if one.protocol == "chat" and one.url.startswith("tcp://")
    ]


def _late(failure: Failure) -> None:
    failure.trap(DeferredTimeout)
