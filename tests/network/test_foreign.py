"""A package that knows only the interfaces brings a transport, a protocol and business, and is served."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .nodes import TWISTD, Node, eventually

pytestmark = pytest.mark.network
FOREIGN = Path(__file__).resolve().parent.parent / "foreign"
TURNED = bytes(255 - byte for byte in range(256))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package in a directory of its own: twistd writes a cache beside the plugin."""
    place = tmp_path / "site"
    shutil.copytree(FOREIGN, place, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return place


class Bird:
    """Speaks lines over the pigeon transport."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._lines = self._read()

    def say(self, line: str) -> None:
        self._socket.sendall((line + "\n").encode().translate(TURNED))

    def hear(self) -> str:
        return next(self._lines)

    def _read(self) -> Iterator[str]:
        left = b""
        while data := self._socket.recv(65_536):
            *lines, left = (left + data.translate(TURNED)).split(b"\n")
            yield from (line.decode() for line in lines)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def node(make_node: Callable[..., Node], installed: Path, tmp_path: Path) -> Node:
    options = [
        "--set auth.authenticator=feathers --set auth.policy=pecking --set plugins.backends=coop",
        "--set plugins.interceptors=plucking --set plugins.listeners=nest",
    ]
    return make_node(
        listen=["lines+pigeon:{tcp}", "lines+tcp:tcp:{ws}:interface=127.0.0.1"],
        options=" ".join(options).split(),
        environment={"PYTHONPATH": str(installed), "NEST": str(tmp_path / "nest")},
    ).start()


def test_it_is_served(node: Node, tmp_path: Path) -> None:
    robin, wren = Bird(node.tcp), Bird(node.tcp)
    robin.say("help")
    assert robin.hear() == "login, to, ask, bye"  # the codec's own answer
    robin.say("login robin")
    assert robin.hear() == "welcome robin"
    wren.say("login wren")
    assert wren.hear() == "welcome wren"
    robin.say("to user:wren a worm!")
    assert wren.hear() == "from robin a w**m!"
    robin.say("to user:wren the cat!")
    assert robin.hear() == "refused"
    robin.say("to user:crow hello")
    assert robin.hear() == "refused"
    robin.say("ask coop seeds")
    assert sorted([robin.hear(), robin.hear()]) == ["answer robin asks for seeds", "from coop noted"]
    wren.say("bye")
    wren.close()

    def diary() -> list[str]:
        return (tmp_path / "nest").read_text().splitlines()

    eventually(lambda: "closed wren 0" in diary())
    robin.say("to user:wren where are you?")
    eventually(lambda: "stored wren" in diary())
    assert diary() == ["opened robin", "opened wren", "closed wren 0", "stored wren"]
    again = Bird(node.tcp)
    again.say("login wren")
    assert [again.hear(), again.hear()] == ["welcome wren", "from robin where are you?"]
    again.say("nonsense")
    assert again.hear() == "bye 208"
    cat = Bird(node.tcp)
    cat.say("login cat")
    assert cat.hear() == "bye 204"
    for bird in (robin, again, cat):
        bird.close()


def test_its_protocol_rides_on_our_transport_too(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.ws), 10) as peer:
        peer.sendall(b"login robin\n")
        assert peer.recv(100) == b"welcome robin\n"


def test_it_is_listed(installed: Path, tmp_path: Path) -> None:
    command = [*TWISTD, "--data-dir", str(tmp_path / "data"), "--listen", "nothing+nowhere:1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
    assert done.returncode == 1
    assert "pigeon, tcp, udp, websocket" in done.stderr


@pytest.mark.usefixtures("installed")
def test_its_pieces_keep_the_interfaces(installed: Path) -> None:
    check = """
from zope.interface.verify import verifyObject
from twisted.plugin import getPlugins
from imgateway import interfaces as i
from imgateway_pigeon import business, lines, transport
for interface, provider in (
    (i.IProtocolAdapter, lines.Lines()), (i.ICodec, lines.LinesCodec(9)), (i.IBackend, business.Coop()),
    (i.ITransportAdapter, transport.PigeonTransport()), (i.IAuthenticator, business.Feathers()),
    (i.IPolicy, business.Pecking()), (i.IInterceptor, business.Plucking()),
    (i.ISessionListener, business.Nest()),
):
    assert verifyObject(interface, provider)
    assert interface is i.ICodec or provider.name in [plugin.name for plugin in getPlugins(interface)]
"""
    subprocess.run(
        [sys.executable, "-c", check],
        check=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )
