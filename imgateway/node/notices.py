"""Notices: telling an audience that there is something, for those who pull it themselves.

A member has at most one unanswered notice of a room. It says how far the lanes go and within what time to
pull, at random, so that a crowd does not come at once; what comes meanwhile is found by the same pull. Rooms
of a session that have news at the same time are in one notice. Who does not pull is told twice more, ten
seconds after each, and is then removed from the room. Whose link takes nothing just now is told when it does:
until then it has not been told, and nothing is expected of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.counters import Counters
from imgateway.core.session import Session
from imgateway.frames import Notify, Told
from imgateway.node.audience import LANES, Asked, Audience, Room, Since
from imgateway.node.link import Link
from imgateway.node.rounds import NOBODY, Round, cut_off

__all__ = ("Notices",)

log = Logger()

PULLS_A_SECOND = 10_000
"""The spread makes a crowd come no faster than this: some third of what a process can answer."""
MAX_SPREAD_MS = 10_000
REPEAT_S = 10.0
TIMES = 3
LOOKS = 5_000
"""Of those who did not pull so many are looked at in a turn."""
REMOVALS = 200
"""And so many are removed: 3 ms of them."""


def spread_ms(readers: int) -> int:
    """Within what time so many shall pull."""
    return min(readers * 1000 // PULLS_A_SECOND, MAX_SPREAD_MS)


class Repeat(Round):
    """Notices that nobody answered go out again.

    :param since: the lanes that those were told of who get them, and where they stood.
    """

    __slots__ = ()

    def __init__(self, audience: Audience, sessions: list[Session], times: int, since: Since) -> None:
        super().__init__(audience, [], NOBODY, iter(sessions), len(sessions), times)
        for number, place in since:
            self.before[number] = audience.lanes[number].epoch, place
            self.news.add(number)


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

    def tell(self, round: Round, sessions: Iterable[Session]) -> None:
        """Tell those who have no unanswered notice of this audience."""
        audience = round.audience
        passed, unanswered = audience.passed, audience.unanswered
        spread = spread_ms(round.readers)
        since = round.since()
        asked = self._asked(audience, since, spread, round.times)
        for session in sessions:
            link = session.link
            if link is None or session in unanswered or (passed and session in passed):
                continue
            if not link.wire.traits.pulls:
                continue
            news = audience.owed(session, since) if session in audience.unheard else since
            if audience.ahead and audience.is_ahead(session, news):
                continue  # it pulled meanwhile, and would have nothing to answer with
            if link.clogged:
                audience.owe(session, news)
                continue
            is_usual = news is since
            unanswered[session] = asked if is_usual else self._asked(audience, news, spread, round.times)
            try:
                others = self._others(session, audience) if len(session.rooms) > 1 else ()
                for other, its_news in others:
                    other.unanswered[session] = self._asked(other, its_news, spread, 1)
                if is_usual and not others and session.form.is_shared:
                    data = _written(round, session, since, spread)
                else:
                    data = _encoded(link, ((audience, news), *others), spread)
                self._send(link, data)
            except Exception:
                cut_off(session, Failure())  # the others have nothing to do with it
        self._watch(audience)

    def tell_one(self, audience: Audience, session: Session, since: Since) -> None:
        """Tell one that is behind, and has no unanswered notice."""
        if session.link.clogged:
            audience.owe(session, since)
        else:
            self._tell_of(session, [(audience, audience.owed(session, since))])

    def writable(self, session: Session, audiences: Iterable[Audience]) -> None:
        """Its link takes what it is told again: that of these audiences, all in one notice."""
        news = []
        for audience in dict.fromkeys(audiences):
            since = audience.owed(session)
            if since and session not in audience.unanswered and not audience.is_ahead(session, since):
                news.append((audience, since))
        if news:
            self._tell_of(session, news)

    def _tell_of(self, session: Session, news: Sequence[tuple[Audience, Since]]) -> None:
        spread = spread_ms(max(audience.size() for audience, _ in news))
        for audience, since in news:
            audience.unanswered[session] = self._asked(audience, since, spread, 1)
        self._send(session.link, _encoded(session.link, news, spread))
        for audience, _ in news:
            self._watch(audience)

    def pulled(self, audience: Audience, session: Session, lane: int, epoch: int, upto: int) -> None:
        """It was answered up to here: what it does not know of yet it must be told."""
        # Who asks from beyond the end, or from another ring, is answered up to there; it has no more of this.
        here = audience.lanes[lane]
        upto = min(upto, here.head) if epoch == here.epoch else 0
        audience.pulled(session, lane, upto)
        asked = audience.unanswered.pop(session, None)
        if asked is None:
            return
        told = [asked.head(number, one) for number, one in enumerate(audience.lanes)]
        if upto < told[lane]:
            # It knows that there is more, and asks on.
            due = self._now() + REPEAT_S
            since = tuple([(n, max(place, upto) if n == lane else place) for n, place in asked.since])
            audience.unanswered[session] = Asked(asked.heads, due, 1, since)
            self._watch(audience)
            return
        known = [max(head, upto) if n == lane else head for n, head in enumerate(told)]
        since = tuple([(n, known[n]) for n in LANES if audience.lanes[n].sent > known[n]])
        if since:
            self.tell_one(audience, session, since)

    def _asked(self, audience: Audience, since: Since, spread: int, times: int) -> Asked:
        told = dict(since)
        heads = tuple(
            [(lane.epoch, lane.head if n in told else lane.sent) for n, lane in enumerate(audience.lanes)]
        )
        return Asked(heads, self._now() + spread / 1000 + REPEAT_S, times, since)

    def _others(self, session: Session, audience: Audience) -> tuple[tuple[Audience, Since], ...]:
        """Its other rooms that have news for it and have not told it."""
        return tuple(
            [
                (room, since)
                for room in session.rooms
                if room is not audience
                and (room.waiting or room.round is not None)
                and (room.telling or session in room.notified)
                and session in room.members
                and session not in room.unanswered
                and session not in room.unheard
                and not room.is_ahead(session, since := _news(room))
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
        again: dict[int, dict[Session, Asked]] = {}
        silent: list[tuple[Session, Room]] = []
        for session, asked in tuple(islice(audience.unanswered.items(), LOOKS)):
            if asked.due > now or len(silent) >= REMOVALS:
                break
            del audience.unanswered[session]
            if not audience.telling and session not in audience.asked_for_notices():
                continue  # it is sent the messages now, and has nothing to pull
            if asked.times < TIMES:
                again.setdefault(asked.times + 1, {})[session] = asked
            elif isinstance(audience, Room):
                silent.append((session, audience))
        for times, sessions in again.items():
            if audience.round is None:
                self._again(Repeat(audience, list(sessions), times, _missed(audience, sessions.values())))
            else:  # they are told with the next wake-up
                late = {one: Asked(was.heads, now, was.times, was.since) for one, was in sessions.items()}
                audience.unanswered = {**late, **audience.unanswered}
        self._watch(audience)
        for session, room in silent:  # last of all: who hears of it may take others out
            if room.has(session):
                self._counters.room_not_pulling += 1
                self._give_up(session, room)


def _news(audience: Audience) -> Since:
    """The same of the round that goes on, and of what waits for the next one."""
    stood = dict(audience.round.since()) if audience.round is not None else {}
    for number, lane in enumerate(audience.lanes):
        if lane.news():
            stood.setdefault(number, lane.sent)
    return tuple([(number, stood[number]) for number in LANES if number in stood])


def _missed(audience: Audience, asked: Iterable[Asked]) -> Since:
    """What any of those who did not answer was told of, and what came since. The earliest place: whoever
    has one of its own goes on from that."""
    stood: dict[int, int] = {}
    for one in set(asked):
        told = dict(one.since)
        for number, lane in enumerate(audience.lanes):
            if number in told or lane.head > one.head(number, lane):
                place = one.stood(number, lane)
                stood[number] = min(place, stood.get(number, place))
    return tuple([(number, stood[number]) for number in LANES if number in stood])


def _written(round: Round, session: Session, since: Since, spread: int) -> bytes | None:
    """A notice, written once for those who get the same."""
    key = session.form.key()
    if key not in round.heads:
        round.heads[key] = _encoded(session.link, ((round.audience, since),), spread)
    return round.heads[key]


def _encoded(link: Link, audiences: Sequence[tuple[Audience, Since]], spread: int) -> bytes | None:
    heads = [
        Told(one.address, number, one.lanes[number].epoch, one.lanes[number].head, after)
        for one, since in audiences
        for number, after in since
    ]
    if not heads:
        return None
    try:
        data: bytes | None = link.codec.encode(Notify(tuple(heads), spread))
        return data
    except Exception:
        log.failure("the codec of {wire} raised", **link.about())
        return None
