"""Each wire on each of its transports: how a node listens for it, and who speaks it."""

from __future__ import annotations

from .foreign_speakers import Chat, Mobile, MobileOnUdp, MobileOnWebSocket, Mqtt, MqttOnTls, MqttOnWebSocket
from .speakers import Ours, OursInJson, OursOnUdp, OursOnWebSocket, Peer

__all__ = ("CARRIERS",)

CARRIERS: dict[str, tuple[str, type[Peer]]] = {
    "native over TCP": ("native+tcp:tcp:{port}:interface=127.0.0.1", Ours),
    "native over WebSocket": ("native+websocket:tcp:{port}:interface=127.0.0.1", OursOnWebSocket),
    "native over UDP": ("native+udp:127.0.0.1:{port}", OursOnUdp),
    "json over WebSocket": ("json+websocket:tcp:{port}:interface=127.0.0.1", OursInJson),
    "mobileimsdk over TCP": ("mobileimsdk+tcp:tcp:{port}:interface=127.0.0.1", Mobile),
    "mobileimsdk over WebSocket": ("mobileimsdk+websocket:tcp:{port}:interface=127.0.0.1", MobileOnWebSocket),
    "mobileimsdk over UDP": ("mobileimsdk+udp:127.0.0.1:{port}", MobileOnUdp),
    "chat over TCP": ("chat+tcp:tcp:{port}:interface=127.0.0.1", Chat),
    "mqtt over TCP": ("mqtt+tcp:tcp:{port}:interface=127.0.0.1", Mqtt),
    "mqtt over TLS": (
        "mqtt+tcp:ssl:{port}:interface=127.0.0.1:privateKey={keys}/key.pem:certKey={keys}/cert.pem",
        MqttOnTls,
    ),
    "mqtt over WebSocket": ("mqtt+websocket:tcp:{port}:interface=127.0.0.1", MqttOnWebSocket),
}
"""Wire and transport → where a node listens for it, and its client."""
