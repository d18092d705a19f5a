"""When a datagram counts as lost, how many may be on their way, and how fast they may follow each other.

Numbers only: no datagram is held here and no clock is read. Times are seconds on any clock that does not run
backwards. The rules are those of RFC 9002, cut down to what a chat needs: one kind of datagram, and a window
that counts datagrams instead of bytes, because a small one costs a phone's radio as much as a full one.
"""

from __future__ import annotations

__all__ = ("ANSWER_DELAY_S", "PROBES", "REORDERING", "Recovery")

ANSWER_DELAY_S = 0.025
"""How long an acknowledgement may wait for something that it can ride with: long enough for the answer to a
request, too short for a person to notice."""

FIRST_RTO_S = 1.0
"""Before the first measurement, as in RFC 6298: twice the round trip of a bad mobile network."""

MIN_RTO_S, MAX_RTO_S = 0.2, 10.0
"""Below 0.2 s a sleepy radio looks like a loss; with more than 10 s a link that came back seems dead."""

SLACK_S = 0.05
"""The least that RTO leaves above the mean round trip: the peer may hold its answer for 25 ms, and either
side's wake-up comes up to 16 ms late."""

MIN_WINDOW, MAX_WINDOW = 4, 64
"""Datagrams on their way. Four keep the rule of three later ones working under any loss; 64 are as many as an
ACK tells of."""

QUEUED = 1.25
"""A round trip so much longer than the best one says that datagrams queue up somewhere: then the window grows
by one in a round trip, else it doubles. What radio loses at random leaves no queue, and the window is soon
back. At 64 kbit/s before a queue of 1 s, 1.08 times the bodies are sent instead of 2.24."""

AGEING = 1 / 256
"""By so much of the difference each longer round trip raises the best one: a line that became slower for good
is known as such after some hundreds, a queue of a minute is not."""

REORDERING = 3
"""A datagram is lost if one sent so much later has arrived (RFC 9002 §6.1.1) …"""

LOSS_DELAY = 9 / 8
"""… and it is older than so many round trips: it may still be on a longer way (RFC 9002 §6.1.2)."""

PROBES = 2
"""Datagrams that one timeout repeats: one may be lost as well, more are waste if only answers were lost (RFC
9002 §6.2.4)."""

TOO_SHORT = 0.5
"""A round trip of less than so much of the mean says that the mean was none: acknowledgements were lost, and
what was measured was the wait for the next one. Then the mean begins anew, instead of being wrong for a dozen
more round trips, which a device that says little takes minutes for."""

BURST = 10
"""Datagrams in a row before pacing holds them back: what the smallest router queues still take (RFC 6928)."""

EARLY_S = 1e-6
"""Who comes back exactly when told must not be sent away again by a rounding error."""


class Recovery:
    """One path's round trip time, retransmission timeout, window and pace.

    :param srtt: smoothed round trip in seconds, 0.0 before the first measurement.
    :param rttvar: its mean deviation in seconds.
    :param best: the shortest round trip measured, in seconds.
    """

    __slots__ = ("_backoff", "_credit", "_halved", "_paced", "best", "rto", "rttvar", "srtt", "window")

    def __init__(
        self,
        srtt: float = 0.0,
        rttvar: float = 0.0,
        best: float = 0.0,
        window: int = MIN_WINDOW,
    ) -> None:
        self.srtt = srtt
        self.rttvar = rttvar
        self.window = window
        self.best = best
        self._credit = 0  # acknowledged while a queue was seen: a window full of them makes it wider by one
        self.rto = 0.0
        self._backoff = 1
        self._halved = 0  # losses of datagrams with lower numbers were already answered with a halving
        self._paced = 0.0  # when the last datagram would have gone if all were spaced evenly
        self._time_out_after()

    def _time_out_after(self) -> None:
        rto = FIRST_RTO_S
        if self.srtt:
            rto = self.srtt + max(4 * self.rttvar, SLACK_S)
            rto = max(rto, MIN_RTO_S)
        self.rto = min(rto * self._backoff, MAX_RTO_S)

    @property
    def loss_delay(self) -> float:
        """Seconds after which a datagram that later ones have overtaken counts as lost."""
        return LOSS_DELAY * self.srtt

    def acked(self, datagrams: int, rtt: float, limited: bool) -> None:
        """So many were acknowledged now, the newest of them after `rtt` seconds.

        :param limited: the window was full, so that a wider one would have been of use.
        """
        self._measured(rtt)
        best = self.best or rtt
        self.best = min(best + (rtt - best) * AGEING, rtt)
        if not limited:
            return
        if rtt > QUEUED * self.best + SLACK_S:
            self._credit += datagrams
            datagrams = self._credit // self.window
            self._credit %= self.window
        self.window = min(self.window + datagrams, MAX_WINDOW)

    def late(self, rtt: float) -> None:
        """An acknowledgement came after `rtt` seconds, when its datagram was already taken for lost: the line
        is slower than was known. Without this, one that is slower than the timeout would stay so for ever."""
        self._measured(rtt)
        self.best = rtt

    def _measured(self, rtt: float) -> None:
        if rtt >= self.srtt * TOO_SHORT > 0:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
        else:
            self.srtt, self.rttvar = rtt, rtt / 2
        self._backoff = 1
        self._time_out_after()

    def lost(self, number: int, next_number: int) -> None:
        """Datagram `number` is lost. Halves the window, unless that was sent before the last halving: the
        losses of one round trip are one sign."""
        if number >= self._halved:
            self.window = max(self.window // 2, MIN_WINDOW)
            self._halved = next_number

    def heard(self) -> None:
        """The peer acknowledged something, if nothing new: the link lives, so waiting longer is no use."""
        if self._backoff > 1:
            self._backoff = 1
            self._time_out_after()

    def timed_out(self) -> None:
        """RTO passed without an answer: wait twice as long for the next one, until one comes."""
        self._backoff = min(self._backoff * 2, 64)
        self._time_out_after()

    def sent(self, now: float) -> None:
        """One more datagram goes."""
        if self.srtt:
            self._paced = max(self._paced, now) + self.srtt / self.window

    def free_at(self) -> float:
        """When pacing lets the next datagram go: `window` of them in a round trip, BURST in a row."""
        return self._paced - (BURST - 1) * self.srtt / self.window - EARLY_S
