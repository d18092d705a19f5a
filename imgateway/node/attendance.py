"""Attendance: those of an audience who have a link, and are told, each from where its client is.

To be in a room is one thing, and to be told of it another: whoever comes back with a new link is told again
from where it says that it is. `area` and `all` are entered by nobody: who is in one of an area's rooms, or
logged in, is told.
"""

from __future__ import annotations

from collections.abc import Sequence

from imgateway.core.resume import resume_ring
from imgateway.core.session import Session
from imgateway.frames import Batch, LogKey, Mode, Resumed, ResumePoint, Subscribed
from imgateway.node.audience import Audience, Room, pulls
from imgateway.node.audiences import Audiences
from imgateway.node.delivery import Delivery
from imgateway.node.link import Link
from imgateway.node.notices import Notices
from imgateway.node.rounds import Rounds

__all__ = ("Attendance", "subscribed")


class Attendance:
    """Who is told, from where, and how."""

    def __init__(self, audiences: Audiences, rounds: Rounds, notices: Notices, delivery: Delivery) -> None:
        self._audiences = audiences
        self._rounds = rounds
        self._notices = notices
        self._delivery = delivery

    def enter(
        self, session: Session, room: Room, mode: Mode, points: Sequence[ResumePoint]
    ) -> tuple[Resumed, ...]:
        """The session, which is in the room and has an open link, is told of it from now on; or from another
        place, or in another mode. `points`: where its client is in the lanes.

        :returns: where it goes on in each lane.
        """
        room.invited.pop(session, None)
        is_new = session not in room.members
        room.members[session] = None
        able = pulls(session)
        if not able:
            room.unable[session] = None
        if mode is Mode.NOTIFY and able:
            if room.round is not None and not is_new and not room.tells(session):
                room.fall_behind(session)  # the round may not have come to it, and it is not told of that
            room.notified[session] = None
        else:
            room.notified.pop(session, None)
            lag = None if room.telling else room.sent_instead(session)
            if lag is not None:
                self._rounds.queue(lag)
        return self.place(session, room, points, is_new)

    def bring_in(self, session: Session, room: Room, mode: Mode) -> None:
        """As `enter`, and its client, which has not asked, learns that it is in. Lane 0 is told last: who
        knows of that alone asks for the other, perhaps only after it was taken out again."""
        resumed = self.enter(session, room, mode, ())
        for one in reversed(resumed):
            session.link.send(subscribed(room, session, one))
        self.remind(session, resumed)

    def place(
        self, session: Session, audience: Audience, points: Sequence[ResumePoint], is_new: bool = False
    ) -> tuple[Resumed, ...]:
        """The session, which is one of the audience, goes on where its client is.

        :param is_new: until now it was not, so that where nothing is said what comes from now on is for it.
        :returns: where that is in each lane; once its client was told, `remind` is to be.
        """
        resumed = []
        notify = audience.tells(session)
        for number, lane in enumerate(audience.lanes):
            point = next((one for one in points if one.lane == number), None)
            place, gap, head = audience.place(session, number), False, lane.head
            if point is not None and point.epoch:
                if point.epoch == lane.epoch and head < point.seq <= lane.target:
                    head = lane.target  # it has what is being read for the others
                place, gap, _ = resume_ring(point, lane.epoch, head)
                if not notify and (place < lane.sent or session in audience.lags):
                    lag = audience.fall_behind(session)
                    lag.places[number], lag.epochs[number] = place, lane.epoch
                    self._rounds.queue(lag)
            elif is_new:
                place = head = audience.come(session, number)
            resumed.append(Resumed(audience.address, number, lane.epoch, place, head, gap))
        if notify:
            audience.lags.pop(session, None)
        return tuple(resumed)

    def remind(self, session: Session, resumed: Sequence[Resumed]) -> None:
        """After the answer that said this: the gaps in it are told, and whoever pulls, and has not all, is
        told to. Those who hear of it meanwhile may have taken the session out."""
        for one in resumed:
            if one.gap:
                self._delivery.told_gap(session, one.address)
        for one in resumed:
            audience = self._audiences.find(session, one.address)
            if (
                audience is not None
                and one.position < one.head
                and session not in audience.lags
                and session not in audience.unanswered
                and audience.tells(session)
            ):
                since = [
                    (each.lane, each.position)
                    for each in resumed
                    if each.address == one.address and each.position < each.head
                ]
                self._notices.tell_one(audience, session, tuple(since))

    def writable(self, session: Session) -> None:
        """Its link took everything: whoever was behind may catch up."""
        audiences = [*self._audiences.of(session)]
        for audience in audiences:
            if session in audience.unheard and not audience.tells(session):
                audience.sent_instead(session)
            lag = audience.lags.get(session) if audience.lags else None
            if lag is not None:
                self._rounds.queue(lag)
        if any(session in audience.unheard for audience in audiences):
            self._notices.writable(session, audiences)  # of all at once

    def drop(self, session: Session) -> None:
        """It has no link: it is told nothing until its client says where it is."""
        for audience in self._audiences.of(session):
            audience.drop(session)

    def answer(self, link: Link, session: Session, batch: Batch, log: LogKey, after: int) -> None:
        """Send what was read for its client: the part of the block that goes on where it is."""
        shares = self._rounds.shelf.of(log, batch, 0)
        share = next((one for one in shares if one.upto > after), shares[-1])
        for data in share.said(self._delivery, session):
            link.send_bytes(data)
        audience = self._audiences.find(session, log.address)
        if audience is not None:
            self._notices.pulled(audience, session, log.lane, batch.epoch, share.upto)


def subscribed(room: Room, session: Session, one: Resumed, anew: bool = False) -> Subscribed:
    """The answer to Subscribe."""
    mode = room.mode(session)
    return Subscribed(room.address, 0, one.epoch, one.head, one.gap, mode, one.lane, one.position, anew)
