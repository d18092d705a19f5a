"""The gateway's end: one socket, its connections by cid, and silence for everybody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imgateway.interfaces import Accept as AcceptConnection
from imgateway.interfaces import IListener
from imgateway.transports.readable import AVAILABLE, readable_of

from .connection import DatagramConnection
from .flow import Flow
from .greeting import Greeted, ServerGreeting
from .messages import Answer, MalformedDatagram, Note, challenge, reset_token
from .packets import (
    CID_BYTES,
    CLEAR_BYTES,
    FIRST_RESERVED,
    LONGEST,
    RESET_BYTES,
    TAG_BYTES,
    Accept,
    Hello,
    Reset,
    parse,
)
from .path import NOWHERE, Candidate, Place, packed, unpacked
from .port import MAX_PACKET_SIZE, Listening, Port
from .reader import Reader
from .roll import Roll
from .seal import reset_token as token_of
from .seal import seal

__all__ = ("DatagramServer", "ServerConnection")

RESETS_A_SECOND = 1_000


class ServerConnection(DatagramConnection):
    """One whose peer may move; only the proven address gets what it sends."""

    __slots__ = ("_candidate",)

    def __init__(self, port: DatagramServer, cid: bytes, keys: bytes, place: Place, flow: Flow) -> None:
        super().__init__(port, cid, keys, place, flow)
        self._candidate: Candidate | None = None

    def _came_from(self, address: bytes, size: int) -> None:
        candidate = self._candidate
        if address == self._address:
            if candidate is not None and candidate.address != NOWHERE:
                # The peer is back: what it answers from elsewhere would come too late.
                self._candidate = Candidate(NOWHERE, b"", candidate.not_before)
            return
        port: Any = self._port
        if candidate is None or candidate.address != address:
            not_before = candidate.not_before if candidate is not None else 0.0
            candidate = self._candidate = Candidate(address, port.random(8), not_before)
        candidate.came(size)
        question = challenge(candidate.nonce)
        if candidate.challenges(CLEAR_BYTES + len(question) + TAG_BYTES, port.now()):
            # A datagram of its own: nothing else goes where nobody has answered yet.
            self._write(self._flow.next_number(), question, unpacked(address))

    def _noted(self, notes: list[Note], address: bytes | None, size: int) -> None:
        for note in notes:
            candidate = self._candidate
            if candidate is None or address is None or not isinstance(note, Answer):
                continue
            if candidate.proven(note.nonce, address):
                self._candidate = None
                self._kept = self._own[: -len(self._address)] + address  # awake, it has no more
                self._flow.moved()
        if address == self._address:  # as much may go there as comes from there
            self._answer(notes, size)


@implementer(IListener)
class DatagramServer(Listening, Port):
    """:param accept: IConnection → IReceiver or None; asked once the client has proven its address and key.

    :param reset_key: makes the tokens of RESETs, with our address; from a secret that outlives the process.
    :param random: n → n random bytes.
    """

    def __init__(
        self,
        reactor: Any,
        wire: Any,
        accept: AcceptConnection,
        greeting: ServerGreeting,
        reset_key: bytes,
        random: Callable[[int], bytes],
        max_resends: int = 0,
    ) -> None:
        super().__init__(reactor, wire.carriage.max_frame_bytes, max_resends)
        self.random = random
        self._wire = wire
        self._accept = accept
        self._greeting = greeting
        self._reset_key = reset_key
        self._connections = Roll(random)
        self._reset_second = 0
        self._reset_to: set[bytes] = set()

    # ------------------------------------------------------------------------------------ what Twisted calls

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        size = len(datagram)
        if not CLEAR_BYTES < size <= LONGEST:
            return
        if datagram[0] < FIRST_RESERVED:
            connection = self._connections.get(datagram[:CID_BYTES])
            if connection is not None:
                connection.datagram(datagram, packed(addr))
            elif size > RESET_BYTES:
                self._reset(datagram[:CID_BYTES], addr)
        elif self._is_open:
            packet = parse(datagram)
            if isinstance(packet, Hello):
                self._greet(packet, addr)

    # ------------------------------------------------------------------------------------------- connections

    def forget(self, connection: Any) -> None:
        self._connections.leave(connection)
        self._left()

    def _peopled(self) -> bool:
        return bool(self._connections)

    def read(self) -> None:
        """From now on read the socket ourselves, where there is one and the system lets us."""
        handle = getattr(self.transport, "socket", None)
        if handle is not None and AVAILABLE:
            transport: Any = self.transport
            transport.stopReading()
            self.reader = Reader(handle, MAX_PACKET_SIZE, self.datagramReceived, transport, self.now)
            readable_of(self.reactor).add(self.reader)

    def _leave(self) -> Deferred[None]:
        self.wakeups.stop()
        if self.reader is not None:
            readable_of(self.reactor).remove(self.reader)
            self.reader = None
        return super()._leave()

    def _greet(self, hello: Hello, addr: Place) -> None:
        found = self._greeting.greet(hello, packed(addr), self.now())
        if isinstance(found, bytes):
            self.write(found, addr)
        else:
            self._welcome(found, addr)

    def _welcome(self, greeted: Greeted, addr: Place) -> None:
        cid = self._connections.fresh()
        agreed = self._greeting.agree(greeted, cid, self.random(32))
        if agreed is None:
            return
        public, keys = agreed
        now = self.now()
        flow = Flow(self.max_resends)
        try:
            messages = flow.receive(0, greeted.payload, now)
        except MalformedDatagram:
            return
        if not messages:
            return
        both = keys.to_server + keys.to_client
        connection = ServerConnection(self, cid, both, addr, flow)
        connection.receiver = self._accept(connection)
        if connection.receiver is None:
            return
        flow.notes = None
        flow.say(reset_token(token_of(self._reset_key, self.address, cid)))
        ((number, payload),) = flow.datagrams(now)
        accept = Accept(greeted.hello.hello_id, cid, public, number)
        clear = accept.head()
        answer = clear + seal(keys.to_client, number, clear, payload)
        self._greeting.remember(greeted.hello, answer)
        self._connections.put(connection)
        self.write(answer, addr)
        connection.receiver.opened(self._wire)
        connection.begin(messages)

    def _reset(self, cid: bytes, addr: Place) -> None:
        """Somebody goes on with a connection that is not there: after a restart, or a goodbye unheard."""
        second = int(self.now())
        if second != self._reset_second:
            self._reset_second = second
            self._reset_to.clear()
        address = packed(addr)
        if address not in self._reset_to and len(self._reset_to) < RESETS_A_SECOND:
            self._reset_to.add(address)
            self.write(Reset(cid, token_of(self._reset_key, self.address, cid)).built(), addr)
