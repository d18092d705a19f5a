"""The keys that check tokens: the gateway's own secret, a public key, or a set of public keys.

A key belongs to one algorithm, which is settled here and never read from a token: ``none``, and a public key
used as an HMAC secret, have no way in.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from hmac import compare_digest
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from imgateway.config import AuthSettings
from imgateway.config.denied import in_the_way, why_not
from imgateway.errors import OperatorError

__all__ = (
    "Key",
    "KeySet",
    "header_of",
    "key_file",
    "load_keys",
    "load_secret",
    "make_secret",
    "read_file",
    "secret_path",
    "set_by",
)

MIN_SECRET_BYTES = 32  # an HMAC key shorter than the hash weakens it (RFC 7518, 3.2)
MIN_RSA_BITS = 2048
MAX_KEY_FILE_BYTES = 1_048_576


class _Missing(OperatorError):
    """There is no such file."""


class Key(NamedTuple):
    """A key and the one algorithm that it is used with, which has prepared it."""

    algorithm: str
    material: Any

    def has_signed(self, text: bytes, signature: bytes) -> bool:
        if self.algorithm == "HS256":
            begun = _begun(self.material).copy()
            begun.update(text)
            return compare_digest(signature, begun.finalize())
        return jwt.get_algorithm_by_name(self.algorithm).verify(text, self.material, signature)


@lru_cache(maxsize=8)
def _begun(secret: bytes) -> HMAC:
    """An HMAC to be copied: to prepare the secret anew for each text takes as long as the text. Not Python's
    own, whose copy is four calls in Python."""
    return HMAC(secret, SHA256())


@lru_cache(maxsize=64)
def header_of(token: bytes) -> Mapping[str, Any]:
    """The header of a token of which nothing but the header is there (``header..``). An issuer writes the
    same one into each.

    :raises jwt.PyJWTError: it is none.
    """
    return jwt.get_unverified_header(token)


class KeySet:
    """The keys in use. `named`: by kid; without, there is one key and a token's kid does not matter."""

    def __init__(self, only: Key | None = None, named: Mapping[str, Key] | None = None) -> None:
        self._only = only
        self._named = named or {}

    def find(self, token: str) -> Key | None:
        """The key that a token must have been signed with; None: it names none that is known.

        :raises jwt.PyJWTError: its header is none.
        """
        if self._only is not None:
            return self._only
        kid = header_of(token.partition(".")[0].encode() + b"..").get("kid")
        if kid is None and len(self._named) == 1:
            return next(iter(self._named.values()))
        return self._named.get(kid) if isinstance(kid, str) else None


def load_keys(settings: AuthSettings, data_dir: str, make: bool = True) -> KeySet:
    """The keys that the settings name; without any, the data directory's secret.

    :param make: make that secret if it is not there.
    :raises OperatorError: one line that says what is wrong with which file, and how to mend it.
    """
    if file := settings.public_key_file:
        with set_by("auth.public_key_file", file, "put the issuer's public key there, in PEM form"):
            return KeySet(_public_key(file))
    if file := settings.jwks_file:
        with set_by("auth.jwks_file", file, "put the issuer's JSON Web Key Set there"):
            return KeySet(named=_jwks(file))
    if make and not settings.secret_file:
        make_secret(data_dir)
    return KeySet(Key("HS256", load_secret(settings, data_dir)))


# ------------------------------------------------------------------------------------------------- the secret


def secret_path(settings: AuthSettings, data_dir: str) -> Path:
    """Where the HS256 secret is, or will be."""
    return key_file(settings.secret_file, data_dir, "token")


def key_file(set_to: str, data_dir: str, name: str) -> Path:
    """The file of a secret: what the settings say; if they say nothing ("") ``secrets/NAME.key`` of the data
    directory."""
    return Path(set_to) if set_to else Path(data_dir) / "secrets" / f"{name}.key"


@contextmanager
def set_by(setting: str, file: str, otherwise: str) -> Iterator[None]:
    """What is wrong with the file is told with the setting that names it; "": nothing does.

    :param otherwise: what to do if it is not there.
    """
    try:
        yield
    except OperatorError as error:
        if not file:
            raise
        more = f"; {otherwise}" if isinstance(error, _Missing) else ""
        raise OperatorError(f"{setting}: {error}{more}") from None


def make_secret(data_dir: str, name: str = "token") -> None:
    """Make a secret of the data directory if there is none: 32 random bytes in base64, readable by us alone.

    It appears whole or not at all, and of two processes that try at once both use the one that came first.

    :param name: ``token`` or ``udp``: what it is for, and its file, ``secrets/NAME.key``.

    :raises OperatorError: the directory cannot be written.
    """
    path = key_file("", data_dir, name)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return
        Path(data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # unlike a rename it never replaces
            except FileExistsError:
                pass
        finally:
            os.unlink(fresh)
        _sync_directory(path.parent)
        _sync_directory(Path(data_dir))  # the directory of secrets may be new as well
    except OSError as error:
        raise OperatorError(
            f"{path}: the {name} secret cannot be read or made: {_why_not_made(error, path.parent, data_dir)}"
        ) from None


def _why_not_made(error: OSError, directory: Path, data_dir: str) -> str:
    if (file := in_the_way(directory)) is not None:
        return f"{file} is a file, not a directory; name another place with --data-dir"
    if not os.path.isdir(data_dir) and not isinstance(error, PermissionError):
        return f"{error.strerror}; {data_dir} cannot be made: name another place with --data-dir"
    return f"{error.strerror}; the --data-dir must belong to the user who starts this"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_secret(settings: AuthSettings, data_dir: str) -> bytes:
    """The HS256 secret: the file's bytes without white space around them.

    :raises OperatorError: it is missing, too short, or others may read it.
    """
    with set_by(
        "auth.secret_file",
        settings.secret_file,
        "put the secret there (openssl rand -base64 32 makes one), or leave the setting out: a node then "
        "makes its own",
    ):
        return _secret(secret_path(settings, data_dir))


def _secret(path: Path) -> bytes:
    content = read_file(path, private=True).strip()
    if len(content) < MIN_SECRET_BYTES:
        raise OperatorError(
            f"{path}: a token secret has at least {MIN_SECRET_BYTES} bytes, not {len(content)}; "
            f"make one: openssl rand -base64 32"
        )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(content)
    except jwt.InvalidKeyError:
        raise OperatorError(f"{path}: is a public key or certificate, and no secret") from None
    return content


def read_file(path: Path, private: bool = False) -> bytes:
    """What is in a key file. `private`: it is a secret, so others must not get at it.

    :raises OperatorError: it cannot be read, is no file, or others may read or change it.
    """
    try:
        # Not blocking: a pipe in the place of a file shall be told, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        kind = _Missing if isinstance(error, FileNotFoundError) else OperatorError
        raise kind(f"{path}: the key cannot be read: {why_not(error, path)}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OperatorError(f"{path}: the key must be a file")
        # A group may read it: that is how systemd and containers hand out secrets. Nobody else may write it.
        if private and status.st_mode & 0o027:
            raise OperatorError(f"{path}: others may read or change this secret; mend it: chmod 600 {path}")
        if status.st_size > MAX_KEY_FILE_BYTES:
            raise OperatorError(f"{path}: is too large for a key ({status.st_size} bytes)")
        return file.read()


# ------------------------------------------------------------------------------------------------ public keys


def _public_key(name: str) -> Key:
    path = Path(name)
    content = read_file(path)
    if b"PRIVATE KEY" in content:
        raise OperatorError(
            f"{path}: is a private key, and the gateway wants none; extract: openssl pkey -in {path} -pubout"
        )
    try:
        material = load_pem_public_key(content)
    except Exception as error:  # ValueError, UnsupportedAlgorithm and more of cryptography's own
        raise OperatorError(f"{path}: is no public key in PEM form ({type(error).__name__})") from None
    return _pinned(material, str(path))


def _pinned(material: Any, where: str) -> Key:
    """The key with the algorithm that its kind allows."""
    if isinstance(material, RSAPublicKey):
        if material.key_size < MIN_RSA_BITS:
            raise OperatorError(
                f"{where}: an RSA key has at least {MIN_RSA_BITS} bits, not {material.key_size}"
            )
        return Key("RS256", material)
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return Key("ES256", material)
    raise OperatorError(f"{where}: must be an RSA key (RS256) or a P-256 key (ES256)")


def _jwks(name: str) -> dict[str, Key]:
    path = Path(name)
    try:
        listed = json.loads(read_file(path))["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OperatorError(f'{path}: is no JSON Web Key Set: {{"keys": [...]}}') from None
    keys: dict[str, Key] = {}
    for index, one in enumerate(listed if isinstance(listed, list) else []):
        where = f"{path}: key {index + 1}"
        if not isinstance(one, dict):
            raise OperatorError(f"{where}: must be an object")
        if one.get("use", "sig") != "sig":
            continue  # the issuer may list its encryption keys too
        if one.get("kty") not in ("RSA", "EC") or "d" in one:
            raise OperatorError(
                f"{where}: must be a public RSA or P-256 key; a shared secret goes to auth.secret_file"
            )
        kid = one.get("kid", "")
        if not isinstance(kid, str) or kid in keys:
            raise OperatorError(f"{where}: must have a kid that no other key has")
        try:
            material = jwt.PyJWK(one).key
        except Exception as error:  # PyJWT lets some of the parser's errors through
            raise OperatorError(f"{where}: cannot be used ({type(error).__name__})") from None
        key = _pinned(material, where)
        if one.get("alg", key.algorithm) != key.algorithm:
            raise OperatorError(f"{where}: alg must be {key.algorithm} or absent")
        keys[kid] = key
    if not keys:
        raise OperatorError(f"{path}: has no key that checks signatures")
    return keys
