"""UDP on real sockets: a node as a process, and what people and programs reach it with."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, threads

from imgateway.auth.udp import load_udp_secret, with_udp_key
from imgateway.client import Client
from imgateway.config import UdpSettings
from imgateway.errors import OperatorError
from imgateway.interfaces import IListener
from imgateway.testing.wires import BareWire, Recorder
from imgateway.transports.datagram.packets import LARGEST, Reset, parse
from imgateway.transports.datagram.reader import AT_ONCE
from imgateway.transports.udp import UDPTransport
from tests.network.nodes import Node, imgateway, soon, until

pytestmark = pytest.mark.network

UDP = (b"i" * 16, b"k" * 16)


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(listen=("native+udp:127.0.0.1:{tcp}",))


def url_of(node: Node) -> str:
    return f"udp://127.0.0.1:{node.tcp}"


def with_key(node: Node, user: str) -> str:
    return with_udp_key(node.token(user), load_udp_secret(UdpSettings(), str(node.data)))


def test_the_command_line(node: Node) -> None:
    node.start()
    assert f"native+udp                udp://127.0.0.1:{node.tcp}" in node.errors.read_text()
    data = ("--data-dir", str(node.data))
    token = imgateway("token", "bob", "--udp", *data).stdout.strip()
    sent = imgateway("send", url_of(node), "--user", "alice", *data, "user:bob", "hello", "--json")
    assert (sent.returncode, sent.stderr) == (0, "")
    shown = imgateway("listen", url_of(node), "--token", token, "--json", "--count", "1", "--timeout", "20")
    assert json.loads(shown.stdout)["body"] == "hello"
    probed = imgateway("probe", url_of(node), "--user", "probe", *data, "--json", "--interval", "0.01")
    assert (probed.returncode, probed.stderr) == (0, "")
    found = json.loads(probed.stdout)
    assert (found["user"], found["pings"], found["pongs"]) == ("probe", 20, 20)
    assert (found["udp"]["largest_up"], found["udp"]["largest_down"]) == (8_972, 8_972)
    assert found["resume_ms"] is not None
    plain = imgateway("send", url_of(node), "--token", token, "--insecure", "user:bob", "hello")
    assert plain.returncode == 1
    assert "the gateway takes sealed datagrams only" in plain.stderr


@pytest_twisted.ensureDeferred
async def test_a_killed_node_is_missed_at_once(node: Node) -> None:
    await node.started()
    downs: list[str] = []
    client = Client(url_of(node), token=lambda: with_key(node, "bob"), wait=True, reactor=reactor)
    client.on_down = lambda code, reason: downs.append(reason)
    await until(client.start())
    assert (await until(client.publish("user:bob", b"1")))[0].seq == 1
    node.kill()
    await threads.deferToThread(node.start)
    assert (await until(client.publish("user:bob", b"2")))[0].seq == 2
    assert downs == ["the gateway does not know this connection any more"]
    await until(client.close(0))


class Both:
    """A listener and what it accepted, in this process."""

    def __init__(self) -> None:
        self.accepted: list[Recorder] = []
        self.listener: Any = None

    async def listen(self, endpoint: str) -> str:
        options = {"udp_key": lambda key_id: UDP[1]}
        self.listener = await UDPTransport().listen(endpoint, [BareWire()], self.accept, reactor, options)
        assert IListener.providedBy(self.listener)
        host = "[::1]" if "[" in endpoint else "localhost"
        return f"udp://{host}:{self.listener.port}"

    def accept(self, connection: Any) -> Recorder:
        receiver = Recorder(lambda data: connection.send(b"re:" + data))
        receiver.connection = connection
        self.accepted.append(receiver)
        return receiver

    async def end(self, *clients: Recorder) -> None:
        for client in clients:
            client.connection.close(0, 0)
            await soon(lambda client=client: client.reason is not None)
        await soon(lambda: all(one.reason is not None for one in self.accepted))
        await until(self.listener.stop())


async def connect(url: str) -> Recorder:
    receiver = Recorder()
    receiver.connection = await UDPTransport().connect(url, BareWire(), receiver, reactor, {"udp": UDP})
    receiver.connection.send(b"hello")
    await soon(lambda: receiver.chunks)
    return receiver


@pytest.mark.parametrize("endpoint", ["127.0.0.1:0", "0", "[::1]:0"])
@pytest_twisted.ensureDeferred
async def test_both_ends_in_one_process(endpoint: str) -> None:
    both = Both()
    client = await connect(await both.listen(endpoint))
    assert client.chunks == [b"re:hello"]
    body = bytes(range(256)) * 200
    client.connection.send(body)
    await soon(lambda: len(client.chunks) == 2)
    assert client.chunks[1] == b"re:" + body
    assert both.listener.reader is not None
    await both.end(client)
    assert both.listener.reader is None


@pytest_twisted.ensureDeferred
async def test_a_gateway_knows_that_it_is_behind() -> None:
    both = Both()
    client = await connect(await both.listen("127.0.0.1:0"))
    connection, reader = both.accepted[0].connection, both.listener.reader
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(("127.0.0.1", both.listener.port))
        for _ in range(AT_ONCE + 1):
            stranger.send(b"\x01")
        reader.doRead()
        assert connection.is_behind()
        reader.doRead()
        assert not connection.is_behind()
    await both.end(client)


@pytest_twisted.ensureDeferred
async def test_an_address_in_use() -> None:
    both = Both()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"ss -lunp 'sport = :{port}'"):
            await both.listen(f"127.0.0.1:{port}")
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1 is not an address of this machine"):
        await both.listen("192.0.2.1:0")


@pytest_twisted.ensureDeferred
async def test_nobody_is_there_and_then_somebody_is() -> None:
    """Refused by the system at first, which must not cost the client its socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    receiver, both = Recorder(), Both()
    url = f"udp://127.0.0.1:{port}"
    receiver.connection = await UDPTransport().connect(url, BareWire(), receiver, reactor, {"udp": UDP})
    receiver.connection.send(b"hello")
    await both.listen(f"127.0.0.1:{port}")
    await soon(lambda: receiver.chunks)
    await both.end(receiver)


@pytest_twisted.ensureDeferred
async def test_garbage_from_a_socket() -> None:
    both = Both()
    client = await connect(await both.listen("127.0.0.1:0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(("127.0.0.1", both.listener.port))
        for size in (0, 1, 11, 30, LARGEST, LARGEST + 1, 60_000):
            stranger.send(b"\x01" * size)
        client.connection.send(b"still there")
        await soon(lambda: len(client.chunks) == 2)
        told = stranger.recv(2000, socket.MSG_DONTWAIT)
        assert isinstance(parse(told), Reset)  # of 30 bytes; the next ones within a second draw nothing
        with pytest.raises(BlockingIOError):
            stranger.recv(2000, socket.MSG_DONTWAIT)
    await both.end(client)
