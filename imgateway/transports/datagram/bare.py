"""Bare datagrams, for wires that are plain by nature: a peer is an address, a datagram is a frame.

Nothing is sealed, repeated, ordered or paced here; the wire's own receipts have to do. What an address is
told before it has shown a good token is little and rare, for anybody may write any sender on a datagram:
whoever wants to flood a third party through us gains nothing.

A datagram that draws its answer at once leaves nothing behind. Only one that begins a login does, and whose
login was taken stays until its link closes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from imgateway.errors import CloseCode
from imgateway.interfaces import Accept, IConnection, IListener
from imgateway.transports.places import host_port, source_of

from .path import Place, packed
from .port import Listening

__all__ = ("BareConnection", "BareServer")

log = Logger()

STRANGERS_A_SECOND = 2_000
"""Datagrams of unknown addresses that are looked at; below the rate of logins that a node takes by default,
so that a flood of them does not keep others out."""
ANSWERS_A_SECOND = 1_000
"""To addresses that have not logged in, and one a second to each."""
ANSWER_BYTES = 256
"""What such an answer may have more than its question."""


class Second:
    """What has been done in the second that is running."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = 0
        self._looked = 0
        self._answered: set[bytes] = set()

    def may_look(self) -> bool:
        """Whether one more datagram of a stranger is looked at."""
        self._turn()
        self._looked += 1
        return self._looked <= STRANGERS_A_SECOND

    def may_answer(self, address: bytes) -> bool:
        """Whether one more answer goes out, to this address."""
        self._turn()
        if address in self._answered or len(self._answered) >= ANSWERS_A_SECOND:
            return False
        self._answered.add(address)
        return True

    def _turn(self) -> None:
        second = int(self._now())
        if second != self._second:
            self._second = second
            self._looked = 0
            self._answered.clear()


@implementer(IConnection)
class BareConnection:
    """One peer. `receiver` may be replaced at any time by whoever was given this connection.

    :param place: where the peer is; it is the peer.
    :param address: the same, packed.
    """

    __slots__ = (
        "_address",
        "_is_proven",
        "_place",
        "_question",
        "_reading",
        "_server",
        "max_message_bytes",
        "receiver",
    )

    carrier = "udp"
    stream = False
    secure = False

    def __init__(self, server: BareServer, place: Place, address: bytes) -> None:
        self.receiver: Any = None
        self.max_message_bytes = 0
        self._server: BareServer | None = server  # None: it has ended
        self._place = place
        self._address = address
        self._question = 0  # bytes of the newest datagram, while it is a stranger's
        self._is_proven = False
        self._reading = True

    # ---------------------------------------------------------------------------------- what the core calls

    @property
    def peer(self) -> str:
        return host_port(*self._place)

    @property
    def source(self) -> str:
        return source_of(self._place[0])

    @property
    def max_send_bytes(self) -> int:
        return self._server.max_bytes if self._server is not None else 0

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        """One datagram, now; to a stranger only if it may be answered."""
        server = self._server
        if server is not None and (self._is_proven or self._may_answer(server, data)):
            server.write(data, self._place)

    def _may_answer(self, server: BareServer, data: bytes) -> bool:
        return len(data) <= self._question + ANSWER_BYTES and server.second.may_answer(self._address)

    def proven(self) -> None:
        """Its token is good: from now on what it is sent has no limit."""
        self._is_proven = True

    def unsent(self) -> int:
        return 0

    def unacked(self) -> int | None:
        """Nobody knows what arrived."""
        return None

    def is_behind(self) -> bool:
        return False

    def has_left(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """What comes meanwhile is lost; who wants an answer asks again."""
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def close(self, code: int, flush_s: float = 2.0) -> None:
        self._end(f"closed with code {int(code)}")

    def abort(self) -> None:
        self._end("aborted")

    # ------------------------------------------------------------------------------------ what its port calls

    @property
    def is_known(self) -> bool:
        """Its token is good, or it is being looked at."""
        return self._is_proven or not self._reading

    def datagram(self, data: bytes) -> None:
        """One frame came."""
        server = self._server
        if server is None or not self._reading or len(data) > (self.max_message_bytes or server.max_bytes):
            return
        self._question = len(data)
        try:
            self.receiver.received(data)
        except Exception:
            log.failure("a datagram could not be dealt with")
            self._end("a datagram could not be dealt with")

    def forget(self) -> None:
        """It was answered, and nothing of it need be known."""
        self._end("a stranger's datagram")

    def _end(self, reason: str) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.forget(self._address)
            server.reactor.callLater(0, self._lost, reason)

    def _lost(self, reason: str) -> None:
        receiver, self.receiver = self.receiver, None
        receiver.lost(reason, CloseCode.LOST)


@implementer(IListener)
class BareServer(Listening):
    """One socket and its peers.

    :param wire: the adapter that speaks in bare datagrams.
    :param accept: IConnection → IReceiver or None.
    """

    def __init__(self, reactor: Any, wire: Any, accept: Accept) -> None:
        super().__init__(reactor)
        self.second = Second(self.now)
        self.max_bytes: int = wire.carriage.max_frame_bytes
        self._wire = wire
        self._accept = accept
        self._peers: dict[bytes, BareConnection] = {}

    # ------------------------------------------------------------------------------------ what Twisted calls

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if not 0 < len(datagram) <= self.max_bytes:
            return
        address = packed(addr)
        known = self._peers.get(address)
        if known is not None:
            known.datagram(datagram)
        elif self._is_open and self.second.may_look():
            self._stranger(datagram, addr, address)

    def _stranger(self, datagram: bytes, addr: Place, address: bytes) -> None:
        connection = BareConnection(self, addr, address)
        connection.receiver = self._accept(connection)
        if connection.receiver is None:
            return
        self._peers[address] = connection
        connection.receiver.opened(self._wire)
        connection.datagram(datagram)
        if not connection.is_known:
            connection.forget()

    # -------------------------------------------------------------------------------- what connections call

    def forget(self, address: bytes) -> None:
        """This peer's connection has ended."""
        self._peers.pop(address, None)
        self._left()

    def _peopled(self) -> bool:
        return bool(self._peers)
