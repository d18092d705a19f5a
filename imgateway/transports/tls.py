"""TLS whose peer may ask for little that is not data.

A peer may ask for new keys at any time (KeyUpdate in TLS 1.3, a new handshake in 1.2). OpenSSL answers at
once, behind everything that counts what is unsent: an answer takes 25 µs and 27 bytes, which stay with us if
the peer reads nothing, and 64 KB, which is one read, hold 2,400 such requests. Who means well asks once in a
million records. So records that bring no data are counted.

How many records come is said by their heads, which are not encrypted; each that has data is given to the
protocol by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IProtocol
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import BadFrame

__all__ = ("AT_ONCE", "A_SECOND", "BoundedTLS", "bound")

AT_ONCE = 16
"""Records without data that may come at once: half a millisecond. In TLS 1.2 one may hold 300 requests, whose
answers are 9 KB."""
A_SECOND = 1.0
"""… and afterwards, as long as the answers to them leave."""
PORTION = 16
"""Records that OpenSSL is given before it is looked what they were."""
HEAD = 5
KINDS = range(20, 25)
"""Of records, as their first byte says."""


def bound(port: Any) -> None:
    """What this port accepts from now on may bring few records without data, if there is TLS on it."""
    factory = getattr(port, "factory", None)
    if isinstance(factory, TLSMemoryBIOFactory):
        factory.protocol = BoundedTLS


@implementer(IProtocol, IHandshakeListener)
class _Counted:
    """The protocol on TLS, and how many records brought it data."""

    __slots__ = ("_protocol", "records")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.records = 0

    def makeConnection(self, transport: Any) -> None:
        self._protocol.makeConnection(transport)

    def connectionMade(self) -> None:
        """Twisted's `Protocol` calls this; ours is told by makeConnection."""

    def handshakeCompleted(self) -> None:
        if IHandshakeListener.providedBy(self._protocol):
            self._protocol.handshakeCompleted()

    def dataReceived(self, data: bytes) -> None:
        self.records += 1
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        self._protocol.connectionLost(reason)


class BoundedTLS(BufferingTLSTransport):
    """One connection; who sends too many records without data is cut."""

    _head = b""  # the beginning of a record's head
    _missing = 0  # bytes of a record that has begun
    _is_lost = False  # what comes are no records
    _empty = 0.0  # records without data that still count
    _counted_since = 0.0

    def __init__(self, factory: TLSMemoryBIOFactory, wrappedProtocol: Any) -> None:
        self._counted = _Counted(wrappedProtocol)
        super().__init__(factory, self._counted)

    def dataReceived(self, data: bytes) -> None:
        if self._empty:
            self._forgive()
        for part, records in self._portions(data):
            was_greeting = not self._handshakeDone
            before = self._counted.records
            super().dataReceived(part)
            if self._lostTLSConnection or self._aborted:
                return
            if self._is_lost:
                self._cut("no TLS records")
                return
            empty = records - (self._counted.records - before)
            if empty and not was_greeting:
                if not self._empty:
                    self._counted_since = self._now()
                self._empty += empty
                if self._empty > AT_ONCE:
                    self._cut("too many TLS records without data")
                    return

    def _portions(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """What came, in pieces, and how many records end in each."""
        start = len(self._head)
        text = self._head + data if start else data
        size, at, ended = len(text), self._missing, 0
        is_begun = at > 0
        self._head, self._missing = b"", 0
        while at <= size:  # here a record ends, or the first head begins
            ended += is_begun
            if ended == PORTION:
                yield text[start:at], ended
                start, ended = at, 0
            if at + HEAD > size:
                self._head = text[at:]
                break
            # OpenSSL 3 took greetings without records too, as long ago. What is none it refuses by itself.
            self._is_lost = self._is_lost or text[at] not in KINDS
            at += HEAD + int.from_bytes(text[at + 3 : at + HEAD])
            is_begun = True
        else:
            self._missing = at - size
        if start < size:
            yield text[start:], ended

    def _forgive(self) -> None:
        """For the time that has passed, unless something is unsent: the answers may be."""
        if getattr(self.transport, "dataBuffer", b"") or getattr(self.transport, "_tempDataLen", 0):
            return
        now = self._now()
        self._empty = max(0.0, self._empty - (now - self._counted_since) * A_SECOND)
        self._counted_since = now

    def _now(self) -> float:
        return self.factory._clock.seconds()

    def _cut(self, why: str) -> None:
        self.failVerification(Failure(BadFrame(why)))
