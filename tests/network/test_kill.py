"""``kill -9``, twenty times and more: what was acknowledged arrives exactly once and in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import pytest_twisted
from twisted.internet import task

from .flows import Flow, Listener
from .nodes import Node, soon, until

pytestmark = pytest.mark.network

KILLS = 20
LIMITS = ("--set", "retention.entries=1000000", "--set", "quota.pair_rate=0")


@pytest_twisted.ensureDeferred
async def test_the_node_killed_at_random_moments_under_load(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    from twisted.internet import reactor

    random = Random(20)
    node = await make_node(options=LIMITS).started()
    flow = Flow(node, tmp_path, (node.url, node.ws_url))
    flow.go()
    try:
        for _ in range(KILLS):
            before = flow.acked
            await soon(lambda before=before: flow.acked > before + 20, what="load")
            # A moment that nothing chose but the dice: in the middle of whatever.
            await task.deferLater(reactor, random.uniform(0.0, 0.15))  # type: ignore[arg-type]
            node.kill()
            await node.started()
        await flow.stop()
        flow.check()
        assert flow.acked > KILLS * 20
        assert len(flow.listener.downs) >= KILLS
    finally:
        await flow.close()


PUBLISHER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from imgateway.client import Client

url, token, outbox, run, count = sys.argv[1:]

def say(kind, n):
    sys.stdout.write(f"{kind} {n}\\n")
    sys.stdout.flush()

async def main():
    client = Client(url, token=token, device="pen", outbox=outbox, wait=True, backoff=lambda attempt: 0.05)
    await client.start()
    begun = 0
    def more(_=None):
        nonlocal begun
        if begun < int(count):
            n, begun = begun, begun + 1
            published = client.publish("user:bob", f"{run} {n}")
            published.addCallback(lambda _, n=n: say("acked", n)).addCallback(more)
    for _ in range(16):
        more()
    if not int(count):  # only what earlier runs left
        await client.close(10)
        reactor.stop()

ensureDeferred(main()).addErrback(lambda reason: (sys.stderr.write(str(reason)), reactor.stop()))
reactor.run()
"""


@pytest_twisted.ensureDeferred
async def test_a_client_killed_loses_nothing_that_was_acknowledged_and_repeats_nothing(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    random = Random(5)
    node = await make_node(options=LIMITS).started()
    listener = Listener(node, "bob", None, node.url)
    acked: dict[int, int] = {}
    arguments = [
        sys.executable,
        "-c",
        PUBLISHER,
        node.url,
        node.token("alice", service=True),
        str(tmp_path / "o"),
    ]
    try:
        for run in range(5):
            out = (tmp_path / f"out{run}").open("w+")
            process = subprocess.Popen([*arguments, str(run), "100000"], stdout=out)
            try:
                enough = random.randrange(20, 200)

                def lines(path: Path = tmp_path / f"out{run}") -> int:
                    return path.read_text().count("\n")

                await soon(lambda enough=enough, lines=lines: lines() > enough, what="load")
            finally:
                process.kill()
                process.wait(10)
            acked[run] = lines()
            out.close()
        last = subprocess.Popen([*arguments, "last", "0"])
        await soon(lambda: last.poll() is not None, what="the last run")
        assert last.returncode == 0
        await soon(lambda: sum(1 for _ in listener.shown) >= sum(acked.values()), what="deliveries")
        assert listener.gaps == []
        by_run: dict[int, list[int]] = {run: [] for run in acked}
        order = []
        for body, _ in listener.shown:
            run, number = map(int, body.split())
            by_run[run].append(number)
            order.append(run)
        assert order == sorted(order)
        for run, numbers in by_run.items():
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= acked[run] > 0
    finally:
        await until(listener.client.close())
