"""Every example that the documentation shows runs as it is shown, against the real node in memory."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

import twisted.plugins
from imgateway.auth.token import TokenAuthenticator
from imgateway.config import AuthSettings
from imgateway.config import load as load_settings
from imgateway.errors import CloseCode
from imgateway.frames import (
    Address,
    Bye,
    Deliver,
    Hello,
    OutcomeCode,
    Request,
    Response,
    ResumePoint,
    Start,
)
from imgateway.interfaces import IBackend, IInterceptor, IProtocolAdapter, ISessionListener
from imgateway.protocols.native import StreamCodec
from imgateway.tap.plugins import find
from imgateway.transports.tcp import TCPTransport
from tests.conformance.house import House
from tests.conformance.wires import WIRES

DOCS = Path(__file__).resolve().parents[2] / "docs"
TCP, _, JSON, _ = WIRES


@pytest.fixture
def build() -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def build(**arguments: Any) -> House:
        made.append(House(**arguments))
        return made[-1]

    yield build
    for house in made:
        house.close()


# --------------------------------------------------------------------------------------- the protocol's pages

VOLATILE = re.compile(r'"(epoch|generation|serverTimeMs|sentMs|timeMs|node)": ?"[^"]*"')


def checked_text(page: str) -> list[str]:
    """The lines of the block that a comment in the page says is checked here."""
    (block,) = re.findall(r"<!-- checked by a test -->\n```text\n(.*?)```", (DOCS / page).read_text(), re.S)
    return str(block).splitlines()


def test_the_conversation_in_json(build: Callable[..., House]) -> None:
    client = build().connect(JSON)
    came: list[bytes] = []
    received = client.received

    def listen(data: bytes) -> None:
        came.append(data)
        received(data)

    client.received = listen  # type: ignore[method-assign]
    epoch = ""
    lines = checked_text("protocol/json.md")
    assert len(lines) > 10
    for line in lines:
        way, text = line[:2], line[2:]
        if way == "> ":
            assert not came, f"the page does not show {came}"
            client.raw(re.sub(r'"epoch": "\d+"', f'"epoch": "{epoch}"', text).encode())
            continue
        answer = came.pop(0).decode()
        assert VOLATILE.sub(r'"\1"', answer) == VOLATILE.sub(r'"\1"', text)
        epoch = (re.findall(r'"epoch":"(\d+)"', answer) or [epoch])[0]
    assert not came
    assert client.gone == "closed by the peer with status 4000"


def test_the_bytes_of_a_greeting() -> None:
    shown = "".join(line[:36] for line in checked_text("protocol/connection.md"))
    point = ResumePoint(Address("user", "bob"), epoch=300, seq=7)
    hello = Hello("eyJ0", "phone", "ios", resume=(point,))
    assert StreamCodec(1_000).encode(hello) == bytes.fromhex(shown)


# ---------------------------------------------------------------------------------------------- the programs


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_chat_program(build: Callable[..., House]) -> None:
    house = build()
    program = load(DOCS / "examples" / "chat.py")
    shown: list[str] = []
    keyboards: list[Any] = []

    def open_keyboard(keyboard: Any) -> None:
        keyboard.makeConnection(StringTransport())
        keyboards.append(keyboard)

    talking = Deferred.fromCoroutine(
        program.chat(house.network, TCP.url, "alice", "bob", open_keyboard, shown.append)
    )
    house.settle()
    bob = house.login(TCP, "bob")
    keyboards[0].dataReceived(b"hello bob\n")
    assert bob.bodies() == [b"hello bob"]
    bob.publish("user:alice", body=b"hello alice")
    assert shown == ["you are alice", "bob: hello alice"]
    keyboards[0].connectionLost()
    house.advance(1)
    house.result(talking)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage: python chat.py URL TOKEN FRIEND"),
        ((TCP.url, "bad", "bob"), "BAD_TOKEN"),
        (("tcp://127.0.0.1:1", "alice", "bob"), "127.0.0.1:1"),
    ],
)
def test_the_chat_program_says_why_it_cannot(
    build: Callable[..., House], arguments: tuple[str, ...], said: str
) -> None:
    house = build()
    program = load(DOCS / "examples" / "chat.py")
    with pytest.raises(SystemExit) as ended:
        house.result(Deferred.fromCoroutine(program.main(house.network, *arguments)))
    assert said in str(ended.value)


def block(page: str, language: str, having: str) -> str:
    """The one code block of a page that has this text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)
    (found,) = [one for one in blocks if having in one]
    return str(found)


def test_the_program_in_the_readme(build: Callable[..., House], capsys: pytest.CaptureFixture[str]) -> None:
    house = build()
    names: dict[str, Any] = {"__name__": "hello"}
    exec(block("../README.md", "python", "async def hello"), names)
    house.result(Deferred.fromCoroutine(names["hello"](house.network, "alice")))
    assert capsys.readouterr().out == "0 1\n"
    assert house.login(TCP, "bob").bodies() == [b"hello"]


def test_a_token_of_ones_own(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("operations/keys.md", "python", "def token_for"), names)
    gate = TokenAuthenticator(AuthSettings(), str(tmp_path), time.time)
    secret = (tmp_path / "secrets" / "token.key").read_text().rstrip("\n")
    assert gate.authenticate(Hello(names["token_for"]("bob", secret)), "").user == "bob"


def test_the_plugins_section_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "imgateway.toml"
    file.write_text(block("extend/backend.md", "toml", "[plugins]"))
    assert load_settings(str(file)).plugins.backends == ("directory",)


# ------------------------------------------------------------------------------------------------ the package


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if ``pip install docs/examples/house_rules`` had been run."""
    package = DOCS / "examples" / "house_rules"
    monkeypatch.syspath_prepend(str(package))
    folders = [*twisted.plugins.__path__, str(package / "twisted" / "plugins")]
    monkeypatch.setattr(twisted.plugins, "__path__", folders)
    yield
    for name in [name for name in sys.modules if name.split(".")[-1].startswith("house_rules")]:
        del sys.modules[name]
    (package / "twisted" / "plugins" / "dropin.cache").unlink(missing_ok=True)


def plugin(interface: Any, name: str) -> Any:
    found: Any = find(interface, name, "plugins")
    verifyObject(interface, found)
    return found


def test_the_backend_says_who_is_online(installed: None, build: Callable[..., House]) -> None:
    house = build(backends=[plugin(IBackend, "directory")])
    house.login(TCP, "bob", "phone")
    house.login(TCP, "bob", "laptop")
    alice = house.login(TCP, "alice")
    alice.send(Request(1, "directory", "online", b'["bob", "eve"]'))
    assert json.loads(alice.take(Response).body) == {"bob": ["laptop", "phone"], "eve": []}
    for method, body in (("online", b'{"bob": 1}'), ("online", b"no JSON"), ("weather", b"")):
        alice.send(Request(2, "directory", method, body))
        assert alice.take(Response).code == 100


def test_the_interceptor_minds_the_words(installed: None, build: Callable[..., House]) -> None:
    house = build(interceptors=[plugin(IInterceptor, "word-guard")])
    alice, bob = house.login(TCP, "alice"), house.login(TCP, "bob")
    alice.publish("user:bob", "1", b"Oh Darn", content_type="text/plain")
    alice.publish("user:bob", "2", b"darn", content_type="application/octet-stream")
    assert bob.bodies() == [b"Oh ****", b"darn"]
    refused = alice.publish("user:bob", "3", b"x" * 5_000, content_type="text/plain")
    assert refused.outcomes[0].code == OutcomeCode.TOO_LARGE


def test_the_listener_pushes_once(installed: None, build: Callable[..., House]) -> None:
    notes: list[Any] = []
    answers: list[Deferred[None]] = []

    def send(note: Any) -> Deferred[None]:
        notes.append(note)
        answers.append(Deferred())
        return answers[-1]

    push = type(plugin(ISessionListener, "offline-push"))(send)
    house = build(listeners=[push])
    alice = house.login(TCP, "alice")
    alice.publish("user:bob", "1")
    alice.publish("user:bob", "2")
    assert notes == [{"user": "bob", "from": "alice", "type": ""}]
    bob = house.login(TCP, "bob", start=Start.HEAD)
    bob.send(Bye(0))
    alice.publish("user:bob", "3")
    assert len(notes) == 2
    answers[1].errback(ConnectionRefusedError("nobody there"))
    alice.publish("user:bob", "4")
    assert len(notes) == 3
    answers[2].callback(None)
    alice.publish("user:bob", "5")
    assert len(notes) == 3


def test_without_a_push_service_there_is_one_warning(
    installed: None, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUSH_URL", raising=False)
    house = build(listeners=[type(plugin(ISessionListener, "offline-push"))()])
    alice = house.login(TCP, "alice")
    with capturedLogs() as logs:
        alice.publish("user:bob", "1")
        alice.publish("user:bob", "2")
    assert [formatEvent(event) for event in logs if event["log_level"] >= LogLevel.warn] == [
        "PUSH_URL is not set: nobody is notified"
    ]


def test_the_program_that_asks_the_backend(
    installed: None, build: Callable[..., House], capsys: pytest.CaptureFixture[str]
) -> None:
    house = build(backends=[plugin(IBackend, "directory")])
    house.login(TCP, "bob", "cli-listen")
    names: dict[str, Any] = {"__name__": "who"}
    exec(block("extend/backend.md", "python", "async def who_is_online"), names)
    house.result(Deferred.fromCoroutine(names["who_is_online"](house.network, "alice")))
    shown = capsys.readouterr().out.strip()
    assert shown == 'b\'{"alice": ["desk"], "bob": ["cli-listen"]}\''
    assert shown in (DOCS / "extend" / "backend.md").read_text()


def test_the_protocol_of_lines(installed: None, build: Callable[..., House]) -> None:
    house = build()
    adapter = plugin(IProtocolAdapter, "lines")
    accept = house.node.exchange.accept
    house.node.listeners.append(
        house.result(TCPTransport().listen("tcp:7903", [adapter], accept, house.network, {}))
    )
    peer = Telnet(house, 7903)
    assert peer.say("PING") == ["PONG"]
    assert peer.say("LOGIN alice meter") == ["HELLO alice"]
    assert peer.say("SEND 17 user:bob how are you?") == ["OK 17"]
    assert peer.say("SEND 18 room:7 hello") == ["NO 18 FORBIDDEN"]
    bob = house.login(TCP, "bob")
    assert bob.bodies() == [b"how are you?"]
    bob.publish("user:alice", "1", b"fine", content_type="text/plain")
    bob.publish("user:alice", "2", b"two\nlines", content_type="text/plain")
    bob.publish("user:alice", "3", b"and you?", content_type="text/plain")
    # The second cannot be said in lines; it is kept for a device of the same name that can say it.
    assert peer.say("PING") == ["FROM bob fine", "FROM bob and you?", "PONG"]
    assert peer.say("BYE") == []
    assert house.login(TCP, "alice", "meter").bodies() == [b"two\nlines"]
    other = Telnet(house, 7903)
    assert other.say("NONSENSE") == [f"BYE {int(CloseCode.BAD_FRAME)} not a line of this protocol"]
    long = Telnet(house, 7903)
    assert long.say("x" * 9_000)[0].startswith(f"BYE {int(CloseCode.FRAME_TOO_LARGE)} ")


def test_lines_come_in_any_pieces(installed: None) -> None:
    codec = plugin(IProtocolAdapter, "lines").codec(True, 100)
    text = b"LOGIN t d\r\nSEND 1 user:bob hi\n"
    frames = [frame for byte in text for frame in codec.receive(bytes((byte,)))]
    assert frames == list(plugin(IProtocolAdapter, "lines").codec(True, 100).receive(text))
    assert len(frames) == 2
    assert codec.encode(Deliver(Address("user", "bob"), 0, 1, 0, 1, ())) == b""


class Telnet:
    """A person at a terminal."""

    def __init__(self, house: House, port: int) -> None:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
        from twisted.internet.protocol import Protocol

        self._house = house
        self._protocol: Any = Protocol()
        self._text = b""
        self._protocol.dataReceived = self._received
        endpoint = TCP4ClientEndpoint(house.network, "127.0.0.1", port)
        house.result(connectProtocol(endpoint, self._protocol))

    def _received(self, data: bytes) -> None:
        self._text += data

    def say(self, line: str) -> list[str]:
        """The lines that came since the last time."""
        self._protocol.transport.write(line.encode() + b"\n")
        self._house.settle()
        lines, self._text = self._text.decode().splitlines(), b""
        return lines
