"""A client without a gateway, a world around the commands, and input that a test types."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock

from imgateway.cli.world import World
from imgateway.client import Received
from imgateway.errors import OutcomeUnknown
from imgateway.frames import Limits, Message, Outcome, Welcome, address_text, parse_address

OK = Outcome(0, 7, 1)


def message(body: bytes = b"hello", msg_id: str = "m1", **fields: Any) -> Message:
    return Message(msg_id, "bob", "phone", "text/plain", body, 1_700_000_000_000, **fields)


def received(what: Message | None = None, seq: int = 1, address: str = "user:alice") -> Received:
    return Received(parse_address(address), 0, 7, seq, what or message())


class FakeClient:
    """`log` says what was done in which order; `answer` gives the word on a publish at once, None: later."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url, self.options = url, options
        self.log: list[Any] = []
        self.on_up: Any = None
        self.on_down: Any = None
        self.on_gap: Any = None
        self.welcome: Welcome | None = None
        self.connected = False
        self.user = "alice"
        self.session = "s"
        self.window = 4
        self.max_body_bytes = 0
        self.refusal: Exception | None = None
        self.inbox: deque[Received | Exception] = deque()
        self.asked: Deferred[Received] | None = None
        self.waiting: dict[str, Deferred[Any]] = {}
        self.published: list[tuple[str, tuple[Any, ...], Any, dict[str, Any]]] = []
        self.rooms: list[tuple[str, ...]] = []
        self.subscribed: dict[str, Any] = {}
        self.admit: Callable[[str], Exception | None] = lambda room: None
        self.on_unsubscribed: Any = None
        self.answer: Callable[[str], Any] = lambda msg_id: (OK,)

    def start(self) -> Deferred[None]:
        self.log.append("start")
        if self.refusal is not None:
            if self.on_down is not None:
                self.on_down(getattr(self.refusal, "code", 1), "why")
            return fail(self.refusal)
        self.up()
        return succeed(None)

    def up(self) -> None:
        limits = Limits(publish_window=self.window, max_body_bytes=self.max_body_bytes)
        self.welcome = Welcome(self.session, self.user, "n", 1, 30.0, 0, 0, limits)
        self.connected = True
        if self.on_up is not None:
            self.on_up(self.welcome)

    def down(self, code: int = 1, reason: str = "gone") -> None:
        self.connected = False
        self.on_down(code, reason)

    def publish(self, to: Any, body: Any, *, msg_id: str = "", **fields: Any) -> Deferred[Any]:
        self.published.append((msg_id, to, body, fields))
        word = self.answer(msg_id)
        if word is None:
            waiting = self.waiting[msg_id] = Deferred()
            return waiting
        return fail(word) if isinstance(word, Exception) else succeed(word)

    def subscribe(self, room: Any, mode: str = "push") -> Deferred[Any]:
        name = room if isinstance(room, str) else address_text(room)
        self.rooms.append((name, mode))
        refusal = self.admit(name)
        if refusal is not None:
            return fail(refusal)
        self.subscribed[name] = SimpleNamespace(ended=None)
        return succeed(self.subscribed[name])

    def unsubscribe(self, room: Any) -> Deferred[None]:
        self.rooms.append((address_text(room), "left"))
        return succeed(None)

    def next_message(self) -> Deferred[Received]:
        if self.inbox:
            what = self.inbox.popleft()
            return fail(what) if isinstance(what, Exception) else succeed(what)
        self.asked = Deferred()
        return self.asked

    def messages(self) -> FakeClient:
        return self

    def __aiter__(self) -> FakeClient:
        return self

    async def __anext__(self) -> Received:
        return await self.next_message()

    def deliver(self, what: Received) -> None:
        assert self.asked is not None
        asked, self.asked = self.asked, None
        asked.callback(what)

    def take(self) -> None:
        self.log.append("take")

    def close(self, timeout_s: float = 5.0) -> Deferred[None]:
        self.log.append("close")
        waiting, self.waiting = self.waiting, {}
        for word in waiting.values():
            if not word.called:
                word.errback(OutcomeUnknown("closed"))
        return succeed(None)


class Typed:
    """Lines that the test types; `end` ends them."""

    def __init__(self, *lines: bytes, ended: bool = True, interactive: bool = False) -> None:
        self.lines, self.ended, self.interactive = deque(lines), ended, interactive
        self.asked: Deferred[bytes | None] | None = None

    def __aiter__(self) -> Typed:
        return self

    async def __anext__(self) -> bytes:
        if self.lines:
            return self.lines.popleft()
        if self.ended:
            raise StopAsyncIteration
        self.asked = Deferred()
        line = await self.asked
        if line is None:
            raise StopAsyncIteration
        return line

    def type(self, line: bytes | None) -> None:
        assert self.asked is not None
        asked, self.asked = self.asked, None
        asked.callback(line)


class Stage:
    """A World whose reactor is a Clock. `script` runs beside the command; then the clock goes on."""

    def __init__(self, typed: Typed | None = None) -> None:
        self.clock = Clock()
        self.client: FakeClient | None = None
        self.prepare: Callable[[FakeClient], None] = lambda client: None
        self.script: list[Callable[[FakeClient], object]] = []
        self.typed = typed or Typed()
        self.world = World(self._run, self._client, lambda reactor: self.typed, lambda: 1_700_000_000.0)
        self.task: Deferred[int] | None = None

    def _client(self, url: str, **options: Any) -> FakeClient:
        self.client = FakeClient(url, **options)
        self.prepare(self.client)
        return self.client

    def _run(self, main: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
        task = self.task = ensureDeferred(main(self.clock))
        ended: list[Any] = []
        task.addBoth(ended.append)
        steps = iter(self.script)
        for _ in range(1_000):
            if ended:
                break
            step = next(steps, None)
            if step is not None:
                assert self.client is not None
                step(self.client)
            else:
                self.clock.advance(1)
        assert ended, "the command did not end"
        if hasattr(ended[0], "raiseException"):
            ended[0].raiseException()
        status: int = ended[0]
        return status
