"""An audience: those on this node who are told what is published to one room, one area, or to all.

It follows both lanes of its ring. Whoever is at the head is an entry of a table and nothing more: how far all
of them have got stands once, in the lane. Only who has fallen behind (its link is clogged, or it came with a
position) has a place of its own, a `Lag`. So what a message costs does not depend on how the readers behave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from imgateway.core.handshake import LinkState
from imgateway.core.ring import RingLimits
from imgateway.core.roomclass import RoomClass, limits_of
from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import Address, Entry, LogKey, Mode, Position, log_of

__all__ = ("LANES", "Area", "Asked", "Audience", "Everyone", "Lag", "Lane", "Room", "Since", "pulls")

LANES = (1, 0)
"""In the order in which they are served."""
Places = dict[int, tuple[int, int]]
"""By lane, the epoch and a place in the ring."""
Since = tuple[tuple[int, int], ...]
"""Lanes that have news, each with where those stand who are told of it."""


class Lane:
    """One ring as this node follows it: `sent` ≤ `head`, and between them what the next round takes along.

    :ivar gap: something between them is lost.
    :ivar target: the ring has grown to here, and what is missing is being read; 0: nothing is.
    """

    __slots__ = ("bytes", "entries", "epoch", "gap", "head", "limits", "log", "sent", "target")

    def __init__(self, log: LogKey, limits: RingLimits) -> None:
        self.log = log
        self.limits = limits
        self.epoch = self.head = self.sent = self.target = self.bytes = 0
        self.entries: list[Entry] = []
        self.gap = False

    def heard(self, epoch: int, head: int) -> None:
        """It has grown to here, before the broker has said where it is told of from."""
        self.head = max(self.head, head) if epoch == self.epoch else head
        self.epoch = epoch

    def watched(self, position: Position) -> None:
        """The broker tells of the ring from this position on."""
        self.heard(position.epoch, position.head)
        self.sent = self.head

    def restart(self, epoch: int, position: int) -> None:
        """It is another ring now: whoever was here has missed something."""
        self.epoch = epoch
        self.head = self.sent = position
        self.entries, self.bytes, self.target = [], 0, 0
        self.gap = True

    def add(self, upto: int, entries: Iterable[Entry]) -> None:
        """The ring grew to `upto`. What is more than a ring may keep is not kept here either."""
        for entry in entries:
            self.entries.append(entry)
            self.bytes += len(entry.message)
        self.head = upto
        while len(self.entries) > self.limits.entries or (
            self.bytes > self.limits.bytes and len(self.entries) > 1
        ):
            self.bytes -= len(self.entries.pop(0).message)
            self.gap = True

    def news(self) -> bool:
        """There is something to send."""
        return self.head > self.sent or self.gap

    def take(self) -> None:
        """All up to `head` is sent from here on."""
        self.entries, self.bytes = [], 0
        self.sent, self.gap = self.head, False


class Lag:
    """The place of a session that is not at the head, in each lane. `queued`: its turn to read will come."""

    __slots__ = ("audience", "epochs", "places", "queued", "session")

    def __init__(self, session: Session, audience: Audience) -> None:
        self.session = session
        self.audience = audience
        self.places = [lane.sent for lane in audience.lanes]
        self.epochs = [lane.epoch for lane in audience.lanes]
        self.queued = False

    def place(self, number: int) -> int:
        """Where it is in a lane. A place in a ring that there is no more is before all of the new one."""
        return self.places[number] if self.epochs[number] == self.audience.lanes[number].epoch else 0

    def stand(self, places: Iterable[int]) -> None:
        """It is where a round began."""
        self.places = [min(lane.sent, place) for lane, place in zip(self.audience.lanes, places, strict=True)]


class Asked:
    """Notices that went out together: what they said, by when a pull must come, and which time it is.

    :ivar heads: the epoch of each lane, and how far it went; where nothing was said of it, how far its rounds
        had been.
    """

    __slots__ = ("due", "heads", "since", "times")

    def __init__(self, heads: tuple[tuple[int, int], ...], due: float, times: int, since: Since) -> None:
        self.since = since
        self.heads = heads
        self.due = due
        self.times = times

    def head(self, number: int, lane: Lane) -> int:
        """How far that lane went. Of the ring that it is now nothing may have been said."""
        epoch, head = self.heads[number]
        return head if epoch == lane.epoch else 0

    def stood(self, number: int, lane: Lane) -> int:
        """Where those who were told stood in that lane. A place in a ring that there is no more is before all
        of the new one."""
        head = self.head(number, lane)
        return min(dict(self.since).get(number, head), head)


class Audience:
    """:ivar lags: who is behind. :ivar ahead: who has pulled what the rounds have yet to bring: by lane, the
        epoch and how far. :ivar came: the same of who has come in since that was said: its client knows that,
        and drops what a round brings from before.

    :ivar unanswered: who was notified and has not pulled since, the oldest first.
    :ivar unheard: who is to be notified once its link takes it: by lane, the epoch and place of which it was
        not told.
    :ivar passed: while a round goes on: who is in it no more, since it has left or has another place now.
    :ivar telling: it is told that there is something, instead of being sent it.
    :ivar last: when its last round began. :ivar waiting: it has a place at a tick, or in the line.
    :ivar round: the one that goes on.
    :ivar watching: who waits for the broker to tell of it; None: it does.
    """

    __slots__ = (
        "address",
        "ahead",
        "armed",
        "came",
        "kind",
        "lags",
        "lanes",
        "last",
        "passed",
        "round",
        "telling",
        "unanswered",
        "unheard",
        "waiting",
        "watching",
    )

    def __init__(self, address: Address, kind: RoomClass) -> None:
        self.address = address
        self.kind = kind
        self.lanes = tuple([Lane(log_of(address, lane), limits_of(kind, lane)) for lane in (0, 1)])
        self.lags: dict[Session, Lag] = {}
        self.unanswered: dict[Session, Asked] = {}
        self.unheard: dict[Session, Places] = {}
        self.ahead: dict[Session, Places] = {}
        self.came: dict[Session, Places] = {}
        self.passed: dict[Session, None] = {}  # an empty set takes three times as much
        self.telling = self.waiting = self.armed = False
        self.last = -1e9
        self.round: Any = None
        self.watching: list[Deferred[None]] | None = []

    def here(self) -> Iterator[Session]:
        """Those that have a link now; who comes or goes while this is read does not disturb it. To make it is
        cheap also where they are very many: the work is in the reading."""
        raise NotImplementedError

    def size(self) -> int:
        """About how many they are, without looking at each."""
        raise NotImplementedError

    def has(self, session: Session) -> bool:
        """Is it one of them?"""
        raise NotImplementedError

    def asked_for_notices(self) -> Iterable[Session]:
        """Those of them that want to be notified, whatever the others get."""
        return ()

    def always_sent(self) -> Iterator[Session]:
        """Those of them that cannot pull, and perhaps others."""
        raise NotImplementedError

    def tells(self, session: Session) -> bool:
        """It is told that there is something, and pulls."""
        return (self.telling or session in self.asked_for_notices()) and pulls(session)

    def place(self, session: Session, number: int) -> int:
        """How far it was sent this lane, or where it came in, if that is further."""
        lag, lane = self.lags.get(session), self.lanes[number]
        place = lane.sent if lag is None else lag.place(number)
        if session in self.came:
            epoch, came = self.came[session].get(number, (0, 0))
            if epoch == lane.epoch:
                place = max(place, came)
        return place

    def come(self, session: Session, number: int) -> int:
        """It comes in. What waits for a round, or is being read for one, was said before.

        :returns: where it begins in this lane.
        """
        lane = self.lanes[number]
        head = max(lane.head, lane.target)
        if head > lane.sent:
            for places in (self.came, self.ahead):  # nor is it told of that
                places.setdefault(session, {})[number] = lane.epoch, head
        return head

    def fall_behind(self, session: Session) -> Lag:
        """From here on it has a place of its own: where everybody is, until somebody says another."""
        lag = self.lags.get(session)
        if lag is None:
            lag = self.lags[session] = Lag(session, self)
            if self.round is not None:
                # Whether the round has been to it nobody knows: it may get twice what that brings.
                lag.stand(self.round.stood())
                self.passed[session] = None
        return lag

    def owe(self, session: Session, since: Since) -> None:
        """It is told of this later, together with what it was not told of before."""
        places = self.unheard.setdefault(session, {})
        for number, place in since:
            places.setdefault(number, (self.lanes[number].epoch, place))

    def owed(self, session: Session, since: Since = ()) -> Since:
        """What it is told of now: this, and what it was not told of before. A place in a ring that is no more
        is before all of the new one."""
        stood = dict(since)
        for number, (epoch, place) in self.unheard.pop(session, {}).items():
            stood[number] = place if epoch == self.lanes[number].epoch else 0
        return tuple([(number, stood[number]) for number in LANES if number in stood])

    def tell_instead(self, session: Session) -> None:
        """It is told from now on, also of what it was to be sent."""
        lag = self.lags.pop(session)
        if session not in self.unanswered:  # else it pulls, and is told of more then
            places = [(number, lag.place(number)) for number in LANES]
            self.owe(session, tuple([one for one in places if one[1] < self.lanes[one[0]].sent]))

    def sent_instead(self, session: Session) -> Lag | None:
        """It is sent messages from now on; also what it was told of, or was to be, and has not pulled. None:
        there is no such thing."""
        asked, unheard = self.unanswered.pop(session, None), dict(self.owed(session))
        if asked is None and not unheard:
            return None
        lag = self.fall_behind(session)
        for number, lane in enumerate(self.lanes):
            place = lag.place(number)
            if asked is not None:
                place = min(place, asked.stood(number, lane))
            lag.places[number] = min(place, unheard.get(number, place))
        return lag

    def pulled(self, session: Session, number: int, upto: int) -> None:
        """It was answered up to here; a pull also brings what waits for the tick."""
        lane = self.lanes[number]
        if self.round is not None or upto > lane.sent:
            self.ahead.setdefault(session, {})[number] = lane.epoch, upto

    def is_ahead(self, session: Session, since: Since) -> bool:
        """It has pulled all that there is in these lanes."""
        seen = self.ahead.get(session)
        if seen is None:
            return False
        nowhere = -1, -1
        return all(
            seen.get(number, nowhere)[0] == self.lanes[number].epoch
            and seen[number][1] >= self.lanes[number].head
            for number, _ in since
        )

    def caught_up(self) -> None:
        """A round is over: who was ahead of it may be ahead of the next one."""
        self.passed.clear()
        if self.ahead:
            self.ahead = self._still_ahead(self.ahead)
        if self.came:
            self.came = self._still_ahead(self.came)

    def _still_ahead(self, places: dict[Session, Places]) -> dict[Session, Places]:
        return {
            session: seen
            for session, seen in places.items()
            if any(
                epoch == self.lanes[number].epoch and upto > self.lanes[number].sent
                for number, (epoch, upto) in seen.items()
            )
        }

    def drop(self, session: Session) -> None:
        """It is not here any more."""
        self.lags.pop(session, None)
        self.ahead.pop(session, None)
        self.came.pop(session, None)
        self.unanswered.pop(session, None)
        self.unheard.pop(session, None)
        if self.round is not None:
            self.passed[session] = None


class Room(Audience):
    """:ivar stays: sessions that are in it, also those that have no link now or were not told of it yet.

    :ivar invited: those whose client was not told yet that it is in, and how it is to be told of what comes.
    :ivar unable: members that cannot pull.
    """

    __slots__ = ("areas", "invited", "members", "notified", "stays", "unable")

    def __init__(self, address: Address, kind: RoomClass) -> None:
        super().__init__(address, kind)
        self.areas: tuple[Area, ...] = ()
        self.members: dict[Session, None] = {}
        self.notified: dict[Session, None] = {}
        self.invited: dict[Session, Mode] = {}
        self.unable: dict[Session, None] = {}
        self.stays = 0

    def here(self) -> Iterator[Session]:
        return iter([*self.members])

    def size(self) -> int:
        return len(self.members)

    def has(self, session: Session) -> bool:
        return session in self.members

    def asked_for_notices(self) -> Iterable[Session]:
        return self.notified

    def always_sent(self) -> Iterator[Session]:
        return iter([*self.unable])

    def mode(self, session: Session) -> Mode:
        """How it is told just now."""
        return Mode.NOTIFY if self.tells(session) else Mode.PUSH

    def drop(self, session: Session) -> None:
        super().drop(session)
        self.members.pop(session, None)
        self.notified.pop(session, None)
        self.unable.pop(session, None)


class Area(Audience):
    """Whoever is in one of its rooms, once."""

    __slots__ = ("rooms",)

    def __init__(self, address: Address, kind: RoomClass) -> None:
        super().__init__(address, kind)
        self.rooms: dict[Room, None] = {}

    def here(self) -> Iterator[Session]:
        if len(self.rooms) == 1:
            return next(iter(self.rooms)).here()
        return _once([[*room.members] for room in self.rooms])

    def always_sent(self) -> Iterator[Session]:
        return _once([[*room.unable] for room in self.rooms])

    def size(self) -> int:
        return sum(len(room.members) for room in self.rooms)

    def has(self, session: Session) -> bool:
        return any(self in room.areas and session in room.members for room in session.rooms)


class Everyone(Audience):
    """:param sessions: those of the node."""

    __slots__ = ("_sessions",)

    def __init__(self, address: Address, kind: RoomClass, sessions: Roster) -> None:
        super().__init__(address, kind)
        self._sessions = sessions

    def here(self) -> Iterator[Session]:
        return filter(self.has, iter(self._sessions))

    def always_sent(self) -> Iterator[Session]:
        return self.here()  # a round is cut into slices: to look for them would be one long turn

    def size(self) -> int:
        return len(self._sessions)

    def has(self, session: Session) -> bool:
        return session.link is not None and session.link.state is LinkState.OPEN


def pulls(session: Session) -> bool:
    """Its client can be told that there is something, and read it then."""
    link = session.link
    return link is not None and link.wire.traits.pulls


def _once(rooms: Iterable[Iterable[Session]]) -> Iterator[Session]:
    seen: set[Session] = set()
    for members in rooms:
        for session in members:
            if session not in seen:
                seen.add(session)
                yield session
