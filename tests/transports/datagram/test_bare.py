"""Bare datagrams: peers that are addresses, strangers that are told little, floods that leave nothing."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.core.handshake import LinkState
from imgateway.errors import BadFrame, CloseCode, LoginRefused, OperatorError
from imgateway.frames import Bye, Frame, Hello, Ping, Pong, Welcome
from imgateway.interfaces import Carriage, ICodec, IConnection, IListener, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.testing.network import Network
from imgateway.transports.datagram.bare import (
    ANSWER_BYTES,
    ANSWERS_A_SECOND,
    STRANGERS_A_SECOND,
    BareConnection,
    BareServer,
)
from imgateway.transports.udp import UDPTransport
from tests.node.rig import Rig

ALICE, BOB, EVE = ("192.0.2.1", 1001), ("192.0.2.2", 1002), ("198.51.100.9", 9)


@implementer(ICodec)
class WordCodec(PlainCodec):
    wire = "words"
    silence_s = 10.0

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        verb, _, rest = data.partition(b" ")
        if verb == b"login":
            yield Hello(rest.decode())
        elif verb == b"ping":
            yield Ping()
        elif verb == b"echo":
            yield rest
        elif verb == b"bye":
            yield Bye(0)
        else:
            raise BadFrame("no such verb")

    def encode(self, frame: Frame) -> bytes | None:
        if isinstance(frame, Bye):
            return {CloseCode.KICKED: b"kicked", CloseCode.BAD_TOKEN: b"refused"}.get(
                CloseCode(frame.code), b""
            )
        return {Welcome: b"welcome", Pong: b"pong"}.get(type(frame), b"")


@implementer(IPlugin, IProtocolAdapter)
class Words:
    """Words in bare datagrams of at most 300 bytes; over another transport it is not spoken."""

    name = "words"
    carriage = Carriage(max_frame_bytes=300)
    traits = Traits(acks=False, pings=False)

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        codec: ICodec = WordCodec()
        return codec


class Wire:
    """The adapter that a listener names."""

    name = "words"
    carriage = Carriage(bare=Words())
    traits = Traits()


class FakePort:
    """Keeps what is sent; bytes only, as it may be very much."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, bytes]] = []
        self.ends = 0

    def write(self, data: bytes, place: Any) -> None:
        self.sent.append((place, data))

    def stopListening(self) -> None:
        self.ends += 1


class House:
    """A node behind a bare socket."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.server = BareServer(self.rig.clock, Words(), self.rig.node.exchange.accept)
        self.port = FakePort()
        self.server.transport = self.port  # type: ignore[assignment]

    def put(self, place: Any, data: bytes) -> list[bytes]:
        """One datagram comes; what goes back to that place."""
        before = len(self.port.sent)
        self.server.datagramReceived(data, place)
        self.rig.settle()
        return [data for to, data in self.port.sent[before:] if to == place]

    def login(self, place: Any, user: str) -> None:
        assert self.put(place, b"login " + user.encode()) == [b"welcome"]


def test_what_it_provides() -> None:
    house = House()
    assert verifyObject(IListener, house.server)
    assert verifyObject(IConnection, BareConnection(house.server, ALICE, b""))


def test_a_login_a_word_and_a_goodbye() -> None:
    house = House()
    house.login(ALICE, "alice")
    link = house.rig.session("alice", "words").link
    assert (link.connection.peer, link.connection.source) == ("192.0.2.1:1001", "192.0.2.1")
    assert not link.connection.secure
    assert house.put(ALICE, b"ping") == [b"pong"]
    assert house.put(ALICE, b"bye") == []
    assert house.server._peers == {}
    assert link.state is LinkState.CLOSED
    assert house.rig.gate.waiting == 0


def test_a_peer_is_an_address() -> None:
    house = House()
    house.login(ALICE, "alice")
    house.login(BOB, "bob")
    assert house.put((ALICE[0], 1009), b"ping") == []  # another port is another peer, who has not logged in
    assert house.put(ALICE, b"ping") == [b"pong"]


def test_a_strangers_datagram_leaves_nothing_behind() -> None:
    house = House()
    assert house.put(EVE, b"echo hello") == [b"hello"]
    assert house.server._peers == {}
    assert house.rig.gate.waiting == 0
    assert not house.rig.node.exchange.links


def test_a_login_that_is_looked_at_is_kept_and_what_comes_meanwhile_is_lost() -> None:
    house = House()
    house.rig.tokens.hold = True
    assert house.put(ALICE, b"login alice") == []
    assert house.put(ALICE, b"ping") == []
    assert len(house.server._peers) == 1
    house.rig.tokens.release()
    house.rig.settle()
    assert [data for _, data in house.port.sent] == [b"welcome"]
    assert house.put(ALICE, b"ping") == [b"pong"]


def test_a_login_without_an_answer_is_forgotten_in_time() -> None:
    house = House()
    house.rig.tokens.hold = True
    house.put(ALICE, b"login alice")
    house.rig.advance(11)
    assert house.server._peers == {}
    assert house.rig.gate.waiting == 0


def test_a_refused_login_is_told_and_forgotten() -> None:
    house = House()
    house.rig.tokens.identities["bad"] = LoginRefused("no")
    assert house.put(EVE, b"login bad") == [b"refused"]
    assert house.server._peers == {}


def test_a_malformed_datagram_ends_the_session_and_the_next_is_a_strangers() -> None:
    house = House()
    house.login(ALICE, "alice")
    assert house.put(ALICE, b"\xff\xfe") == []
    assert house.server._peers == {}
    assert house.put(ALICE, b"ping") == []
    house.login(ALICE, "alice")


def test_a_kick_is_the_last_word() -> None:
    house = House()
    house.login(ALICE, "alice")
    house.rig.hub.kick("alice", None, "out")
    house.rig.settle()
    assert house.port.sent[-1] == (ALICE, b"kicked")
    assert house.server._peers == {}


def test_silence_forgets_without_a_word() -> None:
    house = House()
    house.login(ALICE, "alice")
    house.rig.advance(9)
    house.put(ALICE, b"ping")
    sent = len(house.port.sent)
    house.rig.advance(9)
    assert len(house.server._peers) == 1
    house.rig.advance(2)
    assert house.server._peers == {}
    assert len(house.port.sent) == sent


def test_empty_and_oversize_datagrams_are_nobodys() -> None:
    house = House()
    assert house.put(ALICE, b"") == house.put(ALICE, b"echo " + bytes(296)) == []
    house.login(ALICE, "alice")
    assert house.put(ALICE, b"echo " + b"x" * 295) == [b"x" * 295]
    assert house.put(ALICE, b"echo " + b"x" * 296) == []
    assert house.put(ALICE, b"ping") == [b"pong"]


def test_an_answer_to_a_stranger_is_no_larger_than_its_question_and_a_little() -> None:
    house = House()
    connection = BareConnection(house.server, EVE, b"eve")
    connection.receiver = Sink()
    connection.datagram(b"12345")
    connection.send(bytes(5 + ANSWER_BYTES + 1))
    assert house.port.sent == []
    connection.send(bytes(5 + ANSWER_BYTES))
    assert len(house.port.sent) == 1
    connection.proven()
    connection.send(bytes(300))
    assert len(house.port.sent) == 2


def test_an_address_gets_one_answer_a_second_until_it_has_logged_in() -> None:
    house = House()
    assert house.put(EVE, b"echo a") == [b"a"]
    assert house.put(EVE, b"echo b") == []
    house.rig.advance(1)
    assert house.put(EVE, b"echo c") == [b"c"]
    house.login(EVE, "eve")  # which is not held up by it
    assert house.put(EVE, b"echo d") == house.put(EVE, b"echo d") == [b"d"]


def test_a_flood_from_everywhere() -> None:
    """100,000 spoofed addresses: nothing stays, whoever is logged in is served, few are answered."""
    house = House()
    house.login(ALICE, "alice")
    house.put(EVE, b"echo warm")
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(100_000):
        host = f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        house.server.datagramReceived(b"echo flood", (host, 7))
        if number % 10_000 == 0:
            assert house.put(ALICE, b"ping") == [b"pong"]
    answered = [data for to, data in house.port.sent if to[1] == 7]
    house.port.sent.clear()
    house.rig.advance(11)  # the wheel lets go of links when their time to log in is over
    house.put(EVE, b"echo last")
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(answered) == ANSWERS_A_SECOND - 1  # Eve had one
    assert set(answered) == {b"flood"}
    assert after - before < 300_000
    assert house.rig.gate.waiting == 0


def test_strangers_are_looked_at_up_to_a_rate_so_that_others_may_log_in() -> None:
    house = House()
    for number in range(STRANGERS_A_SECOND + 500):
        house.server.datagramReceived(b"login x", (f"203.0.{number >> 8}.{number & 255}", 7))
    assert house.rig.tokens.asked == STRANGERS_A_SECOND
    assert house.put(ALICE, b"login alice") == []
    house.rig.advance(1)
    house.login(ALICE, "alice")


def test_who_finds_no_place_is_not_there() -> None:
    house = House()
    house.rig.node.exchange.leaving = True
    assert house.put(ALICE, b"login alice") == []
    assert house.server._peers == {}


def test_a_paused_listener_knows_its_peers_only() -> None:
    house = House()
    house.login(ALICE, "alice")
    house.server.pause()
    assert house.put(BOB, b"login bob") == []
    assert house.put(ALICE, b"ping") == [b"pong"]
    house.server.resume()
    house.login(BOB, "bob")


def test_a_stopped_listener_stays_for_its_peers() -> None:
    house = House()
    house.login(ALICE, "alice")
    done: list[Any] = []
    house.server.stop().addCallback(done.append)
    assert done == [None]
    assert house.port.ends == 0
    assert house.put(BOB, b"login bob") == []
    assert house.put(ALICE, b"ping") == [b"pong"]
    house.put(ALICE, b"bye")
    house.rig.advance(0)
    assert house.port.ends == 1
    house.server.datagramReceived(b"ping", ALICE)
    house.server.write(b"late", ALICE)  # nowhere to go, and no error


def test_a_listener_without_peers_stops_at_once() -> None:
    house = House()
    house.server.stop()
    assert house.port.ends == 1


class Sink:
    """A receiver that may fail."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.ended: list[tuple[str, int]] = []

    def opened(self, wire: Any) -> None: ...

    def received(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error

    def lost(self, reason: str, code: int = 1) -> None:
        self.ended.append((reason, code))


def test_a_receiver_that_raises_loses_its_connection(flush_logged_errors: Any) -> None:
    house = House()
    connection = BareConnection(house.server, EVE, b"eve")
    connection.receiver = sink = Sink()
    sink.error = ZeroDivisionError()
    connection.datagram(b"x")
    connection.abort()  # again: nothing
    connection.datagram(b"x")
    connection.send(b"x")
    house.rig.settle()
    assert sink.ended == [("a datagram could not be dealt with", CloseCode.LOST)]
    assert connection.max_send_bytes == connection.unsent() == 0
    assert connection.unacked() is None
    flush_logged_errors(ZeroDivisionError)


def test_the_transport_opens_it_for_a_wire_that_is_bare() -> None:
    network = Network()
    transport = UDPTransport()
    listener = network.result(transport.listen("127.0.0.1:7901", [Wire()], lambda one: None, network, {}))
    assert isinstance(listener, BareServer)
    assert (listener.address, listener.port) == ("udp:127.0.0.1:7901", 7901)
    with pytest.raises(OperatorError, match="never sealed"):
        network.result(transport.listen("127.0.0.1:7902:insecure=1", [Wire()], lambda one: None, network, {}))
    with pytest.raises(OperatorError, match="in use"):
        network.result(transport.listen("127.0.0.1:7901", [Wire()], lambda one: None, network, {}))


def test_off_loopback_the_operator_is_warned() -> None:
    said: list[Any] = []
    observer: Any = said.append
    globalLogPublisher.addObserver(observer)
    try:
        network = Network()
        for endpoint in ("127.0.0.1:7901", "7902"):
            network.result(UDPTransport().listen(endpoint, [Wire()], lambda one: None, network, {}))
    finally:
        globalLogPublisher.removeObserver(observer)
    (warning,) = [formatEvent(event) for event in said if event["log_level"] is LogLevel.warn]
    assert warning == (
        "words+udp:7902: words has no encryption over UDP: whoever is on the way reads and forges it"
    )
