"""One connection to a Redis server: commands out, replies in, in order.

`hiredis` cuts and joins: half of what a client library costs, and a node does little else with Redis.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

__all__ = ("Connection", "RedisError", "Reply")

Reply = Any
Answer = Callable[[Any], None]


class RedisError(Exception):
    """Redis said ``-CODE text``."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Connection(Protocol):
    """`lost(reason)` is called once, when it is gone; what was sent and then has no answer gets none."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=RedisError, protocolError=RedisError)
        self._answers: deque[Answer] = deque()
        self._asked: set[Deferred[Reply]] = set()
        self.pushed: Answer | None = None
        """Takes everything that comes, once the connection is subscribed."""
        self.lost: Callable[[Failure], None] = lambda reason: None
        self.is_connected = False
        self.address = ""
        """Where it goes, for `lua/greet.lua`."""

    def connectionMade(self) -> None:
        self.is_connected = True
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
            self.transport.setTcpKeepAlive(True)  # type: ignore[union-attr]

    def send(self, answer: Answer, *command: bytes | str | int) -> None:
        """`answer` gets the reply; an error of Redis as a RedisError, not raised."""
        self._answers.append(answer)
        transport: ITransport = self.transport  # type: ignore[assignment]
        transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # any number of them

    def ask(self, *command: bytes | str | int) -> Deferred[Reply]:
        """:raises RedisError: (in the Deferred) what Redis said. :raises Exception: why the connection was
        lost."""
        deferred: Deferred[Reply] = Deferred()
        self._asked.add(deferred)

        def answer(reply: Reply) -> None:
            self._asked.discard(deferred)
            if isinstance(reply, RedisError):
                deferred.errback(reply)
            else:
                deferred.callback(reply)

        self.send(answer, *command)
        return deferred

    def dataReceived(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        answers = self._answers
        try:
            while self.is_connected and (reply := reader.gets()) is not False:
                if self.pushed is not None:
                    self.pushed(reply)
                elif answers:
                    answers.popleft()(reply)
                else:
                    raise RedisError("PROTOCOL a reply to nothing")
        except RedisError as problem:
            self.abort(problem)

    def abort(self, why: Exception | None = None) -> None:
        """Drop it now."""
        if self.is_connected:
            self.transport.abortConnection()  # type: ignore[union-attr]
            self._gone(Failure(why) if why is not None else connectionDone)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.is_connected:
            self._gone(reason)

    def _gone(self, reason: Failure) -> None:
        self.is_connected = False
        asked, self._asked = self._asked, set()
        for deferred in asked:
            deferred.errback(reason)
        self.lost(reason)
