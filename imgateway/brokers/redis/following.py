"""The logs that devices follow beside their mailboxes.

Which ones they are stands with the user; where a device stands in one stands with the log, often at another
primary, where it holds back what the log may drop. No script sees both. So the user's list comes first and is
fenced; and what stands at a log is dated by the generation that wrote it, so that a place that was left
behind is not taken for one of today.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from imgateway.brokers.redis.positions import Positions, log_text, seqs
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.sessions import MAX_FOLLOWED
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import LogKey, SessionKey, parse_address
from imgateway.interfaces import Followed, Place

__all__ = ("Following",)


class Following:
    """Everything by keyword. `Seat.owed.others` has all that a device follows, from its login on."""

    def __init__(
        self, *, primaries: Primaries, positions: Positions, max_followed: int = MAX_FOLLOWED
    ) -> None:
        self._primaries = primaries
        self._positions = positions
        self._max_followed = max_followed
        self._active: dict[SessionKey, set[LogKey]] = {}  # what sessions follow just now
        self._beginning = UnderWay()  # sessions and logs, until it is on the primaries

    def places(self, session: SessionKey, generation: int, follows: bytes) -> Deferred[tuple[Place, ...]]:
        """Take over the device's places, from older generations of it. `follows`: logs, one a line; where it
        has no place after all, it does not follow."""
        asking = [
            primary.call("places", *session, generation, *values).addCallback(_places, logs)
            for primary, logs, values in self._by_primary(_logs(follows))
        ]
        order = {log: index for index, log in enumerate(_logs(follows))}

        def together(found: list[list[Place]]) -> tuple[Place, ...]:
            every = [place for places in found for place in places]
            return tuple(sorted(every, key=lambda place: order[place.log]))

        return gatherResults(asking, consumeErrors=True).addCallback(together)

    def keep(self, session: SessionKey, seat: Seat, log: LogKey, acked: int, parked: tuple[int, ...]) -> None:
        """Where it stands now; from the first time on it follows."""
        is_new = log not in seat.owed.others
        seat.owed = replace(seat.owed, others={**seat.owed.others, log: (acked, parked)})
        if is_new:
            self._positions.mark_listed(session, seat)
        self._positions.mark_moved(session, seat, log)

    def follow(self, session: SessionKey, seat: Seat, log: LogKey, begin: int) -> Deferred[Followed]:
        self._active.setdefault(session, set()).add(log)
        there = seat.owed.others.get(log)
        if there is not None and (session, log) not in self._beginning:
            return succeed(Followed(True, *there))
        self._forget_surplus(session, seat)
        seat.owed = replace(seat.owed, others={**seat.owed.others, log: (begin, ())})
        generation, text = seat.generation, log_text(log)
        primary, bucket = self._primaries.of(text)

        def listed(is_ours: bool) -> Any:
            if not is_ours:
                return []
            return primary.call("follow", bucket, text, *session, generation, begin)

        def followed(reply: Any) -> Any:
            self._beginning.end((session, log))
            if isinstance(reply, Failure):
                return reply
            return Followed(False, reply[0] if reply else begin)

        self._beginning.begin((session, log))
        return self._positions.list_follows(session, seat).addCallback(listed).addBoth(followed)

    def unfollow(self, session: SessionKey, seat: Seat, log: LogKey) -> Deferred[None]:
        self._active.get(session, set()).discard(log)
        rest = {one: where for one, where in seat.owed.others.items() if one != log}
        seat.owed = replace(seat.owed, others=rest)
        generation, text = seat.generation, log_text(log)

        def listed(is_ours: bool) -> Any:
            return self.drop(session, generation, text.encode()) if is_ours else None

        return self._positions.list_follows(session, seat).addCallback(listed)

    def drop(self, session: SessionKey, generation: int, follows: bytes) -> Deferred[None]:
        """The device has no place in these logs any more."""
        dropping = [
            primary.call("unfollow", *session, generation, *values)
            for primary, _, values in self._by_primary(_logs(follows))
        ]
        return gatherResults(dropping, consumeErrors=True).addCallback(lambda _: None)

    def forget(self, session: SessionKey) -> None:
        """The session ended."""
        self._active.pop(session, None)

    def _forget_surplus(self, session: SessionKey, seat: Seat) -> None:
        """Make place for one more log, if there is one that the device does not follow just now."""
        others = seat.owed.others
        if len(others) >= self._max_followed:
            active = self._active.get(session, ())
            surplus = next((log for log in others if log not in active), None)
            if surplus is not None:
                self.unfollow(session, seat, surplus)

    def _by_primary(self, logs: Iterable[LogKey]) -> list[tuple[Primary, list[LogKey], list[Any]]]:
        """The logs of each primary, and the arguments that name them."""
        found: dict[Primary, tuple[list[LogKey], list[Any]]] = {}
        for log in logs:
            text = log_text(log)
            primary, bucket = self._primaries.of(text)
            there, values = found.setdefault(primary, ([], []))
            there.append(log)
            values += (bucket, text)
        return [(primary, *rest) for primary, rest in found.items()]


def _logs(follows: bytes) -> list[LogKey]:
    return [LogKey(parse_address(text)) for text in follows.decode().split("\n")] if follows else []


def _places(found: list[list[Any]], logs: list[LogKey]) -> list[Place]:
    return [
        Place(log, place[0], place[3], place[1], place[2], seqs(place[4]))
        for log, place in zip(logs, found, strict=True)
        if place
    ]
