"""paho, mosquitto's tools and npm's mqtt speak with a real node."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from tests.protocols import mqtt as packets

from .mqtt import LISTEN, V3, V5, Paho, about, mosquitto, mqtt_js, running
from .nodes import Node, eventually

pytestmark = pytest.mark.network
both = pytest.mark.parametrize("version", [V3, V5])


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(listen=LISTEN).start()


@contextmanager
def here(*clients: Paho) -> Iterator[None]:
    try:
        yield
    finally:
        for client in clients:
            client.leave()


@both
@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_messages_both_ways(node: Node, version: MQTTProtocolVersion, transport: Any) -> None:
    alice = Paho(node, "alice", version, transport=transport).connect()
    bob = Paho(node, "bob", V5 if version == V3 else V3).connect()
    with here(alice, bob):
        for qos in (0, 1, 2):
            body = b"%d " % qos + bytes(range(256)) * 240
            alice.publish("user/bob", body, qos)
            message = bob.message()
            assert (message.topic, message.payload, message.qos) == ("user/bob", body, min(qos, 1))
            bob.publish("user/alice", b"re", qos)
            assert alice.message().payload == b"re"
    assert node.measure("imgateway_protocol_errors_total") == 0


@both
def test_what_came_while_away_comes_after_reconnecting_and_once(
    node: Node, version: MQTTProtocolVersion
) -> None:
    bob = Paho(node, "bob", version).connect()
    assert not bob.present()
    bob.leave()
    alice = Paho(node, "alice").connect()
    with here(alice):
        for number in range(150):
            alice.publish("user/bob", b"%d" % number)
    bob.connect()
    assert bob.present()
    assert bob.bodies(150) == [b"%d" % number for number in range(150)]
    bob.settle()
    bob.cut()
    bob.connect()
    with here(bob):
        time.sleep(0.2)
        assert bob.messages.empty()


@both
def test_what_was_not_acknowledged_comes_again(node: Node, version: MQTTProtocolVersion) -> None:
    alice, bob = Paho(node, "alice").connect(), Paho(node, "bob", version, manual=True).connect()
    for number in range(5):
        alice.publish("user/bob", b"%d" % number)
    mids = [bob.message().mid for _ in range(5)]
    for index in (0, 1, 3):
        bob.client.ack(mids[index], 1)
    bob.settle()
    bob.cut()
    bob.connect()
    with here(alice, bob):
        assert bob.bodies(3) == [b"2", b"3", b"4"]


@both
def test_kill_9_between_publish_and_puback(node: Node, version: MQTTProtocolVersion) -> None:
    """Whatever the client does not know to be taken it sends again, with DUP; the log has it once."""
    alice = Paho(node, "alice", version)
    alice.client.max_inflight_messages_set(20)

    def published(client: Any, data: Any, mid: int, reason: Any, about: Any) -> None:
        alice.published[mid] = reason
        if len(alice.published) == 31:  # here, in paho's thread, however late ours looks
            node.signal(signal.SIGKILL)

    alice.client.on_publish = published
    alice.connect()
    for number in range(300):
        alice.client.publish("user/bob", b"%d" % number, 1)
    eventually(lambda: len(alice.published) > 30)
    node.kill()
    eventually(lambda: alice.disconnected)
    alice.client.loop_stop()
    assert len(alice.published) < 300
    node.start()
    alice.connect()
    with here(alice):
        eventually(lambda: len(alice.published) == 300)
        alice.publish("user/bob", b"end")
    bob = Paho(node, "bob").connect()
    with here(bob):
        assert bob.bodies(301) == [*[b"%d" % number for number in range(300)], b"end"]


class Raw:
    """A client that does only what it is told: it never acknowledges, and need not hear."""

    def __init__(self, node: Node, clean: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", node.tcp), 10)
        self.socket.sendall(packets.connect(4, "meter", clean, token=node.token("meter").encode()))
        self.connack = self.hear(4)

    def say(self, *said: bytes) -> None:
        self.socket.sendall(b"".join(said))

    def hear(self, size: int) -> bytes:
        heard = b""
        while len(heard) < size:
            part = self.socket.recv(size - len(heard))
            assert part, "the connection ended"
            heard += part
        return heard

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], [7, 7, 7, 7]])
def test_kill_9_between_commit_and_puback(node: Node, ids: list[int]) -> None:
    """Also for a client that uses one packet id for all: then only the last one may be sent again."""
    meter = Raw(node)
    for number, packet_id in enumerate(ids):
        meter.say(packets.publish("user/bob", b"%d" % number, packet_id))
    eventually(lambda: node.measure("imgateway_store_entries_total") == 4)
    node.kill()
    meter.close()
    node.start()
    meter = Raw(node)
    assert meter.connack == b"\x20\x02\x01\x00"
    again = [
        (number, packet_id) for number, packet_id in enumerate(ids) if packet_id not in ids[number + 1 :]
    ]
    meter.say(*[packets.publish("user/bob", b"%d" % n, packet_id, dup=True) for n, packet_id in again])
    for _, packet_id in again:
        assert meter.hear(4) == packets.puback(packet_id)
    meter.say(packets.publish("user/bob", b"3", 7))  # the same again, but new
    meter.say(packets.publish("user/bob", b"end", 8))
    assert meter.hear(8) == packets.puback(7) + packets.puback(8)
    meter.close()
    bob = Paho(node, "bob").connect()
    with here(bob):
        assert bob.bodies(6) == [b"0", b"1", b"2", b"3", b"3", b"end"]


@both
def test_takeover(node: Node, version: MQTTProtocolVersion) -> None:
    one, two = Paho(node, "alice", version), Paho(node, "alice", version)
    one.connect()
    two.connect()
    with here(two):
        reason = eventually(lambda: one.disconnected)[0]
        assert version == V3 or reason.value == 0x8E
        two.publish("user/alice", b"still here")
        assert two.message().payload == b"still here"
    one.client.loop_stop()


@both
def test_keepalive(node: Node, version: MQTTProtocolVersion) -> None:
    """Pings keep a quiet connection; without them it ends after one and a half times the keepalive."""
    quiet = Paho(node, "alice", version)
    quiet.keepalive_s = 2

    def stays() -> bool:
        quiet.disconnected.clear()
        quiet.connect()
        with here(quiet):
            time.sleep(4)
            return not quiet.disconnected

    # paho says something no earlier than it must: a machine that stands still for a second ends it.
    assert any(stays() for _ in range(3))
    ended = 'imgateway_links_closed_total{code="HEARTBEAT_TIMEOUT"}'
    before = node.measure(ended)
    silent = Paho(node, "bob", version)
    silent.keepalive_s = 1
    silent.connect()
    silent.client.loop_stop()
    eventually(lambda: node.measure(ended) == before + 1)


@both
def test_a_will_is_said_when_the_client_is_killed_and_not_when_it_leaves(
    node: Node, version: MQTTProtocolVersion
) -> None:
    bob = Paho(node, "bob").connect()
    with here(bob):
        for how, wills in (("leave", 0), ("cut", 1)):
            alice = Paho(node, "alice", version)
            alice.client.will_set("user/bob", b"gone", 1)
            alice.connect()
            getattr(alice, how)()
            if wills:
                assert bob.message().payload == b"gone"
        alice = Paho(node, "alice", version)
        alice.connect()
        alice.cut()
        time.sleep(0.3)
        assert bob.messages.empty()


def test_a_will_with_a_delay_is_not_said_if_the_client_is_back(node: Node) -> None:
    bob = Paho(node, "bob").connect()
    delayed = about(PacketTypes.WILLMESSAGE, WillDelayInterval=1)

    def back_in_time(will: bytes) -> bool:
        """Where it is not, as on a busy machine, the will is said, as it should be."""
        alice = Paho(node, "alice", V5)
        alice.client.will_set("user/bob", will, 1, properties=delayed)
        alice.connect()
        left = time.monotonic()
        alice.cut()
        alice.client.will_clear()
        alice.connect()
        with here(alice):
            if time.monotonic() - left >= 1:
                return False
            time.sleep(1.5)
            assert will not in [message.payload for message in bob.messages.queue]
            return True

    with here(bob):
        assert any(back_in_time(b"gone %d" % attempt) for attempt in range(5))


@both
def test_rooms(node: Node, version: MQTTProtocolVersion) -> None:
    clients = [Paho(node, f"u{number}", version).connect() for number in range(5)]
    with here(*clients):
        for client in clients:
            assert client.subscribe(("room/7", 1)) == [0]
        clients[0].publish("room/7", b"to all")
        for client in clients:
            message = client.message()
            assert (message.topic, message.payload, message.qos) == ("room/7", b"to all", 0)
        clients[1].client.unsubscribe("room/7")
        eventually(lambda: clients[0].publish("room/7", b"again") is not None)
        time.sleep(0.2)
        clients[0].publish("room/7", b"last")
        for client in clients[2:4]:
            assert client.bodies(2) == [b"again", b"last"]
        newcomer = Paho(node, "late", version).connect()
        with here(newcomer):
            newcomer.subscribe(("room/7", 0))
            message = newcomer.message()
            assert (message.payload, message.retain) == (b"last", True)
        for client in clients:  # they come back to their rooms by themselves
            client.cut()
            client.connect()
        clients[0].publish("room/7", b"new")
        assert clients[3].message().payload == b"new"


def service(node: Node, user: str, version: MQTTProtocolVersion, **more: Any) -> Paho:
    return Paho(node, user, version, token=node.token(user, service=True), **more)


@both
@pytest.mark.parametrize("qos", [0, 1])
def test_topics(node: Node, version: MQTTProtocolVersion, qos: int) -> None:
    alice, bob = service(node, "alice", version).connect(), service(node, "bob", version)
    with here(alice):
        alice.publish("topic/weather/oslo", b"rain", retain=True)
        alice.publish("topic/weather/oslo", b"snow", retain=True)
        bob.connect()
        assert bob.subscribe(("topic/weather/oslo", qos)) == [qos]
        message = bob.message()
        assert (message.topic, message.payload) == ("topic/weather/oslo", b"snow")
        assert (message.retain, message.qos) == (True, qos)
        alice.publish("topic/weather/oslo", b"sun")
        message = bob.message()
        assert (message.payload, message.retain) == (b"sun", False)
        bob.settle()
        bob.cut()
        for number in range(100):
            alice.publish("topic/weather/oslo", b"%d" % number)
        bob.connect()
        assert bob.bodies(100) == [b"%d" % number for number in range(100)]
        time.sleep(0.2)
        bob.leave()
        bob.clean = True
        again = service(node, "bob", version, expiry_s=0)
        again.connect()
        alice.publish("topic/weather/oslo", b"fog")
        with here(again):
            time.sleep(0.3)
            assert again.messages.empty()
            again.subscribe(("topic/weather/oslo", qos))
            message = again.message()
            assert (message.payload, message.retain) == (b"fog", True)


def test_receive_maximum_1(node: Node) -> None:
    alice = Paho(node, "alice").connect()
    bob = service(node, "bob", V5, manual=True).connect(receive_maximum=1)
    with here(alice, bob):
        bob.subscribe(("topic/t", 1))
        bob.publish("topic/t", b"t")
        for number in range(3):
            alice.publish("user/bob", b"%d" % number)
        seen = []
        for _ in range(4):
            message = bob.message()
            seen.append(message.payload)
            time.sleep(0.1)
            assert bob.messages.empty()
            bob.client.ack(message.mid, 1)
        assert sorted(seen) == [b"0", b"1", b"2", b"t"]


def test_refusals_of_3_1_1(node: Node) -> None:
    assert Paho(node, "alice", V3, token="nonsense").connect().refused == 0x86
    assert Paho(node, "mallory", V3, token=node.token("alice")).connect().refused == 0x86
    assert Paho(node, "alice", V3, device="x" * 65).connect().refused == 0x85
    alice = Paho(node, "alice", V3).connect()
    with here(alice):
        assert alice.subscribe(("topic/#", 1), ("user/bob", 1), ("topic/secret", 0)) == [0x80, 0x80, 0x80]
        assert alice.publish("topic/secret", b"x") is not None  # said to be done, and dropped
        assert alice.publish("home/kitchen", b"x") is not None
    assert node.measure('imgateway_outcomes_total{code="FORBIDDEN"}') == 1


def test_refusals_of_5(node: Node) -> None:
    assert Paho(node, "alice", V5, token="nonsense").connect().refused == 0x86
    assert Paho(node, "mallory", V5, token=node.token("alice")).connect().refused == 0x86
    assert Paho(node, "alice", V5, device="x" * 65).connect().refused == 0x85
    alice = Paho(node, "alice", V5, device="").connect()
    with here(alice):
        assert alice.connected[-1][2].AssignedClientIdentifier
        filters = ("topic/#", 1), ("user/bob", 1), ("topic/secret", 0), ("$share/g/user/alice", 1)
        assert alice.subscribe(*filters)[:1] + alice.subscribe(*filters)[2:] == [0xA2, 0x87, 0x9E]
        assert alice.publish("topic/secret", b"x").value == 0x87
        assert alice.publish("home/kitchen", b"x").value == 0x90
        assert alice.publish("room/7", b"x").value == 0x87  # not in it
    eventually(lambda: node.measure("imgateway_links_open") == 0)


@both
def test_clients_without_an_id_are_different_and_leave_nothing_behind(
    node: Node, version: MQTTProtocolVersion
) -> None:
    alice = Paho(node, "alice").connect()
    some = [Paho(node, "bob", version, expiry_s=0, device="").connect() for _ in range(3)]
    with here(alice):
        alice.publish("user/bob", b"now")
        for client in some:
            assert client.message().payload == b"now"
            assert not client.disconnected
        some[0].cut()
        some[1].leave()
        some[2].leave()
        eventually(lambda: node.measure("imgateway_sessions") == 1)
        alice.publish("user/bob", b"later")
        late = Paho(node, "bob", version, expiry_s=0, device="").connect()
        with here(late):
            alice.publish("user/bob", b"new")
            assert late.message().payload == b"new"


def test_request_and_response_of_5(node: Node) -> None:
    alice, bob = Paho(node, "alice", V5).connect(), Paho(node, "bob", V5).connect()
    with here(alice, bob):
        asked = about(
            PacketTypes.PUBLISH,
            ResponseTopic="user/alice",
            CorrelationData=b"\x00\xff",
            ContentType="application/json",
            MessageExpiryInterval=60,
            UserProperty=[("lang", "no")],
        )
        alice.publish("user/bob", b"{}", properties=asked)
        message = bob.message()
        got: Any = message.properties
        assert (got.ResponseTopic, got.CorrelationData) == ("user/alice", b"\x00\xff")
        assert got.ContentType == "application/json"
        assert 0 < got.MessageExpiryInterval <= 60
        pairs = dict(got.UserProperty)
        assert pairs.pop("imgateway.msg_id")
        assert pairs == {"lang": "no", "imgateway.sender": "alice", "imgateway.device": "phone"}


# ------------------------------------------------------------------------------------------------ mosquitto


@pytest.mark.server
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_s_tools(node: Node, version: str) -> None:
    listening = running(
        mosquitto(
            "mosquitto_sub", node, "bob", "-V", version, "-i", "kitchen", "-t", "user/bob", "-t", "room/7",
            "-q", "1", "-C", "4", "-v", "-d", "-W", "20",
        )
    )  # fmt: skip
    eventually(lambda: node.measure("imgateway_sessions") == 1)
    for qos in "012":
        command = mosquitto(
            "mosquitto_pub", node, "alice", "-V", version, "-i", "hall", "-t", "user/bob", "-m", f"hi {qos}",
            "-q", qos,
        )  # fmt: skip
        subprocess.run(command, check=True, timeout=20, capture_output=True)
    carol = Paho(node, "carol").connect()
    with here(carol):
        carol.subscribe(("room/7", 0))
        carol.publish("room/7", b"room")
    out, err = listening.communicate(timeout=20)
    lines = [line for line in out.splitlines() if line.startswith(("user/bob ", "room/7 "))]
    assert listening.returncode == 0, err
    assert sorted(lines) == ["room/7 room", "user/bob hi 0", "user/bob hi 1", "user/bob hi 2"]


@pytest.mark.server
def test_mosquitto_sub_gets_what_waited(node: Node) -> None:
    # One message at a time: it leaves at once, and a second one that it has not read would cost its PUBACK.
    one_by_one = "-V mqttv5 -D connect receive-maximum 1 -q 1 -C 1 -W 20"
    listen = mosquitto(
        "mosquitto_sub", node, "bob", "-i", "kitchen", "-c", "-t", "user/bob", *one_by_one.split()
    )
    first = running(listen)
    eventually(lambda: node.measure("imgateway_sessions") == 1)
    publish = mosquitto("mosquitto_pub", node, "alice", "-i", "hall", "-t", "user/bob", "-q", "1", "-m")
    for number in range(3):
        subprocess.run([*publish, str(number)], check=True, timeout=20, capture_output=True)
    heard = [first.communicate(timeout=20)[0]]
    for _ in range(2):
        # Until its PUBACK was read, the next one is told the same again.
        eventually(lambda: node.measure("imgateway_sessions_linked") == 0)
        heard.append(running(listen).communicate(timeout=20)[0])
    assert "".join(heard).split() == ["0", "1", "2"]


# -------------------------------------------------------------------------------------------------- mqtt.js

SCRIPT = """
const mqtt = require(process.argv[2]);
const [url, token, version] = process.argv.slice(3);
const client = mqtt.connect(url, {
  protocolVersion: Number(version), clientId: "browser", username: "alice", password: token,
  clean: false, reconnectPeriod: 0, properties: version === "5" ? {sessionExpiryInterval: 60} : undefined,
});
const tell = (...what) => console.log(JSON.stringify(what));
client.on("connect", answer => {
  tell("connect", answer.sessionPresent);
  client.subscribe({"user/alice": {qos: 1}, "room/7": {qos: 1}}, () => {
    client.publish("user/alice", Buffer.from("to myself"), {qos: 1}, error => tell("puback", !error));
    client.publish("room/7", "to the room", {qos: 2}, error => tell("pubcomp", !error));
  });
});
client.on("packetreceive", packet => packet.cmd === "suback" && tell("granted", packet.granted));
let missing = 2;
client.on("message", (topic, body, packet) => {
  tell("message", topic, body.toString(), packet.qos);
  if (--missing === 0) setTimeout(() => client.end(false, {}, () => tell("end")), 300);
});
client.on("error", error => tell("error", error.message));
"""


@pytest.mark.server
@pytest.mark.parametrize("version", ["4", "5"])
def test_mqtt_js_over_websocket(node: Node, tmp_path: Any, version: str) -> None:
    place = mqtt_js() / "node_modules" / "mqtt"
    script = tmp_path / "client.js"
    script.write_text(SCRIPT)
    command = ["node", str(script), str(place), f"{node.ws_url}/mqtt", node.token("alice"), version]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert steps[:2] == [["connect", False], ["granted", [1, 0]]], done.stderr
    assert sorted(map(str, steps[2:])) == sorted(
        map(
            str,
            [
                ["puback", True],
                ["pubcomp", True],
                ["message", "user/alice", "to myself", 1],
                ["message", "room/7", "to the room", 0],
                ["end"],
            ],
        )
    )
