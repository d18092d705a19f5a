"""Runs push tasks: takes those whose time has come, some side by side, and clears away those long over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.frames import Outcome
from imgateway.router.tasks.pulse import Pulse
from imgateway.router.tasks.store import Drop, Lease, Store
from imgateway.router.tasks.tenure import Tenure

__all__ = ("Runner",)

log = Logger()

STEP_S = 0.1
CLAIM_S = 1.0
"""How often it is looked for tasks to run, and so how late one may begin."""
SWEEP_S = 600.0
STOP_S = 8.0
"""How long a stopping router waits for the outcomes of what it pushed; the next one pushes the rest again."""


class Runner:
    """Tasks of one store, in this process.

    :param pulse: what the store is asked through.
    :param owner: unique for each start of a process.
    :param clock: an IReactorTime.
    :param window: addresses of one task between pushed and written down.
    :param at_once: tasks that run side by side.
    """

    def __init__(
        self,
        store: Store,
        pulse: Pulse,
        publish: Callable[..., Deferred[tuple[Outcome, ...]]],
        clock: Any,
        *,
        owner: str,
        window: int,
        at_once: int,
        keep_s: int,
    ) -> None:
        self._store = store
        self._pulse = pulse
        self._call = pulse.call
        self._publish = publish
        self._clock = clock
        self._owner = owner
        self._window = window
        self._at_once = at_once
        self._keep_ms = keep_s * 1000
        self.outcomes = Counter({"taken": 0, "refused": 0, "unknown": 0})
        """What this process wrote down, by the names of `ItemState`."""
        self._tenures: dict[int, Tenure] = {}
        self._next: IDelayedCall | None = None
        self._claiming = self._sweeping = False
        self._claim_at = self._sweep_at = 0.0
        self._stopped: Deferred[None] | None = None
        self._limit: IDelayedCall | None = None

    @property
    def running(self) -> int:
        """Tasks that this process runs just now."""
        return len(self._tenures)

    @property
    def unsent(self) -> int:
        """Items of these that have no outcome yet."""
        return sum(tenure.unsent for tenure in self._tenures.values())

    @property
    def on_their_way(self) -> int:
        """Those of them that were pushed."""
        return sum(tenure.on_its_way for tenure in self._tenures.values())

    def start(self) -> None:
        """Begin to look for tasks."""
        self._step()

    def look(self, number: int) -> None:
        """This task is new, or was changed: see to it now."""
        tenure = self._tenures.get(number)
        if tenure is not None:
            tenure.look()
        self._claim_at = 0.0
        if self._next is not None:
            self._next.reset(0)

    def stop(self) -> Deferred[None]:
        """Give the tasks back; fires when what was pushed is written down, or 8 s are over."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._stopped = Deferred()
        stopped = self._stopped
        for tenure in list(self._tenures.values()):
            tenure.leave()
        if not self._tenures and not self._claiming:
            return succeed(None)
        self._limit = self._clock.callLater(STOP_S, self._has_stopped)
        self._step()
        return stopped

    # --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._next = None
        self._pulse.look()
        for tenure in list(self._tenures.values()):
            tenure.step()
        now = self._clock.seconds()
        if self._stopped is None:
            if now >= self._claim_at and not self._claiming and len(self._tenures) < self._at_once:
                self._claim(now)
            if now >= self._sweep_at and not self._sweeping:
                self._sweep()
        elif self._stopped.called:
            return
        # Idle, it wakes to look for tasks and for nothing else.
        self._next = self._clock.callLater(STEP_S if self._tenures else CLAIM_S, self._step)

    def _claim(self, now: float) -> None:
        self._claiming = True
        self._claim_at = now + CLAIM_S
        called = self._call(self._store.claim, self._owner, self._at_once - len(self._tenures))
        called.addCallbacks(self._claimed, self._not_claimed, callbackArgs=(now,))
        called.addErrback(lambda failure: log.failure("push tasks cannot be taken", failure))

    def _claimed(self, leases: list[Lease], since: float) -> None:
        self._claiming = False
        for lease in leases:
            tenure = Tenure(
                lease,
                store=self._store,
                call=self._call,
                publish=self._publish,
                seconds=self._clock.seconds,
                window=self._window,
                since=since,
                outcomes=self.outcomes,
                over=self._over,
            )
            lapsed = self._tenures.get(tenure.number)
            self._tenures[tenure.number] = tenure
            if lapsed is not None:
                lapsed.end()
            if self._stopped is not None:
                tenure.leave()
        if leases and self._next is not None:
            self._next.reset(0)
        self._perhaps_stopped()

    def _not_claimed(self, failure: Failure) -> None:
        self._claiming = False
        self._perhaps_stopped()

    def _over(self, tenure: Tenure) -> None:
        if self._tenures.get(tenure.number) is tenure:
            del self._tenures[tenure.number]
        self._claim_at = 0.0
        self._perhaps_stopped()

    def _perhaps_stopped(self) -> None:
        if self._stopped is not None and not self._tenures and not self._claiming:
            self._has_stopped()

    def _has_stopped(self) -> None:
        for call in (self._next, self._limit):
            if call is not None and call.active():
                call.cancel()
        self._next = self._limit = None
        if self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)

    def _sweep(self) -> None:
        self._sweeping = True
        called = self._call(self._store.sweep, self._keep_ms)
        called.addCallbacks(self._swept, self._not_swept)

    def _swept(self, drop: Drop) -> None:
        self._sweeping = False
        # A little at a time, at once again while there is more.
        self._sweep_at = 0.0 if drop.more else self._clock.seconds() + SWEEP_S

    def _not_swept(self, failure: Failure) -> None:
        self._sweeping = False
        self._sweep_at = self._clock.seconds() + CLAIM_S
