"""One way of a bad line: what becomes of each datagram, and when each byte of a stream arrives.

Pure: `now` is an argument, in seconds of any clock; nothing waits, and nothing is sent. The owner gives what
comes in to `send`, asks `due` for what arrives by now, and comes again at `wake_at`. The same seed and the
same calls have the same fate, to the bit; a line has one of these for each way, so that what goes one way
does not change what happens the other way.

A datagram is lost, waits for the rate, is delayed, and perhaps held back, in that order. Every datagram takes
the same number of dice, whatever the conditions: a seed that loses the seventh at 10 % loses it at 20 %, too.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import Any

from msgspec import Struct

from .conditions import LinkConditions

__all__ = ("DatagramCounts", "LossyDatagrams", "LossyStream", "StreamCounts")

HOLD_S = 0.1  # a datagram that nobody overtakes arrives all the same
OVERTAKERS = 3  # reordering beyond three is rare on real paths: TCP takes it for loss
FLIGHT_BYTES = 16_777_216  # 1 Gbit/s for 130 ms: more is not on the way at once, it is a mistake
WINDOW_BYTES = 4_194_304  # of a stream; near the 6 MB to which Linux lets a TCP window grow
SEGMENT_BYTES = 1_460  # what Ethernet carries of a TCP stream: the grain of a stream's rate

CHUNK_GAP_S = 0.0005  # chunks closer together are read as one by whoever is not very quick


class DatagramCounts(Struct):
    """What happened so far, one way. Lines may share one."""

    datagrams_in: int = 0
    bytes_in: int = 0
    datagrams_out: int = 0
    bytes_out: int = 0
    lost: int = 0
    """By the dice."""
    overflowed: int = 0
    """Lost, because the queue before the rate was full."""
    silenced: int = 0
    """Lost, because the line was silent."""
    duplicated: int = 0
    """Copies that were made."""
    reordered: int = 0
    """Arrived after one that was sent later."""
    delayed: int = 0
    """Arrived later than they were sent."""


class _Flying(Struct):
    """A datagram on its way. `number` counts what is sent; `overtakers`: held until so many passed it."""

    arrives_at: float
    sent_at: float
    number: int
    copy: bool
    data: bytes
    address: Any
    overtakers: int = 0


class LossyDatagrams:
    """One way of a line that carries datagrams.

    :param conditions: may be set anew at any time, for what is sent from then on.
    :param seed: of `random.Random`; give each way another, such as ``"7/up"``.
    :param now: when it begins: `silent_after_s` counts from here.
    """

    def __init__(
        self, conditions: LinkConditions, seed: int | str, now: float, counts: DatagramCounts | None = None
    ) -> None:
        self.conditions = conditions
        self.counts = DatagramCounts() if counts is None else counts
        self._random = Random(seed).random
        self._began = now
        self._free_at = now  # when what came before is through the bottleneck
        self._flying: list[tuple[float, int, _Flying]] = []
        self._held: list[_Flying] = []
        self._number = 0
        self._pushed = 0
        self._newest = 0
        self._bytes_in = 0
        self._flying_bytes = 0

    @property
    def wake_at(self) -> float | None:
        """When the next one arrives, as far as is known; None: nothing is on the way."""
        first = self._flying[0][0] if self._flying else None
        if not self._held:
            return first
        last = min(held.arrives_at + HOLD_S for held in self._held)
        return last if first is None else min(first, last)

    def send(self, data: bytes, now: float, address: Any = None) -> None:
        """Take in one datagram. `address` comes out beside it, untouched."""
        random, line, counts = self._random, self.conditions, self.counts
        loss, duplicate, reorder, jitter, copy_jitter = random(), random(), random(), random(), random()
        size = len(data)
        self._number += 1
        self._bytes_in += size
        counts.datagrams_in += 1
        counts.bytes_in += size
        if self._is_silent(now):
            counts.silenced += 1
        elif loss < line.loss:
            counts.lost += 1
        elif self._is_full(size, now):
            counts.overflowed += 1
        else:
            left_at = self._pass_bottleneck(size, now)
            flying = _Flying(left_at + _delay(line, jitter), now, self._number, False, data, address)
            self._flying_bytes += size
            if reorder < line.reorder:
                flying.overtakers = 1 + int(reorder / line.reorder * OVERTAKERS)
                self._held.append(flying)
            else:
                self._push(flying)
                if self._held:
                    self._overtake(flying.arrives_at)
            if duplicate < line.duplicate:
                counts.duplicated += 1
                self._flying_bytes += size
                copy_at = left_at + _delay(line, copy_jitter)
                self._push(_Flying(copy_at, now, self._number, True, data, address))

    def due(self, now: float) -> list[tuple[bytes, Any]]:
        """What has arrived by now, with its address, in the order of arrival. None comes twice."""
        for held in [held for held in self._held if held.arrives_at + HOLD_S <= now]:
            self._held.remove(held)
            held.arrives_at += HOLD_S
            self._push(held)
        arrived: list[tuple[bytes, Any]] = []
        flying, counts = self._flying, self.counts
        while flying and flying[0][0] <= now:
            one = heappop(flying)[2]
            arrived.append((one.data, one.address))
            size = len(one.data)
            self._flying_bytes -= size
            counts.datagrams_out += 1
            counts.bytes_out += size
            counts.delayed += one.arrives_at > one.sent_at
            counts.reordered += one.number < self._newest and not one.copy
            self._newest = max(self._newest, one.number)
        return arrived

    def _is_silent(self, now: float) -> bool:
        line = self.conditions
        return (
            line.silent
            or (line.silent_after_s is not None and now >= self._began + line.silent_after_s)
            or (line.silent_after_bytes is not None and self._bytes_in > line.silent_after_bytes)
        )

    def _is_full(self, size: int, now: float) -> bool:
        line = self.conditions
        waits = line.rate_bits_per_s and self._free_at - now > line.queue_s
        return bool(waits) or self._flying_bytes + size > FLIGHT_BYTES

    def _pass_bottleneck(self, size: int, now: float) -> float:
        left_at = max(now, self._free_at)
        if self.conditions.rate_bits_per_s:
            left_at += size * 8 / self.conditions.rate_bits_per_s
        self._free_at = left_at
        return left_at

    def _push(self, one: _Flying) -> None:
        self._pushed += 1  # of two that arrive at once, the first that set out is first
        heappush(self._flying, (one.arrives_at, self._pushed, one))

    def _overtake(self, passed_at: float) -> None:
        for held in list(self._held):
            held.overtakers -= 1
            if not held.overtakers:
                self._held.remove(held)
                held.arrives_at = max(held.arrives_at, passed_at)
                self._push(held)


class StreamCounts(Struct):
    """What happened so far, one way. Lines may share one."""

    bytes_in: int = 0
    bytes_out: int = 0
    chunks_out: int = 0
    dropped_bytes: int = 0
    """What was taken in and never arrived: the line was cut, or silent to the end."""


class LossyStream:
    """One way of a line that carries a stream of bytes: nothing is lost in it or overtaken, but all may be
    late, in pieces, or cut short.

    A silent line carries neither bytes nor the end. What is sent in a silence that ends arrives then, as TCP
    would send it again.

    :param conditions: may be set anew at any time; delay and rate for what is sent from then on.
    :param now: when the connection begins: `cut_after_s` and `silent_after_s` count from here.
    """

    def __init__(
        self, conditions: LinkConditions, seed: int | str, now: float, counts: StreamCounts | None = None
    ) -> None:
        self.conditions = conditions
        self.counts = StreamCounts() if counts is None else counts
        self._random = Random(seed).random
        self._began = now
        self._free_at = now
        self._pieces: deque[tuple[float, memoryview]] = deque()
        self._last_at = now
        self._ready_at = now  # for the next chunk
        self._waiting_bytes = 0
        self._bytes_out = 0
        self._finished = False

    def send(self, data: bytes, now: float) -> None:
        """Take in bytes. Check `is_full` first: what is sent nevertheless is kept, too."""
        line, view = self.conditions, memoryview(data)
        self.counts.bytes_in += len(data)
        self._waiting_bytes += len(data)
        grain = SEGMENT_BYTES if line.rate_bits_per_s else max(1, len(data))
        for begin in range(0, len(data), grain):
            piece = view[begin : begin + grain]
            left_at = max(now, self._free_at)
            if line.rate_bits_per_s:
                left_at += len(piece) * 8 / line.rate_bits_per_s
            self._free_at = left_at
            self._last_at = max(self._last_at, left_at + _delay(line, self._random()))
            self._pieces.append((self._last_at, piece))

    def finish(self) -> None:
        """The sender sends no more; the end travels behind the last byte."""
        self._finished = True

    def is_full(self, now: float) -> bool:
        """The sender shall wait, as before a socket whose buffer is full."""
        line = self.conditions
        waits = line.rate_bits_per_s and self._free_at - now > line.queue_s
        return bool(waits) or self._waiting_bytes >= WINDOW_BYTES

    def is_cut(self, now: float) -> bool:
        """The connection has broken, both ways: what is on the way does not arrive."""
        cut_at, limit = self.cut_at, self.conditions.cut_after_bytes
        return (cut_at is not None and now >= cut_at) or (limit is not None and self._bytes_out >= limit)

    def has_ended(self, now: float) -> bool:
        """The last byte was handed out, and the sender had finished."""
        return self._finished and not self._pieces and not self._is_silent(now)

    def due(self, now: float) -> bytes:
        """The next piece that has arrived; b"": none now. Ask again until then."""
        if not self._pieces or max(self._pieces[0][0], self._ready_at) > now:
            return b""
        if self.is_cut(now) or self._is_silent(now):
            return b""
        line = self.conditions
        arrives_at, piece = self._pieces.popleft()
        size = min(len(piece), line.chunk_bytes or len(piece))
        for limit in (line.cut_after_bytes, line.silent_after_bytes):
            if limit is not None:
                size = min(size, limit - self._bytes_out)
        if line.chunk_bytes:
            self._ready_at = now + CHUNK_GAP_S
        if size < len(piece):
            self._pieces.appendleft((arrives_at, piece[size:]))
        self._bytes_out += size
        self._waiting_bytes -= size
        self.counts.bytes_out += size
        self.counts.chunks_out += 1
        return bytes(piece[:size])

    def drop(self) -> None:
        """The connection is gone, and what was on the way with it."""
        self.counts.dropped_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        self._pieces.clear()

    def wake_at(self, now: float) -> float | None:
        """When `due` has something next; at most `now`: at once. None: not before the next `send`, or new
        conditions."""
        if not self._pieces or self._is_silent(now):
            return None
        return max(self._pieces[0][0], self._ready_at)

    @property
    def cut_at(self) -> float | None:
        """When it breaks, if that is a matter of time."""
        after_s = self.conditions.cut_after_s
        return None if after_s is None else self._began + after_s

    def _is_silent(self, now: float) -> bool:
        line = self.conditions
        return (
            line.silent
            or (line.silent_after_s is not None and now >= self._began + line.silent_after_s)
            or (line.silent_after_bytes is not None and self._bytes_out >= line.silent_after_bytes)
        )


def _delay(line: LinkConditions, dice: float) -> float:
    return line.delay_s + line.jitter_s * (2 * dice - 1)
