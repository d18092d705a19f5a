"""Scene room: one message to many. Three parts:

``fan-out``: the next message as soon as all members have the one before, against a bare loop of ``send()`` in
C, or against Autobahn's own prepared messages on WebSocket. ``tick``: the processor time of entries that are
gathered for 50 ms, against messages one by one. ``bystanders``: how long a pair waits that is not in
the room.

The generator, bench/crowd.c, is all members. What counts is what they received.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.figures import Figure, Options, Tell, shown, values, version_of
from bench.generator import generator
from bench.servers import CPU, Server, compiled, cpu_seconds, free_port, gateway, scratch, waiting
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings

WIRES = {"tcp": ("native", "native+tcp"), "websocket": ("websocket", "native+websocket")}
MEMBERS = {"fan-out": {"tcp": 5_000, "websocket": 2_000}, "tick": {}, "bystanders": {}}
ASKED = {("tcp", "c"): (0.70, 0.85), ("websocket", "autobahn"): (2.0, 2.6)}
"""Of the baseline's deliveries: at least, and how far it could go."""
ASKED_OF_TICK = (5.0, 7.0)
TICK_MS = 50
LARGE = 2_000
"""Members that a core cannot send 200 messages a second one by one."""
ALONE = 1.05
"""Entries in a frame, at most, where each is said to go in one of its own."""
LOGIN_S = 1 / 1_500
PARTS = ("fan-out", "tick", "bystanders")


def scene(options: Options, tell: Tell) -> list[Figure]:
    """The parts that were asked for; the fan-out alone if none was."""
    parts = {"fan-out": fan_out, "tick": tick, "bystanders": bystanders}
    with scratch() as directory:
        program = compiled(directory, "crowd")
        return [
            found
            for name in options.parts or ("fan-out",)
            for found in parts[name](directory, program, options, tell)
        ]


class Crowd:
    """What runs of the generator have in common."""

    def __init__(self, program: Path, options: Options, members: int) -> None:
        self.program, self.options, self.members = program, options, members
        self.mode, self.wire = WIRES[options.transport]
        self.cpu = None if options.unpinned else CPU
        self.unpinned = ", unpinned" if options.unpinned else ""

    def gateway(self, directory: Path, tick_ms: int) -> Any:
        """A node whose rooms gather for so long."""
        settings = (f'rooms.classes=["*: tick={tick_ms}ms entries=1000"]', "rooms.rate=0")
        broker = (self.options.brokers or ("memory:",))[0]
        return gateway(directory, broker, self.wire, settings, self.cpu)

    def run(
        self,
        server: Server,
        mode: str = "",
        size: int = 0,
        rate: float = 0.0,
        members: int = -1,
        pair: int = 0,
    ) -> dict[str, Any]:
        """One; `cpu` is the share of a core that the server used from when all were there."""
        count = self.members if members < 0 else members
        lines = tokens(server, count, pair) if server.data_dir else ""
        command = [
            self.program, mode or self.mode, "127.0.0.1", server.port, count, size or self.options.size,
            self.options.seconds, rate, pair,
        ]  # fmt: skip
        with generator(command, lines) as load:
            if count:
                load.told()
            before, began = cpu_seconds(server.pid), time.monotonic()
            result = load.told()
            share = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
        return {**result, "cpu": share, "cpu_us": share / max(result["deliveries"], 1) * 1e6}


def tokens(server: Server, members: int, pair: int) -> str:
    """The publisher is a service, the others are users."""
    secret, now = load_secret(AuthSettings(), server.data_dir), time.time()
    users = [f"pair{index}" for index in range(2 * pair)] + [f"m{index}" for index in range(members)]
    lines = [mint(secret, "publisher", service=True, ttl_s=3600, now_s=now)]
    lines += [mint(secret, user, service=user == "pair0", ttl_s=3600, now_s=now) for user in users]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------ fan-out


@contextmanager
def bare(crowd: Crowd, payload: int) -> Iterator[tuple[Server, str]]:
    """The bare loop: one ``send()`` of so many bytes to each member."""
    port = free_port()
    command = [str(crowd.program), "serve", "127.0.0.1", str(port), str(crowd.members), str(payload)]
    with waiting(command, port, crowd.cpu) as server:
        yield server, "raw"


@contextmanager
def autobahn(crowd: Crowd, payload: int) -> Iterator[tuple[Server, str]]:
    """Autobahn's server, its messages as long as ours with their heads."""
    port = free_port()
    body = payload - 2 - 2 * (payload > 127)
    with waiting(
        [sys.executable, "-m", "bench.autobahn_room", str(port), str(body)], port, crowd.cpu
    ) as server:
        yield server, "autobahn"


BASES: dict[str, tuple[Callable[[Crowd, int], Any], Callable[[], str]]] = {
    "c": (bare, lambda: "bare C send loop"),
    "autobahn": (autobahn, lambda: f"Autobahn {version_of('autobahn')}, prepared messages"),
}


def fan_out(directory: Path, program: Path, options: Options, tell: Tell) -> list[Figure]:
    """Deliveries a second."""
    base = options.against or {"tcp": "c", "websocket": "autobahn"}[options.transport]
    crowd = Crowd(program, options, options.members or MEMBERS["fan-out"][options.transport])
    begin, name = BASES.get(base, (None, str))
    tell.plan(options.runs * (2 if begin else 1), 3 + crowd.members * LOGIN_S + options.seconds)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for run in range(options.runs):
        tell.step(f"run {run + 1}/{options.runs}, imgateway")
        with crowd.gateway(directory, 0) as server:
            ours.append(crowd.run(server))
        if begin is None:
            continue
        tell.step(f"run {run + 1}/{options.runs}, {name()}")
        payload = round(ours[-1]["frame"])
        with begin(crowd, payload) as (server, mode):
            theirs.append(crowd.run(server, mode, payload))
    asked, stretch = ASKED.get((options.transport, base), (None, None))
    if options.unpinned:
        asked = stretch = None
    return [
        Figure(
            scene="room",
            what=f"{crowd.members:,} members, {options.transport}{crowd.unpinned}",
            unit="deliveries/s",
            ours=values(ours, "deliveries"),
            against=name(),
            theirs=values(theirs, "deliveries"),
            asked=asked,
            stretch=stretch,
            details={
                "cpu_us": values(ours, "cpu_us"),
                "cores": values(ours, "cpu"),
                "frame_bytes": values(ours, "frame"),
                **(
                    {"their_cpu_us": values(theirs, "cpu_us"), "their_cores": values(theirs, "cpu")}
                    if theirs
                    else {}
                ),
            },
        )
    ]


# --------------------------------------------------------------------------------------------------- tick


def tick(directory: Path, program: Path, options: Options, tell: Tell) -> list[Figure]:
    """Entries for a second of the server's processor, at so many messages a second.

    A room as large as can be served one message at a time, beside the same without a tick. Then one that is
    far too large for that, beside its messages one by one without any pause: the most that a core does so.
    """
    rate = options.rate or 200.0
    limits = (None, None) if options.unpinned else ASKED_OF_TICK
    crowd = Crowd(program, options, options.members or 450)
    rooms = [(crowd, {0: rate, TICK_MS: rate}, "the same without a tick", limits)]
    if not options.members:
        crowd = Crowd(program, options, LARGE)
        rooms.append((crowd, {0: 0.0, TICK_MS: rate}, "one by one, as fast as it goes", (None, None)))
    tell.plan(2 * options.runs * len(rooms), 4 + options.seconds)
    figures = []
    for crowd, rates, against, (asked, stretch) in rooms:
        found = in_turns(directory, crowd, rates, tell)
        gathered, alone = found[TICK_MS], found[0]
        load = f"{shown(rate)} messages/s, tick {TICK_MS} ms"
        figures.append(
            Figure(
                scene="room",
                what=f"{crowd.members:,} members, {options.transport}, {load}{crowd.unpinned}",
                unit="entries per CPU-second",
                ours=values(gathered, "per_cpu"),
                against=against,
                theirs=values(alone, "per_cpu"),
                asked=asked,
                stretch=stretch,
                details={
                    "entries_a_frame": values(gathered, "entries_a_frame"),
                    "cores": values(gathered, "cpu"),
                    "cores_without": values(alone, "cpu"),
                },
            )
        )
    return figures


def in_turns(
    directory: Path, crowd: Crowd, rates: dict[int, float], tell: Tell
) -> dict[int, list[dict[str, Any]]]:
    """The runs by tick, in ms. `rates`: messages a second of each; 0: the next when all have the one before.

    A node that cannot keep up gathers by itself, also because another process has its core: without a tick
    such a run is no base, and is made again.

    :raises ClickException: there is no run without a tick that is one.
    """
    runs = crowd.options.runs
    found: dict[int, list[dict[str, Any]]] = {tick_ms: [] for tick_ms in rates}
    for _ in range(4 * runs):
        tick_ms, results = min(found.items(), key=lambda one: len(one[1]))
        if len(results) == runs:
            break
        tell.step(f"run {len(results) + 1}/{runs}, {crowd.members:,} members, tick {tick_ms} ms")
        with crowd.gateway(directory, tick_ms) as server:
            result = crowd.run(server, rate=rates[tick_ms])
        entries, frames, cpu = result["entries"], result["deliveries"], result["cpu"]
        if frames and cpu and (tick_ms or entries <= ALONE * frames):
            results.append({**result, "per_cpu": entries / cpu, "entries_a_frame": entries / frames})
        else:
            tell.note("the node was too busy to send one by one: made again")
    if not all(found.values()):
        raise click.ClickException(
            "the machine is too busy to send one by one, or there are too many members"
        )
    return found


# --------------------------------------------------------------------------------------------- bystanders


def bystanders(directory: Path, program: Path, options: Options, tell: Tell) -> list[Figure]:
    """A pair that has nothing to do with the room: alone, and while the room is served."""
    crowd = Crowd(program, options, options.members or 18_000)
    rate = options.rate or 400.0
    tell.plan(2 * options.runs, 3 + crowd.members * LOGIN_S / 2 + options.seconds)
    found: dict[int, list[dict[str, Any]]] = {0: [], crowd.members: []}
    for run in range(options.runs):
        for count, results in found.items():
            tell.step(f"run {run + 1}/{options.runs}, {count:,} members")
            with crowd.gateway(directory, TICK_MS) as server:
                results.append(crowd.run(server, rate=rate, members=count, pair=1))
    alone, beside = found[0], found[crowd.members]
    return [
        Figure(
            scene="room",
            what=f"a pair beside a room of {crowd.members:,}, {shown(rate)} messages/s, p99{crowd.unpinned}",
            unit="ms",
            ours=values(beside, "pair_p99_ms"),
            against="the same without the room",
            theirs=values(alone, "pair_p99_ms"),
            better="less",
            details={
                "p50_ms": values(beside, "pair_p50_ms"),
                "p99_ms": values(beside, "pair_p99_ms"),
                "max_ms": values(beside, "pair_max_ms"),
                "entries_per_s": values(beside, "entries"),
                "cores": values(beside, "cpu"),
            },
        )
    ]
