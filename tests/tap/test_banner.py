"""What is told to who starts a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgateway.tap.banner import banner, exposed
from imgateway.tap.options import Options


class At:
    """A listener, as far as a banner looks at it."""

    def __init__(self, address: str) -> None:
        self.address = address
        last = address.rpartition(":")[2]
        self.port = int(last) if last.isdecimal() else 0


def shown(tmp_path: Path, *places: tuple[str, str], http: str = "") -> str:
    listen = [part for text, _ in places for part in ("--listen", text)]
    options = Options()
    options.parseOptions(["--data-dir", str(tmp_path), *listen])
    return banner(options.settings, [At(address) for _, address in places], http)  # type: ignore[misc]


def test_the_banner_names_places_and_two_commands(tmp_path: Path) -> None:
    text = shown(
        tmp_path,
        ("native+tcp:tcp:0", "tcp:0.0.0.0:4711"),
        ("native,json+websocket:tcp:0", "tcp:127.0.0.1:4712"),
        ("native+tcp:ssl:0", "ssl:127.0.0.1:4713"),
        ("native+tcp:tcp6:0", "tcp6:[::]:4714"),
        http="http://0.0.0.0:7980",
    )
    places = (
        "tcp://0.0.0.0:4711 (all addresses),ws://127.0.0.1:4712,tls://127.0.0.1:4713,"
        "tcp://[::]:4714 (all addresses),http://0.0.0.0:7980 (all addresses)"
    )
    for place in places.split(","):
        assert f" {place}\n" in text
    assert f"listen tcp://127.0.0.1:4711 --user bob --data-dir {tmp_path}\n" in text
    assert f'send tcp://127.0.0.1:4711 --user alice --data-dir {tmp_path} user:bob "hello"\n' in text


def test_the_banner_names_every_place_that_the_commands_can_call(tmp_path: Path) -> None:
    text = shown(
        tmp_path,
        ("lines+tcp:0", "tcp:127.0.0.1:4710"),
        ("json+websocket:0", "tcp:127.0.0.1:4711"),
        ("native+udp:0", "udp:[::]:4712"),
        ("json,native+websocket:0", "tcp:0.0.0.0:4713"),
    )
    assert "listen ws://127.0.0.1:4711 --protocol json --user bob" in text
    assert text.endswith("\nor with udp://[::1]:4712, ws://127.0.0.1:4713\n")
    alone = shown(tmp_path, ("native+udp:0", "udp:127.0.0.1:4712"))
    assert "listen udp://127.0.0.1:4712 --user bob" in alone
    assert "or with" not in alone


def test_the_banner_warns(tmp_path: Path) -> None:
    options = Options()
    options.parseOptions(["--data-dir", str(tmp_path), "--listen", "chat+tcp:0"])
    text = banner(options.settings, [At("tcp:127.0.0.1:4710")], "", ["look out"])  # type: ignore[list-item]
    assert text.endswith(" tcp://127.0.0.1:4710\nWarning: look out\n")


def test_without_a_place_to_call_the_banner_names_no_commands(tmp_path: Path) -> None:
    text = shown(tmp_path, ("native+tcp:unix:/run/s", "unix:/run/s"))
    assert "unix:/run/s" in text
    assert "--user" not in text


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("native+tcp:7901", "tcp:0.0.0.0:7901", "tcp://0.0.0.0:7901"),
        ("native+websocket:tcp6:7902", "tcp6:[::]:7902", "ws://[::]:7902"),
        ("native+tcp:tcp:7901", "tcp:192.0.2.1:7901", "tcp://192.0.2.1:7901"),
        ("native+tcp:tcp:7901", "tcp:127.0.0.2:7901", ""),
        ("native+tcp:tcp6:7901", "tcp6:[::1]:7901", ""),
        ("native+tcp:ssl:7901", "ssl:0.0.0.0:7901", ""),
        ("native+tcp:haproxy:tcp:7901", "haproxy:tcp:0.0.0.0:7901", ""),
        ("native+tcp:unix:/run/s", "unix:/run/s", ""),
    ],
)
def test_what_is_exposed(text: str, address: str, url: str) -> None:
    options = Options()
    options.parseOptions(["--listen", text])
    assert list(exposed(options.settings, [At(address)])) == ([url] if url else [])  # type: ignore[list-item]
