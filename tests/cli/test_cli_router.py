"""``--router``: the commands that log in without a URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from imgateway.auth.udp import load_udp_secret
from imgateway.config import UdpSettings
from imgateway.core.credentials import split
from imgateway.errors import ConnectRefused, LinkLost
from tests.certificate import write_certificate
from tests.cli.fake_client import Stage

Run = Callable[..., Result]
ROUTER = "https://router.example.org"


@pytest.mark.parametrize("words", [("--router", ROUTER), ("--router=" + ROUTER,)])
def test_a_router_instead_of_a_url(run: Run, words: tuple[str, ...]) -> None:
    stage = Stage()
    result = run("send", *words, "--token", "T", "user:bob", "hello", stage=stage)
    assert result.exit_code == 0, result.output
    client = stage.client
    assert client is not None
    assert (client.url, client.options["router"], client.options["transport"]) == ("", ROUTER, None)
    assert client.options["device"] == "cli-send"
    assert [(to, body) for to, body, *_ in _published(client)] == [(("user:bob",), b"hello")]


def _published(client: Any) -> list[tuple[Any, Any]]:
    return [(tuple(to), body) for _, to, body, _ in client.published]


def test_a_body_that_looks_like_the_option(run: Run) -> None:
    stage = Stage()
    assert run("send", "tcp://gw:1", "--token", "T", "user:bob", "--", "--router", stage=stage).exit_code == 0
    client = stage.client
    assert client is not None
    assert client.url == "tcp://gw:1"
    assert "router" not in client.options


@pytest.mark.parametrize("command", [("listen", "--timeout", "1"), ("chat",)])
def test_the_other_commands(run: Run, command: tuple[str, ...]) -> None:
    stage = Stage()
    run(command[0], "--router", ROUTER, "--token", "T", *command[1:], stage=stage)
    assert stage.client is not None
    assert stage.client.options["router"] == ROUTER


def test_udp_wants_the_key(run: Run, data_dir: str) -> None:
    stage = Stage()
    load_udp_secret(UdpSettings(), data_dir)
    words = ("--router", ROUTER, "--user", "bob", "--data-dir", data_dir, "user:bob", "x")
    for transport, has_key in ((("--transport", "udp"), True), ((), False)):
        assert run("send", *transport, *words, stage=stage).exit_code == 0
        client = stage.client
        assert client is not None
        assert (split(client.options["token"]()).udp is not None) is has_key
        assert client.options["transport"] == (transport[1] if transport else None)


def test_json_goes_over_websocket(run: Run) -> None:
    stage = Stage()
    words = ("--router", ROUTER, "--token", "T", "--protocol", "json", "user:bob", "x")
    assert run("send", *words, stage=stage).exit_code == 0
    assert stage.client is not None
    assert stage.client.options["transport"] == "websocket"


def test_whom_to_trust(run: Run, tmp_path: Path) -> None:
    ca = str(write_certificate(tmp_path) / "cert.pem")
    for words in (("--ca", ca), ("--insecure",)):
        stage = Stage()
        result = run("send", "--router", ROUTER, "--token", "T", *words, "user:bob", "x", stage=stage)
        assert result.exit_code == 0
        assert stage.client is not None
        tls = stage.client.options["tls"]
        assert tls("a.example.org") is not tls("b.example.org")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--router", "tcp://gw:1"), "no router's URL"),
        (("--router", "https://"), "no router's URL"),
        (("--router", ROUTER, "--transport", "pigeon"), "no transport is called"),
        (("--router", ROUTER, "--protocol", "klingon"), "no protocol is called"),
        (("--router", ROUTER, "--protocol", "json", "--transport", "tcp"), "is for --transport websocket"),
        (("--router", ROUTER, "--ca", "x", "--insecure"), "exclude each other"),
        (("tcp://gw:1", "--transport", "udp"), "--transport is for --router"),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], why: str) -> None:
    result = run("send", *words, "--token", "T", "user:bob", "x", stage=Stage())
    assert result.exit_code == 2
    assert why in result.output


def test_a_missing_ca(run: Run) -> None:
    result = run("send", "--router", ROUTER, "--token", "T", "--ca", "/none", "user:bob", "x", stage=Stage())
    assert result.exit_code == 1
    assert "cannot be read" in result.output


def test_what_went_wrong_is_told_with_the_router(run: Run) -> None:
    stage = Stage()
    stage.prepare = lambda client: setattr(client, "refusal", LinkLost("nobody is there"))
    result = run("send", "--router", ROUTER, "--token", "T", "user:bob", "x", stage=stage)
    assert result.exit_code == 1
    assert f"{ROUTER}: nobody is there" in result.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectRefused(200, "closing time"), f"a node of {ROUTER}: KICKED: closing time; the business or"),
        (ConnectRefused(200, "kicked"), f"a node of {ROUTER}: KICKED: the business or an operator ended"),
        (ConnectRefused(203, f"the router {ROUTER} says 401: no"), f"{ROUTER}: "),
    ],
)
def test_what_a_node_says_is_not_told_as_the_routers_word(run: Run, error: ConnectRefused, said: str) -> None:
    stage = Stage()
    stage.prepare = lambda client: setattr(client, "refusal", error)
    result = run("listen", "--router", ROUTER, "--token", "T", stage=stage)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {said}")
