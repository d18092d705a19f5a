"""The logs that devices follow beside their mailboxes.

Which ones they are stands with the user; where a device stands in one stands with the log, often at another
primary, where it holds back what the log may drop. No script sees both. So the user's list comes first and is
fenced; and what stands at a log is dated by the generation that wrote it, so that a place that was left
behind is not taken for one of today.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from imgateway.brokers.health import busy
from imgateway.brokers.redis.positions import Positions, log_text, seqs
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.together import first, together
from imgateway.brokers.sessions import MAX_FOLLOWED
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import LogKey, SessionKey, parse_address
from imgateway.interfaces import Followed

__all__ = ("Following",)


class Following:
    """Everything by keyword. `Seat.owed.others`, with `Positions.unplaced`, has all that a device follows,
    from its login on."""

    def __init__(self, *, primaries: Primaries, positions: Positions) -> None:
        self._primaries = primaries
        self._positions = positions
        self._active: dict[SessionKey, set[LogKey]] = {}  # what sessions follow just now
        self._asking: dict[SessionKey, set[Deferred[Any]]] = {}  # where they stand in what they follow
        self._beginning = UnderWay()  # sessions and logs, until it is on the primaries

    def places(self, session: SessionKey, seat: Seat, follows: bytes) -> None:
        """Take over the device's places, from older generations of it. `follows`: logs, one a line; where it
        has no place after all, it does not follow.

        The login does not wait for them: another primary may be away, whose logs alone have to wait.
        """
        if follows:
            self._positions.unplaced[session] = {log: [] for log in _logs(follows)}
            self._ask(session, seat, _logs(follows))

    def _ask(self, session: SessionKey, seat: Seat, logs: list[LogKey]) -> None:
        def call(primary: Primary, there: Sequence[LogKey]) -> Deferred[Any]:
            asking = primary.call("places", *session, seat.generation, *self._named(there))
            self._asking.setdefault(session, set()).add(asking)
            return asking.addBoth(self._answered, session, asking)

        placed, unplaced = partial(self._placed, session, seat), partial(self._unplaced, session)
        for primary, there in self._by_primary(logs):
            asking = together(there, partial(call, primary), placed, unplaced)
            asking.addErrback(self._stopped, session, there)

    def _answered(self, result: Any, session: SessionKey, asking: Deferred[Any]) -> Any:
        rest = self._asking.get(session, set())
        rest.discard(asking)
        if not rest:
            self._asking.pop(session, None)
        return result

    def _placed(
        self, session: SessionKey, seat: Seat, found: list[list[Any]], logs: Sequence[LogKey]
    ) -> None:
        unplaced = self._positions.unplaced.get(session, {})
        others = dict(seat.owed.others)
        waiting: list[Deferred[None]] = []
        for log, place in zip(logs, found, strict=True):
            if log not in unplaced:  # it does not follow it any more
                continue
            waiting += unplaced.pop(log) or ()
            if place:
                _, _, _, acked, parked = place
                others[log] = acked, seqs(parked)
        if not unplaced:
            self._positions.unplaced.pop(session, None)
        seat.owed = replace(seat.owed, others=others)
        for one in waiting:
            one.callback(None)

    def _unplaced(self, session: SessionKey, why: Exception | Failure, log: LogKey) -> None:
        """It is asked again when the session follows it."""
        unplaced = self._positions.unplaced.get(session, {})
        if log in unplaced:
            waiting, unplaced[log] = unplaced[log], None
            _give_up(waiting, why)

    def _stopped(self, failure: Failure, session: SessionKey, logs: list[LogKey]) -> None:
        """The broker has, or the session has ended."""
        failure.trap(CancelledError)
        for log in logs:
            self._unplaced(session, busy(), log)

    def keep(self, session: SessionKey, seat: Seat, log: LogKey, acked: int, parked: tuple[int, ...]) -> None:
        """Where it stands now; from the first time on it follows."""
        is_new = log not in seat.owed.others
        seat.owed = replace(seat.owed, others={**seat.owed.others, log: (acked, parked)})
        if is_new:
            self._positions.mark_listed(session, seat)
        self._positions.mark_moved(session, seat, log)

    def follow(self, session: SessionKey, seat: Seat, log: LogKey, begin: int) -> Deferred[Followed]:
        self._active.setdefault(session, set()).add(log)
        self._positions.begins(session, log)
        epoch = self._primaries.of(log_text(log))[0].epoch  # that `begin` is of
        unplaced = self._positions.unplaced.get(session, {})
        if log not in unplaced:
            return self._follow(session, seat, log, begin, epoch)
        waiting = unplaced[log]
        if waiting is None:
            waiting = unplaced[log] = []
            self._ask(session, seat, [log])
        placed: Deferred[None] = Deferred()
        waiting.append(placed)
        return placed.addCallback(lambda _: self._follow(session, seat, log, begin, epoch))

    def _follow(
        self, session: SessionKey, seat: Seat, log: LogKey, begin: int, epoch: int
    ) -> Deferred[Followed]:
        there = seat.owed.others.get(log)
        if there is not None and (session, log) not in self._beginning:
            return succeed(Followed(True, *there))
        self._forget_surplus(session, seat)
        generation, text = seat.generation, log_text(log)
        primary, bucket = self._primaries.of(text)
        if primary.epoch != epoch:  # the log was lost while its primary was waited for
            begin, epoch = 0, primary.epoch
        seat.owed = replace(seat.owed, others={**seat.owed.others, log: (begin, ())})

        def listed(is_ours: bool) -> Any:
            if not is_ours:
                return []
            return primary.call("follow", epoch, bucket, text, *session, generation, begin)

        def followed(reply: Any) -> Any:
            self._beginning.end((session, log))
            if isinstance(reply, Failure):
                return reply
            return Followed(False, reply[0] if reply else begin)

        self._beginning.begin((session, log))
        return self._positions.list_follows(session, seat).addCallback(listed).addBoth(followed)

    def unfollow(self, session: SessionKey, seat: Seat, log: LogKey) -> Deferred[None]:
        self._active.get(session, set()).discard(log)
        waiting = self._positions.unplaced.get(session, {}).pop(log, None)
        rest = {one: where for one, where in seat.owed.others.items() if one != log}
        seat.owed = replace(seat.owed, others=rest)
        generation, text = seat.generation, log_text(log)

        def listed(is_ours: bool) -> Any:
            return self.drop(session, generation, text.encode()) if is_ours else None

        unfollowing = self._positions.list_follows(session, seat).addCallback(listed)
        _give_up(waiting, busy())
        return unfollowing

    def drop(self, session: SessionKey, generation: int, follows: bytes) -> Deferred[None]:
        """The device has no place in these logs any more."""
        dropping = [
            primary.call("unfollow", *session, generation, *self._named(logs))
            for primary, logs in self._by_primary(_logs(follows))
        ]
        return gatherResults(dropping, consumeErrors=True).addCallbacks(lambda _: None, first)

    def forget(self, session: SessionKey) -> Callable[[], None]:
        """The session ended. Who waits to follow a log does not: where it would begin is not known.

        :returns: what tells them.
        """
        self._active.pop(session, None)
        unplaced = self._positions.unplaced.pop(session, {})
        for asking in self._asking.pop(session, ()):
            asking.cancel()
        return partial(_give_up, [one for waiting in unplaced.values() for one in waiting or ()], busy())

    def _forget_surplus(self, session: SessionKey, seat: Seat) -> None:
        """Make place for one more log, if there is one that the device does not follow just now."""
        every = (*seat.owed.others, *self._positions.unplaced.get(session, ()))
        if len(every) >= MAX_FOLLOWED:
            active = self._active.get(session, ())
            surplus = next((log for log in every if log not in active), None)
            if surplus is not None:
                self.unfollow(session, seat, surplus)

    def _by_primary(self, logs: Iterable[LogKey]) -> list[tuple[Primary, list[LogKey]]]:
        """The logs of each primary."""
        found: dict[Primary, list[LogKey]] = {}
        for log in logs:
            primary, _ = self._primaries.of(log_text(log))
            found.setdefault(primary, []).append(log)
        return list(found.items())

    def _named(self, logs: Iterable[LogKey]) -> list[Any]:
        """The arguments that name them."""
        texts = map(log_text, logs)
        return [value for text in texts for value in (self._primaries.of(text)[1], text)]


def _logs(follows: bytes) -> list[LogKey]:
    return [LogKey(parse_address(text)) for text in follows.decode().split("\n")] if follows else []


def _give_up(waiting: Iterable[Deferred[None]] | None, why: Exception | Failure) -> None:
    for one in waiting or ():
        one.errback(why)
