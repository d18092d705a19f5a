"""What the reactor asks the reader: in order, many in one job, again after a failure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from imgateway.brokers.health import Fault, Health
from imgateway.brokers.lanes import Lane
from imgateway.brokers.reading import Reader
from imgateway.brokers.schema import fault_text

__all__ = ("Questions",)

# Answers that one turn of the reactor takes.
STEP = 64

Answers = list[tuple[Callable[[Any], None], Any]]


class Questions:
    """A queue of questions to one reader.

    :param path: the database's, for what the operator is told.
    :param answered: called after answers, and after a failure.
    """

    def __init__(
        self, lane: Lane, reader: Reader, path: str, health: Health, answered: Callable[[], None]
    ) -> None:
        self._lane = lane
        self._reader = reader
        self._path = path
        self._health = health
        self._after = answered
        self._waiting: deque[tuple[Callable[[Reader], Any], Callable[[Any], None]]] = deque()
        self._asked = False
        self.retrying = True
        """A question that failed is asked again."""
        self.open = 0

    def ask(self, question: Callable[[Reader], Any], answer: Callable[[Any], None]) -> None:
        self._waiting.append((question, answer))
        self.open += 1
        if not self._asked and "reader" not in self._health:
            self.wake()

    def wake(self) -> None:
        self._asked = True
        self._lane.submit(self._read, self._answered)

    def _read(self) -> tuple[Answers, Fault | None]:
        """In the reader's thread: answer as far as it can be answered. What fails stays the first."""
        self._asked = False
        answers: Answers = []
        waiting = self._waiting
        while waiting and len(answers) < STEP:
            question, answer = waiting[0]
            try:
                answers.append((answer, question(self._reader)))
            except Exception as problem:
                self._reader.drop()
                return answers, Fault(fault_text(problem, self._path))
            waiting.popleft()
        if waiting and not self._asked:
            self.wake()
        return answers, None

    def _answered(self, result: tuple[Answers, Fault | None]) -> None:
        answers, fault = result
        self.open -= len(answers)
        for answer, found in answers:
            answer(found)
        if fault is not None:
            self._health.trouble("reader", fault.why, self.wake if self.retrying else None)
        elif answers:
            self._health.mended("reader")
        self._after()
