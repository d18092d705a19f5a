"""Durable logs that sessions follow beside their mailboxes: topics, and what is sent to services.

Where a device stands in one is kept by the broker, for as long as it follows: over links, sessions and
processes. Here stand those whose client has subscribed over the link that is up; which is what it has to do
to be told, for a login alone follows nothing. When an entry reaches them is the business of crowds.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from imgateway.core.follow import Follow
from imgateway.core.resume import Resumption, resume_durable
from imgateway.core.session import Follows, Session
from imgateway.errors import StoreBusy
from imgateway.frames import (
    Address,
    Mode,
    Position,
    RefusedCode,
    ResumePoint,
    Subscribe,
    Subscribed,
    log_of,
)
from imgateway.interfaces import Followed, IBroker
from imgateway.node.crowds import Crowds
from imgateway.node.delivery import Delivery
from imgateway.node.link import Link

__all__ = ("Topics",)

LEFT = "you unsubscribed before it was there"
BUSY = "not just now; subscribe again"


class Topics:
    """Who follows what on this node."""

    def __init__(self, broker: IBroker, delivery: Delivery, reactor: IReactorTime) -> None:
        self._broker = broker
        self._delivery = delivery
        self._crowds = Crowds(delivery, reactor)
        # Subscribes that have no answer yet.
        self._asked: dict[Follow, int] = {}
        # Straight through: what the broker says.
        self.arrived = self._crowds.arrived
        self.moved = self._crowds.moved
        self.passed = self._crowds.passed

    def __len__(self) -> int:
        """Logs that are followed."""
        return len(self._crowds)

    def stop(self) -> None:
        """Nobody is served any more."""
        self._crowds.stop()

    # -------------------------------------------------------------------------------------------- subscribing

    def count(self, session: Session) -> int:
        """How many logs a session follows."""
        return 0 if session.follows is None else len(session.follows) - 1

    def find(self, session: Session, address: Address) -> Follow | None:
        """Its place in this log; None: it does not follow it."""
        return None if session.follows is None else session.follows.get(address)

    def subscribe(self, link: Link, session: Session, frame: Subscribe) -> Deferred[bool]:
        """Follow a log from where the device stands in it, and say so. That the device does is on stable
        storage by then: nothing that comes later is passed over. True: so it is; False: not, or not yet.

        Whoever follows it already over this link stays where it is.
        """
        follow = self.find(session, frame.address)
        if follow is not None:
            follow.receipts = frame.acks
            if follow in self._asked:  # the answer is late, and will be for each
                self._asked[follow] += 1
                return succeed(False)
            self._tell(link, follow, follow.acked)
            if not frame.acks:
                self._delivery.took_all(follow)
            return succeed(True)
        follow = Follow(session, log_of(frame.address))
        follow.receipts = frame.acks
        if session.follows is None:
            session.follows = Follows(session)
        session.follows[frame.address] = follow
        self._asked[follow] = 1
        self._crowds.enter(follow)
        watching = self._broker.watch(follow.log)
        following: Deferred[Any] = watching.addCallback(self._watched, link, follow, frame)
        return following.addErrback(self._not_followed, link, follow)

    def _watched(
        self, position: Position, link: Link, follow: Follow, frame: Subscribe
    ) -> Deferred[bool] | bool:
        if not self._is_here(link, follow):
            return False
        begin = self._resume(frame, position, _begin(frame, position))
        following = self._broker.follow(follow.key, follow.generation, follow.log, begin.position)
        return following.addCallback(self._followed, link, follow, frame, position, begin)

    def _not_followed(self, failure: Failure, link: Link, follow: Follow) -> bool:
        """Too much waits for the store: as if the client had not asked."""
        failure.trap(StoreBusy)
        if self._is_here(link, follow):
            self._leave(follow, BUSY)
        return False

    def _resume(self, frame: Subscribe, position: Position, acked: int) -> Resumption:
        # One who knows more than the log learns that it was rolled back. But the log does not get a new epoch
        # for what one of its many readers says.
        point = ResumePoint(frame.address, 0, frame.epoch, frame.seq)
        return resume_durable(point, position.epoch, acked, position.head)

    def _followed(
        self,
        followed: Followed,
        link: Link,
        follow: Follow,
        frame: Subscribe,
        position: Position,
        begin: Resumption,
    ) -> bool:
        if not self._is_here(link, follow):
            return False
        acked, resume = begin.position, begin
        if followed.known:
            acked = min(followed.acked, position.head)
            resume = self._resume(frame, position, acked)
        named = frame.epoch == position.epoch
        start = self._delivery.place(follow, position, resume.position, acked, followed.parked, named)
        if resume.gap:
            self._delivery.told_gap(follow, follow.address)
        for _ in range(self._asked.pop(follow)):
            self._tell(link, follow, start, resume.gap, not followed.known)
        self._delivery.go_on(follow.session)
        return True

    def _tell(self, link: Link, follow: Follow, position: int, gap: bool = False, anew: bool = False) -> None:
        epoch, head = follow.epoch, follow.head
        link.send(Subscribed(follow.address, 0, epoch, head, gap, Mode.PUSH, 0, position, anew))

    def _is_here(self, link: Link, follow: Follow) -> bool:
        return link.session is follow.session and self.find(follow.session, follow.address) is follow

    # ------------------------------------------------------------------------------------------------ leaving

    def unsubscribe(self, session: Session, address: Address) -> Deferred[None]:
        """Follow a log no more; the device's position in it is forgotten."""
        follow = self.find(session, address)
        if follow is not None:
            self._leave(follow, LEFT)
        return self._broker.unfollow(session.key, session.generation, log_of(address))

    def _leave(self, follow: Follow, reason: str) -> None:
        """Its session reads this log no more. Who waits to is told why it will not."""
        session, address = follow.session, follow.address
        assert session.follows is not None
        link, late = session.link, self._asked.get(follow, 0)
        session.follows.leave(address)
        if len(session.follows) == 1:
            session.follows = None
        self._drop(follow)
        self._delivery.go_on(session)  # what was reserved for this log is free for the others
        for _ in range(late):
            link.refuse(Subscribe(address), RefusedCode.UNAVAILABLE, reason)

    def detached(self, session: Session) -> list[Address]:
        """Its link is gone, and it is told of nothing until its client subscribes again. What it followed."""
        follows, session.follows = session.follows, None
        left = []
        for address, follow in (follows or {}).items():
            if follow is not session:
                left.append(address)
                self._drop(follow)
        return left

    def _drop(self, follow: Follow) -> None:
        self._asked.pop(follow, None)
        follow.clog()  # nothing that is being read for it counts
        if self._crowds.leave(follow):
            self._broker.unwatch(follow.log)


def _begin(frame: Subscribe, position: Position) -> int:
    """Where a device begins that has never been here: at the end, or before the newest entry."""
    there_is_one = position.first <= position.head
    return position.head - 1 if frame.last and there_is_one else position.head
