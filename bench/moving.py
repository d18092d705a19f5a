"""Clients of the SDK that send to each other while their node drains: the generator of ``bench drain``.

::

    python -m bench.moving PORT DATA_DIR TAG CLIENTS RATE

They log in at PORT with what the secret in DATA_DIR signs, and each sends to the next one: RATE messages a
second, of all together. Writes a line of JSON to standard output when all are logged in. A line on standard
input begins the sending, a second one ends it; then, when everything has come or nothing comes any more, a
line with what came and with every move: when it was told to go, when it was there (monotonic seconds).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.client import Client, Received
from imgateway.config import AuthSettings
from imgateway.errors import CloseCode
from imgateway.frames import OutcomeCode

LOGINS_AT_ONCE = 20
TICK_S = 0.02
PATIENCE_S = 30.0


class Mover:
    """One client, what it sent to its neighbour and what it got from the other one."""

    def __init__(self, url: str, user: str, token: str, neighbour: str) -> None:
        self.neighbour = f"user:{neighbour}"
        self.sent = self.kept = self.seen = self.repeated = self.missed = 0
        self.told = 0.0
        self.moves: list[tuple[float, float]] = []
        self.gaps = 0
        self.client = Client(
            url, token=token, device="d", on_message=self.got, on_gap=self.missing, compressions=()
        )
        self.client.on_down, self.client.on_up = self.down, self.up

    def send(self) -> None:
        """The next number."""
        self.sent += 1
        self.client.publish(self.neighbour, str(self.sent)).addCallback(self.outcome)

    def outcome(self, outcomes: Any) -> None:
        """Stored: a repeat of what was stored before its answer was lost counts, too."""
        self.kept += outcomes[0].code in (OutcomeCode.OK, OutcomeCode.DUPLICATE)

    def got(self, received: Received) -> None:
        """The numbers come one by one."""
        number = int(received.message.body)
        if number <= self.seen:
            self.repeated += 1
        else:
            self.missed += number - self.seen - 1
            self.seen = number

    def missing(self, gap: Any) -> None:
        """Nothing may be."""
        self.gaps += 1

    def down(self, code: int, reason: str) -> None:
        """Told to go, or the link broke."""
        if code == CloseCode.GOING_AWAY:
            self.told = time.monotonic()

    def up(self, welcome: Any) -> None:
        """There again."""
        if self.told:
            self.moves.append((self.told, time.monotonic()))
            self.told = 0.0


async def play(reactor: Any, port: str, data_dir: str, tag: str, count: int, rate: float) -> None:
    """See above."""
    from twisted.internet.defer import gatherResults
    from twisted.internet.task import LoopingCall, deferLater
    from twisted.internet.threads import deferToThread

    secret, now = load_secret(AuthSettings(), data_dir), time.time()
    names = [f"{tag}{n}" for n in range(count)]
    movers = [
        Mover(
            f"tcp://127.0.0.1:{port}",
            name,
            mint(secret, name, service=True, ttl_s=3600, now_s=now),
            names[(n + 1) % count],
        )
        for n, name in enumerate(names)
    ]
    for first in range(0, count, LOGINS_AT_ONCE):
        await gatherResults([mover.client.start() for mover in movers[first : first + LOGINS_AT_ONCE]])
    print(json.dumps({"ready": count}), flush=True)
    await deferToThread(sys.stdin.readline)
    cpu = time.process_time()
    began, given = time.monotonic(), 0

    def tick() -> None:
        nonlocal given
        due = int((time.monotonic() - began) * rate)
        while given < due:
            movers[given % count].send()
            given += 1

    sending = LoopingCall(tick)
    sending.start(TICK_S)
    await deferToThread(sys.stdin.readline)
    sending.stop()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if all(mover.kept == mover.sent for mover in movers) and sum(m.seen for m in movers) == given:
            break
        await deferLater(reactor, 0.1)
    total = {
        key: sum(getattr(mover, key) for mover in movers)
        for key in ("sent", "kept", "seen", "repeated", "missed", "gaps")
    }
    print(
        json.dumps(
            {
                **total,
                "cpu_s": time.process_time() - cpu,
                "moves": [move for mover in movers for move in mover.moves],
            }
        ),
        flush=True,
    )


def main() -> None:
    """The reactor."""
    from twisted.internet import task
    from twisted.internet.defer import ensureDeferred

    port, data_dir, tag, count, rate = sys.argv[1:]
    task.react(lambda reactor: ensureDeferred(play(reactor, port, data_dir, tag, int(count), float(rate))))


if __name__ == "__main__":
    main()
