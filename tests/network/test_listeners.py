"""TLS, unix sockets and PROXY headers, through a real node and the SDK."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from imgateway.client import Client, Received
from imgateway.frames import Bye, Frame, Hello, Welcome
from imgateway.protocols.native import NativeAdapter
from tests.certificate import trusting, write_certificate

from .nodes import Node, soon, until

pytestmark = pytest.mark.network


async def a_message_to_oneself(url: str, node: Node, tls: object = None, protocol: str = "native") -> None:
    heard: list[Received] = []
    client = Client(
        url, token=node.token("bob"), device="x", on_message=heard.append, tls=tls, protocol=protocol
    )
    await until(client.start())
    try:
        await until(client.publish("user:bob", b"x" * 50_000))
        await soon(lambda: heard, what="the message")
        assert heard[0].message.body == b"x" * 50_000
    finally:
        await until(client.close())


@pytest_twisted.ensureDeferred
async def test_tls_and_wss(make_node: Callable[..., Node], tmp_path: Path) -> None:
    write_certificate(tmp_path)
    keys = f"interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
    node = await make_node(
        listen=[f"native+tcp:ssl:{{tcp}}:{keys}", f"native,json+websocket:ssl:{{ws}}:{keys}"]
    ).started()
    trust = trusting(tmp_path)
    await a_message_to_oneself(f"tls://localhost:{node.tcp}", node, trust)
    for protocol in ("native", "json"):
        await a_message_to_oneself(f"wss://localhost:{node.ws}", node, trust, protocol)
    with pytest.raises(Exception, match=r"certificate|TLS|SSL|verif"):  # the platform does not trust it
        await a_message_to_oneself(f"tls://localhost:{node.tcp}", node)


@pytest_twisted.ensureDeferred
async def test_unix_sockets(make_node: Callable[..., Node], socket_path: Path) -> None:
    node = await make_node(listen=[f"native+tcp:unix:{socket_path}"]).started()
    await a_message_to_oneself(f"unix://{socket_path}", node)
    node.kill()
    await node.started()  # what the killed one left does not stand in the way
    await a_message_to_oneself(f"unix://{socket_path}", node)


@pytest_twisted.ensureDeferred
async def test_a_link_of_every_protocol_and_transport_at_once(make_node: Callable[..., Node]) -> None:
    node = await make_node().started()
    await a_message_to_oneself(node.url, node)
    for protocol in ("native", "json"):
        await a_message_to_oneself(node.ws_url, node, None, protocol)


def frames(peer: socket.socket, count: int) -> list[Frame]:
    codec = NativeAdapter().codec(True, 1_048_576)
    found: list[Frame] = []
    while len(found) < count:
        data = peer.recv(65_536)
        assert data, "the node closed"
        found += codec.receive(data)  # type: ignore[arg-type]
    return found


def test_proxy_headers_name_the_peer(make_node: Callable[..., Node]) -> None:
    node = make_node(listen=["native+tcp:haproxy:tcp:{tcp}:interface=127.0.0.1"]).start()
    codec = NativeAdapter().codec(True, 1_048_576)
    hello = codec.encode(Hello(node.token("bob"), "x"))
    bad = codec.encode(Hello("nonsense", "x"))
    assert hello is not None
    assert bad is not None
    header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 7901\r\n"
    with socket.create_connection(("127.0.0.1", node.tcp), 5) as peer:
        for byte in header + hello:  # as a slow proxy may send it
            peer.sendall(bytes((byte,)))
        assert isinstance(frames(peer, 1)[0], Welcome)
    with socket.create_connection(("127.0.0.1", node.tcp), 5) as peer:
        peer.sendall(header + bad)
        assert isinstance(frames(peer, 1)[0], Bye)
    assert any("203.0.113.7:4711" in str(record) for record in node.records())
    with socket.create_connection(("127.0.0.1", node.tcp), 5) as peer:
        peer.sendall(hello)  # no header: nobody
        assert peer.recv(100) == b""
