"""Push tasks of one process, put together: the database, what runs them, and what can be done with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from os.path import join
from secrets import token_hex
from typing import IO, Any

import msgspec
from sqlalchemy.exc import DBAPIError
from twisted.internet.defer import Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings, RouterSettings
from imgateway.frames import address_text
from imgateway.interfaces import IGateway
from imgateway.router.problems import Problem
from imgateway.router.pushing import publish_of
from imgateway.router.schema import Push
from imgateway.router.tasks.database import Database, fault_text
from imgateway.router.tasks.deliveries import Deliveries
from imgateway.router.tasks.orders import Message, Said, said
from imgateway.router.tasks.runner import Runner
from imgateway.router.tasks.store import CHANGES, NoSuchTask, Standing, Store, Task, WrongState
from imgateway.router.tasks.tables import ItemState
from imgateway.router.tasks.threads import Threads
from imgateway.router.tasks.uploads import Bad, lines_of

__all__ = ("BAD_LINES", "Order", "Tasks")

log = Logger()

FILE = "push-tasks.db"
BATCH = 1_000
BAD_LINES = 100
"""Bad lines that are told one by one; more are counted."""
OPEN_S = 2.0
UPLOADS = 2
"""Lists that are read at a time; further ones wait, so that threads are left for the tasks that run."""
# What one page of results may cost: items that are looked at for it.
LOOK_AT = 10_000

AWAY = "push tasks: the database cannot be used just now"

Result = tuple[list[Standing], int]


class Order(msgspec.Struct, frozen=True):
    """What a task shall do. `at_ms` 0: at once; `rate` 0: as fast as it goes; `msg_id` '' : one is made."""

    name: str
    message: Message = Message()
    rate: float = 0.0
    at_ms: int = 0
    strict: bool = False
    msg_id: str = ""


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
        self._healthy = healthy
        self._wall_ms = wall_ms
        self._router = router
        self._limits = limits
        url = router.tasks_url or f"sqlite:///{join(data_dir, FILE)}"
        self.store = Store(Database(url, wall_ms))
        self._threads = threads or Threads(reactor)
        self._call = self._threads.call
        self._deliveries = Deliveries(self.store, self._call, gateway.mailbox)
        self.runner = Runner(
            self.store,
            self._call,
            gateway.publish,
            reactor,
            owner=owner,
            window=router.tasks_window,
            at_once=router.tasks_at_once,
            keep_s=router.tasks_keep_s,
            healthy=healthy,
        )
        self._uploads = DeferredSemaphore(UPLOADS)
        self._is_open = self._stopping = False
        self._again: IDelayedCall | None = None

    @property
    def max_upload_bytes(self) -> int:
        """The largest upload."""
        return self._router.tasks_upload_bytes

    # -------------------------------------------------------------------------------------- start and stop

    def start(self) -> Deferred[None]:
        """Open the database and run tasks; a server that is away is waited for, behind the Deferred.

        :raises StoreError: (in the Deferred) the database cannot be used, and what mends it.
        """
        self._threads.start()
        return self._open()

    def _open(self) -> Deferred[None]:
        self._again = None
        opened: Deferred[None] = self._call(self.store.open)
        return opened.addCallbacks(self._opened, self._not_opened)

    def _opened(self, _: None) -> None:
        if not self._is_open and not self._stopping:
            self._is_open = True
            self._healthy(True, "")
            self.runner.start()

    def _not_opened(self, failure: Failure) -> None:
        failure.trap(DBAPIError)
        if not self._stopping:
            why = f"push tasks: the database cannot be used: {fault_text(failure.value)}"
            log.warn("{why}", why=why)
            self._healthy(False, why)
            self._again = self._reactor.callLater(OPEN_S, self._open)

    def stop(self) -> Deferred[None]:
        """Give running tasks back and close the database; fires within some 8 s."""
        self._stopping = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        stopped = self.runner.stop() if self._is_open else succeed(None)
        stopped.addCallback(lambda _: self._call(self.store.close) if self._is_open else None)
        return stopped.addBoth(lambda _: self._threads.stop())

    # --------------------------------------------------------------------------------------- making a task

    def make(self, sender: str, order: Order, file: IO[bytes], kind: str, first: int = 1) -> Deferred[Any]:
        """A task from an upload; fires with (Task, bad lines). The file is read in a thread.

        :raises Problem: (in the Deferred) the message or the lines cannot be used.
        """
        message = self._said(order)
        made = self._uploads.run(self._asked, self._make, sender, order, message, file, kind, first)
        return made.addCallback(self._made)

    def _made(self, result: tuple[Task, list[Bad]]) -> tuple[Task, list[Bad]]:
        self.runner.look(result[0].number)
        return result

    def _said(self, order: Order) -> Said:
        content = said(order.message)
        if content is None:
            raise Problem("invalid-request", "message: give one of body, text and json")
        kind, body = content
        most = self._limits.max_body_bytes
        if len(body) > most:
            raise Problem("too-large", f"message: a body of {len(body):,} bytes; the most are {most:,}")
        asked = order.message
        return Said(order.msg_id, kind, body, tuple(asked.headers.items()), asked.ttl_s, asked.lane)

    def _make(
        self, sender: str, order: Order, message: Said, file: IO[bytes], kind: str, first: int
    ) -> tuple[Task, list[Bad]]:
        """In a thread: read the lines, write them in batches, and only then let the task run."""
        id = token_hex(10)
        message = msgspec.structs.replace(message, msg_id=order.msg_id or id)
        number = self.store.begin(
            id, order.name, sender, msgspec.json.encode(message), order.rate, order.at_ms
        )
        try:
            return self._fill(number, order, file, kind, first)
        except BaseException:
            self.store.discard(number)
            raise

    def _fill(
        self, number: int, order: Order, file: IO[bytes], kind: str, first: int
    ) -> tuple[Task, list[Bad]]:
        batch: list[tuple[int, str, str | None]] = []
        bad: list[Bad] = []
        total = failed = 0
        most = self._router.tasks_users
        try:
            for line in lines_of(file, kind, self._limits.max_body_bytes, first):
                if isinstance(line, Bad):
                    failed += 1
                    bad += [line] if failed <= BAD_LINES else []
                    continue
                total += 1
                if total > most:
                    raise Problem(
                        "too-large",
                        f"more than {most:,} lines",
                        "make several tasks, or set router.tasks_users",
                    )
                batch.append((line.line, line.address, line.own))
                if len(batch) == BATCH:
                    self.store.add(number, batch)
                    batch = []
        except ValueError as error:  # no line's fault, but the file's
            raise Problem("invalid-request", str(error)) from None
        if failed and (order.strict or not total):
            some = "; ".join(f"line {one.line}: {one.error}" for one in bad[:10])
            raise Problem(
                "invalid-request",
                f"{failed:,} of {total + failed:,} lines cannot be used: {some}"
                + ("; …" if failed > 10 else ""),
                "mend them" + (", or leave strict away" if total else ""),
            )
        if not total:
            raise Problem("invalid-request", "there are no lines", "send one user a line")
        if batch:
            self.store.add(number, batch)
        bad_lines = msgspec.json.encode(bad).decode()
        return self.store.complete(number, total, failed, bad_lines), bad

    def schedule(self, key: str, push: Push, msg_id: str) -> Deferred[str]:
        """A push with a time as a task; asked for again with the same msg_id it is the same task.

        :param key: the id of the API key that pushes.
        """
        sender = f"service:{key}"
        id = sha256(f"{sender}\0{msg_id}".encode()).hexdigest()[:20]
        made: Deferred[Task] = self._asked(self._schedule, id, sender, push, msg_id)
        return made.addCallback(self._scheduled)

    def _scheduled(self, task: Task) -> str:
        self.runner.look(task.number)
        return task.id

    def _schedule(self, id: str, sender: str, push: Push, msg_id: str) -> Task:
        try:
            task = self.store.get(id)
        except NoSuchTask:
            pass
        else:
            if task.state != "uploading":
                return task
            self.store.discard(task.number)  # broken off between its first and last step
        publish = publish_of(push, self._limits.max_addresses_service)
        message = Said(
            msg_id,
            publish.content_type,
            publish.body,
            publish.headers,
            publish.ttl_s,
            publish.lane,
            publish.qos,
        )
        at_ms = int(push.at.timestamp() * 1000) if push.at else 0
        number = self.store.begin(id, f"push {msg_id}", sender, msgspec.json.encode(message), 0.0, at_ms)
        rows = [(n, address_text(to), None) for n, to in enumerate(publish.to, 1)]
        self.store.add(number, rows)
        return self.store.complete(number, len(rows), 0, "[]")

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

    def repush(self, id: str, as_new: bool, rate: float | None, at_ms: int) -> Deferred[Task]:
        """Push once more what was not delivered. :raises Problem: (in the Deferred) it is not over yet."""

        async def repush() -> Task:
            task = await self.get(id)
            await self._deliveries.settle(task.number).addErrback(_told, "")
            again = await self._asked(self.store.repush, id, as_new, rate, at_ms, what="repush")
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
        return self._call(function, *arguments).addErrback(_told, what)


_JUDGED = (ItemState.TAKEN, ItemState.DELIVERED, ItemState.GONE, ItemState.UNKNOWN)


def _told(failure: Failure, what: str) -> Any:
    if failure.check(NoSuchTask):
        raise Problem(
            "not-found", "there is no push task with this id", "GET /v1/tasks lists those there are"
        )
    if failure.check(WrongState):
        allowed = " or ".join(sorted(CHANGES[what][0]))
        advice = f"{what} is for tasks that are {allowed}"
        if str(failure.value) in CHANGES[what][0]:
            advice = "what was on its way is still being written down: try again in some seconds"
        raise Problem("conflict", f"the task is {failure.value}", advice)
    if failure.check(DBAPIError):
        log.warn("push tasks: {why}", why=fault_text(failure.value))
        raise Problem("unavailable", AWAY, "try again", 5.0)
    return failure
