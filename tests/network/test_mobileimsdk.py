"""MobileIMSDK's clients at a real node: what was observed of the original, and where this is better."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificate import write_certificate
from tests.network.mobileimsdk import Object, Phone, UdpPhone, WebPhone, said
from tests.network.nodes import Node

pytestmark = pytest.mark.network
TESTS = Path(__file__).resolve().parents[1]
CAPTURES = TESTS / "protocols" / "captures" / "mobileimsdk"

Make = Callable[..., Node]


@pytest.fixture
def node(make_node: Make, tmp_path: Path) -> Node:
    listen = [
        "mobileimsdk+tcp:tcp:{tcp}:interface=127.0.0.1",
        "mobileimsdk+websocket:tcp:{ws}:interface=127.0.0.1",
        "mobileimsdk+udp:127.0.0.1:{tcp}",
    ]
    options = ["--set", "auth.authenticator=doorman"]
    return make_node(
        listen=listen, options=options, environment={"PYTHONPATH": str(TESTS / "doorman")}
    ).start()


@pytest.fixture
def phone(node: Node) -> Iterator[Callable[..., Phone]]:
    """``phone("tcp")``: a connection, closed with the test; with a user it has logged in."""
    made: list[Phone] = []

    def make(transport: str = "tcp", user: str = "", **more: Any) -> Phone:
        kinds: dict[str, Any] = {"tcp": Phone, "udp": UdpPhone, "ws": WebPhone}
        made.append(kinds[transport](node.ws if transport == "ws" else node.tcp))
        if user:
            made[-1].log_in(user, **more)
        return made[-1]

    yield make
    for one in made:
        one.close()


# --------------------------------------------------------------------------------------------------- captures


def times_aside(text: str) -> str:
    return re.sub(r'(firstLoginTime\\*":)\d+', r"\1…", text)


class Replay:
    """A capture's conversation: what its clients sent is sent, what they were answered must come."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.phones: dict[str, Phone] = {}
        self.ended: set[str] = set()

    def play(self, line: Object) -> None:
        name, is_ours = line["conn"], line["dir"] == "c2s"
        phone = self.phones.get(name) or self._open(name, line["transport"])
        if line.get("event") == "open" or name in self.ended:
            return
        if line.get("event"):
            if not is_ours:
                assert phone.hear() is None
            self.ended.add(name)
            phone.close()
        elif is_ours:
            phone.send(bytes.fromhex(line["hex"]))
        elif "http" in line:
            self._upgraded(phone.until(b"\r\n\r\n").decode(), line["http"])
        else:
            self._answered(phone.frame(), line, phone)

    def _open(self, name: str, transport: str) -> Phone:
        if transport == "ws":
            self.phones[name] = WebPhone(self._node.ws, upgrade=False)
        else:
            self.phones[name] = (UdpPhone if transport == "udp" else Phone)(self._node.tcp)
        return self.phones[name]

    def _upgraded(self, answer: str, captured: str) -> None:
        ours, theirs = (
            dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", text.lower())) for text in (answer, captured)
        )
        assert answer.startswith("HTTP/1.1 101 ")
        assert {name: ours.get(name) for name in theirs} == theirs
        assert not ours.keys() & {"sec-websocket-extensions", "sec-websocket-protocol"}

    def _answered(self, frame: bytes, line: Object, phone: Phone) -> None:
        if "json" in line:
            assert times_aside(phone.body_of(frame).decode()) == times_aside(line["json"])
        else:
            assert frame.hex() == line["hex"]


@pytest.mark.parametrize("name", sorted(path.stem for path in CAPTURES.glob("*.jsonl")))
def test_captures(node: Node, name: str) -> None:
    replay = Replay(node)
    lines = [json.loads(line) for line in (CAPTURES / f"{name}.jsonl").read_text().splitlines()]
    for line in lines:
        phone = replay.phones.get(line["conn"])
        if (line["dir"], line.get("event")) == ("c2s", "close:eof") and line["conn"] not in replay.ended:
            assert phone is not None
            assert phone.is_quiet()
        replay.play(line)
    for conn in replay.phones.keys() - replay.ended:  # datagrams have no end
        assert name == "login_refused" or replay.phones[conn].is_quiet()  # one answer a second to a stranger
        replay.phones[conn].close()


# ------------------------------------------------------------------------------------------------- real nodes


@pytest.mark.parametrize("transport", ["tcp", "ws", "udp"])
def test_what_is_for_somebody_away_outlives_the_process(
    node: Node, phone: Callable[..., Phone], transport: str
) -> None:
    ann = phone("tcp", "ann")
    ann.tell("bob", "a", "f")
    answer = ann.hear()
    assert answer is not None
    assert (answer["type"], answer["dataContent"]) == (4, "f")
    node.kill()
    node.start()
    ann, bob = phone("tcp", "ann"), phone(transport, "bob")
    ann.tell("bob", "again", "f")  # it is not sure, and says it again
    ann.hear()
    heard = bob.hear()
    assert heard == said(2, "a", "ann", "bob", fp="f", QoS=True)
    bob.confirm(heard)
    assert bob.is_quiet()
    bob.close()
    assert phone(transport, "bob").is_quiet()


def test_over_udp_a_stranger_is_told_once_a_second(node: Node, phone: Callable[..., Phone]) -> None:
    for _ in range(5):
        udp = phone("udp")
        udp.say(said(1, "{}", "bob"), said(1, "{}", "bob"))
        udp.knock("bob")
        answer, then = udp.hear(), udp.hear()
        assert answer is not None
        assert json.loads(answer["dataContent"])["errorCode"] == 301
        assert then is not None
        if then != answer:  # else they fell into two seconds, as on a busy machine they may
            break
    assert then["type"] == 50
    udp.say(said(1, "{}", "bob"), said(1, "{}", "bob"))
    assert udp.hear() == udp.hear() == said(51, "{}", "0", "bob")


def test_over_udp_what_is_malformed_forgets_the_session(node: Node, phone: Callable[..., Phone]) -> None:
    udp = phone("udp", "bob")
    udp.send(b"null")
    udp.say(said(1, "{}", "bob"))
    answer = udp.hear()
    assert answer is not None
    assert answer["type"] == 52


@pytest.mark.parametrize("transport", ["tcp", "ws"])
@pytest.mark.parametrize("kind", [1, 2, 4])
def test_strangers_are_told_and_sent_away(
    node: Node, phone: Callable[..., Phone], transport: str, kind: int
) -> None:
    stranger = phone(transport)
    stranger.say(said(kind, "{}", "bob"))
    answer = stranger.hear()
    assert answer is not None
    assert answer["type"] == 52
    assert stranger.hear() is None


def test_the_end_of_a_websocket(node: Node, phone: Callable[..., Phone]) -> None:
    for data, goodbye in (
        (b"null", b"\x03\xe8Bye"),
        (json.dumps(said(3, None, "bob")).encode(), b"\x03\xe8Bye"),
        (b" " * 65_537, b"\x03\xf1"),
    ):
        web: Any = phone("ws", "bob")
        web.send(web.framed(data))
        assert web.hear() is None
        assert web.goodbye == goodbye
    for how in ({"opcode": 2}, {"fin": False}):
        web = phone("ws", "bob")
        web.send(web.framed(json.dumps(said(1)).encode(), **how))
        assert web.hear() is None
        assert web.goodbye == b"\x03\xe8Bye"


def test_over_tcp_a_length_ends_it(node: Node, phone: Callable[..., Phone]) -> None:
    for head in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x18\x01"):
        tcp = phone("tcp", "bob")
        tcp.send(head)
        assert tcp.hear() is None


def test_over_tls(make_node: Make, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    files = f"privateKey={tmp_path / 'key.pem'}:certKey={tmp_path / 'cert.pem'}"
    node = make_node(
        listen=["mobileimsdk+tcp:ssl:{tcp}:interface=127.0.0.1:" + files],
        options=["--set", "auth.authenticator=doorman", "--set", "mobileimsdk.sm=true"],
        environment={"PYTHONPATH": str(TESTS / "doorman")},
    ).start()
    phone = Phone(node.tcp)
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    phone.socket = context.wrap_socket(phone.socket, server_hostname="localhost")
    phone.log_in("bob")
    phone.tell("bob", "to myself", "f")
    heard = {one["type"]: one for one in (phone.hear(), phone.hear()) if one is not None}
    assert heard[2]["dataContent"] == "to myself"
    assert abs(heard[4]["sm"] / 1000 - time.time()) < 60
    phone.close()


def test_with_our_own_tokens(make_node: Make) -> None:
    node = make_node(listen=["mobileimsdk+tcp:tcp:{tcp}:interface=127.0.0.1"])
    token = node.token("bob")
    node.start()
    bob, eve = Phone(node.tcp), Phone(node.tcp)
    assert bob.log_in("bob", token)
    content = {"loginUserId": "eve", "loginToken": token, "firstLoginTime": 0}
    eve.say(said(0, json.dumps(content), "eve"))
    answer = eve.hear()
    assert answer is not None
    assert json.loads(answer["dataContent"])["code"] == 1025
    assert eve.hear() is None
    assert bob.is_quiet()
    bob.close()
    eve.close()
