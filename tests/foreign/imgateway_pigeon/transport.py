"""``pigeon``: TCP, but each bit is turned round on the way. Nothing of the house is in it but interfaces."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import LinkLost
from imgateway.interfaces import IConnection, IListener, ITransportAdapter

TURNED = bytes(255 - byte for byte in range(256))


@implementer(IConnection)
class Pigeon(Protocol):
    carrier = "pigeon"
    source = ""
    secure = False
    stream = True
    max_message_bytes = 0
    max_send_bytes = 0
    receiver: Any = None

    def __init__(self, accept: Any, wire: Any) -> None:
        self._accept, self._wire = accept, wire

    @property
    def peer(self) -> str:
        there = self.transport.getPeer()
        return f"{there.host}:{there.port}"

    def connectionMade(self) -> None:
        self.receiver = self._accept(self)
        if self.receiver is None:
            self.abort()
        else:
            self.receiver.opened(self._wire)

    def dataReceived(self, data: bytes) -> None:
        self.receiver.received(data.translate(TURNED))

    def connectionLost(self, reason: Any = None) -> None:
        if self.receiver is not None:
            self.receiver.lost(reason.getErrorMessage())

    def send(self, data: bytes, order: Any = None) -> None:
        self.transport.write(data.translate(TURNED))

    def unsent(self) -> int:
        return 0

    def is_behind(self) -> bool:
        return False

    def unacked(self) -> int | None:
        return None

    def has_left(self) -> bool:
        return False

    def proven(self) -> None: ...

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def close(self, code: int, flush_s: float = 2.0) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()


@implementer(IListener)
class Loft:
    def __init__(self, port: Any) -> None:
        self._port = port
        self.port = port.getHost().port
        self.address = f"pigeon:{self.port}"

    def pause(self) -> None:
        self._port.pauseProducing()

    def resume(self) -> None:
        self._port.resumeProducing()

    def stop(self) -> Deferred[None]:
        return self._port.stopListening()


@implementer(IPlugin, ITransportAdapter)
class PigeonTransport:
    name = "pigeon"
    schemes = ("pigeon",)

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        factory = Factory.forProtocol(lambda: Pigeon(accept, wires[0]))
        server = TCP4ServerEndpoint(reactor, int(endpoint), interface="127.0.0.1")
        return server.listen(factory).addCallback(Loft)

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        return fail(LinkLost("a pigeon only flies home"))
