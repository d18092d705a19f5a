"""Stays: which session is in which rooms, from its join until it leaves or ends, and who is on the way in.

The broker counts the same. To be in a room needs no link: that is the business of attendance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import Address, Mode, SessionKey, Unsubscribed, UnsubscribedCode
from imgateway.interfaces import IBroker
from imgateway.node.attendance import Attendance
from imgateway.node.audience import Room
from imgateway.node.audiences import Audiences

__all__ = ("Stays", "Withdrawn")

log = Logger()

MOST_REMOVED = 200
"""Rooms of a session that it was taken out of are remembered, so many at most."""


class Withdrawn(Exception):
    """It left the room, was taken out, or lost the link that asked, before it was in."""


class Coming(Struct, eq=False):
    """A session is on its way into a room, once for all that wait for it.

    :ivar waiting: what `Stays.join` gave them, and whose link asked; None: the business did.
    :ivar is_over: it is in, or is not to come in any more.
    """

    key: SessionKey
    address: Address
    waiting: list[tuple[Deferred[Room], Session | None]] = []
    is_over: bool = False


class Stays:
    """:param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel.

    :param linger_s: so long a client may take to name a room that its session is in; else that is left.
    """

    def __init__(
        self,
        broker: IBroker,
        sessions: Roster,
        audiences: Audiences,
        attendance: Attendance,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        linger_s: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._sessions = sessions
        self._audiences = audiences
        self._attendance = attendance
        self._now = now
        self._arm = arm
        self._linger_s = linger_s
        self._coming: dict[SessionKey, dict[Address, Coming]] = {}
        # Rooms that sessions were taken out of, and whose clients may not know: the newest last.
        self._removed: dict[Session, dict[Address, None]] = {}

    def held(self, session: Session) -> dict[Address, None]:
        """Rooms that a session is in, or on its way into: there the broker may have it already."""
        held = dict.fromkeys([room.address for room in session.rooms])
        held.update(dict.fromkeys(self._coming.get(session.key, ())))
        return held

    # ------------------------------------------------------------------------------------------------ coming

    def join(self, session: Session, address: Address) -> Deferred[Room]:
        """The room, once the session is in it, whatever becomes of its link meanwhile. It is told of nothing
        there until `Attendance.enter`. This takes as long as a server is away.

        :raises Withdrawn: (in the Deferred) it left, was taken out, or lost its link, before it was in.
        """
        return self._come(session.key, address, session)

    def put(self, session: Session, address: Address, mode: Mode) -> Deferred[bool]:
        """The business puts a session into a room: its client is told, as soon as it has a link. False: it
        has ended, or was taken out, meanwhile."""
        self.readmit(session, address)
        joining = self._come(session.key, address, None)
        return joining.addCallbacks(self._put, _not_put, (session.key, mode))

    def _put(self, room: Room, key: SessionKey, mode: Mode) -> bool:
        session = self._sessions.get(key)  # perhaps a newer one
        if session is None or room not in session.rooms:
            return False
        if session.link is not None and session.form is not None:
            self._attendance.bring_in(session, room, mode)
        else:
            room.invited[session] = mode
        return True

    def _come(self, key: SessionKey, address: Address, asker: Session | None) -> Deferred[Room]:
        answer: Deferred[Room] = Deferred()
        others = self._coming.setdefault(key, {})
        coming = others.get(address)
        if coming is not None:
            coming.waiting.append((answer, asker))
            return answer
        coming = others[address] = Coming(key, address)
        coming.waiting.append((answer, asker))
        joining: Deferred[Any] = self._audiences.room(address).addCallback(self._join, coming)
        joining.addCallbacks(self._joined, self._failed, (coming,), errbackArgs=(coming,))
        return answer

    def _join(self, room: Room, coming: Coming, asked: int = 0) -> Room | Deferred[Room]:
        """Ask the broker for whoever is there, unless it is the one that was `asked` for. When a client came
        back meanwhile the broker may have taken the older one for gone."""
        there = self._sessions.get(coming.key)
        if coming.is_over or there is None or there.generation == asked:
            return room
        areas = tuple([area.address.id for area in room.areas])
        joining = maybeDeferred(self._broker.join, there.key, there.generation, room.address, areas)
        joined: Deferred[Room] = joining.addCallbacks(lambda _: room, self._unjoined, errbackArgs=(room,))
        return joined.addCallback(self._join, coming, there.generation)

    def _unjoined(self, failure: Failure, room: Room) -> Failure:
        self._audiences.release(room)
        return failure

    def _joined(self, room: Room, coming: Coming) -> None:
        if coming.is_over:
            self._audiences.release(room)
            return
        waiting = self._arrives(coming)
        there = self._sessions.get(coming.key)
        if there is None or room in there.rooms:
            self._audiences.release(room)
        else:
            there.rooms = (*there.rooms, room)
        for answer in waiting:
            answer.callback(room)
        # Its client may wait for this over no link any more. Before Welcome all this is yet to come.
        if there is not None and there.form is not None and room in there.rooms and there not in room.members:
            self.await_names(there)

    def _failed(self, failure: Failure, coming: Coming) -> None:
        if not coming.is_over:
            for answer in self._arrives(coming):
                answer.errback(failure)

    def _withdraw(self, key: SessionKey, address: Address) -> None:
        coming = self._coming.get(key, {}).get(address)
        if coming is not None:
            self._failed(Failure(Withdrawn()), coming)

    def _arrives(self, coming: Coming) -> list[Deferred[Room]]:
        """It is on its way no more. Who waited for that."""
        coming.is_over = True
        others = self._coming[coming.key]
        del others[coming.address]
        if not others:
            del self._coming[coming.key]
        return [answer for answer, _ in coming.waiting]

    # ----------------------------------------------------------------------------------------------- leaving

    def leave(self, session: Session, address: Address) -> Deferred[None]:
        """The session is in the room no more, nor on its way in."""
        if address not in self.held(session):
            return succeed(None)
        return self._leave(session, address)[1]

    def _leave(self, session: Session, address: Address) -> tuple[bool, Deferred[None]]:
        """It is in the room, or on its way in, until now. Also whether it was in it."""
        self._withdraw(session.key, address)
        room = _room(session, address)  # who waited for it may have taken it out
        if room is not None:
            room.drop(session)
            room.invited.pop(session, None)
            session.rooms = tuple([one for one in session.rooms if one is not room])
            for area in room.areas:
                if not area.has(session):
                    area.drop(session)
            self._audiences.release(room)
        # Of one that was on its way in the broker may know already.
        return room is not None, self._broker.leave(session.key, session.generation, address)

    def remove(self, session: Session, address: Address, code: UnsubscribedCode) -> Deferred[bool]:
        """Take the session out of a room and tell its client. False: it is not in it, nor on its way in."""
        if address not in self.held(session):
            return succeed(False)
        if code is UnsubscribedCode.REMOVED:
            removed = self._removed.setdefault(session, {})
            removed[address] = None
            if len(removed) > MOST_REMOVED:
                del removed[next(iter(removed))]
        was_in, left = self._leave(session, address)
        # Nothing goes before Welcome, and who asks to come in is answered.
        if was_in and session.link is not None and session.form is not None:
            session.link.send(Unsubscribed(address, code))
        return left.addCallback(lambda _: True)

    def give_up(self, session: Session, room: Room) -> None:
        """It does not pull."""
        self.remove(session, room.address, UnsubscribedCode.NOT_PULLING).addErrback(_not_left)

    def await_names(self, session: Session) -> None:
        """Its client is to name the rooms that it is in, in time, or they are left."""
        self._arm(self._now() + self._linger_s(), lambda now: self._forget(session))

    def _forget(self, session: Session) -> None:
        if session.link is not None:
            for room in session.rooms:
                if session not in room.members and room.address not in self._coming.get(session.key, ()):
                    self.leave(session, room.address).addErrback(_not_left)

    # ----------------------------------------------------------------------------------------- being kept out

    def removed(self, session: Session) -> Collection[Address]:
        """Rooms that it was taken out of, and was not told that it may come in again."""
        return self._removed.get(session, {})

    def readmit(self, session: Session, address: Address) -> None:
        """It may come in again, if it was taken out."""
        removed = self._removed.get(session, {})
        removed.pop(address, None)
        if not removed:
            self._removed.pop(session, None)

    # ----------------------------------------------------------------------------------- what becomes of them

    def detached(self, session: Session) -> None:
        """Its link is gone. It still comes into rooms, but nobody waits: a server may be away while links
        come and go."""
        self._attendance.drop(session)
        for coming in tuple(self._coming.get(session.key, {}).values()):
            gone = [answer for answer, asker in coming.waiting if asker is session]
            coming.waiting = [one for one in coming.waiting if one[1] is not session]
            for answer in gone:
                answer.errback(Withdrawn())

    def ended(self, session: Session) -> None:
        """It is gone; the broker knows."""
        self._attendance.drop(session)
        self._removed.pop(session, None)
        rooms, session.rooms = session.rooms, ()
        for room in rooms:
            room.invited.pop(session, None)
            self._audiences.release(room)
        for address in tuple(self._coming.get(session.key, ())):
            self._withdraw(session.key, address)

    def succeeded(self, old: Session, new: Session) -> None:
        """A newer generation of a session is in the same rooms."""
        self._attendance.drop(old)
        new.rooms, old.rooms = old.rooms, ()
        if old in self._removed:
            self._removed[new] = self._removed.pop(old)
        for room in new.rooms:
            if old in room.invited:
                room.invited[new] = room.invited.pop(old)


def _room(session: Session, address: Address) -> Room | None:
    return next((room for room in session.rooms if room.address == address), None)


def _not_left(failure: Failure) -> None:
    log.failure("leaving a room failed", failure)


def _not_put(failure: Failure) -> bool:
    failure.trap(Withdrawn)
    return False
