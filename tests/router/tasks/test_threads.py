"""With threads, the reactor and its clock as they are in a process."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from imgateway.config import LimitSettings, RouterSettings
from imgateway.errors import StoreError
from imgateway.router.tasks.database import Database
from imgateway.router.tasks.making import Order
from imgateway.router.tasks.orders import Message
from imgateway.router.tasks.service import Tasks
from imgateway.router.tasks.store import Store
from imgateway.router.tasks.threads import STOP_S, Threads
from imgateway.testing.wires import outcome
from tests.router.tasks.rig import FakeGateway
from tests.router.tasks.sql_servers import SqlServer


class Watched(Threads):
    """Threads that tell when the first task is done."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.done: Deferred[None] = Deferred()

    def call(self, function: Any, *arguments: Any) -> Deferred[Any]:
        def saw(result: Any) -> Any:
            if function.__name__ == "write" and result == "done":
                self.done.callback(None)
            return result

        return super().call(function, *arguments).addCallback(saw)


def tasks_of(gateway: Any, reactor: Any, data: Path, threads: Any) -> Tasks:
    """A router's, on SQLite, with threads that look at what passes."""
    return Tasks(
        gateway,
        reactor,
        owner="r1",
        data_dir=str(data),
        router=RouterSettings(),
        limits=LimitSettings(),
        threads=threads,
    )


@pytest_twisted.ensureDeferred
async def test_a_task_of_a_thousand_from_upload_to_report(tmp_path: Path) -> None:
    from twisted.internet import reactor

    gateway: Any = FakeGateway()
    threads = Watched(reactor)
    tasks = tasks_of(gateway, reactor, tmp_path, threads)
    await tasks.start()
    try:
        upload = tmp_path / "users"
        upload.write_text("user\n" + "".join(f"{n}\n" for n in range(1_000)))
        with open(upload, "rb") as file:
            made, bad = await tasks.make("service:shop", Order("", Message(text="hi")), file, "text/csv")
        assert (made.total, bad) == (1_000, [])
        await threads.done
        assert (await tasks.get(made.id)).state == "done"
        gateway.seen = {"7": 1}
        _, counts = await tasks.report(made.id)
        assert sorted(counts) == [(1, 0, 999), (3, 0, 1)]
        assert len(gateway.taken()) == 1_000
    finally:
        await tasks.stop()


class Clocked:
    """A reactor in whose time a test decides."""

    def __init__(self, reactor: Any, clock: Clock) -> None:
        self.callFromThread = reactor.callFromThread
        self.callLater = clock.callLater


class Ending(Threads):
    """Threads that tell when they shall end."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.ending: Deferred[None] = Deferred()

    def stop(self, *arguments: Any) -> Deferred[None]:
        self.ending.callback(None)
        return super().stop(*arguments)


class Slow(io.BytesIO):
    """A list whose second half comes when it is told to."""

    def __init__(self, data: bytes, reactor: Any) -> None:
        super().__init__(data)
        self.half: Deferred[None] = Deferred()
        self.more = threading.Event()
        self._left = data.count(b"\n") // 2
        self._reactor = reactor

    def readline(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left == 0:
            self._reactor.callFromThread(self.half.callback, None)
            self.more.wait()
        return super().readline(size)


@pytest_twisted.ensureDeferred
async def test_the_file_is_locked_while_any_thread_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The router is stopped, and an upload is still being read."""
    from twisted.internet import reactor

    monkeypatch.setattr("imgateway.router.tasks.threads.STOP_S", 600.0)
    gateway: Any = FakeGateway()
    threads = Ending(reactor)
    tasks = tasks_of(gateway, reactor, tmp_path, threads)
    other = Store(Database(f"sqlite:///{tmp_path}/push-tasks.db", lambda: 0))
    await tasks.start()
    upload = Slow(b'{"user":"1"}\n' * 3_000, reactor)
    order = Order("", Message(text="hi"))
    made = tasks.make("service:shop", order, upload, "application/x-ndjson")
    await upload.half
    stopping = tasks.stop()
    try:
        await threads.ending
        with pytest.raises(StoreError, match="another process runs the push tasks"):
            other.lock()
    finally:
        upload.more.set()
        await stopping
    assert (await made)[0].total == 3_000
    other.open()
    assert [task.total for task in other.page(0, 9)] == [3_000]
    other.close()


@pytest.mark.server
@pytest.mark.network
@pytest_twisted.ensureDeferred
async def test_a_server_that_is_frozen_is_told_and_holds_up_no_end(
    tmp_path: Path, postgres: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr("imgateway.router.tasks.pulse.STATEMENT_S", 1)
    monkeypatch.setattr("imgateway.router.tasks.runner.STOP_S", 0.5)
    monkeypatch.setattr("imgateway.router.tasks.threads.STOP_S", 0.5)
    told: DeferredQueue[tuple[bool, str]] = DeferredQueue()
    gateway: Any = FakeGateway()
    threads = Threads(reactor)
    tasks = Tasks(
        gateway,
        reactor,
        owner="r1",
        data_dir=str(tmp_path),
        router=RouterSettings(tasks_url=postgres.url()),
        limits=LimitSettings(),
        healthy=lambda ok, why: reactor.callLater(0, told.put, (ok, why)),  # type: ignore[attr-defined]
        threads=threads,
    )
    await tasks.start()
    postgres.freeze()
    try:
        ok, why = True, ""
        while ok:
            ok, why = await told.get()
        assert why == "push tasks: the database cannot be used: it has not answered for 1 s"
        await tasks.stop()
    finally:
        postgres.thaw()
    # The process would be over. Here its threads have their answers now, and are ended.
    threads._pool.stop()
    tasks.store.close()


@pytest_twisted.ensureDeferred
async def test_calls_run_in_threads_and_answer_here() -> None:
    from twisted.internet import reactor

    ends: list[int] = []
    threads = Threads(reactor, 1)
    await threads.stop(lambda: ends.append(threading.get_ident()))  # it was not started yet
    assert ends == [threading.get_ident()]
    threads = Threads(reactor, 1)
    threads.start()
    here = threading.get_ident()
    assert await threads.call(threading.get_ident) != here
    failed: list[Any] = []
    await threads.call(int, "x").addErrback(lambda failure: failed.append(failure.type))
    assert failed == [ValueError]
    assert threading.get_ident() == here
    await threads.stop(lambda: ends.append(threading.get_ident()))
    assert ends[1] != here
    assert not threads.call(int).called  # and never will be


@pytest_twisted.ensureDeferred
async def test_a_thread_that_hangs_is_left_behind() -> None:
    from twisted.internet import reactor

    clock = Clock()
    thaws = threading.Event()
    ended: list[None] = []
    threads = Threads(Clocked(reactor, clock), 2)
    threads.start()
    try:
        called = threads.call(thaws.wait)
        stopping = threads.stop(lambda: ended.append(None))
        clock.advance(STOP_S - 0.1)
        assert not stopping.called
        clock.advance(0.1)
        assert stopping.called
    finally:
        thaws.set()
        await called
    await stopping
    assert ended == []  # somebody may still use what it would close
    threads._pool.stop()


class Pool:
    """Threads that begin nothing by themselves, in the place of a pool."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: Threads) -> None:
        self.started = False
        self.full = False
        self.begun: list[tuple[Any, Deferred[Any]]] = []
        monkeypatch.setattr("imgateway.router.tasks.threads.deferToThreadPool", self.begin)
        monkeypatch.setattr(threads, "_pool", self)

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.started = False

    def begin(self, reactor: Any, pool: Any, function: Any, *arguments: Any) -> Deferred[Any]:
        if self.full:
            raise RuntimeError("can't start new thread")
        self.begun.append((arguments[0] if arguments else function, Deferred()))
        return self.begun[-1][1]


def test_what_is_given_up_before_a_thread_has_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is frozen, and those who ask give up and ask again, for hours."""
    threads = Threads(Clock(), 2)
    pool = Pool(monkeypatch, threads)
    asked = [threads.call(str, n) for n in range(4)]
    assert (pool.begun, threads.waiting) == ([], 4)  # it was not started yet
    threads.start()
    assert ([n for n, _ in pool.begun], threads.waiting) == ([0, 1], 2)
    given_up = [outcome(asked[n]) for n in (1, 2)]
    for n in (1, 2):
        asked[n].cancel()
    for n in range(1_000):
        given_up.append(outcome(late := threads.call(str, n)))
        late.cancel()
    assert {type(error) for (error,) in given_up} == {CancelledError}
    assert threads.waiting == 1
    told = outcome(asked[3])
    pool.begun[1][1].callback("1")  # nobody waits for it, and it makes room
    assert ([n for n, _ in pool.begun], threads.waiting) == ([0, 1, 3], 0)
    ended: list[None] = []
    stopped = outcome(threads.stop(lambda: ended.append(None)))
    pool.begun[2][1].callback("3")
    assert (told, stopped, len(pool.begun)) == (["3"], [], 3)
    pool.begun[0][1].callback("0")
    assert outcome(asked[0]) == ["0"]
    pool.begun[3][1].callback(None)
    assert (stopped, pool.started) == ([None], False)


def test_a_process_that_may_have_no_more_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(Clock(), 1)
    pool = Pool(monkeypatch, threads)
    threads.start()
    first = outcome(threads.call(str, 1))
    waiting = [outcome(threads.call(str, n)) for n in range(2_000)]
    pool.full = True
    pool.begun[0][1].callback("1")
    assert first == ["1"]
    assert {str(error) for (error,) in waiting} == {"can't start new thread"}
    pool.full = False
    again = outcome(threads.call(str, 2))
    pool.begun[1][1].callback("2")
    assert (again, threads.waiting) == (["2"], 0)


@pytest.mark.parametrize("result", [1, Failure(ZeroDivisionError())], ids=["returns", "raises"])
@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late"])
def test_the_end_waits_for_a_call_that_was_given_up(
    result: Any, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread still runs, and to end the threads is to stand still until it does not."""
    clock = Clock()
    told: list[str] = []
    begun: list[Deferred[Any]] = []

    class Pool:
        started = True

        def stop(self) -> None:
            told.append("ended")

    def begin(reactor: Any, pool: Any, function: Any) -> Deferred[Any]:
        begun.append(Deferred())
        return begun[-1]

    monkeypatch.setattr("imgateway.router.tasks.threads.deferToThreadPool", begin)
    threads = Threads(clock)
    monkeypatch.setattr(threads, "_pool", Pool())
    call = threads.call(int)
    given_up = outcome(call)
    call.cancel()
    assert [type(error) for error in given_up] == [CancelledError]
    stopped = outcome(threads.stop(lambda: None))
    assert (len(begun), told, stopped) == (1, [], [])
    if late:
        clock.advance(STOP_S)
        assert (told, stopped) == ([], [None])
    begun[0].callback(result)
    if not late:
        begun[1].callback(None)  # the last call of all
    assert (told, stopped) == ([] if late else ["ended"], [None])
    assert len(given_up) == 1
    assert clock.getDelayedCalls() == []
