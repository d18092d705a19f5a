"""Endpoint descriptions, the PROXY protocol in any pieces, and what an operator reads when it fails."""

import errno
import struct

import pytest
from twisted.internet.error import CannotListenError

from imgateway.errors import CloseCode, OperatorError
from imgateway.testing.wires import BareWire, Network, RawPeer, accepting, outcome
from imgateway.transports.listening import description, listen_stream
from imgateway.transports.stream import Side
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.websocket import WebSocketTransport

WIRE = BareWire()
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 7901\r\n"
V1_SIX = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 7901\r\n"
V1_UNKNOWN = b"PROXY UNKNOWN\r\n"
V1_UNKNOWN_AT = b"PROXY UNKNOWN" + b" f" * 46 + b"\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ADDRESSES = struct.pack("!4B4B2H", 192, 0, 2, 7, 198, 51, 100, 1, 51000, 7901)
V2 = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 12) + ADDRESSES
V2_WITH_EXTRAS = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 12 + 5) + ADDRESSES + b"\x04\x00\x02xx"
V2_LOCAL = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [
        ("7901", "tcp:7901:backlog=4096"),
        (":7901", "tcp:7901:backlog=4096"),
        ("127.0.0.1:7901", "tcp:7901:interface=127.0.0.1:backlog=4096"),
        ("localhost:7901", "tcp:7901:interface=localhost:backlog=4096"),
        ("[::1]:7901", "tcp6:7901:interface=\\:\\:1:backlog=4096"),
        ("tcp:7901", "tcp:7901:backlog=4096"),
        ("tcp:7901:backlog=5", "tcp:7901:backlog=5"),
        ("ssl:7901:privateKey=a", "ssl:7901:privateKey=a:backlog=4096"),
        ("unix:/run/x", "unix:/run/x"),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=0"),
    ],
)
def test_descriptions(endpoint, meant):
    assert description(endpoint) == meant


def failure(endpoint, network=None):
    [error] = outcome(listen_stream(endpoint, Side(network or Network(), lambda c: None)))
    assert isinstance(error, OperatorError), error
    assert "\n" not in str(error)
    assert str(error).startswith(f"cannot listen on {endpoint}: ")
    return str(error).removeprefix(f"cannot listen on {endpoint}: ")


def test_the_address_is_in_use():
    network = Network()
    network.result(listen_stream("7901", Side(network, lambda c: None)))
    assert (
        failure("tcp:7901", network) == "the address is in use; see by whom with:  ss -ltnp 'sport = :7901'"
    )
    network.result(listen_stream("unix:/run/x", Side(network, lambda c: None)))
    assert failure("unix:/run/x", network) == "the address is in use; see by whom with:  lsof /run/x"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "permission denied; take a port above 1023"),
        (errno.EADDRNOTAVAIL, "192.0.2.1 is not an address of this machine"),
        (errno.ENOMEM, "no memory"),
    ],
)
def test_other_reasons_of_the_system(number, advice):
    class Refusing(Network):
        def listenTCP(self, port, factory, backlog=50, interface=""):
            raise CannotListenError(interface, port, OSError(number, "no memory"))

    assert advice in failure("192.0.2.1:80", Refusing())


@pytest.mark.parametrize(
    ("endpoint", "advice"),
    [
        ("tcp:http-alt-x", "not a valid endpoint description"),
        ("tcp", "not a valid endpoint description"),
        ("", "not a valid endpoint description"),
        ("nonsense:1", "not a valid endpoint description (Unknown endpoint type: 'nonsense')"),
        ("haproxy:nonsense:1", "Unknown endpoint type"),
        ("tcp:1:colour=red", "not a valid endpoint description"),
        ("nonsense:1", "such as tcp:7901:interface=127.0.0.1"),
        ("65536", "a port is a number from 0 to 65535"),
        ("ssl:1:privateKey=/nowhere/key.pem", "cannot read /nowhere/key.pem: No such file or directory"),
        ("systemd:domain=INET:index=0", "systemd handed over no such socket"),
    ],
)
def test_bad_descriptions(endpoint, advice):
    assert advice in failure(endpoint)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "the directory /nodir does not exist"),
        (errno.EACCES, "cannot make a socket in /nodir: why"),
    ],
)
def test_a_unix_socket_in_no_place(number, said):
    class Refusing(Network):
        def listenUNIX(self, *args, **kwargs):
            raise OSError(number, "why", "/nodir/x.opening")

    assert failure("unix:/nodir/x", Refusing()) == said


def test_a_key_that_is_none(tmp_path):
    (tmp_path / "key.pem").write_text("not a key")
    assert "is not PEM" in failure(f"ssl:1:privateKey={tmp_path}/key.pem")


def test_a_key_of_another_certificate(certificate, tmp_path):
    from tests.certificate import write_certificate

    other = write_certificate(tmp_path)
    assert "belong together" in failure(f"ssl:1:privateKey={other}/key.pem:certKey={certificate}/cert.pem")


# ------------------------------------------------------------------------------------------- PROXY protocol


def proxied(chunk=0, transport=None):
    network, made = Network(chunk=chunk), []
    transport = transport or TCPTransport()
    listener = network.result(transport.listen("haproxy:tcp:7901", [WIRE], accepting(made), network, {}))
    assert listener.address == "haproxy:tcp:0.0.0.0:7901"
    peer = RawPeer.on(network, 7901)
    assert made[0].events == []  # the greeting is not over
    return network, peer, made[0]


@pytest.mark.parametrize("chunk", [0, 1, 2, 7, 15, 16, 17])
@pytest.mark.parametrize(
    ("header", "whom"),
    [
        (V1, "192.0.2.7:51000"),
        (V1_SIX, "[2001:db8::7]:51000"),
        (V1_UNKNOWN, "127.0.0.1:"),
        (V1_UNKNOWN_AT, "127.0.0.1:"),
        (V2, "192.0.2.7:51000"),
        (V2_WITH_EXTRAS, "192.0.2.7:51000"),
        (V2_LOCAL, "127.0.0.1:"),
    ],
    ids=["v1", "v1-six", "v1-unknown", "v1-unknown-at", "v2", "v2-extras", "v2-local"],
)
def test_a_header_in_any_pieces(header, whom, chunk):
    network, peer, server = proxied(chunk)
    peer.send(header + b"first")
    peer.send(b" second")
    assert server.data == b"first second"
    assert server.connection.peer.startswith(whom)
    assert server.connection.source == ""
    server.connection.send(b"answer")
    network.settle()
    assert peer.data == b"answer"


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 nonsense\r\nxxxxx",
        b"PROXY " + b"x" * 200,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 7901" + b" " * 70,
        b"PROXY TCP9 192.0.2.7 198.51.100.1 51000 7901\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 51000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 51000 http\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 7901\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 7901\r\n",
        b"PROXY TCP4 \xff 198.51.100.1 51000 7901\r\n",
        b"PROXY TCP4 one\nline 198.51.100.1 51000 7901\r\n",
        b"PROXY TCP6 fe80::1%\x1b[2J 2001:db8::1 51000 7901\r\n",
    ],
)
def test_no_header_no_connection(garbage, chunk):
    network, peer, server = proxied(chunk)
    peer.send(garbage)
    network.settle()
    assert peer.closed
    assert (server.data, server.connection.peer[:10]) == (b"", "127.0.0.1:")
    assert server.events == ["lost"]
    assert (server.code, server.reason) == (CloseCode.BAD_FRAME, "no PROXY header, or not a valid one")


@pytest.mark.parametrize("data", [b"", b"PROXY TCP4", V1])
def test_a_peer_that_only_looks_whether_somebody_listens_has_done_nothing_wrong(data):
    network, peer, server = proxied()
    if data:
        peer.send(data)
    peer.transport.loseConnection()
    network.settle()
    assert (server.events, server.code) == (["lost"], CloseCode.LOST)


def test_half_a_header_waits_for_the_deadline():
    network, peer, server = proxied()
    peer.send(b"PROXY TCP4")
    network.advance(10)
    assert server.events == []
    server.connection.close(6)
    network.settle()
    assert server.reason == "closed with code 6"
    assert peer.closed


def test_backpressure_and_collected_writes_behind_a_proxy():
    network, peer, server = proxied()
    peer.send(V1 + b"x")
    end = network.links[0].server
    server.connection.send(b"one")
    server.connection.send(b"two")
    network.settle()
    assert end.sends == 1
    network.capacity = 100
    peer.transport.pauseProducing()
    server.connection.send(b"x" * 500)
    network.settle()
    assert server.clogged
    peer.transport.resumeProducing()
    network.settle()
    assert not server.clogged


def test_websocket_behind_a_proxy():
    _network, peer, server = proxied(chunk=1, transport=WebSocketTransport())
    peer.send(
        V2 + b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert peer.data.startswith(b"HTTP/1.1 101")
    assert server.connection.peer == "192.0.2.7:51000"
    assert server.connection.source == ""
