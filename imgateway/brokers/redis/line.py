"""A line to a primary: calls in order, over as many connections as it takes.

Many calls are under way at once. When the connection breaks, or the server answers that it cannot just now,
everything without an answer is sent again, in order, on the next good connection. A script that ran already
answers the same again, so nothing is done twice; and no call overtakes one before it: each has a number, and
runs only when the one before it did (see lua/common.lua).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure

from imgateway.brokers.redis.connection import Connection, RedisError
from imgateway.brokers.redis.persistent import Persistent
from imgateway.brokers.redis.scripts import Script
from imgateway.core.retry import RetryPolicy

__all__ = ("Call", "Line", "ReplicaLine")

TRANSIENT = frozenset(
    """
    BUSY CLUSTERDOWN FENCED LOADING MASTERDOWN MISCONF NOAUTH NOPERM NOREPLICAS NOSCRIPT OOM READONLY TRYAGAIN
    UNBLOCKED
    """.split()
)
"""Answers that say: not now. The call is sent again."""
AT_ONCE = frozenset({"FENCED", "NOSCRIPT"})
"""Of these, what a new greeting mends."""

MENDS = 5
"""Once more than this in a row, and the operator is told."""

SILENT_S = 10
"""Calls under way and not one answer for so long: the connection is half-open, or the server hangs. It is
made anew, and the calls are sent again."""
EVERY = 1 << 52
"""More calls than a connection ever has: that some of them did not run is certain."""
REPLICA_MS = 1000
"""How long Redis waits for a replica's disk before it says that there was none; it is asked again."""

Late = Callable[[], tuple[int, ...]]


class Call:
    """One script with its arguments, and those that are made whenever it is sent."""

    __slots__ = ("args", "deferred", "late", "script")

    def __init__(
        self, script: Script, args: tuple[bytes | str | int, ...], late: Late, deferred: Deferred[Any]
    ) -> None:
        self.script = script
        self.args = args
        self.late = late
        self.deferred = deferred


class Line(Persistent):
    """Everything by keyword; see `Persistent` for the others.

    :param greet: ``(connection, number, heard)``: says who we are, loads scripts. `number`: of this
        connection; `heard`: the last one that was greeted, and up to which of the calls that count it is sure
        that they ran on it. Data in which these did not run is not what it was.
    :param state: called with (up, failure or None) when it is ready, when it is lost and after every try.
    :param mark: names this line among all of the primary; empty: its calls only read, and need no order.
    """

    def __init__(
        self,
        *,
        reactor: Any,
        connect: Callable[[], Awaitable[Connection]],
        greet: Callable[[Connection, int, tuple[int, int]], Awaitable[None]],
        wait: RetryPolicy,
        state: Callable[[bool, Failure | None], None],
        mark: str = "",
    ) -> None:
        super().__init__(reactor=reactor, connect=connect, wait=wait)
        self._say_hello = greet
        self._state = state
        self._mark = mark
        self._numbers = count(1)
        self._place = ""
        self._sent = 0  # of the calls that count, on this connection
        self._replies = 0  # to these
        self._heard = (0, 0)
        self._calls: deque[Call] = deque()
        self._answers_seen = True
        self._silent = 0
        self._idle: list[Deferred[None]] = []
        self._said: set[Deferred[Any]] = set()

    def call(self, script: Script, *args: bytes | str | int, late: Late = tuple) -> Deferred[Any]:
        """Fires with the script's answer. `late`: makes the last of its arguments whenever it is sent.

        :raises RedisError: (in the Deferred) the script is wrong; it is logged.
        :raises CancelledError: the line was stopped.
        """
        deferred: Deferred[Any] = Deferred()
        if self._stopped:
            deferred.errback(CancelledError())
            return deferred
        call = Call(script, args, late, deferred)
        self._calls.append(call)
        if self.is_up:
            self._send(call)
        return deferred

    def say(self, script: Script, *args: bytes | str | int) -> Deferred[Any]:
        """The same, but now or never: it is not sent again, and fails with CancelledError when the server is
        away."""
        if not self.is_up:
            return fail(CancelledError())
        said = self.call(script, *args)
        self._said.add(said)

        def over(result: Any) -> Any:
            self._said.discard(said)
            return result

        return said.addBoth(over)

    @property
    def unanswered(self) -> int:
        """Calls under way or waiting."""
        return len(self._calls)

    def idle(self) -> Deferred[None]:
        """Fires when no call is left, or when the server is away."""
        done: Deferred[None] = Deferred()
        self._idle.append(done)
        self._look_idle()
        return done

    def tick(self) -> None:
        """Once a second."""
        if not self.is_up:
            self._forget_cancelled()
        self._silent = self._silent + 1 if self.unanswered and self.is_up and not self._answers_seen else 0
        self._answers_seen = False
        if self._silent >= SILENT_S:
            self._silent = 0
            self.drop(TimeoutError(f"no answer within {SILENT_S} s"))

    def distrust(self) -> None:
        """The data there is older than what was told of it: say so with the next greeting."""
        self._heard = (self._heard[0], EVERY)
        self.drop(ConnectionError("it has less than it had"))

    def stop(self) -> None:
        """Calls without an answer fail with CancelledError."""
        super().stop()
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.deferred.errback(CancelledError())
        self._look_idle()

    # --------------------------------------------------------------------------------------- call and answer

    def _send(self, call: Call) -> None:
        connection = self._connection
        assert connection is not None
        place = ""
        if self._mark:
            before = self._sent
            self._sent += call.script.counts
            place = f"{self._place} {before} {self._sent}"
        connection.send(self._replied, b"EVALSHA", call.script.sha, 0, *call.args, *call.late(), place)

    def _replied(self, reply: Any) -> None:
        self._answers_seen = True
        if type(reply) is RedisError and reply.code in TRANSIENT:
            # What was sent after this call does not run, or runs again: see lua/common.lua.
            self.drop(reply)
            return
        self._attempt = 0
        call = self._calls.popleft()
        self._replies += call.script.counts
        if type(reply) is not RedisError:  # what is refused may never have run
            self._heard = (self._heard[0], self._replies)
        self._settle(call, reply)
        if self._idle:
            self._look_idle()

    def _settle(self, call: Call, reply: Any) -> None:
        if type(reply) is RedisError:
            self.log.error("the script {name} failed: {why}", name=call.script.name, why=str(reply))
            call.deferred.errback(reply)
        else:
            call.deferred.callback(reply)

    def _look_idle(self) -> None:
        if self.unanswered == 0 or not self.is_up:
            waiting, self._idle = self._idle, []
            for one in waiting:
                one.callback(None)

    # ------------------------------------------------------------------------------------------- connections

    async def _greet(self, connection: Connection) -> None:
        number = next(self._numbers)
        await self._say_hello(connection, number, self._heard)
        self._place, self._heard = f"{self._mark} {number}", (number, 0)
        self._sent = self._replies = 0

    def _opened(self) -> None:
        self._answers_seen = True
        if not self._calls:
            self._attempt = 0
        self._forget_cancelled()
        for call in self._calls:
            self._send(call)
        self._state(True, None)

    def _forget_cancelled(self) -> None:
        """They are not sent, or not again. To be called while nothing is under way."""
        self._calls = deque(call for call in self._calls if not call.deferred.called)

    def _broken(self, failure: Failure) -> None:
        for said in tuple(self._said):
            said.cancel()
        self._look_idle()
        why = failure.value
        if isinstance(why, RedisError) and why.code in AT_ONCE and self._attempt <= MENDS:
            self.retry_now()
        else:
            self._state(False, failure)


class ReplicaLine(Line):
    """A line whose answers count once a replica has on its disk what they tell.

    One WAITAOF at the end of a reactor turn covers every call before it.

    :param lagging: called with True when no replica had it in time, with False when one has.
    """

    def __init__(self, *, lagging: Callable[[bool], None], **more: Any) -> None:
        super().__init__(**more)
        self._lagging = lagging
        self._lags = False
        self._answered: deque[tuple[Call, Any]] = deque()
        self._due: Any = None
        self._asked: deque[int] = deque()  # how many calls each WAITAOF under way covers, beyond those before
        self._uncovered = 0

    @property
    def unanswered(self) -> int:
        return len(self._calls) + len(self._answered)

    def _send(self, call: Call) -> None:
        super()._send(call)
        self._uncovered += 1
        if self._due is None:
            self._due = self._reactor.callLater(0, self._ask)

    def _ask(self) -> None:
        self._due = None
        if self._connection is not None:
            self._asked.append(self._uncovered)
            self._uncovered = 0
            self._connection.send(self._told, b"WAITAOF", 1, 1, REPLICA_MS)

    def _settle(self, call: Call, reply: Any) -> None:
        self._answered.append((call, reply))

    def _told(self, reply: Any) -> None:
        self._answers_seen = True
        if type(reply) is RedisError:
            self.drop(reply)
            return
        covered = self._asked.popleft()
        has_it = reply[0] >= 1 and reply[1] >= 1
        if has_it == self._lags:
            self._lags = not has_it
            self._lagging(self._lags)
        if has_it:
            # Whoever hears of one may drop this connection: the others are done all the same.
            done = [self._answered.popleft() for _ in range(covered)]
            for call, answer in done:
                super()._settle(call, answer)
            self._look_idle()
        elif self._asked:
            self._asked[0] += covered
        else:
            self._uncovered += covered
            if self._due is None:
                self._ask()

    def _broken(self, failure: Failure) -> None:
        # Nothing is known of what replicas have: all of it runs again, and answers the same.
        self._calls.extendleft(call for call, _ in reversed(self._answered))
        self._answered.clear()
        self._asked.clear()
        self._uncovered = 0
        if self._due is not None:
            self._due.cancel()
            self._due = None
        super()._broken(failure)

    def stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._calls.extendleft(call for call, _ in reversed(self._answered))
        self._answered.clear()
        super().stop()
