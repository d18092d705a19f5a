"""A server that speaks Redis's protocol and does what the test says: for what the installed one cannot do."""

from __future__ import annotations

from collections import deque
from typing import Any

import hiredis
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from imgateway.brokers.redis.scripts import scripts
from tests.brokers.redis_server import Loop


class ScriptedRedis(Factory):
    """Scripts are not run: each call is written down in `calls`, and answered with how many there were.

    `waits` holds the answers to WAITAOF; while there is none, the connection stands still, as Redis's does.
    """

    def __init__(self, loop: Loop, version: str = "7.2.4") -> None:
        self.version = version
        self.calls: list[bytes] = []
        self.waits: deque[list[int] | Exception] = deque()
        self.waited = 0
        self.connections: list[ScriptedConnection] = []
        self._port: Any = loop.listenTCP(0, self, interface="127.0.0.1")
        self.greet = scripts()["greet"].sha
        self.echo = scripts()["echo"].sha

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port.getHost().port}"

    def buildProtocol(self, address: object) -> ScriptedConnection:
        connection = ScriptedConnection()
        connection.factory = self
        self.connections.append(connection)
        return connection

    def answer(self, wait: list[int] | Exception) -> None:
        """The next WAITAOF's answer."""
        self.waits.append(wait)
        for connection in list(self.connections):
            connection.go_on()

    def drop(self) -> None:
        """All connections break."""
        for connection in list(self.connections):
            connection.transport.abortConnection()  # type: ignore[union-attr]

    def stop(self) -> None:
        self._port.stopListening()
        self.drop()


class ScriptedConnection(Protocol):
    factory: ScriptedRedis

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._commands: deque[list[bytes]] = deque()

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._commands.append(command)
        self.go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.remove(self)
        self._commands.clear()

    def go_on(self) -> None:
        while self._commands:
            name, *args = self._commands[0]
            if name == b"WAITAOF" and not self.factory.waits:
                return
            self._commands.popleft()
            self.transport.write(self._reply(name, args))  # type: ignore[union-attr]

    def _reply(self, name: bytes, args: list[bytes]) -> bytes:
        factory = self.factory
        if name == b"INFO":
            text = f"redis_version:{factory.version}\r\nrole:master\r\n"
            return b"$%d\r\n%s\r\n" % (len(text), text.encode())
        if name == b"CONFIG":
            known = {b"maxmemory-policy": b"noeviction", b"appendonly": b"yes", b"appendfsync": b"always"}
            return array([args[1], known[args[1]]])
        if name == b"SCRIPT":
            return array([1] * (len(args) - 1))
        if name == b"SUBSCRIBE":
            return array([b"subscribe", args[0], 1])
        if name == b"WAITAOF":
            factory.waited += 1
            wait = factory.waits.popleft()
            return b"-%s\r\n" % str(wait).encode() if isinstance(wait, Exception) else array(wait)
        assert name == b"EVALSHA", name
        if args[0] == factory.greet:
            return array([7, 9, b"replid", 1_000])
        if args[0] == factory.echo:
            return array([b"replid", 1, 1_000])
        factory.calls.append(args[3])
        return b":%d\r\n" % len(factory.calls)


class KeptOut(Factory):
    """A Redis in protected mode, and we come from another address: all it ever says is this."""

    SAID = (
        "DENIED Redis is running in protected mode because protected mode is enabled and no password is set "
        "for the default user. In this mode connections are only accepted from the loopback interface. If "
        "you want to connect from external computers to Redis you may adopt one of the following solutions: "
        "1) Just disable protected mode sending the command 'CONFIG SET protected-mode no' …"
    )

    def __init__(self, loop: Loop) -> None:
        self._port: Any = loop.listenTCP(0, self, interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port.getHost().port}"

    def buildProtocol(self, address: object) -> Protocol:
        said = b"-%s\r\n" % self.SAID.encode()

        class Connection(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(said)  # type: ignore[union-attr]
                self.transport.loseConnection()  # type: ignore[union-attr]

        return Connection()

    def stop(self) -> None:
        self._port.stopListening()


def array(items: list[Any]) -> bytes:
    parts = [b"*%d\r\n" % len(items)]
    for item in items:
        parts.append(b":%d\r\n" % item if isinstance(item, int) else b"$%d\r\n%s\r\n" % (len(item), item))
    return b"".join(parts)
