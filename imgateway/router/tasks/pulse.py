"""How the database of push tasks is: the one place that knows, and tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.router.tasks.database import STATEMENT_S, fault_text
from imgateway.router.tasks.store import LeaseLost

__all__ = ("Pulse",)

log = Logger()


class Pulse:
    """All that runs tasks asks the database through it, at least once a second: it can be used if its last
    answer was one, and if no answer is long overdue.

    :param call: runs a method of the store in a thread.
    :param seconds: a clock that does not run backwards.
    :param healthy: told (ok, why) at the first answer, and whenever that changes.
    """

    def __init__(
        self,
        call: Callable[..., Deferred[Any]],
        seconds: Callable[[], float],
        healthy: Callable[[bool, str], None],
    ) -> None:
        self._call = call
        self._seconds = seconds
        self._healthy = healthy
        self._asked: dict[Deferred[Any], float] = {}
        self._fault = ""
        self._told: str | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Ask the database. It never raises: whoever asks waits for its answer, and would do so for ever."""
        called = maybeDeferred(self._call, function, *arguments)
        self._asked[called] = self._seconds()
        return called.addBoth(self._answered, called)

    def _answered(self, result: Any, called: Deferred[Any]) -> Any:
        del self._asked[called]
        is_fault = isinstance(result, Failure) and not result.check(LeaseLost)
        self._tell(fault_text(result.value) if is_fault else "")
        return result

    def look(self) -> None:
        """What is silent tells nothing by itself: to be called every second."""
        self._tell(self._fault)

    def _tell(self, fault: str) -> None:
        self._fault = fault
        late = self._seconds() - STATEMENT_S
        if any(asked <= late for asked in self._asked.values()):
            fault = f"it has not answered for {STATEMENT_S} s"
        if fault == self._told:
            return
        why = f"push tasks: the database cannot be used: {fault}" if fault else ""
        if fault:
            log.warn("push tasks: the database cannot be used: {why}", why=fault)
        elif self._told:
            log.info("push tasks: the database can be used again")
        self._told = fault
        self._healthy(not fault, why)
