"""Notices: telling an audience that there is something, for those who pull it themselves.

A member has at most one unanswered notice of a room. It says how far the lanes go and within what time to
pull, at random, so that a crowd does not come at once; what comes meanwhile is found by the same pull. Rooms
of a session that have news at the same time are in one notice. Who does not pull is told twice more, ten
seconds after each, and is then removed from the room.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from imgateway.core.counters import Counters
from imgateway.core.session import Session
from imgateway.frames import Notify, Told
from imgateway.node.audience import LANES, Asked, Audience, Room
from imgateway.node.link import Link
from imgateway.node.rounds import Round

__all__ = ("Notices",)

log = Logger()

PULLS_A_SECOND = 10_000
"""The spread makes a crowd come no faster than this: some third of what a process can answer."""
MAX_SPREAD_MS = 10_000
REPEAT_S = 10.0
TIMES = 3


def spread_ms(readers: int) -> int:
    """Within what time so many shall pull."""
    return min(readers * 1000 // PULLS_A_SECOND, MAX_SPREAD_MS)


class Notices:
    """:param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel.

    :param again: begins a round: notices that are repeated go out in slices like all others.
    :param give_up: ``give_up(session, room)``: it did not pull.
    """

    def __init__(
        self,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        counters: Counters,
        again: Callable[[Round], None],
        give_up: Callable[[Session, Room], None],
    ) -> None:
        self._now = now
        self._arm = arm
        self._counters = counters
        self._again = again
        self._give_up = give_up

    def tell(self, round: Round, sessions: list[Session]) -> None:
        """Tell those who have no unanswered notice of this audience."""
        audience = round.audience
        passed, unanswered = audience.passed, audience.unanswered
        spread = spread_ms(len(round.tell))
        asked = self._asked(audience, spread, round.times)
        for session in sessions:
            link = session.link
            if link is None or session in unanswered or (passed and session in passed):
                continue
            unanswered[session] = asked
            if link.clogged:
                continue  # the repeat finds it again
            others = self._others(session, audience) if len(session.rooms) > 1 else ()
            for other in others:
                other.unanswered[session] = self._asked(other, spread, 1)
            key = (session.form, others)
            if key not in round.heads:
                round.heads[key] = _encoded(link, (audience, *others), spread)
            self._send(link, round.heads[key])
        self._watch(audience)

    def tell_one(self, audience: Audience, session: Session) -> None:
        """Tell one that is behind, and has no unanswered notice."""
        spread = spread_ms(sum(1 for _ in audience.here()))
        audience.unanswered[session] = self._asked(audience, spread, 1)
        if not session.link.clogged:
            self._send(session.link, _encoded(session.link, (audience,), spread))
        self._watch(audience)

    def pulled(self, audience: Audience, session: Session, lane: int, upto: int) -> None:
        """It was answered up to here: what it does not know of yet it must be told."""
        asked = audience.unanswered.pop(session, None)
        if asked is None:
            return
        if upto < asked.heads[lane]:
            # It knows that there is more, and asks on.
            audience.unanswered[session] = Asked(asked.heads, self._now() + REPEAT_S, 1)
            self._watch(audience)
            return
        for number, one in enumerate(audience.lanes):
            if one.sent > max(asked.heads[number], upto if number == lane else 0):
                self.tell_one(audience, session)
                return

    def _asked(self, audience: Audience, spread: int, times: int) -> Asked:
        heads = tuple([lane.head for lane in audience.lanes])
        return Asked(heads, self._now() + spread / 1000 + REPEAT_S, times)

    def _others(self, session: Session, audience: Audience) -> tuple[Audience, ...]:
        """Its other rooms that have news for it and have not told it."""
        return tuple(
            [
                room
                for room in session.rooms
                if room is not audience
                and (room.waiting or room.round is not None)
                and (room.telling or session in room.notified)
                and session in room.members
                and session not in room.unanswered
            ]
        )

    def _send(self, link: Link, data: bytes | None) -> None:
        if data and not link.is_too_large(data):
            link.send_bytes(data)
            self._counters.room_notifies += 1

    def _watch(self, audience: Audience) -> None:
        """Look again when the oldest that is unanswered is due."""
        if audience.unanswered and not audience.armed:
            audience.armed = True
            oldest = next(iter(audience.unanswered.values()))
            self._arm(oldest.due, lambda now: self._wake(audience, now))

    def _wake(self, audience: Audience, now: float) -> None:
        audience.armed = False
        again: dict[int, list[Session]] = {}
        for session, asked in tuple(audience.unanswered.items()):
            if asked.due > now:
                break
            del audience.unanswered[session]
            if asked.times < TIMES:
                again.setdefault(asked.times + 1, []).append(session)
            elif isinstance(audience, Room):
                self._give_up(session, audience)
        for times, sessions in again.items():
            if audience.round is None:
                before = [lane.sent for lane in audience.lanes]
                self._again(Round(audience, before, [], [], sessions, times))
            else:  # they are told with the next wake-up
                late = dict.fromkeys(sessions, Asked((0, 0), now, times - 1))
                audience.unanswered = {**late, **audience.unanswered}
        self._watch(audience)


def _encoded(link: Link, audiences: tuple[Audience, ...], spread: int) -> bytes | None:
    heads = [
        Told(one.address, number, lane.epoch, lane.head)
        for one in audiences
        for number in LANES
        if (lane := one.lanes[number]).used
    ]
    if not heads:
        return None
    try:
        return link.codec.encode(Notify(tuple(heads), spread))
    except Exception:
        log.failure("the codec of {wire} raised", **link.about())
        return None
