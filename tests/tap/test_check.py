"""What a node would not start with is known without starting one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgateway.config import Settings
from imgateway.errors import OperatorError
from imgateway.tap import doors
from imgateway.tap.check import check
from imgateway.tap.options import Options


def settings(*arguments: str) -> Settings:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--http", ""),
        ("--http", "127.0.0.1:7980"),
        ("--listen", "native+udp:7901"),
        ("--listen", "native+udp:127.0.0.1:7902:insecure=1"),
        ("--http", "systemd:domain=INET:name=http"),
        ("--listen", "native+tcp:systemd:domain=INET:index=0"),
        ("--listen", "native+tcp:haproxy:systemd:domain=INET:index=0"),
        ("--listen", "native+tcp:shared:7901", "--listen", "native,json+websocket:haproxy:shared:7902"),
        (
            "--listen",
            "native+tcp:unix:/nowhere/at/all",
            "--listen",
            "native+tcp:0",
            "--listen",
            "json+websocket:0",
        ),
    ],
)
def test_what_can_start(arguments: tuple[str, ...], tmp_path: Path) -> None:
    check(settings("--data-dir", str(tmp_path / "d"), *arguments))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--broker", "carrots:"), "broker.url"),
        (("--set", "rooms.classes=live-*: entries=none"), "rooms.classes: entries in"),
        (("--set", "auth.policy=nobody"), "auth.policy"),
        (("--set", "auth.authenticator=nobody"), "auth.authenticator"),
        (("--set", "plugins.backends=nobody"), "plugins.backends"),
        (("--set", "plugins.interceptors=nobody"), "plugins.interceptors"),
        (("--set", "plugins.listeners=nobody"), "plugins.listeners"),
        (("--listen", "smoke+tcp:1"), "smoke"),
        (("--listen", "native+pigeon:1"), "pigeon"),
        (("--listen", "native+udp:7901:insecure=1"), "insecure=1 is for"),
        (("--listen", "native+udp:tcp:7901"), "tcp is no address"),
        (("--listen", "native+udp:shared:7901"), "a UDP port cannot be shared"),
        (("--listen", "native+tcp:shared:udp:7901"), "'udp' cannot be shared"),
        (("--listen", "native+udp:1", "--listen", "native+udp:1"), "another listener has this address"),
        (("--listen", "json+udp:1"), "json does not ride on udp"),
        (("--listen", "mqtt+udp:1"), "mqtt does not ride on udp"),
        (("--listen", "chat+udp:1"), "chat does not ride on udp"),
        (("--listen", "json+tcp:1"), "json does not ride on tcp"),
        (("--listen", "json+tcp:systemd:domain=INET:index=0"), "json does not ride on tcp"),
        (("--listen", "native+tcp:nonsense:1"), "native|nonsense:1: not a valid endpoint"),
        (("--listen", "native+tcp:ssl:1:privateKey=/nowhere/k"), "cannot read /nowhere/k"),
        (("--listen", "native+tcp:99999"), "listen on 99999: a port is a number from 0 to 65535$"),
        (("--listen", "native+tcp:shared:99999"), "a port is a number from 0 to 65535$"),
        (("--listen", "native+udp:99999"), "udp:99999: is not HOST:PORT"),
        (("--http", "99999"), "listen.http: 99999: a port is a number from 0 to 65535$"),
        (("--http", "nonsense"), "listen.http: nonsense: not a valid .*; such as tcp:7980:interface="),
        (("--http", "tcp:notaport"), "listen.http: tcp:notaport: not a valid endpoint"),
        (
            ("--listen", "native+tcp:1", "--listen", "native+tcp:1"),
            "tcp:1: another listener has this address",
        ),
        (("--listen", "native+tcp:1", "--http", "1"), "listen.http: 1: another listener has this address"),
    ],
)
def test_what_cannot(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(OperatorError, match=words) as caught:
        check(settings(*arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--set", "auth.secret_file=/nowhere/k"),
            r"^auth\.secret_file: /nowhere/k: .*openssl rand .*makes its",
        ),
        (("--set", "auth.public_key_file=/nowhere/k"), r"^auth\.public_key_file: /nowhere/k: .*the issuer's"),
        (("--set", "auth.jwks_file=/nowhere/k"), r"^auth\.jwks_file: /nowhere/k: .*the issuer's"),
        (
            ("--set", "udp.secret_file=/nowhere/k", "--listen", "native+udp:1"),
            r"^udp\.secret_file: /nowhere/k: .*openssl rand",
        ),
        (("--data-dir", "{file}"), r"^node\.data_dir: .*/f is a file, not a directory"),
        (
            ("--data-dir", "{file}/d", "--broker", "memory:"),
            r"^node\.data_dir: .*/f is a file, not a directory",
        ),
    ],
)
def test_keys_and_places_that_are_not_there(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("")
    with pytest.raises(OperatorError, match=words) as caught:
        check(settings(*(one.format(file=file) for one in arguments)))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_keys_that_nobody_reads_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(settings("--set", "udp.secret_file=/nowhere/k"))
    monkeypatch.setattr("imgateway.tap.check.authenticator_plugin", lambda auth: None)
    check(settings("--set", "auth.secret_file=/nowhere/k", "--set", "auth.authenticator=own"))
    secret, file = tmp_path / "s", tmp_path / "f"
    for path in (secret, file):
        path.write_text("s" * 43)
        path.chmod(0o600)
    named = ("--set", f"auth.secret_file={secret}", "--broker", "memory:")
    check(settings(*named, "--data-dir", str(file)))


def test_what_can_start_and_should_be_known(tmp_path: Path) -> None:
    assert check(settings("--data-dir", str(tmp_path))) == ()
    (warning,) = check(settings("--data-dir", str(tmp_path), "--set", "listen.clients=[]"))
    assert warning.startswith("listen.clients: is empty, so that no client can connect")
    (warning,) = check(
        settings("--data-dir", str(tmp_path), "--listen", "native+tcp:1", "--listen", "chat+tcp:2")
    )
    assert warning.startswith("listen.clients: chat+tcp:2: whoever reaches it logs in as any user")


@pytest.mark.parametrize("broker", ["embedded:", "memory:", "redis://127.0.0.1"])
@pytest.mark.parametrize("registry", ["", "redis://127.0.0.1", "zookeeper://127.0.0.1"])
def test_a_node_among_others_that_keeps_its_messages_for_itself(broker: str, registry: str) -> None:
    told = check(settings("--broker", broker, "--registry", registry))
    if not registry or broker.startswith("redis"):
        assert told == ()
    else:
        (warning,) = told
        assert warning.startswith(f"broker.url: {broker} is this node's own, and registry.url puts it among")


@pytest.mark.parametrize("answer", [lambda network: network.carrier(), lambda network: doors.Deferred()])
def test_of_a_transport_that_wants_more_nothing_is_said(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(
        "imgateway.tap.check.door", lambda text, network, *rest: lambda accept: answer(network)
    )
    check(settings())


def test_the_api_is_checked(tmp_path: Path) -> None:
    from imgateway.router.keys import entry_of, make_key

    keys = tmp_path / "keys.toml"
    named = ("--keys", str(keys))
    with pytest.raises(OperatorError, match=r"router\.keys_file: .* cannot be read"):
        check(settings(*named))
    keys.write_text(entry_of(make_key("a", ["*"])[1]))
    check(settings(*named))
    check(settings(*named, "--api", "127.0.0.1:7991"))
    check(settings(*named, "--api", "systemd:domain=INET:name=api"))
    for arguments, words in (
        (("--set", "router.allocation=dice"), r"router\.allocation: no plugin"),
        (("--api", "nonsense:"), r"listen\.api: nonsense:.*; such as tcp:7991:interface"),
        (("--api", "127.0.0.1:7980"), r"listen\.api: .* another listener"),
    ):
        with pytest.raises(OperatorError, match=words):
            check(settings(*named, *arguments))
