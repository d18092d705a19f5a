"""What keeps a node from starting: one line, status 1, and nothing left in the way."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.brokers.redis_server import RedisServer

from .nodes import DEADLINE_S, Node, eventually

pytestmark = pytest.mark.network


def refused(node: Node) -> str:
    """The one line."""
    lines = refused_lines(node)
    assert len(lines) == 1, lines
    return lines[0]


def refused_lines(node: Node) -> list[str]:
    node.begin()
    assert node.process.wait(DEADLINE_S) == 1, node.errors.read_text() + node.log.read_text()
    text = node.errors.read_text()
    node.errors.write_text("")
    lines = text.splitlines()
    assert all(line.startswith("imgateway: ") for line in lines), text
    assert "Traceback" not in node.log.read_text()
    return [line.removeprefix("imgateway: ") for line in lines]


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Iterator[Node]:
    """At the end it must start: nothing that failed may be in the way."""
    node = make_node()
    plain = list(node.options), list(node.listen)
    yield node
    node.options, node.listen = plain
    node.start()


@pytest.mark.parametrize("which", ["tcp", "ws", "http"])
def test_a_port_in_use(node: Node, which: str) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", getattr(node, which)))
        other.listen()
        line, other_places = refused_lines(node)
    assert other_places.startswith("or take others:  ")
    named = "--http: listen.http: " if which == "http" else "--listen: listen.clients: cannot listen on "
    assert line.startswith(named)
    assert str(getattr(node, which)) in line
    assert "in use" in line


def test_an_unreadable_key(node: Node, tmp_path: Path) -> None:
    missing = tmp_path / "missing.key"
    node.options = ["--set", f"auth.secret_file={missing}"]
    line = refused(node)
    assert str(missing) in line


def test_a_key_that_others_may_read(node: Node, tmp_path: Path) -> None:
    key = tmp_path / "token.key"
    key.write_text("k" * 43)
    key.chmod(0o644)
    node.options = ["--set", f"auth.secret_file={key}"]
    assert "chmod" in refused(node)


def test_a_certificate_that_is_none(node: Node, tmp_path: Path) -> None:
    pem = tmp_path / "cert.pem"
    pem.write_text("nonsense")
    node.listen = [f"native+tcp:ssl:{node.tcp}:privateKey={pem}:certKey={pem}"]
    line = refused(node)
    assert "PEM" in line or "certificate" in line


def test_a_second_node_on_the_same_directory(make_node: Callable[..., Node]) -> None:
    first, second = make_node(), make_node()
    first.start()
    second.data = first.data
    own, second.http = second.http, first.http
    line, port, other_places = refused_lines(second)
    second.http = own
    assert f"listen.http: tcp:{first.http}" in port or str(first.http) in port
    assert f"--data-dir {first.data}-2" in other_places
    assert str(first.process.pid) in line
    assert "--data-dir" in line
    assert first.ask("readyz")[0] == 200
    first.kill()  # its lock goes with it
    second.start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "limits.max_body=5"], "limits.max_body: no such setting; did you mean max_body_bytes?"),
        (["--set", "session.heartbeat_s=soon"], "session.heartbeat_s: must be a number"),
        (["--listen", "native:tcp:7901"], "listen.clients"),
        (["--listen", "smoke+tcp:tcp:7901"], "'smoke'"),
        (["--listen", "native+carrier-pigeon:7901"], "'carrier-pigeon'"),
        (["--broker", "carrots:"], "broker.url"),
        (["--config", "missing.toml"], "missing.toml"),
        (["--set", "plugins.backends=nobody"], "plugins.backends"),
        (["--set", "auth.authenticator=nobody"], "auth.authenticator"),
        (["--nonsense"], "nonsense"),
        (["--listen", "json+tcp:tcp:7901"], "json"),
        (["--listen", "native+tcp:tcp:seven"], "endpoint"),
    ],
)
def test_a_wrong_setting(node: Node, options: list[str], words: str) -> None:
    node.options = options
    assert words in refused(node)


def test_a_wrong_line_of_the_file_is_named(node: Node) -> None:
    (node.directory / "imgateway.toml").write_text("[limits]\n\nmax_body_bytes == 5\n")
    node.options = ["--config", "imgateway.toml"]
    line = refused(node)
    assert "imgateway.toml" in line
    assert "3" in line


def test_a_data_directory_that_cannot_be_written(node: Node) -> None:
    blocked = node.directory / "file"
    blocked.write_text("")
    data, node.data = node.data, blocked / "data"
    assert str(blocked) in refused(node)
    node.data = data


def test_a_data_directory_that_is_read_only(node: Node) -> None:
    # Root may write anywhere but here.
    data, node.data = node.data, Path("/proc/imgateway")
    assert "/proc" in refused(node)
    node.data = data


def test_a_database_that_is_none(node: Node) -> None:
    node.data.mkdir()
    (node.data / "messages.sqlite3").write_bytes(b"not a database, " * 100)
    line = refused(node)
    assert "messages.sqlite3" in line
    (node.data / "messages.sqlite3").unlink()


def test_a_database_of_another_program(node: Node) -> None:
    node.data.mkdir()
    with sqlite3.connect(node.data / "messages.sqlite3") as other:
        other.execute("CREATE TABLE theirs (x)")
        other.execute("PRAGMA user_version = 99")
    line = refused(node)
    assert "messages.sqlite3" in line
    (node.data / "messages.sqlite3").unlink()


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="im")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemd_hands_over_the_socket(make_node: Callable[..., Node]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port, number = listening.getsockname()[1], listening.fileno()
        make_node(
            listen=["native+tcp:systemd:domain=INET:name=im"],
            wrapper=[sys.executable, "-c", ACTIVATE, str(number)],
            pass_fds=[number],
        ).start()
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"\x02\xff\xff")
        assert client.recv(100)  # a Bye


def test_twistds_logfile_is_where_the_log_goes(make_node: Callable[..., Node]) -> None:
    node = make_node()
    command = node.command()
    command.insert(command.index("-n"), "--logfile=here.log")
    node.command = lambda: command  # type: ignore[method-assign]
    node.start()
    node.end()
    events = [json.loads(line)["event"] for line in (node.directory / "here.log").read_text().splitlines()]
    assert events == ["listening", "stopping", "stopped"]
    assert node.log.read_text() == ""


def test_help_and_the_list_of_services(tmp_path: Path) -> None:

    for arguments, words in ((["--help"], "imgateway"), (["imgateway", "--help"], "--listen")):
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path)
        assert done.returncode == 0
        assert words in done.stdout


def test_the_banner_says_where_and_what_next(make_node: Callable[..., Node]) -> None:
    node = make_node().start()
    text = eventually(lambda: "hello" in node.errors.read_text() and node.errors.read_text())
    for word in (str(node.tcp), str(node.ws), str(node.http), "listen", "send", "--user bob"):
        assert word in text
    assert os.path.exists(node.data / "secrets")


@pytest.mark.server
def test_a_node_whose_redis_is_away_says_so_and_waits(make_node: Callable[..., Node], tmp_path: Path) -> None:
    """Its HTTP port is there for whoever asks; clients come when Redis does."""
    redis = RedisServer(tmp_path / "redis")
    try:
        redis.kill9()
        node = make_node(options=["--broker", redis.url])
        node.begin()
        eventually(lambda: "cannot be" in node.ask("readyz")[1], what="the reason")
        status, told = node.ask("readyz")
        assert status == 503
        assert json.loads(told)["parts"]["store"].startswith(f"redis 127.0.0.1:{redis.port} ")
        assert node.ask("healthz")[0] == 200
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", node.tcp)) != 0
        assert redis.start()
        eventually(node.ready, what="the node's readiness")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", node.tcp)) == 0
        node.end()
    finally:
        redis.stop()
