"""Part cluster of scene soak: very many TCP sessions over several processes behind one router.

Every session asks the router for its place, as a client does, and logs in there; Redis holds the sessions.
The nodes share one core; Redis, the router and the generators (bench/sessions.c, one for each node, for a
process has descriptors for some 20,000) the other. Both ends of each connection are on this machine.
"""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import click

from bench.checks import MOST
from bench.cluster import cluster
from bench.figures import Figure, Tell
from bench.generator import generator
from bench.kernel import Memory, memory
from bench.login import credentials
from bench.servers import OTHER_CPU, READY_S, compiled, cpu_seconds, measure, router, rss_bytes
from bench.tasks import settings_for

SESSIONS, EACH = 200_000, 16_000
"""Sessions, and how many a node is to have; the router's choice decides."""
AT_ONCE, SIZE, RATE = 100, 100, 5.0
"""Logins under way; bytes of a message; messages a second at each node."""
ASKERS, SETTLES_S, LOOK_S = 4, 3.0, 10.0
PATH = "/v1/allocate?transport=tcp&protocol=native"


def many_processes(directory: Path, sessions: int, seconds: float, tell: Tell) -> list[Figure]:
    """Memory of the nodes and of the kernel; who was lost while they stayed."""
    program = compiled(directory, "sessions")
    _, settings = settings_for(directory, 500)
    with ExitStack() as stack:
        among = stack.enter_context(cluster(directory, -(-sessions // EACH), "always"))
        at = stack.enter_context(router(directory, among.url, settings, OTHER_CPU))
        publishers = [f"publisher{n}" for n in range(len(among.nodes))]
        tokens = credentials(among.nodes[0], "c", sessions, *publishers).splitlines()
        publishers, tokens = tokens[: len(publishers)], tokens[len(publishers) :]
        time.sleep(SETTLES_S)  # until the router knows all nodes
        began, cpu = time.monotonic(), cpu_seconds(at.pid)
        shares = allocated(at.port, tokens)
        asking_s, asking_cpu = time.monotonic() - began, cpu_seconds(at.pid) - cpu
        sizes = [len(share) for share in shares.values()]
        tell.note(f"cluster: {len(sizes)} nodes got {min(sizes):,} to {max(sizes):,} in {asking_s:.0f} s")
        if max(sizes) > MOST:
            raise click.ClickException(f"the router sent {max(sizes):,} to one process")
        pids = [node.pid for node in among.nodes]
        before, began, cpu = memory(pids), time.monotonic(), sum(among.cpu())
        loads = []
        for node, publisher in zip(among.nodes, publishers, strict=True):
            share = shares.get(node.port, [])
            lines = "".join(f"{line}\n" for line in (publisher, *share))
            command = [program, "hold", "127.0.0.1", node.port, len(share), AT_ONCE, RATE, SIZE, 0, "c"]
            loads.append(stack.enter_context(generator(command, lines)))
            tell.note(f"cluster: {loads[-1].told()['ready']:,} logged in at {node.port}")
        logins_s = time.monotonic() - began
        login_us = (sum(among.cpu()) - cpu) / sessions * 1e6
        time.sleep(SETTLES_S)
        grown = memory(pids).since(before)
        generators = sum(rss_bytes(load.child.pid) for load in loads)
        assert among.redis is not None
        redis = rss_bytes(among.redis.pid)
        watched, cpu, fewest = time.monotonic(), sum(among.cpu()), float("inf")
        while time.monotonic() - watched < seconds:
            fewest = min(fewest, sum(measure(node, "imgateway_sessions_linked") for node in among.nodes))
            time.sleep(min(LOOK_S, seconds))
        cores = (sum(among.cpu()) - cpu) / (time.monotonic() - watched)
        for load in loads:
            load.child.send_signal(signal.SIGTERM)
        last = [load.told() for load in loads]
    total = {
        key: float(sum(one[key] for one in last))
        for key in ("lost", "missed", "unheard", "sent", "received", "pings")
    }
    what = f"{sessions:,} TCP sessions, {len(sizes)} processes, one router"
    return [
        Figure(
            scene="soak",
            what=f"{what}, {seconds / 60:g} minutes: lost sessions, messages and answers",
            unit="of all",
            ours=(total["lost"] + total["missed"] + total["unheard"] + total["sent"] - total["received"],),
            asked=0.0,
            better="less",
            details={
                **{key: (value,) for key, value in total.items()},
                "fewest_linked": (fewest - len(loads),),  # each node has a publisher
                "cores": (cores,),
                "p99_ms": (max(one["p99_ms"] for one in last),),
            },
        ),
        Figure(
            scene="soak",
            what=f"{what}: memory of the nodes",
            unit="bytes a session",
            ours=(grown.processes / sessions,),
            better="less",
            details={"redis_bytes": (redis / sessions,), "generator_bytes": (generators / sessions,)},
        ),
        kernel_figure(what, sessions, grown),
        Figure(
            scene="soak",
            what=f"{what}: logins",
            unit="logins/s",
            ours=(sessions / logins_s,),
            details={
                "cpu_us": (login_us,),
                "allocations_per_s": (sessions / asking_s,),
                "router_cpu_us": (asking_cpu / sessions * 1e6,),
                "most_at_a_node": (float(max(sizes)),),
                "fewest_at_a_node": (float(min(sizes)),),
            },
        ),
    ]


def kernel_figure(what: str, sessions: int, grown: Memory) -> Figure:
    """The kernel's memory, of both ends."""
    return Figure(
        scene="soak",
        what=f"{what}: memory of the kernel, both ends of a connection",
        unit="bytes a session",
        ours=(grown.kernel / sessions,),
        better="less",
        details={
            "all_that_is_gone": (grown.available / sessions,),
            "buffers": (grown.buffers / sessions,),
            **{f"slab_{name}": (size / sessions,) for name, size in grown.slabs.items()},
        },
        note="half of it is the clients'",
    )


def allocated(port: int, tokens: list[str]) -> dict[int, list[str]]:
    """Who goes where: by the port of the node, lines of token and user. Each asks the router by itself."""

    def ask(first: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        connection = HTTPConnection("127.0.0.1", port)
        for number in range(first, len(tokens), ASKERS):
            place = json.loads(_answer(connection, tokens[number]))["endpoints"][0]
            found.append((urlsplit(place["url"]).port or 0, f"{place['token'] or tokens[number]} c{number}"))
        return found

    shares: dict[int, list[str]] = {}
    with ThreadPoolExecutor(ASKERS) as pool:
        for found in pool.map(ask, range(ASKERS)):
            for where, line in found:
                shares.setdefault(where, []).append(line)
    return shares


def _answer(connection: HTTPConnection, token: str) -> bytes:
    """What the router says; on a busy machine it may yet have to hear of a node.

    :raises ClickException: it refuses, or knows none within `READY_S`.
    """
    until = time.monotonic() + READY_S
    while True:
        connection.request("GET", PATH, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200:
            return body
        if answer.status != 503 or time.monotonic() > until:
            raise click.ClickException(f"the router: {answer.status} {body.decode()[:200]}")
        time.sleep(0.1)
