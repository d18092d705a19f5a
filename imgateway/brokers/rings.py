"""The rings of a broker: what rooms, areas and `all` keep, in this process's memory.

One counter numbers them all, so a ring that was dropped and made again repeats no seq; all of them have one
epoch, drawn at the start, for they die with the process. An entry is in its ring, and told, before `publish`
returns: nothing here waits, least of all for the disk.

Old entries go by the limits of their room's class. All rings together have a limit too: over it, those that
were not published to for longest lose their oldest entries, lane 1 after lane 0. A dropped ring leaves one
number behind, its head: who comes from below that is told of a gap, for something may be missing there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.dedup import Dedup, digest, keyed
from imgateway.core.ring import Ring, batch
from imgateway.core.roomclass import RoomClasses, limits_of
from imgateway.core.throttle import TokenBucket
from imgateway.frames import Address, Batch, Entry, LogKey, Outcome, OutcomeCode, Position, log_of
from imgateway.interfaces import Publication

__all__ = ("ENTRY_BYTES", "RING_BYTES", "Rings")

ENTRY_BYTES = 230
"""What an entry takes besides its message: its own values and its places in the ring."""
RING_BYTES = 1_300
"""What a ring takes without its entries."""
# Rings that one upkeep looks at, or a tenth of them: with 100,000 rings it takes 3 ms.
STEP = 2_000

UNKNOWN = Outcome(OutcomeCode.UNKNOWN)
RATE = Outcome(OutcomeCode.RATE)

Arrived = Callable[[LogKey, int, int, int, tuple[Entry, ...]], None]


class _Kept:
    """One ring with what belongs to it. Times are milliseconds, but in the ring and its bucket seconds."""

    __slots__ = ("bucket", "limits", "published_ms", "ring")

    def __init__(self, log: LogKey, floor: int, classes: RoomClasses, rate: float, burst: int, now: float):
        self.ring: Ring[Entry] = Ring(floor)
        self.limits = limits_of(classes.of(log.address.id), log.lane)
        self.bucket = TokenBucket(rate, burst, now)
        self.published_ms = 0


class Rings:
    """All rings of a process.

    :param epoch: that of every ring.
    :param secret: the key of the digests by which repeats are recognised.
    :param now_ms: milliseconds of a clock that does not go back.
    :param arrived: `IBrokerListener.arrived`, for watched logs; must not raise.
    """

    def __init__(
        self,
        settings: RoomSettings,
        epoch: int,
        secret: bytes,
        now_ms: Callable[[], int],
        arrived: Arrived,
    ) -> None:
        self.epoch = epoch
        self._settings = settings
        self._classes = RoomClasses(settings.classes)
        self._digests = keyed(secret)
        self._now_ms = now_ms
        self._arrived = arrived
        # By lane, and in each those first that were not published to for longest.
        self._lanes: tuple[OrderedDict[LogKey, _Kept], ...] = (OrderedDict(), OrderedDict())
        self._dedup: Dedup[int] = Dedup(settings.dedup_memory, settings.dedup_s * 1000)
        # Where a ring that is made for a watched log begins: whoever watches has had what came before.
        self._watched: dict[LogKey, int] = {}
        self._round: list[LogKey] = []
        self._step = STEP
        self._seq = 0
        self._dropped = 0
        self._bytes = 0
        self._published = self._over_rate = self._evicted = 0

    # -------------------------------------------------------------------------------------------- publishing

    def publish(self, publication: Publication, address: Address, encoded: bytes) -> Outcome:
        """Append to one ring; final."""
        lane = publication.lane
        if lane != 0 and lane != 1:
            return UNKNOWN
        message = publication.message
        log = log_of(address, lane)
        mark = digest(
            self._digests, log, "\0" if lane else "", message.sender, message.device, message.msg_id
        )
        found = self._dedup.get(mark)
        if found is not None:
            return Outcome(OutcomeCode.DUPLICATE, self.epoch, found)
        seq = self._append(publication, log, encoded, mark)
        return Outcome(OutcomeCode.OK, self.epoch, seq) if seq else RATE

    def emit(self, publication: Publication, address: Address, encoded: bytes) -> None:
        """qos 0: the same, but a repeat is not recognised and nobody hears what became of it."""
        if publication.lane == 0 or publication.lane == 1:
            self._append(publication, log_of(address, publication.lane), encoded, b"")

    def _append(self, publication: Publication, log: LogKey, encoded: bytes, mark: bytes) -> int:
        """The seq that it got; 0: over the rate. `mark` is remembered as taken."""
        message, now_ms = publication.message, self._now_ms()
        now = now_ms / 1000
        rings = self._lanes[log.lane]
        kept = rings.get(log)
        if kept is None:
            kept = self._make(log, now)
        if not (publication.exempt or kept.bucket.take(1.0, now)):
            self._over_rate += 1
            return 0
        rings.move_to_end(log)
        kept.published_ms = now_ms
        self._published += 1
        self._seq = seq = self._seq + 1
        ring = kept.ring
        after = ring.head
        expires_ms = now_ms + max(1, message.expires_ms - message.sent_ms) if message.expires_ms else 0
        entry = Entry(seq, encoded, "", "", expires_ms)
        size = len(encoded) + ENTRY_BYTES
        ring.append(seq, entry, size, now)
        self._bytes += size
        self._bytes -= ring.trim_late(kept.limits, now)
        if self._bytes > self._settings.memory_bytes:
            self._evict(now)
        if mark:
            self._dedup.settle(mark, seq, now_ms)
        if log in self._watched:
            self._arrived(log, self.epoch, after, seq, (entry,))
        return seq

    # ----------------------------------------------------------------------------------------------- reading

    def watch(self, log: LogKey) -> Position:
        """Tell of this log from now on."""
        self._watched.setdefault(log, self._dropped)
        kept = self._lanes[log.lane].get(log)
        if kept is None:
            return Position(self.epoch, self._seq + 1, self._seq)
        return Position(self.epoch, kept.ring.floor + 1, kept.ring.head)

    def unwatch(self, log: LogKey) -> None:
        self._watched.pop(log, None)

    def read(self, log: LogKey, after: int) -> Batch:
        """The block that `after` is in; see `core.ring`."""
        now_ms = self._now_ms()
        kept = self._lanes[log.lane].get(log)
        if kept is None:
            floor = self._watched.get(log, self._dropped)
            return Batch(self.epoch, max(after, floor), max(after, self._seq), (), after < floor, self._seq)
        self._bytes -= kept.ring.trim(kept.limits, now_ms / 1000)
        return batch(kept.ring, self.epoch, after, now_ms)

    # ----------------------------------------------------------------------------------------- what is kept

    def upkeep(self) -> None:
        """Once a second: what is too old goes, and so do empty rings that nobody publishes to."""
        now_ms = self._now_ms()
        self._dedup.expire(now_ms)
        if not self._round:
            self._round = [*self._lanes[0], *self._lanes[1]]
            self._step = max(STEP, len(self._round) // 10)
        for log in self._round[-self._step :]:
            kept = self._lanes[log.lane].get(log)
            if kept is None:
                continue
            self._bytes -= kept.ring.trim(kept.limits, now_ms / 1000)
            if not len(kept.ring) and now_ms - kept.published_ms > self._settings.dedup_s * 1000:
                self._drop(log)
        del self._round[-self._step :]

    def measure(self, counters: Counters) -> None:
        """Set what is counted here."""
        counters.room_publishes = self._published
        counters.room_rate_drops = self._over_rate
        counters.rings = len(self._lanes[0]) + len(self._lanes[1])
        counters.ring_bytes = self._bytes
        counters.ring_evictions = self._evicted

    def _make(self, log: LogKey, now: float) -> _Kept:
        settings = self._settings
        floor = self._watched.get(log, self._dropped)
        kept = _Kept(log, floor, self._classes, settings.rate, settings.burst, now)
        self._lanes[log.lane][log] = kept
        self._bytes += RING_BYTES
        return kept

    def _drop(self, log: LogKey) -> None:
        ring = self._lanes[log.lane].pop(log).ring
        self._bytes -= ring.bytes + RING_BYTES
        self._dropped = max(self._dropped, ring.head)
        if log in self._watched:
            self._watched[log] = ring.head

    def _evict(self, now: float) -> None:
        """Go a little below the limit, so that not every publish comes here."""
        target = self._settings.memory_bytes - (self._settings.memory_bytes >> 10)
        for rings in self._lanes:
            while rings and self._bytes > target:
                log, kept = next(iter(rings.items()))
                ring, count, excess = kept.ring, len(kept.ring), self._bytes - target
                if count > 1 and excess < ring.bytes:
                    # Its newest entry stays, for now.
                    self._bytes -= ring.trim(kept.limits._replace(bytes=ring.bytes - excess), now)
                    self._evicted += count - len(ring)
                else:
                    self._drop(log)
                    self._evicted += count
