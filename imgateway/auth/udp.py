"""The UDP secret, and the keys that are made from it: one for each token, told to its user with it.

The gateway keeps none of them: it makes a key again from the key id that a datagram names.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imgateway.auth.keys import key_file, make_secret, read_file, set_by
from imgateway.config import UdpSettings
from imgateway.core.credentials import UDP_KEY_BYTES, join, key_id_of
from imgateway.errors import OperatorError

__all__ = ("UdpKeys", "load_udp_secret", "udp_key", "udp_reset_key", "udp_secret_path", "with_udp_key")

SECRET_BYTES = 32


def udp_secret_path(settings: UdpSettings, data_dir: str) -> Path:
    """Where the secret is, or will be."""
    return key_file(settings.secret_file, data_dir, "udp")


def load_udp_secret(settings: UdpSettings, data_dir: str, make: bool = True) -> bytes:
    """The 32 random bytes, from base64 in their file.

    :param make: make the data directory's file if it is not there.
    :raises OperatorError: it is missing, has another content, or others may read it.
    """
    path = udp_secret_path(settings, data_dir)
    if make and not settings.secret_file:
        make_secret(data_dir, "udp")
    with set_by(
        "udp.secret_file", settings.secret_file, "put the secret there: openssl rand -base64 32 makes one"
    ):
        return _secret(path)


def _secret(path: Path) -> bytes:
    text = read_file(path, private=True).strip()
    try:
        secret = urlsafe_b64decode(text.replace(b"+", b"-").replace(b"/", b"_") + b"=" * (-len(text) % 4))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise OperatorError(
            f"{path}: the UDP secret is {SECRET_BYTES} bytes in base64; make one: openssl rand -base64 32"
        )
    return secret


def udp_key(secret: bytes, key_id: bytes) -> bytes:
    """The key of the token with this key id, 16 bytes."""
    return _derived(secret, b"key" + key_id, UDP_KEY_BYTES)


def udp_reset_key(secret: bytes, node: str) -> bytes:
    """What a node shows with that it is the one when it says that it does not know a connection, 32 bytes.

    Every node has its own: another one with the same secret knows none of its connections, and would end them
    for anybody who has seen a datagram. Under another name a node cannot end what it had under the old one.
    """
    return _derived(secret, b"reset " + node.encode(), 32)


def with_udp_key(token: str, secret: bytes) -> str:
    """The token as its user takes it along for UDP.

    :raises ValueError: it has no jti.
    """
    return join(token, udp_key(secret, key_id_of(token)))


class UdpKeys:
    """All that a transport needs of the secret.

    :param node: the name of the node.
    """

    def __init__(self, secret: bytes, node: str) -> None:
        self._secret = secret
        self.reset_key = udp_reset_key(secret, node)

    def key_of(self, key_id: bytes) -> bytes:
        """The key of the token with this key id."""
        return udp_key(self._secret, key_id)


def _derived(secret: bytes, what: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, None, b"imgateway udp 1 " + what).derive(secret)
