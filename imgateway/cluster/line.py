"""The control line: what this process says to others of its cluster, and what it hears from them.

It is best effort, as the broker's `tell` is: a frame arrives once or not at all, and nobody keeps it. So
every question has a deadline, and what must be true in the end is made so elsewhere: by the generation of a
claim, by what a node announces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.cluster.frames import (
    Answer,
    Ask,
    Control,
    Drain,
    Kick,
    Undrain,
    UnknownKind,
    decode_control,
    encode_control,
)
from imgateway.errors import BadFrame, RequestFailed
from imgateway.frames import ResponseCode

__all__ = ("MAX_WAITING", "Line")

log = Logger()

MAX_WAITING = 10_000
"""Questions of this process that wait for their answers; one more is refused with RATE. With bodies of 64 KB
in their answers that is 640 MB at the very worst."""
MAX_UNKNOWN = 100
"""So many kinds of a newer version are told of, each once."""


class Line:
    """Asks other processes and is asked by them.

    :param tell: `IBroker.tell`.
    :param incarnation: this process, where answers go.
    :param asked: ``asked(frame)`` for all that comes but answers.
    """

    def __init__(
        self,
        tell: Callable[[str, bytes], Deferred[bool]],
        incarnation: str,
        reactor: IReactorTime,
        asked: Callable[[Control], object],
    ) -> None:
        self._tell = tell
        self._incarnation = incarnation
        self._reactor: Any = reactor
        self._asked = asked
        self._waiting: dict[int, Deferred[Answer]] = {}
        self._number = 0
        self._stopped = False
        self._unknown: set[str] = set()

    def __len__(self) -> int:
        """Questions that wait for their answers."""
        return len(self._waiting)

    def say(self, incarnation: str, frame: Control) -> Deferred[bool]:
        """Say something to a process. False: nobody there listens."""
        return self._tell(incarnation, encode_control(frame)).addErrback(self._untold)

    def _untold(self, failure: Failure) -> bool:
        log.failure("the control line failed", failure)
        return False

    def ask(
        self, incarnation: str, question: Kick | Ask | Drain | Undrain, deadline_s: float
    ) -> Deferred[Answer]:
        """Ask a process; fires with its answer, whatever code that has.

        :raises RequestFailed: (in the Deferred) GONE: nobody there listens, or this process stops; DEADLINE:
            no answer in time; RATE: too many questions wait already.
        """
        if self._stopped:
            return fail(RequestFailed(ResponseCode.GONE, b"this process stops"))
        if len(self._waiting) >= MAX_WAITING:
            return fail(RequestFailed(ResponseCode.RATE, b"too many unanswered questions to other nodes"))
        self._number += 1
        number = self._number

        def cancelled(answer: object) -> None:
            self._waiting.pop(number, None)

        answer: Deferred[Answer] = Deferred(cancelled)
        self._waiting[number] = answer
        late = self._reactor.callLater(
            max(0.0, deadline_s), self._fail, number, ResponseCode.DEADLINE, b"no answer in time"
        )

        def over(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        answer.addBoth(over)
        telling = self.say(incarnation, replace(question, number=number, reply_to=self._incarnation))
        telling.addCallback(self._told, number)
        return answer

    def _told(self, somebody: bool, number: int) -> None:
        if not somebody:
            self._fail(number, ResponseCode.GONE, b"nobody listens there")

    def _fail(self, number: int, code: int, why: bytes) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.errback(RequestFailed(code, why))

    def heard(self, payload: bytes) -> None:
        """`IBrokerListener.control`: never raises. What cannot be read is logged, and nothing else."""
        try:
            frame = decode_control(payload)
        except UnknownKind as error:
            self._passed_over(str(error))
            return
        except BadFrame as error:
            log.warn("another process says what is no frame: {why}", why=str(error), size=len(payload))
            return
        if not isinstance(frame, Answer):
            try:
                self._asked(frame)
            except Exception:
                log.failure("what another process said could not be done", kind=type(frame).__name__)
            return
        waiting = self._waiting.pop(frame.number, None)
        if waiting is not None:  # else it comes too late
            waiting.callback(frame)

    def _passed_over(self, kind: str) -> None:
        """Once for each kind: a newer node may say it often."""
        if kind not in self._unknown and len(self._unknown) < MAX_UNKNOWN:
            self._unknown.add(kind)
            log.info("another process says {kind}, which this version does not know", kind=kind[:64])

    def stop(self) -> None:
        """Nobody waits any more."""
        self._stopped = True
        for number in tuple(self._waiting):
            self._fail(number, ResponseCode.GONE, b"this process stops")
