"""The rings that a node watches: it is told of them, keeps the newest of that, and reads from there.

Hints may go lost with the connection that brings them. Whoever may have missed some asks where its rings
stand, and keeps what it is told meanwhile until it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from imgateway.brokers.redis.mirrors import ENTRY_HEAD, Mirror, Mirrors, Place, entry_of
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.turns import Turns
from imgateway.core.ring import BLOCK
from imgateway.frames import Batch, Entry, LogKey, Position

__all__ = ("Arrived", "Moved", "Watching")

WATCH, UNWATCH = 1, 2
WATCH_AGAIN_S = 43_200
"""What is watched is asked for again within twice this; the server forgets it after two days."""
HELD = 1_000
"""Hints of one ring that wait for an answer; of more only the last are kept, and it is read."""
WHOLE_BYTES = 4 << 20
"""Rings that keep no more are fetched as a whole: one call instead of one for each block and reader."""

Arrived = Callable[[LogKey, int, int, int, tuple[Entry, ...]], None]
Moved = Callable[[LogKey, int, int], None]


class Watching:
    """Everything by keyword.

    :param place: where a ring is.
    :param epoch_of: a primary's epoch, as its last answer said.
    :param touch: a call of the script `ring` that does nothing, and its answer.
    :param now_ms: milliseconds of a clock that does not go back.
    """

    def __init__(
        self,
        *,
        turns: Turns,
        mirrors: Mirrors,
        place: Callable[[LogKey], Place],
        epoch_of: Callable[[Primary], int],
        touch: Callable[[Primary, Callable[[Any], None]], None],
        arrived: Arrived,
        moved: Moved,
        now_ms: Callable[[], int],
    ) -> None:
        self._turns = turns
        self._mirrors = mirrors
        self._place = place
        self._epoch_of = epoch_of
        self._touch = touch
        self._arrived = arrived
        self._moved = moved
        self._now_ms = now_ms
        self._watched: dict[bytes, Mirror] = {}
        self._again: list[Mirror] = []
        self._again_step = 1
        self._again_ms = now_ms() + WATCH_AGAIN_S * 1000

    def watch(self, log: LogKey) -> Deferred[Position]:
        """Tell of this log from now on. Who asks again knows more than was told here: that may be lost."""
        place = self._place(log)
        mirror = self._watched.get(place.where)
        if mirror is None:
            mirror = self._watched[place.where] = Mirror(place)
            self._ask(mirror)
        elif mirror.is_known and not mirror.asked:
            self._ask(mirror)
        position: Deferred[Position] = Deferred()
        mirror.waiting.append(position)
        return position

    def unwatch(self, log: LogKey) -> None:
        place = self._place(log)
        mirror = self._watched.pop(place.where, None)
        if mirror is not None:
            self._mirrors.empty(mirror)
            asked = [UNWATCH, place.bucket, place.where]
            self._turns.ask(place.primary, asked, lambda answer: None, changes=False)

    def renewed(self, primary: Primary) -> None:
        """What was told by this primary may not have come: ask where everything stands."""
        for mirror in [*self._watched.values()]:
            if mirror.place.primary is primary:
                self._ask(mirror)

    def _ask(self, mirror: Mirror) -> None:
        mirror.asked += 1
        _, primary, bucket, where, _ = mirror.place
        self._turns.ask(primary, [WATCH, bucket, where], partial(self._stands, mirror), changes=False)

    def upkeep(self) -> None:
        """Once a second: a few are asked for again, lest the server forgets what nobody publishes to."""
        now_ms = self._now_ms()
        self._mirrors.upkeep(now_ms)
        if now_ms >= self._again_ms:
            self._again_ms = now_ms + WATCH_AGAIN_S * 1000
            self._again = [*self._watched.values()]
            self._again_step = len(self._again) // (WATCH_AGAIN_S // 2) + 1
        for mirror in self._again[-self._again_step :]:
            if self._is_watched(mirror):
                self._ask(mirror)
        del self._again[-self._again_step :]

    def _stands(self, mirror: Mirror, answer: list[int]) -> None:
        """The ring's position, and what was told since."""
        mirror.asked -= 1
        if mirror.asked:
            return  # the last answer counts: what was told before it may be lost
        first, head, count = answer
        place, epoch = mirror.place, self._epoch_of(mirror.place.primary)
        missed = epoch != mirror.epoch or head > mirror.ring.head
        if missed:
            self._mirrors.begin(mirror, epoch, head, count)
        mirror.first = first
        was_known, mirror.is_known = mirror.is_known, True
        waiting, mirror.waiting = mirror.waiting, []
        for position in waiting:
            position.callback(mirror.position())
        if was_known and missed:
            self._moved(place.log, epoch, head)
        held, mirror.held = mirror.held, []
        for item in held if self._is_watched(mirror) else ():
            self._hear(mirror, item)

    def heard(self, primary: Primary, item: list[Any]) -> None:
        """A hint of the kind r: a ring grew."""
        mirror = self._watched.get(item[1])
        if mirror is None:
            return
        if mirror.asked:
            if len(mirror.held) >= HELD:
                mirror.held.clear()
            mirror.held.append(item)
        else:
            self._hear(mirror, item)

    def _hear(self, mirror: Mirror, item: list[Any]) -> None:
        _, _, epoch, after, upto, count, data = item
        if epoch != mirror.epoch or after > mirror.ring.head:
            self._mirrors.begin(mirror, epoch, after, count)
        head = mirror.ring.head
        if upto <= head:
            return
        now_ms = self._now_ms()
        ahead_ms = ENTRY_HEAD.unpack_from(data[-1])[1] - now_ms
        entries = [entry_of(one, ahead_ms) for one in data]
        if after < head:
            entries = [entry for entry in entries if entry.seq > head]
        self._mirrors.add(mirror, entries, now_ms)
        self._arrived(mirror.place.log, epoch, after, upto, tuple(entries))

    # ------------------------------------------------------------------------------------------------ reading

    def read(self, log: LogKey, after: int) -> Deferred[Batch]:
        """The block that `after` is in; see `core.ring`."""
        place = self._place(log)
        mirror = self._watched.get(place.where)
        if mirror is not None and mirror.is_known:
            batch = self._mirrors.read(mirror, after, self._now_ms())
            if batch is not None:
                return succeed(batch)
            most_bytes = place.limits.bytes
            if not mirror.asked and most_bytes <= WHOLE_BYTES and self._mirrors.has_room(most_bytes):
                return self._complete(mirror, after)
        return self._ask_redis(place, after)

    def _complete(self, mirror: Mirror, after: int) -> Deferred[Batch]:
        """Fetch all of the ring, for this reader and those that follow."""
        batch: Deferred[Batch] = Deferred()
        mirror.readers.append((after, batch))
        if len(mirror.readers) == 1:
            _, primary, bucket, where, _ = mirror.place
            fetched = primary.ask("ring_read", bucket, where, 0, 0)
            fetched.addCallbacks(self._fetched, self._unfetched, (mirror,), errbackArgs=(mirror,))
        return batch

    def _fetched(self, answer: list[Any], mirror: Mirror) -> None:
        readers, mirror.readers = mirror.readers, []
        # Else it is another ring by now, or nobody told what came in between.
        is_same = bool(answer) and answer[0] == mirror.epoch and answer[4] >= mirror.ring.floor
        if is_same and not mirror.asked and self._is_watched(mirror):
            _, floor, _, _, _, now, *data = answer
            self._mirrors.complete(mirror, floor, data, now - self._now_ms())
        for after, reader in readers:
            batch = self._mirrors.read(mirror, after, self._now_ms()) if mirror.is_whole else None
            if batch is not None:
                reader.callback(batch)
            else:
                self._ask_redis(mirror.place, after).chainDeferred(reader)

    def _unfetched(self, failure: Failure, mirror: Mirror) -> None:
        readers, mirror.readers = mirror.readers, []
        for _, reader in readers:
            reader.errback(failure)

    def _is_watched(self, mirror: Mirror) -> bool:
        return self._watched.get(mirror.place.where) is mirror

    def _ask_redis(self, place: Place, after: int) -> Deferred[Batch]:
        asked = place.primary.ask("ring_read", place.bucket, place.where, after, BLOCK)
        return asked.addCallback(self._found, place, after)

    def _found(self, answer: list[Any], place: Place, after: int) -> Batch | Deferred[Batch]:
        if not answer:
            # Nobody asked anything since the primary has been what it is.
            known: Deferred[Any] = Deferred()
            self._touch(place.primary, known.callback)
            return known.addCallback(lambda _: self.read(place.log, after))
        epoch, begin, upto, gap, head, _, *data = answer
        return Batch(epoch, begin, upto, tuple([entry_of(one, 0) for one in data]), bool(gap), head)
