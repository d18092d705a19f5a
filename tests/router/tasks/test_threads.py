"""With threads, the reactor and its clock as they are in a process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred

from imgateway.config import LimitSettings, RouterSettings
from imgateway.router.tasks.making import Order
from imgateway.router.tasks.orders import Message
from imgateway.router.tasks.service import Tasks
from imgateway.router.tasks.threads import Threads
from tests.router.tasks.rig import FakeGateway


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


@pytest_twisted.ensureDeferred
async def test_a_task_of_a_thousand_from_upload_to_report(tmp_path: Path) -> None:
    from twisted.internet import reactor

    gateway: Any = FakeGateway()
    threads = Watched(reactor)
    tasks = Tasks(
        gateway,
        reactor,
        owner="r1",
        data_dir=str(tmp_path),
        router=RouterSettings(),
        limits=LimitSettings(),
        threads=threads,
    )
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


@pytest_twisted.ensureDeferred
async def test_calls_run_in_threads_and_answer_here() -> None:
    from twisted.internet import reactor

    threads = Threads(reactor, 1)
    await threads.stop()  # it was not started yet
    threads = Threads(reactor, 1)
    threads.start()
    here = threading.get_ident()
    assert await threads.call(threading.get_ident) != here
    failed: list[Any] = []
    await threads.call(int, "x").addErrback(lambda failure: failed.append(failure.type))
    assert failed == [ValueError]
    assert threading.get_ident() == here
    await threads.stop()
