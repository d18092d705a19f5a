"""What the reactor asks the reader: in order, many in one job, again after a failure.

Logins come in crowds, so those that wait are one question together: those of a turn of the reactor, at least.
To be asked each alone would wake two threads for each, which takes longer than all else that is done for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any

from imgateway.brokers.health import Fault, Health
from imgateway.brokers.lanes import Lane
from imgateway.brokers.reading import Found, Reader
from imgateway.brokers.schema import fault_text
from imgateway.frames import LogKey, SessionKey

__all__ = ("Questions",)

# Answers that one turn of the reactor takes.
STEP = 64

Answers = list[tuple[Callable[[Any], None], Any]]


class Questions:
    """A queue of questions to one reader.

    :param path: the database's, for what the operator is told.
    :param answered: called after answers, and after a failure.
    :param soon: calls what it is given when this turn of the reactor is over.
    """

    def __init__(
        self,
        lane: Lane,
        reader: Reader,
        path: str,
        health: Health,
        answered: Callable[[], None],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._lane = lane
        self._reader = reader
        self._path = path
        self._health = health
        self._after = answered
        self._soon = soon
        self._waiting: deque[tuple[Callable[[Reader], Any], Callable[[Any], None]]] = deque()
        self._logins: deque[tuple[SessionKey, Collection[LogKey], Callable[[Found], None]]] = deque()
        self._asked = False
        self.retrying = True
        """A question that failed is asked again."""
        self.open = 0

    def ask(self, question: Callable[[Reader], Any], answer: Callable[[Any], None]) -> None:
        self._waiting.append((question, answer))
        self.open += 1
        if self._may_ask():
            self.wake()

    def ask_login(
        self, session: SessionKey, also: Collection[LogKey], answer: Callable[[Found], None]
    ) -> None:
        """What a login needs; and `also` logs in which the device's first cursor is not on disk yet."""
        self._logins.append((session, also, answer))
        self.open += 1
        if self._may_ask():
            self._asked = True
            self._soon(self.wake)

    def _may_ask(self) -> bool:
        """Whether nobody has asked yet, and a failure is not waited for."""
        return not self._asked and "reader" not in self._health

    def wake(self) -> None:
        self._asked = True
        self._lane.submit(self._read, self._answered)

    def _read(self) -> tuple[Answers, Fault | None]:
        """In the reader's thread: answer as far as it can be answered. What fails stays the first."""
        self._asked = False
        answers: Answers = []
        waiting = self._waiting
        try:
            answers += self._read_logins()
            while waiting and len(answers) < STEP:
                question, answer = waiting[0]
                answers.append((answer, question(self._reader)))
                waiting.popleft()
        except Exception as problem:
            self._reader.drop()
            return answers, Fault(fault_text(problem, self._path))
        if (waiting or self._logins) and not self._asked:
            self.wake()
        return answers, None

    def _read_logins(self) -> Answers:
        # A storm of them leaves room for what others ask; of a copy, for the reactor goes on appending.
        most = STEP // 2 if self._waiting else STEP
        logins = list(islice(self._logins.copy(), most))
        if not logins:
            return []
        found = self._reader.logins([session for session, _, _ in logins])
        answers: Answers = [
            (answer, self._reader.also(one, also) if also else one)
            for (_, also, answer), one in zip(logins, found, strict=True)
        ]
        for _ in logins:
            self._logins.popleft()
        return answers

    def _answered(self, result: tuple[Answers, Fault | None]) -> None:
        answers, fault = result
        self.open -= len(answers)
        if answers and fault is None:
            self._health.mended("reader")  # first: who is answered may ask on
        for answer, found in answers:
            answer(found)
        if fault is not None:
            self._health.trouble("reader", fault.why, self.wake if self.retrying else None)
        self._after()
