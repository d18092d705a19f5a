"""A client of ZooKeeper in this reactor: kazoo's threads on one side, Deferreds and callbacks on the other.

kazoo reconnects by itself and resumes its session where it can. Where it cannot (the server refuses a client
that has seen more than it has, since it lost its data) only a new client helps: after a while without a
connection there is one. A client that has no session yet is given up sooner, for it has none to lose: a
server that is just starting may take a connection and never answer on it, and kazoo would wait there for as
long as a session lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from kazoo.protocol.states import KazooState
from twisted.internet.defer import Deferred, fail

__all__ = ("Keeper", "kazoo_client")

FIRST, GROWTH = 1 / 8, 1.5
"""The part of the patience that a client without a session gets, and how much more the next one gets."""

Connected = Callable[[int], None]


def kazoo_client(hosts: str, session_s: float, logger: logging.Logger) -> Any:
    """A client that never gives up, and tries again within a second."""
    patience = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 1.0}
    return KazooClient(hosts=hosts, timeout=session_s, connection_retry=patience, logger=logger)


class _LastWords(logging.Handler):
    """kazoo says only in its log why it cannot connect."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class Keeper:
    """:param connected: called with the session's id, at first and after each loss.
    :param lost: called with why, once for each loss; also after the start when there is no connection for an
        eighth of `patience_s`, and then ever more rarely.
    :param watched: called with the events of the watches that `ask` sets.
    :param patience_s: how long to wait for a lost connection before there is a new client.
    """

    def __init__(
        self,
        hosts: str,
        session_s: float,
        patience_s: float,
        connected: Connected,
        lost: Callable[[str], None],
        watched: Callable[[Any], None],
        reactor: Any,
        make: Callable[[str, float, logging.Logger], Any] = kazoo_client,
    ) -> None:
        self._hosts = hosts
        self._session_s = session_s
        self._patience_s = patience_s
        self._first_s = patience_s * FIRST
        self._connected = connected
        self._lost = lost
        self._watched = watched
        self._reactor = reactor
        self._make = make
        self._words = _LastWords()
        # Not a child of kazoo's own, nor of the root: what is to be told is told by `lost`.
        self._logger = logging.Logger("kazoo", logging.WARNING)
        self._logger.addHandler(self._words)
        self._client: Any = None
        self._watch: Callable[[Any], None] | None = None
        self._asked: set[Deferred[Any]] = set()
        self._renewal: Any = None
        self.is_connected = False

    def start(self) -> None:
        """Connect, and go on doing so until `stop`."""
        client = self._client = self._make(self._hosts, self._session_s, self._logger)

        def state_changed(state: str) -> None:  # in kazoo's thread
            self._reactor.callFromThread(self._state, client, state, client.client_id)

        def watched(event: Any) -> None:  # in kazoo's thread
            self._reactor.callFromThread(self._event, client, event)

        # One for all of a client's watches: kazoo keeps them in sets, and would call each of several.
        self._watch = watched
        client.add_listener(state_changed)
        client.start_async()
        self._await(self._first_s)

    def ask(self, what: str, *arguments: Any, watch: bool = False, **more: Any) -> Deferred[Any]:
        """The result of the client's method `what` + ``_async``, or its error; ConnectionLoss as soon as the
        connection is lost. `watch`: set one."""
        if not self.is_connected:
            return fail(ConnectionLoss())
        if watch:
            more["watch"] = self._watch
        return self._answer(getattr(self._client, f"{what}_async")(*arguments, **more))

    def replace(self, path: str, data: bytes) -> Deferred[Any]:
        """Delete a znode and make it anew, of this session, in one step; both results, of which each may be
        an exception."""
        if not self.is_connected:
            return fail(ConnectionLoss())
        change = self._client.transaction()
        change.delete(path)
        change.create(path, data, ephemeral=True)
        return self._answer(change.commit_async())

    def _answer(self, result: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self._asked.add(answer)

        def done(result: Any) -> None:  # in kazoo's thread
            self._reactor.callFromThread(finish, result)

        def finish(result: Any) -> None:
            if answer in self._asked:
                self._asked.remove(answer)
                if result.exception is None:
                    answer.callback(result.value)
                else:
                    answer.errback(result.exception)

        result.rawlink(done)
        return answer

    def stop(self) -> Deferred[None]:
        """End the session, if the server can be told; fires when that is done."""
        self._calm()
        self._cut()
        client, self._client = self._client, None
        return self._end(client)

    # ------------------------------------------------------------------------------------------------ states

    def _event(self, client: Any, event: Any) -> None:
        if client is self._client:
            self._watched(event)

    def _state(self, client: Any, state: str, session: tuple[int, bytes] | None) -> None:
        if client is not self._client:
            return
        if state == KazooState.CONNECTED and session is not None:
            self._calm()
            self._first_s = self._patience_s * FIRST
            self.is_connected = True
            self._connected(session[0])
        elif self.is_connected:
            self._cut()
            self._await(self._patience_s)
            self._lost(self._words.text or "the connection was lost")

    def _cut(self) -> None:
        """kazoo keeps what it is asked in between for the next connection, or never answers it."""
        self.is_connected = False
        asked, self._asked = self._asked, set()
        for answer in asked:
            answer.errback(ConnectionLoss())

    def _await(self, patience_s: float) -> None:
        if self._renewal is None:
            self._renewal = self._reactor.callLater(patience_s, self._renew)

    def _renew(self) -> None:
        self._renewal = None
        self._lost(self._words.text or "it does not answer")
        old = self._client
        self._first_s = min(GROWTH * self._first_s, self._patience_s)
        self.start()
        self._end(old)

    def _calm(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()

    def _end(self, client: Any) -> Deferred[None]:
        """It may wait for an answer of the server, so it has a thread, which nothing waits for."""
        ended: Deferred[None] = Deferred()

        def end() -> None:
            try:
                client.stop()
                client.close()
            except Exception as error:
                self._logger.warning("%s", error)  # its thread hangs in a connect, and ends by itself
            finally:
                self._reactor.callFromThread(ended.callback, None)

        Thread(target=end, name="kazoo-stop", daemon=True).start()
        return ended
