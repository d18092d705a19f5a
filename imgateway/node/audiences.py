"""Audiences by address: the rooms, areas and `all` that this node follows, and what the broker says of their
rings.

A room is followed as long as a session is in it or on its way in, an area as long as one of its rooms is, and
`all` always. What came to a ring goes into its lane, for the next round; where something is missing it is
read, once for all who are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    FirstError,
    fail,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.counters import Counters
from imgateway.core.roomclass import RoomClasses
from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import EVERYONE, Address, Batch, Entry, LogKey, Position, ResumePoint
from imgateway.interfaces import IBroker
from imgateway.node.audience import Area, Audience, Everyone, Lane, Room

__all__ = ("Audiences",)

log = Logger()

T = TypeVar("T")

WATCH_AGAIN_S = 1.0


class Audiences(dict[Address, Audience]):
    """Those of which the broker tells, or was asked to.

    :param areas: the ids of the areas that a room belongs to; may raise.
    :param news: ``news(audience)``: something came, or is lost.
    :param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel.
    """

    def __init__(
        self,
        broker: IBroker,
        sessions: Roster,
        classes: RoomClasses,
        areas: Callable[[Address], Iterable[str]],
        news: Callable[[Audience], None],
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
    ) -> None:
        super().__init__()
        self._broker = broker
        self._classes = classes
        self._areas = areas
        self._news = news
        self._now = now
        self._arm = arm
        self._everyone = Everyone(EVERYONE, classes.of(""), sessions)

    def start(self) -> None:
        """The broker is ready: follow `all`, and try until it tells of it, for nobody asks for this one."""
        self._watch(self._everyone)
        self._ready(self._everyone).addErrback(
            lambda failure: self._arm(self._now() + WATCH_AGAIN_S, lambda now: self.start())
        )

    def measure(self, counters: Counters) -> None:
        """Set the gauges that are counted here."""
        counters.rooms = len(self) - (EVERYONE in self)
        counters.room_lagging = sum(len(one.lags) for one in self.values())

    def of(self, session: Session) -> Iterator[Audience]:
        """All that a session is in; rooms first, and areas as often as they have one of them."""
        yield from session.rooms
        for room in session.rooms:
            yield from room.areas
        yield self._everyone

    def find(self, session: Session, address: Address) -> Audience | None:
        """The audience of this address, if the session is in it and has a link."""
        audience = self.get(address)
        return audience if audience is not None and audience.has(session) else None

    # ---------------------------------------------------------------------------------- what the broker says

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """A ring grew."""
        audience = self.get(log.address)
        if audience is None:
            return
        lane = audience.lanes[log.lane]
        if audience.watching is not None:
            lane.heard(epoch, upto)  # nobody is here yet
            return
        if epoch != lane.epoch:
            lane.restart(epoch, after)
        if upto <= lane.head:
            return
        if lane.target or after > lane.head:
            self._fill(audience, lane, upto)
            return
        lane.add(upto, entries)
        self._news(audience)

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """A ring grew, and what came must be read."""
        audience = self.get(log.address)
        if audience is None or audience.watching is not None:
            return
        lane = audience.lanes[log.lane]
        if epoch != lane.epoch:
            lane.restart(epoch, head)
            self._news(audience)
        elif head > lane.head:
            self._fill(audience, lane, head)

    def look(self, joined: T, points: Iterable[ResumePoint]) -> T | Deferred[T]:
        """Ask where those rings stand of which a client knows more than this node was told: it was shown that
        elsewhere, and here it is late, or lost. Not before it has joined: a question that is under way by
        then was asked after it knew. Where nobody answers it will be told of a gap.

        :returns: `joined`, then.
        """
        looking = []
        for point in points:
            audience = self.get(point.address)
            if audience is None or audience.watching is not None:
                continue
            for lane in audience.lanes:
                if (lane.log.lane, lane.epoch) == (point.lane, point.epoch) and point.seq > lane.head:
                    asking = maybeDeferred(self._broker.watch, lane.log)
                    looking.append(asking.addCallback(self._looked, lane.log))
        if not looking:
            return joined
        return DeferredList(looking, consumeErrors=True).addCallback(lambda results: joined)

    def _looked(self, position: Position, log: LogKey) -> None:
        self.moved(log, position.epoch, position.head)

    # ---------------------------------------------------------------------------------------------- reading

    def _fill(self, audience: Audience, lane: Lane, target: int) -> None:
        """Read what is between here and there, once for all."""
        if lane.target:
            lane.target = max(lane.target, target)
            return
        lane.target = target
        self._read(audience, lane)

    def _read(self, audience: Audience, lane: Lane) -> None:
        after = lane.head
        reading = maybeDeferred(self._broker.read, lane.log, after, 0, 0)
        reading.addCallback(self._filled, audience, lane, after)
        reading.addErrback(self._unread, audience, lane, after)

    def _filled(self, batch: Batch, audience: Audience, lane: Lane, after: int) -> None:
        if lane.head != after or not lane.target:
            return  # it restarted meanwhile
        if batch.epoch != lane.epoch:
            lane.restart(batch.epoch, batch.head)
        else:
            lane.gap = lane.gap or batch.gap
            lane.add(max(batch.upto, after), [entry for entry in batch.entries if entry.seq > after])
            if after < lane.head < lane.target:
                self._read(audience, lane)
                return
            if lane.head < lane.target:  # it is not there any more
                lane.gap, lane.head = True, lane.target
            lane.target = 0
        self._news(audience)

    def _unread(self, failure: Failure, audience: Audience, lane: Lane, after: int) -> None:
        """What could not be read counts as lost: else nothing would ever come again."""
        if not failure.check(CancelledError):  # else the broker stops
            log.failure("reading a room failed", failure)
        if lane.head == after and lane.target:
            lane.gap, lane.head, lane.target = True, max(lane.head, lane.target), 0
            self._news(audience)

    # -------------------------------------------------------------------------------------------- following

    def room(self, address: Address) -> Deferred[Room]:
        """The room, once the broker tells of it and its areas. It is kept until it is `released`; if this
        fails, it is already."""
        room = self.get(address)
        if room is None:
            try:
                room = self._make(address)
            except Exception:
                return fail(Failure())
        assert isinstance(room, Room)
        room.stays += 1
        if not any(one.watching is not None for one in (room, *room.areas)):
            return succeed(room)
        ready = gatherResults([self._ready(one) for one in (room, *room.areas)], consumeErrors=True)
        return ready.addCallbacks(lambda _: room, self._not_ready, errbackArgs=(room,))

    def _make(self, address: Address) -> Room:
        room = Room(address, self._classes.of(address.id))
        areas = dict.fromkeys(self._areas(address))  # all, before any is watched for it
        room.areas = tuple([self._area(Address("area", ident)) for ident in areas])
        for area in room.areas:
            area.rooms[room] = None
        self._watch(room)
        return room

    def _area(self, address: Address) -> Area:
        area = self.get(address)
        if area is None:
            area = Area(address, self._classes.of(address.id))
            self._watch(area)
        assert isinstance(area, Area)
        return area

    def _not_ready(self, failure: Failure, room: Room) -> Failure:
        self.release(room)
        return _first(failure)

    def release(self, room: Room) -> None:
        """One who asked for it needs it no more."""
        room.stays -= 1
        if room.stays:
            return
        self._unwatch(room)
        for area in room.areas:
            del area.rooms[room]
            if not area.rooms:
                self._unwatch(area)

    def _watch(self, audience: Audience) -> None:
        self[audience.address] = audience
        watching = gatherResults(
            [maybeDeferred(self._broker.watch, lane.log) for lane in audience.lanes], consumeErrors=True
        )
        watching.addCallbacks(self._watched, self._unwatched, (audience,), errbackArgs=(audience,))

    def _watched(self, positions: list[Position], audience: Audience) -> None:
        for lane, position in zip(audience.lanes, positions, strict=True):
            lane.watched(position)
        waiting, audience.watching = audience.watching or [], None
        for ready in waiting:
            ready.callback(None)

    def _unwatched(self, failure: Failure, audience: Audience) -> None:
        """Who comes now begins anew; who waits for this one waits no more."""
        log.failure("watching a room failed", _first(failure))
        self._unwatch(audience)
        waiting, audience.watching = audience.watching or [], []
        for ready in waiting:
            ready.errback(_first(failure))

    def _ready(self, audience: Audience) -> Deferred[None]:
        if audience.watching is None:
            return succeed(None)
        if self.get(audience.address) is not audience:
            return fail(LookupError("the broker did not tell of it"))
        ready: Deferred[None] = Deferred()
        audience.watching.append(ready)
        return ready

    def _unwatch(self, audience: Audience) -> None:
        if self.get(audience.address) is audience:  # else it has gone, and another has come
            del self[audience.address]
            for lane in audience.lanes:
                self._broker.unwatch(lane.log)


def _first(failure: Failure) -> Failure:
    """What went wrong, of several that were waited for."""
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure
