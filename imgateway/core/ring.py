"""A ring: the newest entries of one room, area or of `all`, in memory.

Sequence numbers come from a counter that all rings of a broker share, so they rise with holes, and a ring
that was dropped and made again repeats none. Old entries go by count, bytes and age; `floor` remembers how
far, so that whoever comes from before it is told of a gap.

Whoever lags reads blocks. A block has its borders at every 32nd entry, wherever the reader stands, and so is
the same for all who read it: it is encoded once, however many lag. A reader drops what it has of its first
one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from imgateway.frames import Batch, Entry

__all__ = ("BLOCK", "Block", "Ring", "RingLimits", "batch")

BLOCK = 32
"""Entries of a block: enough that encoding is cheap per entry, few enough that what a reader has twice is."""

T = TypeVar("T")


class RingLimits(NamedTuple):
    """What one ring keeps; each limit is for itself."""

    entries: int
    bytes: int
    age_s: float


class Block(NamedTuple, Generic[T]):
    """Everything in ``(after, upto]``. `gap`: something between the reader's place and `after` is gone."""

    after: int
    upto: int
    entries: tuple[T, ...]
    gap: bool


class Ring(Generic[T]):
    """:param floor: where it begins; what came before under this address, if anything did, is gone.

    :param before: how many entries came before that; borders of blocks are counted from the first of all.
    """

    __slots__ = ("_ages", "_before", "_entries", "_seqs", "_sizes", "bytes", "floor", "head")

    def __init__(self, floor: int, before: int = 0) -> None:
        self.floor = floor
        self.head = floor
        self.bytes = 0
        self._seqs: list[int] = []
        self._ages: list[float] = []
        self._sizes: list[int] = []
        self._entries: list[T] = []
        self._before = before  # how many were dropped: the borders of blocks do not move

    def __len__(self) -> int:
        return len(self._seqs)

    def append(self, seq: int, entry: T, size: int, now: float) -> None:
        """Add an entry of `size` bytes. `seq` is above all that came before, `now` in seconds."""
        self._seqs.append(seq)
        self._ages.append(now)
        self._sizes.append(size)
        self._entries.append(entry)
        self.head = seq
        self.bytes += size

    def prepend(self, floor: int, older: Sequence[tuple[int, T, int, float]]) -> None:
        """Put back all that came between this floor and the one here: (seq, entry, size, now), in order."""
        columns: tuple[list[Any], ...] = (self._seqs, self._entries, self._sizes, self._ages)
        for column, values in zip(columns, zip(*older, strict=True), strict=False):
            column[:0] = values
        self._before -= len(older)
        self.bytes += sum(size for _, _, size, _ in older)
        self.floor = floor

    def trim(self, limits: RingLimits, now: float) -> int:
        """Drop what is too old or too much; the bytes that it had. The newest stays unless it is too old."""
        count, size, oldest = len(self._seqs), self.bytes, now - limits.age_s
        drop = 0
        while drop < count and (
            self._ages[drop] < oldest
            or (drop + 1 < count and (count - drop > limits.entries or size > limits.bytes))
        ):
            size -= self._sizes[drop]
            drop += 1
        return self.drop(drop)

    def trim_late(self, limits: RingLimits, now: float) -> int:
        """The same, but not before a 16th is too much: to drop moves what stays."""
        entries, size = limits.entries, limits.bytes
        if len(self._seqs) > entries + (entries >> 4) or self.bytes > size + (size >> 4):
            return self.trim(limits, now)
        return 0

    def drop(self, count: int) -> int:
        """Drop the oldest; the bytes that they had."""
        if not count:
            return 0
        freed = sum(self._sizes[:count])
        self.floor = self._seqs[count - 1]
        self._before += count
        self.bytes -= freed
        for column in (self._seqs, self._ages, self._sizes, self._entries):
            del column[:count]
        return freed

    def read(self, after: int) -> Block[T]:
        """The block with the first entry after `after`; an empty one, up to `head`, if there is none."""
        gap = after < self.floor
        first = bisect_right(self._seqs, after)
        if first == len(self._seqs):
            return Block(max(after, self.floor), max(after, self.head), (), gap)
        start = max(0, first - (first + self._before) % BLOCK)
        end = min(len(self._seqs), first - (first + self._before) % BLOCK + BLOCK)
        return Block(
            self._seqs[start - 1] if start else self.floor,
            self._seqs[end - 1],
            tuple(self._entries[start:end]),
            gap,
        )


def batch(ring: Ring[Entry], epoch: int, after: int, now_ms: int) -> Batch:
    """The block that `after` is in, without what has expired."""
    block = ring.read(after)
    entries = block.entries
    if any(0 < entry.expires_ms <= now_ms for entry in entries):
        entries = tuple([entry for entry in entries if not 0 < entry.expires_ms <= now_ms])
    return Batch(epoch, block.after, block.upto, entries, block.gap, ring.head)
