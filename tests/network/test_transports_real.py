"""The transports on real sockets: the kernel, TLS, unix sockets, a real HAProxy."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
import pytest_twisted
from twisted.internet import reactor, task, threads
from twisted.internet.defer import Deferred

from imgateway.errors import LinkLost, OperatorError
from imgateway.interfaces import Carriage
from imgateway.testing.wires import BareWire, Recorder, accepting
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.websocket import WebSocketTransport
from tests.certificate import trusting, write_certificate

pytestmark = pytest.mark.network

WIRE = BareWire("bare", Carriage(subprotocols=("test.bare",), max_frame_bytes=10_000_000))
KINDS = {"tcp": (TCPTransport, "tcp", "tls"), "websocket": (WebSocketTransport, "ws", "wss")}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_certificate(tmp_path_factory.mktemp("tls"))


async def until(true, seconds=10.0):
    """Let the reactor run until it is true."""
    for _ in range(int(seconds / 0.005)):
        if true():
            return
        await task.deferLater(reactor, 0.005)
    raise AssertionError("it did not become true")


class Place:
    """A listener on a real socket, and both ends of what connects to it."""

    def __init__(self, kind="tcp", echo=False):
        transport, self.plain, self.secure = KINDS[kind]
        self.transport = transport()
        self.accepted = []
        self.accept = accepting(self.accepted, echo)
        self.clients = []

    async def listen(self, endpoint="tcp:0:interface=127.0.0.1"):
        self.listener = await self.transport.listen(endpoint, [WIRE], self.accept, reactor, {})
        return self

    async def connect(self, url=None, **options):
        client = Recorder()
        url = url or f"{self.plain}://127.0.0.1:{self.listener.port}"
        client.connection = await self.transport.connect(url, WIRE, client, reactor, options)
        self.clients.append(client)
        # Whoever was accepted last is not always who connected last; so let each connection settle.
        await until(lambda: len(self.accepted) >= len(self.clients) and self.accepted[-1].wire)
        return client, self.accepted[-1]

    async def leave(self):
        await self.listener.stop()
        for recorder in self.clients + self.accepted:
            if recorder.reason is None:
                recorder.connection.abort()
        await until(lambda: all(r.reason is not None for r in self.clients + self.accepted))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest_twisted.ensureDeferred
async def test_there_and_back(kind, secure, certificate):
    place, options, url = Place(kind, echo=True), {}, None
    if secure:
        keys = f"privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"
        await place.listen(f"ssl:0:interface=127.0.0.1:{keys}")
        options = {"tls": trusting(certificate)}
        url = f"{place.secure}://localhost:{place.listener.port}"
    else:
        await place.listen()
    client, server = await place.connect(url, **options)
    messages = [b"hello", b"x" * 300_000, b"y"]
    for message in messages:
        client.connection.send(message)
    await until(lambda: len(client.data) == 300_006)
    assert client.data == b"".join(messages)
    assert server.connection.secure is secure
    assert server.connection.source == ""
    server.connection.send(b"bye")
    server.connection.close(200)
    await until(lambda: client.reason and server.reason)
    assert client.data.endswith(b"bye")
    assert server.reason == "closed with code 200"
    await place.leave()


@pytest_twisted.ensureDeferred
async def test_the_socket_is_told_what_it_needs():
    place = await Place().listen()
    client, server = await place.connect()
    for recorder in (client, server):
        handle = recorder.connection.transport.getHandle()
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await place.leave()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_unacked_knows_what_the_peer_took(kind):
    place = await Place(kind).listen()
    client, server = await place.connect()
    await until(lambda: server.connection.unacked() == 0)
    client.connection.pause_reading()
    server.connection.send(b"x" * 100)
    assert server.connection.unacked() >= 100
    await until(lambda: server.connection.unacked() == 0)
    while not server.clogged:
        server.connection.send(b"x" * 100_000)
        await task.deferLater(reactor, 0)
    assert server.connection.unsent() > 0
    assert server.connection.unacked() > server.connection.unsent()
    client.connection.resume_reading()
    await until(lambda: server.connection.unacked() == 0)
    assert not server.clogged
    server.connection.abort()
    await until(lambda: server.reason)
    assert server.connection.unacked() is None
    await place.leave()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_a_peer_that_never_reads(kind):
    place = await Place(kind).listen()
    client, server = await place.connect()
    client.connection.pause_reading()
    sent = 0
    while not server.clogged:
        server.connection.send(b"x" * 10_000)
        sent += 10_000
        await task.deferLater(reactor, 0)
        assert sent < 50_000_000
    assert server.connection.unsent() <= 10_010
    server.connection.close(4, flush_s=0.05)
    await until(lambda: server.reason)
    assert server.reason == "closed with code 4"
    await place.leave()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_reading_stops_and_goes_on(kind):
    place = await Place(kind).listen()
    client, server = await place.connect()
    server.on_received = lambda data: server.connection.pause_reading()
    client.connection.send(b"first")
    await until(lambda: server.chunks)
    while not client.clogged:
        client.connection.send(b"x" * 100_000)
        await task.deferLater(reactor, 0)
    assert len(server.chunks) == 1
    server.on_received = None
    server.connection.resume_reading()
    await until(lambda: not client.clogged)
    await place.leave()


@pytest_twisted.ensureDeferred
async def test_last_words_arrive_though_the_peer_still_talks():
    place = await Place().listen()
    raw = socket.create_connection(("127.0.0.1", place.listener.port))
    await until(lambda: place.accepted)
    server = place.accepted[0]
    server.connection.pause_reading()
    raw.sendall(b"x" * 100_000)
    await task.deferLater(reactor, 0.02)
    server.connection.send(b"last words")
    server.connection.close(208, flush_s=10.0)  # a busy machine passes the two seconds

    def read():
        raw.settimeout(5)
        got = b""
        while part := raw.recv(100):
            got += part
        return got

    assert await threads.deferToThread(read) == b"last words"
    raw.close()
    await until(lambda: server.reason)
    await place.leave()


@pytest_twisted.ensureDeferred
async def test_unix_socket(socket_path):
    place = await Place(echo=True).listen(f"unix:{socket_path}")
    assert place.listener.address == f"unix:{socket_path}"
    client, server = await place.connect(f"unix://{socket_path}")
    client.connection.send(b"hello")
    await until(lambda: client.data == b"hello")
    assert (server.connection.peer, server.connection.source) == ("unix", "")
    with pytest.raises(OperatorError, match="the address is in use; see by whom with:  lsof"):
        await Place().listen(f"unix:{socket_path}")
    await place.leave()


@pytest_twisted.ensureDeferred
async def test_a_paused_listener_accepts_nobody():
    place = await Place().listen()
    place.listener.pause()
    raw = socket.create_connection(("127.0.0.1", place.listener.port))
    await task.deferLater(reactor, 0.05)
    assert place.accepted == []
    place.listener.resume()
    await until(lambda: place.accepted)
    raw.close()
    await place.leave()


@pytest_twisted.ensureDeferred
async def test_a_port_in_use():
    place = await Place().listen()
    port = place.listener.port
    with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{port}: the address is in use"):
        await Place().listen(f"127.0.0.1:{port}")
    await place.leave()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_connecting_to_nothing(kind):
    place = Place(kind)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(LinkLost, match=f"cannot connect to localhost:{port}: Connection was refused"):
            await place.transport.connect(f"{place.plain}://localhost:{port}", WIRE, Recorder(), reactor, {})


class Counted:
    """A socket that writes down what it is sent."""

    def __init__(self, real, sends):
        self._real = real
        self._sends = sends

    def send(self, data):
        self._sends.append(len(data))
        return self._real.send(data)

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest_twisted.ensureDeferred
async def test_one_send_a_turn_under_load():
    """As strace would count them: 50 connections, 20 turns, 3 messages each a turn."""
    place = await Place().listen()
    pairs = [await place.connect() for _ in range(50)]
    sends = []
    for _, server in pairs:
        server.connection.transport.socket = Counted(server.connection.transport.socket, sends)
    finished = Deferred()

    def turn(left):
        for _, server in pairs:
            for _ in range(3):
                server.connection.send(b"m" * 100)
        if left:
            reactor.callLater(0, turn, left - 1)
        else:
            finished.callback(None)

    turn(19)
    await finished
    await until(lambda: all(len(client.data) == 6000 for client, _ in pairs))
    assert sends == [300] * (50 * 20)
    await place.leave()


SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)  # where systemd puts it
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "gateway"}
from twisted.internet import reactor
from imgateway.testing.wires import BareWire, accepting
from imgateway.transports.tcp import TCPTransport

listening = TCPTransport().listen(
    "systemd:domain=INET:index=0", [BareWire()], accepting([], echo=True), reactor, {}
)
listening.addCallbacks(lambda listener: listener.address, lambda failure: failure.value)
listening.addCallback(print, flush=True)
reactor.run()
"""


def test_a_socket_from_systemd():
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        port = inherited.getsockname()[1]
        process = subprocess.Popen(
            ["timeout", "20", sys.executable, "-c", SYSTEMD, str(inherited.fileno())],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(inherited.fileno(),),
        )
        try:
            assert process.stdout.readline() == f"systemd:127.0.0.1:{port}\n"
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.settimeout(10)
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"
        finally:
            process.terminate()
            process.communicate()


# ------------------------------------------------------------------------------------- real HAProxy

CONFIG = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen gateway
    bind unix@{frontend} mode 600
    bind 127.0.0.1:{port}
    server node 127.0.0.1:{node} {version} check inter 100ms {checks}
"""


@pytest.mark.server
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
@pytest_twisted.ensureDeferred
async def test_behind_haproxy(kind, version, tmp_path, socket_path):
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    assert os.path.exists(haproxy), "install it with:  sudo apt-get install haproxy"
    place = await Place(kind, echo=True).listen("haproxy:tcp:0:interface=127.0.0.1")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    config = tmp_path / "haproxy.cfg"
    checks = "check-send-proxy"
    config.write_text(
        CONFIG.format(
            frontend=socket_path, port=port, node=place.listener.port, version=version, checks=checks
        )
    )
    process = subprocess.Popen(
        [haproxy, "-db", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await until(lambda: _answers(port))
        clients = []
        for url in (f"{place.plain}://127.0.0.1:{port}", f"unix://{socket_path}"):
            if kind == "websocket" and url.startswith("unix"):
                continue
            client = Recorder()
            client.connection = await place.transport.connect(url, WIRE, client, reactor, {})
            client.connection.send(b"hello through haproxy")
            await until(lambda client=client: client.data == b"hello through haproxy")
            clients.append(client)
        servers = [recorder for recorder in place.accepted if recorder.data]
        assert len(servers) == len(clients)
        assert servers[0].connection.source == ""
        peer = servers[0].connection.peer
        assert peer.startswith("127.0.0.1:")
        if kind == "tcp":
            own = clients[0].connection.transport.getHost()
            assert peer == f"127.0.0.1:{own.port}"  # the client's own port, not HAProxy's
        for client in clients:
            client.connection.close(0)
        await until(lambda: all(client.reason for client in clients))
    finally:
        process.terminate()
        process.wait()
    await place.leave()


def _answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
