"""WebSocket end to end on a network in memory, and against peers that break its rules."""

import gc
import struct
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface.verify import verifyObject

from imgateway.errors import CloseCode, LinkLost, OperatorError
from imgateway.interfaces import Carriage, IConnection, IReceiver, ITransportAdapter
from imgateway.testing.wires import BareWire, Network, RawPeer, Recorder, accepting, outcome
from imgateway.transports.websocket import WebSocketTransport
from tests.certificate import trusting

BINARY = BareWire("binary", Carriage(subprotocols=("test.binary",), max_frame_bytes=100_000))
TEXT = BareWire("text", Carriage(text=True, subprotocols=("test.text",), max_frame_bytes=100_000))
WIRES = [BINARY, TEXT]

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: gate.example:7902\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
CONTINUE, TEXTUAL, BINARIES, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(data, opcode=BINARIES, fin=True, size=None):
    """A client's frame, masked with zeros."""
    size = len(data) if size is None else size
    head = (0x80 if fin else 0) | opcode
    if size < 126:
        header = struct.pack("!BB", head, 0x80 | size)
    elif size < 65_536:
        header = struct.pack("!BBH", head, 0x80 | 126, size)
    else:
        header = struct.pack("!BBQ", head, 0x80 | 127, size)
    return header + b"\0\0\0\0" + data


class Room:
    def __init__(self, network=None, endpoint="tcp:7902", echo=False, wires=WIRES, accept=None, **options):
        self.network = network or Network()
        self.accepted = []
        self.transport = WebSocketTransport()
        self.listener = self.network.result(
            self.transport.listen(
                endpoint, wires, accept or accepting(self.accepted, echo), self.network, options
            )
        )

    def connect(self, wire=BINARY, url="ws://127.0.0.1:7902", **options):
        self.client = Recorder()
        self.client.connection = self.network.result(
            self.transport.connect(url, wire, self.client, self.network, options)
        )
        self.network.settle()
        self.server = self.accepted[-1]
        return self.client.connection, self.server.connection

    def raw(self, upgrade=True, headers=b""):
        """A peer that speaks bytes; what the upgrade answered is in `answer`."""
        peer = RawPeer.on(self.network, 7902)
        self.server = self.accepted[-1]
        if upgrade:
            peer.send(REQUEST % headers)
            assert peer.data.startswith(b"HTTP/1.1 101"), peer.data
            peer.answer, _, peer.data = peer.data.partition(b"\r\n\r\n")
        return peer


def closed(peer):
    """The status and reason of the close frame that the peer got last."""
    opcode, size = peer.data[0], peer.data[1]
    assert opcode == 0x80 | CLOSE
    body = peer.data[2 : 2 + size]
    return struct.unpack("!H", body[:2])[0], body[2:].decode()


def test_providers():
    assert verifyObject(ITransportAdapter, WebSocketTransport())
    room = Room()
    for connection in room.connect():
        assert verifyObject(IConnection, connection)
        assert verifyObject(IReceiver, connection)
        assert not connection.stream


@pytest.mark.parametrize("wire", WIRES, ids=["binary", "text"])
@pytest.mark.parametrize("chunk", [0, 1, 7, 1000])
def test_messages_pass_both_ways_in_any_chunks(wire, chunk):
    room = Room(Network(chunk=chunk), echo=True)
    client, _server = room.connect(wire)
    messages = [b"", b"x", b"a" * 125, b"b" * 126, "grüße".encode(), b"c" * 65_535, b"d" * 65_536]
    for message in messages:
        client.send(message)
    room.network.settle()
    assert room.server.chunks == messages
    assert room.client.chunks == messages
    assert room.server.wire is room.client.wire is wire
    assert room.server.events == room.client.events == ["opened"]


def test_a_refused_upgrade_is_logged():
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        room = Room()
        peer = room.raw(upgrade=False)
        peer.send(REQUEST % b"Origin: https://evil.example\r\n")
    finally:
        globalLogPublisher.removeObserver(events.append)
    [event] = [event for event in events if event["log_format"] == "upgrade refused"]
    assert event["log_level"] is LogLevel.info
    assert (event["status"], event["reason"]) == (403, "this origin may not connect")
    assert (event["path"], event["origin"]) == ("/", "https://evil.example")
    assert event["peer"].startswith("127.0.0.1")


def test_over_tls(certificate):
    room = Room(
        endpoint=f"ssl:7902:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem", echo=True
    )
    client, server = room.connect(url="wss://127.0.0.1:7902", tls=trusting(certificate))
    client.send(b"hello")
    room.network.settle()
    assert room.client.chunks == [b"hello"]
    assert client.secure
    assert server.secure
    assert server.unacked() is None


def test_attributes():
    room = Room()
    client, server = room.connect()
    assert client.peer == "127.0.0.1:7902"
    assert server.peer.startswith("127.0.0.1:5")
    assert (server.source, server.secure, server.stream) == ("", False, False)
    client.abort()
    room.network.settle()
    assert server.peer.startswith("127.0.0.1:5")


def test_a_turn_is_one_send_and_a_fan_out_frames_once():
    room = Room()
    pairs = [room.connect() for _ in range(10)]
    before = [link.server.sends for link in room.network.links]
    message = b"m" * 100
    frames = set()
    for _, server in pairs:
        server.send(message)
        server.send(message)
        frames.add(id(server._terms.framed(0x82, message)))
    room.network.settle()
    assert [link.server.sends for link in room.network.links] == [sends + 1 for sends in before]
    assert len(frames) == 1


def test_binary_and_text_frames_of_the_same_bytes_differ():
    room = Room()
    _, binary = room.connect(BINARY)
    first = room.client
    _, text = room.connect(TEXT)
    message = b"same"
    binary.send(message)
    text.send(message)
    room.network.settle()
    assert first.chunks == room.client.chunks == [message]


# -------------------------------------------------------------------- upgrade


def test_the_upgrade_answers_with_the_subprotocol_and_no_compression():
    room = Room()
    peer = room.raw(
        headers=b"Sec-WebSocket-Protocol: x, test.text\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
    )
    assert b"\r\nSec-WebSocket-Protocol: test.text" in peer.answer
    assert b"Extensions" not in peer.answer
    assert b"Server" not in peer.answer
    assert room.server.wire is TEXT
    room.raw()
    assert room.server.wire is BINARY


def test_accept_comes_before_the_upgrade():
    room = Room()
    peer = room.raw(upgrade=False)
    assert room.server.events == []
    assert room.server.connection.peer.startswith("127.0.0.1")
    room.server.connection.send(b"too early")
    room.server.connection.close(CloseCode.LOGIN_TIMEOUT)
    room.network.settle()
    assert room.server.events == ["lost"]
    assert room.server.reason == "closed with code 6"
    assert peer.data == b""
    assert peer.closed


def test_a_refused_connection_is_aborted_at_once():
    room = Room(accept=lambda connection: None)
    assert RawPeer.on(room.network, 7902).closed


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (REQUEST.replace(b"GET / ", b"GET /nowhere ") % b"", 404),
        (REQUEST % b"Sec-WebSocket-Protocol: v9\r\n", 400),
        (REQUEST % b"Origin: https://evil.example\r\n", 403),
        (REQUEST % b"Origin: null\r\n", 403),
        (b"GET /?redirect=https://evil.example HTTP/1.1\r\nHost: a\r\n\r\n", 426),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A" * 10_000, 431),
    ],
)
@pytest.mark.parametrize("chunk", [0, 1])
def test_bad_upgrades_get_a_status(request_, status, chunk):
    room = Room(Network(chunk=chunk))
    peer = room.raw(upgrade=False)
    peer.send(request_)
    assert peer.data.startswith(b"HTTP/1.1 %d " % status), peer.data
    assert b"Location" not in peer.data
    assert peer.closed
    assert room.server.events == ["lost"]
    assert room.network.getDelayedCalls() == []


def test_a_header_that_never_ends_holds_8_kb_at_most():
    room = Room()
    peer = room.raw(upgrade=False)
    peer.send(b"GET / HTTP/1.1\r\n")
    for _ in range(800):
        peer.send(b"X: 8901234\r\n"[:12])
        if peer.closed:
            break
    assert peer.data.startswith(b"HTTP/1.1 431 ")
    assert room.server.reason == "the HTTP header of the upgrade is too large"


def test_origins():
    room = Room(origins=("https://a.example",))
    room.raw(headers=b"Origin: https://a.example\r\n")
    peer = room.raw(upgrade=False)
    peer.send(REQUEST % b"Origin: https://gate.example\r\n")
    assert peer.data.startswith(b"HTTP/1.1 403 this origin may not connect")
    Room().raw(headers=b"Origin: https://gate.example\r\n")


def test_frames_in_the_same_packet_as_the_upgrade():
    room = Room()
    peer = room.raw(upgrade=False)
    peer.send(REQUEST % b"" + frame(b"one") + frame(b"two"))
    assert room.server.events == ["opened"]
    assert room.server.chunks == [b"one", b"two"]


# -------------------------------------------------------------------- bad frames


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (frame(b"text", TEXTUAL), 4208),
        (frame(b"x" * 100_001), 4209),
        (frame(b"", size=2**40), 4209),
        (frame(b"x" * 60_000, fin=False) + frame(b"x" * 60_000, CONTINUE), 4209),
        (frame(b"", size=2**63 + 1), 1002),
        (frame(b"", 3), 1002),
        (frame(b"", CONTINUE), 1002),
        (b"\x82\x01x", 1002),  # not masked
        (b"\xc2\x81\0\0\0\0x", 1002),  # a compressed frame
        (frame(b"x" * 200, PING), 1002),
    ],
)
@pytest.mark.parametrize("chunk", [0, 1, 5])
def test_bad_frames_close_with_a_code(sent, status, chunk):
    room = Room(Network(chunk=chunk))
    peer = room.raw()
    peer.send(sent)
    assert closed(peer)[0] == status
    peer.send(frame(b"after"))
    peer.transport.loseConnection()
    room.network.settle()
    assert room.server.chunks == []
    assert room.server.events == ["opened", "lost"]
    assert (CloseCode(status - 4000).name if status > 4000 else str(status)) in room.server.reason
    assert room.network.getDelayedCalls() == []


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"ok\xc3"])
def test_text_must_be_utf8(text):
    room = Room()
    peer = room.raw(headers=b"Sec-WebSocket-Protocol: test.text\r\n")
    peer.send(frame("grüße".encode(), TEXTUAL) + frame(text, TEXTUAL))
    assert closed(peer)[0] == 1007
    assert room.server.chunks == ["grüße".encode()]


def test_a_binary_frame_where_text_is_spoken():
    room = Room()
    peer = room.raw(headers=b"Sec-WebSocket-Protocol: test.text\r\n")
    peer.send(frame(b"x"))
    assert closed(peer) == (4208, "bad frame")


def test_fragments_make_one_message_and_empty_ones_cost_nothing():
    room = Room()
    peer = room.raw()
    peer.send(frame(b"one ", fin=False) + frame(b"ping", PING) + frame(b"two", CONTINUE))
    assert room.server.chunks == [b"one two"]
    assert peer.data == b"\x8a\x04ping"
    peer.send(frame(b"", fin=False))
    for _ in range(20):
        peer.send(frame(b"", CONTINUE, fin=False) * 1000)
    peer.send(frame(b"x", CONTINUE))
    assert room.server.chunks == [b"one two", b"x"]


@pytest.mark.parametrize("chunk", [0, 1])
def test_a_wire_may_want_its_messages_whole(chunk):
    whole = BareWire("whole", Carriage(text=True, fragments=False))
    for sent in (
        frame(b"one", TEXTUAL, fin=False) + frame(b"two", CONTINUE),
        frame(b"", TEXTUAL, fin=False),
    ):
        room = Room(Network(chunk=chunk), wires=[whole])
        peer = room.raw()
        peer.send(frame(b"first", TEXTUAL) + frame(b"?", PING) + sent)
        assert peer.data.startswith(b"\x8a\x01?")
        peer.data = peer.data[3:]
        assert closed(peer) == (4208, "bad frame")
        assert room.server.chunks == [b"first"]


def test_the_limit_is_the_wires_and_lower_before_the_login():
    room = Room(wires=[BareWire("small", Carriage(max_frame_bytes=50))])
    peer = room.raw()
    peer.send(frame(b"x" * 50) + frame(b"x" * 51))
    assert closed(peer) == (4209, "frame too large")
    assert room.server.chunks == [b"x" * 50]
    room = Room()
    peer = room.raw()
    room.server.connection.max_message_bytes = 10
    peer.send(frame(b"x" * 10) + frame(b"x" * 11))
    assert closed(peer)[0] == 4209
    peer = room.raw()
    room.server.connection.max_message_bytes = 10
    room.server.connection.max_message_bytes = 0
    peer.send(frame(b"x" * 11))
    assert room.server.chunks == [b"x" * 11]


def stranger(chunk=0):
    """A peer of which 100 bytes are taken before it is proven."""
    room = Room(Network(chunk=chunk), accept=lambda connection: met(connection))

    def met(connection):
        recorder = Recorder()
        recorder.connection = connection
        connection.max_message_bytes = 100
        room.accepted.append(recorder)
        return recorder

    peer = RawPeer.on(room.network, 7902)
    room.server = room.accepted[-1]
    return room, peer


@pytest.mark.parametrize("chunk", [0, 1, 50])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("more", [0, 1])
def test_all_that_comes_before_a_peer_is_proven_counts(chunk, early, more):
    room, peer = stranger(chunk)
    # With 14 bytes for the head of a frame.
    sent = frame(b"hello") + frame(b"ping", PING) * 9 + frame(b"x" * (7 + more))
    assert len(sent) == 100 + 14 + more
    for data in [REQUEST % b"" + sent] if early else [REQUEST % b"", sent]:
        peer.send(data)
    if more:
        assert b"\x88\x11" + struct.pack("!H", 4209) in peer.data
        peer.send(frame(struct.pack("!H", 4209), CLOSE))
        peer.transport.loseConnection()
        room.network.settle()
        assert room.server.code == CloseCode.FRAME_TOO_LARGE
    else:
        assert room.server.chunks == [b"hello", b"x" * 7]
        room.server.connection.proven()
        peer.send(frame(b"y" * 100) * 10)
        assert room.server.chunks[2:] == [b"y" * 100] * 10


def test_a_stranger_is_not_read_on_while_it_is_checked():
    room, peer = stranger()
    room.server.on_received = lambda data: room.server.connection.pause_reading()
    peer.send(REQUEST % b"" + frame(b"hello") + frame(b"z") * 8000)
    assert (room.server.connection._unparsed, room.server.connection._arrived) == (b"", [])
    room.network.advance(2.1)
    assert room.server.reason.startswith("more than may be sent before the login")
    assert room.server.code == CloseCode.FRAME_TOO_LARGE


@settings(max_examples=60)
@given(garbage=st.binary(max_size=300), chunk=st.sampled_from([0, 1, 3]), before=st.booleans())
def test_any_bytes_do_no_harm(garbage, chunk, before):
    room = Room(Network(chunk=chunk))
    good = room.raw()
    survivor = room.server
    peer = room.raw(upgrade=not before)
    if peer.closed is None:
        peer.send(garbage)
    good.send(frame(b"fine"))
    assert survivor.chunks == [b"fine"]


# -------------------------------------------------------------------- pings and closing


def test_pings_of_a_peer_that_does_not_read_are_not_all_answered():
    room = Room(Network(capacity=200_000))
    peer = room.raw()
    peer.transport.pauseProducing()
    for _ in range(100):
        peer.send(frame(b"p" * 125, PING) * 200)
    assert room.server.clogged
    assert room.server.connection.unsent() < 1_000_000
    peer.transport.resumeProducing()
    room.network.settle()
    assert not room.server.clogged
    peer.send(frame(b"last", PING))
    assert peer.data.endswith(b"\x8a\x04last")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (CloseCode.KICKED, 4200, "kicked"),
        (CloseCode.NORMAL, 4000, "normal"),
        (CloseCode.TOO_MANY_LINKS, 4102, "too many links"),
        (199, 4199, ""),
    ],
)
def test_close_says_its_code(code, status, reason):
    room = Room()
    peer = room.raw()
    room.server.connection.send(b"bye")
    room.server.connection.close(code)
    room.server.connection.close(3)
    room.server.connection.send(b"late")
    room.network.settle()
    assert peer.data.startswith(b"\x82\x03bye")
    peer.data = peer.data[5:]
    assert closed(peer) == (status, reason)
    assert room.server.reason == f"closed with code {int(code)}"


def test_both_ends_learn_of_a_close():
    room = Room()
    client, server = room.connect()
    server.close(CloseCode.KICKED)
    room.network.settle()
    assert room.client.reason == "closed by the peer with status 4200"
    assert room.client.events == room.server.events == ["opened", "lost"]
    client, server = room.connect()
    client.send(b"last")
    client.close(CloseCode.NORMAL)
    room.network.settle()
    assert room.server.chunks == [b"last"]
    assert room.server.reason == "closed by the peer with status 4000"
    assert room.network.getDelayedCalls() == []


def test_messages_before_the_close_frame_are_delivered():
    room = Room()
    peer = room.raw()
    peer.send(frame(b"one") + frame(b"two") + frame(struct.pack("!H", 1000), CLOSE) + frame(b"three"))
    assert room.server.chunks == [b"one", b"two"]
    assert room.server.reason == "closed by the peer with status 1000"
    assert peer.data == b"\x88\x02\x03\xe8"
    assert peer.closed


def test_a_client_hears_all_that_stands_before_the_close_frame_though_it_answers():
    """In one read: the client was busy, or the network slow."""
    room = Room()
    client, server = room.connect()
    room.client.received = lambda data: (room.client.chunks.append(data), client.send(b"answer"))
    client.pause_reading()
    server.send(b"one")
    server.send(b"the last word")
    server.close(CloseCode.KICKED)
    room.network.settle()
    client.resume_reading()
    room.network.settle()
    assert room.client.chunks == [b"one", b"the last word"]
    assert room.client.events[-1] == "lost"


def test_a_close_without_status_and_a_cut():
    room = Room()
    peer = room.raw()
    peer.send(frame(b"", CLOSE))
    assert room.server.reason == "closed by the peer"
    room.connect()
    room.network.links[-1].cut()
    assert room.server.reason.startswith("connection lost")
    assert room.client.events == ["opened", "lost"]


def test_a_peer_that_ignores_the_close_is_gone_after_flush_s():
    room = Room()
    room.raw()
    link = room.network.links[-1]
    link.client.protocol.connectionLost = lambda reason: None
    link.fall_silent()
    room.server.connection.close(200, flush_s=2.0)
    room.network.advance(1.9)
    assert room.server.reason is None
    room.network.advance(0.2)
    assert room.server.reason == "closed with code 200"


def test_abort():
    room = Room()
    _client, server = room.connect()
    server.abort()
    room.network.settle()
    server.abort()
    server.close(1)
    assert room.server.reason == "aborted"
    assert room.client.reason.startswith("connection lost")


def test_closing_within_received():
    room = Room()
    peer = room.raw()
    room.server.on_received = lambda data: room.server.connection.close(208)
    peer.send(frame(b"one") + frame(b"two"))
    assert room.server.chunks == [b"one"]


def test_a_closed_connection_leaves_no_cycle():
    room = Room()
    peer = room.raw()
    client, server = room.connect()
    gone = [weakref.ref(client), weakref.ref(server), weakref.ref(server._stream), weakref.ref(server._ws)]
    gone += [weakref.ref(room.accepted[0].connection)]
    gc.collect()
    gc.disable()
    try:
        server.close(200)
        peer.send(frame(b"text", TEXTUAL))
        room.network.settle()
        room.network.links.clear()
        room.accepted.clear()
        room.client = room.server = client = server = None
        assert [ref() for ref in gone] == [None] * 5
    finally:
        gc.enable()


# -------------------------------------------------------------------- backpressure


def test_a_peer_that_does_not_read():
    room = Room(Network(capacity=10_000))
    client, server = room.connect()
    client.pause_reading()
    sent = 0
    while not room.server.clogged:
        server.send(b"m" * 1000)
        sent += 1
        room.network.settle()
        assert sent < 50
    client.resume_reading()
    room.network.settle()
    assert room.server.events == ["opened", "pause_sending", "resume_sending"]
    assert room.client.chunks == [b"m" * 1000] * sent
    assert server.unsent() == 0


def test_paused_reading_holds_one_read_and_delivers_it_on_resume():
    room = Room()
    peer = room.raw()
    connection = room.server.connection
    room.server.on_received = lambda data: connection.pause_reading()
    peer.send(b"".join(frame(b"%05d" % n) for n in range(20_000)))
    assert room.server.chunks == [b"00000"]
    assert len(connection._unparsed) + sum(map(len, connection._arrived)) <= 65_536
    peer.send(frame(b"more"))
    connection.pause_reading()
    assert room.server.chunks == [b"00000"]
    connection.resume_reading()
    assert len(room.server.chunks) == 1  # not from within
    room.network.settle()
    assert len(room.server.chunks) == 2  # and paused again by the second
    room.server.on_received = None
    connection.resume_reading()
    connection.resume_reading()
    room.network.settle()
    assert room.server.chunks == [b"%05d" % n for n in range(20_000)] + [b"more"]


def test_pausing_without_anything_held():
    room = Room()
    peer = room.raw()
    room.server.connection.pause_reading()
    peer.send(frame(b"x"))
    assert room.server.chunks == []
    room.server.connection.resume_reading()
    room.network.settle()
    assert room.server.chunks == [b"x"]


def test_pausing_over_tls(certificate):
    room = Room(endpoint=f"ssl:7902:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem")
    client, server = room.connect(url="wss://127.0.0.1:7902", tls=trusting(certificate))
    room.server.on_received = lambda data: server.pause_reading()
    for n in range(5000):
        client.send(b"%04d" % n * 20)
    room.network.settle()
    assert len(room.server.chunks) == 1
    room.server.on_received = None
    server.resume_reading()
    room.network.settle()
    assert room.server.chunks == [b"%04d" % n * 20 for n in range(5000)]


def test_a_long_read_of_tiny_messages_takes_turns():
    room = Room()
    peer = room.raw()
    other = room.raw()
    busy, idle = room.accepted
    seen = []
    idle.on_received = lambda data: seen.append(len(busy.chunks))
    peer.transport.write(frame(b"") * 9000)
    other.transport.write(frame(b"me too"))
    room.network.settle()
    assert len(busy.chunks) == 9000
    assert 0 < seen[0] < 9000


# -------------------------------------------------------------------- listening, connecting


def test_what_cannot_be_listened_for():
    network = Network()
    listen = WebSocketTransport().listen
    stream = BareWire("stream", Carriage(message=False))
    [error] = outcome(listen("tcp:1", [BINARY, stream], None, network, {}))
    assert isinstance(error, OperatorError)
    assert str(error) == (
        "stream+websocket:tcp:1: stream does not ride on websocket; it does on tcp, as in stream+tcp:PORT"
    )
    [error] = outcome(listen("tcp:1", [], None, network, {}))
    assert str(error) == "websocket:tcp:1: name at least one protocol"


def test_a_path_of_the_wires_own():
    there = BareWire("there", Carriage(path="/there", subprotocols=("t",)))
    room = Room(wires=[BINARY, there])
    room.connect(there)
    assert room.server.wire is there
    room.connect(there, "ws://127.0.0.1:7902/there")
    assert room.server.wire is there
    with pytest.raises(LinkLost, match="404"):
        room.connect(there, "ws://127.0.0.1:7902/elsewhere?x=1")


def test_a_server_without_our_subprotocol():
    room, receiver = Room(), Recorder()
    foreign = BareWire("foreign", Carriage(subprotocols=("foreign",)))
    with pytest.raises(LinkLost, match=r"\[400\]: none of these subprotocols is spoken here"):
        room.network.result(
            room.transport.connect("ws://127.0.0.1:7902", foreign, receiver, room.network, {})
        )
    assert receiver.events == []
    assert room.network.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", r"\[200\]: OK"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "Bad HTTP|Unsupported HTTP|broken WebSocket"),
        (b"\xff\xff\r\n\r\n", "broken WebSocket: "),
        (b"HTTP/1.1 101 x\r\n" + b"y" * 9000, "header of the upgrade is too large"),
        (b"", "no connection to 127.0.0.1:7902 within 10 s"),
    ],
)
def test_a_server_that_is_none(answer, complaint):
    from twisted.internet.protocol import Factory, Protocol

    class Stranger(Protocol):
        def dataReceived(self, data):
            self.transport.write(answer)

    network, receiver = Network(), Recorder()
    network.listenTCP(7902, Factory.forProtocol(Stranger))
    results = outcome(WebSocketTransport().connect("ws://127.0.0.1:7902", BINARY, receiver, network, {}))
    network.advance(10)
    assert isinstance(results[0], LinkLost)
    with pytest.raises(LinkLost, match=complaint):
        raise results[0]
    assert receiver.events == []
    network.advance(3)
    assert network.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("tcp://a:1", "the scheme must be one of ws, wss"),
        ("ws:///path", "write ws://HOST:PORT"),
    ],
)
def test_bad_urls(url, complaint):
    [error] = outcome(WebSocketTransport().connect(url, BINARY, Recorder(), Network(), {}))
    assert isinstance(error, LinkLost)
    assert complaint in str(error)


def test_ipv6_writes_its_host_with_brackets():
    room = Room(endpoint="[::1]:7902")
    room.connect(url="ws://[::1]:7902/")
    assert room.client.connection.peer == "[::1]:7902"
    assert room.client.connection._terms.factory.host == "[::1]"


def test_an_open_connection_keeps_little_of_autobahns_and_shares_nothing_that_changes():
    room = Room()
    client, server = room.connect()
    other_client, other = room.connect()
    mine = room.client
    for end in (client, server, other_client, other):
        assert len(vars(end._ws)) < 15, sorted(vars(end._ws))
        assert not {"send_queue", "trafficStats", "is_open", "_transport_details"} & set(vars(end._ws))
    server.close(CloseCode.NORMAL)
    room.network.settle()
    other.send(b"still there")
    room.network.settle()
    assert mine.data == b"still there"
    assert not other._ws.closedByMe
    assert not other._ws.failedByMe
