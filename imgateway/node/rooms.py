"""The rooms of a node: their parts, and what a greeting asks of them.

From the ground up, each part knows those below it:

==========  ============================================================================
rounds      when a slice of an audience is sent what came, or told of it by notices
audiences   which rooms, areas and `all` are followed, and what the broker says of them
attendance  who of the sessions in them has a link and is told, from where
stays       which sessions are in which rooms, or on their way in
==========  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.roomclass import RoomClasses
from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import RING_KINDS, Address, Resumed, ResumePoint, Unsubscribed, UnsubscribedCode
from imgateway.interfaces import IBroker, IPolicy
from imgateway.node.attendance import Attendance
from imgateway.node.audience import Room
from imgateway.node.audiences import Audiences
from imgateway.node.delivery import Delivery
from imgateway.node.notices import Notices
from imgateway.node.rounds import Rounds
from imgateway.node.stays import Stays, Withdrawn

__all__ = ("PATIENCE_S", "Rooms")

log = Logger()

PATIENCE_S = 2.0
"""So long a greeting waits for its rooms, and a link for an answer: a server may be away, and the user's own
not."""


class Rooms:
    """:param policy: says who may come in, and which areas a room belongs to.

    :param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel.
    :param linger_s: so long a client may take to name a room that its session is in; else that is left.
    """

    def __init__(
        self,
        broker: IBroker,
        sessions: Roster,
        delivery: Delivery,
        policy: IPolicy,
        settings: RoomSettings,
        reactor: IReactorTime,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        counters: Counters,
        linger_s: Callable[[], float],
    ) -> None:
        self.policy = policy
        notices = Notices(
            now,
            arm,
            counters,
            lambda round: self.rounds.serve(round),
            lambda session, room: self.stays.give_up(session, room),
        )
        self.rounds = Rounds(broker, delivery, reactor, counters, notices.tell)
        self.audiences = Audiences(
            broker,
            sessions,
            RoomClasses(settings.classes),
            lambda room: self.policy.areas(room),
            self.rounds.news,
            now,
            arm,
        )
        self.attendance = Attendance(self.audiences, self.rounds, notices, delivery)
        self.stays = Stays(broker, sessions, self.audiences, self.attendance, now, arm, linger_s)
        self._now = now
        self._arm = arm

    def prepare(
        self, session: Session, points: Sequence[ResumePoint], most: int
    ) -> Deferred[Sequence[Room]] | None:
        """Rooms that a greeting names, once they are there and the session is in them; None: none.

        Nobody waits long for a server that is away. The session comes into its rooms when it may; its client
        is to subscribe to what Welcome does not name, in time, or they are left again.

        :param most: rooms that it may be in, with those that it is in already, named or not.
        """
        wanted = dict.fromkeys(point.address for point in points if point.address.kind == "room")
        removed = self.stays.removed(session)
        may = [
            one
            for one in wanted
            if one not in removed and self.policy.may(session.identity, "subscribe", one)
        ]
        held = self.stays.held(session)
        # Else each greeting could name others, and the session would be in all of them.
        others = [one for one in may if one not in held][: max(0, most - len(held))]
        may = [one for one in may if one in held] + others
        if not may and not any(point.address.kind in RING_KINDS for point in points):
            return None
        found: list[Room] = []

        def go_on(_: object) -> None:
            if not ready.called:
                ready.callback(found)

        ready: Deferred[Sequence[Room]] = Deferred()
        joining = [
            self.stays.join(session, address).addCallbacks(found.append, _not_joined) for address in may
        ]
        DeferredList(joining).addCallback(self.audiences.look, points).addCallback(go_on)
        if not ready.called:
            self._arm(self._now() + PATIENCE_S, go_on)
        return ready

    def resume(
        self, session: Session, rooms: Sequence[Room], points: Sequence[ResumePoint]
    ) -> tuple[Resumed, ...]:
        """The link is open: go on where the client says that it is, in these rooms and in what else it
        named."""
        named: dict[Address, list[ResumePoint]] = {}
        for point in points:
            named.setdefault(point.address, []).append(point)
        resumed: list[Resumed] = []
        for room in rooms:
            if room in session.rooms:  # else it was taken out meanwhile
                mine = named[room.address]
                resumed += self.attendance.enter(session, room, mine[0].mode, mine)
        for address, mine in named.items():
            audience = self.audiences.find(session, address) if address.kind in ("area", "all") else None
            if audience is not None:
                resumed += self.attendance.place(session, audience, mine)
        return tuple(resumed)

    def tell_removed(self, session: Session, points: Sequence[ResumePoint]) -> None:
        """Right after Welcome: its client named rooms that it was taken out of."""
        for address in self.stays.removed(session):
            if any(point.address == address for point in points):
                session.link.send(Unsubscribed(address, UnsubscribedCode.REMOVED))

    def welcomed(self, session: Session, resumed: Sequence[Resumed]) -> None:
        """After Welcome: tell of rooms that the business put it in, and of what is there for who pulls; and
        wait for its client to name others in which it was."""
        for room in session.rooms:
            if session in room.invited:
                self.attendance.bring_in(session, room, room.invited[session])
        if any(session not in room.members for room in session.rooms):
            self.stays.await_names(session)
        self.attendance.remind(session, resumed)


def _not_joined(failure: Failure) -> None:
    # A greeting goes on without: its client subscribes to what Welcome does not name.
    if not failure.check(Withdrawn):
        log.failure("joining a room failed", failure)
