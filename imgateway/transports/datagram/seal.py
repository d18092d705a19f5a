"""Keys, seals, cookies and tokens: everything secret about a datagram, and no state.

A key of ``b""`` means that nothing is sealed: what is sealed is then the bytes themselves. The objects of the
`cryptography` package are made for each datagram: they cost a microsecond to make and 2.5 KB to keep.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .packets import NO_COOKIE

__all__ = (
    "KEY_BYTES",
    "Cookies",
    "InvalidTag",
    "Keys",
    "hello_key",
    "made_before_ms",
    "open_sealed",
    "private_key",
    "public_of",
    "reset_token",
    "same",
    "seal",
    "session_keys",
    "shared_secret",
)

KEY_BYTES = 16
COOKIE_S = 20
"""So long a cookie is good."""

same = bytes_eq
"""Whether two bytes are equal, in a time that does not tell where they differ."""


def seal(key: bytes, number: int, clear: bytes, data: bytes) -> bytes:
    """`data` encrypted, with its tag, which covers `clear` too. A number is used once with a key."""
    return AESGCM(key).encrypt(number.to_bytes(12), data, clear) if key else data


def open_sealed(key: bytes, number: int, clear: bytes, sealed: bytes) -> bytes:
    """:raises InvalidTag: it is not what was sealed."""
    return AESGCM(key).decrypt(number.to_bytes(12), sealed, clear) if key else sealed


# ------------------------------------------------------------------------------------------------------ keys


class Keys(NamedTuple):
    """Of one session, a key for each direction."""

    to_server: bytes
    to_client: bytes


def _derived(material: bytes, salt: bytes, what: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, f"imgateway udp 1 {what}".encode()).derive(material)


def hello_key(udp_key: bytes, client_public: bytes) -> bytes:
    """The key of a client's HELLOs, from what came with its token; ``b""`` for ``b""``."""
    return _derived(udp_key, client_public, "hello") if udp_key else b""


def private_key(private: bytes) -> X25519PrivateKey:
    """The X25519 key of 32 random bytes; making it costs as much as an exchange with it."""
    return X25519PrivateKey.from_private_bytes(private)


def public_of(private: X25519PrivateKey) -> bytes:
    """Its public key, 32 B."""
    return private.public_key().public_bytes_raw()


def shared_secret(private: X25519PrivateKey, public: bytes) -> bytes:
    """:raises ValueError: the other's key is one of the few that no honest peer has."""
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def session_keys(
    shared: bytes, udp_key: bytes, key_id: bytes, client_public: bytes, server_public: bytes, cid: bytes
) -> Keys:
    """Both secrets go in: who learns the udp_key later still cannot open what was recorded."""
    salt = sha256(key_id + client_public + server_public + cid).digest()
    return Keys(_derived(shared + udp_key, salt, "c2s"), _derived(shared + udp_key, salt, "s2c"))


# ----------------------------------------------------------------------------------------- cookies and tokens


def reset_token(key: bytes, listener: str, cid: bytes) -> bytes:
    """Shows a client that a RESET of this cid comes from its gateway. `key`: of a secret that outlives us.

    Each listener has tokens of its own, or one would give away those of another's living connections.
    """
    return _mac(key, listener.encode() + cid)[:16]


class Cookies:
    """Proves that who sends from an address also receives there, without remembering anybody.

    :param secret: random, of this process: cookies need not outlive it.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def make(self, address: bytes, now: float) -> bytes:
        """A cookie begins with the time that it was made at, in ms."""
        return self._of(address, int(now * 1000))

    def good(self, cookie: bytes, address: bytes, now: float) -> bool:
        if cookie == NO_COOKIE:
            return False
        made_ms = int.from_bytes(cookie[:4])
        if int(now * 1000) - made_ms & 0xFFFFFFFF >= 1000 * COOKIE_S:
            return False
        return same(cookie, self._of(address, made_ms))

    def _of(self, address: bytes, made_ms: int) -> bytes:
        stamp = (made_ms & 0xFFFFFFFF).to_bytes(4)
        return stamp + _mac(self._secret, stamp + address)[:20]


def made_before_ms(cookie: bytes, other: bytes) -> int:
    """By how much one good cookie is older than another; less than 0: it is younger."""
    apart = int.from_bytes(other[:4]) - int.from_bytes(cookie[:4])
    return (apart + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def _mac(key: bytes, data: bytes) -> bytes:
    mac = HMAC(key, SHA256())
    mac.update(data)
    return mac.finalize()
