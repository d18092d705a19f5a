"""Rings in Redis: what rooms, areas and `all` keep, for all nodes.

One counter of a primary numbers all its rings, so a ring that was dropped and made again repeats no seq.
Their epoch is the primary's, and is drawn anew when entries may be lost: by a restart that lost what was in
memory, or by a replica that took over. Nodes that watch are told that they stand in another ring, so that
their clients are told of a gap.

What is published in one turn of the reactor goes to each primary as one call, in order; each ring that grew
is told to the nodes that watch it, which keep the newest of what they were told (see `mirrors`). While a
primary is away its publishes wait, and are answered later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from imgateway.brokers.clock import steady, wall_ms
from imgateway.brokers.opening import new_epoch_number
from imgateway.brokers.redis.mirrors import Mirrors, Place
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary, Run
from imgateway.brokers.redis.sweeping import Sweeping
from imgateway.brokers.redis.turns import Turns
from imgateway.brokers.redis.watching import Arrived, Moved, Watching
from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.dedup import digest, keyed
from imgateway.core.roomclass import RoomClasses, limits_of
from imgateway.frames import (
    Address,
    LogKey,
    Outcome,
    OutcomeCode,
    address_text,
    log_of,
)
from imgateway.interfaces import Publication

__all__ = ("RedisRings",)

PUBLISH = 0
DIGESTS = keyed(b"", 16)
UNKNOWN = Outcome(OutcomeCode.UNKNOWN)
RATE = Outcome(OutcomeCode.RATE)


class RedisRings:
    """Everything by keyword.

    :param now_ms: a wall clock in milliseconds; may jump back, without anything expiring early.
    :param entropy: ``n -> n`` random bytes.
    :param arrived: `IBrokerListener.arrived`; must not raise.
    :param moved: `IBrokerListener.moved`, likewise.
    """

    def __init__(
        self,
        *,
        primaries: Primaries,
        settings: RoomSettings,
        reactor: Any,
        arrived: Arrived,
        moved: Moved,
        now_ms: Callable[[], int] = wall_ms,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._primaries = primaries
        self._settings = settings
        self._classes = RoomClasses(settings.classes)
        self._entropy = entropy
        self._turns = Turns(
            reactor=reactor, script="ring", node=primaries.incarnation, law=self._law, read=self._replied
        )
        self._sweeping = Sweeping(self._turns)
        for primary in primaries.each_ring():
            primary.frees.append(partial(self._free, primary))
        self._place = lru_cache(maxsize=65_536)(self._find_place)
        self._epochs: dict[Primary, int] = {}
        self._sizes: dict[Primary, tuple[int, int, int]] = {}
        self._watching = Watching(
            turns=self._turns,
            mirrors=Mirrors(settings),
            place=self._place,
            epoch_of=self._epochs.__getitem__,
            touch=self._sweeping.touch,
            arrived=arrived,
            moved=moved,
            now_ms=steady(now_ms),
        )
        self.watch = self._watching.watch
        self.unwatch = self._watching.unwatch
        self.read = self._watching.read
        self.heard = self._watching.heard
        self.renewed = self._watching.renewed
        self._published = self._over_rate = 0

    @property
    def waiting(self) -> int:
        """What was asked and is not answered."""
        return self._turns.waiting

    @property
    def waiting_bytes(self) -> int:
        return self._turns.waiting_bytes

    def stop(self) -> None:
        """What was published is on its way."""
        self._turns.stop()

    # -------------------------------------------------------------------------------------------- publishing

    def publish(
        self, publication: Publication, address: Address, encoded: bytes, answer: Callable[[Outcome], None]
    ) -> None:
        """Append to one ring; `answer` gets what became of it: in the order of the calls for each ring, and
        later, but for a lane that is not there."""
        lane = publication.lane
        if lane != 0 and lane != 1:
            answer(UNKNOWN)
            return
        log, message = log_of(address, lane), publication.message
        target = "\0" if lane else ""
        mark = digest(DIGESTS, log, target, message.sender, message.device, message.msg_id)
        self._publish(publication, log, encoded, mark, answer)

    def emit(
        self, publication: Publication, address: Address, encoded: bytes, answer: Callable[[Outcome], None]
    ) -> None:
        """qos 0: the same, but a repeat is not recognised; no answer for a lane that is not there."""
        if publication.lane == 0 or publication.lane == 1:
            self._publish(publication, log_of(address, publication.lane), encoded, b"", answer)

    def _publish(
        self,
        publication: Publication,
        log: LogKey,
        encoded: bytes,
        mark: bytes,
        answer: Callable[[Outcome], None],
    ) -> None:
        message = publication.message
        _, primary, bucket, where, (entries, most_bytes, age_s) = self._place(log)
        ttl_ms = max(1, message.expires_ms - message.sent_ms) if message.expires_ms else 0
        exempt, age_ms = int(publication.exempt), int(age_s * 1000)
        asked = [PUBLISH, bucket, where, mark, exempt, ttl_ms, entries, most_bytes, age_ms, encoded]
        self._turns.ask(primary, asked, partial(self._taken, primary, answer), len(encoded))

    def _taken(self, primary: Primary, answer: Callable[[Outcome], None], seq: int) -> None:
        if seq > 0:
            self._published += 1
            outcome = Outcome(OutcomeCode.OK, self._epochs[primary], seq)
        elif seq:
            outcome = Outcome(OutcomeCode.DUPLICATE, self._epochs[primary], -seq)
        else:
            self._over_rate += 1
            outcome = RATE
        answer(outcome)

    # ----------------------------------------------------------------------------------------------- the rest

    def upkeep(self) -> None:
        """Once a second."""
        self._watching.upkeep()
        for primary in self._primaries.each_ring():
            self._sweeping.sweep(primary, self._sizes.get(primary, (0, 0, 0))[1])

    async def _free(self, primary: Primary, run: Run) -> None:
        async def ask(asked: list[Any]) -> Any:
            reply = await run("ring", self._primaries.incarnation, 0, pack([[], *self._law(), [asked]]))
            return reply[-1]

        await self._sweeping.free(primary, ask)

    def measure(self, counters: Counters) -> None:
        """Set what is counted here; what is kept is of all primaries together, as they last said."""
        counters.room_publishes = self._published
        counters.room_rate_drops = self._over_rate
        sizes = [*self._sizes.values()]
        counters.ring_bytes = sum(size[0] for size in sizes)
        counters.rings = sum(size[1] for size in sizes)
        counters.ring_evictions = sum(size[2] for size in sizes)

    def _law(self) -> list[Any]:
        settings = self._settings
        draw = new_epoch_number(self._entropy)
        dedup = settings.dedup_s * 1000, settings.dedup_memory
        return [[draw, settings.rate, settings.burst, settings.memory_bytes, *dedup]]

    def _replied(self, primary: Primary, reply: list[Any]) -> list[Any]:
        epoch, size, rings, evicted, *answers = reply
        before = self._epochs.get(primary)
        self._epochs[primary] = epoch
        self._sizes[primary] = size, rings, evicted
        if before is not None and before != epoch:
            self.renewed(primary)
        return answers

    def _find_place(self, log: LogKey) -> Place:
        text = address_text(log.address)
        primary, bucket = self._primaries.rings_of(text)
        limits = limits_of(self._classes.of(log.address.id), log.lane)
        return Place(log, primary, bucket, f"{log.lane}:{text}".encode(), limits)
