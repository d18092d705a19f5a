"""A registry's server, and watchers of it, for tests of any kind of registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import random
from typing import Any

from twisted.application.internet import backoffPolicy

from imgateway.brokers.redis.urls import parse_urls
from imgateway.interfaces import NodeInfo, Served
from imgateway.registries.memory import Board, MemoryRegistry
from imgateway.registries.redis import Pace, RedisRegistry
from imgateway.registries.zookeeper import ZooKeeperRegistry
from tests.brokers.redis_server import Loop, RedisServer
from tests.registries.zookeeper_server import ZooKeeperServer

RETRY = backoffPolicy(0.025, 0.375, 2.0, jitter=lambda: random() / 8)
"""As `Pace` of a desk a quarter of what it is: it must be shorter than the patience."""


def node(name: str, **fields: Any) -> NodeInfo:
    """One whose fields all differ from the defaults."""
    served = (Served("native", "tcp", f"tls://{name}.example.org:7901"),)
    told = {"served": served, "region": "north", "zone": "a", "weight": 50, "sessions": 7, "started_ms": 123}
    return NodeInfo(name, f"{name}.0000abcd", **{**told, **fields})


class Watcher:
    """Who uses a registry, and all that it was told."""

    def __init__(self, registry: Any, loop: Loop) -> None:
        self.registry = registry
        self.told: list[Mapping[str, NodeInfo]] = []
        self.states: list[tuple[bool, str]] = []
        self._loop = loop
        self.started = False
        self.failure: Any = None
        self._starting: Any = registry.start(
            lambda nodes: self.told.append(dict(nodes)), lambda ok, why: self.states.append((ok, why))
        )
        self._starting.addCallbacks(self._has_started, self._has_failed)

    def _has_started(self, _: object) -> None:
        self.started = True

    def _has_failed(self, failure: Any) -> None:
        self.failure = failure.value

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        return self.told[-1] if self.told else {}

    @property
    def names(self) -> list[str]:
        return sorted(info.node for info in self.nodes.values())

    @property
    def is_well(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    def until(self, done: Callable[[], Any], patience_s: float = 20.0) -> None:
        try:
            self._loop.until(done, patience_s)
        except AssertionError:
            raise AssertionError(f"in vain: {self.names} {self.states[-2:]} {self.failure!r}") from None

    def sees(self, *names: str) -> None:
        """Wait until it knows these nodes and no others."""
        self.until(lambda: self.names == sorted(names))

    def sees_info(self, info: NodeInfo) -> None:
        self.until(lambda: self.nodes.get(info.incarnation) == info)

    def announces(self, info: NodeInfo) -> None:
        self._loop.run(self.registry.announce(info), 20.0)

    def withdraws(self) -> None:
        self._loop.run(self.registry.withdraw(), 20.0)


class Desk:
    """Watchers of one place; `new` makes another one."""

    has_server = True

    def __init__(self) -> None:
        self.loop = Loop()
        self.watchers: list[Watcher] = []

    def make(self) -> Any:
        raise NotImplementedError

    def begin(self) -> Watcher:
        """A watcher that may still be starting."""
        watcher = Watcher(self.make(), self.loop)
        self.watchers.append(watcher)
        return watcher

    def new(self) -> Watcher:
        watcher = self.begin()
        watcher.until(lambda: watcher.started)
        return watcher

    def is_patient(self) -> None:
        """Whom it makes from here on waits long for a node that is missing, however busy the machine is."""

    def is_hasty(self) -> None:
        """Whom it makes from here on soon notices that the server hangs, and may take a busy one for that."""

    def ends(self, watcher: Watcher) -> None:
        self.watchers.remove(watcher)
        self.loop.run(watcher.registry.stop())

    def close(self) -> None:
        for watcher in tuple(self.watchers):
            self.ends(watcher)
        self.loop.iterate(0)  # what is due by now, as the end of a connection that was aborted
        self.loop.waker = None  # kazoo's threads end a moment later
        left = [str(call) for call in self.loop.getDelayedCalls() if call.active()]
        self.loop.close()
        assert not left, left


class MemoryDesk(Desk):
    has_server = False

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()

    def make(self) -> Any:
        return MemoryRegistry(self.board)


class RedisDesk(Desk):
    def __init__(self, folder: Path, count: int = 1, *options: str) -> None:
        super().__init__()
        self.pace = Pace(ttl_s=1.75, refresh_s=0.75, poll_s=0.375, patience_s=1.25)  # about a quarter
        self.line: dict[str, Any] = {"retry": RETRY, "answer_s": 4.0}
        self.servers = [RedisServer(folder / str(n), *options) for n in range(count)]

    @property
    def server(self) -> RedisServer:
        return self.servers[0]

    def make(self, url: str = "", password: str = "", **line: Any) -> Any:
        url = url or ",".join(server.url for server in self.servers)
        return RedisRegistry(parse_urls(url), self.loop, password, self.pace, **{**self.line, **line})

    def is_patient(self) -> None:
        self.pace = self.pace._replace(patience_s=5.0)

    def is_hasty(self) -> None:
        self.line["answer_s"] = 0.75

    def put(self, incarnation: str, data: bytes) -> None:
        self.server.cli("SADD", "ig:registry", incarnation)
        self.server.cli("SET", f"ig:registry:{incarnation}", data)

    def remove(self, incarnation: str) -> None:
        self.server.cli("DEL", f"ig:registry:{incarnation}")

    def empty(self) -> None:
        """The server comes back with nothing."""
        self.server.kill9()
        for file in self.server.folder.rglob("*.aof"):
            file.unlink()
        for file in self.server.folder.rglob("*.manifest"):
            file.unlink()
        for file in self.server.folder.rglob("*.rdb"):
            file.unlink()
        self.server.restart()

    def close(self) -> None:
        try:
            super().close()
        finally:
            for server in self.servers:
                server.stop()


class ZooKeeperDesk(Desk):
    def __init__(self, server: ZooKeeperServer, path: str) -> None:
        super().__init__()
        self.server = server
        self.path = path
        # A quarter of what it is, but for the session: a busy machine must not end it.
        self.pace = {"session_s": 6.0, "renew_s": 2.0, "spare_s": 3.0, "patience_s": 0.5, "close_s": 0.5}

    def make(self, chat_path: str = "", **more: Any) -> Any:
        return ZooKeeperRegistry(self.server.hosts, self.path, self.loop, chat_path, **{**self.pace, **more})

    def is_patient(self) -> None:
        self.pace = {**self.pace, "spare_s": 8.0, "patience_s": 5.0}

    def is_hasty(self) -> None:
        self.pace = {**self.pace, "session_s": 2.5}

    def do(self, what: str, *arguments: Any, **more: Any) -> Any:
        """One command of another client."""
        from kazoo.client import KazooClient

        client = KazooClient(self.server.hosts)
        client.start()
        try:
            return getattr(client, what)(*arguments, **more)
        finally:
            client.stop()
            client.close()

    def put(self, incarnation: str, data: bytes) -> None:
        self.do("create", f"{self.path}/nodes/{incarnation}", data, makepath=True)

    def remove(self, incarnation: str) -> None:
        self.do("delete", f"{self.path}/nodes/{incarnation}")

    def empty(self) -> None:
        """The server comes back with nothing."""
        self.server.kill9()
        self.server.empty()
        self.server.start()
