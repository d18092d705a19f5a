"""Key files: made privately, read with suspicion, refused with the line that mends them."""

from __future__ import annotations

import json
import os
import stat
import threading
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from imgateway.auth.keys import Key, KeySet, load_keys, load_secret, make_secret, secret_path
from imgateway.config import AuthSettings
from imgateway.errors import OperatorError

SHARED = AuthSettings()


def pem(key: Any) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    text: bytes = key.public_key().public_bytes(encoding, form)
    return text


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return {**jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True), **more}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def refusal(settings: AuthSettings, data_dir: object = "nowhere") -> str:
    with pytest.raises(OperatorError) as caught:
        load_keys(settings, str(data_dir))
    text = str(caught.value)
    assert "\n" not in text
    return text


# The secret.


def test_a_secret_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    old = os.umask(0)  # the modes must not depend on it
    try:
        load_keys(SHARED, str(tmp_path / "data"))
    finally:
        os.umask(old)
    path = tmp_path / "data" / "secrets" / "token.key"
    assert path == secret_path(SHARED, str(tmp_path / "data"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["token.key"]
    secret = load_secret(SHARED, str(tmp_path / "data"))
    assert len(urlsafe_b64decode(secret + b"=")) == 32
    load_keys(SHARED, str(tmp_path / "data"))
    assert load_secret(SHARED, str(tmp_path / "data")) == secret


def test_two_gateways_have_different_secrets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_secret(str(tmp_path / name))
    assert load_secret(SHARED, str(tmp_path / "a")) != load_secret(SHARED, str(tmp_path / "b"))


def test_starts_at_the_same_time_agree_on_one_secret(tmp_path: Path) -> None:
    barrier, seen = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        make_secret(str(tmp_path))
        seen.append(load_secret(SHARED, str(tmp_path)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1
    assert len(list((tmp_path / "secrets").iterdir())) == 1


def test_who_comes_second_uses_the_secret_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_secret(str(tmp_path))
    secret = load_secret(SHARED, str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda self: False)  # it looked just before the other one was done
    make_secret(str(tmp_path))
    assert load_secret(SHARED, str(tmp_path)) == secret
    assert len(list((tmp_path / "secrets").iterdir())) == 1


def test_a_disk_that_takes_no_secret_is_told_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "cannot be read or made: No space left on device; " in refusal(SHARED, tmp_path)
    assert list((tmp_path / "secrets").iterdir()) == []


def test_a_secret_and_the_directories_made_for_it_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    make_secret(str(tmp_path / "data"))
    secret = secret_path(SHARED, str(tmp_path / "data"))
    assert synced == [path.stat().st_ino for path in (secret, secret.parent, secret.parent.parent)]


def test_a_data_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    said = "token.key: the token secret cannot be read or made: "
    for place in (tmp_path / "data", tmp_path / "data" / "more"):
        told = refusal(SHARED, place)
        assert f"{said}{tmp_path}/data is a file, not a directory; name another place with --data-dir" in told
    (tmp_path / "secrets").write_text("")
    assert f"{said}{tmp_path}/secrets is a file" in refusal(SHARED, tmp_path)


def test_a_data_directory_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(2, "No such file or directory"), PermissionError(13, "Permission denied")]

    def refused(self: Path, *_: object, **__: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(Path, "mkdir", refused)
    place = tmp_path / "d"
    assert f"No such file or directory; {place} cannot be made: name another place" in refusal(SHARED, place)
    assert "Permission denied; the --data-dir must belong to the user" in refusal(SHARED, place)


def test_without_making_a_missing_secret_is_told(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"token\.key: the key cannot be read: No such file"):
        load_secret(SHARED, str(tmp_path))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o666])
def test_a_secret_that_others_see_is_refused_with_what_mends_it(tmp_path: Path, mode: int) -> None:
    make_secret(str(tmp_path))
    path = secret_path(SHARED, str(tmp_path))
    path.chmod(mode)
    assert f"chmod 600 {path}" in refusal(SHARED, tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_secret_for_us_and_our_group_is_taken(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"  " + b"s" * 40 + b"\r\n")
    path.chmod(mode)
    settings = AuthSettings(secret_file=str(path))
    assert load_secret(settings, "nowhere") == b"s" * 40
    key = load_keys(settings, "nowhere").find("")
    assert key is not None
    assert key.algorithm == "HS256"
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"short", "at least 32 bytes, not 5; make one: openssl rand -base64 32"),
        (b" " * 100, "not 0"),
        (b"s" * 2_000_000, "too large"),
    ],
)
def test_a_secret_of_the_wrong_size_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert said in refusal(AuthSettings(secret_file=str(path)))


def test_a_public_key_is_no_secret(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    path = tmp_path / "secret"
    path.write_bytes(pem(rsa_key))
    path.chmod(0o600)
    assert "is a public key or certificate" in refusal(AuthSettings(secret_file=str(path)))


def test_a_pipe_in_the_place_of_a_key_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    assert "must be a file" in refusal(AuthSettings(secret_file=str(tmp_path / "secret")))


# Public keys.


def test_a_public_key_is_pinned_to_its_algorithm(
    tmp_path: Path, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    for key, algorithm in ((rsa_key, "RS256"), (ec_key, "ES256")):
        path = tmp_path / algorithm
        path.write_bytes(pem(key))
        found = load_keys(AuthSettings(public_key_file=str(path)), "nowhere").find("whatever")
        assert found is not None
        assert found.algorithm == algorithm


def private(key: Any) -> bytes:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, none)
    return text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"", "is no public key in PEM form"),
        (lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is no public key"),
        (lambda: pem(rsa.generate_private_key(65537, 1024)), "at least 2048 bits, not 1024"),
        (lambda: pem(ec.generate_private_key(ec.SECP384R1())), "must be an RSA key (RS256) or a P-256"),
        (lambda: pem(ed25519.Ed25519PrivateKey.generate()), "must be an RSA key (RS256) or a P-256"),
        (lambda: private(ec.generate_private_key(ec.SECP256R1())), "openssl pkey -in"),
    ],
    ids=["empty", "garbage", "short rsa", "p-384", "ed25519", "private"],
)
def test_another_kind_of_public_key_is_refused(tmp_path: Path, make: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(make())
    text = refusal(AuthSettings(public_key_file=str(path)))
    assert text.startswith(f"auth.public_key_file: {path}: ")
    assert said in text


def test_an_unreadable_public_key_is_told(tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    assert refusal(AuthSettings(public_key_file=str(path))).startswith(
        f"auth.public_key_file: {path}: the key cannot be read: No such"
    )


# Key sets.


@pytest.fixture
def key_set(tmp_path: Path) -> Callable[[Any], AuthSettings]:
    def write(keys: Any) -> AuthSettings:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps(keys) if not isinstance(keys, str) else keys)
        return AuthSettings(jwks_file=str(path))

    return write


def header(**fields: Any) -> str:
    return jwt.encode({}, "x" * 32, headers=fields)


def test_a_kid_chooses_the_key(
    key_set: Any, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    listed = [jwk(rsa_key, kid="r", alg="RS256", use="sig"), jwk(ec_key, kid="e"), jwk(rsa_key, use="enc")]
    keys = load_keys(key_set({"keys": listed}), "nowhere")
    assert (keys.find(header(kid="r")) or ("",))[0] == "RS256"
    assert (keys.find(header(kid="e")) or ("",))[0] == "ES256"
    assert keys.find(header(kid="x")) is None
    assert keys.find(header()) is None, "which of the two?"


def test_a_single_key_needs_no_kid_but_a_wrong_one_is_wrong(key_set: Any, ec_key: Any) -> None:
    keys = load_keys(key_set({"keys": [jwk(ec_key, kid="e")]}), "nowhere")
    assert keys.find(header()) is not None
    assert keys.find(header(kid="other")) is None


def test_no_keys_find_nothing() -> None:
    assert KeySet().find(header(kid="a")) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda key: "{", "is no JSON Web Key Set"),
        (lambda key: "[" * 100_000, "is no JSON Web Key Set"),
        (lambda key: [], "is no JSON Web Key Set"),
        (lambda key: {}, "is no JSON Web Key Set"),
        (lambda key: {"keys": []}, "has no key"),
        (lambda key: {"keys": {"a": 1}}, "has no key"),
        (lambda key: {"keys": [jwk(key, use="enc")]}, "has no key"),
        (lambda key: {"keys": ["x"]}, "key 1: must be an object"),
        (lambda key: {"keys": [jwk(key, kid="a"), jwk(key, kid="a")]}, "key 2: must have a kid that no"),
        (lambda key: {"keys": [jwk(key), jwk(key)]}, "key 2: must have a kid that no"),
        (lambda key: {"keys": [jwk(key, kid=7)]}, "key 1: must have a kid"),
        (lambda key: {"keys": [jwk(key, alg="HS256")]}, "key 1: cannot be used"),
        (lambda key: {"keys": [jwk(key, alg="ES384")]}, "key 1:"),
        (lambda key: {"keys": [jwk(key, alg="none")]}, "key 1:"),
        (lambda key: {"keys": [jwk(key, x="!")]}, "key 1: cannot be used"),
        (lambda key: {"keys": [jwk(key, d="AAAA")]}, "key 1: must be a public"),
        (lambda key: {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}, "goes to auth.secret_file"),
    ],
)
def test_a_bad_key_set_is_refused_as_a_whole(key_set: Any, ec_key: Any, make: Any, said: str) -> None:
    assert said in refusal(key_set(make(ec_key)))


# What it has signed.


@pytest.mark.parametrize("size", [32, 63, 64, 65, 200])
def test_a_secrets_signature_is_pyjwts(size: int) -> None:
    secret = bytes(range(size))
    key = Key("HS256", secret)
    for text in (b"", b"a.b", b"x" * 1_000):
        signature = jwt.get_algorithm_by_name("HS256").sign(text, secret)
        assert key.has_signed(text, signature)
        assert not key.has_signed(text + b"x", signature)
        assert not key.has_signed(text, signature[:-1])
        assert not Key("HS256", secret[:-1] + b"\xff").has_signed(text, signature)
