"""API keys: who may use the API, for what, and how often.

A key is ``ID.SECRET``, with 32 random bytes as the secret; the file has its SHA-256, so that whoever reads
the file can not use the API. A slow hash would add nothing: nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import tomllib
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from imgateway.core.throttle import TokenBucket
from imgateway.errors import OperatorError
from imgateway.router.problems import Problem

__all__ = ("SCOPES", "Key", "Keys", "entry_of", "make_key", "no_key", "read_keys")

SCOPES = {
    "tokens": "make tokens for users",
    "service-tokens": "make tokens with a service's rights, which may do anything on a connection",
    "push": "push messages, and make and steer push tasks",
    "read": "see who is online, rooms, nodes and push tasks",
    "kick": "close sessions, revoke tokens",
    "request": "ask clients",
    "drain": "drain nodes, and have them take clients again",
}
"""What a key may be good for; ``*`` is all of it."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_NOBODY = hashlib.sha256(b"").hexdigest()
MAX_BYTES = 10_000_000


class Key(Struct, frozen=True, forbid_unknown_fields=True):
    """One key, as it stands in the file. `rate` requests a second, 0: not limited; `burst` at once."""

    id: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[str, ...]
    rate: Annotated[float, Meta(ge=0)] = 100.0
    burst: Annotated[int, Meta(ge=1)] = 200


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    key: tuple[Key, ...] = ()


def make_key(id: str, scopes: Sequence[str], rate: float = 100.0, burst: int = 200) -> tuple[str, Key]:
    """A new key: the text that its user gets, and what the file has of it.

    :raises OperatorError: the id or a scope is not one.
    """
    text = f"{id}.{secrets.token_urlsafe(32)}"
    key = Key(id, hashlib.sha256(text.encode()).hexdigest(), tuple(scopes), rate, burst)
    _check(key)
    return text, key


def entry_of(key: Key) -> str:
    """What to add to the file."""
    scopes = ", ".join(json.dumps(scope) for scope in key.scopes)
    return (
        f'\n[[key]]\nid = {json.dumps(key.id)}\nsha256 = "{key.sha256}"\nscopes = [{scopes}]\n'
        f"rate = {key.rate!r}\nburst = {key.burst}\n"
    )


def read_keys(path: str, may_be_empty: bool = False) -> tuple[Key, ...]:
    """The keys of a file: TOML, with a ``[[key]]`` for each.

    :param may_be_empty: nothing at all in it means that nobody has a key. Else it is taken for a file that is
        being written, or that a full disk cut off: who wants no keys has a comment in it.
    :raises OperatorError: one line: what is wrong, and what to change.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES)
        if not may_be_empty and not text.strip():
            raise OperatorError(
                f"router.keys_file: {path} is empty; imgateway apikey --id NAME --scopes push,read --file "
                f"{path} makes a key; if nobody shall have one, write a comment into it: # nobody"
            )
        keys = msgspec.convert(tomllib.loads(text.decode()), _File).key
    except OSError as error:
        raise OperatorError(
            f"router.keys_file: {path} cannot be read: {error.strerror}; "
            f"imgateway apikey --id NAME --scopes push,read --file {path} makes it"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise OperatorError(f"router.keys_file: {path}: {error}") from None
    seen = set()
    for key in keys:
        _check(key, f"router.keys_file: {path}: ")
        if key.id in seen:
            raise OperatorError(f"router.keys_file: {path}: the id {key.id} is there twice; take one away")
        seen.add(key.id)
    return keys


def _check(key: Key, where: str = "") -> None:
    if not _ID.fullmatch(key.id):
        raise OperatorError(f"{where}{key.id!r} is no id: letters, digits, - and _, at most 40")
    if not (key.rate >= 0 and key.burst >= 1):
        raise OperatorError(f"{where}the key {key.id}: rate must be at least 0, and burst at least 1")
    unknown = [scope for scope in key.scopes if scope not in SCOPES and scope != "*"]
    if unknown or not key.scopes:
        what = f"{unknown[0]!r} is no scope" if unknown else f"the key {key.id} has no scope"
        raise OperatorError(f"{where}{what}; there are {', '.join(SCOPES)}, and * for all")


def no_key(text: str) -> Problem:
    """The answer to a request with this key, which is none."""
    return Problem(
        "no-key",
        "the API key is not known" if text else "there is no API key",
        "send a key as Authorization: Bearer KEY; the operator makes one with imgateway apikey, and "
        "SIGHUP has it read",
        headers={"WWW-Authenticate": 'Bearer realm="imgateway"'},
    )


class Keys:
    """The keys in use, and how much of its rate each has used up.

    :param now: monotonic seconds.
    """

    def __init__(self, keys: Sequence[Key], now: Callable[[], float]) -> None:
        self._now = now
        self._keys: dict[str, tuple[Key, TokenBucket, frozenset[str]]] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, keys: Sequence[Key]) -> None:
        """Use these from now on. What a key has used of its rate stays used."""
        before, self._keys = self._keys, {}
        for key in keys:
            bucket = before[key.id][1] if key.id in before else TokenBucket(key.rate, key.burst, self._now())
            bucket.rate, bucket.burst = key.rate, key.burst
            scopes = frozenset(SCOPES) if "*" in key.scopes else frozenset(key.scopes)
            self._keys[key.id] = (key, bucket, scopes)

    def knows(self, text: str) -> bool:
        """Whether this is a key; takes as long whether or not it is."""
        return self._find(text) is not None

    def scopes_of(self, text: str) -> frozenset[str]:
        """What this key may do; nothing, if it is none."""
        found = self._find(text)
        return found[2] if found is not None else frozenset()

    def _find(self, text: str) -> tuple[Key, TokenBucket, frozenset[str]] | None:
        found = self._keys.get(text.partition(".")[0])
        hashed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        good = hmac.compare_digest(hashed, found[0].sha256 if found else _NOBODY)
        return found if good else None

    def admit(self, text: str, scope: str) -> tuple[str, frozenset[str]]:
        """Let a request with this key through: the key's id, and its scopes.

        :raises Problem: it is no key (401), may not do this (403), or too often (429).
        """
        found = self._find(text) if text else None
        if found is None:
            raise no_key(text)
        key, bucket, scopes = found
        if scope not in scopes:
            raise Problem(
                "forbidden",
                f"the key {key.id} has not the scope {scope}",
                "ask the operator for a key that has it",
            )
        now = self._now()
        if not bucket.take(1.0, now):
            raise Problem(
                "too-many",
                f"the key {key.id} may make {key.rate:g} requests a second, {key.burst} at once",
                "wait, and name more in one request",
                retry_after_s=bucket.wait_s(1.0, now),
            )
        return key.id, scopes
