"""What an application holds: a `Client`, and `connect`, which gives one that is logged in."""

from __future__ import annotations

import random as random_module
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from os.path import realpath
from typing import Any

from twisted.internet.defer import Deferred

from imgateway.client.adapters import Dial, protocol_named, transport_named
from imgateway.client.asking import DEADLINE_S, Asking
from imgateway.client.checking import MAX_NUMBER, check_functions, check_publish, content, place, whole
from imgateway.client.inbox import Inbox
from imgateway.client.outbox import Outbox
from imgateway.client.pace import Pace, Steady
from imgateway.client.reading import Reading
from imgateway.client.rooms import Rooms, Subscription
from imgateway.client.router import Router, Routing
from imgateway.client.sending import Outcomes, Sending
from imgateway.client.session import Closed, Session, State
from imgateway.client.store import ClientStore, device_for
from imgateway.client.tokens import Token, Tokens
from imgateway.client.values import Gap, History, Received
from imgateway.core.retry import RetryPolicy, backoff
from imgateway.errors import StoreError
from imgateway.frames import (
    Address,
    Deliver,
    Hello,
    Mode,
    Publish,
    Pull,
    Request,
    Start,
    Welcome,
    check_id,
    log_of,
)
from imgateway.wire.compression import COMPRESSIONS
from imgateway.wire.messages import decode_message

__all__ = ("Client", "Messages", "connect")

MODES = {mode.name.lower(): mode for mode in Mode}


class Client:
    """See `connect` for the parameters. `start` need not be awaited: what is published meanwhile waits.

    `on_message`, `on_gap` and `on_request` are called as `connect` says; `on_up` with each Welcome, `on_down`
    with the close code and the reason of each link that ended; `on_unsubscribed` with each Subscription that
    the gateway ended. They may be set at any time.
    """

    def __init__(
        self,
        url: str | Sequence[str] = (),
        *,
        token: Token,
        router: str | Sequence[str] | Routing | None = None,
        region: str = "",
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
        compressions: Sequence[str] = COMPRESSIONS,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        if not url and not router:
            raise ValueError("where to? give a URL, or a router's")
        if not (isinstance(token, str) or callable(token)):
            raise ValueError(f"token is a text, or a function that gives one, not {token!r}")
        if isinstance(compressions, str):
            raise ValueError(f"compressions are several: ({compressions!r},)")
        check_functions(on_message=on_message, on_gap=on_gap, on_outcome=on_outcome, backoff=backoff)
        random = random_module.Random().random
        wire = protocol_named(protocol) if isinstance(protocol, str) else protocol
        by_name = transport if isinstance(transport, str) else ""
        if by_name:
            transport_named(by_name)
        if isinstance(router, str | Sequence):
            trust = tls if callable(tls) else None if tls is None else lambda host: tls
            named = by_name or getattr(transport, "name", "")
            router = Router(router, reactor, wire.name, named, region, trust, connect_timeout_s)
        dial = Dial(
            [url] if isinstance(url, str) else url,
            wire,
            None if by_name else transport,
            tls,
            connect_timeout_s,
            login_timeout_s,
            backoff,
            wait,
            default_backoff(),
            random,
            router or None,
        )
        box = Outbox(
            whole("outbox_messages", outbox_messages, MAX_NUMBER, 1),
            whole("outbox_bytes", outbox_bytes, sys.maxsize, 1),
        )
        outbox_file, state_file = _stores(outbox, state)
        # One for all who share the pace: two would go on from a step back by different times.
        now = Steady(reactor.seconds)
        pace = Pace(now())
        stores = {file for file in (outbox_file, state_file) if file is not None}
        inbox = Inbox(decode_message)
        self._asking = Asking(reactor, now, pace)
        ask = self._asking.catch_up
        try:
            device = device_for(device, stores)
            self._sending = Sending(reactor, now, box, pace, outbox_file, on_outcome)
            self._reading = Reading(reactor, inbox, ask, state_file, on_message, on_gap)
        except StoreError:
            for file in stores:
                file.close()
            raise
        self._rooms = Rooms(reactor, now, inbox, self._reading, pace, ask, random)
        hello = Hello("", device, platform, client_version, tuple(compressions), start)
        self._session = Session(
            reactor,
            now,
            dial,
            hello,
            Tokens(reactor, token),
            self._sending,
            self._reading,
            self._asking,
            self._rooms,
            stores,
        )
        # 64 random bits a run: unique across restarts, and short.
        self._run_id, self._msg_ids = secrets.token_hex(8), count(1)

    def start(self) -> Deferred[None]:
        """Begin, once; fires at the first Welcome.

        :raises ConnectRefused: the gateway refused for good.
        :raises LinkLost: (without ``wait``) no URL led to a Welcome; the client is closed then.
        """
        return self._session.start()

    # --------------------------------------------------------------------------------------- what is known

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def connected(self) -> bool:
        return self._session.state is State.UP

    @property
    def welcome(self) -> Welcome | None:
        """The last Welcome: limits, session, node; None before the first."""
        return self._session.welcome

    @property
    def user(self) -> str:
        """Who the gateway says that we are; empty before the first Welcome."""
        return self._session.welcome.user if self._session.welcome is not None else ""

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

    @property
    def on_up(self) -> Callable[[Welcome], Any] | None:
        return self._session.on_up

    @on_up.setter
    def on_up(self, function: Callable[[Welcome], Any] | None) -> None:
        self._session.on_up = function

    @property
    def on_down(self) -> Callable[[int, str], Any] | None:
        return self._session.on_down

    @on_down.setter
    def on_down(self, function: Callable[[int, str], Any] | None) -> None:
        self._session.on_down = function

    @property
    def on_unsubscribed(self) -> Callable[[Subscription], Any] | None:
        return self._rooms.on_unsubscribed

    @on_unsubscribed.setter
    def on_unsubscribed(self, function: Callable[[Subscription], Any] | None) -> None:
        self._rooms.on_unsubscribed = function

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

        Fires with one Outcome per address, in the order of `to`, when each is final; with ``()`` for qos 0 as
        soon as it was sent, or dropped because there is no link. Text is sent as UTF-8 and, unless told
        otherwise, as ``text/plain``.

        :param msg_id: 1 to 64 bytes; by default one that no other run of any client makes.
        :param headers: at most 16,384 bytes of names and values, 16 more for each.
        :raises ValueError: (at once) one of these is what no gateway takes.
        :raises OutboxFull: (at once) see there.
        :raises OutcomeUnknown: the client was closed first (`kept`: the next run goes on with it), or the
            dedup time ran out before it could be sent again.
        :raises FrameRefused: the gateway, or the wire, does not take it.
        """
        self._check_open()
        places = [to] if isinstance(to, (str, Address)) else list(to)
        addresses = tuple(map(place, places))
        if not addresses:
            raise ValueError("a publish needs an address")
        if isinstance(body, str):
            content_type = content_type or "text/plain"
        if msg_id is None:
            msg_id = f"{self._run_id}-{next(self._msg_ids):x}"
        publish = Publish(
            msg_id,
            addresses,
            content_type,
            content(body),
            whole("qos", qos, 1),
            whole("ttl_s", ttl_s),
            whole("lane", lane, 1),
            False,
            bool(copy_self),
            tuple(sorted((headers or {}).items())),
        )
        check_publish(publish)
        return self._sending.publish(publish)

    def subscribe(
        self, address: str | Address, mode: str = "push", *, last: bool = False
    ) -> Deferred[Subscription]:
        """Be in a room, or follow a topic: its messages come as all others do, over all links to come.

        Fires when the gateway has let us in; waits for a link if there is none. Who is in already
        is that, and may change the mode. In a room it begins now. Of a topic, or of what is sent to a
        service, the gateway keeps the position of this device until `unsubscribe`: it goes on there, also in
        another run, and what comes from there is acknowledged as the mailbox is.

        :param last: who has not been there yet begins with the newest message.
        :param mode: ``push``: messages are sent. ``notify``: the gateway tells that there are some, and the
            client gets them after a while; for rooms so large that nobody reads along.
        :raises ValueError: (at once) there is no such address or mode.
        :raises FrameRefused: we may not.
        :raises ClientError: it was unsubscribed from, or the client closed, before the answer came.
        """
        self._check_open()
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
        return self._rooms.subscribe(place(address), MODES[mode], last)

    def unsubscribe(self, address: str | Address) -> Deferred[None]:
        """Leave a room or a topic and forget the position in it. Fires when nothing more comes from there.

        Of a topic, or of what is sent to a service, the gateway forgets it as well: that waits for a link.

        :raises ValueError: (at once) there is no such address.
        :raises ClientError: the client was closed before the gateway had forgotten it.
        """
        self._check_open()
        return self._rooms.unsubscribe(place(address))

    def request(
        self, service: str, method: str, body: bytes | str = b"", *, deadline_s: float = DEADLINE_S
    ) -> Deferred[bytes]:
        """Call a service; fires with its answer's body.

        :raises ValueError: (at once) no service or method has such a name; or, when its turn comes, it is
            more than a frame may hold.
        :raises RequestFailed: with the service's code, or DEADLINE.
        :raises LinkLost: the link ended after it was sent: it may or may not have been carried out.
        """
        self._check_open()
        data = content(body)
        method.encode()
        return self._asking.request(check_id(service), method, data, deadline_s)

    def history(
        self, address: str | Address, after: int = 0, limit: int = 64, *, lane: int = 0, epoch: int = 0
    ) -> Deferred[History]:
        """Read a log again, from behind `after`; changes no position. Waits for a link if there is none.

        :param epoch: which log is meant; 0: the one that is read now.
        :raises ValueError: there is no such address, or no wire can ask that.
        :raises FrameRefused: this identity may not read it.
        :raises LinkLost: the link ended first; asking again does no harm.
        """
        self._check_open()
        lane = whole("lane", lane, 1)
        log = log_of(place(address), lane)
        epoch = epoch or self._reading.epoch_of(log)
        pull = Pull(log.address, lane, epoch, after, whole("limit", limit))
        return self._asking.pull(pull).addCallback(_history, pull)

    def messages(self) -> Messages:
        """Iterate over what comes: ``async for received in client.messages()``.

        Asking for the next message takes custody of the one before. Leaving the loop does not: see `take`.
        """
        return Messages(self)

    def take(self) -> None:
        """Custody of the message that `messages` gave last, without asking for another.

        Who goes over to `on_message` with one in hand is shown no other before this.
        """
        self._reading.take()

    def next_message(self) -> Deferred[Received]:
        """What `messages` iterates over, one by one.

        :raises ConnectRefused: the gateway ended the session.
        :raises ClientError: the client was closed.
        """
        return self._reading.ask()

    # -------------------------------------------------------------------------------------------- the end

    def close(self, timeout_s: float = 5.0) -> Deferred[None]:
        """Show nothing more, wait up to `timeout_s` for the message that `on_message` has and then for
        outcomes, acknowledge what was taken, say goodbye; fires at the end.

        Publishes without outcome fail with OutcomeUnknown. With an outbox file they stay in it for the next
        run, and `kept` of the error says so; but what still waited for room in the outbox is not in it.
        A message that `on_message` still has stays as well: the next run is shown it again.

        Inside `on_message` and `on_gap` it fires at once, for the end waits for that function: `when_closed`
        tells of it. Inside is the call and its coroutine, but no callback that it adds to a Deferred. Until
        it is over the function may still publish and ask.
        """
        return self._session.leave(timeout_s)

    def when_closed(self) -> Deferred[None]:
        """Fires when the client was closed.

        :raises ConnectRefused: the gateway refused it for good.
        :raises RuntimeError: it waits for the function that asks, which closed it.
        """
        return self._session.when_over()

    def _check_open(self) -> None:
        if not self._session.is_open:
            raise self._session.error or Closed("the client was closed")


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


def _history(frame: Deliver, pull: Pull) -> History:
    # Of another log than was meant all is new, wherever in that one we were.
    after = pull.after if pull.epoch in (0, frame.epoch) else frame.after
    messages = tuple(
        Received(frame.address, frame.lane, frame.epoch, entry.seq, decode_message(entry.message))
        for entry in frame.entries
        if entry.seq > after  # a ring answers with a whole block
    )
    after = max(after, frame.after)
    return History(frame.address, frame.lane, frame.epoch, after, frame.upto, messages, frame.gap, frame.head)


def _stores(outbox: str | None, state: str | None) -> tuple[ClientStore | None, ClientStore | None]:
    """The two files, which may be one."""
    outbox_file = ClientStore(outbox) if outbox else None
    if not state:
        return outbox_file, None
    if outbox and realpath(outbox) == realpath(state):
        return outbox_file, outbox_file
    try:
        return outbox_file, ClientStore(state)
    except StoreError:
        if outbox_file is not None:
            outbox_file.close()
        raise


def default_backoff() -> RetryPolicy:
    """0.5 s, doubled up to 30 s, each drawn from the upper half of its step."""
    return backoff(random_module.Random().random)


async def connect(url: str | Sequence[str] = (), **options: Any) -> Client:
    """A client that is logged in.

    :param url: ``tcp://``, ``tls://``, ``unix://``, ``ws://``, ``wss://`` or ``udp://``; several are tried
        in turn. With a router: where to go when no router answers.
    :param router: a router's URL, ``https://router.example.org``, or several of the same cluster: it is asked
        where to connect at first, when no place that it named can be reached, and when a node sends us away
        without saying where to. If it is ``https://``, places without encryption are not used.
    :param region: where we are, for the router: nodes of this region come first.
    :param token: a JWT, or a function that returns one or something to await for it. A function is asked
        again when the
        token ran out, and before it runs out on a living link.
    :param device: empty: the one that the files belong to, else the one that the token names.
    :param platform: such as ``ios``; the gateway's login policy may look at it.
    :param on_message: called with each Received. If it returns something to await, the next message waits for
        that; only then
        is this one acknowledged. What it raises is logged, and the message counts as taken. None: see
        `Client.messages`.
    :param on_gap: called with each Gap, in its place among the messages.
    :param on_outcome: called with (Publish, outcomes or error) for what an earlier run left in the outbox
        file.
    :param start: where a device that has no position yet begins to read.
    :param protocol: a protocol's name, or an IProtocolAdapter.
    :param outbox: a file that keeps publishes until their outcome is known. Without it they are in memory.
    :param state: a file that keeps how far the application has got; may be the same.
    :param outbox_messages: without final word at most; publishes beyond wait for room.
    :param wait: keep trying when the first attempt fails, for as long as the gateway does not refuse for
        good.
    :param backoff: attempt → seconds; by default what the router says, or 0.5 s doubled up to 30 s. The
        latter is also used where it raises.
    :param tls: a Twisted connection creator for ``tls://`` and ``wss://``, or a function from a host to one,
        as a router and the nodes that it names have each their own; None: the platform's trust.
    :param transport: an ITransportAdapter to use whatever the URL says. With a router also the name of one:
        ``tcp``, ``websocket`` or ``udp``; by default whichever the nodes have. ``udp`` wants the UDP key with
        the token.
    :param compressions: what the gateway may compress with; empty: nothing.
    :param reactor: by default the one that is installed. Its `seconds` are the clock for everything; those of
        Twisted are the wall clock's unless the program sets others.
    :raises ConnectRefused: the gateway turned the login down for good.
    :raises LinkLost: (without ``wait``) no URL led to a Welcome.
    :raises StoreError: a file is in use or broken, or belongs to another session.
    """
    client = Client(url, **options)
    await client.start()
    return client
