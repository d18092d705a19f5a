"""What clients and business code ask about rooms: to be in one, to be out of it, to read what is in it; and
what clients ask about the logs that they follow.

Who subscribes too often waits, as with publishes. An answer that is there at once goes out at once; only
where the broker has to be waited for is the link not read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.quota import Quotas
from imgateway.core.session import Session
from imgateway.frames import (
    Address,
    Batch,
    Mode,
    Pull,
    Refused,
    RefusedCode,
    ResumePoint,
    SessionKey,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    address_text,
    log_of,
)
from imgateway.interfaces import IPolicy
from imgateway.node.audience import Room
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause

__all__ = ("Subscriptions",)

log = Logger()

UNSENT_BYTES = 65_536
"""A link with so much unsent is not read on in this turn: pulls are small, and their answers are not."""


class Subscriptions:
    """:param now: monotonic seconds."""

    def __init__(
        self,
        hub: Hub,
        quotas: Quotas,
        limits: LimitSettings,
        now: Callable[[], float],
        counters: Counters,
    ) -> None:
        self.limits = limits
        self._hub = hub
        self._rooms = hub.rooms
        self._quotas = quotas
        self._now = now
        self._counters = counters

    # --------------------------------------------------------------------------------------------- in and out

    def subscribe(self, link: Link, session: Session, frame: Subscribe) -> bool:
        """False: the session is in as many rooms as it may. Policy is behind it."""
        self._charge(link, session)
        if self._rooms.was_removed(session, frame):
            link.send(Unsubscribed(frame.address, UnsubscribedCode.REMOVED))
            return True
        is_new = not any(room.address == frame.address for room in session.rooms)
        if is_new and len(session.rooms) >= self.limits.rooms:
            return False
        joining = self._rooms.join(session, frame.address)
        joining.addCallbacks(
            self._joined, self._not_joined, (link, session, frame), errbackArgs=(link, frame)
        )
        self._wait(joining, link, Pause.ROOM)
        return True

    def _not_joined(self, failure: Failure, link: Link, frame: Subscribe) -> None:
        log.failure("joining a room failed", failure, **link.about())
        self._counters.refused[RefusedCode.UNAVAILABLE] += 1
        if link.state is LinkState.OPEN:
            where = address_text(frame.address)
            link.send(Refused("subscribe", where, RefusedCode.UNAVAILABLE, "not just now; subscribe again"))

    def _joined(self, room: Room, link: Link, session: Session, frame: Subscribe) -> None:
        if link.session is not session:
            self._rooms.keep(session, room)
            return
        point = ResumePoint(frame.address, frame.lane, frame.epoch, frame.seq)
        if frame.last and not frame.epoch and session not in room.members:
            lane = room.lanes[frame.lane]  # right before its newest entry
            point = ResumePoint(frame.address, frame.lane, lane.epoch, max(0, lane.head - 1))
        lanes = self._rooms.enter(session, room, frame.mode, (point,))
        link.send(self._rooms.subscribed(room, session, lanes[frame.lane]))
        self._rooms.remind(session, lanes)

    def unsubscribe(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        """To leave a room that one is not in is done already."""
        self._charge(link, session)
        room = self._room(session, frame.address)
        leaving = self._rooms.leave(session, room) if room is not None else succeed(None)
        leaving.addCallback(self._unsubscribed, link, frame.address)
        self._wait(leaving, link, Pause.ROOM)

    def _unsubscribed(self, _: object, link: Link, address: Address) -> None:
        if link.state is LinkState.OPEN:
            link.send(Unsubscribed(address, UnsubscribedCode.ASKED))

    def _room(self, session: Session, address: Address) -> Room | None:
        return next((room for room in session.rooms if room.address == address), None)

    def _charge(self, link: Link, session: Session) -> None:
        if session.identity.service:
            return
        now = self._now()
        wait = self._quotas.of(session.user, now).subscribe(now)
        if wait:
            link.owe(wait)

    def _wait(self, asked: Deferred[Any], link: Link, why: Pause) -> None:
        """Read on when it is answered; at once, if it is."""
        if not asked.called or asked.paused:  # paused: it was called, and now waits for a step of its own
            link.pause(why)
            asked.addCallback(lambda _: link.resume(why))
        asked.addErrback(link.broken)

    # ------------------------------------------------------------------------------------------------- topics

    def follow(self, link: Link, session: Session, frame: Subscribe) -> bool:
        """False: the session follows as many logs as it may. Policy is behind it."""
        self._charge(link, session)
        topics = self._hub.topics
        if topics.find(session, frame.address) is None and topics.count(session) >= self.limits.rooms:
            return False
        self._wait(topics.subscribe(link, session, frame), link, Pause.ROOM)
        return True

    def unfollow(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        """Whoever does not follow the log over this link may have before: that is forgotten as well."""
        self._charge(link, session)
        leaving = self._hub.topics.unsubscribe(session, frame.address)
        leaving.addCallback(self._unsubscribed, link, frame.address)
        self._wait(leaving, link, Pause.ROOM)

    # ------------------------------------------------------------------------------------------------ reading

    def pull(self, link: Link, session: Session, frame: Pull, policy: IPolicy) -> bool:
        """Answer with the block that has the first entry after `after`. False: neither is the session there,
        nor may it read."""
        address = frame.address
        audience = self._rooms.find(session, address)
        if audience is None and not policy.may(session.identity, "read", address):
            return False
        self._counters.room_pulls += 1

        def answer(batch: Batch) -> None:
            if link.session is session:
                upto = self._rooms.answer(link, session, where, batch, frame)
                if audience is not None:
                    self._rooms.pulled(audience, session, frame.lane, upto)

        where = log_of(address, frame.lane)
        reading = self._hub.broker.read(where, frame.after, 0, 0)
        reading.addCallback(answer)
        self._wait(reading, link, Pause.PULL)
        if link.connection.unsent() >= UNSENT_BYTES:
            link.pause(Pause.ROOM)
            self._rooms.rounds.later(lambda: link.resume(Pause.ROOM))
        return True

    # --------------------------------------------------------------------------------------- business code

    def put(self, key: SessionKey, address: Address, mode: Mode) -> Deferred[bool]:
        """Put a session into a room; False: it is not here."""
        session = self._hub.sessions.get(key)
        if session is None:
            return succeed(False)
        return self._rooms.put(session, address, mode).addCallback(lambda _: True)

    def take_out(self, key: SessionKey, address: Address) -> Deferred[bool]:
        """Take a session out of a room; False: it is not in it."""
        session = self._hub.sessions.get(key)
        room = self._room(session, address) if session is not None else None
        if session is None or room is None:
            return succeed(False)
        return self._rooms.remove(session, room, UnsubscribedCode.REMOVED).addCallback(lambda _: True)
