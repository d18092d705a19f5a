"""Clients of MQTT that nobody here wrote, as tests use them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from .nodes import Node, eventually

MQTT_JS = "5.16.0"
V3, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
LISTEN = (
    "mqtt+tcp:tcp:{tcp}:interface=127.0.0.1",
    "mqtt,native+websocket:tcp:{ws}:interface=127.0.0.1",
)


def about(kind: int, **values: Any) -> Properties:
    """Properties for a packet of paho's `PacketTypes`, such as ``SessionExpiryInterval=60``."""
    properties = Properties(kind)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class Paho:
    """paho-mqtt with a thread of its own, and what it was told.

    :param expiry_s: in MQTT 5 how long the session is kept; 3.1.1 keeps it unless it is 0.
    """

    def __init__(
        self,
        node: Node,
        user: str,
        version: MQTTProtocolVersion = V3,
        expiry_s: int = 3_600,
        device: str = "phone",
        transport: Literal["tcp", "websockets"] = "tcp",
        token: str = "",
        manual: bool = False,
        **grants: Any,
    ) -> None:
        self.node = node
        more: dict[str, Any] = {"clean_session": expiry_s == 0} if version == V3 else {}
        self.client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            device,
            protocol=version,
            transport=transport,
            reconnect_on_failure=False,
            manual_ack=manual,
            **more,
        )
        client.username_pw_set(user, token or node.token(user))
        if transport == "websockets":
            client.ws_set_options(path="/mqtt")
        self.version = version
        self.port = node.ws if transport == "websockets" else node.tcp
        self.expiry_s = expiry_s
        self.keepalive_s = 60
        self.clean = expiry_s == 0
        self.messages: Queue[paho.MQTTMessage] = Queue()
        self.connected: list[tuple[Any, Any, Any]] = []
        self.disconnected: list[Any] = []
        self.granted: dict[int | None, list[int]] = {}
        self.published: dict[int, Any] = {}
        client.on_connect = lambda c, u, flags, reason, about: self.connected.append((flags, reason, about))
        client.on_disconnect = lambda c, u, flags, reason, about: self.disconnected.append(reason)
        client.on_message = lambda c, u, message: self.messages.put(message)
        client.on_subscribe = lambda c, u, mid, codes, about: self.granted.update(
            {mid: [code.value for code in codes]}
        )
        client.on_publish = lambda c, u, mid, reason, about: self.published.update({mid: reason})

    def connect(self, receive_maximum: int = 0) -> Paho:
        """Connect and wait for CONNACK, whatever it says.

        paho gives up if it has not come within the keepalive, which a busy machine can take; then once more.
        """
        before, ends = len(self.connected), len(self.disconnected)
        more: dict[str, Any] = {}
        if self.version == V5:
            said = {"SessionExpiryInterval": self.expiry_s}
            if receive_maximum:
                said["ReceiveMaximum"] = receive_maximum
            more = {"clean_start": self.clean, "properties": about(PacketTypes.CONNECT, **said)}

        def attempt() -> None:
            self.client.connect("127.0.0.1", self.port, keepalive=self.keepalive_s, **more)
            self.client.loop_start()

        def answered() -> bool:
            if len(self.connected) == before and len(self.disconnected) > ends:
                self.client.loop_stop()
                del self.disconnected[ends:]
                attempt()
            return len(self.connected) > before

        attempt()
        eventually(answered, what="CONNACK")
        return self

    @property
    def refused(self) -> int:
        """What the last CONNACK said, as MQTT 5 numbers it; 0: welcome."""
        reason: int = self.connected[-1][1].value
        return reason

    def present(self) -> bool:
        """The last CONNACK's session present."""
        present: bool = self.connected[-1][0].session_present
        return present

    def subscribe(self, *topics: tuple[str, int]) -> list[int]:
        """What was granted."""
        if self.version == V5:
            filters: Any = [(topic, SubscribeOptions(qos=qos)) for topic, qos in topics]
        else:
            filters = list(topics)
        _, mid = self.client.subscribe(filters)
        granted: list[int] = eventually(lambda: self.granted.get(mid), what="SUBACK")
        return granted

    def publish(self, topic: str, body: bytes, qos: int = 1, **more: Any) -> Any:
        """Publish, and wait for its PUBACK: the reason."""
        mid = self.client.publish(topic, body, qos, **more).mid
        return eventually(lambda: self.published.get(mid), what="PUBACK")

    def message(self) -> paho.MQTTMessage:
        return self.messages.get(timeout=20)

    def bodies(self, count: int) -> list[bytes]:
        return [bytes(self.message().payload) for _ in range(count)]

    def settle(self) -> None:
        """Back when the node has read every PUBACK for what was shown by now.

        paho sends it after it has shown a message: it was sent before the first answer came, and read before
        the second.
        """
        for _ in range(2):
            self.publish("user/nobody", b"settle")

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def cut(self) -> None:
        """The connection is gone without a word."""
        sock: Any = self.client.socket()
        sock.shutdown(socket.SHUT_RDWR)
        eventually(lambda: self.disconnected, what="the end")
        self.disconnected.clear()
        self.client.loop_stop()


def mosquitto(program: str, node: Node, user: str, *options: str) -> list[str]:
    """The command line of mosquitto_pub or mosquitto_sub."""
    return [program, "-h", "127.0.0.1", "-p", str(node.tcp), "-u", user, "-P", node.token(user), *options]


def mqtt_js() -> Path:
    """Where npm's ``mqtt`` is installed: in the environment of these tests, once."""
    place = Path(sys.prefix) / "npm" / f"mqtt-{MQTT_JS}"
    npm = shutil.which("npm")
    assert npm, "this test needs npm:  sudo apt-get install -y npm"
    if not (place / "node_modules" / "mqtt" / "package.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(place), "--no-fund", "--no-audit", f"mqtt@{MQTT_JS}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)} failed: {done.stderr[-500:]}"
    return place


def running(command: Sequence[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
