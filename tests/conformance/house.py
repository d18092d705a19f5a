"""A whole node in memory: the real node, transports and broker, without sockets and threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.auth.policy import DefaultPolicy
from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import Settings
from imgateway.errors import CloseCode, LinkLost, LoginRefused
from imgateway.frames import (
    DURABLE_KINDS,
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Message,
    Publish,
    PublishAck,
    Resumed,
    ResumePoint,
    Welcome,
    parse_address,
)
from imgateway.interfaces import IAuthenticator, Identity, IReceiver
from imgateway.node.service import Node
from imgateway.tap.doors import door
from imgateway.testing.conditions import LinkConditions
from imgateway.testing.disk import Steps
from imgateway.testing.network import Network
from imgateway.transports.datagram.client import DatagramClient
from imgateway.transports.datagram.connection import DatagramConnection
from imgateway.wire.messages import decode_message

from .wires import LISTEN, LISTENING, Wire

__all__ = ("Client", "House", "Names", "settings")

F = TypeVar("F")
START_MS = 1_700_000_000_000
ACK_S = 0.05
"""Within this time every datagram is acknowledged."""


@implementer(IAuthenticator)
class Names:
    """The token is the user's name: ``bob``, ``bob/phone`` pins the device, ``!bob`` is a service,
    ``bob@60`` ends after 60 s, ``bob+news+sport`` names two topics. ``bad`` is nobody's.
    """

    name = "names"

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds

    def authenticate(self, hello: Hello, peer: str) -> Identity:
        name, _, lifetime = hello.token.partition("@")
        name, *topics = name.split("+")
        user, _, device = name.removeprefix("!").partition("/")
        if user == "bad":
            raise LoginRefused("the token is not valid")
        if lifetime == "0":
            raise LoginRefused("the token has expired", CloseCode.TOKEN_EXPIRED)
        now = int(self._seconds())
        ends = now + int(lifetime) if lifetime else 0
        return Identity(user, device, name[0] == "!", now, ends, {"topics": topics})

    def read(self) -> Callable[[], None]:
        return lambda: None


def settings(**changes: dict[str, Any]) -> Settings:
    """The defaults, without quotas, and these changes: ``limits={"publish_window": 2}``."""
    base = {"quota": {"publish_rate": 0.0, "pair_rate": 0.0, "publish_bytes_rate": 0.0}}
    result = Settings()
    for section in {**base, **changes}:
        fields = {**base.get(section, {}), **changes.get(section, {})}
        result = replace(result, **{section: replace(getattr(result, section), **fields)})
    return result


class House:
    """One node that listens for every wire, and its clients.

    :param chunk: as `Network`'s: 1 carries everything byte by byte.
    """

    def __init__(
        self,
        config: Settings | None = None,
        chunk: int = 0,
        capacity: int = 262_144,
        backends: Sequence[Any] = (),
        interceptors: Sequence[Any] = (),
        listeners: Sequence[Any] = (),
    ) -> None:
        self.network = Network(chunk, capacity)
        self.network.datagrams.conditions = lambda *ends: LinkConditions()
        self.steps = Steps()
        self.health: dict[str, tuple[bool, str]] = {}
        config = config or settings()
        random = Random(5)
        self.broker = self.make_broker(
            settings=config.broker,
            retention=config.retention,
            rooms=config.rooms,
            max_devices=config.session.max_devices,
            now_ms=self.wall_ms,
            entropy=random.randbytes,
            random=random.random,
        )
        self.node = Node(
            replace(config, node=replace(config.node, name="n")),
            self.broker,
            Names(lambda: self.wall_ms() / 1000),
            DefaultPolicy(),
            self.network,  # type: ignore[arg-type]
            self.wall_ms,
            random.random,
            "n.1",
            doors=[door(text, self.network, LISTENING) for text in LISTEN],
            backends=backends,
            interceptors=interceptors,
            listeners=listeners,
            health=self._healthy,
        )
        self.result(self.node.start())

    def make_broker(self, **arguments: Any) -> Any:
        return EmbeddedBroker(reactor=self.network, lane=self.steps, **arguments)

    def _healthy(self, part: str, ok: bool, why: str) -> None:
        self.health[part] = (ok, why)

    def wall_ms(self) -> int:
        return START_MS + int(self.network.seconds() * 1000)

    # --------------------------------------------------------------------------------------------- time

    def settle(self) -> None:
        """Everything that can happen without time passing; the store's work included."""
        while True:
            self.carry()
            if not self.has_work():
                return
            self.work()

    def has_work(self) -> bool:
        """Has the store something to do?"""
        return bool(self.steps.choices())

    def work(self) -> None:
        """Let the store do it, and nothing else happen."""
        self.steps.run()

    def carry(self) -> None:
        """The same without the store's work."""
        self.network.settle()
        before, patience = 0, 3
        while (waiting := self._waiting()) and patience:
            patience = 3 if waiting != before else patience - 1
            before = waiting
            self.network.elapse(ACK_S)

    def _waiting(self) -> int:
        """Over UDP more than a window's bytes, and the end, wait for acknowledgements, which take a moment.
        How much does."""
        sockets = [port._protocol for port in self.network.datagrams._ports.values()]
        ours: list[Any] = [socket.connection for socket in sockets if isinstance(socket, DatagramClient)]
        ours += [link.connection for link in self.node.exchange.links if ours]
        return sum(end.is_closing + end.unsent() for end in ours if isinstance(end, DatagramConnection))

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass, in steps of a tick."""
        self.settle()
        while seconds > 0:
            self.network.advance(min(step, seconds))
            self.settle()
            seconds -= step

    def result(self, deferred: Deferred[Any]) -> Any:
        """What it fires with without time passing; raises its failure."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.settle()
        assert results, "it has not fired"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    # ------------------------------------------------------------------------------------------ clients

    def connect(self, wire: Wire) -> Client:
        """A connected client that has said nothing."""
        client = Client(self, wire)
        dialling = wire.transport.connect(wire.url, wire.adapter, client, self.network, {"timeout_s": 5})
        client.connection = self.result(dialling)
        client.link = DatagramLink(client) if wire.udp else self.network.links[-1]
        return client

    def reach(self, wire: Wire) -> Client:
        """A client that knows that somebody is there.

        :raises LinkLost: nobody is.
        """
        client = self.connect(wire)
        if wire.udp:  # only a greeting finds out
            client.say(Hello("bob", "phone"))
            self.advance(6)
            if client.gone is not None:
                raise LinkLost(client.gone)
        return client

    def login(self, wire: Wire, token: str = "bob", device: str = "phone", **hello: Any) -> Client:
        """A client with its Welcome."""
        client = self.connect(wire)
        client.send(Hello(token, device, **hello))
        client.welcome = client.take(Welcome)
        return client

    def close(self) -> None:
        """Stop the node at once, and see that nothing is left."""
        self.node.stop()
        stopped = self.node.stop()
        self.advance(3)
        self.result(stopped)
        assert not self.node.exchange.links
        assert not self.node.hub.sessions


class DatagramLink:
    """What lies between a client and the gateway over UDP, where there is no connection that could break: a
    client that is cut off has ended."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def cut(self) -> None:
        self._client.connection.abort()
        self._client.house.settle()

    def fall_silent(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        place = self._client.connection._port.transport.place
        datagrams = self._client.house.network.datagrams
        before: Any = datagrams.conditions
        silent = LinkConditions(silent=True)
        datagrams.conditions = lambda *ends: silent if place in ends else before(*ends)


@implementer(IReceiver)
class Client:
    """A client that does exactly what it is told: it neither acknowledges nor reconnects by itself."""

    def __init__(self, house: House, wire: Wire) -> None:
        self.house = house
        self.wire = wire
        self.connection: Any = None
        self.link: Any = None
        self.welcome: Any = None
        self.frames: list[Frame] = []
        """What came and was not taken."""
        self.gone: str | None = None
        self._codec: Any = None

    # ---------------------------------------------------------------------------------------- IReceiver

    def opened(self, wire: Any) -> None:
        self._codec = wire.codec(self.wire.url.startswith("tcp"), 1_048_576)

    def received(self, data: bytes) -> None:
        self.frames += self._codec.receive(data)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def lost(self, reason: str, code: int = 1) -> None:
        self.gone = reason

    # ------------------------------------------------------------------------------------------ frames

    def say(self, *frames: Frame) -> None:
        """Send, and let nothing happen yet."""
        for frame in frames:
            data = self._codec.encode(frame)
            assert data, f"unsayable: {frame}"
            self.connection.send(data)

    def send(self, *frames: Frame) -> None:
        """Send, and let everything happen."""
        self.say(*frames)
        self.house.settle()

    def raw(self, data: bytes) -> None:
        """Send bytes that no codec made, as they are."""
        self.connection.send(data)
        self.house.settle()

    def take(self, kind: type[F]) -> F:
        """The next frame, which must be of this kind."""
        self.house.settle()
        assert self.frames, f"nothing came; {kind.__name__} was expected"
        frame = self.frames.pop(0)
        assert isinstance(frame, kind), f"{frame} came; {kind.__name__} was expected"
        return frame

    def pick(self, kind: type[F]) -> F:
        """The next frame of this kind; others stay."""
        self.house.settle()
        frame = next(frame for frame in self.frames if isinstance(frame, kind))
        self.frames.remove(frame)  # type: ignore[arg-type]
        return frame

    def bye(self) -> int:
        """The code of the Bye that must be all there is; the connection is closed then."""
        code = self.take(Bye).code
        assert not self.frames
        assert self.gone is not None
        return code

    def quiet(self) -> bool:
        self.house.settle()
        return not self.frames and self.gone is None

    # -------------------------------------------------------------------------------------- what clients do

    def publish(self, to: str, msg_id: str = "1", body: bytes = b"hello", **more: Any) -> PublishAck:
        """Publish; the acknowledgement must come before anything else."""
        self.send(publication(to, msg_id, body, **more))
        return self.take(PublishAck)

    def deliveries(self) -> list[Deliver]:
        """The Delivers that are there, in order, without acknowledging; nothing else may be there."""
        self.house.settle()
        frames, self.frames = self.frames, []
        assert all(isinstance(frame, Deliver) for frame in frames), frames
        return frames  # type: ignore[return-value]

    def messages(self, ack: bool = True) -> list[Message]:
        """What was delivered, acknowledged until no more comes."""
        shown: list[Message] = []
        while found := self.deliveries():
            for frame in found:
                shown += map(message_of, frame.entries)
            last = {frame.address: frame for frame in found if frame.address.kind in DURABLE_KINDS}
            for frame in last.values() if ack else ():
                if frame.upto:
                    self.ack(frame)
        return shown

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages()]

    def ack(self, frame: Deliver) -> None:
        self.send(DeliverAck((Acked(frame.address, frame.epoch, frame.upto),)))

    def mailbox(self) -> Resumed:
        """What Welcome said of the own mailbox."""
        (resumed,) = self.welcome.resumed
        return resumed  # type: ignore[no-any-return]

    def at(self, seq: int, epoch: int = 0) -> tuple[ResumePoint, ...]:
        """Hello's resume for this user's mailbox."""
        own = self.mailbox()
        return (ResumePoint(own.address, 0, epoch or own.epoch, seq),)


def publication(to: str, msg_id: str = "1", body: bytes = b"hello", **more: Any) -> Publish:
    """`to`: addresses, separated by blanks."""
    return Publish(msg_id, tuple(map(parse_address, to.split())), more.pop("content_type", ""), body, **more)


def message_of(entry: Entry) -> Message:
    return decode_message(entry.message)


def user(name: str) -> Address:
    return Address("user", name)
