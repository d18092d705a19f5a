"""What has arrived: which datagrams, which messages, and in which order they are handed over.

Bounded whatever the peer does: at most HELD messages or HELD_BYTES wait for their turn, at most PARTIAL
messages or PARTIAL_BYTES for their other fragments. What finds no room is refused, and the datagram that
brought it is not acknowledged, so that the peer sends it again. What comes next in its channel needs no room,
unless it has a barrier in front of it; and nothing with a barrier is sent before what it waits for. So what
would make room is always on its way, and this cannot end in a deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable

from .messages import Data, Forget, Fragment, MalformedDatagram, ack
from .recovery import ANSWER_DELAY_S

__all__ = ("HELD", "HELD_BYTES", "PARTIAL", "PARTIAL_BYTES", "REPLAY", "Incoming", "is_new", "marked")

HELD, HELD_BYTES = 64, 262_144
"""Messages that wait for an earlier one, or for the reader: one full window of the peer."""

PARTIAL, PARTIAL_BYTES = 4, 262_144
"""Messages that wait for more of their fragments. A sender keeps to the same numbers, so that no fragment of
an honest one is refused."""

REPLAY = 64
"""Older than so many numbers before the largest: taken for a replay. An ACK tells of as many."""

_MAP = (1 << REPLAY) - 1


def is_new(number: int, largest: int, taken: int) -> bool:
    """Neither taken before nor too old to know. `largest` is -1 before the first datagram; bit i of `taken`
    stands for ``largest - 1 - i``."""
    behind = largest - number
    return behind < 0 or (0 < behind <= REPLAY and not taken >> (behind - 1) & 1)


def marked(number: int, largest: int, taken: int) -> tuple[int, int]:
    """`largest` and `taken` with datagram `number` among them."""
    ahead = number - largest
    if ahead > REPLAY or largest < 0:  # numbers come from the peer: no shift goes without a bound
        return number, 0
    if ahead > 0:
        return number, (taken << 1 | 1) << (ahead - 1) & _MAP
    if -REPLAY <= ahead < 0:
        taken |= 1 << (-ahead - 1)
    return largest, taken


class _Partial:
    """A message of which some fragments are there."""

    __slots__ = ("barrier", "bodies", "last", "size")

    def __init__(self, first: Fragment) -> None:
        self.barrier = first.barrier
        self.last = first.last
        self.bodies: dict[int, bytes] = {}
        self.size = 0


class Incoming:
    """The receiving half of a flow while it has something to do.

    :param largest: the largest datagram number taken, -1: none.
    :param taken: the map of the 64 before it.
    :param nexts: per channel the number of the message that is handed over next.
    """

    __slots__ = (
        "_forgotten",
        "_held",
        "_held_bytes",
        "_owed",
        "_partial",
        "_partial_bytes",
        "ack_at",
        "largest",
        "nexts",
        "ready",
        "refused",
        "taken",
    )

    def __init__(
        self, largest: int = -1, taken: int = 0, nexts: Iterable[int] = (0,), ack_at: float | None = None
    ) -> None:
        self.largest = largest
        self.taken = taken
        self.nexts = list(nexts)
        self.ready: list[bytes] | None = None  # while reading is paused: what waits for the reader
        self.refused = False  # something, while reading was paused
        self.ack_at = ack_at  # when an ACK must go; None: none is owed
        self._owed = int(ack_at is not None)  # datagrams that wait for it
        self._held: dict[int, Data] = {}  # by number << 6 | channel
        self._held_bytes = 0  # of `_held` and `ready`
        self._partial: dict[int, _Partial] = {}
        self._partial_bytes = 0
        self._forgotten: dict[int, int] = {}  # channel → below which what is missing will not come

    @property
    def idle(self) -> bool:
        """Nothing held, nothing owed."""
        return self.ack_at is None and self.ready is None and not self._held and not self._partial

    # ---------------------------------------------------------------------------------------- datagrams

    def mark(self, number: int, answer: bool, now: float, ack_delay_s: float = ANSWER_DELAY_S) -> None:
        """Datagram `number` was taken. `answer`: it wants an acknowledgement: with the second of them, or at
        once if one is missing before it or came after it, or after `ack_delay_s`."""
        if answer:
            self._owed += 1
            if self._owed > 1 or number != self.largest + 1:
                self.ack_at = now
            else:
                self.ack_at = now + ack_delay_s
        self.largest, self.taken = marked(number, self.largest, self.taken)

    def refuse(self, now: float) -> None:
        """A datagram found no room. While somebody reads, what is missing will make some: an ACK of nothing
        new tells the peer that the line is alive, lest it waits longer and longer before it repeats that."""
        if self.ready is not None:
            self.refused = True
        elif self.largest >= 0:
            self.ack_at = now

    def ack(self) -> bytes:
        """The ACK that is owed; from here on none is."""
        self.ack_at = None
        self._owed = 0
        return ack(self.largest, self.taken)

    # ----------------------------------------------------------------------------------------- messages

    def data(self, message: Data, out: list[bytes]) -> bool:
        """Take a message: hand it over into `out` if it is its turn, with what waited for it.

        False: there is no room to hold it.
        """
        channel, number = message.channel, message.number
        expected = self._next(channel)
        nexts = self.nexts
        if number == expected and message.barrier <= nexts[0]:
            if self.ready is not None:
                if not self._fits(len(message.body)):
                    return False
                self._held_bytes += len(message.body)
            out.append(message.body)
            nexts[channel] = number + 1
            if self._held:
                self._release(channel, out)
            return True
        key = number << 6 | channel
        if number < expected or key in self._held:
            return True
        if not self._fits(len(message.body)):
            return False
        self._held[key] = message
        self._held_bytes += len(message.body)
        return True

    def fragment(self, part: Fragment, out: list[bytes]) -> bool:
        """Take a fragment, and the message with the last of them. False: there is no room for it.

        :raises MalformedDatagram: it does not belong to the others of its message.
        """
        channel, number = part.channel, part.number
        key = number << 6 | channel
        done = max(self._next(channel), self._forgotten.get(channel, 0))
        if number < done or key in self._held:
            return True
        partial = self._partial.get(key)
        room = self._partial_bytes + len(part.body) <= PARTIAL_BYTES
        if partial is None:
            if not room or len(self._partial) >= PARTIAL:
                return False
            partial = self._partial[key] = _Partial(part)
        elif partial.last != part.last or partial.barrier != part.barrier:
            raise MalformedDatagram("fragments of one message that differ about it")
        elif part.index in partial.bodies:
            return True
        bodies = partial.bodies
        if len(bodies) == part.last:  # all the others are here: this one is not held
            bodies[part.index] = part.body
            whole = b"".join([bodies[index] for index in range(part.last + 1)])
            if not self.data(Data(channel, number, part.barrier, whole), out):
                del bodies[part.index]
                return False
            self._drop(key)
            return True
        if not room:
            return False
        bodies[part.index] = part.body
        partial.size += len(part.body)
        self._partial_bytes += len(part.body)
        return True

    def forget(self, message: Forget, out: list[bytes]) -> None:
        """Wait no longer for what is missing of a channel below `upto`; hand over what waited for it."""
        channel, upto = message.channel, message.upto
        if upto > max(self._next(channel), self._forgotten.get(channel, 0)):
            self._forgotten[channel] = upto
            for key in [key for key in self._partial if key & 63 == channel and key >> 6 < upto]:
                self._drop(key)
            self._release(channel, out)

    def pause(self) -> None:
        """Hold what comes in its turn instead of handing it over."""
        if self.ready is None:
            self.ready = []

    def resume(self) -> list[bytes]:
        """Hand over again, first this.

        An ACK tells a peer whose datagrams were refused to try again: by now it may do so every 10 s only.
        """
        ready, self.ready = self.ready or [], None
        if self.refused and self.largest >= 0:
            self.ack_at = 0.0
        self.refused = False
        self._held_bytes -= sum(map(len, ready))
        return ready

    def _next(self, channel: int) -> int:
        nexts = self.nexts
        if channel >= len(nexts):
            nexts.extend([0] * (channel + 1 - len(nexts)))
        return nexts[channel]

    def _fits(self, size: int) -> bool:
        waiting = len(self._held) + len(self.ready or ())
        return waiting < HELD and self._held_bytes + size <= HELD_BYTES

    def _drop(self, key: int) -> None:
        self._partial_bytes -= self._partial.pop(key).size

    def _release(self, channel: int, out: list[bytes]) -> None:
        """Hand over what waited in this channel; if it is channel 0, also what waited behind a barrier."""
        nexts, held = self.nexts, self._held
        while True:
            key = nexts[channel] << 6 | channel
            message = held.get(key)
            if message is None:
                upto = self._forgotten.get(channel, 0)
                if nexts[channel] >= upto:
                    self._forgotten.pop(channel, None)
                    break
                numbers = (key >> 6 for key in held if key & 63 == channel)
                nexts[channel] = min([upto, *numbers])
            elif message.barrier > nexts[0]:
                break
            else:
                del held[key]
                if self.ready is None:
                    self._held_bytes -= len(message.body)
                out.append(message.body)
                nexts[channel] += 1
        if channel == 0:
            for other in {key & 63 for key in held} - {0}:
                self._release(other, out)
