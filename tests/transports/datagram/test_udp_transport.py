"""Where a UDP listener may be, where a client may go, and what is said when it cannot be."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError

from imgateway.errors import LinkLost, OperatorError
from imgateway.interfaces import Carriage
from imgateway.testing.network import Network
from imgateway.testing.wires import BareWire, Recorder, outcome
from imgateway.transports.datagram.path import packed, unpacked
from imgateway.transports.datagram.wakeups import WakeUps
from imgateway.transports.udp import UDPTransport
from tests.transports.datagram.peers import Device, House

KEYS = {"udp_key": lambda key_id: b"k" * 16}


def listen(endpoint: str, network: Any = None, wires: Any = None, **options: Any) -> Any:
    network = network or Network()
    wires = [BareWire()] if wires is None else wires
    transport = UDPTransport()
    return network.result(transport.listen(endpoint, wires, lambda one: None, network, {**KEYS, **options}))


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("127.0.0.1:7901", "udp:127.0.0.1:7901"),
        ("localhost:7901", "udp:127.0.0.1:7901"),
        ("7901", "udp:0.0.0.0:7901"),
        ("0.0.0.0:7901", "udp:0.0.0.0:7901"),
        (":7901", "udp:0.0.0.0:7901"),
        ("*:7901", "udp:0.0.0.0:7901"),
        ("[::1]:7901", "udp:[::1]:7901"),
        ("[::]:7901", "udp:[::]:7901"),
        ("127.0.0.1:7901:insecure=1", "udp:127.0.0.1:7901"),
        ("[::1]:7901:insecure=1", "udp:[::1]:7901"),
    ],
)
def test_endpoints(endpoint: str, address: str) -> None:
    listener = listen(endpoint)
    assert listener.address == address
    assert listener.port == 7901


def test_any_port() -> None:
    assert listen("127.0.0.1:0").port > 0


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("", "is not HOST:PORT"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:70000", "is not HOST:PORT"),
        ("127.0.0.1:7901:insecure=0", "is not HOST:PORT"),
        ("::1:7901", "is not HOST:PORT"),
        ("im.example.org:7901", "im.example.org is no address"),
        ("[fe80]:7901", "fe80 is no address"),
        ("[fe80::1%1]:7901", "an address with a scope"),
        ("7901:insecure=1", r"insecure=1 is for 127.0.0.1 and \[::1\] alone"),
        ("0.0.0.0:7901:insecure=1", "insecure=1 is for"),
        ("192.0.2.1:7901:insecure=1", "insecure=1 is for"),
    ],
)
def test_endpoints_that_are_none(endpoint: str, words: str) -> None:
    with pytest.raises(OperatorError, match=words) as raised:
        listen(endpoint)
    assert "\n" not in str(raised.value)


def test_one_wire_that_rides_on_messages() -> None:
    with pytest.raises(OperatorError, match=r"a,b\+udp:7901: udp takes one protocol"):
        listen("7901", wires=[BareWire("a"), BareWire("b")])
    with pytest.raises(OperatorError, match="a does not ride on udp"):
        listen("7901", wires=[BareWire("a", Carriage(message=False))])
    with pytest.raises(OperatorError, match=r"a\+udp:7901: a does not ride on udp; .* on tcp and websocket"):
        listen("7901", wires=[BareWire("a", Carriage(message=True, text=True))])
    with pytest.raises(OperatorError, match=r"a\+udp:7901: a does not ride on udp$"):
        listen("7901", wires=[BareWire("a", Carriage(stream=False, message=False))])
    with pytest.raises(OperatorError, match=r"a\+udp:7901: a does not ride on udp"):
        listen("7901", wires=[BareWire("a", Carriage(sealed=False))])


def test_without_a_secret() -> None:
    with pytest.raises(OperatorError, match="no UDP secret"):
        listen("7901", udp_key=None)
    assert listen("127.0.0.1:7901:insecure=1", udp_key=None).port == 7901


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (98, "the address is in use; see by whom with:  ss -lunp 'sport = :7901'"),
        (13, "permission denied; take a port above 1023"),
        (99, "192.0.2.1 is not an address of this machine; see them with:  ip address"),
        (5, "input/output"),
    ],
)
def test_a_socket_that_cannot_be_had(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()

    def refuse(port: int, protocol: Any, interface: str, size: int) -> None:
        raise CannotListenError(interface, port, OSError(number, "input/output"))

    monkeypatch.setattr(network, "listenUDP", refuse)
    with pytest.raises(OperatorError) as raised:
        listen("192.0.2.1:7901", network)
    assert str(raised.value).startswith("cannot listen on udp:192.0.2.1:7901: ")
    assert words in str(raised.value)


def test_two_listeners_on_one_address() -> None:
    network = Network()
    listen("127.0.0.1:7901", network)
    with pytest.raises(OperatorError, match="in use"):
        listen("127.0.0.1:7901", network)


# ------------------------------------------------------------------------------------------------- connecting


class Names:
    """A resolver that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str]] = []

    def resolveHostName(self, receiver: Any, host: str) -> Any:
        self.asked.append((receiver, host))
        receiver.resolutionBegan(self)
        return self

    def cancel(self) -> None:
        raise NotImplementedError  # as Twisted's

    def answer(self, *hosts: str) -> None:
        receiver, _ = self.asked.pop()
        for host in hosts:
            receiver.addressResolved(type("Address", (), {"host": host}))
        receiver.resolutionComplete()


@pytest.fixture
def network() -> Any:
    network: Any = Network()
    network.nameResolver = Names()
    return network


def connect(
    network: Any, url: str, udp: Any = (b"i" * 16, b"k" * 16), **options: Any
) -> tuple[Deferred[Any], Recorder]:
    receiver = Recorder()
    return UDPTransport().connect(url, BareWire(), receiver, network, {"udp": udp, **options}), receiver


def test_names_are_looked_up_and_ipv4_comes_first(network: Any) -> None:
    done, receiver = connect(network, "udp://im.example.org:7901")
    assert network.nameResolver.asked[0][1] == "im.example.org"
    assert receiver.events == []
    network.nameResolver.answer("2001:db8::1", "192.0.2.1", "192.0.2.2")
    assert network.result(done).peer == "192.0.2.1:7901"
    assert receiver.events == ["opened"]
    done, _ = connect(network, "udp://im.example.org:7901")
    network.nameResolver.answer("2001:db8::1")
    assert network.result(done).peer == "[2001:db8::1]:7901"


def test_a_name_without_an_address(network: Any) -> None:
    done, receiver = connect(network, "udp://nowhere.example.org:7901")
    network.nameResolver.answer()
    with pytest.raises(LinkLost, match=r"cannot find nowhere\.example\.org"):
        network.result(done)
    assert receiver.events == []


def test_nobody_waits_for_the_name_any_more(network: Any) -> None:
    done, receiver = connect(network, "udp://im.example.org:7901")
    ends = outcome(done)
    done.cancel()
    assert isinstance(ends[0], CancelledError)
    network.nameResolver.answer("192.0.2.1")  # it was on its way already
    network.settle()
    assert receiver.events == []
    assert network.getDelayedCalls() == []


def test_a_name_that_is_looked_up_for_too_long(network: Any) -> None:
    done, receiver = connect(network, "udp://im.example.org:7901", timeout_s=3)
    ends = outcome(done)
    network.advance(2.9)
    assert ends == []
    network.advance(0.2)
    assert isinstance(ends[0], LinkLost)
    assert str(ends[0]) == "cannot find im.example.org: no answer within 3 s"
    network.nameResolver.answer("192.0.2.1")
    assert receiver.events == []


@pytest.mark.parametrize("host", ["gw..example", "a" * 64])
def test_a_name_that_nobody_can_look_up(network: Any, host: str) -> None:
    with pytest.raises(LinkLost, match="is no name"):
        network.result(connect(network, f"udp://{host}:7901")[0])
    assert network.nameResolver.asked == []


@pytest.mark.parametrize(
    "url", ["udp://127.0.0.1", "tcp://127.0.0.1:1", "udp://u:p@127.0.0.1:1", "udp://[::1:1"]
)
def test_urls_that_are_none(network: Any, url: str) -> None:
    with pytest.raises(LinkLost):
        network.result(connect(network, url)[0])


@pytest.mark.parametrize("scope", ["%eth0", "%25eth0", "%1"])
def test_an_address_with_a_scope(network: Any, scope: str) -> None:
    """Twisted takes it to listen, and then cannot send to it."""
    with pytest.raises(LinkLost, match="an address with a scope") as raised:
        network.result(connect(network, f"udp://[fe80::1{scope}]:7901")[0])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("host", "plain"), [("127.0.0.1", True), ("[::1]", True), ("192.0.2.1", False)])
def test_only_this_machine_may_be_spoken_to_in_the_clear(network: Any, host: str, plain: bool) -> None:
    done, _ = connect(network, f"udp://{host}:7901", None)
    if plain:
        assert not network.result(done).secure
    else:
        with pytest.raises(LinkLost, match="imgateway token USER --udp"):
            network.result(done)


def test_no_socket_for_a_client(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(network, "listenUDP", refuse)
    with pytest.raises(
        LinkLost, match=r"cannot open a socket for udp://127.0.0.1:7901: .*Too many open files"
    ):
        network.result(connect(network, "udp://127.0.0.1:7901")[0])


# -------------------------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize("place", [("192.0.2.7", 65535), ("2001:db8::1", 1), ("::ffff:192.0.2.7", 9)])
def test_places_are_packed(place: Any) -> None:
    assert len(packed(place)) in (6, 18)
    assert unpacked(packed(place)) == place


class Sleeper:
    def __init__(self, woken: Any) -> None:
        self.woken = woken


def test_a_sleeper_that_fails_keeps_nobody_else_asleep() -> None:
    network = Network()
    wakeups, woken = WakeUps(network), []

    def fail() -> None:
        raise ZeroDivisionError

    wakeups.arm(1.0, Sleeper(lambda: woken.append("before")))
    wakeups.arm(1.0, Sleeper(fail))
    wakeups.arm(1.0, Sleeper(lambda: woken.append("after")))
    wakeups.arm(2.0, Sleeper(lambda: woken.append("late")))
    network.advance(0.9)
    with pytest.raises(ZeroDivisionError):
        network.advance(0.2)
    assert woken == ["before"]
    network.advance(0.1)
    assert woken == ["before", "after"]
    network.advance(1)
    assert woken == ["before", "after", "late"]
    assert network.getDelayedCalls() == []
    wakeups.arm(9.0, Sleeper(fail))
    wakeups.stop()
    wakeups.stop()
    network.advance(100)


def ours() -> int:
    """Bytes that our own lines hold just now: what measures the tests takes some too."""
    gc.collect()
    traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/imgateway/transports/*")])
    return sum(one.size for one in traces.statistics("filename"))


def test_bytes_of_an_idle_connection() -> None:
    """Those that were logged in, talked, and fell silent; the listener's table included."""
    count, house = 2_000, House()
    house.on_received = lambda connection, data: connection.send(b"welcome")
    places = [(f"10.1.{number >> 8}.{number & 255}", 7) for number in range(count)]

    def live(number: int) -> None:
        device = Device(house, places[number], seed=number).login()
        device.send(b"one").send(b"two")
        device.hear(house.pass_time(0.05))
        device.send()

    for number in range(10):
        live(number)
    house.pass_time(3)
    house.receivers.clear()
    tracemalloc.start()
    try:
        before = ours()
        for number in range(10, count):
            live(number)
            for receiver in house.receivers:
                receiver.connection.receiver = None  # the receiver is the core's, and counts there
            house.receivers.clear()
        house.pass_time(60)
        house.server._greeting._known = {}  # half a minute's greetings, forgotten with the next ones
        house.server._greeting._known_before = {}
        after = ours()
    finally:
        tracemalloc.stop()
    each = (after - before) / (count - 10)
    print(f"{each:.0f} bytes an idle connection")
    assert len(house.connections) == count
    assert all(one._flow._out is None for one in house.connections)
    assert each <= 350
