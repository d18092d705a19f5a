"""What is told to who starts a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imgateway.tap.banner import banner, exposed
from imgateway.tap.options import Options
from tests.certificate import write_own_certificate


class At:
    """A listener, as far as a banner looks at it."""

    def __init__(self, address: str) -> None:
        self.address = address
        last = address.rpartition(":")[2]
        self.port = int(last) if last.isdecimal() else 0


def shown(tmp_path: Path, *places: tuple[str, str], http: str = "", more: tuple[str, ...] = ()) -> str:
    listen = [part for text, _ in places for part in ("--listen", text)]
    options = Options()
    options.parseOptions(["--data-dir", str(tmp_path), *listen, *more])
    listeners: Any = [At(address) for _, address in places]
    return banner(options.settings, listeners, http, config=options["config"])


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


def test_the_banner_of_a_node_that_nobody_reaches(tmp_path: Path) -> None:
    options = Options()
    options.parseOptions(["--data-dir", str(tmp_path), "--set", "listen.clients=[]"])
    told = banner(options.settings, [], "", ["look out"])
    assert told.partition(" ")[2].partition(" ")[2] == "listens nowhere\nWarning: look out\n"
    assert " listens on\n" in banner(options.settings, [], "http://127.0.0.1:7980")


def test_without_a_place_to_call_the_banner_names_no_commands(tmp_path: Path) -> None:
    text = shown(tmp_path, ("native+tcp:unix:/run/s", "unix:/run/s"))
    assert "unix:/run/s" in text
    assert "--user" not in text


# ---------------------------------------------------------------------------- whether the commands would work

PLAIN = ("native+tcp:0", "tcp:127.0.0.1:4711")


def commands(text: str) -> list[str]:
    """What each of the two says behind its name."""
    return [line.split(" ", 3)[3] for line in text.splitlines() if "--user" in line]


def test_the_commands_take_the_nodes_own_file(tmp_path: Path) -> None:
    """Its secret is elsewhere, or its directory."""
    file = tmp_path / "a file.toml"
    file.write_text(f'[node]\ndata_dir = "{tmp_path}"\n[auth]\nsecret_file = "s"\naudience = "a"\n')
    text = shown(tmp_path, PLAIN, more=("--config", str(file)))
    own = f"--config '{file}'"
    assert commands(text) == [
        f"listen tcp://127.0.0.1:4711 --user bob {own}",
        f'send tcp://127.0.0.1:4711 --user alice {own} user:bob "hello"',
    ]
    text = shown(tmp_path / "d", PLAIN, more=("--config", str(file)))
    assert commands(text)[0].endswith(f"{own} --data-dir {tmp_path}/d")


@pytest.mark.parametrize(
    "setting",
    [
        "auth.secret_file=s",
        "auth.audience=other",
        "auth.public_key_file=k.pem",
        "auth.jwks_file=k.json",
        "auth.node=n1",
        "auth.authenticator=ldap",
        "udp.secret_file=s",
    ],
)
def test_commands_that_could_not_log_in_are_not_named(tmp_path: Path, setting: str) -> None:
    """They know nothing of what was set by an option."""
    text = shown(tmp_path, PLAIN, more=("--set", setting))
    assert "tcp://127.0.0.1:4711" in text
    assert "Try" not in text


def test_a_file_with_a_public_key_names_no_commands_either(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[auth]\npublic_key_file = "k"\n')
    assert "Try" not in shown(tmp_path, PLAIN, more=("--config", str(file)))
    assert "Try" not in shown(
        tmp_path, PLAIN, more=("--config", str(file), "--set", "auth.public_key_file=''")
    )


def test_a_file_that_is_gone_by_now_names_none(tmp_path: Path) -> None:
    listeners: Any = [At("tcp:127.0.0.1:4711")]
    options = Options()
    options.parseOptions(["--listen", "native+tcp:0"])
    assert "Try" not in banner(options.settings, listeners, "", config=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("names", "address", "place"),
    [
        ("DNS:localhost", "ssl:127.0.0.1:4711", "tls://localhost:4711"),
        ("DNS:localhost", "ssl:0.0.0.0:4711", "tls://localhost:4711"),
        ("DNS:localhost,IP:127.0.0.1", "ssl:0.0.0.0:4711", "tls://127.0.0.1:4711"),
        ("IP:10.0.0.7", "ssl:10.0.0.7:4711", "tls://10.0.0.7:4711"),
        ("DNS:localhost", "ssl:10.0.0.7:4711", ""),
        ("DNS:gw.example.org", "ssl:127.0.0.1:4711", ""),
        ("", "ssl:127.0.0.1:4711", ""),
    ],
)
def test_over_tls_the_commands_say_whom_to_trust(
    tmp_path: Path, names: str, address: str, place: str
) -> None:
    pem = tmp_path / "a:cert.pem"
    write_own_certificate(pem, names)
    file = str(pem).replace(":", "\\:")
    for words in (f"privateKey=k:certKey={file}", f"k:{file}", f"privateKey={file}"):
        text = shown(tmp_path, (f"native+tcp:ssl:0:{words}", address))
        assert "tls://" in text
        assert commands(text)[:1] == [
            f"listen {place} --ca {pem} --user bob --data-dir {tmp_path}" for _ in [0] if place
        ]


def test_a_certificate_that_others_signed_or_that_is_none_is_not_advised(tmp_path: Path) -> None:
    pem = tmp_path / "cert.pem"
    write_own_certificate(pem, "DNS:localhost", issuer="An Authority")
    for file in (pem, tmp_path / "none", Path(__file__)):
        text = shown(tmp_path, (f"native+websocket:ssl:0:{file}", "ssl:127.0.0.1:4711"), PLAIN)
        assert " wss://127.0.0.1:4711\n" in text
        assert commands(text)[0].startswith("listen tcp://127.0.0.1:4711 --user")
        assert "or with" not in text


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
