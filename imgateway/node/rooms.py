"""The rooms of a node: who of its sessions is in which, what is told of them, and what they ask.

A session is in a room from its join until it leaves or ends; the broker counts that. Here stand those that
have a link and are told: a client that lost its link is told again from where it says that it is. `area` and
`all` are joined by nobody: who is in one of an area's rooms, or logged in, is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import (
    Deferred,
    DeferredList,
    FirstError,
    fail,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.resume import resume_ring
from imgateway.core.roomclass import RoomClasses
from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import (
    EVERYONE,
    RING_KINDS,
    Address,
    Batch,
    Entry,
    LogKey,
    Mode,
    Position,
    Pull,
    Resumed,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribed,
    UnsubscribedCode,
)
from imgateway.interfaces import IBroker, IPolicy
from imgateway.node.audience import Area, Audience, Everyone, Lane, Room, pulls
from imgateway.node.delivery import Delivery
from imgateway.node.link import Link
from imgateway.node.notices import Notices
from imgateway.node.rounds import Rounds

__all__ = ("PATIENCE_S", "Rooms", "Withdrawn")

log = Logger()

T = TypeVar("T")

WATCH_AGAIN_S = 1.0
MOST_REMOVED = 200
"""Rooms of a session that it was taken out of are remembered, so many at most."""
PATIENCE_S = 2.0
"""So long a greeting waits for its rooms, and a link for an answer: a server may be away, and the user's own
not."""


class Withdrawn(Exception):
    """It left the room, was taken out, or lost the link that asked, before it was in."""


class Coming:
    """A session is on its way into a room, once for all that wait for it.

    :ivar waiting: what `Rooms.join` gave them, and whose link asked; None: the business did.
    :ivar is_over: it is in, or is not to come in any more.
    """

    __slots__ = ("address", "is_over", "key", "waiting")

    def __init__(self, key: SessionKey, address: Address) -> None:
        self.key = key
        self.address = address
        self.waiting: list[tuple[Deferred[Room], Session | None]] = []
        self.is_over = False


class Rooms:
    """:param policy: says which areas a room belongs to. :param now: monotonic seconds.

    :param arm: ``arm(due, wake)`` on the node's wheel.
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
        self.audiences: dict[Address, Audience] = {}
        self._broker = broker
        self._classes = RoomClasses(settings.classes)
        self._sessions = sessions
        self._delivery = delivery
        self._now = now
        self._arm = arm
        self._counters = counters
        self._linger_s = linger_s
        self._notices = Notices(now, arm, counters, lambda round: self.rounds.serve(round), self._give_up)
        self.rounds = Rounds(broker, delivery, reactor, counters, self._notices.tell)
        self._everyone: Everyone | None = None
        # Rooms that sessions were taken out of, and whose clients may not know: the newest last.
        self._removed: dict[Session, dict[Address, None]] = {}
        self._coming: dict[SessionKey, dict[Address, Coming]] = {}

    def start(self) -> None:
        """The broker is ready."""
        self._everyone = Everyone(EVERYONE, self._classes.of(""), self._sessions)
        self._watch_everyone()

    def _watch_everyone(self) -> None:
        """Until it succeeds: nobody asks for this one."""
        assert self._everyone is not None
        self._watch(self._everyone)
        self._ready(self._everyone).addErrback(
            lambda failure: self._arm(self._now() + WATCH_AGAIN_S, lambda now: self._watch_everyone())
        )

    def stop(self) -> None:
        self.rounds.stop()

    def measure(self) -> None:
        """Set the gauges that are counted here."""
        audiences = self.audiences.values()
        self._counters.rooms = len(audiences) - (self._everyone is not None)
        self._counters.room_lagging = sum(len(one.lags) for one in audiences)

    # ---------------------------------------------------------------------------------- what the broker says

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """A ring grew."""
        audience = self.audiences.get(log.address)
        if audience is None:
            return
        lane = audience.lanes[log.lane]
        if audience.watching is not None:
            lane.head = max(lane.head, upto)  # nobody is here yet
            return
        if epoch != lane.epoch:
            lane.restart(epoch, after)
        if upto <= lane.head:
            return
        if lane.target or after > lane.head:
            self._fill(audience, lane, upto)
            return
        lane.add(upto, entries)
        self.rounds.news(audience)

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """A ring grew, and what came must be read."""
        audience = self.audiences.get(log.address)
        if audience is None or audience.watching is not None:
            return
        lane = audience.lanes[log.lane]
        if epoch != lane.epoch:
            lane.restart(epoch, head)
            self.rounds.news(audience)
        elif head > lane.head:
            self._fill(audience, lane, head)

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
        self.rounds.news(audience)

    def _unread(self, failure: Failure, audience: Audience, lane: Lane, after: int) -> None:
        """What could not be read counts as lost: else nothing would ever come again."""
        log.failure("reading a room failed", failure)
        if lane.head == after and lane.target:
            lane.gap, lane.head, lane.target = True, max(lane.head, lane.target), 0
            self.rounds.news(audience)

    # -------------------------------------------------------------------------------------------- audiences

    def room(self, address: Address) -> Deferred[Room]:
        """The room, once the broker tells of it and its areas. It is kept until it is `released`; if this
        fails, it is already."""
        room = self.audiences.get(address)
        if room is None:
            room = self._make(address)
        assert isinstance(room, Room)
        room.stays += 1
        if not any(one.watching is not None for one in (room, *room.areas)):
            return succeed(room)
        ready = gatherResults([self._ready(one) for one in (room, *room.areas)], consumeErrors=True)
        return ready.addCallbacks(lambda _: room, self._not_ready, errbackArgs=(room,))

    def _make(self, address: Address) -> Room:
        room = Room(address, self._classes.of(address.id))
        areas = []
        for ident in self.policy.areas(address):
            where = Address("area", ident)
            area = self.audiences.get(where)
            if area is None:
                area = Area(where, self._classes.of(ident))
                self._watch(area)
            area.rooms[room] = None  # type: ignore[attr-defined]
            areas.append(area)
        room.areas = tuple(areas)  # type: ignore[arg-type]
        self._watch(room)
        return room

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
        self.audiences[audience.address] = audience
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
        if self.audiences.get(audience.address) is not audience:
            return fail(LookupError("the broker did not tell of it"))
        ready: Deferred[None] = Deferred()
        audience.watching.append(ready)
        return ready

    def _unwatch(self, audience: Audience) -> None:
        if self.audiences.get(audience.address) is audience:  # else it has gone, and another has come
            del self.audiences[audience.address]
            for lane in audience.lanes:
                self._broker.unwatch(lane.log)

    def _of(self, session: Session) -> Iterator[Audience]:
        """All audiences that a session is in; rooms first, and areas as often as they have one of them."""
        yield from session.rooms
        for room in session.rooms:
            yield from room.areas
        if self._everyone is not None:
            yield self._everyone

    def find(self, session: Session, address: Address) -> Audience | None:
        """The audience of this address, if the session is in it and has a link."""
        audience = self.audiences.get(address)
        return audience if audience is not None and audience.has(session) else None

    # -------------------------------------------------------------------------------------- coming and going

    def enter(
        self, session: Session, room: Room, mode: Mode, points: Sequence[ResumePoint]
    ) -> tuple[Resumed, ...]:
        """The session, which is in the room and has an open link, is told of it from now on; or from another
        place, or in another mode. `points`: where its client is in the lanes.

        :returns: where it goes on in each lane.
        """
        room.invited.pop(session, None)
        room.members[session] = None
        able = pulls(session)
        if not able:
            room.unable[session] = None
        if mode is Mode.NOTIFY and able:
            room.notified[session] = None
        else:
            room.notified.pop(session, None)
            if not room.telling:
                room.unanswered.pop(session, None)  # it has nothing to pull any more
        return self._place(session, room, points)

    def _place(
        self, session: Session, audience: Audience, points: Sequence[ResumePoint]
    ) -> tuple[Resumed, ...]:
        """Put the session where its client is, and bring it up to date."""
        resumed = []
        notify = audience.tells(session)
        for number, lane in enumerate(audience.lanes):
            point = next((one for one in points if one.lane == number), None)
            place, gap, head = audience.place(session, number), False, lane.head
            if point is not None and point.epoch:
                if point.epoch == lane.epoch and head < point.seq <= lane.target:
                    head = lane.target  # it has what is being read for the others
                place, gap, _ = resume_ring(point, lane.epoch, head)
                if place < lane.sent and not notify:
                    lag = audience.fall_behind(session)
                    lag.places[number], lag.epochs[number] = place, lane.epoch
                    self.rounds.queue(lag)
            if gap:
                self._delivery.told_gap(session, audience.address)
            resumed.append(Resumed(audience.address, number, lane.epoch, place, head, gap))
        if notify:
            audience.lags.pop(session, None)
        return tuple(resumed)

    def remind(self, session: Session, resumed: Sequence[Resumed]) -> None:
        """After the answer that said this: whoever pulls, and has not all, is told to."""
        for one in resumed:
            audience = self.audiences[one.address]
            if (
                one.position < one.head
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

    # ---------------------------------------------------------------------------------------------- reading

    def answer(self, link: Link, session: Session, log: LogKey, batch: Batch, pull: Pull) -> int:
        """Send what was read for a client: the part of the block that goes on where it is.

        :returns: how far it goes.
        """
        shares = self.rounds.shelf.of(log, batch, 0)
        share = next((one for one in shares if one.upto > pull.after), shares[-1])
        for data in share.said(self._delivery, session):
            link.send_bytes(data)
        return share.upto

    def pulled(self, audience: Audience, session: Session, lane: int, upto: int) -> None:
        """A pull was answered as far as this."""
        self._notices.pulled(audience, session, lane, upto)

    def leave(self, session: Session, room: Room) -> Deferred[None]:
        """The session is in the room no more."""
        self._withdraw(session.key, room.address)
        room.drop(session)
        room.invited.pop(session, None)
        session.rooms = tuple([one for one in session.rooms if one is not room])
        for area in room.areas:
            if not area.has(session):
                area.drop(session)
        self.release(room)
        return self._broker.leave(session.key, session.generation, room.address)

    def turn_back(self, session: Session, address: Address) -> Deferred[None]:
        """The session, which may be on its way into a room, does not come in."""
        if not self.is_coming(session.key, address):
            return succeed(None)
        self._withdraw(session.key, address)
        return self._broker.leave(session.key, session.generation, address)  # it may know already

    def _withdraw(self, key: SessionKey, address: Address) -> None:
        coming = self._coming.get(key, {}).get(address)
        if coming is not None:
            for answer in self._arrives(coming):
                answer.errback(Withdrawn())

    def _arrives(self, coming: Coming) -> list[Deferred[Room]]:
        """It is on its way no more. Who waited for that."""
        coming.is_over = True
        others = self._coming[coming.key]
        del others[coming.address]
        if not others:
            del self._coming[coming.key]
        return [answer for answer, _ in coming.waiting]

    def remove(self, session: Session, address: Address, code: UnsubscribedCode) -> Deferred[bool]:
        """Take the session out of a room and tell its client. False: it is not in it, nor on its way in."""
        room = next((room for room in session.rooms if room.address == address), None)
        if room is None and not self.is_coming(session.key, address):
            return succeed(False)
        if code is UnsubscribedCode.REMOVED:
            removed = self._removed.setdefault(session, {})
            removed[address] = None
            if len(removed) > MOST_REMOVED:
                del removed[next(iter(removed))]
        left = self.turn_back(session, address) if room is None else self.leave(session, room)
        # Nothing goes before Welcome, and who asks to come in is answered.
        if room is not None and session.link is not None and session.form is not None:
            session.link.send(Unsubscribed(address, code))
        return left.addCallback(lambda _: True)

    def was_removed(self, session: Session, frame: Subscribe) -> bool:
        """Its client goes on where it was in a room that it was taken out of, and is told that it is out. Who
        subscribes without a position begins anew."""
        if not self.is_out(session, frame.address):
            return False
        if frame.epoch:
            return True
        self._may_again(session, frame.address)
        return False

    def is_out(self, session: Session, address: Address) -> bool:
        """Whether it was taken out of a room, and was not told that it may come in again."""
        return session in self._removed and address in self._removed[session]

    def _may_again(self, session: Session, address: Address) -> None:
        removed = self._removed.get(session, {})
        removed.pop(address, None)
        if not removed:
            self._removed.pop(session, None)

    def _give_up(self, session: Session, room: Room) -> None:
        self._counters.room_not_pulling += 1
        self.remove(session, room.address, UnsubscribedCode.NOT_PULLING).addErrback(
            lambda failure: log.failure("leaving a room failed", failure)
        )

    def detached(self, session: Session) -> None:
        """Its link is gone: it is told nothing until its client says where it is."""
        self._drop(session)
        # It still comes into rooms, but nobody waits: a server may be away while links come and go.
        for coming in tuple(self._coming.get(session.key, {}).values()):
            gone = [answer for answer, asker in coming.waiting if asker is session]
            coming.waiting = [one for one in coming.waiting if one[1] is not session]
            for answer in gone:
                answer.errback(Withdrawn())

    def _drop(self, session: Session) -> None:
        for audience in self._of(session):
            audience.drop(session)

    def ended(self, session: Session) -> None:
        """It is gone; the broker knows."""
        self._drop(session)
        self._removed.pop(session, None)
        rooms, session.rooms = session.rooms, ()
        for room in rooms:
            room.invited.pop(session, None)
            self.release(room)
        for address in tuple(self._coming.get(session.key, ())):
            self._withdraw(session.key, address)

    def succeeded(self, old: Session, new: Session) -> None:
        """A newer generation of a session is in the same rooms."""
        self._drop(old)
        new.rooms, old.rooms = old.rooms, ()
        if old in self._removed:
            self._removed[new] = self._removed.pop(old)
        for room in new.rooms:
            if old in room.invited:
                room.invited.pop(old, None)
                room.invited[new] = None

    def writable(self, session: Session) -> None:
        """Its link took everything: whoever was behind may catch up."""
        for audience in self._of(session):
            lag = audience.lags.get(session) if audience.lags else None
            if lag is not None:
                self.rounds.queue(lag)
            if session in audience.unheard:
                self._notices.writable(session, self._of(session))  # of all at once

    # ----------------------------------------------------------------------------------------------- resuming

    def prepare(
        self, session: Session, points: Sequence[ResumePoint], most: int
    ) -> Deferred[Sequence[Room]] | None:
        """Rooms that a greeting names, once they are there and the session is in them; None: none.

        Nobody waits long for a server that is away. The session comes into its rooms when it may; its client
        is to subscribe to what Welcome does not name, in time, or they are left again.

        :param most: rooms that it may be in, with those that it is in already, named or not.
        """
        wanted = dict.fromkeys(point.address for point in points if point.address.kind == "room")
        removed = self._removed.get(session, {})
        may = [
            one
            for one in wanted
            if one not in removed and self.policy.may(session.identity, "subscribe", one)
        ]
        held = self.held(session)
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
        joining = [self.join(session, address).addCallbacks(found.append, _not_joined) for address in may]
        DeferredList(joining).addCallback(self.look, points).addCallback(go_on)
        if not ready.called:
            self._arm(self._now() + PATIENCE_S, go_on)
        return ready

    def look(self, joined: T, points: Iterable[ResumePoint]) -> T | Deferred[T]:
        """Ask where those rings stand of which a client knows more than this node was told: it was shown that
        elsewhere, and here it is late, or lost. Not before it has joined: a question that is under way by
        then was asked after it knew. Where nobody answers it will be told of a gap.

        :returns: `joined`, then.
        """
        looking = []
        for point in points:
            audience = self.audiences.get(point.address)
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
        self.release(room)
        return failure

    def resume(
        self, session: Session, rooms: Sequence[Room], points: Sequence[ResumePoint]
    ) -> tuple[Resumed, ...]:
        """The link is open: go on where the client says that it is, in what it named."""
        resumed: list[Resumed] = []
        for room in rooms:
            if room in session.rooms:  # else it was taken out meanwhile
                mine = [point for point in points if point.address == room.address]
                resumed += self.enter(session, room, mine[0].mode, mine)
        for address in dict.fromkeys(one.address for one in points if one.address.kind in ("area", "all")):
            audience = self.find(session, address)
            if audience is not None:
                mine = [point for point in points if point.address == address]
                resumed += self._place(session, audience, mine)
        return tuple(resumed)

    def remind_removed(self, session: Session, points: Iterable[ResumePoint]) -> None:
        """After Welcome: of the rooms that its greeting names it was taken out of these."""
        for address in self._removed.get(session, ()):
            if any(point.address == address for point in points):
                session.link.send(Unsubscribed(address, UnsubscribedCode.REMOVED))

    def invite(self, session: Session) -> None:
        """After Welcome: tell of rooms that the business put it in, and wait for the client to name others in
        which it was."""
        others = [room for room in session.rooms if session not in room.members]
        for room in others:
            if session in room.invited:
                self._tell_in(session, room, Mode.PUSH)
        if any(session not in room.members for room in session.rooms):
            self._await_names(session)

    def _await_names(self, session: Session) -> None:
        self._arm(self._now() + self._linger_s(), lambda now: self._forget(session))

    def _forget(self, session: Session) -> None:
        if session.link is not None:
            for room in session.rooms:
                if session not in room.members and not self.is_coming(session.key, room.address):
                    self.leave(session, room)

    def _tell_in(self, session: Session, room: Room, mode: Mode) -> None:
        for one in self.enter(session, room, mode, ()):
            session.link.send(self.subscribed(room, session, one))

    # ------------------------------------------------------------------------------------------- subscribing

    def subscribed(self, room: Room, session: Session, one: Resumed) -> Subscribed:
        """The answer to Subscribe."""
        return Subscribed(
            room.address, 0, one.epoch, one.head, one.gap, room.mode(session), one.lane, one.position
        )

    def join(self, session: Session, address: Address) -> Deferred[Room]:
        """The room, once the session is in it, whatever becomes of its link meanwhile. It is told of nothing
        there until it is to `enter`. This takes as long as a server is away.

        :raises Withdrawn: (in the Deferred) it left, was taken out, or lost its link, before it was in.
        """
        return self._come(session.key, address, session)

    def _come(self, key: SessionKey, address: Address, asker: Session | None) -> Deferred[Room]:
        answer: Deferred[Room] = Deferred()
        others = self._coming.setdefault(key, {})
        coming = others.get(address)
        if coming is not None:
            coming.waiting.append((answer, asker))
            return answer
        coming = others[address] = Coming(key, address)
        coming.waiting.append((answer, asker))
        joining: Deferred[Any] = self.room(address).addCallback(self._join, coming)
        joining.addCallbacks(self._joined, self._failed, (coming,), errbackArgs=(coming,))
        return answer

    def _joined(self, room: Room, coming: Coming) -> None:
        if coming.is_over:
            self.release(room)
            return
        waiting = self._arrives(coming)
        there = self._sessions.get(coming.key)
        if there is None or room in there.rooms:
            self.release(room)
        else:
            there.rooms = (*there.rooms, room)
        for answer in waiting:
            answer.callback(room)
        # Its client may wait for this over no link any more. Before Welcome all this is yet to come.
        if there is not None and there.form is not None and room in there.rooms and there not in room.members:
            self._await_names(there)

    def _failed(self, failure: Failure, coming: Coming) -> None:
        if not coming.is_over:
            for answer in self._arrives(coming):
                answer.errback(failure)

    def held(self, session: Session) -> dict[Address, None]:
        """Rooms that a session is in, or on its way into: there the broker may have it already."""
        held = dict.fromkeys([room.address for room in session.rooms])
        held.update(dict.fromkeys(self._coming.get(session.key, ())))
        return held

    def is_coming(self, key: SessionKey, address: Address) -> bool:
        """Whether a session is on its way into this one."""
        return address in self._coming.get(key, ())

    def put(self, session: Session, address: Address, mode: Mode) -> Deferred[bool]:
        """The business puts a session into a room: its client is told, as soon as it has a link. False: it
        has ended, or was taken out, meanwhile."""
        self._may_again(session, address)
        joining = self._come(session.key, address, None)
        return joining.addCallbacks(self._put, _not_put, (session.key, mode))

    def _put(self, room: Room, key: SessionKey, mode: Mode) -> bool:
        session = self._sessions.get(key)  # perhaps a newer one
        if session is None or room not in session.rooms:
            return False
        if session.link is not None and session.form is not None:
            self._tell_in(session, room, mode)
        else:
            room.invited[session] = None
        return True


def _not_joined(failure: Failure) -> None:
    # A greeting goes on without: its client subscribes to what Welcome does not name.
    if not failure.check(Withdrawn):
        log.failure("joining a room failed", failure)


def _not_put(failure: Failure) -> bool:
    failure.trap(Withdrawn)
    return False


def _first(failure: Failure) -> Failure:
    """What went wrong, of several that were waited for."""
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure
