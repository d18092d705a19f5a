"""Routers that run push tasks: a gateway that remembers what it took, a real SQLite store, and a clock.

The store is called at once instead of in a thread. A process can be killed at any of its calls, before or
after it had its effect: then nothing of it happens any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock

from imgateway.config import LimitSettings, RouterSettings
from imgateway.frames import Address, Outcome, OutcomeCode, Publish, address_text
from imgateway.interfaces import Mailbox
from imgateway.router.tasks.database import Database
from imgateway.router.tasks.pulse import Pulse
from imgateway.router.tasks.runner import Runner
from imgateway.router.tasks.service import Tasks
from imgateway.router.tasks.store import Store, Task

WALL_MS = 1_700_000_000_000
EPOCH = 77


class FakeGateway:
    """Takes every message once for each log and msg_id; `held`: answers wait for `answer`."""

    def __init__(self) -> None:
        self.logs: dict[Address, dict[tuple[str, str, str], int]] = defaultdict(dict)
        self.publishes: list[Publish] = []
        self.refuses: dict[Address, int] = {}
        self.seen: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.epochs: dict[str, int] = {}
        self.held = False
        self.fails = False
        self.waiting: list[tuple[Deferred[tuple[Outcome, ...]], tuple[Outcome, ...]]] = []
        self.asked: list[str] = []

    def publish(self, publish: Publish, sender: str, device: str = "api") -> Deferred[tuple[Outcome, ...]]:
        self.publishes.append(publish)
        if self.fails:
            return fail(RuntimeError("cannot just now"))
        assert len(set(publish.to)) == len(publish.to)
        key = (sender, device, publish.msg_id)
        outcomes = tuple([self._take(self._meant(to, publish.to), key) for to in publish.to])
        if not self.held:
            return succeed(outcomes)
        self.waiting.append((Deferred(), outcomes))
        return self.waiting[-1][0]

    def _meant(self, to: Address, all: tuple[Address, ...]) -> Address:
        """In one publish the user's message is for all its devices."""
        whole = Address("user", to.id)
        return whole if to.kind == "device" and whole in all else to

    def _take(self, to: Address, key: tuple[str, str, str]) -> Outcome:
        if to in self.refuses:
            return Outcome(self.refuses[to])
        log = self.logs[Address("user", to.id) if to.kind == "device" else to]
        key = (*key[:2], f"{key[2]} for {to.device}") if to.device else key
        if key in log:
            return Outcome(OutcomeCode.DUPLICATE, EPOCH, log[key])
        log[key] = len(log) + 1
        return Outcome(OutcomeCode.OK, EPOCH, len(log))

    def answer(self, many: int = 1_000_000) -> None:
        waiting, self.waiting = self.waiting[:many], self.waiting[many:]
        for deferred, outcomes in waiting:
            deferred.callback(outcomes)

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        self.asked.append(user)
        if self.fails:
            return fail(RuntimeError("cannot just now"))
        head = len(self.logs[Address("user", user)])
        epoch, first = self.epochs.get(user, EPOCH), self.first.get(user, 1)
        return succeed(Mailbox(epoch, first, head, self.seen.get(user, 0)))

    def taken(self) -> dict[str, int]:
        """Address → how many messages are there."""
        return {address_text(address): len(log) for address, log in self.logs.items() if log}


class Calls:
    """Calls of a store, at once. They end where `dies_at` says, `after` it had its effect or before."""

    def __init__(self, dies_at: int = -1, after: bool = False) -> None:
        self.names: list[str] = []
        self.dies_at = dies_at
        self.after = after
        self.dead = False
        self.fails = 0
        """So many calls from now on find the database away."""
        self.loses = 0
        """So many have their effect, and their answer is lost."""
        self.held: list[Callable[[], None]] | None = None
        self.started = self.stopped = False
        self.waiting = 0
        self.lag: Clock | None = None
        """Everything is answered in a later turn of this clock, but for those of these names."""
        self.prompt: tuple[str, ...] = ()
        self.raises: tuple[str, ...] = ()
        """Those of these names raise instead of being made."""

    def start(self) -> None:
        self.started = True

    def stop(self, last: Callable[[], None]) -> Deferred[None]:
        self.stopped = True
        last()
        return succeed(None)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if function.__name__ in self.raises:
            raise RuntimeError("can't start new thread")
        return self.step(function.__name__, lambda: execute(function, *arguments))

    def step(self, name: str, does: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        """One thing that a process does, unless it is dead."""
        if self.dead:
            return Deferred()
        self.names.append(name)
        self.dead = len(self.names) == self.dies_at
        if self.dead and not self.after:
            return Deferred()
        if self.fails:
            self.fails -= 1
            return fail(away())
        done = does()
        if self.loses:
            self.loses -= 1
            return fail(away())
        if self.dead:
            return Deferred()
        if self.held is None and (self.lag is None or name in self.prompt):
            return done
        later: Deferred[Any] = Deferred()
        if self.lag is not None:
            self.lag.callLater(0, done.addBoth, later.callback)
            return later
        assert self.held is not None
        self.held.append(lambda: done.addBoth(later.callback) and None)
        return later

    def let(self) -> None:
        """What was held up happens now."""
        assert self.held is not None
        held, self.held = self.held, []
        for one in held:
            one()


def away() -> OperationalError:
    return OperationalError("UPDATE secret", {}, Exception("the server is away\nDETAIL: long"))


class Router:
    """One process: a runner with its own clock, over the rig's store and gateway."""

    def __init__(self, rig: Rig, calls: Calls, owner: str, window: int, at_once: int, lags: bool) -> None:
        self.calls = calls
        self.clock = Clock()
        if lags:
            calls.lag = self.clock
        self.health: list[tuple[bool, str]] = []
        self.runner = Runner(
            rig.store,
            Pulse(calls.call, self.clock.seconds, lambda ok, why: self.health.append((ok, why))),
            lambda publish, sender, device: calls.step(
                "publish", lambda: rig.gateway.publish(publish, sender, device)
            ),
            self.clock,
            owner=owner,
            window=window,
            at_once=at_once,
            keep_s=1_000,
        )
        self.runner.start()

    def run(self, seconds: float = 5.0) -> None:
        for _ in range(round(seconds / 0.1)):
            if not self.calls.dead:
                self.clock.advance(0.1)


class Rig:
    """The database, the gateway, and routers as they are made."""

    def __init__(self, directory: Path, url: str = "") -> None:
        self.database = Database(url or f"sqlite:///{directory}/tasks.db", lambda: WALL_MS)
        self.store = Store(self.database)
        self.store.open()
        self.gateway = FakeGateway()
        self.routers: list[Router] = []

    def close(self) -> None:
        self.database.close()

    def later(self, seconds: float) -> None:
        self.database.shift_ms += round(seconds * 1000)

    def router(
        self,
        dies_at: int = -1,
        after: bool = False,
        owner: str = "r1",
        window: int = 5,
        at_once: int = 2,
        lags: bool = False,
    ) -> Router:
        self.routers.append(Router(self, Calls(dies_at, after), owner, window, at_once, lags))
        return self.routers[-1]

    def task(
        self, many: int = 12, rate: float = 0.0, own: str | None = None, id: str = "t", at_ms: int = 0
    ) -> int:
        message = b'{"msg_id":"%s","content_type":"text/plain","body":"aGk="}' % id.encode()
        number = self.store.begin(id, "", "service:shop", message, rate, at_ms)
        self.store.add(number, [(n, f"user:{n}", own) for n in range(1, many + 1)])
        self.store.complete(number, many, 0, "[]")
        return number

    def forget(self) -> None:
        """Sweep every task that is over."""
        while self.store.sweep(-1).more:
            pass

    def get(self, id: str = "t") -> Task:
        return self.store.get(id)


def make_tasks(rig: Rig, directory: Path, clock: Clock, **settings: Any) -> tuple[Tasks, Calls]:
    """The whole, over the rig's gateway, with a database of its own."""
    calls = Calls()
    tasks = Tasks(
        rig.gateway,  # type: ignore[arg-type]
        clock,
        owner="r1",
        data_dir=str(directory),
        router=RouterSettings(**settings),
        limits=LimitSettings(max_body_bytes=100),
        wall_ms=lambda: WALL_MS + round(clock.seconds() * 1000),
        threads=calls,
    )
    return tasks, calls
