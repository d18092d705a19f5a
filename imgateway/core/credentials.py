"""What a user is given to log in with: a token, and with ``~`` after it the key that seals his datagrams.

``JWT~base64url(key)``. The key is a secret between him and the gateway, so it never goes with the token; the
gateway makes it again from the key id, a digest of the token's ``jti``.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any, NamedTuple

from imgateway.errors import CloseCode, ConnectRefused

__all__ = ("Credentials", "bare_token", "claims_of", "credentials_for", "join", "key_id_of", "split")

UDP_KEY_BYTES = 16


class Credentials(NamedTuple):
    """`udp` is (key id, key), 16 bytes each; None: the token came without a key."""

    token: str
    udp: tuple[bytes, bytes] | None


def bare_token(text: str) -> str:
    """The token alone, which may be shown to the gateway."""
    return text.partition("~")[0]


def split(text: str) -> Credentials:
    """Token and key apart.

    :raises ConnectRefused: what stands after the ~ is no key, or the token has no jti that one could belong
        to. Trying again does not help.
    """
    token, tilde, encoded = text.partition("~")
    if not tilde:
        return Credentials(token, None)
    try:
        key = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        key = b""
    if len(key) != UDP_KEY_BYTES:
        raise ConnectRefused(
            CloseCode.BAD_TOKEN,
            f"the UDP key after the token's ~ is not a key ({UDP_KEY_BYTES} bytes in base64url): "
            "was it cut off?",
        )
    try:
        return Credentials(token, (key_id_of(token), key))
    except ValueError as error:
        raise ConnectRefused(CloseCode.BAD_TOKEN, str(error)) from None


def credentials_for(url: str, text: str) -> Credentials:
    """What a connection to `url` wants: over UDP the key too, and elsewhere the key is not even looked at.

    :raises ConnectRefused: as `split` does.
    """
    return split(text) if url.startswith("udp://") else Credentials(bare_token(text), None)


def join(token: str, key: bytes) -> str:
    """What `split` takes apart."""
    return f"{token}~{urlsafe_b64encode(key).rstrip(b'=').decode()}"


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, read without any check; nothing, if it is none."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (LookupError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def key_id_of(token: str) -> bytes:
    """The key id of a token, 16 bytes. Read without any check: whoever invents a jti does not have its key.

    :raises ValueError: it has none.
    """
    jti = claims_of(token).get("jti")
    if not isinstance(jti, str) or not jti:
        raise ValueError("the token has no jti, so no UDP key can belong to it")
    return sha256(jti.encode("utf-8", "surrogatepass")).digest()[:16]
