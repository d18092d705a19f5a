"""``imgateway link`` as a process, with real sockets; and the commands of its page, one after the other."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgateway.testing.conditions import SETTINGS, BothWays, changed
from imgateway.testing.timeline import parse_script
from tests.network.links import running
from tests.network.nodes import DEADLINE_S, Node, imgateway

pytestmark = pytest.mark.network

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "link.md"


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(DEADLINE_S)
        yield bound


def address(bound: socket.socket) -> str:
    return f"127.0.0.1:{bound.getsockname()[1]}"


def test_real_datagrams(echo: socket.socket) -> None:
    with (
        running("--listen", "udp:0", "--to", f"udp:{address(echo)}", "--duplicate", "100%/off") as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(DEADLINE_S)
        client.sendto(b"ping" * 300, link.place)
        for _ in range(2):
            data, source = echo.recvfrom(2_000)
            assert data == b"ping" * 300
            echo.sendto(b"pong", source)
        assert [client.recvfrom(100) for _ in range(2)] == [(b"pong", link.place)] * 2
        found = link.end(signal.SIGINT)
    assert (found["clients"], found["up"]["duplicated"], found["down"]["datagrams_out"]) == (1, 1, 2)


def test_nobody_there_and_the_end_by_time(echo: socket.socket) -> None:
    nobody = address(echo)
    echo.close()
    found = {}
    for _ in range(3):
        with (
            running("--listen", "udp:0", "--to", f"udp:{nobody}", "--duration", "1s", "--seed", "7") as link,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            for _ in range(3):
                client.sendto(b"x", link.place)
            found = link.end(None)
        if found["up"]["datagrams_in"] == 3:  # else a busy machine may have let the second pass
            break
    assert (found["up"]["datagrams_in"], found["seed"]) == (3, 7)
    assert found["seconds"] >= 1


def test_a_gateway_that_is_restarted(echo: socket.socket) -> None:
    """Refused by the system meanwhile, which must not cost the client its way through."""
    place = echo.getsockname()
    with (
        running("--listen", "udp:0", "--to", f"udp:{address(echo)}") as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again,
    ):
        client.settimeout(DEADLINE_S)
        client.sendto(b"1", link.place)
        source = echo.recvfrom(10)[1]
        echo.close()
        for _ in range(3):
            client.sendto(b"2", link.place)
            time.sleep(0.05)
        again.bind(place)
        again.settimeout(DEADLINE_S)
        client.sendto(b"3", link.place)
        heard = again.recvfrom(10)
        while heard == (b"2", source):  # a busy machine may take longer to be refused
            heard = again.recvfrom(10)
        assert heard == (b"3", source)
        again.sendto(b"4", source)
        assert client.recvfrom(10)[0] == b"4"
        assert link.end()["up"]["datagrams_out"] == 5


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65_536):
        data += more
    return data


def test_real_streams_close_one_half_after_the_other() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running("--listen", "tcp:0", "--to", f"tcp:{address(server)}", "--delay", "20ms") as link,
        socket.create_connection(link.place, DEADLINE_S) as client,
    ):
        server.settimeout(DEADLINE_S)
        with server.accept()[0] as gateway:
            gateway.settimeout(DEADLINE_S)
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert read_all(gateway) == b"question"
            gateway.sendall(b"answer" * 50_000)
            gateway.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"answer" * 50_000
            found = link.end()
    assert (found["up"]["bytes_out"], found["down"]["bytes_out"], found["cut"]) == (8, 300_000, 0)


def test_a_cut_is_a_reset_after_exactly_so_many_bytes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running("--listen", "tcp:0", "--to", f"tcp:{address(server)}", "--cut-after", "10kB") as link,
        socket.create_connection(link.place, DEADLINE_S) as client,
    ):
        server.settimeout(DEADLINE_S)
        with server.accept()[0] as gateway:
            gateway.settimeout(DEADLINE_S)
            client.sendall(bytes(30_000))
            data = bytearray(10_000)
            assert gateway.recv_into(data, 10_000, socket.MSG_WAITALL) == 10_000
            with pytest.raises(ConnectionResetError):
                gateway.recv(1)
        assert link.end()["cut"] == 1


def test_byte_by_byte() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running("--listen", "tcp:0", "--to", f"tcp:{address(server)}", "--chunk", "1") as link,
        socket.create_connection(link.place, DEADLINE_S) as client,
    ):
        server.settimeout(DEADLINE_S)
        with server.accept()[0] as gateway:
            gateway.settimeout(DEADLINE_S)
            sent, chunks = 0, [b""]
            while len(chunks) <= 10 and sent < 500:  # a busy machine may read some together, or all
                client.sendall(b"0123456789" * 10)
                sent += 100
                chunks = []
                while sum(map(len, chunks)) < 100:
                    chunks.append(gateway.recv(65_536))
                assert b"".join(chunks) == b"0123456789" * 10
            assert len(chunks) > 10
        assert link.end()["up"]["chunks_out"] == sent


# ------------------------------------------------------------------------------------------------- the page


def commands(page: str) -> list[list[str]]:
    found = [shlex.split(line) for line in re.findall(r"^\$ (.*)$", page, re.M)]
    assert all(words[0] == "imgateway" for words in found)
    return [words[1:] for words in found]


def test_the_page(make_node: Callable[..., Node], echo: socket.socket, tmp_path: Path) -> None:
    page = PAGE.read_text()
    first, send, listen, lossy, scripted = commands(page)
    node = make_node().start()

    def at(words: list[str], *places: tuple[str, str]) -> list[str]:
        for old, new in places:
            words = [word.replace(old, new) for word in words]
        return words

    with running(*at(first[1:], ("tcp:7001", "tcp:0"), ("7901", str(node.tcp)))) as link:
        for words in (send, listen):
            done = imgateway(*at(words, ("7001", str(link.place[1]))), cwd=node.directory)
            assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["body"] == "from a train"
        assert link.end()["connections"] == 2
    (script,) = re.findall(r"```text\n(.*?)```", page, re.S)
    (tmp_path / "tunnel.txt").write_text(script)
    assert len(parse_script(script, streams=False)) == 6
    gateway = ("127.0.0.1:7901", address(echo))
    for words in (lossy, scripted):
        with running(*at(words[1:], ("udp:7000", "udp:0"), gateway), cwd=tmp_path) as link:
            assert link.end()["kind"] == "udp"


def test_what_the_page_says_of_options_and_the_summary() -> None:
    page = PAGE.read_text()
    for name, value in re.findall(r"`--(\S+) ([^`]+)`", page):
        if name in SETTINGS:
            changed(BothWays(), name, value)
    with running("--listen", "udp:0", "--to", "udp:127.0.0.1:9") as udp:
        datagrams = udp.end()
    with running("--listen", "tcp:0", "--to", "tcp:127.0.0.1:9") as tcp:
        streams = tcp.end()
    counted = {*datagrams, *datagrams["up"], *streams, *streams["up"]}
    table = page[page.index("| in the summary |") : page.index("## Without sockets")]
    said = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`(\w+)`", row.partition("|")[2].partition("|")[0])
    }
    assert said == counted
