"""Push tasks over a cluster whose router is killed, and one that is cancelled and pushed again: every mailbox
has the message once, every client shows it once, and the report is right to the last user."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from imgateway.frames import Batch
from imgateway.wire.messages import decode_message
from tests.brokers.redis_logs import LogsDesk, log
from tests.brokers.redis_server import RedisServer
from tests.network.clusters import START_S, Cluster, Reader
from tests.network.nodes import holding_ports, soon, until

pytestmark = [pytest.mark.network, pytest.mark.server]

USERS = 5_000
EVERY = 100
"""One in so many users is online."""
RATE = 1_250
BEGUN = 0.1
"""Of those online: so soon a task is struck. It would go on for more than 3 s then, for a busy machine may
take some of them."""
WINDOW = 1_000
"""Not half of it comes together in the 0.2 s after which outcomes are written down: whenever the router is
killed, it has just pushed something that is not."""
TEXT = "hello"
ON_THEIR_WAY = "imgateway_push_tasks_on_their_way"
FLUSH = ("--set", "broker.flush_positions_s=0.25")
"""So soon the report knows who acknowledged."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[Cluster, RedisServer]]:
    redis = RedisServer(tmp_path / "server")
    with holding_ports() as ports:
        cluster = Cluster(tmp_path, ports, redis.url, redis.url)
        try:
            cluster.node("a", *FLUSH)
            cluster.node("b", *FLUSH)
            cluster.door("r").options += ["--set", f"router.tasks_window={WINDOW}"]
            pytest_twisted.blockon(ensureDeferred(cluster.start()))
            yield cluster, redis
        finally:
            cluster.end()
            redis.stop()


class Campaign:
    """One push task, its users, and those of them who are online, half of them at each node."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        self.users = [f"{name}-{n}" for n in range(USERS)]
        nodes = list(cluster.nodes.values())
        online = self.users[EVERY // 2 :: EVERY]
        self.readers = {
            user: Reader(nodes[n % 2], user, None, nodes[n % 2].url) for n, user in enumerate(online)
        }
        self.id = ""

    async def begin(self) -> Campaign:
        """Once they are online: the task."""
        for user, reader in self.readers.items():
            await soon(lambda reader=reader: reader.client.connected, what=f"{user} online")
        upload = b"".join(b'{"user": "%s"}\n' % user.encode() for user in self.users)
        path = f"/v1/tasks?name={self.name}&rate={RATE}&text={TEXT}"
        status, told = await self._cluster.asking("r", "POST", path, upload)
        assert (status, told["task"]["total"], told["task"]["bad"]) == (201, USERS, 0)
        self.id = told["task"]["id"]
        return self

    async def ask(self, method: str = "GET", page: str = "", body: Any = None) -> Any:
        status, told = await self._cluster.asking("r", method, f"/v1/tasks/{self.id}{page}", body)
        assert status == 200, told
        return told

    async def becomes(self, page: str = "", **wanted: Any) -> dict[str, Any]:
        """What a page tells, once it tells this."""
        from twisted.internet import reactor, task

        deadline = time.monotonic() + START_S
        while True:
            told: dict[str, Any] = await self.ask(page=page)
            if all(told[name] == value for name, value in wanted.items()):
                return told
            assert time.monotonic() < deadline, f"{self.name}: {told} never became {wanted}"
            await task.deferLater(reactor, 0.05)  # type: ignore[arg-type]

    async def shows(self, share: float) -> None:
        """So many of those online were shown something."""
        shown = [reader.shown for reader in self.readers.values()]
        await soon(lambda: sum(map(bool, shown)) >= share * len(shown), what=f"the first of {self.name}")

    async def check(self, redis: RedisServer) -> Counter[str]:
        """All of it is there once: mailboxes, clients, report, results. The outcomes' codes, counted."""
        for reader in self.readers.values():
            await soon(lambda reader=reader: reader.shown, what="the last deliveries")
        online = len(self.readers)
        report = await self.becomes("/report", delivered=online)
        wanted = {"state": "done", "total": USERS, "waiting": USERS - online, "refused": {}}
        assert report.items() >= {**wanted, "gone": 0, "unknown": 0, "unsent": 0, "bad": 0}.items(), report
        told = await self.becomes(unsent=0)
        assert (told["state"], told["taken"], told["refused"], told["router"]) == ("done", USERS, 0, "")

        found = mailboxes(redis, self.users)
        entries = {user: batch.entries for user, batch in found.items()}
        assert {user: len(one) for user, one in entries.items() if len(one) != 1} == {}
        messages = [decode_message(one.message) for (one,) in entries.values()]
        assert {message.body for message in messages} == {TEXT.encode()}
        assert len({message.msg_id for message in messages}) == 1

        results = await self.ask(page="/results?limit=10000")
        for n, (user, line) in enumerate(zip(self.users, results, strict=True), 1):
            (entry,) = entries[user]
            state = "delivered" if user in self.readers else "waiting"
            place = (n, f"user:{user}", state, found[user].epoch, entry.seq)
            assert (line["n"], line["to"], line["state"], line["epoch"], line["seq"]) == place
        for user, reader in self.readers.items():
            assert reader.shown == [(TEXT.encode(), entries[user][0].seq)], user
            assert (reader.gaps, reader.downs) == ([], []), user
        return Counter(line["code"] for line in results)

    async def close(self) -> None:
        for over in [reader.client.close(1.0) for reader in self.readers.values()]:
            await until(over)


def mailboxes(redis: RedisServer, users: Sequence[str]) -> dict[str, Batch]:
    """What each of them has, read as a node reads it."""
    desk = LogsDesk(redis, incarnation="reader.1").start()
    try:
        reads = [desk.logs.read(log(f"user:{user}"), 0, 10, 1 << 20) for user in users]
        return dict(zip(users, desk.run(gatherResults(reads)), strict=True))
    finally:
        desk.stop()


@pytest_twisted.ensureDeferred
async def test_a_router_is_killed_and_meanwhile_a_task_cancelled(
    cluster: tuple[Cluster, RedisServer],
) -> None:
    """What the dead router had is held for 15 s: time for the other task."""
    processes, redis = cluster
    struck, halted = Campaign(processes, "struck"), Campaign(processes, "halted")
    door = processes.doors["r"]
    try:
        await struck.begin()
        await struck.shows(BEGUN)
        door.kill()
        door.begin()
        await soon(door.ready, START_S, "the router")
        told = await struck.ask()
        assert told["state"] in ("queued", "running")
        assert 0 < told["taken"] < USERS

        await halted.begin()
        await halted.shows(BEGUN)
        redis.freeze()
        frozen = time.monotonic()
        try:
            many = WINDOW // 2  # more than what may be answered and not written down
            await soon(lambda: door.measure(ON_THEIR_WAY) >= many, what="pushes without an answer")
            assert (await halted.ask("POST", "/cancel"))["state"] == "cancelled"
            # Not for ever: on a busy machine it may have given up what is on its way.
            assert (await halted.ask())["router"] != "" or time.monotonic() - frozen > 2
        finally:
            redis.thaw()
        # What was on its way is written down, and nothing more is pushed.
        told = await halted.becomes(state="cancelled", router="")
        taken = told["taken"]
        assert 0 < taken < USERS
        assert told["unsent"] == USERS - taken
        pushed = {user for user, batch in mailboxes(redis, halted.users).items() if batch.entries}
        assert pushed ^ set(halted.users[:taken]) == set()
        report = await halted.ask(page="/report")
        assert (report["unsent"], report["delivered"] + report["waiting"]) == (USERS - taken, taken)
        assert (await halted.ask("POST", "/repush", {}))["unsent"] == USERS - taken
        await halted.becomes(state="done")
        # Nothing was pushed twice, not even as a duplicate.
        assert await halted.check(redis) == {"OK": USERS}

        await struck.becomes(state="done")
        codes = await struck.check(redis)
        # What was pushed and not written down, at most a window, was pushed again and found to be there.
        assert codes == {"OK": USERS - codes["DUPLICATE"], "DUPLICATE": codes["DUPLICATE"]}
        assert 0 < codes["DUPLICATE"] <= WINDOW
    finally:
        await struck.close()
        await halted.close()
        # A link that the gateway ends is closed by the gateway, which may be busy.
        from twisted.internet import reactor

        await soon(lambda: not reactor.getDelayedCalls(), what="the end of all links")  # type: ignore[attr-defined]
