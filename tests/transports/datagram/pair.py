"""Two flows with a bad line between them: as a connection would drive them, without seal and socket."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from imgateway.testing.conditions import LinkConditions
from imgateway.testing.lossy import DatagramCounts, LossyDatagrams
from imgateway.transports.datagram.flow import Flow

SEAL = bytes(24)
"""Beside the number's 4 bytes: what the seal adds to a datagram."""

TICK_S = 1 / 64
"""The timer wheel's: a wake-up comes up to so much late."""

PERFECT = LinkConditions()


def asleep(flow: Flow) -> bool:
    """Nothing is left of it but its packed state."""
    return flow._out is None and flow._in is None


class End:
    """One flow, the way out of it, and what it handed over."""

    def __init__(self, flow: Flow, way: LossyDatagrams) -> None:
        self.flow = flow
        self.way = way
        self.got: list[bytes] = []
        self.payloads: list[bytes] = []
        self.times: list[float] = []
        self.woken_at: float | None = None

    @property
    def counts(self) -> DatagramCounts:
        return self.way.counts

    def pump(self, now: float) -> None:
        for number, payload in self.flow.datagrams(now):
            assert len(payload) <= 1172
            self.payloads.append(payload)
            self.times.append(now)
            self.way.send(number.to_bytes(4) + payload + SEAL, now)
        due = self.flow.due()
        if due is not None:
            due = (int(due / TICK_S) + 1) * TICK_S
        self.woken_at = due

    def take(self, datagram: bytes, now: float) -> None:
        number = int.from_bytes(datagram[:4])
        if not self.flow.seen(number):
            self.got += self.flow.receive(number, datagram[4:-24], now)


class Pair:
    """Ends `a` and `b`; `up` befalls what a sends, `down` what b sends."""

    def __init__(
        self,
        up: LinkConditions = PERFECT,
        down: LinkConditions | None = None,
        seed: int = 0,
        max_resends: int = 0,
    ) -> None:
        self.now = 0.0
        self.a = End(Flow(max_resends), LossyDatagrams(up, f"{seed}/up", 0.0))
        down = up if down is None else down
        self.b = End(Flow(max_resends), LossyDatagrams(down, f"{seed}/down", 0.0))

    def settle(self) -> None:
        """Send what may be sent now; let arrive what has arrived, and so on until nothing happens."""
        a, b = self.a, self.b
        while True:
            a.pump(self.now)
            b.pump(self.now)
            moving = False
            for source, target in ((a, b), (b, a)):
                for datagram, _ in source.way.due(self.now):
                    target.take(datagram, self.now)
                    moving = True
            if not moving:
                return

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass from event to event, until `done` or the end."""
        end = self.now + seconds
        self.settle()
        while not done():
            wakes = (self.a.woken_at, self.b.woken_at, self.a.way.wake_at, self.b.way.wake_at)
            coming = [wake for wake in wakes if wake is not None]
            if not coming or min(coming) > end:
                self.now = end
                return
            self.now = max(self.now, min(coming))
            self.settle()

    def quiet(self) -> bool:
        """Nobody has anything to do, and nothing is on its way."""
        ends = (self.a, self.b)
        return all(end.flow.due() is None and end.way.wake_at is None for end in ends)

    def finish(self, seconds: float = 3600.0) -> None:
        """Run until both ends are quiet."""
        self.run(seconds, self.quiet)
        assert self.quiet(), "still busy"


def numbered(count: int, size: int = 16, order: Hashable | None = None) -> list[bytes]:
    """Messages that differ, each with its number and its channel's name."""
    return [b"%d/%d/" % (hash(order) & 0xFFFF, n) + b"x" * (size - 8) for n in range(count)]
