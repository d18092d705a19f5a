"""The client: one session over as many links as it takes.

::

    IDLE ── start ──▶ LOGGING_IN ── Welcome ──▶ UP
                       │    ▲                    │ the link ended
          it failed or │    │ after a while      │
          "come later" ▼    │                    │
                      WAITING ◀──────────────────┘
    from anywhere: close(), or a refusal for good ──▶ CLOSED
"""

from __future__ import annotations

import random as random_module
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import count
from os.path import realpath
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.client.adapters import alternatives, protocol_named, transport_for
from imgateway.client.asking import DEADLINE_S, Asking
from imgateway.client.inbox import Inbox
from imgateway.client.link import Ended, Link
from imgateway.client.outbox import Outbox
from imgateway.client.pace import Pace, Steady
from imgateway.client.reading import Reading
from imgateway.client.sending import Outcomes, Sending
from imgateway.client.store import ClientStore
from imgateway.client.tokens import Token, Tokens
from imgateway.client.values import Gap, History, Received
from imgateway.core.retry import RetryPolicy, backoff
from imgateway.errors import (
    ClientError,
    CloseCode,
    ConnectRefused,
    GatewayError,
    InvalidAddress,
    LinkLost,
    StoreError,
)
from imgateway.frames import (
    MAX_MSG_ID_BYTES,
    Address,
    Deliver,
    Frame,
    Hello,
    LogKey,
    Publish,
    PublishAck,
    Pull,
    Refused,
    Renew,
    Renewed,
    Request,
    Response,
    Start,
    Welcome,
    parse_address,
)
from imgateway.wire.messages import decode_message

__all__ = ("Client", "Messages", "State", "connect")

# A link that lived this long was a good one: the next failure is the first again.
SETTLED_S = 10.0
# The connection flushes for 2 s when it is closed.
GOODBYE_S = 3.0
# The codec's own limit is 1 MiB; what Welcome says of bodies comes later than the codec.
MAX_FRAME_BYTES = 1_048_576


class State(Enum):
    IDLE = "not started"
    LOGGING_IN = "on the way to a Welcome"
    UP = "welcomed"
    WAITING = "before the next attempt"
    CLOSED = "over"


class Closed(ClientError):
    """The client was closed by `close`."""


class Client:
    """See `connect` for the parameters. `start` may be left unawaited: what is published meanwhile waits in the outbox.

    `on_message`, `on_gap`, `on_request`, `on_up` and `on_down` may be set before `start`.
    """

    _log = Logger()

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: Token,
        device: str = "",
        platform: str = "",
        on_message: Callable[[Received], Any] | None = None,
        on_gap: Callable[[Gap], Any] | None = None,
        on_outcome: Callable[[Publish, Outcomes | Exception], None] | None = None,
        start: Start = Start.UNSEEN,
        protocol: Any = "native",
        outbox: str | None = None,
        state: str | None = None,
        outbox_messages: int = 1_000,
        outbox_bytes: int = 16_777_216,
        wait: bool = False,
        backoff: RetryPolicy | None = None,
        tls: Any = None,
        transport: Any = None,
        connect_timeout_s: float = 10.0,
        login_timeout_s: float = 10.0,
        client_version: str = "imgateway-python/1",
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._reactor: Any = reactor
        self._now = Steady(reactor.seconds)
        self._own = [url] if isinstance(url, str) else list(url)
        self._urls = list(self._own)
        self._next_url = 0
        self._transport = transport
        if transport is None:
            for one in self._own:
                transport_for(one)
        self._wire = protocol_named(protocol) if isinstance(protocol, str) else protocol
        self._tokens = Tokens(reactor, token)
        self._device, self._platform, self._start = device, platform, start
        self._version = client_version
        self._wait = wait
        self._backoff = backoff if backoff is not None else default_backoff()
        self._options = {"tls": tls, "timeout_s": connect_timeout_s}
        self._login_timeout_s = login_timeout_s
        # 64 random bits a run: unique across restarts, and short.
        self._run_id, self._msg_ids = secrets.token_hex(8), count(1)
        self.on_up: Callable[[Welcome], Any] | None = None
        self.on_down: Callable[[int, str], Any] | None = None
        self.state = State.IDLE
        self.welcome: Welcome | None = None
        self._link: Link | None = None
        self._ready: list[Deferred[None]] = []
        self._ends: list[Deferred[None]] = []  # of `close`
        self._ended: list[Deferred[None]] = []  # of `when_closed`
        self._links = 0
        self._fatal: Exception | None = None
        self._error: Exception | None = None
        self._awaited: Deferred[Any] | None = None
        self._leaving = self._over = False
        outbox_file = ClientStore(outbox) if outbox else None
        try:
            same = outbox and state and realpath(outbox) == realpath(state)
            state_file = outbox_file if same else ClientStore(state) if state else None
        except StoreError:
            if outbox_file is not None:
                outbox_file.close()
            raise
        self._stores = {file for file in (outbox_file, state_file) if file is not None}
        pace = Pace(self._now())
        self._sending = Sending(reactor, Outbox(outbox_messages, outbox_bytes), pace, outbox_file, on_outcome)
        self._reading = Reading(reactor, Inbox(decode_message), state_file, on_message, on_gap)
        self._asking = Asking(reactor, pace)

    # --------------------------------------------------------------------------------------- what is known

    @property
    def user(self) -> str:
        """Who the gateway says that we are; empty before the first Welcome."""
        return self.welcome.user if self.welcome is not None else ""

    @property
    def connected(self) -> bool:
        return self.state is State.UP

    @property
    def on_message(self) -> Callable[[Received], Any] | None:
        return self._reading.on_message

    @on_message.setter
    def on_message(self, function: Callable[[Received], Any] | None) -> None:
        self._reading.on_message = function

    @property
    def on_gap(self) -> Callable[[Gap], Any] | None:
        return self._reading.on_gap

    @on_gap.setter
    def on_gap(self, function: Callable[[Gap], Any] | None) -> None:
        self._reading.on_gap = function

    @property
    def on_request(self) -> Callable[[Request], Any] | None:
        return self._asking.on_request

    @on_request.setter
    def on_request(self, function: Callable[[Request], Any] | None) -> None:
        self._asking.on_request = function

    # -------------------------------------------------------------------------------------- the beginning

    def start(self) -> Deferred[None]:
        """Begin, once; fires at the first Welcome.

        :raises ConnectRefused: the gateway refused for good.
        :raises LinkLost: (without ``wait``) no URL led to a Welcome; the client is closed then.
        """
        if self.state is not State.IDLE:
            raise RuntimeError("a client is started once")
        self.state = State.LOGGING_IN
        ready: Deferred[None] = Deferred(lambda _: self._finish(Closed("start was cancelled")))
        self._ready.append(ready)
        ensureDeferred(self._run()).addCallbacks(self._finish, self._crashed)
        return ready

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
                self._next_url += 1
            elif self._now() - began >= SETTLED_S:
                attempt = 0
            wait_s = self._wait_before_next(ended, attempt)
            if wait_s is None:
                return ConnectRefused(ended.code, ended.reason)
            if self.welcome is None and not self._wait and failures >= len(self._urls) and wait_s:
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
        """Wait for something that the end of the client cancels."""
        if self.state is State.CLOSED:
            what.addErrback(lambda reason: reason.trap(CancelledError))
            what.cancel()
            raise CancelledError()
        self._awaited = what
        try:
            return await what
        finally:
            self._awaited = None

    def _wait_before_next(self, ended: Ended, attempt: int) -> float | None:
        """Seconds until the next attempt, by the range of the close code; None: there is none."""
        if ended.endpoints:
            self._urls, self._next_url = alternatives(ended.endpoints, self._own), 0
        if ended.code >= 200:
            if ended.code != CloseCode.TOKEN_EXPIRED:
                return None
            hopeless = self._tokens.just_fetched
            if not self._tokens.expired():
                return None
            return self._backoff(attempt) if hopeless else 0.0
        if ended.code >= 100 and ended.retry_after_s:
            return ended.retry_after_s
        return self._backoff(attempt)

    async def _one_link(self) -> Ended:
        """From a token to the end of a link; what goes wrong is an Ended as well."""
        try:
            token = await self._wait_for(ensureDeferred(self._tokens.get()))
        except CancelledError:
            raise
        except Exception as error:
            if self.welcome is None and not self._wait:
                self._fatal = error
            else:
                self._log.failure("no token")
            return Ended(CloseCode.LOST, f"no token: {error}")
        url = self._urls[self._next_url % len(self._urls)]
        hello = Hello(
            token=token,
            device=self._device,
            platform=self._platform,
            client_version=self._version,
            start=self._start,
            resume=self._reading.resume_points(),
        )
        timeout_s = self._login_timeout_s + float(self._options["timeout_s"])
        link = Link(
            self._reactor,
            self._wire,
            hello,
            self._up,
            self._take,
            self._sending.pump,
            timeout_s,
            MAX_FRAME_BYTES,
        )
        self._link = link
        try:
            transport = self._transport if self._transport is not None else transport_for(url)
            dialling = transport.connect(url, self._wire, link, self._reactor, self._options)
            link.attach(await self._wait_for(dialling))
        except (GatewayError, CancelledError) as error:
            link.end(Ended(CloseCode.LOST, str(error)))
        return await link.gone

    # ------------------------------------------------------------------------------------------- the link

    def _up(self, welcome: Welcome) -> None:
        link = self._link
        if link is None or self.state is State.CLOSED:
            return
        for store in self._stores:
            owner = store.owner()
            if owner and owner != welcome.session:
                self._fatal = StoreError(f"{store.path} belongs to {owner} and not to {welcome.session}")
                link.close()
                return
            store.own(welcome.session)
        self._links += 1
        self.welcome = welcome
        self.state = State.UP
        self._server_ahead_ms = welcome.server_time_ms - self._now() * 1000
        self._renewed(Renewed(welcome.token_expires_ms))
        self._tell(self.on_up, welcome)
        for begin in (
            lambda: self._sending.up(link, welcome.limits),
            lambda: self._asking.up(link),
            lambda: self._reading.up(link, welcome.resumed),
        ):
            if self._link is link:  # what the application is told on the way may have closed the client
                begin()
        ready, self._ready = self._ready, []
        for one in ready:
            one.callback(None)

    def _down(self, ended: Ended) -> None:
        self._link = None
        self._tokens.disarm()
        self._reading.down()
        self._sending.down()
        self._asking.down()
        self._log.info(
            "the link ended: {reason} (code {code})",
            reason=ended.reason or "no reason given",
            code=ended.code,
        )
        self._tell(self.on_down, ended.code, ended.reason)

    def _renewed(self, frame: Renewed) -> None:
        lifetime_s = 0.0
        if frame.token_expires_ms:
            server_ms = self._now() * 1000 + self._server_ahead_ms
            lifetime_s = max(1.0, (frame.token_expires_ms - server_ms) / 1000)
        self._tokens.accepted(lifetime_s, self._send_renew)

    def _send_renew(self, frame: Renew) -> None:
        if self._link is not None:
            self._link.send(frame)

    def _take(self, frame: Frame) -> None:
        """Everything that comes on a welcomed link."""
        if isinstance(frame, Deliver):
            if self._asking.pulled(frame):
                self._reading.history_came(frame)
            else:
                self._reading.deliver(frame)
        elif isinstance(frame, PublishAck):
            self._sending.acked(frame)
        elif isinstance(frame, Response):
            self._asking.answered(frame)
        elif isinstance(frame, Request):
            self._asking.serve(frame)
        elif isinstance(frame, Renewed):
            self._renewed(frame)
        elif isinstance(frame, Refused):
            self._refused(frame)

    def _refused(self, refused: Refused) -> None:
        if refused.frame == "publish":
            self._sending.refused(refused)
        elif self._asking.refused(refused):
            pass
        elif refused.frame == "pull":
            try:
                self._reading.pull_refused(parse_address(refused.id))
            except InvalidAddress:
                self._log.warn("a pull was refused for no address")
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

    # ------------------------------------------------------------------------------------- the application

    def publish(
        self,
        to: str | Address | Iterable[str | Address],
        body: bytes | str,
        *,
        qos: int = 1,
        msg_id: str | None = None,
        content_type: str = "",
        ttl_s: int = 0,
        lane: int = 0,
        copy_self: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Deferred[Outcomes]:
        """Send a message; await the result or not, it is on its way in the order of the calls.

        Fires with one Outcome per address, in the order of `to`, when each is final; with ``()`` for qos 0 as soon as it was
        sent, or dropped because there is no link. Text is sent as UTF-8 and, unless told otherwise, as ``text/plain``.

        :param msg_id: 1 to 64 bytes; by default one that no other run of any client makes.
        :raises ValueError: (at once) an address, a msg_id or a text that no wire carries.
        :raises OutboxFull: (at once) see there.
        :raises OutcomeUnknown: the client was closed first, or the dedup time ran out before it could be sent again.
        :raises FrameRefused: the gateway, or the wire, does not take it.
        """
        self._check_open()
        places = [to] if isinstance(to, (str, Address)) else list(to)
        addresses = tuple(parse_address(one) if isinstance(one, str) else one for one in places)
        if not addresses:
            raise ValueError("a publish needs an address")
        if isinstance(body, str):
            body, content_type = body.encode(), content_type or "text/plain"
        if msg_id is None:
            msg_id = f"{self._run_id}-{next(self._msg_ids):x}"
        elif not 1 <= len(msg_id.encode()) <= MAX_MSG_ID_BYTES:
            raise ValueError(f"a msg_id is 1 to {MAX_MSG_ID_BYTES} bytes of UTF-8")
        pairs = tuple(sorted((headers or {}).items()))
        for text in (content_type, *(text for pair in pairs for text in pair)):
            text.encode()
        return self._sending.publish(
            Publish(msg_id, addresses, content_type, bytes(body), qos, ttl_s, lane, False, copy_self, pairs)
        )

    def request(
        self, service: str, method: str, body: bytes | str = b"", *, deadline_s: float = DEADLINE_S
    ) -> Deferred[bytes]:
        """Call a service; fires with its answer's body.

        :raises RequestFailed: with the service's code, or DEADLINE.
        :raises LinkLost: the link ended after it was sent: it may or may not have been carried out.
        """
        self._check_open()
        data = body.encode() if isinstance(body, str) else body
        return self._asking.request(service, method, data, deadline_s)

    def history(
        self, address: str | Address, after: int = 0, limit: int = 64, *, lane: int = 0, epoch: int = 0
    ) -> Deferred[History]:
        """Read a log again, from behind `after`; changes no position. Waits for a link if there is none.

        :param epoch: which log is meant; 0: the one that is read now.
        :raises FrameRefused: this identity may not read it.
        :raises LinkLost: the link ended first; asking again does no harm.
        """
        self._check_open()
        place = parse_address(address) if isinstance(address, str) else address
        epoch = epoch or self._reading.epoch_of(LogKey(place, lane))
        return self._asking.pull(Pull(place, lane, epoch, after, limit)).addCallback(_history)

    def messages(self) -> Messages:
        """Iterate over what comes: ``async for received in client.messages()``.

        Asking for the next message takes custody of the one before. Leaving the loop does not: see `take`.
        """
        return Messages(self)

    def take(self) -> None:
        """Custody of the message that `messages` gave last, without asking for another."""
        if self._reading.on_message is None:
            self._reading.take()

    def next_message(self) -> Deferred[Received]:
        """What `messages` iterates over, one by one.

        :raises ConnectRefused: the gateway ended the session.
        :raises ClientError: the client was closed.
        """
        return self._reading.ask()

    # -------------------------------------------------------------------------------------------- the end

    def close(self, timeout_s: float = 5.0) -> Deferred[None]:
        """Wait up to `timeout_s` for outcomes, acknowledge what was taken, say goodbye; fires when all is over.

        Publishes without outcome fail with OutcomeUnknown; with an outbox file they stay in it for the next run.
        """
        over: Deferred[None] = Deferred()
        if self._over:
            over.callback(None)
            return over
        self._ends.append(over)
        if not self._leaving:
            self._leaving = True
            ensureDeferred(self._leave(timeout_s)).addErrback(self._crashed)
        return over

    def when_closed(self) -> Deferred[None]:
        """Fires when the client was closed.

        :raises ConnectRefused: the gateway refused it for good.
        """
        end: Deferred[None] = Deferred(lambda end: self._ended.remove(end))
        if not self._over:
            self._ended.append(end)
        elif self._error is None:
            end.callback(None)
        else:
            end.errback(self._error)
        return end

    async def _leave(self, timeout_s: float) -> None:
        if self.state is not State.IDLE:
            try:
                await self._sending.when_empty().addTimeout(timeout_s, self._reactor)
            except TimeoutError:
                pass
        link = self._link
        if link is not None and self.state is State.UP:
            self._reading.flush()
            self.state = State.CLOSED
            link.close()
            try:
                await link.closed.addTimeout(GOODBYE_S, self._reactor)
            except TimeoutError:
                pass
        self._finish(None)

    def _check_open(self) -> None:
        if self._leaving or self._over:
            raise self._error or Closed("the client was closed")

    def _crashed(self, failure: Failure) -> None:
        self._log.failure("the client stops", failure)
        self._finish(ClientError(f"the client stopped: {failure.getErrorMessage()}"))

    def _finish(self, error: Exception | None) -> None:
        """It is over; once."""
        if self._over:
            return
        self._over = True
        self.state = State.CLOSED
        self._error = error
        self._tokens.disarm()
        if self._link is not None:
            self._link.end(Ended(CloseCode.NORMAL))
            self._link = None
        if self._awaited is not None:
            self._awaited.cancel()
        shown = error or Closed("the client was closed")
        self._asking.stop(shown)
        self._sending.stop(error)
        self._reading.stop(shown)
        for store in self._stores:
            store.close()
        ready, self._ready = self._ready, []
        for one in ready:
            if not one.called:
                one.errback(shown)
        ended, self._ended = self._ended, []
        for end in ended:
            if error is None:
                end.callback(None)
            else:
                end.errback(error)
        ends, self._ends = self._ends, []
        for over in ends:
            over.callback(None)


class Messages:
    """An asynchronous iterator over a client's messages; ends when the client is closed."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self._client.next_message()
        except Closed:
            raise StopAsyncIteration from None


def _history(frame: Deliver) -> History:
    messages = tuple(
        Received(frame.address, frame.lane, frame.epoch, entry.seq, decode_message(entry.message))
        for entry in frame.entries
    )
    return History(
        frame.address, frame.lane, frame.epoch, frame.after, frame.upto, messages, frame.gap, frame.head
    )


def default_backoff() -> RetryPolicy:
    """0.5 s, doubled up to 30 s, each drawn from the upper half of its step."""
    return backoff(random_module.Random().random)


async def connect(url: str | Sequence[str], **options: Any) -> Client:
    """A client that is logged in.

    :param url: ``tcp://``, ``tls://``, ``unix://``, ``ws://`` or ``wss://``; several are tried in turn.
    :param token: a JWT, or a function that returns one or something to await for it. A function is asked again when the
        token ran out, and before it runs out on a living link.
    :param device: empty: the one that the token names.
    :param platform: such as ``ios``; the gateway's login policy may look at it.
    :param on_message: called with each Received. If it returns something to await, the next message waits for that; only then
        is this one acknowledged. What it raises is logged, and the message counts as taken. None: see `Client.messages`.
    :param on_gap: called with each Gap, in its place among the messages.
    :param on_outcome: called with (Publish, outcomes or error) for what an earlier run left in the outbox file.
    :param start: where a device that has no position yet begins to read.
    :param protocol: a protocol's name, or an IProtocolAdapter.
    :param outbox: a file that keeps publishes until their outcome is known. Without it they are in memory.
    :param state: a file that keeps how far the application has got; may be the same.
    :param outbox_messages: without final word at most; publishes beyond wait for room.
    :param wait: keep trying when the first attempt fails, for as long as the gateway does not refuse for good.
    :param backoff: attempt → seconds.
    :param tls: a Twisted connection creator for ``tls://`` and ``wss://``; None: the platform's trust.
    :param transport: an ITransportAdapter to use whatever the URL says.
    :param reactor: by default the one that is installed.
    :raises ConnectRefused: the gateway turned the login down for good.
    :raises LinkLost: (without ``wait``) no URL led to a Welcome.
    :raises StoreError: a file is in use or broken, or belongs to another session.
    """
    client = Client(url, **options)
    await client.start()
    return client
