"""A disk that fails when told to, and a broker on it that runs in one thread, step by step.

::

    rig = Rig(tmp_path)
    rig.start()
    acked = rig.publish("user:bob", msg_id="1")
    rig.disk.kill_at(rig.disk.calls + 3)
    with pytest.raises(Killed):
        rig.run()
    rig.restart_after_crash()          # on what a kill -9 leaves behind
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.frames import Address, Entry, LogKey, Message, Outcome, SessionKey, parse_address
from imgateway.interfaces import Claim, IBroker, IBrokerListener, LoginPolicy, Opened, Publication

__all__ = ("Killed", "Recorder", "Rig", "SimulatedDisk", "SteppedLane", "Steps", "disk_error", "opening")

T = TypeVar("T")

_TEXTS = {
    "SQLITE_FULL": "database or disk is full",
    "SQLITE_BUSY": "database is locked",
    "SQLITE_IOERR": "disk I/O error",
}


class Killed(BaseException):
    """The process is dead: nothing after this call happens."""


def disk_error(name: str = "SQLITE_IOERR") -> sqlite3.OperationalError:
    """What SQLite raises, by the name of its code."""
    error = sqlite3.OperationalError(_TEXTS.get(name, name))
    error.sqlite_errorname = name
    return error


class SimulatedDisk:
    """A directory whose databases fail or end the process at a chosen call.

    A call is one `execute` or `executemany` of any connection made by `connect`; `calls` counts them.
    `power`: keep what was synced after each commit, so that a power loss can be told from a kill (costs a
    copy of the files each time).
    """

    def __init__(self, path: Path, power: bool = False) -> None:
        self.path = path
        self.path.mkdir(parents=True, exist_ok=True)
        self.calls = 0
        self.statements: list[str] = []
        self._power = power
        self._synced: dict[str, bytes] = {}
        self._crash: dict[str, bytes] | None = None
        self._kill: tuple[int, bool] = (0, False)
        self._fail: tuple[Callable[[str], bool], sqlite3.Error, bool, int] | None = None
        self._dead = False
        self._last_after = False

    def connect(self, path: str) -> sqlite3.Connection:
        """The broker's `open_database`."""
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                return disk._call(self, arguments[0], lambda: super(Connection, self).execute(*arguments))

            def executemany(self, *arguments: Any) -> sqlite3.Cursor:
                return disk._call(self, arguments[0], lambda: super(Connection, self).executemany(*arguments))

        return sqlite3.connect(
            path, timeout=0, isolation_level=None, check_same_thread=False, factory=Connection
        )

    def kill_at(self, call: int, after: bool = False) -> None:
        """End the process at this call: before it, or after it did its work and before anybody knows."""
        self._kill = (call, after)

    def fail(
        self,
        error: sqlite3.Error,
        where: Callable[[str], bool] = lambda statement: True,
        after: bool = False,
        times: int = 1_000_000_000,
    ) -> None:
        """Raise in calls whose statement `where` picks; `after`: the call did its work, but nobody is
        told."""
        self._fail = (where, error, after, times)

    def mend(self) -> None:
        self._fail = None

    def crash(self, power_loss: bool = False) -> None:
        """Note what is left if the process ends now (a kill noted it already), and put the directory into
        that state.

        All connections must be out of use.
        """
        if power_loss:
            left = self._synced
        else:
            left = self._crash if self._crash is not None else self._files()
        shutil.rmtree(self.path)
        self.path.mkdir()
        for name, content in left.items():
            (self.path / name).write_bytes(content)
        self._crash, self._dead, self._kill = None, False, (0, False)
        self.mend()

    def _call(self, connection: sqlite3.Connection, statement: str, work: Callable[[], T]) -> T:
        if self._dead:
            raise Killed
        self.calls += 1
        self.statements.append(statement)
        call, after = self._kill
        if self.calls == call and not after:
            self._die()
        failing = self._failing(statement)
        if failing and not self._after():
            raise failing
        result = work()
        if self._power and not connection.in_transaction:
            self._synced = self._files()
        if self.calls == call:
            self._die()
        if failing:
            raise failing
        return result

    def _failing(self, statement: str) -> sqlite3.Error | None:
        if self._fail is None or not self._fail[0](statement) or statement.startswith("PRAGMA"):
            return None
        where, error, after, times = self._fail
        self._fail = (where, error, after, times - 1) if times > 1 else None
        self._last_after = after
        return error

    def _after(self) -> bool:
        return self._last_after

    def _die(self) -> None:
        self._crash = self._files()
        self._dead = True
        raise Killed

    def _files(self) -> dict[str, bytes]:
        # Without the shared memory of the write-ahead log: it is rebuilt, as after a crash of the last
        # process.
        return {
            file.name: file.read_bytes()
            for file in self.path.iterdir()
            if file.is_file() and not file.name.endswith(("-shm", ".lock"))
        }


class Steps:
    """Lanes without threads: jobs run and results come back when the test says so.

    Called with a name it makes a lane, as the broker's `lane` argument wants. Results come back in the order
    in which jobs ended, as through a reactor.
    """

    def __init__(self) -> None:
        self.lanes: dict[str, SteppedLane] = {}
        self.results: deque[tuple[Callable[[Any], None], Any]] = deque()

    def __call__(self, name: str) -> SteppedLane:
        lane = self.lanes[name] = SteppedLane(self.results)
        return lane

    def choices(self) -> list[Callable[[], None]]:
        """What could happen next, of all lanes: a job, or the report of one."""
        found = [lane.step for lane in self.lanes.values() if lane.jobs]
        return [*found, self.report] if self.results else list(found)

    def report(self) -> None:
        """Give the oldest result to the reactor."""
        done, result = self.results.popleft()
        done(result)

    def run(self, random: Random | None = None) -> None:
        """Until nothing is left to do; in a drawn order, or jobs first."""
        while found := self.choices():
            (random.choice(found) if random else found[0])()


class SteppedLane:
    """One lane of `Steps`."""

    def __init__(self, results: deque[tuple[Callable[[Any], None], Any]]) -> None:
        self.jobs: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self._results = results

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        self.jobs.append((job, done))

    def stop(self) -> None:
        pass

    def step(self) -> None:
        """Run the oldest job."""
        job, done = self.jobs.popleft()
        self._results.append((done, job()))


def opening(broker: IBroker, claim: Claim) -> Deferred[Opened]:
    """What the broker answers to the claim, as a Deferred. What its `open_session` raises is raised here."""
    opened: Deferred[Opened] = Deferred()
    broker.open_session(claim, opened.callback, ())
    return opened


@implementer(IBrokerListener)
class Recorder:
    """A listener that writes down what it is told, as (name, *values)."""

    def __init__(self) -> None:
        self.away: set[LogKey] = set()
        """Mailboxes whose sessions all lost their links."""
        self.events: list[tuple[Any, ...]] = []

    def named(self, *names: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] in names]

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        self.events.append(("arrived", log, epoch, after, upto, entries))

    def mailed(self, log: LogKey, epoch: int, after: int, messages: list[bytes]) -> bool:
        return False  # and is told of it by `arrived`

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        self.events.append(("moved", log, epoch, head))

    def passed(self, address: Any, entry: Entry) -> None:
        self.events.append(("passed", address, entry))

    def unattended(self, log: LogKey, message: Message) -> None:
        self.events.append(("unattended", log, message))

    def attended(self, log: LogKey) -> bool:
        return log not in self.away

    def displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        self.events.append(("displaced", session, generation, code, reason))

    def entered(self, session: SessionKey, address: Address) -> None:
        self.events.append(("entered", session, address))

    def left(self, session: SessionKey, address: Address) -> None:
        self.events.append(("left", session, address))

    def congested(self, on: bool) -> None:
        self.events.append(("congested", on))

    def healthy(self, ok: bool, why: str) -> None:
        self.events.append(("healthy", ok, why))

    def control(self, payload: bytes) -> None:
        self.events.append(("control", payload))


class Rig:
    """An embedded broker on a simulated disk, with a clock that stands still. `path` None: in memory.

    Deferreds are collected as lists that get the result: ``[]`` is not answered yet.
    """

    def __init__(self, path: Path | None, power: bool = False, **arguments: Any) -> None:
        self.path = path
        self.disk = SimulatedDisk(path, power) if path is not None else None
        self.clock = Clock()
        self.wall_ms = 1_700_000_000_000
        self._arguments = arguments
        self._random = Random(7)
        self._failure: Failure | None = None
        self.new()

    def new(self) -> None:
        """Another process on the same directory, not started; the one before is forgotten as it is."""
        self.steps = Steps()
        self.listener = Recorder()
        arguments: dict[str, Any] = {
            "settings": BrokerSettings(),
            "retention": RetentionSettings(),
            **self._arguments,
        }
        if self.disk is not None:
            arguments["open_database"] = self.disk.connect
        self.clock = Clock()
        self.broker = EmbeddedBroker(
            reactor=self.clock,
            data_dir=self.path,
            now_ms=lambda: self.wall_ms,
            entropy=self._random.randbytes,
            random=self._random.random,
            lane=self.steps,
            **arguments,
        )

    def start(self) -> Rig:
        self.now(self.broker.start(self.listener, "n.1"))
        return self

    def stop(self) -> None:
        self.now(self.broker.stop())

    def crash(self, power_loss: bool = False) -> None:
        """The process ends without a word; another starts on what is left."""
        assert self.disk is not None
        old = self.broker
        if old._directory is not None:
            old._directory.unlock()  # what the kernel does
        self.disk.crash(power_loss)
        self.new()
        self.start()

    def run(self, random: Random | None = None) -> None:
        self.steps.run(random)

    def now(self, deferred: Deferred[T]) -> T:
        """Run everything; the result, which must be there then. Raises what the Deferred failed with."""
        self._failure = None
        box = self.later(deferred)
        self.run()
        failure: Failure | None = self._failure
        if failure is not None:
            failure.raiseException()
        assert box, "no answer"
        return box[0]

    def later(self, deferred: Deferred[T]) -> list[T]:
        """A list that will hold the result."""
        box: list[Any] = []

        def failed(failure: Failure) -> None:
            self._failure = failure

        deferred.addCallbacks(box.append, failed)
        return box

    def pass_time(self, seconds: float) -> None:
        """The clock and the wall clock go on, in steps of a second at most, and all work is done."""
        while seconds > 0:
            step = min(seconds, 1.0)
            self.wall_ms += int(step * 1000)
            self.clock.advance(step)
            self.run()
            seconds -= step

    def publish(
        self,
        *to: str,
        msg_id: str,
        sender: str = "alice",
        device: str = "phone",
        body: bytes = b"hello",
        ttl_s: int = 0,
        **more: Any,
    ) -> list[tuple[Outcome, ...]]:
        sent_ms = self.wall_ms
        message = Message(
            msg_id, sender, device, "text/plain", body, sent_ms, sent_ms + ttl_s * 1000 if ttl_s else 0
        )
        addresses = tuple(map(parse_address, to))
        return self.later(self.broker.publish(Publication(message, addresses, **more)))

    def claim(self, user: str, device: str = "phone", **more: Any) -> Claim:
        return Claim(SessionKey(user, device), **{"policy": LoginPolicy.MANY, **more})
