"""The durable logs that this node is told of, and how far it was told.

The answer to a watch comes on one connection and hints come on another, so either may be first. Hints that
come before the answer wait for it; what is at or below the known head is dropped; and where one is missing,
whoever is interested is told that the log moved, and reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from imgateway.brokers.redis.entries import unpack_entries
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.together import stopped, together
from imgateway.frames import Entry, LogKey, Position, log_of, parse_address
from imgateway.wire.messages import decode_message

__all__ = ("Watches", "log_named")

# Logs in one script.
BATCH = 100
# After a loss: logs in one script, and scripts on their way; logins go in between.
AGAIN = 500
AGAIN_IN_FLIGHT = 2
# Hints of one log that wait for an answer; of more only the last are kept, and it is read.
HELD = 1000


@lru_cache(maxsize=65536)
def log_named(name: bytes) -> LogKey:
    """The log whose keys have this name."""
    text, _, lane = name.decode().partition("\0")
    return log_of(parse_address(text), int(lane or 0))


class Hint(NamedTuple):
    epoch: int
    after: int
    upto: int
    watchers: int
    entries: tuple[Entry, ...]


class Unanswered:
    """A log whose head is not known yet, and what was told of it meanwhile."""

    __slots__ = ("hints",)

    def __init__(self) -> None:
        self.hints: list[Hint] = []


class Wish(NamedTuple):
    bucket: int
    name: bytes
    answer: Deferred[Position] | None
    """None: watch no more."""
    state: Unanswered | int


Known = tuple[int, bytes, int | Unanswered]
"""A log that was watched when that was lost: (bucket, name, what was known of it)."""


class Watches:
    """Everything by keyword.

    :param place: the primary, the bucket and the name of a log.
    :param tell: ``tell(what, *values)`` calls the listener.
    :param attended: `IBrokerListener.attended`.
    :param flush_soon: called when `flush` is wanted at the end of this turn.
    """

    def __init__(
        self,
        *,
        incarnation: str,
        place: Callable[[LogKey], tuple[Primary, int, bytes]],
        tell: Callable[..., None],
        attended: Callable[[LogKey], bool],
        flush_soon: Callable[[], None],
    ) -> None:
        self._incarnation = incarnation
        self._place = place
        self._tell = tell
        self._attended = attended
        self._flush_soon = flush_soon
        self._heads: dict[bytes, int | Unanswered] = {}
        self._wishes: dict[Primary, list[Wish]] = {}
        self._shared: dict[bytes, bytes] = {}
        # Counts the losses of each primary: what was begun for an older one is not gone on with.
        self._losses: dict[Primary, int] = {}
        # The data of each primary, and the logs of which it is still to be told that they are others.
        self._epochs: dict[Primary, int] = {}
        self._replaced: set[bytes] = set()

    def watch(self, log: LogKey) -> Deferred[Position]:
        """As `IBroker.watch`."""
        primary, bucket, name = self._place(log)
        answer: Deferred[Position] = Deferred()
        state = self._heads.get(name)
        if state is None:
            state = self._heads[name] = Unanswered()
        self._wish(primary, Wish(bucket, name, answer, state))
        return answer

    def unwatch(self, log: LogKey) -> None:
        """As `IBroker.unwatch`."""
        primary, bucket, name = self._place(log)
        self._replaced.discard(name)
        if self._heads.pop(name, None) is not None:
            self._wish(primary, Wish(bucket, name, None, 0))

    def _wish(self, primary: Primary, wish: Wish) -> None:
        wishes = self._wishes.setdefault(primary, [])
        if not wishes:
            self._flush_soon()
        wishes.append(wish)

    def flush(self) -> None:
        """Send what was wished in this turn."""
        self._shared.clear()
        if not self._wishes:
            return
        wishes, self._wishes = self._wishes, {}
        for primary, wished in wishes.items():
            for begin in range(0, len(wished), BATCH):
                self._send(primary, wished[begin : begin + BATCH])

    def _send(self, primary: Primary, batch: list[Wish]) -> None:
        def call(batch: Sequence[Wish]) -> Deferred[Any]:
            wishes = [(int(wish.answer is not None), wish.bucket, wish.name) for wish in batch]
            return primary.call("watch", self._incarnation, pack(wishes))

        def refused(failure: Failure, wish: Wish) -> None:
            if wish.answer is not None:
                wish.answer.errback(failure)

        def again(wish: Wish) -> Wish | None:
            # What is watched once more meanwhile stays so.
            return wish if wish.answer is not None or wish.name not in self._heads else None

        together(batch, call, partial(self._answered, primary), refused, again).addErrback(stopped)

    def _answered(self, primary: Primary, answers: list[int], batch: Sequence[Wish]) -> None:
        places = iter(answers)
        # It may answer before it is listened to for the first time, and be lost before that.
        is_same_data = self._epochs.setdefault(primary, primary.epoch) == primary.epoch
        for _, name, answer, asked in batch:
            if answer is None:
                continue
            epoch, first, head = next(places), next(places), next(places)
            state = self._heads.get(name)
            if type(state) is int:
                # It was told of before, up to here; the rest is still to come. But whoever asks may have been
                # shown that at another node. Of other data it was told nothing yet.
                is_same = is_same_data and name not in self._replaced
                answer.callback(Position(epoch, first, max(state, head) if is_same else head))
            elif state is asked and isinstance(state, Unanswered):
                self._heads[name] = head
                answer.callback(Position(epoch, first, head))
                for hint in state.hints:
                    self._arrived(name, hint)
            else:  # watched no more, or anew
                answer.callback(Position(epoch, first, head))

    # ------------------------------------------------------------------------------------------------- hints

    def heard(self, item: list[Any]) -> None:
        """A hint: ``[b"a", log, epoch, after, upto, watchers, entries]``, or ``[b"a", b"", name, message]``
        with what the entries after it share."""
        name = item[1]
        if not name:
            if not self._shared:
                self._flush_soon()  # forgets it: hints bring along what they need
            self._shared[item[2]] = item[3]
            return
        _, _, epoch, after, upto, watchers, packed = item
        state = self._heads.get(name)
        if state is None:
            # It came before the primary heard that we watch it no more, or a failover made it forget that.
            log = log_named(name)
            primary, bucket, _ = self._place(log)
            self._wish(primary, Wish(bucket, name, None, 0))
            self._look_after(log, watchers, unpack_entries(packed, self._shared))
            return
        hint = Hint(epoch, after, upto, watchers, unpack_entries(packed, self._shared))
        if type(state) is int:
            self._arrived(name, hint)
        else:
            if len(state.hints) >= HELD:  # type: ignore[union-attr]
                state.hints.clear()  # type: ignore[union-attr]
            state.hints.append(hint)  # type: ignore[union-attr]

    def _arrived(self, name: bytes, hint: Hint) -> None:
        head = self._heads.get(name)
        if type(head) is not int:
            return  # whoever was told before said so
        epoch, after, upto, watchers, entries = hint
        log = log_named(name)
        if not entries:
            self._tell("moved", log, epoch, upto)  # another epoch
            return
        if upto <= head:
            return
        self._heads[name] = upto
        if after > head:
            self._tell("moved", log, epoch, upto)
        else:
            if after < head:
                entries = tuple([entry for entry in entries if entry.seq > head])
            self._tell("arrived", log, epoch, head, upto, entries)
        self._look_after(log, watchers, entries)

    def _look_after(self, log: LogKey, watchers: int, entries: tuple[Entry, ...]) -> None:
        """Say what came for nobody, if only this node can know: of several, `lua/append.lua` knows."""
        if watchers == 1 and log.address.kind == "user" and not self._attended(log):
            for entry in entries:
                self._tell("unattended", log, decode_message(entry.message))

    # ------------------------------------------------------------------------------------------- after a loss

    def renewed(self, primary: Primary) -> None:
        """What was told by this primary may be lost: watch again everything there, and say what moved."""
        self._losses[primary] = loss = self._losses.get(primary, 0) + 1
        epoch = primary.epoch
        if self._epochs.setdefault(primary, epoch) != epoch:
            self._epochs[primary] = epoch
            self._replaced.update(name for name in self._heads if self._place(log_named(name))[0] is primary)
        names = iter(list(self._heads))
        for _ in range(AGAIN_IN_FLIGHT):
            self._again(primary, loss, names)

    def _again(self, primary: Primary, loss: int, names: Iterator[bytes]) -> None:
        if self._losses[primary] != loss:
            return
        batch: list[Known] = []
        for name in names:
            state = self._heads.get(name)
            if state is not None:
                at, bucket, _ = self._place(log_named(name))
                if at is primary:
                    batch.append((bucket, name, state))
                    if len(batch) == AGAIN:
                        break
        if batch:
            self.flush()  # what was wished before comes before
            watching = self._send_again(primary, batch)
            watching.addCallback(lambda _: self._again(primary, loss, names)).addErrback(stopped)

    def _send_again(self, primary: Primary, batch: list[Known]) -> Deferred[Any]:
        def call(batch: Sequence[Known]) -> Deferred[Any]:
            packed = pack([(1, bucket, name) for bucket, name, _ in batch])
            return primary.call("watch", self._incarnation, packed)

        def refused(failure: Failure, known: Known) -> None:
            """It stays as it was, until the next loss."""

        def again(known: Known) -> Known | None:
            return known if known[1] in self._heads else None

        return together(batch, call, partial(self._answered_again, primary), refused, again)

    def _answered_again(self, primary: Primary, answers: list[int], batch: Sequence[Known]) -> None:
        is_older = False
        for (_, name, before), epoch, head in zip(batch, answers[::3], answers[2::3], strict=True):
            known = self._heads.get(name)
            if type(known) is not int:
                continue
            # Hints may be ahead of this answer; a head below what was known before it was asked for is that
            # of other data.
            is_shorter = type(before) is int and head < before
            is_replaced = name in self._replaced or self._epochs[primary] != primary.epoch
            is_older |= is_shorter and not is_replaced
            is_other = name in self._replaced or (is_shorter and known != head)
            if known < head or is_other:
                self._replaced.discard(name)
                self._heads[name] = head
                # Who stands at the old end would not look at what is not beyond it.
                self._tell("moved", log_named(name), epoch, max(head, known + is_other))
        if is_older:
            # Seqs that somebody was shown would be given again: it has to jump ahead, as after a failover.
            primary.distrust()
