"""Appends on their way to one primary: in the order of the calls, many in one script.

A batch is what one turn of the reactor brought. While one is on its way the next one collects, so that a busy
primary gets fewer and larger ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.appends import Append
from imgateway.brokers.redis.entries import pack_rest
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.primary import Primary

__all__ = ("Spool",)

# A script holds up everybody else at its primary: this many take about a millisecond.
BATCH_ENTRIES = 100
BATCH_BYTES = 1_048_576
# Batches on their way: one that is worked on, and behind it only a full one. A smaller one waits and grows:
# each costs the server a script and a sync.
IN_FLIGHT = 2
# Messages of this size that several logs take are stored once: below it a reference costs more than the copy.
SHARE_BYTES = 1024


class Spooled(NamedTuple):
    bucket: int
    name: bytes
    append: Append


class Spool:
    """Everything by keyword.

    :param token: unique for this process; by it a script that runs again knows what it did before.
    :param limits: (dedup_ms, entries, bytes, age_ms, device_unseen_ms) of a log.
    :param answered: called with the appends of a batch and what `lua/append.lua` answers; None: it failed.
    """

    log = Logger()

    def __init__(
        self,
        *,
        primary: Primary,
        token: str,
        limits: tuple[int, int, int, int, int],
        answered: Callable[[list[Append], Any], None],
    ) -> None:
        self.primary = primary
        self._token = token
        self._limits = limits
        self._answered = answered
        self._queue: deque[Spooled] = deque()
        self._in_flight = 0
        self._batches = 0

    @property
    def is_idle(self) -> bool:
        return not self._queue and not self._in_flight

    def add(self, bucket: int, name: bytes, append: Append) -> None:
        """`name`: the log's, as its keys have it."""
        self._queue.append(Spooled(bucket, name, append))

    def flush(self) -> None:
        """Send what there is, as far as it may go."""
        while self._queue and (
            not self._in_flight or (self._in_flight < IN_FLIGHT and len(self._queue) >= BATCH_ENTRIES)
        ):
            self._send(self._take())

    def _take(self) -> list[Spooled]:
        queue, size = self._queue, 0
        taken: list[Spooled] = []
        while queue and len(taken) < BATCH_ENTRIES and size < BATCH_BYTES:
            spooled = queue.popleft()
            size += len(spooled.append.encoded)
            taken.append(spooled)
        return taken

    def _send(self, batch: list[Spooled]) -> None:
        self._batches += 1
        self._in_flight += 1
        bodies, numbers = _shared(batch)
        appends: list[Any] = []
        for bucket, name, append in batch:
            encoded = append.encoded
            number = numbers.get(id(append.shared), 0) if numbers else 0
            rest = pack_rest(
                append.only_device, append.except_device, bodies[number - 1][0] if number else encoded
            )
            appends += (b"%d" % bucket, name, append.digest, append.ttl_ms, len(encoded), number, rest)
        packed = pack((f"{self._token}{self._batches:x}", *self._limits, bodies, appends))
        self.primary.call("append", packed).addCallbacks(
            self._done, self._failed, callbackArgs=(batch,), errbackArgs=(batch,)
        )

    def _done(self, answer: Any, batch: list[Spooled]) -> None:
        self._in_flight -= 1
        self.flush()  # before the answers: the primary works on while they are told
        self._answered([spooled.append for spooled in batch], answer)

    def _failed(self, failure: Failure, batch: list[Spooled]) -> None:
        self._in_flight -= 1
        if not failure.check(CancelledError):  # else it is stopped
            self.log.failure("{n} messages have no answer", failure, n=len(batch))
            self.flush()
        self._answered([spooled.append for spooled in batch], None)


def _shared(batch: Sequence[Spooled]) -> tuple[list[tuple[bytes, bytes]], dict[int, int]]:
    """Messages that two or more of the batch share, as (name, message), and the number of each, from 1, by
    the id of its `Shared`."""
    counts: dict[int, int] = {}
    for _, _, append in batch:
        if append.shared is not None and len(append.encoded) >= SHARE_BYTES:
            counts[id(append.shared)] = counts.get(id(append.shared), 0) + 1
    bodies: list[tuple[bytes, bytes]] = []
    numbers: dict[int, int] = {}
    if counts:
        for _, _, append in batch:
            which = id(append.shared)
            if counts.get(which, 0) > 1 and which not in numbers:
                # By its content: batches that follow find it there.
                bodies.append((blake2b(append.encoded, digest_size=16).digest(), append.encoded))
                numbers[which] = len(bodies)
    return bodies, numbers
