"""What is told of the places that others have, and the command that takes other ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from twisted.internet.protocol import DatagramProtocol, Factory

from imgateway.brokers.directory import Directory
from imgateway.errors import InUse, StoreInUse
from imgateway.tap.elsewhere import elsewhere
from imgateway.tap.options import Options
from imgateway.testing.network import Network

TWISTD = "twistd -n --pidfile= imgateway"
SEE = "the address is in use; see by whom with:  ss -ltnp 'sport = "


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.delenv("IMGATEWAY_RUN_BY", raising=False)


@pytest.fixture
def network() -> Network:
    return Network()


def told(
    network: Network, *words: str, refusal: InUse | None = None, taken: tuple[int, ...] = ()
) -> list[str]:
    for port in taken:
        network.listenTCP(port, Factory(), interface="127.0.0.1")
    options = Options()
    options.parseOptions(list(words))
    before = dict(network._ports)
    lines: list[str] = network.result(elsewhere(refusal or InUse("the first"), options, network))
    assert network._ports == before, "nothing stays open"
    return lines


def test_all_that_is_taken_is_told_with_a_command_that_takes_none_of_it(network: Network) -> None:
    lines = told(network, taken=(7901, 7902, 7980, 8902))
    assert lines == [
        f"listen.clients: cannot listen on tcp:7901:interface=127.0.0.1: {SEE}:7901'",
        f"listen.clients: cannot listen on tcp:7902:interface=127.0.0.1: {SEE}:7902'",
        f"listen.http: tcp:7980:interface=127.0.0.1: {SEE}:7980'",
        f"or take others:  {TWISTD} --http 127.0.0.1:9980 --listen native+tcp:127.0.0.1:9901 "
        "--listen native,json+websocket:127.0.0.1:9902",
    ]
    command = lines[-1].partition(TWISTD)[2].split()
    assert told(network, *command) == []


def test_what_was_told_already_is_not_told_again(network: Network) -> None:
    first = InUse(f"listen.http: 7980: {SEE}:7980'", 7980)
    (line,) = told(network, "--http", "7980", refusal=first, taken=(7980,))
    assert line == f"or take others:  {TWISTD} --http 8980"


def test_what_is_not_taken_stays_and_so_do_all_other_words(network: Network, tmp_path: Path) -> None:
    words = ("--set", "listen.http=127.0.0.1:7980", "--redis-unsafe", "--set", "log.format=text", "-c")
    file = tmp_path / "a b.toml"
    file.write_text('[listen]\nclients = ["native+tcp:7901", "native+udp:7901"]\n')
    lines = told(network, *words, str(file), taken=(7980,))
    assert lines[-1] == (
        f"or take others:  {TWISTD} --redis-unsafe --set log.format=text -c '{file}' --http 127.0.0.1:8980"
    )


@pytest.mark.parametrize(
    ("endpoint", "moved"),
    [
        ("native+tcp:7901", "native+tcp:8901"),
        ("native+tcp:[::1]:7901", "native+tcp:[::1]:8901"),
        ("native+tcp:shared:7901", "native+tcp:shared:8901"),
        ("native+tcp:haproxy:tcp:7901:interface=10.0.0.7", "native+tcp:haproxy:10.0.0.7:8901"),
        ("native+tcp:tcp:7901:backlog=9", "native+tcp:tcp:8901:backlog=9"),
    ],
)
def test_an_endpoint_keeps_all_but_its_port(network: Network, endpoint: str, moved: str) -> None:
    lines = told(network, "--http", "", "--listen", endpoint, taken=(7901,))
    assert lines[-1].replace("'", "") == f"or take others:  {TWISTD} --http  --listen {moved}"


def test_udp_and_the_api_too(network: Network, tmp_path: Path) -> None:
    network.listenUDP(7901, DatagramProtocol(), "127.0.0.1")
    words = ("--keys", "k", "--api", "7991", "--http", "", "--listen", "native+udp:127.0.0.1:7901")
    lines = told(network, *words, taken=(7991,))
    assert "ss -lunp" in lines[0]
    assert lines[1].startswith("--api: listen.api: 7991: ")
    assert lines[2] == (
        f"or take others:  {TWISTD} --keys k --http '' --api 8991 --listen native+udp:127.0.0.1:8901"
    )


def test_a_socket_of_systemd_is_left_alone(network: Network) -> None:
    (_, line) = told(
        network, "--listen", "native+tcp:systemd:domain=INET:index=0", "--http", "7980", taken=(7980,)
    )
    assert line.endswith(" --http 8980")


@pytest.mark.parametrize("port", [7980, 64_980])
def test_no_command_is_told_that_would_not_work(network: Network, port: int) -> None:
    """Here a certificate is missing, or all higher ports are taken."""
    words = ("--listen", "native+tcp:ssl:7901:privateKey=/nowhere/k") if port == 7980 else ()
    (line,) = told(network, "--http", str(port), *words, taken=(port,))
    assert line.startswith("--http: listen.http: ")


def test_a_unix_socket_that_is_taken(network: Network, tmp_path: Path) -> None:
    path = f"{tmp_path}/0/s"
    network.listenUNIX(path, Factory())
    (line,) = told(network, "--http", "", "--listen", f"native+tcp:unix:{path}")
    assert f"lsof {path}" in line


def test_another_data_directory(network: Network, tmp_path: Path) -> None:
    """A second node's directory that nobody uses any more will do."""
    refusal = StoreInUse("in use by process 7")
    words = ("--data-dir", f"{tmp_path}/d/")
    assert told(network, *words, refusal=refusal)[-1].endswith(f" --data-dir {tmp_path}/d-2")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "d-2").mkdir()
    (tmp_path / "d-3").mkdir()
    held = Directory(tmp_path / "d-2")
    held.lock()
    try:
        (line,) = told(network, *words, refusal=refusal)
    finally:
        held.unlock()
    assert line == f"or take others:  {TWISTD} --data-dir {tmp_path}/d-3"
    for number in range(2, 20):
        directory = tmp_path / f"d-{number}"
        directory.mkdir(exist_ok=True)
        (directory / "messages.lock").unlink(missing_ok=True)
        (directory / "messages.lock").mkdir()
    assert told(network, *words, refusal=refusal) == []


def test_a_password_is_not_repeated(network: Network) -> None:
    broker = ("--broker", "redis://:s3cret@h")
    (_, line) = told(network, *broker, "--http", "7980", taken=(7980,))
    assert line == "or take others:  the same with --http 8980"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ((), 'make run ARGS="--http 8980"'),
        (("--node", "a b"), """make run ARGS='--node '"'"'a b'"'"' --http 8980'"""),
        (("--node", "$a"), """make run ARGS='--node '"'"'$$a'"'"' --http 8980'"""),
    ],
)
def test_who_typed_make_run_types_it_again(
    network: Network, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], line: str
) -> None:
    monkeypatch.setenv("IMGATEWAY_RUN_BY", "make")
    words = ("--set", "log.format=text", *more, "--http", "7980")
    assert told(network, *words, taken=(7980,))[-1] == f"or take others:  {line}"


def test_make_without_its_own_words(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGATEWAY_RUN_BY", "make")
    (_, line) = told(network, "--http", "7980", taken=(7980,))
    assert line == 'or take others:  make run ARGS="--http 8980"'


def test_who_typed_twistd_types_it_as_before(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ["/opt/bin/twistd", "-n", "--logfile", "a log", "imgateway"]
    monkeypatch.setattr(sys, "argv", [*before, "--http=7980"])
    (_, line) = told(network, "--http=7980", taken=(7980,))
    assert line == "or take others:  /opt/bin/twistd -n --logfile 'a log' imgateway --http 8980"
