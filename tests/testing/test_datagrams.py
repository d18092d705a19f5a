"""UDP on the network in memory, held against what Twisted's own does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import CannotListenError, InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from zope.interface.verify import verifyObject

from imgateway.testing.conditions import LinkConditions
from imgateway.testing.datagrams import Captured
from imgateway.testing.network import Network

SERVER = ("127.0.0.1", 7901)


class Ear(DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, Any], None] | None = None) -> None:
        self.heard: list[tuple[bytes, Any]] = []
        self.on_datagram = on_datagram
        self.log: list[str] = []

    def startProtocol(self) -> None:
        self.log.append("start")

    def stopProtocol(self) -> None:
        self.log.append("stop")

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard.append((datagram, addr))
        if self.on_datagram is not None:
            self.on_datagram(datagram, addr)

    def connectionRefused(self) -> None:
        self.log.append("refused")


class Room:
    """An echo at `SERVER` and a client; `client` and `server` are the ports."""

    def __init__(self, seed: int = 7, **conditions: Any) -> None:
        self.network = Network(seed=seed)
        self.datagrams = self.network.datagrams
        self.datagrams.conditions = LinkConditions(**conditions)
        self.server_ear = Ear(lambda data, addr: self.server.write(data, addr))
        self.server = self.network.listenUDP(SERVER[1], self.server_ear, SERVER[0])
        self.ear = Ear()
        self.client = self.network.listenUDP(0, self.ear)

    def ask(self, data: bytes = b"ping") -> None:
        self.client.write(data, SERVER)
        self.network.settle()


@pytest.fixture
def room() -> Room:
    return Room()


def test_providers(room: Room) -> None:
    assert verifyObject(IReactorUDP, room.network)
    assert verifyObject(IListeningPort, room.server)
    assert verifyObject(IUDPTransport, room.server)


def test_a_datagram_and_its_answer(room: Room) -> None:
    assert room.ear.log == ["start"]
    room.client.write(b"ping", SERVER)
    assert not room.server_ear.heard, "nothing arrives within write"
    room.network.settle()
    own = ("127.0.0.1", room.client.getHost().port)
    assert room.server_ear.heard == [(b"ping", own)]
    assert room.ear.heard == [(b"ping", SERVER)]
    assert room.datagrams.captured == [
        Captured(0.0, own, SERVER, b"ping"),
        Captured(0.0, SERVER, own, b"ping"),
    ]
    assert room.datagrams.counts.datagrams_out == 2


def test_hosts(room: Room) -> None:
    assert (room.client.getHost().type, room.client.getHost().host) == ("UDP", "0.0.0.0")
    assert (room.server.getHost().host, room.server.getHost().port) == SERVER
    six = room.network.listenUDP(5, Ear(), "::1")
    assert six.getHost().host == "::1"
    ear = Ear()
    anywhere = room.network.listenUDP(6, ear, "::")
    anywhere.write(b"x", ("::1", 5))
    six.write(b"y", ("::1", 6))
    room.network.settle()
    assert ear.heard == [(b"y", ("::1", 5))]
    ports = {room.network.listenUDP(0, Ear()).getHost().port for _ in range(9)}
    assert len(ports) == 9


def test_many_pieces_are_one_datagram(room: Room) -> None:
    room.client.writeSequence([b"a", b"b"], SERVER)
    room.network.settle()
    assert room.server_ear.heard[0][0] == b"ab"


def test_what_twisted_refuses(room: Room) -> None:
    with pytest.raises(CannotListenError):
        room.network.listenUDP(SERVER[1], Ear(), SERVER[0])
    with pytest.raises(InvalidAddressError):
        room.network.listenUDP(0, Ear(), "localhost")
    for host in ("localhost", "::1"):
        with pytest.raises(InvalidAddressError):
            room.client.write(b"x", (host, 7901))
    with pytest.raises(MessageLengthError):
        room.client.write(bytes(65_508), SERVER)
    with pytest.raises(AssertionError):
        room.client.write(b"x")
    with pytest.raises(InvalidAddressError):
        room.client.connect("localhost", 1)


def test_a_long_datagram_is_cut_to_what_the_port_takes(room: Room) -> None:
    ear = Ear()
    room.network.listenUDP(8, ear, "127.0.0.1", maxPacketSize=10)
    room.client.write(bytes(100), ("127.0.0.1", 8))
    room.network.settle()
    assert len(ear.heard[0][0]) == 10


def test_a_connected_port_hears_its_peer_alone(room: Room) -> None:
    room.client.connect(*SERVER)
    with pytest.raises(RuntimeError):
        room.client.connect(*SERVER)
    room.client.write(b"one")
    room.client.write(b"two", SERVER)
    with pytest.raises(AssertionError):
        room.client.write(b"three", ("127.0.0.1", 9))
    stranger = room.network.listenUDP(9, Ear())
    stranger.write(b"psst", ("127.0.0.1", room.client.getHost().port))
    room.network.settle()
    assert [data for data, _ in room.ear.heard] == [b"one", b"two"]


def test_a_connected_port_is_told_that_nobody_is_there(room: Room) -> None:
    room.client.write(b"x", ("127.0.0.1", 9))
    room.network.settle()
    assert room.ear.log == ["start"]
    room.client.connect("127.0.0.1", 9)
    room.client.write(b"x")
    assert room.ear.log == ["start"], "not within write"
    room.network.settle()
    assert room.ear.log == ["start", "refused"]
    room.network.settle()
    assert room.ear.log == ["start", "refused"]


def test_stopping(room: Room) -> None:
    room.server.write(b"too late", ("127.0.0.1", room.client.getHost().port))
    first, again = room.client.stopListening(), room.client.stopListening()
    assert first is not None
    assert first is again
    fired: list[Any] = []
    first.addCallback(fired.append)
    assert not fired
    room.network.settle()
    assert fired == [None]
    assert room.ear.log == ["start", "stop"]
    assert room.ear.heard == []
    assert room.client.stopListening() is None
    with pytest.raises(AttributeError):
        room.client.write(b"x", SERVER)
    with pytest.raises(AttributeError):
        room.client.getHost()


def test_what_a_port_sent_before_it_stopped_arrives() -> None:
    room = Room(delay_s=1.0)
    room.client.write(b"bye", SERVER)
    room.client.stopListening()
    room.network.advance(2)
    assert [data for data, _ in room.server_ear.heard] == [b"bye"]
    room.network.listenUDP(0, Ear())


def test_a_port_that_stops_in_the_middle_of_reading(room: Room) -> None:
    ear = Ear(lambda data, addr: port.stopReading())
    port = room.network.listenUDP(8, ear)
    for data in (b"one", b"two"):
        room.client.write(data, ("127.0.0.1", 8))
    room.network.settle()
    assert [data for data, _ in ear.heard] == [b"one"]
    port.startReading()
    room.network.settle()
    assert [data for data, _ in ear.heard] == [b"one", b"two"]


def test_a_protocol_that_raises_goes_on(room: Room, flush_logged_errors: Callable[..., list[Any]]) -> None:
    def fail(data: bytes, addr: Any) -> None:
        raise ZeroDivisionError

    ear = Ear(fail)
    room.network.listenUDP(8, ear)
    for _ in range(2):
        room.client.write(b"x", ("127.0.0.1", 8))
    room.network.settle()
    assert len(ear.heard) == 2
    assert len(flush_logged_errors(ZeroDivisionError)) == 2


def test_a_socket_that_nobody_reads_overflows(room: Room) -> None:
    room.server.stopReading()
    for _ in range(10):
        room.client.write(bytes(60_000), SERVER)
    assert room.server.overflowed == 6
    room.server.startReading()
    room.network.settle()
    assert len(room.server_ear.heard) == 4
    room.ask()
    assert len(room.server_ear.heard) == 5


def test_broadcast_is_a_flag(room: Room) -> None:
    room.client.setBroadcastAllowed(True)
    assert room.client.getBroadcastAllowed()


# ---------------------------------------------------------------------------------------------- lossy lines


def talk(room: Room, count: int = 300) -> list[bytes]:
    for number in range(count):
        room.client.write(b"%d" % number, SERVER)
        room.network.advance(0.01)
    room.network.advance(5)
    return [data for data, _ in room.ear.heard]


BAD: dict[str, Any] = {"loss": 0.2, "duplicate": 0.05, "reorder": 0.1, "delay_s": 0.08, "jitter_s": 0.04}


def test_a_bad_line_is_the_same_for_a_seed() -> None:
    first, again, other = (talk(Room(seed, **BAD)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert len(set(first)) < 300
    assert len(set(first)) < len(first)
    assert first != sorted(first, key=int)


def test_time_is_the_networks() -> None:
    room = Room(delay_s=0.1)
    room.ask()
    room.network.elapse(0.19)
    assert len(room.server_ear.heard) == 1
    assert not room.ear.heard
    room.network.elapse(0.02)
    assert len(room.ear.heard) == 1
    assert room.datagrams.captured is not None
    assert [one.when for one in room.datagrams.captured] == [0.0, 0.1]
    assert room.network.seconds() == pytest.approx(0.21)
    room.ask()
    room.network.advance(1)
    assert len(room.ear.heard) == 1, "advance jumps, and only then looks around"
    room.network.advance(1)
    assert len(room.ear.heard) == 2


def test_conditions_may_change_and_differ_by_way(room: Room) -> None:
    lost, clean = LinkConditions(loss=1.0), LinkConditions()
    room.datagrams.conditions = lambda source, destination: lost if destination == SERVER else clean
    room.ask()
    assert not room.server_ear.heard
    room.server.write(b"x", ("127.0.0.1", room.client.getHost().port))
    room.network.settle()
    assert len(room.ear.heard) == 1
    room.datagrams.conditions = clean
    room.ask()
    assert len(room.server_ear.heard) == 1
    assert (room.datagrams.counts.lost, room.datagrams.counts.datagrams_in) == (1, 4)


def test_one_way_does_not_change_the_other() -> None:
    def seen_by_server(echo: bool) -> list[bytes]:
        room = Room(**BAD)
        if not echo:
            room.server_ear.on_datagram = None
        talk(room)
        return [data for data, _ in room.server_ear.heard]

    assert seen_by_server(True) == seen_by_server(False)


def test_rebinding(room: Room) -> None:
    room.ask()
    old = room.server_ear.heard[-1][1]
    new = room.datagrams.rebind(room.client)
    assert new != old
    room.ask()
    assert room.server_ear.heard[-1][1] == new
    assert len(room.ear.heard) == 2, "the answer finds the way"
    room.server.write(b"to the old place", old)
    room.network.settle()
    assert len(room.ear.heard) == 2
    assert room.client.getHost().port == old[1], "the port itself does not know"
    elsewhere = ("192.0.2.7", 4_000)
    assert room.datagrams.rebind(room.client, elsewhere) == elsewhere
    room.ask()
    assert room.server_ear.heard[-1][1] == elsewhere
    assert len(room.ear.heard) == 3
    with pytest.raises(CannotListenError):
        room.datagrams.rebind(room.client, SERVER)
    room.client.stopListening()
    room.network.settle()
    assert room.datagrams.at(elsewhere) is None


def test_what_is_under_way_when_the_mapping_changes() -> None:
    room = Room(delay_s=0.1)
    room.ask()
    room.network.advance(0.15)
    room.datagrams.rebind(room.client)
    room.network.advance(1)
    assert len(room.server_ear.heard) == 1
    assert not room.ear.heard


def test_spoofing_and_replay(room: Room) -> None:
    room.ask()
    assert room.datagrams.captured is not None
    seen = room.datagrams.captured[0]
    assert room.datagrams.spoof(seen.data, ("192.0.2.1", 5), seen.destination)
    room.network.settle()
    assert room.server_ear.heard[-1] == (b"ping", ("192.0.2.1", 5))
    assert room.datagrams.captured[-1].destination == ("192.0.2.1", 5), "the answer is seen, if by nobody"
    assert not room.datagrams.spoof(b"x", SERVER, ("127.0.0.1", 9))


def test_a_capture_may_be_switched_off_on_a_bad_line_too() -> None:
    room = Room(delay_s=0.1)
    room.datagrams.captured = None
    room.ask()
    room.network.elapse(1)
    assert len(room.ear.heard) == 1


def test_very_many_sources_leave_nothing_behind(room: Room) -> None:
    room.datagrams.captured = None
    for number in range(20_000):
        room.datagrams.spoof(b"hello", (f"10.0.{number >> 8}.{number & 255}", number), SERVER)
        room.network.settle()
    assert len(room.server_ear.heard) == 20_000
    assert room.datagrams._lines == {}


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "testing.md").read_text()
    (example,) = re.findall(r"```python\n(network = .*?)```", page, re.S)
    server, client = Ear(), Ear()
    names = {"Network": Network, "LinkConditions": LinkConditions}
    exec(example, {**names, "server_protocol": server, "client_protocol": client})
    assert "datagrams_in=1" in capsys.readouterr().out
