"""The client's end: a socket for one connection.

The socket is not connected, as the system calls it: it would be told when nobody listens, and Twisted's epoll
reactor closes a socket that is told so, while a gateway that is restarted refuses for a second what it takes
in the next. So anybody may send to it, and only what shows a secret of this connection counts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from imgateway.errors import CloseCode, LinkLost

from .connection import DatagramConnection
from .flow import Flow
from .greeting import Accepted, ClientGreeting
from .messages import MalformedDatagram, Note, ResetToken, data_head, padding
from .packets import (
    CID_BYTES,
    CLEAR_BYTES,
    FIRST_RESERVED,
    HELLO_ROOM,
    LONGEST,
    Accept,
    Reason,
    Refused,
    Reset,
    Retry,
    parse,
)
from .path import Place, packed
from .port import MAX_PACKET_SIZE, Port
from .seal import same

__all__ = ("ClientConnection", "DatagramClient")

EARLY = 4
"""Datagrams that are kept while the ACCEPT that they overtook is on its way."""

SIGN_BYTES = 16
"""That say nothing, so that the gateway asks where we are; it asks with no more than came."""

NO_CID = b"\xff" * CID_BYTES
"""Before the ACCEPT; no datagram has it."""

REFUSALS = {
    Reason.VERSION: "the gateway speaks another version of its UDP; one of the two must be updated",
    Reason.UNSEALED: "the gateway takes sealed datagrams only: log in with a token that has a UDP key, "
    "as imgateway token USER --udp makes it",
    Reason.KEY: "the gateway does not know the UDP key of this token: the key is of another gateway, "
    "or of another UDP secret",
}


class ClientConnection(DatagramConnection):
    """Until the gateway accepts, what is sent waits; the first message goes with the greeting."""

    __slots__ = ("_token", "_waiting")

    max_first_bytes = HELLO_ROOM - len(data_head(0, 0, 0, HELLO_ROOM))
    """The first message goes with the HELLO, in one datagram."""

    flow_kind: type[Flow] = Flow

    def __init__(self, port: DatagramClient, place: Place) -> None:
        super().__init__(port, NO_CID, b"", place, Flow(port.max_resends))
        self._waiting: list[tuple[bytes, Hashable | None]] | None = []
        self._token = b""

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        if self._waiting is None:
            super().send(data, order)
            return
        self._waiting.append((data, order))
        if len(self._waiting) == 1:
            port: Any = self._port
            port.greet(data)

    def unsent(self) -> int:
        return super().unsent() if self._waiting is None else sum(len(data) for data, _ in self._waiting)

    def unacked(self) -> int | None:
        return super().unacked() if self._waiting is None else self.unsent()

    def close(self, code: int, flush_s: float = 2.0) -> None:
        if self._waiting is None:
            super().close(code, flush_s)
        else:
            self.fail(f"closed with code {int(code)}")

    def abort(self) -> None:
        if self._waiting is None:
            super().abort()
        else:
            self.fail("aborted")

    def flush(self) -> None:
        if self._waiting is None:
            super().flush()

    def _wake(self) -> None:
        if self._waiting is None:
            super()._wake()
        else:
            port: Any = self._port
            port.repeat()

    # ------------------------------------------------------------------------------------ what its port calls

    def accepted(self, accepted: Accepted, sent_at: float, is_elsewhere: bool) -> None:
        """The gateway's ACCEPT, to the HELLO that was first sent at `sent_at`.

        :param is_elsewhere: it may have been sent from another place, and what the gateway says goes there.
        :raises MalformedDatagram: what is in it.
        """
        port = self._port
        # The HELLO was datagram 0 of this flow, whichever of its repetitions arrived.
        flow = self.flow_kind(port.max_resends)
        waiting = self._waiting
        assert waiting
        flow.send(*waiting[0])
        for _ in flow.datagrams(sent_at):
            pass
        for data, order in waiting[1:]:
            flow.send(data, order)
        if self._traffic.is_paused and not self._traffic.is_resuming:
            flow.pause()
        messages = flow.receive(accepted.number, accepted.payload, port.now())
        self._flow = flow
        self._waiting = None
        self._kept = accepted.cid + accepted.keys.to_client + accepted.keys.to_server + packed(self.place)
        for note in flow.notes or ():
            if isinstance(note, ResetToken):
                self._token = note.token
        flow.notes = None
        if is_elsewhere:
            flow.say(padding(SIGN_BYTES))
            port.collector.add(self)
        self.begin(messages)

    def fail(self, reason: str) -> None:
        """It is over without a word to the gateway."""
        self._waiting = None
        self._end(None, reason, CloseCode.LOST)

    def reset(self, token: bytes) -> None:
        """Somebody says that the gateway does not know us any more."""
        if self._token and same(token, self._token):
            self._end(None, "the gateway does not know this connection any more", CloseCode.LOST)

    def arm(self, due: float) -> None:
        """Wake us at `due`, for the greeting."""
        if due < self._armed:
            self._armed = due
            self._port.wakeups.arm(due, self)

    def _noted(self, notes: list[Note], address: bytes | None, size: int) -> None:
        self._answer(notes, size)


class DatagramClient(Port):
    """:param place: of the gateway, resolved.

    :param url: what it was called, for people.
    :param udp: (key id, UDP key) of the token; None: nothing is sealed.

    :param kind: what the connection is.
    """

    def __init__(
        self,
        reactor: Any,
        place: Place,
        url: str,
        wire: Any,
        udp: tuple[bytes, bytes] | None,
        random: Callable[[int], bytes],
        timeout_s: float,
        kind: type[ClientConnection] = ClientConnection,
    ) -> None:
        super().__init__(reactor, wire.carriage.max_frame_bytes, 0)
        self.connection = kind(self, place)
        self._place = place
        self._url = url
        self._key_id, self._udp_key = udp or (b"", b"")
        self._random = random
        self._timeout_s = timeout_s
        self._timeout: Any = None
        self._greeting: ClientGreeting | None = None
        self._early: list[bytes] = []
        self._over = False
        self._hint = "is it there, and its UDP port open to us?"

    # ------------------------------------------------------------------------------------ what Twisted calls

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        connection, greeting = self.connection, self._greeting
        if datagram and datagram[0] < FIRST_RESERVED:
            if not CLEAR_BYTES < len(datagram) <= LONGEST:
                return
            if greeting is None:
                if datagram[:CID_BYTES] == connection.cid:
                    connection.datagram(datagram, None)
            elif len(self._early) < EARLY:
                self._early.append(datagram)
            return
        packet = parse(datagram)
        if isinstance(packet, Reset):
            if packet.cid == connection.cid:
                connection.reset(packet.token)
        elif greeting is None:
            pass
        elif isinstance(packet, Retry):
            greeting.retried(packet, self.now())
            self._hint = "it asked where we are, and then no more"
            self.repeat()
        elif isinstance(packet, Accept):
            self._accept(greeting, packet)
        elif isinstance(packet, Refused) and packet.hello_id == greeting.hello_id:
            connection.fail(REFUSALS.get(packet.reason, f"refused for reason {packet.reason}"))

    # ----------------------------------------------------------------------------- what the connection calls

    def greet(self, first: bytes) -> None:
        """Ask the gateway for a connection; `first` is the message that goes with it."""
        payload = data_head(0, 0, 0, len(first)) + first
        if len(payload) > HELLO_ROOM:
            self.connection.fail(
                f"the greeting has {len(payload)} bytes, and over UDP at most {HELLO_ROOM}: "
                "take a shorter token, or one of the other transports"
            )
            return
        self._greeting = ClientGreeting(self._key_id, self._udp_key, self._random(32), payload)
        self._timeout = self.reactor.callLater(self._timeout_s, self._late)
        self.repeat()

    def repeat(self) -> None:
        """Send the HELLO if it is due."""
        greeting, now = self._greeting, self.now()
        assert greeting is not None
        if now >= greeting.due:
            self.write(greeting.datagram(now), self._place)
        self.connection.arm(greeting.due)

    def listen(self) -> None:
        """Open a socket, on any port. :raises LinkLost: there is none."""
        host = "::" if ":" in self._place[0] else ""
        try:
            self.reactor.listenUDP(0, self, host, MAX_PACKET_SIZE)
        except (CannotListenError, OSError) as error:
            raise LinkLost(f"cannot open a socket for {self._url}: {error}") from None

    def rebind(self) -> Deferred[None]:
        """Go on from another port; in between what comes is lost, as it is when a NAT forgets."""
        return self._leave().addCallback(lambda _: None if self._over else self.listen())

    def forget(self, connection: Any) -> None:
        self._over = True
        self._settled()
        self.wakeups.stop()
        self._leave()

    # ----------------------------------------------------------------------------------------- the greeting

    def _accept(self, greeting: ClientGreeting, packet: Accept) -> None:
        accepted = greeting.accepted(packet)
        if accepted is None:
            return
        self._settled()
        try:
            self.connection.accepted(accepted, greeting.sent_at, greeting.is_elsewhere)
        except MalformedDatagram as error:
            self.connection.fail(f"the gateway's greeting is wrong: {error}")
        early, self._early = self._early, []
        for datagram in early:
            self.datagramReceived(datagram, None)

    def _settled(self) -> None:
        """The greeting is over, one way or the other."""
        self._greeting = None
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        self._timeout = None

    def _late(self) -> None:
        self.connection.fail(f"no answer from {self._url} within {self._timeout_s:g} s: {self._hint}")
