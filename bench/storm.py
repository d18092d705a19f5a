"""Scene storm: all sessions of a process are dropped at once and come back at once, while a few pairs go on.

The sessions have mailboxes on SQLite, and each has a message there that it has not acknowledged: back is who
is welcomed with the position it had, and then it has that message again. The limits are the defaults: above
``limits.login_rate`` accepting waits, and the system's backlog and TCP's own repetitions carry who waits. The
bystanders are pairs in an open loop (bench/pairs.c), before and during the storm; the baseline of theirs is
what they had before.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, Tell, store, values
from bench.generator import Generator, generator
from bench.login import credentials
from bench.servers import CPU, Server, compiled, cpu_seconds, gateway, measure, scratch, tokens
from imgateway.config import LimitSettings

SESSIONS = 15_000
PAIRS, RATE, SIZE = 10, 200.0, 100
"""Of the bystanders; messages a second of all of them."""
QUIET_S, AFTER_S = 5.0, 1.0
"""How long they are watched before the storm, and after it."""
MOST_S = 300.0
AT_ONCE = 200
ASKED_BACK_S, ASKED_P99_MS = (30.0, 8.0), (100.0, 50.0)
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms")


def scene(options: Options, tell: Tell) -> list[Figure]:
    """Seconds until all are back; how many were refused; the bystanders' 99th percentile."""
    count = options.sessions or SESSIONS
    broker = (options.brokers or ("embedded:",))[0]
    rate = options.rate or RATE
    tell.plan(options.runs, 10 + QUIET_S + count / 1_200)
    found: list[dict[str, Any]] = []
    with scratch() as directory:
        programs = compiled(directory, "sessions"), compiled(directory, "pairs")
        for run in range(options.runs):
            tell.step(f"run {run + 1}/{options.runs}, {broker}, {count:,} sessions")
            with gateway(directory, broker, cpu=None if options.unpinned else CPU) as server:
                found.append(stormed(*programs, server, count, rate))
    return figures(options, broker, count, rate, found)


def stormed(sessions: Path, pairs: Path, server: Server, count: int, rate: float) -> dict[str, Any]:
    """One storm. `quiet`, `loud`: what the pairs had before and during it; `back`: what the sessions say."""
    lines = credentials(server, "s", count, "publisher")
    command = [sessions, "hold", "127.0.0.1", server.port, count, AT_ONCE, 0, SIZE, 0, "s"]
    beside = [pairs, "native", "127.0.0.1", server.port, PAIRS, 0, SIZE, MOST_S, "by", rate, 1]
    with (
        generator(command, lines) as crowd,
        generator(beside, "".join(f"{token}\n" for token in tokens(server, PAIRS, "by"))) as pair,
    ):
        crowd.told()
        say(crowd, signal.SIGUSR2)
        crowd.told()
        pair.awaits("measuring")
        say(pair, signal.SIGUSR1)
        pair.told()
        time.sleep(QUIET_S)
        resumed, spent = measure(server, "imgateway_sessions_resumed_total"), cpu_seconds(server.pid)
        say(pair, signal.SIGUSR1)
        quiet = pair.told()
        say(crowd, signal.SIGUSR1)
        back = crowd.told()
        spent = cpu_seconds(server.pid) - spent
        time.sleep(AFTER_S)
        say(pair, signal.SIGTERM)
        loud = pair.told()
        resumed = measure(server, "imgateway_sessions_resumed_total") - resumed
    return {"back": back, "quiet": quiet, "loud": loud, "resumed": resumed, "cpu_us": spent / count * 1e6}


def say(load: Generator, number: int) -> None:
    """What the generators do next."""
    load.child.send_signal(number)


def figures(
    options: Options, broker: str, count: int, rate: float, found: list[dict[str, Any]]
) -> list[Figure]:
    """Who was refused, lost, or missed something makes a figure of its own: it is to be 0."""
    back = [one["back"] for one in found]
    quiet, loud = [one["quiet"] for one in found], [one["loud"] for one in found]
    what = f"{store(broker)}, {count:,} sessions{', unpinned' if options.unpinned else ''}"
    failures = tuple(
        float(one["refused"] + one["lost"] + one["gaps"] + (count - one["caught_up"]) + pairs["lost"])
        for one, pairs in zip(back, loud, strict=True)
    )
    return [
        Figure(
            scene="storm",
            what=f"{what}: all back",
            unit="s",
            ours=values(back, "back_s"),
            asked=ASKED_BACK_S[0],
            stretch=ASKED_BACK_S[1],
            better="less",
            details={
                **{key: values(back, key) for key in LATENCIES},
                "caught_up_s": values(back, "caught_up_s"),
                "cpu_us": values(found, "cpu_us"),
                "resumed": values(found, "resumed"),
            },
            note=allowed(count, LimitSettings()),
        ),
        Figure(
            scene="storm",
            what=f"{what}: refused, lost, or without what they had",
            unit="sessions",
            ours=failures,
            asked=0.0,
            better="less",
            details={
                key: tuple(float(one[key]) for one in back)
                for key in ("refused", "lost", "gaps", "caught_up")
            },
        ),
        Figure(
            scene="storm",
            what=f"{what}: p99 of bystanders, {rate:,.0f} messages/s",
            unit="ms",
            ours=values(loud, "p99_ms"),
            against="the same before the storm",
            theirs=values(quiet, "p99_ms"),
            asked=ASKED_P99_MS[0],
            stretch=ASKED_P99_MS[1],
            better="less",
            by="value",
            details={
                **{key: values(loud, key) for key in (*LATENCIES, "late_p99_ms", "messages")},
                **{f"their_{key}": values(quiet, key) for key in LATENCIES},
            },
        ),
    ]


def allowed(count: int, limits: LimitSettings) -> str:
    """How soon the limits let so many in, and what they would have to be for the least that is hoped for."""
    rest, hoped_s = max(count - limits.login_burst, 0), ASKED_BACK_S[1]
    text = f"the limits let all in within {rest / limits.login_rate:.1f} s"
    if rest > hoped_s * limits.login_rate:
        text += f"; {hoped_s:g} s would take limits.login_rate={-(-rest // int(hoped_s))}"
    return text
