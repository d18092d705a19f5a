"""Login: from a greeting to a session with a cursor in place, and Renew on a living link.

greeting → authenticator → claim at the broker → watch the mailbox → position → Welcome → deliveries. At every
step the link may be gone by the time the answer comes; what was claimed by then is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain
from math import ceil
from sys import intern
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import SessionSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.resume import Resumption, resume_durable
from imgateway.core.session import Session
from imgateway.errors import BadFrame, CloseCode, InvalidAddress, LinkError, LoginRefused, UnexpectedFrame
from imgateway.frames import (
    Address,
    Frame,
    Hello,
    Keep,
    Limits,
    Position,
    Renew,
    Renewed,
    Resumed,
    ResumePoint,
    SessionKey,
    Start,
    Welcome,
    address_text,
    check_id,
)
from imgateway.interfaces import Claim, IAuthenticator, IBroker, Identity, LoginPolicy, Opened, Verdict
from imgateway.node.audience import Room
from imgateway.node.gate import Gate
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause
from imgateway.node.shares import Forms

__all__ = ("Login",)

log = Logger()

POLICIES = {
    "many": LoginPolicy.MANY,
    "one-per-platform": LoginPolicy.ONE_PER_PLATFORM,
    "one": LoginPolicy.ONE,
    "refuse": LoginPolicy.REFUSE,
}

REFUSALS = {
    Verdict.CONFLICT: (CloseCode.LOGIN_CONFLICT, "another device of this user is online"),
    Verdict.REVOKED: (CloseCode.REVOKED, "the token was revoked"),
    Verdict.OUTRUN: (CloseCode.REPLACED, "a newer login of this device is online"),
}


class Login:
    """Claims sessions for links that have greeted.

    :param limits_for: what Welcome tells an identity about its limits.
    :param tells: whether each login is logged: what goes into the line costs as much as the whole Welcome.
    :param turns_away: whether a link that greets was told to go elsewhere: the node drains.
    :param stood_still: whether this process was held up lately.
    :param wall_ms: Unix milliseconds; never used for deadlines, which run on `now`.
    """

    def __init__(
        self,
        node: str,
        hub: Hub,
        gate: Gate,
        broker: IBroker,
        authenticator: IAuthenticator,
        settings: SessionSettings,
        forms: Forms,
        limits_for: Callable[[Identity], Limits],
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        counters: Counters,
        turns_away: Callable[[Link], bool],
        stood_still: Callable[[], bool],
        tells: bool,
    ) -> None:
        self.settings = settings
        self._node = node
        self._hub = hub
        self._gate = gate
        self._broker = broker
        self._authenticator = authenticator
        self._forms = forms
        self._limits_for = limits_for
        self._now = now
        self._wall_ms = wall_ms
        self._counters = counters
        self._turns_away = turns_away
        self._stood_still = stood_still
        self._tells = tells
        self._checks: dict[Link, Deferred[Any]] = {}
        self._claims: dict[Link, Claim] = {}  # that have no answer yet

    # ------------------------------------------------------------------------------------------------ login

    def greeted(self, link: Link, hello: Hello) -> None:
        """A link said Hello; it is paused until Welcome or Bye."""
        if self._turns_away(link):
            return
        self._gate.check(link, partial(self._check, link, hello))

    def left(self, link: Link) -> None:
        """A link ended: nobody waits for its check any more, and the check makes room for another; nor for
        its claim, which must not come after one that its client makes at another node meanwhile."""
        self._gate.left(link)
        checking = self._checks.pop(link, None)
        if checking is not None:
            checking.cancel()
        claim = self._claims.pop(link, None)
        if claim is not None:
            self._broker.withdraw(claim)

    def _ask(self, link: Link, hello: Hello) -> Identity | Deferred[Identity]:
        """Who says this, now or later."""
        if not link.wire.traits.authenticates:
            return Identity(hello.user)  # no token is older than any: who was revoked stays out
        found: Any = self._authenticator.authenticate(hello, link.connection.peer)
        if type(found) is Identity:
            return found
        checking: Deferred[Any] = maybeDeferred(lambda: found)  # a coroutine, too
        self._checks[link] = checking
        return checking.addBoth(self._asked, link)

    def _asked(self, result: Identity | Failure, link: Link) -> Identity | Failure:
        self._checks.pop(link, None)
        return result

    def _check(self, link: Link, hello: Hello) -> None:
        try:
            found = self._ask(link, hello)
        except Exception:
            # Without a name of its own: with one, the failure and this frame would hold each other.
            self._checked(Failure(), link, hello)
            return
        # Whoever knows at once costs no Deferred, nor the way through its callbacks.
        if type(found) is Identity:
            self._checked(found, link, hello)
        else:
            cast("Deferred[Identity]", found).addBoth(self._checked, link, hello)

    def _checked(self, found: Identity | Failure, link: Link, hello: Hello) -> None:
        self._gate.checked()
        if isinstance(found, Failure):
            self._refused(found, link)
        elif link.state is LinkState.CHECKING:
            try:
                self._identified(found, link, hello)
            except Exception:
                self._refused(Failure(), link)

    def _identified(self, identity: Identity, link: Link, hello: Hello) -> None:
        if self._stood_still() and link.connection.has_left():
            # It gave up meanwhile, and is at another node by now, from which this claim would drive it out.
            link.drop(CloseCode.LOST, "gone before its greeting was read")
            return
        claim = self._claim(identity, link, hello)
        link.connection.proven()  # also for those who hear only that another is online
        key = claim.session
        self._hub.claims(key)
        self._claims[link] = claim
        try:
            self._broker.open_session(claim, self._opened, (key, identity, link, hello))
        except Exception:
            self._opened(Failure(), key, identity, link, hello)  # else the claim is under way for ever

    def _claim(self, identity: Identity, link: Link, hello: Hello) -> Claim:
        """:raises LinkError: there is nothing that it could claim."""
        device = identity.device or hello.device or link.wire_name
        if hello.device and hello.device != device and not hello.assigned:
            raise LoginRefused("the token is for another device")
        try:
            platform = _shared(hello.platform) if hello.platform else ""
            key = SessionKey(check_id(identity.user), _shared(device))
        except InvalidAddress as error:
            raise BadFrame(str(error)) from None
        return Claim(
            key,
            platform,
            POLICIES[self.settings.login_policy],
            hello.start,
            identity.issued_at_s,
            hello.on_same_device,
            hello.order,
            hello.start is Start.HEAD and _is_brief(key, hello),
        )

    def _opened(
        self, opened: Opened | Failure, key: SessionKey, identity: Identity, link: Link, hello: Hello
    ) -> None:
        self._claims.pop(link, None)
        if isinstance(opened, Failure):
            self._hub.claimed(key)
            self._refused(opened, link)
            return
        try:
            try:
                claimed = self._claimed(opened, key, identity, link, hello)
            finally:
                self._hub.claimed(key)
            entering = None if claimed is None else self._enter_mailbox(*claimed, link, hello)
        except Exception:
            self._refused(Failure(), link)
        else:
            if entering is not None:
                entering.addErrback(self._refused, link)

    def _claimed(
        self, opened: Opened, key: SessionKey, identity: Identity, link: Link, hello: Hello
    ) -> tuple[Session, Opened, bool] | None:
        """The session that the claim made, what the broker said of it, and whether it goes on; None: nobody
        waits for it any more.

        :raises LoginRefused: there is none.
        """
        if opened.verdict is not Verdict.OK:
            code, reason = REFUSALS[opened.verdict]
            raise LoginRefused(reason, code)
        there = self._hub.sessions.get(key)
        resumed = opened.resumed and not self._hub.has_ended(key)
        place = opened.places[0]
        session = Session(key, opened.generation, identity, place.epoch, place.acked, place.head)
        left = _undone(link, opened.record) if opened.record else ()
        if link.state is not LinkState.CHECKING:
            if there is None and resumed:
                self._hub.adopt(session, hello, left)
                return None
            if there is None or there.generation > opened.generation:
                forget = _is_brief(key, hello)
                self._broker.close_session(key, opened.generation, forget).addErrback(link.broken)
                return None
            # The older session still waits for its client, and is in its rooms: to close the claim would end
            # these stays at the broker. It takes the claim over, and gives it back when it ends.
            there.generation = opened.generation
            if there.link is not None:
                there.link.close(CloseCode.REPLACED, "a newer login of this device took over")
            else:
                self._broker.linger(key, opened.generation)
            return None
        if there is not None and there.generation > opened.generation:  # the answers came out of order
            code, reason = REFUSALS[Verdict.OUTRUN]
            raise LoginRefused(reason, code)
        return session, opened, self._hub.attach(session, link, hello, resumed, left)

    def _enter_mailbox(
        self, session: Session, opened: Opened, resumed: bool, link: Link, hello: Hello
    ) -> Deferred[None] | None:
        if link.session is not session:  # another login has taken it over
            return None
        mailbox = opened.places[0].log
        position = self._broker.watch_now(mailbox)
        if position is not None:
            return self._watched(position, session, opened, resumed, link, hello)
        watching = self._broker.watch(mailbox)
        return watching.addCallback(self._watched, session, opened, resumed, link, hello)

    def _watched(
        self,
        position: Position,
        session: Session,
        opened: Opened,
        resumed: bool,
        link: Link,
        hello: Hello,
        is_renewed: bool = False,
    ) -> Deferred[None] | None:
        if link.session is not session:
            return None
        place = opened.places[0]
        if position.epoch != place.epoch and not is_renewed:
            # What the claim said that the device has is of a log that was replaced since.
            link.close(CloseCode.STALE, "the log was replaced; resume")
            return None
        point = None
        if hello.resume:
            mailbox = place.log.address
            point = next((p for p in hello.resume if p.address == mailbox and not p.lane), None)
        resume = resume_durable(point, position.epoch, place.acked, position.head)
        if resume.rolled_back:
            log.warn(
                "{user}'s log was rolled back: a client knows more of it; it gets a new epoch",
                user=session.user,
            )
            renewing = self._broker.reset_log(place.log)
            return renewing.addCallback(self._watched, session, opened, resumed, link, hello, True)
        entering = None
        if hello.resume:
            most = self._hub.delivery.limits.rooms
            entering = self._hub.rooms.prepare(session, hello.resume, most)
        if entering is None:
            return self._enter((), position, session, opened, point, resume, resumed, link, hello)
        return entering.addCallback(
            self._enter, position, session, opened, point, resume, resumed, link, hello
        )

    def _enter(
        self,
        rooms: Sequence[Room],
        position: Position,
        session: Session,
        opened: Opened,
        point: ResumePoint | None,
        resume: Resumption,
        resumed: bool,
        link: Link,
        hello: Hello,
    ) -> Deferred[None] | None:
        if session.link is not link:  # it may be closing just now, and still know its session
            return None
        restored = iter(link.codec.restore(opened.record))
        first = next(restored, None)
        frames = () if first is None else chain((first,), restored)
        about = frames, rooms, position, session, opened, point, resume, resumed, link, hello
        if type(first) is not Keep or not first.before_welcome:
            self._welcome(True, *about)
            return None
        # The client is told so, and a kill must not undo it. Nobody else relies on it by now.
        keeping = self._broker.record(session.key, session.generation, first.data)
        return keeping.addCallback(self._welcome, *about)

    def _welcome(
        self,
        kept: bool,
        restored: Iterable[Frame | Keep],
        rooms: Sequence[Room],
        position: Position,
        session: Session,
        opened: Opened,
        point: ResumePoint | None,
        resume: Resumption,
        resumed: bool,
        link: Link,
        hello: Hello,
    ) -> None:
        """:param kept: False: somebody else has the session, and the link is closed in a moment."""
        if not kept or session.link is not link:
            return
        identity: Identity = session.identity
        place = opened.places[0]
        named = point is not None and point.epoch == position.epoch
        start = self._hub.delivery.place(session, position, resume.position, place.acked, place.parked, named)
        link.accepted()
        session.form = self._forms.of(link, hello.compressions)
        link.expire_token(self._token_deadline(identity))
        self._gate.release(link)
        self._counters.logins += 1
        if resumed:
            self._counters.resumed += 1
        rings = self._hub.rooms.resume(session, rooms, hello.resume) if hello.resume else ()
        link.send(
            Welcome(
                address_text(Address("device", session.user, session.device)),
                identity.user,
                self._node,
                session.generation,
                self.settings.heartbeat_s,
                self._wall_ms(),
                identity.expires_at_s * 1000,
                self._limits_for(identity),
                (Resumed(place.log.address, 0, position.epoch, start, session.head, resume.gap), *rings),
            )
        )
        if opened.record and session.link is link:  # from now on its client knows what is not kept
            self._hub.partings.leaves(session, _undone(link, opened.record))
        if hello.resume:
            self._hub.rooms.tell_removed(session, hello.resume)
        if self._tells:
            log.debug(
                "session resumed" if resumed else "session opened",
                generation=session.generation,
                **link.about(),
            )
        self._hub.opened(session, identity, resumed)
        if session.link is not link:  # who heard of it has sent it away
            return
        if hello.resume or session.rooms:
            self._hub.rooms.welcomed(session, rings)
        if resume.gap:
            self._hub.delivery.told_gap(session, place.log.address)
        self._hub.delivery.go_on(session)
        if restored:
            link.take_first(restored)
        link.resume(Pause.LOGIN)

    def _refused(self, failure: Failure, link: Link) -> None:
        error = failure.value
        if link.state is LinkState.CLOSED:
            return
        if isinstance(error, LinkError):
            self._counters.logins_refused[int(error.code)] += 1
            log.info("login refused: {reason}", reason=error.reason, code=error.code, **link.about())
            link.fail(error)
        else:
            log.failure("a login failed", failure, **link.about())
            link.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _token_deadline(self, identity: Identity) -> float:
        """When the link must go unless the token is renewed, on the monotonic clock; 0.0 for never."""
        if not identity.expires_at_s:
            return 0.0
        in_s = identity.expires_at_s - self._wall_ms() / 1000 + self.settings.renew_grace_s
        return _quarters(ceil((self._now() + in_s) * 4))

    # ------------------------------------------------------------------------------------------------ renew

    def renew(self, link: Link, frame: Renew) -> None:
        """A fresh token for this link; it is read on when the token is checked."""
        if not link.wire.traits.authenticates:
            raise UnexpectedFrame("there are no tokens on this wire")
        link.pause(Pause.RENEW)
        checking: Deferred[Any] = maybeDeferred(self._ask, link, Hello(frame.token))
        checking.addCallback(self._renewed, link)
        checking.addErrback(self._refused, link)

    def _renewed(self, identity: Identity, link: Link) -> Deferred[None] | None:
        session = link.session
        if session is None:
            return None
        if identity.user != session.user or identity.device not in ("", session.device):
            raise LoginRefused("the token is for somebody else")
        renewing = self._broker.renew_session(session.key, session.generation, identity.issued_at_s)
        return renewing.addCallback(self._prolonged, identity, link, session)

    def _prolonged(self, verdict: Verdict, identity: Identity, link: Link, session: Session) -> None:
        if link.session is not session:
            return
        if verdict is not Verdict.OK:
            code, reason = REFUSALS[verdict]
            raise LoginRefused(reason, code)
        session.identity = identity
        link.expire_token(self._token_deadline(identity))
        link.send(Renewed(identity.expires_at_s * 1000))
        link.resume(Pause.RENEW)


def _is_brief(key: SessionKey, hello: Hello) -> bool:
    """Whether the device ends with its session: its wire named it, and nobody waits for its client."""
    return hello.assigned and not hello.linger_s and key.device == hello.device


def _undone(link: Link, record: bytes) -> Iterable[Address]:
    """What is to be undone of an older connection. The claim is granted, and must not be lost by this."""
    try:
        undone: Iterable[Address] = link.codec.undoes(record)
    except Exception:
        log.failure("the codec of {wire} raised", **link.about())
        return ()
    return undone


@lru_cache(maxsize=1024)
def _shared(name: str) -> str:
    """Few devices and platforms have names of their own.

    :raises InvalidAddress: it is none.
    """
    return intern(check_id(name))


@lru_cache(maxsize=8192)
def _quarters(number: int) -> float:
    """So many quarters of a second, which is as finely as the node's wheel turns: one object for the links
    that keep it, whose tokens end by whole seconds."""
    return number / 4
