"""Which channel a message takes, and what it has to wait for there.

Channel 0 is control, and whoever names no order has it. Every order, a log, gets one of the others, so that
logs do not wait for each other. There are more logs than channels: one that has been silent gives its channel
away. While none can, a newcomer takes channel 0, where nothing is overtaken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from .messages import CHANNELS
from .pieces import Piece

__all__ = ("Channel", "Channels")


class Channel:
    """What a channel has unsent and unacknowledged."""

    __slots__ = ("forget", "forgotten", "heeded", "queue", "unacked")

    def __init__(self) -> None:
        self.queue: deque[Piece] = deque()
        self.unacked: dict[int, int] = {}  # number, rising → pieces unacknowledged; 0: given up
        self.forget: Piece | None = None  # the newest FORGET while it is unacknowledged
        self.forgotten = 0  # the first number that it is about
        self.heeded = 0  # how many messages of channel 0 there were at this channel's last one

    @property
    def is_quiet(self) -> bool:
        """All its messages have arrived, or will not."""
        return not (self.queue or self.unacked or self.forget)


class Channels:
    """
    :param nexts: per channel the number of its next message. With nothing on its way it does not matter which
        order had which channel before.
    """

    __slots__ = ("_channel_of", "_orders", "_turn", "busy", "nexts")

    def __init__(self, nexts: Iterable[int]) -> None:
        self.nexts = list(nexts)
        self._orders: list[Hashable] = []  # of channels 1, 2, …
        self._turn = 0  # which of a full set is replaced next
        self.busy: dict[int, Channel] = {0: Channel()}
        """Of those that said something since the flow woke up; before that all had arrived."""
        self._channel_of: dict[Hashable, int] = {}

    def adopt(self, channel: int, order: Hashable | None) -> Channel:
        """The channel, 0 or 1, of a message of this order that was given its place before there was this."""
        if channel == 0:
            return self.busy[0]
        self._orders.append(order)
        self._channel_of[order] = channel
        busy = self.busy[channel] = Channel()
        busy.heeded = self.nexts[0]
        return busy

    def place(self, order: Hashable | None) -> tuple[int, int, int]:
        """Channel, number and barrier for the next message of this order.

        It waits for what was sent over channel 0 since the order's last one, unless that has arrived. So no
        Deliver overtakes the Welcome, nor, in a log that was left and joined again, the second Subscribed;
        down here they look like any answer, and are hardly ever still under way. What is lost of channel 0
        thus holds up a log's next message for one repetition, as its own loss would, and never those that are
        on their way already.
        """
        channel = 0 if order is None else self._channel(order)
        nexts = self.nexts
        barrier = 0
        if channel:
            busy = self.busy.get(channel)
            if busy is None:
                busy = self.busy[channel] = Channel()
            if busy.heeded != nexts[0] and not self.busy[0].is_quiet:
                barrier = nexts[0]
            busy.heeded = nexts[0]
        number = nexts[channel]
        nexts[channel] = number + 1
        return channel, number, barrier

    def _channel(self, order: Hashable) -> int:
        channels = self._channel_of
        channel = channels.get(order)
        if channel is not None:
            return channel
        if len(self._orders) < CHANNELS - 1:
            self._orders.append(order)
            channel = len(self._orders)
            if channel == len(self.nexts):
                self.nexts.append(0)
        else:
            channel = self._given_away(channels, order)
        if channel:
            channels[order] = channel
        return channel

    def _given_away(self, channels: dict[Hashable, int], order: Hashable) -> int:
        """The next channel in turn, now this order's. 0: something is on its way there, or on channel 0, for
        which it may wait at the receiver; the old order's next message, elsewhere, would overtake it."""
        if not self.busy[0].is_quiet:
            return 0
        at = self._turn
        self._turn = (at + 1) % (CHANNELS - 1)
        busy = self.busy.get(at + 1)
        if busy is not None and not busy.is_quiet:
            return 0
        del channels[self._orders[at]]
        self._orders[at] = order
        return at + 1
