"""A UDP listener without sockets, and devices that are pure: they hold every byte that they send in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import count
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from imgateway.testing.wires import BareWire, Recorder
from imgateway.transports.datagram.flow import Flow
from imgateway.transports.datagram.greeting import Accepted, ClientGreeting, ServerGreeting
from imgateway.transports.datagram.messages import Note, data_head
from imgateway.transports.datagram.packets import Accept, Refused, Reset, Retry, parse
from imgateway.transports.datagram.path import Place
from imgateway.transports.datagram.seal import open_sealed, seal
from imgateway.transports.datagram.server import DatagramServer

KEY_ID = b"i" * 16
UDP_KEY = b"k" * 16
RESET_KEY = b"r" * 32
HOME = ("192.0.2.7", 4000)


def dice(seed: int = 0) -> Callable[[int], bytes]:
    """n → n bytes, the same for a seed."""
    numbers = count()
    return lambda size: sha256(f"{seed}/{next(numbers)}".encode()).digest()[:size]


class FakeTransport:
    """Writes down what is sent; `fails`: raises that instead."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Place]] = []
        self.stopped = False
        self.fails: Exception | None = None

    def write(self, data: bytes, place: Place) -> None:
        if self.fails is not None:
            raise self.fails
        self.sent.append((data, place))

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", "127.0.0.1", 7901)

    def stopListening(self) -> None:
        self.stopped = True


class House:
    """A listener. `refuses`: accept gives None. `on_received`: of every receiver, with its connection."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.receivers: list[Recorder] = []
        self.refuses = False
        self.on_received: Callable[[Any, bytes], Any] | None = None
        self.transport = FakeTransport()
        key_of = options.pop("key_of", lambda key_id: UDP_KEY)
        greeting = ServerGreeting(key_of, options.pop("unsealed", False), b"c" * 32)
        wire = options.pop("wire", None) or BareWire()
        reset_key = options.pop("reset_key", RESET_KEY)
        self.server: Any = DatagramServer(
            self.clock, wire, self._accept, greeting, reset_key, dice(seed), **options
        )
        self.server.makeConnection(self.transport)

    def _accept(self, connection: Any) -> Recorder | None:
        if self.refuses:
            return None
        receiver = Recorder()
        receiver.connection = connection
        receiver.on_received = lambda data: self.on_received and self.on_received(connection, data)
        self.receivers.append(receiver)
        return receiver

    @property
    def connections(self) -> list[Any]:
        return list(self.server._connections)

    def put(self, data: bytes, place: Place = HOME) -> list[tuple[bytes, Place]]:
        """A datagram comes in; what goes out by the end of the turn."""
        self.server.datagramReceived(data, place)
        self.clock.advance(0)
        return self.taken()

    def taken(self) -> list[tuple[bytes, Place]]:
        sent, self.transport.sent = self.transport.sent, []
        return sent

    def pass_time(self, seconds: float) -> list[tuple[bytes, Place]]:
        """In ticks, as a reactor's clock goes."""
        for _ in range(int(seconds * 64)):
            self.clock.advance(1 / 64)
        return self.taken()


class Device:
    """A client in pure parts. `met`: what came that is not a message."""

    def __init__(self, house: House, place: Place = HOME, seed: int = 1, key: bytes = UDP_KEY) -> None:
        self.house = house
        self.place = place
        self.key = key
        self.first = b"hello"
        payload = data_head(0, 0, 0, len(self.first)) + self.first
        self.greeting = ClientGreeting(KEY_ID, key, dice(seed)(32), payload)
        self.accepted: Accepted | None = None
        self.flow = Flow()
        self.received: list[bytes] = []
        self.met: list[Any] = []
        self.notes: list[Note] = []

    def login(self) -> Device:
        """HELLO, RETRY, HELLO, ACCEPT."""
        while self.accepted is None:
            before = len(self.met)
            self.hear(self.house.put(self.hello(), self.place))
            assert len(self.met) > before, "no answer"
            assert not isinstance(self.met[-1], Refused), self.met[-1]
        return self

    def hello(self) -> bytes:
        return self.greeting.datagram(self.house.clock.seconds())

    def hear(self, sent: list[tuple[bytes, Place]]) -> Device:
        """What came to us, of all that the house sent."""
        for data, place in sent:
            if place != self.place:
                continue
            if data[0] < 0xF0:
                cid, number, sealed = data[:8], int.from_bytes(data[8:12]), data[12:]
                assert self.accepted is not None
                assert cid == self.accepted.cid
                self._take(number, open_sealed(self.accepted.keys.to_client, number, data[:12], sealed))
                continue
            packet = parse(data)
            self.met.append(packet)
            if isinstance(packet, Retry):
                self.greeting.retried(packet, 0.0)
            elif isinstance(packet, Accept) and self.accepted is None:
                self.accepted = self.greeting.accepted(packet)
                assert self.accepted is not None
                now = self.house.clock.seconds()
                self.flow.send(self.first)
                assert [number for number, _ in self.flow.datagrams(now)] == [0]
                self._take(self.accepted.number, self.accepted.payload)
        return self

    def _take(self, number: int, payload: bytes) -> None:
        if not self.flow.seen(number):
            self.received += self.flow.receive(number, payload, self.house.clock.seconds())
            self.notes += self.flow.notes or ()
            self.flow.notes = None

    def sealed(self, number: int, payload: bytes) -> bytes:
        """A datagram of ours with any content."""
        assert self.accepted is not None
        clear = self.accepted.cid + number.to_bytes(4)
        return clear + seal(self.accepted.keys.to_server, number, clear, payload)

    def saying(self, message: bytes) -> bytes:
        """A datagram with this inside alone."""
        return self.sealed(self.flow.next_number(), message)

    def datagrams(self, *messages: bytes) -> list[bytes]:
        """What our flow wants to send now, with these messages added."""
        for message in messages:
            self.flow.send(message)
        return [self.sealed(*one) for one in self.flow.datagrams(self.house.clock.seconds())]

    def send(self, *messages: bytes, place: Place | None = None) -> Device:
        """Send, from another place if one is given, and hear what comes back to our own."""
        for one in self.datagrams(*messages):
            self.hear(self.house.put(one, place or self.place))
        return self


def snapshot(thing: Any, seen: set[int] | None = None) -> Any:
    """Everything that an object of the datagram layer holds, as values that can be compared."""
    if thing is None or isinstance(thing, str | bytes | int | float | bool):
        return thing
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return "again"
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        return {repr(key): snapshot(value, seen) for key, value in thing.items()}
    if isinstance(thing, list | tuple | set | frozenset):
        return [type(thing).__name__, *(snapshot(one, seen) for one in thing)]
    if isinstance(thing, Recorder):
        return [*thing.chunks, *thing.events]
    if not type(thing).__module__.startswith("imgateway.transports.datagram"):
        return thing if type(thing).__module__ in ("collections", "array") else type(thing).__name__
    return {name: snapshot(getattr(thing, name, None), seen) for name in _names(thing)}


# What time changes, and the limit on RESETs, which has tests of its own.
FLEETING = {"_turned_at", "_reset_to", "_reset_second"}


def _names(thing: Any) -> Iterator[str]:
    names = set(vars(thing) if hasattr(thing, "__dict__") else ())
    for kind in type(thing).__mro__:
        names |= set(kind.__dict__.get("__slots__", ()))
    yield from sorted(names - FLEETING)


def state(house: House) -> Any:
    """What must not change: the listener with all its connections, and what their receivers were told."""
    return snapshot([house.server, house.receivers])


__all__ = ("HOME", "Accept", "Device", "House", "Refused", "Reset", "Retry", "dice", "snapshot", "state")
