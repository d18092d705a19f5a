"""The znodes that this process wants to have: made, changed and deleted until they are as wanted.

They are ephemeral, of the session of now: one that an earlier session of this process left behind would end
with that, so it is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kazoo.exceptions import NodeExistsError, NoNodeError
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from imgateway.registries.keeper import Keeper

__all__ = ("Ephemerals",)


class Ephemerals:
    """:param failed: told what ended an attempt; the next is made by `settle`."""

    def __init__(self, keeper: Keeper, failed: Callable[[Failure], None]) -> None:
        self._keeper = keeper
        self._failed = failed
        self._wanted: Mapping[str, bytes] = {}
        self._there: dict[str, bytes | None] = {}
        """What this session has made, and what stands in it; None: it has to be looked at."""
        self.refused = False
        """The last attempt failed."""
        self._settling = False
        self._waiting: list[Deferred[None]] = []

    def want(self, wanted: Mapping[str, bytes]) -> Deferred[None]:
        """Have these, by path, and no others. Fires when that is so, or something else is wanted by then."""
        for path in self._wanted:
            # Of an earlier session, perhaps: it has to go as well.
            self._there.setdefault(path, None)
        self._wanted = wanted
        done: Deferred[None] = Deferred()
        self._waiting.append(done)
        self.settle()
        return done

    def forget(self) -> None:
        """There is a new session, which has made nothing yet."""
        self._there = dict.fromkeys(self._there)

    def check(self, directory: str, names: Sequence[str]) -> None:
        """What a look at a directory found: what was deleted by somebody else is made again."""
        for path in self._wanted:
            parent, _, name = path.rpartition("/")
            if parent == directory and name not in names:
                self._there.pop(path, None)
        self.settle()

    def settle(self) -> None:
        """Do what is left to do, if there is a connection."""
        if not self._settling and self._keeper.is_connected:
            self._settling = True
            self._step()

    def _step(self) -> None:
        step = self._next()
        if step is None:
            self._settling = self.refused = False
            waiting, self._waiting = self._waiting, []
            for done in waiting:
                done.callback(None)
            return
        step.addCallbacks(lambda _: self._step(), self._stopped)

    def _stopped(self, failure: Failure) -> None:
        self._settling = False
        self.refused = True
        self._failed(failure)

    def _next(self) -> Deferred[Any] | None:
        for path in self._there:
            if path not in self._wanted:
                return self._delete(path)
        for path, data in self._wanted.items():
            if self._there.get(path) != data:
                return self._put(path, data)
        return None

    def _delete(self, path: str) -> Deferred[Any]:
        def gone(_: object) -> None:
            self._there.pop(path, None)

        def is_gone(failure: Failure) -> None:
            failure.trap(NoNodeError)
            gone(None)

        return self._keeper.ask("delete", path).addCallbacks(gone, is_gone)

    def _put(self, path: str, data: bytes) -> Deferred[Any]:
        if self._there.get(path) is not None:
            putting = self._keeper.ask("set", path, data)
        else:
            putting = self._keeper.ask("create", path, data, ephemeral=True, makepath=True)

        def put(_: object) -> None:
            self._there[path] = data

        def otherwise(failure: Failure) -> Deferred[Any]:
            if failure.check(NodeExistsError):
                return self._replace(path, data)
            failure.trap(NoNodeError)  # somebody deleted it
            self._there[path] = None
            return succeed(None)

        return putting.addCallbacks(put, otherwise)

    def _replace(self, path: str, data: bytes) -> Deferred[Any]:
        """In one step, so that nobody sees it missing. Should it be gone by now, the next step makes it."""

        def replaced(results: Sequence[object]) -> None:
            errors = [result for result in results if isinstance(result, Exception)]
            if not errors:
                self._there[path] = data
            elif not any(isinstance(error, NoNodeError) for error in errors):
                raise errors[0]

        return self._keeper.replace(path, data).addCallback(replaced)
