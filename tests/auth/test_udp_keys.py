"""The secret that UDP keys are made from."""

from __future__ import annotations

import stat
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imgateway.auth.keys import load_secret, make_secret
from imgateway.auth.token import TokenAuthenticator, mint
from imgateway.auth.udp import UdpKeys, load_udp_secret, udp_key, udp_reset_key, with_udp_key
from imgateway.config import AuthSettings, UdpSettings
from imgateway.core.credentials import key_id_of, split
from imgateway.errors import OperatorError
from imgateway.frames import Hello

DEFAULT = UdpSettings()


def test_it_is_made_once_for_us_alone(tmp_path: Path) -> None:
    secret = load_udp_secret(DEFAULT, str(tmp_path / "data"))
    path = tmp_path / "data" / "secrets" / "udp.key"
    assert len(secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_udp_secret(DEFAULT, str(tmp_path / "data")) == secret
    assert load_udp_secret(DEFAULT, str(tmp_path / "data"), make=False) == secret
    assert load_udp_secret(DEFAULT, str(tmp_path / "other")) != secret


def test_it_is_another_than_the_tokens(tmp_path: Path) -> None:
    make_secret(str(tmp_path))
    load_udp_secret(DEFAULT, str(tmp_path))
    token, udp = (tmp_path / "secrets" / f"{name}.key" for name in ("token", "udp"))
    assert token.read_bytes() != udp.read_bytes()


def test_it_is_not_made_for_whoever_only_reads(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"udp\.key: the key cannot be read"):
        load_udp_secret(DEFAULT, str(tmp_path), make=False)
    with pytest.raises(OperatorError, match=r"shared\.key: the key cannot be read"):
        load_udp_secret(UdpSettings(secret_file=str(tmp_path / "shared.key")), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b64encode(b"\xff" * 32), b64encode(b"\xfb" * 32) + b"\n"])
def test_openssl_may_make_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shared.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert len(set(load_udp_secret(UdpSettings(secret_file=str(path)), "nowhere"))) == 1


@pytest.mark.parametrize("content", [b"", b"short", b64encode(bytes(31)), b64encode(bytes(33)), b"\xff" * 43])
def test_what_is_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shared.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(OperatorError, match="openssl rand -base64 32"):
        load_udp_secret(UdpSettings(secret_file=str(path)), "nowhere")


def test_others_may_not_read_it(tmp_path: Path) -> None:
    load_udp_secret(DEFAULT, str(tmp_path))
    (tmp_path / "secrets" / "udp.key").chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        load_udp_secret(DEFAULT, str(tmp_path))


def test_what_is_made_from_it() -> None:
    secret, key_id = bytes(range(32)), b"i" * 16
    key = HKDF(SHA256(), 16, None, b"imgateway udp 1 key" + key_id).derive(secret)
    assert udp_key(secret, key_id) == UdpKeys(secret, "n1").key_of(key_id) == key
    assert udp_key(secret, b"j" * 16) != key
    reset = HKDF(SHA256(), 32, None, b"imgateway udp 1 reset n1").derive(secret)
    assert udp_reset_key(secret, "n1") == UdpKeys(secret, "n1").reset_key == reset
    assert udp_reset_key(secret, "n2") != reset


def test_a_token_and_its_key_together(tmp_path: Path) -> None:
    authenticator = TokenAuthenticator(AuthSettings(), str(tmp_path), lambda: 1000.0)
    token = mint(load_secret(AuthSettings(), str(tmp_path)), "bob", now_s=1000.0)
    text = with_udp_key(token, bytes(32))
    credentials = split(text)
    assert credentials.token == token
    assert credentials.udp == (key_id_of(token), udp_key(bytes(32), key_id_of(token)))
    for shown in (token, text):  # who forgets to keep the key for himself is let in all the same
        assert authenticator.authenticate(Hello(shown, ""), "peer").user == "bob"


def test_every_token_has_a_key_of_its_own() -> None:
    tokens = [mint(b"s" * 32, "bob", now_s=1000.0) for _ in range(2)]
    assert len({key_id_of(token) for token in tokens}) == 2
