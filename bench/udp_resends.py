"""How many messages arrive over UDP if each may be sent again only so often.

::

    python -m bench.udp_resends [--sends 200000] [--arrives 0.97] [--seed 1]

Two flows in this process with a lossy line between them that delivers a datagram with the probability r
(`--arrives`); answers get through with the same. With at most n resends a share of 1 - (1 - r)^(n+1) must
arrive. Prints a table in Markdown; exits with 1 if a row is off by more than four standard deviations.
"""

from __future__ import annotations

import argparse
import sys

from imgateway.testing.conditions import LinkConditions
from imgateway.testing.lossy import LossyDatagrams
from imgateway.transports.datagram.flow import Flow

TICK_S = 1 / 64  # of the wheel that wakes a real connection
DELAY_S = 0.02
EVERY_TICK = 4  # messages; one a datagram, so that each is lost by a throw of its own


def arrived(sends: int, loss: float, max_resends: int, seed: int) -> int:
    """How many of `sends` messages arrived."""
    line = LinkConditions(loss=loss, delay_s=DELAY_S)
    up, down = LossyDatagrams(line, f"{seed}/up", 0.0), LossyDatagrams(line, f"{seed}/down", 0.0)
    sender, receiver = Flow(max_resends), Flow()
    got = queued = ticks = 0

    def pump(flow: Flow, way: LossyDatagrams, now: float) -> None:
        for number, payload in flow.datagrams(now):
            way.send(number.to_bytes(4) + payload, now)

    def take(flow: Flow, way: LossyDatagrams, now: float) -> int:
        count = 0
        for datagram, _ in way.due(now):
            number = int.from_bytes(datagram[:4])
            if not flow.seen(number):
                count += len(flow.receive(number, datagram[4:], now))
        return count

    while queued < sends or sender.due() is not None or up.wake_at is not None:
        now = ticks * TICK_S
        ticks += 1
        got += take(receiver, up, now)
        pump(receiver, down, now)
        take(sender, down, now)
        pump(sender, up, now)
        for _ in range(EVERY_TICK):
            if queued < sends and not sender.unsent():
                sender.send(b"%8d" % queued)
                queued += 1
                pump(sender, up, now)
    return got


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sends", type=int, default=200_000, help="messages for each row")
    parser.add_argument("--arrives", type=float, default=0.97, help="r, what one sending achieves")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    sends, loss = asked.sends, 1 - asked.arrives
    sound = True
    print(f"{sends:,} messages a row, r = {asked.arrives:g}, seed {asked.seed}\n")
    print("| resends at most | 1 - (1 - r)^(n + 1) | arrived | of them |")
    print("| --- | --- | --- | --- |")
    for resends in (0, 1, 2, None):
        # For a flow 0 is "as often as it takes", -1 is none.
        got = arrived(sends, loss, {0: -1, None: 0}.get(resends, resends) or 0, asked.seed)
        expected = 1.0 if resends is None else 1 - loss ** (resends + 1)
        deviation = (expected * (1 - expected) / sends) ** 0.5
        sound = sound and abs(got / sends - expected) <= 4 * deviation
        name = "no limit" if resends is None else resends
        share = f"{100 * got / sends:.4f} % ± {100 * deviation:.4f}"
        print(f"| {name} | {100 * expected:.4f} % | {share} | {got:,} |")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
