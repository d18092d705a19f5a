"""One primary: its lines, its subscription, and whose data it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.redis.checks import check_server
from imgateway.brokers.redis.connection import Connection, RedisError
from imgateway.brokers.redis.line import Line, ReplicaLine
from imgateway.brokers.redis.scripts import scripts
from imgateway.brokers.redis.subscription import Subscription
from imgateway.brokers.redis.urls import RedisUrl
from imgateway.brokers.redis.whereabouts import Whereabouts
from imgateway.core.retry import RetryPolicy
from imgateway.errors import StoreError

__all__ = ("Primary", "Run")

Run = Callable[..., Awaitable[Any]]
"""``(script, *args) → its answer``."""

TICK_S = 1.0
DEAF_TRIES = 3
"""A subscription that could not be made so often in turn is told to the operator."""
PROMPT_S = 1.0
"""An answer that took no longer says what time it is there."""
TIMELY_S = 60.0
"""After so long the answer says nothing of the time any more: clocks are set, and drift."""
PASSING = frozenset(
    {"BUSY", "FENCED", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "NOSENTINEL", "OOM", "READONLY"}
)
"""What Redis may say to a greeting and unsay by itself. Anything else ends the start of a node."""


class Primary:
    """Everything by keyword.

    :param url: where it is. :param password: where `url` has none.
    :param incarnation: of this process.
    :param place: what it is among the primaries, which must be the same for all nodes.
    :param logs: it keeps what was acknowledged; else only rings, which may go lost with it.
    :param to_replica: what it keeps is acknowledged when a replica has it on its disk, too.
    :param unsafe: passes over settings of the server that may lose something.
    :param wait: how long until the next try to reach it, by the number of tries before.
    :param entropy: ``n -> n`` random bytes.
    :param changed: called with (primary, well, why) when it is well, and when it is not any more: it cannot
        be written to, or not be listened to, or has no replica that keeps up.
    :param heard: called with (primary, item): a hint ``[kind, …]``, strings as bytes.
    :param renewed: called with (primary) when its subscription listens (again), or its data is another.
    :param shift_ms: what tests move the server's time by.
    """

    log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        url: RedisUrl,
        incarnation: str,
        wait: RetryPolicy,
        entropy: Callable[[int], bytes],
        changed: Callable[[Any, bool, str], None],
        heard: Callable[[Any, list[Any]], None],
        renewed: Callable[[Any], None],
        index: int = 0,
        password: str = "",
        logs: bool = True,
        place: str = "primary 1 of 1",
        to_replica: bool = False,
        unsafe: bool = False,
        shift_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name = url.name
        self.index = index
        self.generation = 0
        """How often it came back with other data; see `lua/greet.lua`. 0: not reached yet."""
        self.epoch = 0
        """Of the logs on it that have none of their own."""
        self.is_ready = False
        """It could be written to and was listened to, if not now."""
        self.replaced: Callable[[Primary, int], None] = lambda primary, before: None
        """Called when `epoch` is another than `before`: its logs are others. What was called before that, and
        has no answer, runs there, too."""
        self.frees: list[Callable[[Run], Awaitable[None]]] = []
        """Each takes away what is past its time, a bounded part of it. They run ahead of all that waits as
        long as the server has no memory left, for it takes nothing else then."""
        self._reactor = reactor
        self._url = url
        self._password = url.password or password
        self._incarnation = incarnation
        self._logs = logs
        self._place = place
        self._to_replica = to_replica and logs
        self._unsafe = unsafe
        self._entropy = entropy
        self._changed = changed
        self._renewed = renewed
        self._shift_ms = shift_ms
        self._scripts = scripts()
        self._whereabouts = Whereabouts(url, reactor)
        self._replid = b""
        self._lossless = False
        self._why = ""
        self._deaf = ""
        self._lags = False
        self._echoes = 0  # asked for and not answered
        self._is_full = False  # the last line broke for want of memory
        self._told: tuple[bool, str] | None = None
        # (generation, least, most, when): how far its clock was then ahead of the reactor's (ms) in that
        # generation. In another one it may be another server's.
        self._clock: tuple[int, float, float, float] | None = None
        self._starting: Deferred[None] | None = None
        self._reads = False
        self._timer: Any = None
        common: dict[str, Any] = {"reactor": reactor, "connect": self._whereabouts.connect, "wait": wait}
        writing: dict[str, Any] = common | {
            "greet": self._greet_to_write,
            "state": self._line_changed,
            "mark": incarnation,
        }
        self._line = ReplicaLine(lagging=self._lagging, **writing) if self._to_replica else Line(**writing)
        self._reading = Line(greet=self._greet, state=lambda up, failure: None, **common)
        self.subscription = Subscription(
            incarnation=incarnation,
            echo=self._echo,
            heard=partial(heard, self),
            renewed=self._listening,
            state=self._hearing_changed,
            introduce=self._introduce_listener,
            **common,
        )

    @property
    def is_up(self) -> bool:
        """It can be written to."""
        return self._line.is_up

    @property
    def answers(self) -> bool:
        """What is written there now is soon answered: no replica is waited for that does not keep up."""
        return self._line.is_up and not self._lags

    @property
    def is_away(self) -> bool:
        """It is not well, as was told last."""
        return self._told is not None and not self._told[0]

    @property
    def unanswered(self) -> int:
        """Calls under way or waiting."""
        return self._line.unanswered + self._reading.unanswered

    def call(self, script: str, *args: bytes | str | int, at: float | None = None) -> Deferred[Any]:
        """Run a script. Calls run in the order of the calls, whatever becomes of the server, and may run
        again when their answer was lost; see `Line`. `at`: what `time_ms` says of it follows the arguments,
        as far as that is known whenever they are sent."""
        late = tuple if at is None else partial(self.time_ms, at)
        return self._line.call(self._scripts[script], self._shift_ms(), *args, late=late)

    def say(self, script: str, *args: bytes | str | int) -> Deferred[Any]:
        """Run a script now or never: it is cancelled when the server is away, and never run again."""
        return self._line.say(self._scripts[script], self._shift_ms(), *args)

    def ask(self, script: str, *args: bytes | str | int) -> Deferred[Any]:
        """Run a script that only reads, without waiting behind those that write."""
        return self._reading.call(self._scripts[script], self._shift_ms(), *args)

    def time_ms(self, at: float) -> tuple[int, int, int]:
        """(generation, earliest, latest): what its clock, when that was its generation, said at `at` of the
        reactor's; zeros: that is not known yet. Clocks of nodes differ, and this one is the same for all."""
        if self._clock is None or self._reactor.seconds() - self._clock[3] > TIMELY_S:
            return 0, 0, 0
        generation, least, most, _ = self._clock
        return generation, int(at * 1000 + least), int(at * 1000 + most) + 1

    def distrust(self) -> None:
        """Somebody was told of what it does not have any more: its data is older than that."""
        self._line.distrust()

    def start(self) -> Deferred[None]:
        """Fires when it can be written to and is listened to; while it is away, that waits.

        :raises StoreError: (in the Deferred) it refuses us, or is set so that it may lose something.
        """
        self._starting = Deferred()
        self._line.start()
        self._timer = self._reactor.callLater(TICK_S, self._tick)
        return self._starting

    def excuse(self) -> None:
        """The start is over, with or without it: nothing that it says from now on ends that."""
        self._starting = None

    def idle(self) -> Deferred[None]:
        """Fires when every call that writes is answered, or when it is away."""
        return self._line.idle()

    def stop(self) -> None:
        """Calls that wait for an answer fail with CancelledError."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for one in (self._line, self._reading, self.subscription):
            one.stop()
        if self._starting is not None:
            self._starting.cancel()

    def _tick(self) -> None:
        self._timer = self._reactor.callLater(TICK_S, self._tick)
        for one in (self._line, self._reading, self.subscription):
            one.tick()

    # -------------------------------------------------------------------------------------------- greetings

    async def _introduce(self, connection: Connection) -> None:
        if self._password:
            await connection.ask("AUTH", *([self._url.user] if self._url.user else []), self._password)
        if self._url.db:
            await connection.ask("SELECT", self._url.db)

    async def _introduce_listener(self, connection: Connection) -> None:
        await self._introduce(connection)
        if b"role:master" not in await connection.ask("INFO", "replication"):
            raise RedisError("READONLY this is a replica")

    async def _greet_to_write(self, connection: Connection, number: int, heard: tuple[int, int]) -> None:
        await self._introduce(connection)
        self._lossless = await check_server(
            connection, self.name, logs=self._logs, to_replica=self._to_replica, unsafe=self._unsafe
        )
        asked_at = self._reactor.seconds()
        greeting = self._whose_data(connection, self._incarnation, number, *heard)
        try:
            generation, epoch, replid, its_ms = await greeting
        except RedisError as problem:
            if problem.code == "OOM":
                await self._make_room(connection)
            raise
        if self._is_full:  # there was room for the greeting, if not for a call
            await self._make_room(connection)
        was = (self.generation, self.epoch)
        self.generation, self.epoch, self._replid = int(generation), int(epoch), replid
        self._timed(int(its_ms), asked_at)
        if was[0] and was[1] != self.epoch:
            self.replaced(self, was[1])
        if was[0] and was != (self.generation, self.epoch):
            self.log.warn(
                "redis {name}: other data than before (a replica took over, or the data went lost)",
                name=self.name,
            )
            # They may still be at the server that it was.
            self._reading.drop(ConnectionError("other data"))
            self.subscription.drop(ConnectionError("other data"))

    async def _make_room(self, connection: Connection) -> None:
        async def run(script: str, *args: bytes | str | int) -> Any:
            sha, on_no_line = self._scripts[script].sha, ""
            return await connection.ask("EVALSHA", sha, 0, self._shift_ms(), *args, on_no_line)

        for free in self.frees:
            await free(run)

    async def _greet(self, connection: Connection, number: int, heard: tuple[int, int]) -> None:
        await self._introduce(connection)
        await self._whose_data(connection, "", number, *heard)

    async def _whose_data(self, connection: Connection, line: str, *numbers: int) -> Any:
        await self._load(connection)
        epoch = int.from_bytes(self._entropy(7), "big") >> 4 or 1
        known = (connection.address, int(self._lossless), epoch, self.generation, self._place)
        script, shift_ms = self._scripts["greet"].sha, self._shift_ms()
        try:
            return await connection.ask("EVALSHA", script, 0, shift_ms, line, *known, *numbers)
        except RedisError as problem:
            if problem.code != "PLACE":
                raise
            raise StoreError(
                f"redis {self.name}: it is {self._place} here, and {str(problem).removeprefix('PLACE ')} for "
                "other nodes: name the same primaries in the same order at each (broker.url, redis.rings); "
                "if it is new in this place, HDEL ig:primary place there"
            ) from None

    async def _load(self, connection: Connection) -> None:
        """What is missing."""
        every = tuple(self._scripts.values())
        there = await connection.ask("SCRIPT", "EXISTS", *[script.sha for script in every])
        missing = [script for script, is_there in zip(every, there, strict=True) if not is_there]
        if not missing:
            return
        for script in missing:  # one by one: where memory is out, nothing goes in a MULTI
            await connection.ask("SCRIPT", "LOAD", script.source)

    # --------------------------------------------------------------------------------------------- its state

    def _line_changed(self, up: bool, failure: Failure | None) -> None:
        if failure is not None and self._refused(failure):
            return
        problem = failure.value if failure is not None else None
        self._is_full = isinstance(problem, RedisError) and problem.code == "OOM"
        if up and not self._reads:
            self._reads = True
            self._reading.start()
            self.subscription.start()
        elif up:
            self._reading.retry_now()
            self.subscription.retry_now()
        elif isinstance(problem, RedisError):
            # A replica by now, or it loads other data: what it would answer may be old.
            self._reading.drop(ConnectionError("it takes no writes"))
        self._why = "" if failure is None else f"cannot be written to: {_text(failure)}"
        self._tell()

    def _hearing_changed(self, up: bool, failure: Failure | None) -> None:
        if failure is None:
            self._deaf = ""
        elif self._refused(failure):
            return
        elif self.subscription.tries >= DEAF_TRIES:
            self._deaf = f"cannot be listened to: {_text(failure)}"
        self._tell()

    def _lagging(self, lags: bool) -> None:
        self._lags = lags
        self._tell()

    def _tell(self) -> None:
        lags = "no replica had the last messages on its disk within a second" if self._lags else ""
        why = self._why or lags or self._deaf  # so each change of what `answers` says is told
        if self._told != (not why, why):
            self._told = (not why, why)
            self._changed(self, not why, why)

    def _refused(self, failure: Failure) -> bool:
        """A start ends with what waiting would not mend. Of one that comes later it is told, as that it is
        away, and it is not used."""
        starting, problem = self._starting, failure.value
        if isinstance(problem, RedisError) and problem.code not in PASSING:
            said = _first_sentence(str(problem))
            problem = StoreError(f"redis {self.name}: {said}: mend its URL, or this user's rights there")
        if starting is None or not isinstance(problem, StoreError):
            return False
        self._starting = None
        self.stop()
        starting.errback(problem)
        return True

    # ------------------------------------------------------------------------------------------ subscription

    def _echo(self, number: int) -> bool:
        # The answer waits for a replica, however long that is away; calls that wait must not be ever more.
        if not self._line.is_up or (self._lags and self._echoes):
            return False
        self._echoes += 1
        echoing = self.call("echo", self._incarnation, number)
        echoing.addBoth(self._echoed, self._reactor.seconds())
        return True

    def _echoed(self, answer: Any, asked_at: float) -> None:
        self._echoes -= 1
        if isinstance(answer, Failure):
            return
        replid, is_heard, its_ms = answer
        self._timed(its_ms, asked_at)
        if not is_heard and self.subscription.is_up:
            self.subscription.drop(ConnectionError("it listens to another server"))
        if replid != self._replid:
            self._line.drop(ConnectionError("it was a replica in between"))

    def _timed(self, its_ms: int, asked_at: float) -> None:
        now = self._reactor.seconds()
        if now - asked_at < PROMPT_S:
            self._clock = self.generation, its_ms - now * 1000, its_ms + 1 - asked_at * 1000, now

    def _listening(self) -> None:
        starting, self._starting = self._starting, None
        self.is_ready = True
        self._renewed(self)
        if starting is not None:
            starting.callback(None)


def _text(failure: Failure) -> str:
    if failure.check(ConnectionDone, ConnectionLost):
        return "the connection was lost"  # Twisted would say of a process that was killed: closed cleanly
    return _first_sentence(str(failure.value) or type(failure.value).__name__)


def _first_sentence(text: str) -> str:
    """What is wrong. What Redis advises after that may be a page of text."""
    return text.partition(". ")[0].rstrip(".")
