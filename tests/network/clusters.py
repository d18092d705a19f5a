"""Clusters of real processes for tests: nodes and routers, their load, and what flows again how soon."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import protocol
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from imgateway.auth.keys import make_secret
from imgateway.client import Gap, Received
from imgateway.router.keys import entry_of, make_key
from tests.network.flows import Listener, Publisher
from tests.network.nodes import DEADLINE_S, TWISTD, Node, Ports, soon, until

__all__ = ("START_S", "Cluster", "Door", "Figures", "Forwarder", "Pair", "Pusher", "Reader", "Traffic")

START_S = 60.0
"""For all processes of a cluster together, on a machine that has other things to do."""
NDJSON = "application/x-ndjson"
LIMITS = ("--set", "retention.entries=1000000")
HEARTBEAT = ("--set", "session.heartbeat_s=5", "--set", "session.dead_s=12.5")


class Door(Node):
    """A router: started, waited for and ended as a node is; `http` is its private port, `tcp` its public."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.tcp}"

    def command(self) -> list[str]:
        places = ["--public", f"127.0.0.1:{self.tcp}", "--private", f"127.0.0.1:{self.http}"]
        return [*TWISTD[:-1], "imrouter", "--data-dir", str(self.data), *places, *self.options]


class Cluster:
    """Nodes and routers with one secret, one broker and one registry, as processes.

    :param registry: as ``--registry`` takes it; empty: none, and so no routers.
    """

    def __init__(self, place: Path, ports: Ports, broker: str, registry: str = "") -> None:
        self.place = place
        self._ports = ports
        self._common = ["--broker", broker, *(["--registry", registry] if registry else [])]
        self.data = place / "data"
        make_secret(str(self.data))
        key, entry = make_key("shop", ["*"], rate=0.0)
        self.keys = place / "keys.toml"
        self.keys.write_text(entry_of(entry))
        self._authorization = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.nodes: dict[str, Node] = {}
        self.doors: dict[str, Door] = {}

    def node(self, name: str, *options: str) -> Node:
        """A node, not started."""
        more = ["--node", name, *self._common, *LIMITS, *HEARTBEAT, *options]
        self.nodes[name] = self._made(Node, name, more, listen=("native+tcp:tcp:{tcp}:interface=127.0.0.1",))
        return self.nodes[name]

    def door(self, name: str) -> Door:
        """A router, not started."""
        more = [*self._common, "--keys", str(self.keys)]
        more += ["--set", f"router.tasks_url=sqlite:///{self.place}/{name}.db"]
        self.doors[name] = self._made(Door, name, more)
        return self.doors[name]

    def _made(self, kind: Any, name: str, options: list[str], **more: Any) -> Any:
        directory = self.place / name
        directory.mkdir()
        made = kind(directory, self._ports, options, **more)
        made.data = self.data
        return made

    async def start(self) -> Cluster:
        """All processes at once; back when all are ready and each router knows all nodes."""
        processes = [*self.nodes.values(), *self.doors.values()]
        for process in processes:
            process.begin()
        for process in processes:
            await soon(process.ready, START_S, f"the readiness of {process.directory.name}")
        for name in self.doors:
            await soon(lambda name=name: self.knows(name) == set(self.nodes), what="all nodes at a router")
        return self

    def knows(self, door: str) -> set[str]:
        """The names of the ready nodes that a router knows."""
        status, told = self.ask(door, "GET", "/v1/nodes")
        return {one["node"] for one in told["nodes"] if one["state"] == "ready"} if status == 200 else set()

    def ask(self, door: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer of a router's private port; 0: nobody answers. Blocks.

        :param body: what becomes JSON; bytes: NDJSON as it stands. An answer in NDJSON is a list.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.doors[door].http, timeout=DEADLINE_S)
        try:
            data, headers = body, dict(self._authorization)
            if isinstance(body, bytes):
                headers["Content-Type"] = NDJSON
            elif body is not None:
                data = json.dumps(body)
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            told = answer.read()
            if (answer.getheader("Content-Type") or "").startswith(NDJSON):
                return answer.status, [json.loads(line) for line in told.splitlines()]
            return answer.status, json.loads(told)
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def asking(self, door: str, method: str, path: str, body: Any = None) -> Deferred[tuple[int, Any]]:
        """As `ask`, while the test's reactor runs."""
        return deferToThread(self.ask, door, method, path, body)

    async def stop(self) -> None:
        """As `end`, while the test's reactor runs."""
        self._terminate()
        for process in (*self.doors.values(), *self.nodes.values()):
            await soon(lambda process=process: process.process is None or process.exited(), what="the end")

    def end(self) -> None:
        self._terminate()
        for process in (*self.doors.values(), *self.nodes.values()):
            process.end()

    def _terminate(self) -> None:
        for process in (*self.doors.values(), *self.nodes.values()):
            if process.process is not None and not process.exited():
                process.process.terminate()


class Reader(Listener):
    """A listener that also writes down when it was shown what, and messages and gaps in one order."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.events: list[Received | Gap] = []
        super().__init__(*arguments, **more)
        self.client.on_gap = self._missed

    def _heard(self, received: Received) -> None:
        super()._heard(received)
        self.events.append(received)

    def _missed(self, gap: Gap) -> None:
        self.gaps.append(gap)
        self.events.append(gap)


class Pair:
    """A sender and its receiver, who publishes 0, 1, 2 … to it.

    :param from_: the URLs of the sender, :param to: those of the receiver, in the order in which they are
        tried; a name begins with ``http``: it is a router's.
    """

    def __init__(
        self, cluster: Cluster, name: str, from_: Sequence[str], to: Sequence[str], outstanding: int = 4
    ) -> None:
        any_node = next(iter(cluster.nodes.values()))
        self.name = name
        self.reader = Reader(any_node, f"to-{name}", None, *_where(to)[0], **_where(to)[1])
        place, more = _where(from_)
        self.publisher = Publisher(
            any_node, f"from-{name}", f"user:to-{name}", None, *place, outstanding, pause_s=0.02, **more
        )
        self.publisher.client.on_down = self.reader.client.on_down  # both in one list
        self._before = 0

    def mark(self) -> None:
        """What is begun from here on counts for `flows`."""
        self._before = self.publisher.begun

    @property
    def flows(self) -> bool:
        """Something that was begun after the mark was shown."""
        shown = self.reader.shown
        return bool(shown) and int(shown[-1][0].split()[1]) >= self._before

    def check(self) -> None:
        """Exactly once, in order, the seq that was acknowledged, no gap."""
        assert self.reader.gaps == [], self.name
        shown = self.reader.shown
        sender = self.publisher.user.encode()
        assert [body for body, _ in shown] == [b"%s %d" % (sender, n) for n in range(self.publisher.begun)]
        assert dict(shown) == self.publisher.acked, self.name
        seqs = [seq for _, seq in shown]
        assert seqs == sorted(set(seqs)), f"{self.name}: not rising"


class Pusher:
    """A business server that pushes 0, 1, 2 … to a user, one after the other: to a router, and if that does
    not answer, the same to the next.

    :param doors: the names of the routers, which take turns.
    :param to: where the receiver looks for its node, as with `Pair`.
    """

    def __init__(self, cluster: Cluster, name: str, doors: Sequence[str], to: Sequence[str]) -> None:
        place, more = _where(to)
        self.reader = Reader(next(iter(cluster.nodes.values())), name, None, *place, **more)
        self.begun = 0
        self.again = 0
        """How often one did not answer."""
        self._seqs: list[int] = []
        self._cluster = cluster
        self._doors = doors
        self._name = name
        self._before = 0
        self._stopping = False
        self._over: Deferred[None] | None = None

    def go(self) -> None:
        self._over = ensureDeferred(self._push())

    async def _push(self) -> None:
        from twisted.internet import reactor, task

        while not self._stopping:
            number, self.begun = self.begun, self.begun + 1
            asked = {"to": [f"user:{self._name}"], "text": str(number), "msg_id": f"{self._name}-{number}"}
            turn = number
            while True:
                door = self._doors[turn % len(self._doors)]
                status, told = await self._cluster.asking(door, "POST", "/v1/push", asked)
                if status == 200:
                    break
                assert status in (0, 503), told
                turn += 1
                self.again += 1
            (outcome,) = told["outcomes"]
            assert outcome["code"] == "OK" or (outcome["code"] == "DUPLICATE" and turn > number), outcome
            self._seqs.append(outcome["seq"])
            await task.deferLater(reactor, 0.01)  # type: ignore[arg-type]

    def mark(self) -> None:
        """What is begun from here on counts for `flows`."""
        self._before = self.begun

    @property
    def flows(self) -> bool:
        assert self._over is not None
        if isinstance(self._over.result if self._over.called else None, Failure):
            raise AssertionError(self._over.result)
        shown = self.reader.shown
        # Both routers' turns came: one that is away was found to be.
        return bool(shown) and int(shown[-1][0]) > self._before

    async def stop(self) -> None:
        """No more; fires when everything that was begun has its outcome and was shown."""
        self._stopping = True
        if self._over is not None:
            await until(self._over)
        await soon(lambda: len(self.reader.shown) >= self.begun, what=f"the last pushes of {self._name}")

    def check(self) -> None:
        """Exactly once, in order, the seq that was answered, no gap."""
        assert self.reader.shown == [(b"%d" % number, seq) for number, seq in enumerate(self._seqs)]
        assert self._seqs == sorted(set(self._seqs))
        assert self.reader.gaps == []

    async def close(self) -> None:
        self._stopping = True
        if self._over is not None:
            self._over.addErrback(lambda _: None)
            await until(self._over)
        await until(self.reader.client.close(1.0))


def _where(urls: Sequence[str]) -> tuple[tuple[Sequence[str]], dict[str, Any]]:
    """The Client's `url`, and `router`."""
    if urls[0].startswith("http"):
        return ((),), {"router": list(urls)}
    return (list(urls),), {}


class Traffic:
    """Pairs under load. `marks` and `flowing` measure how long a fault keeps them."""

    def __init__(self, *pairs: Pair) -> None:
        self.pairs = pairs

    async def go(self) -> None:
        for pair in self.pairs:
            pair.publisher.go()
        await self.flowing()

    def mark(self) -> float:
        """Now, in seconds of a steady clock."""
        for pair in self.pairs:
            pair.mark()
        return time.monotonic()

    async def flowing(self, *names: str) -> None:
        """Each of these pairs (none: of all) was shown something that was begun after the mark."""
        pairs = [pair for pair in self.pairs if not names or pair.name in names]
        late = [pair.name for pair in pairs]

        def all_flow() -> bool:
            late[:] = [pair.name for pair in pairs if not pair.flows]
            return not late

        try:
            await soon(all_flow, START_S)
        except AssertionError:
            raise AssertionError(f"nothing flows: {late}") from None

    @property
    def acked(self) -> int:
        return sum(len(pair.publisher.acked) for pair in self.pairs)

    @property
    def downs(self) -> list[tuple[int, str]]:
        """Code and reason of each link that a sender or a receiver lost."""
        return [down for pair in self.pairs for down in pair.reader.downs]

    async def stop(self) -> None:
        """No more is begun; back when everything has its outcome and everything acknowledged was shown."""
        for pair in self.pairs:
            pair.publisher.halt()
        for pair in self.pairs:
            await pair.publisher.stop()

    async def drained(self) -> None:
        """What was acknowledged has been shown."""
        for pair in self.pairs:
            await soon(
                lambda pair=pair: len(pair.reader.shown) >= len(pair.publisher.acked),
                what=f"the last deliveries of {pair.name}",
            )

    def check(self) -> None:
        for pair in self.pairs:
            pair.check()

    async def close(self) -> None:
        for pair in self.pairs:
            pair.publisher.halt()
        closing = [one.client.close(1.0) for pair in self.pairs for one in (pair.publisher, pair.reader)]
        for over in closing:
            await until(over)


class Figures:
    """What was killed, and after how many seconds deliveries flowed again."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[float]] = {}
        self.more: list[str] = []

    def add(self, what: str, until_: str, seconds: float) -> None:
        self._rows.setdefault((what, until_), []).append(seconds)

    def __iter__(self) -> Iterator[str]:
        """A table in Markdown, line by line."""
        yield "| what | until | times | median | slowest |"
        yield "|---|---|--:|--:|--:|"
        for (what, until_), times in self._rows.items():
            middle = statistics.median(times)
            yield f"| {what} | {until_} | {len(times)} | {middle:.2f} s | {max(times):.2f} s |"
        yield from self.more


class Forwarder(protocol.Factory):
    """A port of this process that leads to another one, which may be changed."""

    def __init__(self, port: int) -> None:
        from twisted.internet import reactor

        self._to = port
        self._ends: list[_End] = []
        self._listening: Any = reactor.listenTCP(0, self, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, address: Any) -> _End:
        return self._add(_End(self))

    def _add(self, end: _End) -> _End:
        self._ends.append(end)
        return end

    def reach(self, end: _End) -> None:
        """Connect the other side of a connection that came."""
        from twisted.internet import reactor

        creator = protocol.ClientCreator(reactor, lambda: self._add(_End(self, end)))
        creator.connectTCP("127.0.0.1", self._to, timeout=5).addErrback(lambda _: end.cut())

    def lead_to(self, port: int) -> None:
        """Connections end; the next ones go there."""
        self._to = port
        self.cut()

    def cut(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end.cut()

    def close(self) -> Deferred[Any]:
        self.cut()
        closed: Deferred[Any] = self._listening.stopListening()
        return closed


class _End(protocol.Protocol):
    """One side of a connection; what comes goes out at the other."""

    def __init__(self, forwarder: Forwarder, other: _End | None = None) -> None:
        self._forwarder = forwarder
        self._other = other
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        if self._other is None:
            self._forwarder.reach(self)
        else:
            self._other.joined(self)

    def joined(self, other: _End) -> None:
        self._other = other
        early, self._early = self._early, []
        for data in early:
            self.dataReceived(data)

    def dataReceived(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Any = None) -> None:
        if self._other is not None:
            self._other.cut()

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
