"""Ports that several processes listen on at once."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.errors import OperatorError
from imgateway.protocols.native import NativeAdapter
from imgateway.testing.wires import BareWire, Network, RawPeer, Recorder, accepting, outcome
from imgateway.transports.listening import description, listen_stream
from imgateway.transports.stream import Side
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.udp import UDPTransport
from tests.certificate import trusting, write_certificate

ROOT = Path(__file__).parents[2]
WIRE = BareWire()


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [
        ("shared:7901", "shared:tcp:7901:backlog=4096"),
        ("shared:7901:interface=::1", "shared:tcp:7901:interface=::1:backlog=4096"),
        ("shared:127.0.0.1:7901", "shared:tcp:7901:interface=127.0.0.1:backlog=4096"),
        ("shared:[::1]:7901", "shared:tcp6:7901:interface=\\:\\:1:backlog=4096"),
        ("shared:ssl:7901:backlog=5", "shared:ssl:7901:backlog=5"),
    ],
)
def test_descriptions(endpoint: str, meant: str) -> None:
    assert description(endpoint) == meant


def test_the_parser_is_known_and_light() -> None:
    (plugin,) = (one for one in getPlugins(IStreamServerEndpointStringParser) if one.prefix == "shared")
    assert verifyObject(IStreamServerEndpointStringParser, plugin)
    assert verifyObject(IPlugin, plugin)
    program = (
        "import sys, twisted.plugins.imgateway_endpoints\n"
        "heavy = {'imgateway', 'OpenSSL', 'twisted.internet.reactor'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == ""


def refused(endpoint: str, on: Any) -> str:
    [error] = outcome(listen_stream(endpoint, Side(on, lambda connection: None)))
    assert isinstance(error, OperatorError), error
    return str(error)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("shared:unix:/run/x", "'unix' cannot be shared: shared: takes tcp, tcp6, ssl or a bare port"),
        ("shared:", "'' cannot be shared"),
        ("shared:shared:1", "'shared' cannot be shared"),
        ("shared:haproxy:tcp:1", "'haproxy' cannot be shared"),
        ("shared:1:colour=red", "not a valid endpoint description"),
    ],
)
def test_what_cannot_be_shared(endpoint: str, words: str) -> None:
    assert words in refused(endpoint, Network())


def test_udp_cannot() -> None:
    listening = UDPTransport().listen(
        "shared:7901", [NativeAdapter()], lambda c: None, Network(), {"udp_key": 1}
    )
    [error] = outcome(listening)
    assert isinstance(error, OperatorError)
    assert str(error) == (
        "udp:shared:7901: a UDP port cannot be shared; leave shared: out, and give each process a port of "
        "its own"
    )


@implementer(IReactorFDSet)
class Sockets(Network):
    """A network that says of itself that it has real sockets."""

    asked: tuple[Any, ...] = ()

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        self.asked = (port, backlog, interface)
        raise CannotListenError(interface, 7901, OSError(errno.ENOPROTOOPT, "Protocol not available"))

    def getReaders(self) -> list[Any]:
        return []

    def getWriters(self) -> list[Any]:
        return []

    def removeAll(self) -> list[Any]:
        return []


NO_SHARING = (
    "cannot listen on shared:7901: this system cannot share a port among processes (SO_REUSEPORT, Linux 3.9 "
    "and newer); leave shared: out, and give each process a port of its own"
)


def test_a_kernel_without_it() -> None:
    network = Sockets()
    assert refused("shared:7901", network) == NO_SHARING
    binding, backlog, _ = network.asked
    assert binding._reusePort
    assert binding._reuseAddress
    assert backlog == 4096


def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    network = Sockets()
    assert refused("shared:7901", network) == NO_SHARING
    assert network.asked == ()


def test_on_a_network_in_memory_it_is_a_port_like_others(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    keys = f"privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
    network, made = Network(), []  # type: ignore[var-annotated]
    opened = TCPTransport().listen("haproxy:shared:7901", [WIRE], accepting(made), network, {})
    assert network.result(opened).address == "haproxy:tcp:0.0.0.0:7901"
    peer = RawPeer.on(network, 7901)
    peer.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 7901\r\nhello")
    assert made[0].data == b"hello"
    assert made[0].connection.peer == "192.0.2.7:51000"
    opened = TCPTransport().listen(f"shared:ssl:7902:{keys}", [WIRE], accepting(made), network, {})
    assert network.result(opened).address == "ssl:0.0.0.0:7902"


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest_twisted.ensureDeferred
async def test_two_listeners_share_a_port(secure: bool, tmp_path: Path) -> None:
    transport, made = TCPTransport(), ([], [])  # type: ignore[var-annotated]
    options: dict[str, Any] = {}
    description, scheme = "shared:{port}:interface=127.0.0.1", "tcp"
    if secure:
        write_certificate(tmp_path)
        keys = f"privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
        description, scheme = f"shared:ssl:{{port}}:interface=127.0.0.1:{keys}", "tls"
        options = {"tls": trusting(tmp_path)}
    first = await transport.listen(description.format(port=0), [WIRE], accepting(made[0]), reactor, {})
    place = description.format(port=first.port)
    second = await transport.listen(place, [WIRE], accepting(made[1]), reactor, {})
    assert first.address == second.address == f"{'ssl' if secure else 'tcp'}:127.0.0.1:{first.port}"
    # Somebody who does not want to share is not let in.
    with pytest.raises(OperatorError, match="the address is in use"):
        await transport.listen(f"tcp:{first.port}:interface=127.0.0.1", [WIRE], accepting([]), reactor, {})
    clients: list[Any] = []
    url = f"{scheme}://localhost:{first.port}"

    async def connect() -> None:
        count = sum(map(len, made))
        client = Recorder()
        client.connection = await transport.connect(url, WIRE, client, reactor, options)
        clients.append(client)
        await soon(lambda: sum(map(len, made)) > count and client.wire)

    # The kernel draws by the client's port: sixty times the same one is nothing that happens.
    while not (made[0] and made[1]):
        assert len(clients) < 60
        await connect()
    # When one goes, the other one gets all.
    await first.stop()
    before = len(made[1])
    for _ in range(5):
        await connect()
    assert len(made[1]) == before + 5
    await second.stop()
    for recorder in (*clients, *made[0], *made[1]):
        recorder.connection.abort()
    await soon(lambda: all(one.reason is not None for one in (*clients, *made[0], *made[1])))


async def soon(true: Any) -> None:
    from twisted.internet import task

    for _ in range(2_000):
        if true():
            return
        await task.deferLater(reactor, 0.005)  # type: ignore[arg-type]
    raise AssertionError("it did not become true")


def test_the_endpoint_can_be_used_by_anybody() -> None:
    assert serverFromString(reactor, "shared:7901:interface=127.0.0.1")
