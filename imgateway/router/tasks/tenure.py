"""One router's turn at one task: it reads what has no outcome, pushes it, and writes the outcomes down.

Never more than `window` addresses are between pushed and written down. What was pushed and not written down
when a process dies is pushed again by whoever takes the task over, under the same msg_id, so that it is there
once; and since it is at most a window, the successor knows which items those may be (`RESENT`). One that
gives the task back before it has pushed them all hands that on; a repush, which puts others before them,
notes it at the items.

::

    RUNNING ──► LEAVING ──► OVER      paused, cancelled, or the router stops: nothing new is pushed, what is
       ▲───────────┘ │                on its way is written down; resumed meanwhile, it goes on
       └─────────────┴─────► OVER     the lease is lost: nothing is written any more
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.throttle import TokenBucket
from imgateway.frames import Outcome, OutcomeCode, parse_address
from imgateway.router.tasks.database import fault_text
from imgateway.router.tasks.orders import Said, publish_of
from imgateway.router.tasks.store import LEASE_MS, RESENT, Item, Lease, LeaseLost, Store
from imgateway.router.tasks.tables import ItemState

__all__ = ("Tenure",)

log = Logger()

GROUP = 100
"""Addresses of one publish: few enough for a window to have several on their way."""
RENEW_S = 0.5
"""How often the lease is renewed and the task's state read: a pause made elsewhere is seen this soon."""
WRITE_S = 0.2
"""The longest that an outcome waits for others to be written down with."""
BURST_S = 0.25
"""What a rate may catch up at most, after a turn of the reactor that took long."""
RETRY_S, RETRY_MAX_S = 1.0, 30.0

Call = Callable[..., Deferred[Any]]
Row = tuple[int, int, int, int, int]
_TAKEN = (OutcomeCode.OK, OutcomeCode.DUPLICATE)
_MAILBOXES = ("user", "device")


class Phase(Enum):
    RUNNING = 1
    LEAVING = 2
    OVER = 3


class Tenure:
    """See the module's text. `step` is to be called every tenth of a second.

    :param call: runs a method of the store in a thread, and answers in a later turn; never raises.
    :param publish: `IGateway.publish`.
    :param seconds: a clock that does not run backwards.
    :param since: when by that clock the lease was asked for.
    :param outcomes: counts what is written down, by the names of `ItemState`.
    :param over: called once, when there is nothing left to do.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        store: Store,
        call: Call,
        publish: Callable[..., Deferred[tuple[Outcome, ...]]],
        seconds: Callable[[], float],
        window: int,
        since: float,
        outcomes: Counter[str],
        over: Callable[[Tenure], None],
    ) -> None:
        self.lease = lease
        self.number = lease.task.number
        self._store = store
        self._call = call
        self._publish = publish
        self._seconds = seconds
        self._window = window
        self._held_since = since
        self._outcomes = outcomes
        self._over = over
        self._message = msgspec.json.decode(lease.task.message, type=Said)
        self._phase = Phase.RUNNING
        self._stopping = False
        now = seconds()
        rate = lease.task.rate
        self._bucket = TokenBucket(rate, max(1.0, rate * BURST_S), now)
        self._bucket.charge(self._bucket.burst, now)  # it begins with nothing saved up
        self._unsent, self._refused = lease.task.unsent, lease.task.refused
        self._queue: deque[Item] = deque()
        self._read_upto = 0
        self._all_read = False
        self._reading = self._writing = False
        self._resent = RESENT if lease.resumed else 0
        self._again = 0  # up to this n something was pushed before, without an answer
        self._on_its_way = 0
        self._answered: list[Row] = []
        self._written_at = now
        self._gateway, self._database = _Partner(), _Partner()

    @property
    def unsent(self) -> int:
        """Items that have no outcome in the database yet."""
        return self._unsent

    @property
    def on_its_way(self) -> int:
        """Those of them that were pushed."""
        return self._on_its_way

    # ----------------------------------------------------------------------------------------- from outside

    def step(self) -> None:
        """Do what can be done now."""
        if self._phase is Phase.RUNNING:
            self._read()
            self._push()
        self._write()

    def look(self) -> None:
        """The task was changed: find out to what, now."""
        self._written_at = float("-inf")
        self.step()

    def leave(self) -> None:
        """The router stops: write down what is on its way, and give the task back."""
        self._stopping = True
        if self._phase is Phase.RUNNING:
            self._phase = Phase.LEAVING
        self.step()

    def end(self) -> None:
        """Another has the task: nothing of it is written any more."""
        if self._phase is not Phase.OVER:
            self._phase = Phase.OVER
            self._queue.clear()
            self._over(self)

    # ---------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        enough = self._all_read or len(self._queue) >= self._window
        if self._reading or enough or self._database.waits(self._seconds()):
            return
        self._reading = True
        limit = max(1_000, 2 * self._window)
        called = self._call(self._store.unsent, self.number, self._read_upto, limit)
        called.addCallbacks(self._was_read, self._was_not_read, callbackArgs=(limit,))
        called.addErrback(_bug)

    def _was_read(self, found: Sequence[Item], limit: int) -> None:
        self._reading = False
        self._queue.extend(found)
        if found:
            self._read_upto = found[-1].n
        self._all_read = len(found) < limit
        self.step()

    def _was_not_read(self, failure: Failure) -> None:
        self._reading = False
        self._trouble(self._database, failure, "its items cannot be read")

    # ---------------------------------------------------------------------------------------------- pushing

    def _push(self) -> None:
        now = self._seconds()
        if now >= self._held_since + LEASE_MS / 1000:
            return  # the process stood still, or the database does: another router may have the task
        while self._queue and self._on_its_way < self._window and not self._gateway.waits(now):
            most = min(GROUP, self._window - self._on_its_way)
            if self._bucket.rate:
                most = min(most, max(1, int(self._bucket.burst)))
            group = self._group(most)
            if not self._bucket.take(len(group), now):
                return
            for _ in group:
                self._queue.popleft()
            self._on_its_way += len(group)
            self._send(group)

    def _group(self, most: int) -> list[Item]:
        """The next items that say the same: one publish. What has fields of its own goes alone."""
        first = self._queue[0]
        alike = (first.own, first.attempt, first.code)
        resent = self._is_resent(first, 0)
        group: dict[str, Item] = {}
        for item in self._queue:
            if len(group) == most or (item.own, item.attempt, item.code) != alike:
                break
            if self._is_resent(item, len(group)) != resent:
                break
            if item.address in group:  # listed twice: the second goes after the first, and is its duplicate
                break
            group[item.address] = item
            if item.own is not None:
                break
        return list(group.values())

    def _is_resent(self, item: Item, ahead: int) -> bool:
        """It may have been pushed before; `ahead` items go before it."""
        return ahead < self._resent or item.n <= self._again or item.code != 0

    def _send(self, group: list[Item]) -> None:
        first = group[0]
        resent = self._is_resent(first, 0)
        try:
            to = tuple([parse_address(item.address) for item in group])
            publish = publish_of(self._message, first.own, first.n, first.attempt, to, resent)
        except Exception as error:
            self._send_apart(group, str(error))
            return
        self._resent -= len(group)
        if resent and not self._message.qos:  # it may have been emitted, and is not to be repeated
            unknown = (int(ItemState.UNKNOWN), int(OutcomeCode.OK), 0, 0)
            self._answered += [(item.n, *unknown) for item in group]
            return
        try:
            answer = self._publish(publish, self.lease.task.sender, "api")
        except Exception:
            self._was_not_pushed(Failure(), group)
            return
        answer.addCallbacks(
            self._was_pushed, self._was_not_pushed, callbackArgs=(group,), errbackArgs=(group,)
        )
        answer.addErrback(_bug)

    def _send_apart(self, group: list[Item], why: str) -> None:
        """What cannot be said is refused, so that the others go on. An upload would not have taken it."""
        if len(group) > 1:
            for item in group:
                self._send([item])
            return
        log.warn(
            "push task {id}: item {n} cannot be pushed: {why}", id=self.lease.task.id, n=group[0].n, why=why
        )
        self._resent -= 1
        self._answered.append((group[0].n, int(ItemState.REFUSED), int(OutcomeCode.UNKNOWN), 0, 0))

    def _was_pushed(self, outcomes: Sequence[Outcome], group: list[Item]) -> None:
        if self._phase is Phase.OVER:
            return  # whoever has the task now pushes it again, and finds it there
        for item, outcome in zip(group, outcomes, strict=True):
            if outcome.code not in _TAKEN:
                state = ItemState.REFUSED
            elif outcome.epoch and item.address.partition(":")[0] in _MAILBOXES:
                state = ItemState.TAKEN
            else:
                state = ItemState.UNKNOWN
            self._answered.append((item.n, int(state), int(outcome.code), outcome.epoch, outcome.seq))
        self._gateway.works()
        if len(self._answered) * 2 >= self._window:
            # And no more: an outcome that is there at once comes out of `_push`, which goes on by itself.
            self._write()

    def _was_not_pushed(self, failure: Failure, group: list[Item]) -> None:
        """Whether it was taken is not known: it is pushed again, under the same msg_id."""
        self._on_its_way -= len(group)
        self._resent += len(group)
        self._again = max(self._again, group[-1].n)
        self._queue.extendleft(reversed(group))
        self._trouble(self._gateway, failure, "it cannot be pushed just now")

    # ------------------------------------------------------------------------------------------ writing down

    def _write(self) -> None:
        if self._writing or self._phase is Phase.OVER or self._database.waits(self._seconds()):
            return
        waited = self._seconds() - self._written_at
        rows = self._answered
        nothing_left = self._all_read and not self._queue and not self._reading
        release = len(rows) == self._on_its_way and (nothing_left or self._phase is Phase.LEAVING)
        is_due = len(rows) * 2 >= self._window or waited >= WRITE_S
        if not (release or (rows and is_due) or waited >= RENEW_S):
            return
        self._writing, self._answered = True, []
        self._written_at = self._seconds()
        unsent = self._unsent - len(rows)
        refused = self._refused + sum(row[1] == ItemState.REFUSED for row in rows)
        in_doubt = self._resent > 0 or self._again > 0
        called = self._call(self._store.write, self.lease, rows, unsent, refused, release, in_doubt)
        called.addCallbacks(
            self._was_written,
            self._was_not_written,
            callbackArgs=(self._written_at, rows, unsent, refused, release),
            errbackArgs=(rows,),
        )
        called.addErrback(_bug)

    def _was_written(
        self, state: str, began: float, rows: list[Row], unsent: int, refused: int, release: bool
    ) -> None:
        self._writing = False
        self._held_since = began
        self._on_its_way -= len(rows)
        for row in rows:
            self._outcomes[ItemState(row[1]).name.lower()] += 1
        self._unsent, self._refused = unsent, refused
        self._database.works()
        if release:
            self.end()
        if self._phase is Phase.OVER:
            return
        runs = state == "running" and not self._stopping
        self._phase = Phase.RUNNING if runs else Phase.LEAVING
        self.step()

    def _was_not_written(self, failure: Failure, rows: list[Row]) -> None:
        self._writing = False
        if failure.check(LeaseLost):
            log.info("push task {id}: another has it", id=self.lease.task.id)
            self.end()
            return
        self._answered = rows + self._answered
        self._trouble(self._database, failure, "its outcomes cannot be written down")

    def _trouble(self, partner: _Partner, failure: Failure, what: str) -> None:
        """Nothing of it is final: it is tried again, ever more rarely."""
        if partner.fails(self._seconds()) and self._phase is not Phase.OVER:
            log.warn(
                "push task {id} waits: {what}: {why}",
                id=self.lease.task.id,
                what=what,
                why=fault_text(failure.value),
            )


class _Partner:
    """What may be away for a while: the gateway, the database."""

    def __init__(self) -> None:
        self._until = 0.0
        self._next_s = RETRY_S

    def waits(self, now: float) -> bool:
        """It failed, and it is not time to try again."""
        return now < self._until

    def works(self) -> None:
        self._next_s = RETRY_S

    def fails(self, now: float) -> bool:
        """:returns: whether it worked before."""
        is_first = self._next_s == RETRY_S
        self._until = now + self._next_s
        self._next_s = min(2 * self._next_s, RETRY_MAX_S)
        return is_first


def _bug(failure: Failure) -> None:
    log.failure("a push task stopped", failure)
