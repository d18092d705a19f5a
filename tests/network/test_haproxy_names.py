"""HAProxy with deploy/'s file where nodes have names, as containers have: it starts before them, follows them
to other addresses, and says what happens to them once."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .nodes import DEADLINE_S, Ports, eventually, holding_ports

pytestmark = [pytest.mark.network, pytest.mark.server]

DEPLOY = Path(__file__).parents[2] / "deploy"
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
PROXY_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


class Names:
    """A DNS server: `known` has the addresses of names; the others do not exist."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while question := self._socket.recvfrom(4_096):
            data, peer = question
            if not data:
                return
            end = data.index(b"\0", 12) + 1
            name, (kind,) = data[13 : end - 1].decode(), struct.unpack_from("!H", data, end)
            address = self.known.get(name)
            answers = b""
            if address is not None and kind == 1:  # A
                answers = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 0, 4, socket.inet_aton(address))
            flags = 0x8180 if address is not None else 0x8183  # no error, no such name
            head = struct.pack("!2sHHHHH", data[:2], flags, 1, bool(answers), 0, 0)
            self._socket.sendto(head + data[12 : end + 4] + answers, peer)

    def end(self) -> None:
        host, _, port = self.place.partition(":")
        self._socket.sendto(b"", (host, int(port)))
        self._thread.join()
        self._socket.close()


class Place:
    """What a node is to HAProxy: ready, and a listener for clients, who are told where they have come."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self._socket = socket.create_server((host, port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._socket.accept()
            with client, contextlib.suppress(OSError):  # it may go again without a word
                client.settimeout(DEADLINE_S)
                asked = client.recv(4_096)
                if asked.startswith(b"GET /readyz"):
                    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                elif asked.startswith(PROXY_V2):
                    client.sendall(self.host.encode())
                elif asked == b"end":
                    return

    def end(self) -> None:
        with socket.create_connection(self._socket.getsockname(), DEADLINE_S) as last:
            last.sendall(b"end")
        self._thread.join()
        self._socket.close()


class Front:
    """HAProxy, with two nodes that it knows by the names a and b."""

    def __init__(self, directory: Path, ports: Ports, resolver: str) -> None:
        self.tcp, self.stats, self.node = ports.take(), ports.take(), ports.take()
        self._log = directory / "haproxy.log"
        environment = {
            "CLIENTS_TCP": f"127.0.0.1:{self.tcp}",
            "CLIENTS_WS": f"127.0.0.1:{ports.take()}",
            "STATS": f"127.0.0.1:{self.stats}",
            "RESOLVER": resolver,
        }
        for name in "AB":
            environment[f"{name}_TCP"] = environment[f"{name}_WS"] = f"{name.lower()}:{self.node}"
            environment[f"{name}_HTTP"] = str(self.node)
        assert HAPROXY is not None, "install it with:  sudo apt-get install haproxy"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [HAPROXY, "-db", "-f", str(DEPLOY / "haproxy.cfg")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def said(self) -> list[str]:
        return self._log.read_text().splitlines()

    def status(self) -> dict[str, str]:
        """What it thinks of each node; nothing before it answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.stats}/;csv", timeout=5) as answer:
                rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
                return {row["svname"]: row["status"] for row in rows if row["pxname"] == "tcp"}
        except OSError:
            return {}

    def leads_to(self) -> str:
        with socket.create_connection(("127.0.0.1", self.tcp), DEADLINE_S) as client:
            return client.recv(100).decode()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    try:
        yield names
    finally:
        names.end()


@pytest.fixture
def front(tmp_path: Path, names: Names) -> Iterator[Front]:
    with holding_ports() as ports:
        front = Front(tmp_path, ports, names.place)
        try:
            yield front
        finally:
            front.end()


def test_nodes_may_come_later_and_elsewhere(front: Front, names: Names) -> None:
    eventually(front.status, what=f"the start: {front.said()}")
    assert not any(status.startswith("UP") for name, status in front.status().items() if name in "ab")
    assert front.leads_to() == ""
    first, second = Place("127.0.0.2", front.node), Place("127.0.0.3", front.node)
    try:
        names.known["a"] = first.host
        eventually(lambda: front.leads_to() == first.host, what="the first address")
        names.known["a"] = second.host
        eventually(lambda: front.leads_to() == second.host, what="the second address")
        assert front.status()["a"].startswith("UP")
        assert not front.status()["b"].startswith("UP")
    finally:
        first.end()
        second.end()


def test_what_becomes_of_a_node_is_said_once(front: Front, names: Names) -> None:
    names.known["a"] = "127.0.0.2"
    place = Place("127.0.0.2", front.node)
    eventually(lambda: front.status().get("a", "").startswith("UP"), what="the node")
    place.end()
    eventually(lambda: "DOWN" in front.status()["a"], what="that it is gone")
    eventually(lambda: any("tcp" in line and "no server available" in line for line in front.said()))
    front.end()
    # Of one line the log and stderr have slightly different words.
    for words in ("Server tcp/a is DOWN", r"proxy '?tcp'? has no server available"):
        assert len(re.findall(words, "\n".join(front.said()))) == 1, front.said()
