"""Subscriptions: what the application wants to be in, kept up over links, and what the gateway says to it.

Each of a room's two lanes has its own position. One Subscribe joins both; if the answer leaves lane 1 out, it
is asked for, so that nothing is missing there when the first link breaks. What Hello named and Welcome did
not resume is subscribed to again, with its position. So is a topic, or what is sent to a service: one log,
which Hello does not name. A gateway that cannot let us in again just now is asked again after a while.

A room is left by not being named on the next link. Of a topic the gateway keeps the position until it hears
Unsubscribe, so that is owed to it until it answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from imgateway.client.inbox import Inbox
from imgateway.client.link import Link
from imgateway.client.notices import Notices
from imgateway.client.pace import Pace
from imgateway.client.reading import Reading
from imgateway.client.values import named
from imgateway.core.retry import backoff
from imgateway.errors import ClientError, FrameRefused, InvalidAddress
from imgateway.frames import (
    FOLLOWED_KINDS,
    Address,
    LogKey,
    Mode,
    Notify,
    Pull,
    Refused,
    RefusedCode,
    Resumed,
    ResumePoint,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    address_text,
    parse_address,
)

__all__ = ("Rooms", "Subscription")

LANES = (0, 1)
SUBSCRIBED_KINDS = FOLLOWED_KINDS | {"room"}
"""Nothing comes from these but to whoever subscribes to them, or is put in."""


class Subscription:
    """`address`; `mode`, which the gateway may change; `ended`: None, or why it did (an UnsubscribedCode).

    It lasts over links until then. `active`: the link that is up has it.
    """

    def __init__(self, address: Address, mode: Mode, last: bool = False) -> None:
        self.address = address
        self.mode = self._wanted = self._asked_for = mode
        self._last = last
        self._every = LANES if address.kind == "room" else (0,)
        self.ended: int | None = None
        self._lanes: set[int] = set()  # that this link goes on in
        self._asked: set[int] = set()  # Subscribe is out, or waits its turn
        self._is_in = False  # over this link, in some mode
        self._begun = False
        self._not_yet = 0  # so often in a row the gateway could not, just now
        self._waiters: list[Deferred[Subscription]] = []

    def __repr__(self) -> str:
        state = "active" if self.active else "not active"
        if self.ended is not None:
            state = f"ended: {getattr(self.ended, 'name', self.ended)}"
        return f"<Subscription {address_text(self.address)}, {self.mode.name}, {state}>"

    @property
    def active(self) -> bool:
        return self.ended is None and self._lanes.issuperset(self._every)


class Rooms:
    """`on_unsubscribed` is called with each Subscription that ended without the application's doing.

    :param ask: sends a Pull over the link that is up.

    :param random: 0 ≤ x < 1: how much of a Notify's spread to wait, and of a wait before asking again.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        inbox: Inbox,
        reading: Reading,
        pace: Pace,
        ask: Callable[[Pull], None],
        random: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._inbox = inbox
        self._reading = reading
        self._pace = pace
        self._notices = Notices(reactor, inbox, ask, random)
        self.on_unsubscribed: Callable[[Subscription], Any] | None = None
        self._link: Link | None = None
        self._subscriptions: dict[Address, Subscription] = {}
        self._named: dict[Address, Mode] = {}  # in Hello, and how they were wanted then
        # Who waits for the answer, for each Unsubscribe; of a topic also without a link.
        self._leaving: dict[Address, deque[list[Deferred[None]]]] = {}
        self._line: deque[tuple[Subscription, int]] = deque()
        self._later: Any = None
        self._patience_s = backoff(random, first_s=1.0)
        self._patient: dict[Address, Any] = {}  # asked for again at these times

    # -------------------------------------------------------------------------------------------- the link

    def resume_points(self) -> tuple[ResumePoint, ...]:
        """For Hello."""
        self._named = {one.address: one._wanted for one in self._subscriptions.values()}
        return self._inbox.ring_points(self._named)

    def up(self, link: Link, resumed: tuple[Resumed, ...]) -> None:
        self._link = link
        for point in resumed:
            address = point.address
            if address.kind == "room" and address not in self._subscriptions and address not in self._leaving:
                self._reading.forget(address)  # we left it when Hello had named it
                self._leaving[address] = deque([[]])
        for address in list(self._leaving):
            self._part(link, address)
        lanes = {LogKey(point.address, point.lane) for point in resumed}
        for one in list(self._subscriptions.values()):
            one._lanes = {lane for lane in one._every if LogKey(one.address, lane) in lanes}
            one._is_in = bool(one._lanes)
            if self._named.get(one.address) is not one._wanted:  # another mode since Hello
                one._lanes.discard(0)
            self._settle(one)

    def down(self) -> None:
        self._link = None
        self._notices.down()
        if self._later is not None:
            self._later.cancel()
            self._later = None
        for call in self._patient.values():
            call.cancel()
        self._patient.clear()
        self._line.clear()
        for one in self._subscriptions.values():
            one._lanes, one._asked = set(), set()
            one._is_in = False
        leaving, self._leaving = self._leaving, {}
        left: list[Deferred[None]] = []
        for address, batches in leaving.items():
            waiters = [waiter for batch in batches for waiter in batch]
            if address.kind in FOLLOWED_KINDS:
                self._leaving[address] = deque([waiters])
            else:
                left += waiters  # the next Hello does not name it, so that it is over
                self._leave_areas(address)
        _fire(left, None)

    def stop(self, error: Exception) -> None:
        self.down()
        for one in self._subscriptions.values():
            self._fail(one, error)
        for batches in self._leaving.values():
            _fail(batches[0], error)
        self._leaving.clear()

    # ------------------------------------------------------------------------------------------- application

    def subscribe(self, address: Address, mode: Mode, last: bool = False) -> Deferred[Subscription]:
        one = self._subscriptions.get(address)
        if one is None:
            one = self._subscriptions[address] = Subscription(address, mode, last)
        elif one.active and one._wanted is mode:
            return succeed(one)
        elif one._wanted is not mode:
            one._wanted = mode
            one._lanes.discard(0)  # its answer says what the mode is now
        waiter: Deferred[Subscription] = Deferred()
        one._waiters.append(waiter)
        if self._link is not None:
            self._settle(one)
        return waiter

    def unsubscribe(self, address: Address) -> Deferred[None]:
        one = self._subscriptions.pop(address, None)
        link, followed = self._link, address.kind in FOLLOWED_KINDS
        if one is not None:
            one.ended = UnsubscribedCode.ASKED
        if one is not None or followed:
            self._forget(address)
        done: Deferred[None] = Deferred()
        if (one is not None and (one._lanes or one._asked)) or (followed and address not in self._leaving):
            self._leaving.setdefault(address, deque()).append([done])
            if link is not None:
                self._part(link, address)
        elif address in self._leaving:
            self._leaving[address][-1].append(done)
        else:
            done.callback(None)
        if one is not None:
            self._fail(one, ClientError(f"{address_text(address)} was unsubscribed from meanwhile"))
        return done

    # ---------------------------------------------------------------------------------------------- frames

    def left(self, address: Address) -> bool:
        """Deliveries of this address are stragglers: we are on our way out, or are out. Over UDP Unsubscribed
        overtakes what was lost of them; none that is sent after Subscribed overtakes that."""
        if address in self._leaving:
            return True
        one = self._subscriptions.get(address)
        return address.kind in SUBSCRIBED_KINDS and (one is None or not one._is_in)

    def subscribed(self, frame: Subscribed) -> None:
        address = frame.address
        if address in self._leaving:
            return
        if frame.code:
            self._refused(address, FrameRefused(frame.code, "the subscription was refused"))
            return
        one = self._subscriptions.get(address)
        if one is None:  # the business put us in
            one = self._subscriptions[address] = Subscription(address, frame.mode)
        one.mode = frame.mode
        one._is_in = True
        one._not_yet = 0
        one._asked.discard(frame.lane)
        if frame.lane or one._asked_for is one._wanted:  # else another mode is wanted since: asked for now
            one._lanes.add(frame.lane)
        self._reading.subscribed(
            Resumed(address, frame.lane, frame.epoch, frame.position, frame.head, frame.gap)
        )
        if frame.lane == 0:
            self._settle(one)
        else:
            self._check(one)

    def notified(self, frame: Notify) -> None:
        self._notices.notified([told for told in frame.heads if not self.left(told.address)], frame.spread_ms)

    def unsubscribed(self, frame: Unsubscribed) -> None:
        if frame.address in self._leaving:
            if frame.code == UnsubscribedCode.ASKED:
                self._leave_areas(frame.address)  # what came of them until now was on its way
                self._reading.forgotten(frame.address)
                self._parted(frame.address)
            return
        is_removed = frame.code == UnsubscribedCode.REMOVED
        one, link = self._subscriptions.get(frame.address), self._link
        if (
            is_removed
            and one is not None
            and one._asked
            and link is not None
            and frame.address.kind == "room"
        ):
            # What was asked meanwhile would bring us in again, and nobody here would know of it.
            self._leaving[frame.address] = deque([[]])
            self._part(link, frame.address)
        self._end(frame.address, named(UnsubscribedCode, frame.code))
        if is_removed:
            self._forget(frame.address)  # who was put out begins anew, if at all
            self._reading.forgotten(frame.address)

    def refused(self, refused: Refused) -> None:
        """Subscribe or Unsubscribe was."""
        try:
            address = parse_address(refused.id)
        except InvalidAddress:
            self._log.warn("a {frame} was refused for no address", frame=refused.frame)
            return
        error = FrameRefused(named(RefusedCode, refused.code), refused.reason)
        if refused.frame == "unsubscribe":
            # It may be on its way to the disk, and may not get there.
            self._parted(address, error if refused.code == RefusedCode.UNAVAILABLE else None)
        elif address not in self._leaving:
            one = self._subscriptions.get(address)
            if refused.code == RefusedCode.UNAVAILABLE and one is not None and (one._begun or one._is_in):
                self._ask_later(one)
            else:
                self._refused(address, error)

    # ------------------------------------------------------------------------------------------------ inside

    def _settle(self, one: Subscription) -> None:
        """Ask for what this link has not got; lane 1 when the answer for lane 0 may have brought it."""
        missing = [lane for lane in one._every if lane not in one._lanes]
        for lane in missing[:1]:
            if lane not in one._asked:
                one._asked.add(lane)
                self._line.append((one, lane))
        self._pump()
        self._check(one)

    def _check(self, one: Subscription) -> None:
        if one.active:
            one._begun = True
            waiters, one._waiters = one._waiters, []
            _fire(waiters, one)

    def _pump(self) -> None:
        while self._line and self._link is not None:
            one, lane = self._line[0]
            if one.ended is not None:
                self._line.popleft()
                continue
            wait = self._pace.subscribe_wait_s(self._now())
            if wait > 0:
                if self._later is None:
                    self._later = self._reactor.callLater(wait, self._again)
                return
            self._line.popleft()  # before anything is told: who is refused may ask for another room at once
            self._pace.take_subscribe(self._now())
            if not lane:
                one._asked_for = one._wanted
            begins_anew = one.address in self._leaving
            position = (0, 0) if begins_anew else self._inbox.position(LogKey(one.address, lane))
            if not self._link.send(Subscribe(one.address, one._wanted, lane, *position, one._last)):
                error = FrameRefused(RefusedCode.INVALID, "this connection cannot carry it")
                self._refused(one.address, error)

    def _again(self) -> None:
        self._later = None
        self._pump()

    def _ask_later(self, one: Subscription) -> None:
        """It stood, and the gateway cannot say just now whether it does."""
        one._asked.clear()
        if one.address not in self._patient:
            wait_s = self._patience_s(one._not_yet)
            one._not_yet += 1
            self._patient[one.address] = self._reactor.callLater(wait_s, self._ask_again, one.address)

    def _ask_again(self, address: Address) -> None:
        del self._patient[address]
        one = self._subscriptions.get(address)
        if one is not None:
            self._settle(one)

    def _part(self, link: Link, address: Address) -> None:
        if not link.send(Unsubscribe(address)):
            for waiters in self._leaving.pop(address, ()):
                _fail(waiters, FrameRefused(RefusedCode.INVALID, "this connection cannot carry it"))

    def _parted(self, address: Address, error: FrameRefused | None = None) -> None:
        """The oldest Unsubscribe for this address was answered."""
        batches = self._leaving.get(address)
        if batches is not None:
            waiters = batches.popleft()
            if not batches:
                del self._leaving[address]
            if error is None:
                _fire(waiters, None)
            else:
                _fail(waiters, error)

    def _refused(self, address: Address, error: FrameRefused) -> None:
        one = self._subscriptions.get(address)
        if one is not None:
            begun, one._begun = one._begun, False
            self._end(address, UnsubscribedCode.REMOVED, tell=begun, error=error)

    def _end(self, address: Address, code: int, tell: bool = True, error: Exception | None = None) -> None:
        """The gateway ended it. Positions stay as they are: who subscribes again is told what was missed."""
        one = self._subscriptions.pop(address, None)
        if one is None:
            return
        one.ended = code
        if tell:
            self._leave_areas(address)
        why = f"{address_text(address)}: the subscription ended: {getattr(code, 'name', code)}"
        self._fail(one, error or ClientError(why))
        if tell and self.on_unsubscribed is not None:
            try:
                self.on_unsubscribed(one)
            except Exception:
                self._log.failure("on_unsubscribed failed")

    def _forget(self, address: Address) -> None:
        self._reading.forget(address)
        self._leave_areas(address)

    def _leave_areas(self, address: Address) -> None:
        """We were in this room, or followed this topic. Which areas a room is in only the gateway knows."""
        if not self._subscriptions:
            self._inbox.forget_areas()
        elif address.kind == "room":
            self._inbox.leave_areas()

    def _fail(self, one: Subscription, error: Exception) -> None:
        waiters, one._waiters = one._waiters, []
        _fail(waiters, error)


def _fail(waiters: list[Deferred[Any]], error: Exception) -> None:
    for waiter in waiters:
        if not waiter.called:
            waiter.errback(error)


def _fire(waiters: list[Deferred[Any]], result: Any) -> None:
    for waiter in waiters:
        if not waiter.called:  # else it was cancelled
            waiter.callback(result)
