"""The byte stream: over plain sockets and over TLS, on a network in memory."""

import gc
import socket
import struct
import weakref
from types import SimpleNamespace

import pytest
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from imgateway.errors import CloseCode, LinkLost, OperatorError
from imgateway.interfaces import Carriage, IConnection, IListener, IReceiver, ITransportAdapter
from imgateway.testing.wires import BareWire, Network, RawPeer, Recorder, accepting, outcome
from imgateway.transports import stream
from imgateway.transports.stream import Side, StreamConnection
from imgateway.transports.tcp import TCPTransport
from tests.certificate import trusting

WIRE = BareWire()


class Room:
    """A TCP listener on a network in memory, and who connected."""

    def __init__(self, network=None, endpoint="tcp:7901", accept=None, echo=False):
        self.network = network or Network()
        self.accepted = []
        self.transport = TCPTransport()
        self.listener = self.network.result(
            self.transport.listen(
                endpoint, [WIRE], accept or accepting(self.accepted, echo), self.network, {}
            )
        )

    def connect(self, url="tcp://127.0.0.1:7901", **options):
        self.client = Recorder()
        self.client.connection = self.network.result(
            self.transport.connect(url, WIRE, self.client, self.network, options)
        )
        self.network.settle()
        self.server = self.accepted[-1]
        return self.client.connection, self.server.connection


@pytest.fixture(params=["plain", "tls"])
def room(request):
    if request.param == "plain":
        room = Room()
        room.dial = room.connect
    else:
        pem = request.getfixturevalue("certificate")
        room = Room(endpoint=f"ssl:7901:privateKey={pem}/key.pem:certKey={pem}/cert.pem")
        room.dial = lambda: room.connect("tls://127.0.0.1:7901", tls=trusting(pem))
    return room


def test_providers():
    assert verifyObject(ITransportAdapter, TCPTransport())
    room = Room()
    client, _server = room.connect()
    assert verifyObject(IConnection, client)
    assert verifyObject(IListener, room.listener)
    assert verifyObject(IReceiver, room.server)


@pytest.mark.parametrize("chunk", [0, 1, 7, 4096])
def test_bytes_pass_both_ways_in_any_chunks(room, chunk):
    client, server = room.dial()
    room.network.chunk = chunk
    client.send(b"hello ")
    client.send(b"world")
    server.send(b"x" * 3000)
    room.network.settle()
    assert room.server.data == b"hello world"
    assert room.client.data == b"x" * 3000
    assert room.client.events == room.server.events == ["opened"]
    assert room.client.wire is room.server.wire is WIRE


def test_what_one_turn_sends_leaves_with_one_send():
    room = Room()
    connections = [room.connect() for _ in range(20)]
    ends = [link.server for link in room.network.links]
    for turn in range(1, 4):
        before = len(room.network.getDelayedCalls())
        for _, server in connections:
            for word in (b"one ", b"two ", b"three "):
                server.send(word)
        assert len(room.network.getDelayedCalls()) == before + 1
        room.network.settle()
        assert {end.sends for end in ends} == {turn}


def test_attributes(room, request):
    client, server = room.dial()
    tls = "tls" in request.node.name
    assert server.peer.startswith("127.0.0.1:500")
    assert client.peer == "127.0.0.1:7901"
    assert server.source == ""  # loopback
    assert server.secure is client.secure is tls
    assert server.stream
    assert server.unacked() is None  # TLS hides it, and memory is no socket
    peer = server.peer
    client.abort()
    room.network.settle()
    assert (server.peer, server.source, server.secure) == (peer, "", False)


@pytest.mark.parametrize(
    ("host", "peer", "source"),
    [
        ("192.0.2.7", "192.0.2.7:1", "192.0.2.7"),
        ("2001:db8::7", "[2001:db8::7]:1", "2001:db8::7"),
        ("::1", "[::1]:1", ""),
        ("127.8.9.1", "127.8.9.1:1", ""),
    ],
)
def test_peer_and_source(host, peer, source):
    from twisted.internet.address import IPv4Address, IPv6Address
    from twisted.internet.testing import StringTransport

    address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 1)
    transport = StringTransport(peerAddress=address)
    transport.setTcpNoDelay = transport.setTcpKeepAlive = lambda on: None
    connection = StreamConnection(Side(Network(), lambda c: Recorder()))
    connection.makeConnection(transport)
    assert (connection.peer, connection.source) == (peer, source)


def test_a_refused_connection_is_aborted_at_once():
    room = Room(accept=lambda connection: None)
    peer = RawPeer.on(room.network, 7901)
    assert peer.closed.check(ConnectionLost)
    assert peer.data == b""


def test_accept_comes_before_the_tls_greeting(certificate):
    room = Room(endpoint=f"ssl:7901:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem")
    peer = RawPeer.on(room.network, 7901)
    [server] = room.accepted
    assert server.events == []
    server.connection.close(6)  # the core's deadline for the login
    room.network.settle()
    assert server.events == ["lost"]
    assert server.reason == "closed with code 6"
    assert peer.closed


def test_garbage_instead_of_tls(certificate):
    room = Room(endpoint=f"ssl:7901:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem")
    peer = RawPeer.on(room.network, 7901)
    peer.send(b"GET / HTTP/1.1\r\n\r\n")
    [server] = room.accepted
    assert server.events == ["lost"]
    assert (server.code, server.reason) == (CloseCode.BAD_FRAME, "TLS failed: http request")
    assert peer.closed


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
def test_a_peer_that_only_looks_whether_tls_listens_has_done_nothing_wrong(certificate, data):
    room = Room(endpoint=f"ssl:7901:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem")
    peer = RawPeer.on(room.network, 7901)
    if data:
        peer.send(data)
    peer.transport.loseConnection()
    room.network.settle()
    [server] = room.accepted
    assert (server.events, server.code) == (["lost"], CloseCode.LOST)


# -------------------------------------------------------------------- closing


def test_close_sends_what_is_unsent_and_tells_both_ends_once(room):
    client, server = room.dial()
    server.send(b"bye")
    server.close(200)
    server.close(201)
    server.send(b"too late")
    room.network.settle()
    assert room.client.data == b"bye"
    assert room.client.reason == "closed by the peer"
    assert room.server.reason == "closed with code 200"
    server.abort()
    client.close(0)
    client.send(b"nobody")
    room.network.settle()
    assert room.server.events == room.client.events == ["opened", "lost"]
    assert room.network.getDelayedCalls() == []


def test_close_gives_up_after_flush_s(room):
    room.network.capacity = 1000
    client, server = room.dial()
    client.pause_reading()
    server.send(b"x" * 200_000)
    room.network.settle()
    server.close(4, flush_s=2.0)
    room.network.advance(1.9)
    assert room.server.reason is None
    room.network.advance(0.2)
    assert room.server.reason == "closed with code 4"


def test_a_flush_that_ends_in_time_closes_cleanly(room):
    room.network.capacity = 1000
    client, server = room.dial()
    client.pause_reading()
    server.send(b"x" * 200_000)
    room.network.settle()
    server.send(b"last words")  # while clogged
    server.close(4)
    client.resume_reading()
    room.network.settle()
    assert room.client.data == b"x" * 200_000 + b"last words"
    assert room.client.reason == "closed by the peer"


def test_a_closing_end_reads_on_but_listens_no_more(room):
    client, server = room.dial()
    server.pause_reading()
    client.send(b"unread")
    room.network.settle()
    server.close(200)
    client.send(b"more")
    room.network.settle()
    assert room.server.data == b""
    assert room.client.reason == "closed by the peer"
    assert room.server.reason == "closed with code 200"
    assert room.network.getDelayedCalls() == []


def test_close_without_flush_time_is_an_abort(room):
    _client, server = room.dial()
    server.send(b"dropped")
    server.close(7, flush_s=0)
    room.network.settle()
    assert room.client.data == b""
    assert room.server.reason == "closed with code 7"


def test_abort_drops_and_tells(room):
    _client, server = room.dial()
    server.send(b"dropped")
    server.abort()
    server.abort()
    server.pause_reading()
    server.resume_reading()
    room.network.settle()
    assert room.client.data == b""
    assert room.server.reason == "aborted"
    assert room.client.reason.startswith("connection lost")


def test_a_cut_and_a_half_open_link():
    room = Room()
    client, server = room.connect()
    room.network.links[-1].cut()
    assert room.client.reason == room.server.reason
    assert room.client.reason.startswith("connection lost")
    client, server = room.connect()
    room.network.links[-1].fall_silent()
    client.send(b"into nothing")
    server.send(b"x" * 300_000)
    room.network.settle()
    assert room.server.data == room.client.data == b""
    assert room.server.clogged
    server.close(2)
    room.network.advance(2)
    assert room.server.reason == "closed with code 2"
    assert room.client.reason is None


def test_closing_within_received():
    room = Room()
    client, server = room.connect()
    room.network.chunk = 1
    room.server.on_received = lambda data: server.close(208)
    client.send(b"abc")
    room.network.settle()
    assert room.server.data == b"a"
    assert room.client.reason == "closed by the peer"


def test_a_closed_connection_leaves_no_cycle(room):
    client, server = room.dial()
    server.send(b"x")
    room.network.settle()
    gone = [weakref.ref(client), weakref.ref(server), weakref.ref(room.client), weakref.ref(room.server)]
    gc.collect()
    gc.disable()
    try:
        server.close(200)
        room.network.settle()
        room.network.links.clear()
        room.accepted.clear()
        room.client = room.server = client = server = None
        assert [ref() for ref in gone] == [None] * 4
    finally:
        gc.enable()


# -------------------------------------------------------------------- backpressure


def test_a_peer_that_does_not_read(room, request):
    room.network.capacity = 10_000
    client, server = room.dial()
    client.pause_reading()
    sent = b""
    while not room.server.clogged:
        server.send(b"0123456789" * 100)
        sent += b"0123456789" * 100
        room.network.settle()
        assert len(sent) < 200_000
    server.send(b"control")
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending"]
    assert server.unsent() >= 7
    assert server.unsent() <= len(sent) + 7
    client.resume_reading()
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending", "resume_sending"]
    assert server.unsent() == 0
    assert room.client.data == sent + b"control"


def test_unsent_counts_this_turn_and_the_rest():
    room = Room(Network(capacity=100))
    client, server = room.connect()
    client.pause_reading()
    server.send(b"x" * 60)
    assert server.unsent() == 60
    room.network.settle()
    assert server.unsent() == 0
    server.send(b"x" * 60)
    room.network.settle()
    assert server.unsent() == 20
    server.send(b"yy")
    assert server.unsent() == 22
    client.resume_reading()
    room.network.settle()
    assert server.unsent() == 0
    assert room.client.data == b"x" * 120 + b"yy"


def say_goodbye(client):
    """The client's TLS says that it sends no more; it goes on receiving."""
    tls = client.transport
    tls.getHandle().shutdown()
    tls.transport.write(tls.getHandle().bio_read(2**15))


def say_garbage(client):
    """A record that its key never made."""
    client.transport.transport.write(b"\x17\x03\x03\0\x20" + b"x" * 32)


@pytest.mark.parametrize("end", [say_goodbye, say_garbage])
@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_a_peer_that_ends_tls_while_something_is_unsent_to_it(room, end):
    room.network.capacity = 10_000
    client, server = room.dial()
    client.pause_reading()
    server.send(b"x" * 200_000)
    room.network.settle()
    server.send(b"y" * 100)
    end(client)
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending"]
    assert server.unsent() >= 100
    client.resume_reading()
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending", "lost"]
    assert room.client.data == b"x" * 200_000


@pytest.mark.parametrize("end", [say_goodbye, say_garbage])
@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_what_is_sent_after_the_peer_has_ended_tls_counts_as_unsent(room, end):
    room.network.capacity = 10_000
    client, server = room.dial()
    client.pause_reading()
    server.send(b"x" * 20_000)  # Twisted keeps half of it, and does not call that much
    room.network.settle()
    assert (room.server.events, server.unsent()) == (["opened"], 0)
    end(client)
    room.network.settle()
    server.send(b"y" * 100)
    room.network.settle()
    server.send(b"z")
    room.network.settle()
    assert (room.server.events, server.unsent()) == (["opened", "pause_sending"], 101)
    client.resume_reading()
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending", "lost"]
    assert room.client.data == b"x" * 20_000


@pytest.mark.parametrize("room", ["tls"], indirect=True)
def test_a_connection_whose_peer_has_ended_tls_can_be_closed(room):
    room.network.capacity = 10_000
    client, server = room.dial()
    client.pause_reading()
    server.send(b"x" * 20_000)
    say_goodbye(client)
    room.network.settle()
    server.send(b"y")
    room.network.settle()
    server.close(4, flush_s=2.0)
    room.network.advance(2.1)
    assert room.server.reason == "closed with code 4"


def test_what_was_sent_while_clogged_may_clog_again():
    room = Room(Network(capacity=100))
    client, server = room.connect()
    client.pause_reading()
    server.send(b"x" * 150)
    room.network.settle()
    server.send(b"y" * 150)
    client.resume_reading()
    client.pause_reading()
    room.network.links[-1].client.arrived.clear()
    room.network.settle()  # the 50 fit now, and 50 of the 150
    assert room.server.events == ["opened", "pause_sending", "pause_sending"]
    client.resume_reading()
    room.network.settle()
    assert room.server.events[-1] == "resume_sending"
    assert room.client.data == b"x" * 50 + b"y" * 150


def test_paused_reading_delivers_nothing_more(room):
    room.network.chunk = 100
    client, server = room.dial()
    room.server.on_received = lambda data: server.pause_reading()
    client.send(b"a" * 50)
    room.network.settle()
    client.send(b"b" * 500_000)
    room.network.settle()
    server.pause_reading()
    assert room.server.data == b"a" * 50
    assert room.client.clogged  # so it reaches the sender
    room.server.on_received = None
    server.resume_reading()
    server.resume_reading()
    room.network.settle()
    assert room.server.data == b"a" * 50 + b"b" * 500_000
    assert not room.client.clogged


def test_a_socket_that_breaks_while_it_is_written_to():
    room = Room()
    _client, server = room.connect()
    end = room.network.links[-1].server
    end.writeSomeData = lambda data: ConnectionLost()
    server.send(b"x")
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending", "lost"]
    assert room.server.reason.startswith("connection lost")


def test_a_failure_without_text_is_told_by_its_name():
    connection = StreamConnection(Side(Network(), lambda c: None))
    connection.receiver = recorder = Recorder()
    connection.connectionLost(Failure(ZeroDivisionError()))
    assert recorder.reason == "connection lost: ZeroDivisionError"


# -------------------------------------------------------------------- listening


def test_tcp_takes_one_stream_wire():
    network = Network()
    listen = TCPTransport().listen
    [two] = outcome(listen("tcp:1", [WIRE, BareWire("other")], None, network, {}))
    assert isinstance(two, OperatorError)
    assert str(two) == "bare,other+tcp:tcp:1: tcp takes one protocol a listener; give each its own"
    [none] = outcome(listen("tcp:1", [BareWire("page", Carriage(stream=False))], None, network, {}))
    assert str(none) == (
        "page+tcp:tcp:1: page does not ride on tcp; it does on websocket and udp, as in page+websocket:PORT"
    )


def test_a_paused_listener_accepts_nobody():
    room = Room()
    room.listener.pause()
    peer = RawPeer.on(room.network, 7901)
    assert room.accepted == []
    room.listener.resume()
    room.network.settle()
    assert len(room.accepted) == 1
    assert not peer.closed


def test_a_stopped_listener_leaves_connections_alone():
    room = Room(echo=True)
    client, _ = room.connect()
    room.network.result(room.listener.stop())
    assert RawPeer.on(room.network, 7901).transport is None
    client.send(b"still")
    room.network.settle()
    assert room.client.data == b"still"


# -------------------------------------------------------------------- connecting


def test_nobody_listens():
    network, receiver = Network(), Recorder()
    with pytest.raises(LinkLost, match=r"cannot connect to 127.0.0.1:7901: Connection was refused"):
        network.result(TCPTransport().connect("tcp://127.0.0.1:7901", WIRE, receiver, network, {}))
    assert receiver.events == []
    assert network.getDelayedCalls() == []


def test_a_unix_socket_and_ipv6():
    room = Room(endpoint="unix:/run/gateway")
    client, server = room.connect("unix:///run/gateway")
    assert (server.peer, server.source, room.listener.port) == ("unix", "", 0)
    assert room.listener.address == "unix:/run/gateway"
    room = Room(endpoint="[::1]:7901")
    assert room.listener.address == "tcp6:[::1]:7901"
    client, server = room.connect("tcp://[::1]:7901")
    assert client.peer == "[::1]:7901"
    assert server.source == ""


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://a:1", "the scheme must be one of tcp, tls, unix"),
        ("tcp://a", "write tcp://HOST:PORT"),
        ("tcp://:1", "write tcp://HOST:PORT"),
        ("tcp://a:b", "bad URL tcp://a:b"),
        ("tcp://a:99999", "bad URL"),
        ("unix://tmp/x", "write unix:///path/of/socket"),
        ("unix://", "write unix:///path/of/socket"),
        ("tcp://bob:secret@a:1", "credentials do not belong into a URL"),
        ("tls://im_gw:1", "TLS cannot check the name im_gw: "),
        ("tls://a..b:1", "TLS cannot check the name a..b: "),
        (f"tls://{'a' * 64}:1", "Label too long"),
    ],
)
def test_bad_urls(url, complaint):
    [error] = outcome(TCPTransport().connect(url, WIRE, Recorder(), Network(), {}))
    assert isinstance(error, LinkLost)
    assert complaint in str(error)
    assert "secret" not in str(error)


def test_a_tls_server_that_never_answers(certificate):
    room, receiver = Room(), Recorder()
    done = TCPTransport().connect(
        "tls://127.0.0.1:7901", WIRE, receiver, room.network, {"tls": trusting(certificate), "timeout_s": 3}
    )
    results = outcome(done)
    room.network.advance(2.9)
    assert results == []
    room.network.advance(0.2)
    assert str(results[0]) == "no connection to 127.0.0.1:7901 within 3 s"
    assert receiver.events == []
    assert room.accepted[0].events == ["opened", "lost"]
    assert room.network.getDelayedCalls() == []


def test_a_certificate_that_nobody_vouches_for(certificate):
    room = Room(endpoint=f"ssl:7901:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem")
    receiver = Recorder()
    with pytest.raises(LinkLost, match="certificate verify failed"):
        room.network.result(TCPTransport().connect("tls://127.0.0.1:7901", WIRE, receiver, room.network, {}))
    assert receiver.events == []


def test_cancelling_before_and_while_connecting():
    room = Room()
    results = outcome(
        early := room.transport.connect("tcp://127.0.0.1:7901", WIRE, Recorder(), room.network, {})
    )
    early.cancel()
    room.network.settle()
    assert isinstance(results[0], LinkLost)
    assert room.accepted == []


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_peer_that_has_left_is_known_before_its_end_is_read(end, monkeypatch):
    connection = StreamConnection(Side(Network(), accepting([])))
    assert not connection.has_left(), "there is none yet, or TLS in between"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            connection._plain = SimpleNamespace(socket=accepted)
            peer.sendall(b"hello")
            assert not connection.has_left()
            if end == "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            assert connection.has_left()
            assert accepted.recv(100) == b"hello"
            monkeypatch.setattr(stream, "STATE", None)
            assert not connection.has_left(), "not every system says it"


def test_of_a_unix_socket_it_is_not_known_whether_the_peer_has_left():
    connection = StreamConnection(Side(Network(), accepting([])))
    ours, peer = socket.socketpair(socket.AF_UNIX)
    with ours:
        connection._plain = SimpleNamespace(socket=ours)
        peer.close()
        assert not connection.has_left()
