"""One session over as many links as it takes: logs in, routes frames, comes again, stops.

::

    IDLE ── start ──▶ LOGGING_IN ── Welcome ──▶ UP
                       │    ▲                    │ the link ended
          it failed or │    │ after a while      │
          "come later" ▼    │                    │
                      WAITING ◀──────────────────┘
    from anywhere: the application leaves, or a refusal for good ──▶ CLOSED
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred, fail
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.client.adapters import Dial
from imgateway.client.asking import Asking
from imgateway.client.course import Course
from imgateway.client.link import Ended, Link
from imgateway.client.reading import Reading
from imgateway.client.rooms import Rooms
from imgateway.client.sending import Sending
from imgateway.client.store import ClientStore
from imgateway.client.tokens import Tokens
from imgateway.errors import (
    ClientError,
    CloseCode,
    ConnectRefused,
    GatewayError,
    LinkLost,
    StoreError,
)
from imgateway.frames import (
    Deliver,
    Frame,
    Hello,
    Notify,
    PublishAck,
    Refused,
    Renew,
    Renewed,
    Request,
    Response,
    ResumePoint,
    Subscribed,
    Unsubscribed,
    Welcome,
    parse_address,
)

__all__ = ("Closed", "Session", "State")

# A link that lived this long was a good one: the next failure is the first again.
SETTLED_S = 10.0
# The connection flushes for 2 s when it is closed.
GOODBYE_S = 3.0


class State(Enum):
    IDLE = "not started"
    LOGGING_IN = "on the way to a Welcome"
    UP = "welcomed"
    WAITING = "before the next attempt"
    CLOSED = "over"


class Closed(ClientError):
    """The client was closed by the application."""


class Session:
    """Owns the link and the state; its parts send, read, ask and subscribe over whatever link there is."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        now: Callable[[], float],
        dial: Dial,
        hello: Hello,
        tokens: Tokens,
        sending: Sending,
        reading: Reading,
        asking: Asking,
        rooms: Rooms,
        stores: Iterable[ClientStore],
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._dial = dial
        self._hello = hello
        self._tokens = tokens
        self._sending, self._reading, self._asking, self._rooms = sending, reading, asking, rooms
        self._stores = tuple(stores)
        self._course = Course(dial, tokens, self._wait_for)
        self.state = State.IDLE
        self.welcome: Welcome | None = None
        self.on_up: Callable[[Welcome], Any] | None = None
        self.on_down: Callable[[int, str], Any] | None = None
        self.leaving = self.over = self._parting = False
        self.error: Exception | None = None
        self._link: Link | None = None
        self._links = 0
        self._server_ahead_ms = 0.0
        self._fatal: Exception | None = None
        self._awaited: Deferred[Any] | None = None
        self._ready: Deferred[None] | None = None
        self._left: list[Deferred[None]] = []
        self._closer: Deferred[None] | None = None  # fires when the function that closes us is over
        self._ended: list[Deferred[None]] = []

    def start(self) -> Deferred[None]:
        if self.state is not State.IDLE:
            raise RuntimeError("a client is started once")
        ready = self._ready = Deferred(lambda _: self._finish(Closed("start was cancelled")))
        ensureDeferred(self._run()).addCallbacks(self._ran, self._crashed)
        return ready

    def leave(self, timeout_s: float) -> Deferred[None]:
        """Fires at the end; at once where the end waits for the caller, a function that a message is shown
        to, which may take its time. Another caller's time is limited, and limits that."""
        over: Deferred[None] = Deferred()
        inside = self._reading.inside
        if self.over or inside:
            over.callback(None)
        else:
            self._left.append(over)
        if not self.over and not self.leaving:
            self.leaving = True
            ensureDeferred(self._leave(timeout_s, inside)).addErrback(self._crashed)
        elif self._closer is not None and not inside:
            self._closer.addTimeout(timeout_s, self._reactor)
        return over

    @property
    def is_open(self) -> bool:
        """The caller may begin something; also while we leave, if we wait for the caller."""
        return not self.over and (not self.leaving or self._reading.inside)

    def when_over(self) -> Deferred[None]:
        if self._closer is not None and not self.over and self._reading.inside:
            return fail(RuntimeError("the client is closed when the function that waits for that is over"))
        end: Deferred[None] = Deferred(self._forget_end)
        self._ended.append(end)
        if self.over:
            self._tell_all()
        return end

    def _forget_end(self, end: Deferred[None]) -> None:
        if end in self._ended:  # else they are being told, and one of them cancels another
            self._ended.remove(end)

    # --------------------------------------------------------------------------------------- link after link

    async def _run(self) -> Exception | None:
        """Link after link; returns why there is no next one."""
        attempt = failures = 0
        while True:
            self.state = State.LOGGING_IN
            began, welcomed = self._now(), self._links
            try:
                ended = await self._one_link()
            except CancelledError:
                return None
            if self.state is State.CLOSED or self._fatal is not None:
                return self._fatal
            self.state = State.WAITING
            self._down(ended)
            if self._links == welcomed:
                failures += 1
                self._course.failed()
            elif self._now() - began >= SETTLED_S:
                attempt = 0
            wait_s = self._wait_before_next(ended, attempt)
            if wait_s is None:
                return ConnectRefused(ended.code, ended.reason)
            if self.welcome is None and not self._dial.wait and failures >= len(self._course) and wait_s:
                if ended.code >= 200:
                    return ConnectRefused(ended.code, ended.reason)
                known = {int(code) for code in CloseCode}
                code = CloseCode(ended.code) if ended.code in known else CloseCode.LOST
                return LinkLost(ended.reason, code, ended.retry_after_s)
            attempt += 1
            try:
                await self._wait_for(deferLater(self._reactor, wait_s))
            except CancelledError:
                return None
            self._sending.give_up()

    async def _wait_for(self, what: Deferred[Any]) -> Any:
        """Wait for something that the end of the client cancels.

        :raises LinkLost: it was cancelled by somebody else, as HTTP clients do with what takes too long.
        """
        if self.state is State.CLOSED:
            what.addErrback(lambda reason: reason.trap(CancelledError))
            what.cancel()
            raise CancelledError()
        self._awaited = what
        try:
            return await what
        except CancelledError as error:
            if self.over:
                raise
            raise LinkLost("what the client waited for was cancelled") from error
        finally:
            self._awaited = None

    def _wait_before_next(self, ended: Ended, attempt: int) -> float | None:
        """Seconds until the next attempt, by the range of the close code; None: there is none."""
        if self._course.ended(ended):
            return 0.0
        if ended.code >= 200:
            if ended.code != CloseCode.TOKEN_EXPIRED:
                return None
            hopeless = self._tokens.just_fetched
            if not self._tokens.expired():
                return None
            return self._dial.wait_s(attempt) if hopeless else 0.0
        if ended.code >= 100 and ended.retry_after_s:
            return ended.retry_after_s
        return self._dial.wait_s(attempt)

    async def _one_link(self) -> Ended:
        """From a token to the end of a link; what goes wrong is an Ended as well."""
        try:
            token = await self._wait_for(ensureDeferred(self._tokens.get()))
        except CancelledError:
            raise
        except Exception as error:
            if self.welcome is None and not self._dial.wait:
                self._fatal = error
            else:
                self._log.failure("no token")
            return Ended(CloseCode.LOST, f"no token: {error}")
        lost = await self._course.find(token)
        if self.state is State.CLOSED:  # it was given up while the host's name was looked up
            raise CancelledError()
        if lost is not None:
            return lost
        try:
            url, credentials = self._course.take(token)
        except ConnectRefused as error:
            return Ended(error.code, error.reason)
        hello = replace(self._hello, token=credentials.token, resume=self._resume_points())
        link = self._link = Link(
            self._reactor,
            self._now,
            self._dial.wire,
            hello,
            self._up,
            self._take,
            self._sending.pump,
            self._dial.timeout_s,
            self._dial.heartbeat_s,
        )
        try:
            link.attach(await self._wait_for(self._dial.connect(url, link, self._reactor, credentials.udp)))
        except (GatewayError, CancelledError) as error:
            link.end(Ended(CloseCode.LOST, str(error)))
        return await link.gone

    def _resume_points(self) -> tuple[ResumePoint, ...]:
        return self._reading.resume_points() + self._rooms.resume_points()

    # ------------------------------------------------------------------------------------------- the link

    def _up(self, welcome: Welcome) -> None:
        link = self._link
        if link is None or self.state is State.CLOSED:
            return
        device = parse_address(welcome.session).device
        foreign = [store for store in self._stores if store.owner() not in ("", welcome.session)]
        if foreign:
            [store, *_] = foreign
            self._fatal = StoreError(f"{store.path} belongs to {store.owner()} and not to {welcome.session}")
            self._sending.disown(foreign)
            link.close()
            return
        for store in self._stores:
            store.own(welcome.session)
        self._hello = replace(self._hello, device=device)  # whatever device the next token is for
        self._links += 1
        self._course.welcomed()
        self.welcome = welcome
        self.state = State.UP
        self._server_ahead_ms = welcome.server_time_ms - self._now() * 1000
        self._renewed(Renewed(welcome.token_expires_ms))
        self._tell(self.on_up, welcome)
        for begin in (
            lambda: self._sending.up(link, welcome.limits, welcome.server_time_ms / 1000),
            lambda: self._asking.up(link),
            lambda: self._reading.up(link, welcome.resumed),
            lambda: self._rooms.up(link, welcome.resumed),
        ):
            if self._link is link:  # what the application is told on the way may have closed the client
                begin()
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(None)

    def _down(self, ended: Ended) -> None:
        self._link = None
        self._tokens.disarm()
        self._reading.down()
        self._sending.down()
        self._asking.down()
        self._rooms.down()
        self._log.info(
            "the link ended: {reason} (code {code})",
            reason=ended.reason or "no reason given",
            code=ended.code,
        )
        self._tell(self.on_down, ended.code, ended.reason)

    def _renewed(self, frame: Renewed) -> None:
        lifetime_s = 0.0
        if frame.token_expires_ms and not self._course.bound:  # who needs a bound one comes again for it
            server_ms = self._now() * 1000 + self._server_ahead_ms
            lifetime_s = max(1.0, (frame.token_expires_ms - server_ms) / 1000)
        self._tokens.accepted(lifetime_s, self._send_renew)

    def _send_renew(self, frame: Renew) -> None:
        if self._link is not None:
            self._link.send(frame)

    def _take(self, frame: Frame) -> None:
        """Everything that comes on a welcomed link."""
        if isinstance(frame, Deliver):
            if frame.pulled:
                self._reading.answered(frame, self._asking.pulled(frame))
            elif not self._rooms.left(frame.address):
                self._reading.deliver(frame)
        elif isinstance(frame, PublishAck):
            self._sending.acked(frame)
        elif isinstance(frame, Response):
            self._asking.answered(frame)
        elif isinstance(frame, Request):
            self._asking.serve(frame)
        elif isinstance(frame, Renewed):
            self._renewed(frame)
        elif isinstance(frame, Notify):
            self._rooms.notified(frame)
        elif isinstance(frame, Subscribed):
            self._rooms.subscribed(frame)
        elif isinstance(frame, Unsubscribed):
            self._rooms.unsubscribed(frame)
        elif isinstance(frame, Refused):
            self._refused(frame)

    def _refused(self, refused: Refused) -> None:
        if refused.frame == "publish":
            self._sending.refused(refused)
        elif refused.frame in ("subscribe", "unsubscribe"):
            self._rooms.refused(refused)
        elif refused.frame == "request" and self._asking.refused(refused):
            pass
        elif refused.frame == "pull" and (pull := self._asking.pull_refused(refused)) is not None:
            self._reading.pull_refused(pull)
        else:
            self._log.warn(
                "refused: {frame} {id!r}: {reason} (code {code})",
                frame=refused.frame,
                id=refused.id,
                reason=refused.reason,
                code=refused.code,
            )

    def _tell(self, function: Callable[..., Any] | None, *arguments: Any) -> None:
        if function is not None:
            try:
                function(*arguments)
            except Exception:
                self._log.failure("the application's function failed")

    # -------------------------------------------------------------------------------------------- the end

    async def _leave(self, timeout_s: float, inside: bool) -> None:
        if self.state is not State.IDLE:
            finished = self._reading.finish()
            try:
                if inside:
                    self._closer = finished
                    await finished
                until = self._now() + timeout_s
                await finished.addTimeout(timeout_s, self._reactor)
                left_s = max(0.0, until - self._now())
                await self._sending.when_empty().addTimeout(left_s, self._reactor)
            except (TimeoutError, CancelledError):
                pass
        link = self._link
        if link is not None and self.state is State.UP:
            self._reading.flush()
            self.state = State.CLOSED
            self._parting = True
            self._sending.part()
            link.close()
            try:
                await link.closed.addTimeout(GOODBYE_S, self._reactor)
            except TimeoutError:
                pass
        self._finish(None)

    def _ran(self, error: Exception | None) -> None:
        if not self._parting:  # else `_leave` still waits for the goodbye to be flushed
            self._finish(error)

    def _crashed(self, failure: Failure) -> None:
        self._log.failure("the client stops", failure)
        self._finish(ClientError(f"the client stopped: {failure.getErrorMessage()}"))

    def _finish(self, error: Exception | None) -> None:
        """It is over; once."""
        if self.over:
            return
        self.over = True
        self.state = State.CLOSED
        self.error = error
        self._tokens.disarm()
        if self._link is not None:
            self._link.end(Ended(CloseCode.NORMAL))
            self._link = None
        if self._awaited is not None:
            self._awaited.cancel()
        shown = error or Closed("the client was closed")
        self._reading.stop(shown)  # first: what a function fails with from now on takes no message
        self._asking.stop(shown)
        self._rooms.stop(shown)
        self._sending.stop(error)
        for store in self._stores:
            store.close()
        ready, self._ready = self._ready, None
        if ready is not None and not ready.called:
            ready.errback(shown)
        self._tell_all()

    def _tell_all(self) -> None:
        left, self._left = self._left, []
        for over in left:
            over.callback(None)
        ended, self._ended = self._ended, []
        for end in ended:
            if end.called:  # one that was told has cancelled it
                continue
            if self.error is None or isinstance(self.error, Closed):
                end.callback(None)
            else:
                end.errback(self.error)
