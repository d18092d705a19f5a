"""The hub: the sessions of this node, by key and by log, and the broker's way to them.

What the broker says goes to the sessions at the log; how an entry reaches one of them is the delivery's
business. The hub knows when a session begins, waits without a link, and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.config import LimitSettings, RoomSettings
from imgateway.core.counters import Counters
from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.errors import TAKEN_OVER, CloseCode
from imgateway.frames import (
    FOLLOWED_KINDS,
    RING_KINDS,
    Address,
    Entry,
    Hello,
    LogKey,
    Message,
    Publish,
    SessionKey,
    address_text,
    log_of,
)
from imgateway.interfaces import IBroker, IBrokerListener, Identity, IPolicy, ISessionListener
from imgateway.node.delivery import Delivery, Shared
from imgateway.node.link import Link, Pause
from imgateway.node.moves import Claims, Moves
from imgateway.node.partings import Partings
from imgateway.node.rooms import Rooms
from imgateway.node.topics import Topics

__all__ = ("Hub",)

log = Logger()

TAKEN_AWAY = (*TAKEN_OVER, CloseCode.DISPLACED, CloseCode.REVOKED)
"""The broker has given it up already, and takes nothing more for it."""


@implementer(IBrokerListener)
class Hub:
    """Sessions by key and by log, from login to their end.

    :param reactor: for what waits less than the wheel's tick: rounds of rooms and topics.
    :param now: monotonic seconds.
    :param arm: ``arm(due, wake)`` on the node's wheel.
    :param health: ``health(part, ok, why)``: the parts are ``store`` and ``load``.
    :param bequeath: publishes a session's last will.
    :param hear: takes what another process of the cluster says.
    """

    def __init__(
        self,
        broker: IBroker,
        limits: LimitSettings,
        rooms: RoomSettings,
        policy: IPolicy,
        linger_s: float,
        reactor: IReactorTime,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        counters: Counters,
        listeners: Sequence[ISessionListener] = (),
        health: Callable[[str, bool, str], None] = lambda part, ok, why: None,
        bequeath: Callable[[Session, Publish], None] = lambda session, will: None,
        hear: Callable[[bytes], None] = lambda payload: None,
    ) -> None:
        self.broker = broker
        self.sessions = Roster()
        self.is_congested = False
        self.delivery = Delivery(broker, limits, now, counters, self._unsaid)
        self.linger_s = linger_s
        self.rooms = Rooms(
            broker,
            self.sessions,
            self.delivery,
            policy,
            rooms,
            reactor,
            now,
            arm,
            counters,
            lambda: self.linger_s,
        )
        self.topics = Topics(broker, self.delivery, reactor)
        self.partings = Partings(bequeath, now, arm)
        self._now = now
        self._arm = arm
        self._counters = counters
        self._listeners = tuple(listeners)
        self._health = health
        self._hear = hear
        self._stalled: dict[Link, None] = {}
        self._missing: set[Session] = set()
        self._claims = Claims()
        self._moves = Moves(broker, self.sessions, self.rooms.stays.held, self._close, now, arm)
        # Where sessions come and go, and what they miss, while they log in.
        self._early: dict[SessionKey, list[tuple[str, Address]]] = {}

    # ---------------------------------------------------------------------------------- what the broker says

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """Entries: send them to every session that stands right before them."""
        if log.address.kind != "user":
            audiences = self.rooms.audiences if log.address.kind in RING_KINDS else self.topics
            audiences.arrived(log, epoch, after, upto, entries)
            return
        sessions = self.sessions.of(log.address.id)
        shared: Shared | None = {} if len(sessions) > 1 else None
        size = len(entries[0].message) if len(entries) == 1 else sum([len(one.message) for one in entries])
        for session in sessions:
            self.delivery.offer(session, log, epoch, after, upto, entries, size, shared)

    def mailed(self, log: LogKey, epoch: int, after: int, messages: list[bytes]) -> bool:
        """The usual mail: to the one session that stands right before it."""
        session = self.sessions.at(log.address.id)
        return isinstance(session, Session) and self.delivery.mailed(session, log, epoch, after, messages)

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """The log grew: whoever is live reads."""
        if log.address.kind in RING_KINDS:
            self.rooms.audiences.moved(log, epoch, head)
            return
        if log.address.kind != "user":
            self.topics.moved(log, epoch, head)
            return
        for session in self.sessions.of(log.address.id):
            self.delivery.moved(session, epoch, head)

    def passed(self, address: Address, entry: Entry) -> None:
        """qos 0: to the links that can take it now."""
        if address.kind in FOLLOWED_KINDS:
            self.topics.passed(log_of(address), entry)
            return
        sessions = self.sessions.of(address.id)
        shared: Shared | None = {} if len(sessions) > 1 else None
        for session in sessions:
            self.delivery.passed(session, entry, shared)

    def unattended(self, log: LogKey, message: Message) -> None:
        """Tell the session listeners of a message for somebody who is away."""
        for listener in self._listeners:
            self._tell(listener.stored_offline, log.address, message)

    def attended(self, log: LogKey) -> bool:
        """Whether one of the log's sessions has a link."""
        for session in self.sessions.of(log.address.id):  # noqa: SIM110 (a generator takes three times as long)
            if session.link is not None:
                return True
        return False

    def displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        """Another login took over: close and forget this generation.

        If it is the same device's, the session goes on: `attach` has its next generation in a moment, or, if
        nobody claims it here, another node has.
        """
        claiming = self._claims.get(session)
        if claiming is not None and generation > claiming.last[0]:
            claiming.last = (generation, code, reason)
        there = self.sessions.get(session)
        if there is None or there.generation > generation:
            return
        if code in TAKEN_OVER and claiming is None:
            self._move(there, code, reason)
        elif there.link is not None:
            there.link.close(code, reason)
        elif code not in TAKEN_OVER:
            self._end(there, code, reason)

    def entered(self, session: SessionKey, address: Address) -> None:
        """Tell the session listeners that the session is in a room."""
        self._stays("entered", session, address)

    def left(self, session: SessionKey, address: Address) -> None:
        """Tell them that it is not any more."""
        self._stays("left", session, address)

    def _stays(self, what: str, key: SessionKey, address: Address) -> None:
        """Listeners hear of a session before they hear where it is or what it misses: what a login does waits
        for its end."""
        session = self.sessions.get(key)
        if session is not None and (not session.told or (session.link is not None and session.form is None)):
            self._early.setdefault(key, []).append((what, address))
        else:
            self._tell_stay(what, key, address)

    def _tell_stay(self, what: str, key: SessionKey, address: Address) -> None:
        for listener in self._listeners:
            self._tell(getattr(listener, what), key, address)

    def _tell_early(self, key: SessionKey) -> None:
        for what, address in self._early.pop(key, ()):
            self._tell_stay(what, key, address)

    def congested(self, on: bool) -> None:
        """More is waiting for the store than may wait: `stall` stops whoever publishes, this lets them go
        on."""
        self.is_congested = on
        self._health("load", not on, "publishers wait: more waits for the store than may wait")
        # Who goes on may fill the store at once; the others then wait on.
        while self._stalled and not self.is_congested:
            link = next(iter(self._stalled))
            del self._stalled[link]
            link.resume(Pause.STORE)

    def healthy(self, ok: bool, why: str) -> None:
        """Pass the store's state on."""
        self._health("store", ok, why)

    def control(self, payload: bytes) -> None:
        """Another process of the cluster says something."""
        self._hear(payload)

    def stall(self, link: Link) -> None:
        """Stop reading a publisher until the store has caught up."""
        link.pause(Pause.STORE)
        self._stalled[link] = None

    # --------------------------------------------------------------------------------------------- sessions

    def claims(self, key: SessionKey) -> None:
        """A session is being claimed here; `claimed` follows."""
        self._claims.begin(key)

    def claimed(self, key: SessionKey) -> None:
        """The broker has answered, and if it granted the session that is attached."""
        claiming = self._claims.end(key)
        if claiming is None:
            return
        generation, code, reason = claiming.last
        if generation:
            self.displaced(key, generation, code, reason)
        if claiming.kicked is not None and (there := self.sessions.get(key)) is not None:
            self.displaced(key, there.generation, CloseCode.KICKED, claiming.kicked)

    def has_ended(self, key: SessionKey) -> bool:
        """A session that is being claimed ended here meanwhile: whoever comes now begins a new one."""
        claiming = self._claims.get(key)
        return claiming is not None and claiming.ended

    def attach(
        self, session: Session, link: Link, hello: Hello, resumed: bool = False, left: Iterable[Address] = ()
    ) -> bool:
        """A claim succeeded: this session takes the place of an older generation, which was here, or
        (`resumed`) at another node.

        True if there was one that the listeners know (the client resumes). A link of the older one is closed
        with REPLACED, or with STALE if its client greeted with the same order.

        :param left: what an older connection followed, of which nothing was to be kept.
        """
        old = self.sessions.add(session)
        session.link = link
        link.session = session
        self.partings.greeted(session, hello, left)
        if old is None:
            session.told = resumed  # to the listeners of the other node
            return resumed
        session.told = old.told
        if hello.clean:
            self.partings.due(old)
        self.rooms.stays.succeeded(old, session)
        if old.link is not None:
            code = self.partings.code_for(old, session)
            old.link.close(code, "a newer login of this device took over")
        self.partings.succeeded(old, session)
        if old in self._missing:
            self._missing.remove(old)
            self._missing.add(session)
        return session.told

    def adopt(self, session: Session, hello: Hello, left: Iterable[Address]) -> None:
        """A claim took the session over from another node, which tells nothing of it any more, and the client
        was gone before the answer came: it waits here for its client, and ends here. `left`: as of `attach`.
        """
        self.sessions.add(session)
        session.told = True
        self.partings.greeted(session, replace(hello, will=None), left)  # its will was not taken
        linger_s = self.partings.linger_s(session, self.linger_s)
        self._wait(session, linger_s, CloseCode.LOST, "the client went before its login was done")

    def closed(self, link: Link, code: int, reason: str) -> None:
        """A link ended. Its session waits for the client to come back, unless the code says that it will
        not."""
        self._stalled.pop(link, None)
        session = link.session
        if session is None or session.link is not link:
            return
        session.detach()
        self.rooms.stays.detached(session)
        followed = self.topics.detached(session)
        if session.told:
            self._tell_early(session.key)
        calls, session.calls = session.calls, None
        for call in (calls or {}).values():
            call.gone()
        if code != CloseCode.NORMAL:
            self.partings.lost(session, self.linger_s)
        is_undone = bool(followed) and self.partings.is_brief(session)
        if is_undone and code in TAKEN_OVER:
            self.partings.leaves(session, followed)
        if not self.sessions.has(session):
            return
        if is_undone and code not in TAKEN_AWAY:
            self._unfollow(session, followed)
        linger_s = self.partings.linger_s(session, self.linger_s)
        if code == CloseCode.NORMAL or (code not in TAKEN_OVER and code >= 200):
            self._end(session, code, reason)
        else:
            self._wait(session, linger_s, code, reason)

    def _unfollow(self, session: Session, addresses: Iterable[Address]) -> None:
        # Its device may never come again, and would hold back what these logs may lose.
        for address in addresses:
            leaving = self.broker.unfollow(session.key, session.generation, log_of(address))
            leaving.addErrback(_not_left)

    def _wait(self, session: Session, linger_s: float, code: int, reason: str) -> None:
        # Whoever takes over has it in a moment, even if its client wanted nobody to wait.
        if linger_s or code in TAKEN_OVER:
            self.broker.linger(session.key, session.generation)
            self._arm(self._now() + linger_s, lambda now: self._lingered(session, code, reason))
        else:
            self._end(session, code, reason)

    def _lingered(self, session: Session, code: int, reason: str) -> None:
        if self.sessions.has(session) and session.link is None:
            self._end(session, code, reason)

    def _end(self, session: Session, code: int, reason: str) -> None:
        log.debug(
            "session ended: {reason}",
            reason=reason,
            code=code,
            session=address_text(Address("device", *session.key)),
        )
        claiming = self._claims.get(session.key)
        if claiming is not None:
            claiming.ended = True
        self._unfollow(session, self.partings.left(session))
        forget = self.partings.forgets(session)
        self.partings.ended(session, code == CloseCode.NORMAL)
        self._missing.discard(session)
        self.sessions.remove(session)
        self._tell_early(session.key)
        self.rooms.stays.ended(session)
        self.topics.detached(session)
        if not self.sessions.of(session.user):
            self.broker.unwatch(session.log)
        self._close(session.key, session.generation, forget)
        if session.told:
            for listener in self._listeners:
                self._tell(listener.closed, session.key, code, reason)

    def _move(self, session: Session, code: int, reason: str) -> None:
        """The session goes on at another node, with the next generation: it ends here, and nothing of it is
        told, or closed, that is still open there.

        Its will is said or not as if the next link had come here. Rooms that its client does not enter again
        from there it leaves when it would have ended.
        """
        self.sessions.remove(session)
        if session.link is not None:
            session.link.close(code, reason)
        self.partings.drop(session)
        self._missing.discard(session)
        self._tell_early(session.key)
        held = self.rooms.stays.held(session)
        self.rooms.stays.ended(session)
        if not self.sessions.of(session.user):
            self.broker.unwatch(session.log)
        self._moves.went(session, tuple(held), self.linger_s)

    def _close(self, key: SessionKey, generation: int, forget: bool = False) -> None:
        self.broker.close_session(key, generation, forget).addErrback(
            lambda failure: log.failure("closing a session failed", failure)
        )

    def writable(self, link: Link) -> None:
        """A link has no unsent bytes any more."""
        self.delivery.writable(link)
        if link.session is not None:
            self.rooms.attendance.writable(link.session)

    def kick(self, user: str, device: str | None, reason: str) -> int:
        """Close a user's sessions, those that are on their way here too; how many there were."""
        victims = {s.key: s.generation for s in self.sessions.of(user) if device in (None, s.device)}
        coming = self._claims.kick(user, device, reason)
        for key, generation in victims.items():
            self.displaced(key, generation, CloseCode.KICKED, reason)
        return len(victims.keys() | coming)

    def opened(self, session: Session, identity: Identity, resumed: bool) -> None:
        """Tell the session listeners of a login."""
        session.told = True
        for listener in self._listeners:
            self._tell(listener.resumed if resumed else listener.opened, session.key, identity)
        if self._early:
            self._tell_early(session.key)

    def _unsaid(self, session: Session, address: Address) -> None:
        if session not in self._missing:
            self._missing.add(session)
            log.warn(
                "messages are gone, and the wire of {session} cannot tell its client",
                session=address_text(Address("device", *session.key)),
                address=address_text(address),
                wire=session.link.wire_name,
            )
        self._stays("gap", session.key, address)

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except Exception:
            self._counters.plugin_errors["listener"] += 1
            log.failure("a session listener raised")

    def end_all(self) -> None:
        """The node stops: end what is left; the broker's own stop flushes the positions.

        Wills that wait are not said: their clients were asked to come again, and have not had the time.
        """
        self._moves.end()
        for session in tuple(self.sessions):
            self._unfollow(session, self.partings.left(session))
            self.partings.drop(session)
            self._end(session, CloseCode.GOING_AWAY, "the node stopped")
        self.topics.stop()


def _not_left(failure: Failure) -> None:
    if not failure.check(CancelledError):  # else the broker stops
        log.failure("a log could not be left", failure)
