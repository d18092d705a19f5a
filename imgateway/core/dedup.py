"""Which messages a log has taken already: the memory behind "at most once".

The scope of a repeat is (log; user, device, msg_id). A digest of eight bytes stands for it: a million of them
fit in memory, and the key keeps anybody from choosing ids that collide with another's. What a digest leads to
is the seq that the message got, or the append that is still on its way, so that a repeat of an uncommitted
message waits for the same commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Generic, TypeVar

from imgateway.frames import LogKey

__all__ = ("DIGEST_BYTES", "Dedup", "digest", "keyed")

DIGEST_BYTES = 8
# Forgetting goes by blocks: one of 64 is forgotten at a time, so that an entry costs one list append and no
# clock.
BLOCKS = 64

Pending = TypeVar("Pending")


def keyed(key: bytes, size: int = DIGEST_BYTES) -> blake2b:
    """What all digests of a store begin with: its key is hashed once, which is half of the work.

    :param key: the store's own secret, at most 64 bytes. Sixteen bytes of digest need none: nobody finds two
        messages with the same.
    """
    return blake2b(digest_size=size, key=key)


def digest(begun: blake2b, log: LogKey, target: str, user: str, device: str, msg_id: str) -> bytes:
    """The bytes that stand for one message in one log.

    :param begun: by `keyed`.
    :param target: the one device that it is for, or '': a message to a device and one to its user are two.
    """
    # NUL cannot stand in an id; msg_id comes last because it may hold anything.
    kind, name, _ = log[0]
    text = f"{kind}\0{name}\0{target}\0{user}\0{device}\0{msg_id}"
    hashed = begun.copy()
    hashed.update(text.encode("utf-8", "surrogatepass"))
    return hashed.digest()


class Dedup(Generic[Pending]):
    """The newest digests, at most `limit` of them and none older than `lifetime_ms` and a 64th of it.

    `now_ms` may be any clock that does not go back.
    """

    __slots__ = (
        "_block",
        "_block_born_ms",
        "_block_ms",
        "_block_size",
        "_blocks",
        "_known",
        "_lifetime_ms",
        "_limit",
        "expect",
        "get",
    )

    get: Callable[[bytes], int | Pending | None]
    """The seq that a digest got, the append under way, or None if it is new (or forgotten)."""

    expect: Callable[[bytes, Pending], None]
    """An append is on its way; repeats join it. Pending ones are never forgotten."""

    def __init__(self, limit: int, lifetime_ms: int) -> None:
        self._limit = limit
        self._lifetime_ms = lifetime_ms
        self._block_size = max(1, limit // BLOCKS)
        self._block_ms = max(1, lifetime_ms // BLOCKS)
        self._known: dict[bytes, int | Pending] = {}
        self._blocks: deque[tuple[int, list[bytes]]] = deque()
        self._block: list[bytes] = []
        self._block_born_ms = 0
        # Straight into the table: both are asked for every message.
        self.get = self._known.get
        self.expect = self._known.__setitem__

    def __len__(self) -> int:
        return len(self._known)

    def settle(self, digest: bytes, seq: int, now_ms: int) -> None:
        """It is committed as `seq`."""
        self._known[digest] = seq
        if now_ms - self._block_born_ms >= self._block_ms:
            self._turn(self._block_born_ms + self._block_ms)
            self._block_born_ms = now_ms
        self._block.append(digest)
        if len(self._block) >= self._block_size:
            self._turn(now_ms)

    def settle_all(self, digests: list[bytes], seqs: Iterable[int], now_ms: int) -> None:
        """One commit's: each of `digests` as its seq."""
        self._known.update(zip(digests, seqs, strict=True))
        if now_ms - self._block_born_ms >= self._block_ms:
            self._turn(self._block_born_ms + self._block_ms)
            self._block_born_ms = now_ms
        for begin in range(0, len(digests), self._block_size):
            self._block += digests[begin : begin + self._block_size]
            if len(self._block) >= self._block_size:
                self._turn(now_ms)

    def drop(self, digest: bytes) -> None:
        """It was refused for good: a later try is a new message."""
        self._known.pop(digest, None)

    def load(self, settled: Iterable[tuple[bytes, int, int]]) -> None:
        """Refill from the store: (digest, seq, at_ms), oldest first."""
        for found, seq, at_ms in settled:
            self.settle(found, seq, at_ms)

    def expire(self, now_ms: int) -> None:
        """Forget what is older than its lifetime; to be called now and then."""
        if now_ms - self._block_born_ms >= self._block_ms:
            self._turn(self._block_born_ms + self._block_ms)
            self._block_born_ms = now_ms
        while self._blocks and now_ms - self._blocks[0][0] > self._lifetime_ms:
            self._forget_oldest()

    def _turn(self, newest_ms: int) -> None:
        """Begin a new block; the time of the newest digest in the old one decides when that goes."""
        if self._block:
            self._blocks.append((newest_ms, self._block))
            self._block = []
        while len(self._known) > self._limit and self._blocks:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        known = self._known
        for old in self._blocks.popleft()[1]:
            if isinstance(known.get(old), int):  # not an append that came again after the digest was dropped
                del known[old]
