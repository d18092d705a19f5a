"""Push tasks of one process, put together: the database, what runs them, and what can be done with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from os.path import join
from typing import IO, Any

from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings, RouterSettings
from imgateway.core.counters import COUNTER, GAUGE, Measure
from imgateway.interfaces import IGateway
from imgateway.router.problems import Problem
from imgateway.router.schema import Push
from imgateway.router.tasks.database import Database, fault_text
from imgateway.router.tasks.deliveries import Deliveries
from imgateway.router.tasks.making import Making, Order
from imgateway.router.tasks.pulse import Pulse
from imgateway.router.tasks.runner import Runner
from imgateway.router.tasks.store import CHANGES, NoSuchTask, Repushed, Standing, Store, Task, WrongState
from imgateway.router.tasks.tables import ItemState
from imgateway.router.tasks.threads import Threads
from imgateway.router.tasks.uploads import Bad

__all__ = ("MEASURES", "Tasks")

log = Logger()

FILE = "push-tasks.db"
BATCH = 1_000
OPEN_S = 2.0
UPLOADS = 2
"""Lists that are read at a time; further ones wait, so that threads are left for the tasks that run."""
WAITING = 8
"""More wait for their turn; those beyond are refused: each is a file of up to `router.tasks_upload_bytes`."""
CALLS = 1_000
"""Questions of the API that wait for a thread; those beyond are refused: the database may be frozen."""
# What one page of results may cost: items that are looked at for it.
LOOK_AT = 10_000

AWAY = "push tasks: the database cannot be used just now"

Result = tuple[list[Standing], int]

MEASURES = (
    Measure("running", GAUGE, "imgateway_push_tasks_running", "Push tasks that this process runs now."),
    Measure("unsent", GAUGE, "imgateway_push_tasks_unsent", "Their users who have no outcome yet."),
    Measure(
        "on_their_way",
        GAUGE,
        "imgateway_push_tasks_on_their_way",
        "Those of them whose push waits for its outcome, or that for being written down.",
    ),
    Measure(
        "outcomes",
        COUNTER,
        "imgateway_push_outcomes_total",
        "Outcomes written down by this process: the log took it (unknown: nobody acknowledges there), or "
        "refused it.",
        "state",
    ),
)


class Tasks:
    """See the module's text.

    :param owner: unique for each start of a process.
    :param data_dir: where the SQLite database lies if `router.tasks_url` names none.
    :param healthy: told (ok, why) when the database's state changes.
    :raises ConfigError: router.tasks_url cannot be used.
    """

    def __init__(
        self,
        gateway: IGateway,
        reactor: Any,
        *,
        owner: str,
        data_dir: str,
        router: RouterSettings,
        limits: LimitSettings,
        healthy: Callable[[bool, str], None] = lambda ok, why: None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        threads: Any = None,
    ) -> None:
        self._reactor = reactor
        self._wall_ms = wall_ms
        self._router = router
        url = router.tasks_url or f"sqlite:///{join(data_dir, FILE)}"
        self.store = Store(Database(url, wall_ms))
        self._making = Making(self.store, router, limits)
        self._threads = threads or Threads(reactor)
        self._call = self._threads.call
        self._deliveries = Deliveries(self.store, self._call, gateway.mailbox)
        self._pulse = Pulse(self._call, reactor.seconds, healthy)
        self.runner = Runner(
            self.store,
            self._pulse,
            gateway.publish,
            reactor,
            owner=owner,
            window=router.tasks_window,
            at_once=router.tasks_at_once,
            keep_s=router.tasks_keep_s,
        )
        self._uploads = DeferredSemaphore(UPLOADS)
        self._is_open = self._stopping = self._waits = False
        self._again: IDelayedCall | None = None

    @property
    def max_upload_bytes(self) -> int:
        """The largest upload."""
        return self._router.tasks_upload_bytes

    @property
    def patience_s(self) -> float:
        """How long what looks at a whole task may take."""
        return self._router.tasks_timeout_s

    def go_by(self, router: RouterSettings, limits: LimitSettings) -> None:
        """Other limits, from the next upload on."""
        self._router = self._making.router = router
        self._making.limits = limits

    def measures(self) -> Iterator[tuple[Measure, float | Mapping[str, float]]]:
        """Every measure with its value now."""
        runner = self.runner
        values: list[Any] = [runner.running, runner.unsent, runner.on_their_way, dict(runner.outcomes)]
        yield from zip(MEASURES, values, strict=True)

    # -------------------------------------------------------------------------------------- start and stop

    def lock(self) -> None:
        """Before anything that others see of a start: of several processes with one SQLite file only the
        first goes on. :raises StoreError: this is another."""
        self.store.lock()

    def start(self) -> Deferred[None]:
        """Open the database and run tasks; a server that is away is waited for, behind the Deferred.

        :raises StoreError: (in the Deferred) the database cannot be used, and what mends it.
        """
        self._threads.start()
        return self._open()

    def _open(self) -> Deferred[None]:
        self._again = None
        opened: Deferred[None] = self._pulse.call(self.store.open)
        return opened.addCallbacks(self._opened, self._not_opened)

    def _opened(self, _: None) -> None:
        if not self._is_open and not self._stopping:
            self._is_open = True
            self.runner.start()

    def _not_opened(self, failure: Failure) -> None:
        if not self._waits:
            failure.trap(DBAPIError)  # what the operator must mend ends the start
        if not self._stopping:
            self._waits = True
            self._again = self._reactor.callLater(OPEN_S, self._open)

    def stop(self) -> Deferred[None]:
        """Give running tasks back and close the database; fires within some 12 s, whatever that does."""
        self._stopping = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        stopped = self.runner.stop() if self._is_open else succeed(None)
        # A thread may still write, or just be opening it: SQLite's file is locked until that is over, or
        # else until the process is.
        return stopped.addBoth(lambda _: self._threads.stop(self.store.close))

    # --------------------------------------------------------------------------------------- making a task

    def make(self, sender: str, order: Order, file: IO[bytes], kind: str, first: int = 1) -> Deferred[Any]:
        """A task from an upload; fires with (Task, bad lines). The file is read in a thread.

        :raises Problem: (in the Deferred) the message or the lines cannot be used.
        """
        message = self._making.said(order)
        if len(self._uploads.waiting) >= WAITING:
            raise Problem("unavailable", f"{WAITING} uploads wait already", "send it again later", 5.0)
        made = self._uploads.run(self._asked, self._making.task, sender, order, message, file, kind, first)
        return made.addCallback(self._made)

    def _made(self, result: tuple[Task, list[Bad]]) -> tuple[Task, list[Bad]]:
        self.runner.look(result[0].number)
        return result

    def schedule(self, key: str, push: Push, msg_id: str) -> Deferred[str]:
        """A push with a time as a task; asked for again with the same msg_id it is the same task.

        :param key: the id of the API key that pushes.
        """
        sender = f"service:{key}"
        id = sha256(f"{sender}\0{msg_id}".encode()).hexdigest()[:20]
        made: Deferred[Task] = self._asked(self._making.push, id, sender, push, msg_id)
        return made.addCallback(self._scheduled)

    def _scheduled(self, task: Task) -> str:
        self.runner.look(task.number)
        return task.id

    # ---------------------------------------------------------------------------------- looking and changing

    def page(self, before: int, limit: int) -> Deferred[list[Task]]:
        """Tasks from the newest on, below this number (0: all)."""
        return self._asked(self.store.page, before, limit)

    def get(self, id: str) -> Deferred[Task]:
        """:raises Problem: (in the Deferred) there is none."""
        return self._asked(self.store.get, id)

    def change(self, id: str, what: str) -> Deferred[Task]:
        """Pause, resume or cancel. :raises Problem: (in the Deferred) it cannot be, or there is none."""
        return self._asked(self.store.change, id, what, what=what).addCallback(self._changed)

    def _changed(self, task: Task) -> Task:
        self.runner.look(task.number)
        return task

    def repush(
        self, id: str, as_new: bool, rate: float | None, at_ms: int, ended_ms: int | None = None
    ) -> Deferred[Task]:
        """Push once more what was not delivered.

        :param ended_ms: the task's end after which it is meant; None: whichever.
        :raises Problem: (in the Deferred) it is not over yet, or that is not its last end.
        """

        async def repush() -> Task:
            task = await self.get(id)
            await self._deliveries.settle(task.number).addErrback(_told, "")
            asked = (id, as_new, rate, at_ms, ended_ms)
            again = await self._asked(self.store.repush, *asked, what="repush")
            return self._changed(again)

        return Deferred.fromCoroutine(repush())

    def report(self, id: str) -> Deferred[tuple[Task, list[tuple[int, int, int]]]]:
        """The task, and (ItemState, code, how many) of its items as they stand now."""

        async def report() -> tuple[Task, list[tuple[int, int, int]]]:
            number = (await self.get(id)).number
            await self._deliveries.settle(number).addErrback(_told, "")
            counts = await self._asked(self.store.counts, number)
            return await self.get(id), counts

        return Deferred.fromCoroutine(report())

    def results(self, id: str, states: frozenset[int], after: int, limit: int) -> Deferred[Result]:
        """Items that stand so now, above n = `after`; and from where to go on, 0: that was all."""

        async def results() -> Result:
            number = (await self.get(id)).number
            kept = states | {ItemState.TAKEN} if states & set(_JUDGED) else states
            found: list[Standing] = []
            begin, looked = after, 0
            while looked < LOOK_AT:
                most = min(BATCH, limit - len(found))
                rows = await self._asked(self.store.standing, number, kept, begin, most)
                judging = Deferred.fromCoroutine(self._deliveries.judge(number, rows))
                now = await judging.addErrback(_told, "")
                found += [one for one in now if one.state in states]
                if len(rows) < most:
                    return found, 0
                begin = rows[-1].n
                looked += len(rows)
                if len(found) == limit:
                    break
            return found, begin

        return Deferred.fromCoroutine(results())

    def _asked(self, function: Callable[..., Any], *arguments: Any, what: str = "") -> Deferred[Any]:
        """Ask the store in a thread; what goes wrong becomes a Problem."""
        if not self._is_open:
            return fail(Problem("unavailable", AWAY, "try again", 5.0))
        if self._threads.waiting >= CALLS:
            many = f"push tasks: {CALLS} questions wait for the database already"
            return fail(Problem("unavailable", many, "try again", 5.0))
        return self._call(function, *arguments).addErrback(_told, what)


_JUDGED = (ItemState.TAKEN, ItemState.DELIVERED, ItemState.GONE, ItemState.UNKNOWN)


def _told(failure: Failure, what: str) -> Any:
    if failure.check(NoSuchTask):
        raise Problem(
            "not-found", "there is no push task with this id", "GET /v1/tasks lists those there are"
        )
    if failure.check(Repushed):
        raise Problem("conflict", "the task was pushed again since", "GET /v1/tasks/ID says how far it is")
    if failure.check(WrongState):
        allowed = " or ".join(sorted(CHANGES[what][0]))
        advice = f"{what} is for tasks that are {allowed}"
        if str(failure.value) in CHANGES[what][0]:
            advice = "what was on its way is still being written down: try again in some seconds"
        raise Problem("conflict", f"the task is {failure.value}", advice)
    if failure.check(DBAPIError):
        log.warn("push tasks: {why}", why=fault_text(failure.value))
        raise Problem("unavailable", AWAY, "try again", 5.0, in_doubt=True)
    return failure
