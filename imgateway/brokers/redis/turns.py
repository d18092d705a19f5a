"""What one turn of the reactor asks of a primary goes there as one call.

Each such call has a number, under which the script keeps its answer until a later call says that it came: so
a call that is sent again changes nothing more and answers the same. While many calls have no answer, what is
asked waits, and goes in larger ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.primary import Primary

__all__ = ("Turns",)

CALL_ENTRIES = 100
CALL_BYTES = 1 << 20
"""Of one call: a script holds up everybody else."""
MOST_CALLS = 32
"""Calls of a primary under way."""

Answer = Callable[[Any], None]


class _Asked(NamedTuple):
    what: list[Any]
    answer: Answer
    size: int
    changes: bool


class _Queue:
    """Of one primary: what is asked and not sent, and what its script need not remember any more."""

    __slots__ = ("answered", "asked", "bytes", "number", "under_way")

    def __init__(self) -> None:
        self.asked: deque[_Asked] = deque()
        self.bytes = self.number = self.under_way = 0
        self.answered: list[int] = []

    def take(self) -> list[_Asked]:
        """What the next call has room for; at least one."""
        taken = [self.asked.popleft()]
        size = taken[0].size
        while self.asked and len(taken) < CALL_ENTRIES and size + self.asked[0].size <= CALL_BYTES:
            taken.append(self.asked.popleft())
            size += taken[-1].size
        self.bytes -= size
        return taken


class Turns:
    """Everything by keyword.

    :param script: gets node, number and packed [answered, *law, asked].
    :param law: what the script gets besides.
    :param read: ``(primary, reply) → the answer to each``, in their order.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        script: str,
        node: str,
        law: Callable[[], list[Any]] = list,
        read: Callable[[Primary, list[Any]], list[Any]] = lambda primary, reply: reply,
    ) -> None:
        self._reactor = reactor
        self._script = script
        self._node = node
        self._law = law
        self._read = read
        self._queues: dict[Primary, _Queue] = {}
        self._turn: Any = None
        self._stopped = False
        self.waiting = 0
        """Asked and not answered."""
        self.waiting_bytes = 0

    def ask(
        self, primary: Primary, asked: list[Any], answer: Answer, size: int = 0, changes: bool = True
    ) -> None:
        """`answer` is called in the order of the asking; never if the broker stops before.

        :param size: about how many bytes it has.
        :param changes: to ask it again would do it twice, so that its answer must be remembered.
        """
        queue = self._queues.get(primary)
        if queue is None:
            queue = self._queues[primary] = _Queue()
        queue.asked.append(_Asked(asked, answer, size, changes))
        queue.bytes += size
        self.waiting += 1
        self.waiting_bytes += size
        if len(queue.asked) >= CALL_ENTRIES or queue.bytes >= CALL_BYTES:
            self._go(primary, queue)
        self._later()

    def flush(self) -> None:
        """Send what waits for the end of this turn."""
        for primary, queue in self._queues.items():
            self._go(primary, queue)

    def stop(self) -> None:
        """Send everything, and no more after it."""
        for primary, queue in self._queues.items():
            while queue.asked:
                self._send(primary, queue)
        self._stopped = True
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _later(self) -> None:
        if self._turn is None and not self._stopped:
            self._turn = self._reactor.callLater(0, self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._turn = None
        self.flush()

    def _go(self, primary: Primary, queue: _Queue) -> None:
        while queue.asked and queue.under_way < MOST_CALLS and not self._stopped:
            self._send(primary, queue)

    def _send(self, primary: Primary, queue: _Queue) -> None:
        asked = queue.take()
        answered, number = [], 0
        if any(one.changes for one in asked):
            queue.number = number = queue.number + 1
            answered, queue.answered = queue.answered, []
        queue.under_way += 1
        packed = pack([answered, *self._law(), [one.what for one in asked]])
        sent = primary.call(self._script, self._node, number, packed)
        sent.addCallbacks(
            self._replied, self._failed, (primary, queue, number, asked), errbackArgs=(queue, asked)
        )
        sent.addErrback(lambda failure: self.log.failure("a bad answer", failure))

    def _replied(
        self, reply: list[Any], primary: Primary, queue: _Queue, number: int, asked: list[_Asked]
    ) -> None:
        if number:
            queue.answered.append(number)
        self._over(queue, asked)
        for one, value in zip(asked, self._read(primary, reply), strict=True):
            try:
                one.answer(value)
            except Exception:
                self.log.failure("an answer of {script} could not be told", script=self._script)

    def _failed(self, failure: Failure, queue: _Queue, asked: list[_Asked]) -> None:
        self._over(queue, asked)
        if failure.check(CancelledError) is None:
            self.log.failure("{script} failed", failure, script=self._script)

    def _over(self, queue: _Queue, asked: list[_Asked]) -> None:
        queue.under_way -= 1
        self.waiting -= len(asked)
        self.waiting_bytes -= sum(one.size for one in asked)
        if queue.asked:
            self._later()
