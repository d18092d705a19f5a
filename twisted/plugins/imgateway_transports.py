"""The built-in transports, for ``getPlugins(ITransportAdapter)``.

Twisted asks a plugin for its interfaces when it first sees this file, so the interface cannot wait; what
the transports themselves need (Autobahn, OpenSSL) is imported when one of them is used.
"""

from typing import Any


def _known(name: str, schemes: tuple[str, ...], where: str) -> Any:
    from imgateway.transports.plugin import TransportPlugin

    return TransportPlugin(name, schemes, where)


tcp = _known("tcp", ("tcp", "tls", "unix"), "imgateway.transports.tcp.TCPTransport")
udp = _known("udp", ("udp",), "imgateway.transports.udp.UDPTransport")
websocket = _known("websocket", ("ws", "wss"), "imgateway.transports.websocket.WebSocketTransport")
