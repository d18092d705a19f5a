"""Connections without sockets, for tests of whatever stands on a transport.

Three tools, from the smallest:

- `Recorder` is a receiver that remembers; `BareWire` a protocol adapter that only has a name and a carriage.
- `connection_pair` gives two connections joined by a reliable pipe, with no transport between.
- `Network` is a reactor in memory: the real transports listen and connect on it, Twisted's own buffers
  included, with a clock that stands still. It splits what is sent into chunks of any size, down to single
  bytes, fills up like a kernel's socket buffer, and its links can be cut or fall silent.

::

    network = Network(chunk=1)
    network.result(TCPTransport().listen("tcp:7901", [wire], accept, network, {}))
    client = network.result(TCPTransport().connect("tcp://127.0.0.1:7901", wire, recorder, network, {}))
    client.send(b"hello")
    network.settle()
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import CloseCode
from imgateway.interfaces import Carriage, IConnection, IProtocolAdapter, IReceiver, Traits

from .network import End, Link, Network

__all__ = (
    "BareWire",
    "End",
    "Link",
    "MemoryConnection",
    "Network",
    "RawPeer",
    "Recorder",
    "accepting",
    "connection_pair",
    "outcome",
    "pump",
)


@implementer(IReceiver)
class Recorder:
    """Remembers everything that it is told.

    :param on_received: also called with each chunk or message, such as an echo's ``connection.send``.
    """

    def __init__(self, on_received: Callable[[bytes], Any] | None = None) -> None:
        self.on_received = on_received
        self.connection: Any = None
        """The connection, where the recorder was made by `accepting`."""
        self.wire: Any = None
        self.chunks: list[bytes] = []
        self.events: list[str] = []
        """The names of the calls, but for `received`, in order."""
        self.clogged = False
        self.code: int = CloseCode.LOST
        self.reason: str | None = None
        """What `lost` was told; None: the connection is still there."""

    @property
    def data(self) -> bytes:
        """All chunks as one."""
        return b"".join(self.chunks)

    def opened(self, wire: Any) -> None:
        self.events.append("opened")
        self.wire = wire

    def received(self, data: bytes) -> None:
        assert self.wire is not None, "received before opened"
        assert self.reason is None, "received after lost"
        self.chunks.append(data)
        if self.on_received is not None:
            self.on_received(data)

    def pause_sending(self) -> None:
        self.events.append("pause_sending")
        self.clogged = True

    def resume_sending(self) -> None:
        self.events.append("resume_sending")
        self.clogged = False

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        assert self.reason is None, "lost twice"
        self.code = code
        self.events.append("lost")
        self.reason = reason


@implementer(IProtocolAdapter)
class BareWire:
    """A wire protocol that says nothing: enough for a transport to carry it."""

    def __init__(self, name: str = "bare", carriage: Carriage | None = None) -> None:
        self.name = name
        self.carriage = carriage or Carriage()
        self.traits = Traits()

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        raise NotImplementedError


@implementer(IConnection)
class MemoryConnection:
    """One end of a reliable pipe; what was sent arrives with the next `pump`, unless the other end stopped
    reading.

    :param chunk: deliver in pieces of so many bytes (0: as sent).
    """

    carrier = "memory"
    secure = False

    def __init__(self, peer: str = "memory", stream: bool = True, chunk: int = 0, source: str = "") -> None:
        self.peer = peer
        self.source = source
        self.stream = stream
        self.chunk = chunk
        self.max_message_bytes = 0
        self.max_send_bytes = 0
        self.receiver: Any = None
        self.other: MemoryConnection | None = None
        self.sent: list[bytes] = []
        """Everything that was ever given to `send`."""
        self.reading = True
        self.closed_with: int | None = None
        self.lost = False
        self.left = False
        """What `has_left` says."""
        self._on_the_way: list[bytes] = []

    def send(self, data: bytes, order: Hashable | None = None) -> None:
        if self.closed_with is None and not self.lost:
            self.sent.append(data)
            self._on_the_way.append(data)

    def unsent(self) -> int:
        return sum(map(len, self._on_the_way))

    def is_behind(self) -> bool:
        return False

    def has_left(self) -> bool:
        return self.left

    def unacked(self) -> int | None:
        return self.unsent()

    def proven(self) -> None:
        """Nobody's answers are limited here."""

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self, code: int, flush_s: float = 2.0) -> None:
        if self.closed_with is None and not self.lost:
            self.closed_with = int(code)

    def abort(self) -> None:
        self._on_the_way.clear()
        self.lose("aborted")

    def lose(self, reason: str = "cut") -> None:
        """The connection is gone, at both ends."""
        for end in (self, self.other):
            if end is not None and not end.lost:
                end.lost = True
                if end.receiver is not None:
                    end.receiver.lost(reason)

    def _carry(self) -> bool:
        """Deliver one piece to the other end; whether there was one."""
        other = self.other
        if other is None or self.lost:
            return False
        if self._on_the_way:
            if not other.reading:
                return False
            data = self._on_the_way.pop(0)
            if self.chunk and self.stream and len(data) > self.chunk:
                self._on_the_way.insert(0, data[self.chunk :])
                data = data[: self.chunk]
            if other.closed_with is None:
                other.receiver.received(data)
            return True
        if self.closed_with is not None:
            self.lose(f"closed with code {self.closed_with}")
            return True
        return False


def connection_pair(stream: bool = True, chunk: int = 0) -> tuple[MemoryConnection, MemoryConnection]:
    """Two joined connections. Set each one's `receiver`, call its ``opened(wire)`` yourself, and `pump`."""
    one, two = MemoryConnection("one", stream, chunk), MemoryConnection("two", stream, chunk)
    one.other, two.other = two, one
    return one, two


def pump(*connections: MemoryConnection) -> None:
    """Carry what is on the way between these connections, and what that sets off, until all is quiet."""
    busy = True
    while busy:
        busy = False
        for connection in connections:
            busy = connection._carry() or busy


class RawPeer(Protocol):
    """A client that speaks bytes, for what a well-behaved one would never send.

    ``RawPeer.on(network, 7901)`` connects it.
    """

    def __init__(self) -> None:
        self.data = b""
        self.closed: Failure | None = None

    @classmethod
    def on(cls, network: Network, port: int) -> RawPeer:
        peer = cls()
        factory = ClientFactory.forProtocol(lambda: peer)
        factory.noisy = False
        network.connectTCP("127.0.0.1", port, factory)
        network.settle()
        return peer

    def send(self, data: bytes) -> None:
        """Send, and let the network carry it."""
        assert self.transport is not None
        self.transport.write(data)
        self.transport.reactor.settle()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = reason


def accepting(made: list[Recorder], echo: bool = False) -> Callable[[Any], Recorder]:
    """An `Accept` that gives every connection a `Recorder` and adds it to `made`."""

    def accept(connection: Any) -> Recorder:
        recorder = Recorder(connection.send if echo else None)
        recorder.connection = connection
        made.append(recorder)
        return recorder

    return accept


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """What a Deferred fired with: empty as long as it did not. A failure's exception stands for it."""
    results: list[Any] = []
    deferred.addCallbacks(results.append, lambda failure: results.append(failure.value))
    return results
