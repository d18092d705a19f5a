"""Tokens: JSON Web Tokens that an issuer signed and the gateway checks; and making them with its own secret.

Claims: ``sub`` is the user; ``aud`` and ``exp`` must be there; ``nbf`` and ``iat`` count if they are;
``device`` (or ``dev``) pins the device; ``svc`` true is a business server; ``rooms`` and ``topics`` list ids
that the policy may grant; ``node`` is the one node that the token is good for, where the settings ask for
that (``auth.node``); ``jti`` names the token. Revocation looks at ``iat``: a token without
counts as older than any.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jwt
from zope.interface import implementer

from imgateway.auth.keys import KeySet, load_keys
from imgateway.auth.usual import usual_claims
from imgateway.config import AuthSettings
from imgateway.core.credentials import bare_token
from imgateway.errors import CloseCode, InvalidAddress, LoginRefused
from imgateway.frames import Hello, check_id
from imgateway.interfaces import IAuthenticator, Identity

__all__ = ("RESERVED", "TokenAuthenticator", "bind", "mint")

LAST_S = 253_402_300_800  # the year 10000: later times do not fit where they are told on
MAX_GRANTS = 1000

# What is settled once the token was checked, or stands in the identity itself.
_SETTLED = frozenset({"sub", "aud", "exp", "nbf", "iat", "iss", "jti", "svc", "device", "dev"})
RESERVED = _SETTLED | {"rooms", "topics", "node"}
"""The claims that mean something here; all others are for policies of other packages."""
_NONE: Mapping[str, Any] = {}
_NUMBERS = (int, float)

# PyJWT checks the signature and the audience; the times are checked here, against our caller's clock.
_OPTIONS: Any = {
    "require": ["sub", "aud", "exp"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@implementer(IAuthenticator)
class TokenAuthenticator:
    """Checks the greeting's token.

    :param data_dir: where the secret is made when the settings name no key.
    :param seconds: the wall clock, Unix seconds.
    :raises OperatorError: the keys cannot be used.
    """

    name = "token"

    def __init__(self, settings: AuthSettings, data_dir: str, seconds: Callable[[], float]) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._seconds = seconds
        self._keys = load_keys(settings, data_dir)

    def read(self) -> Callable[[], None]:
        """Read the key files again. The keys in use stay in use until what this returns is called.

        :raises OperatorError: they cannot be used.
        """
        # A secret that was deleted is not made anew: that would lock out everybody without a word.
        keys = load_keys(self._settings, self._data_dir, make=False)

        def use() -> None:
            self._keys = keys

        return use

    def authenticate(self, hello: Hello, peer: str) -> Identity:
        """:raises LoginRefused: BAD_TOKEN, TOKEN_EXPIRED or WRONG_AUDIENCE; the reason has no content."""
        token = bare_token(hello.token)
        claims = usual_claims(token, self._keys, self._settings.audience)
        if claims is None:
            claims = self._claims(token)
        identity = _identity(claims, self._seconds(), self._settings.leeway_s)
        if hello.user and hello.user != identity.user:
            raise LoginRefused("the token is for another user")
        if self._settings.node and claims.get("node") != self._settings.node:
            raise LoginRefused("the token is not for this node")
        return identity

    def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            return _verified(token, self._keys, self._settings.audience)
        except LoginRefused:
            raise
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError) as error:
            # Both are raised only once the signature was found good.
            if isinstance(error, jwt.InvalidAudienceError) or error.claim == "aud":
                raise LoginRefused("the token is for another audience", CloseCode.WRONG_AUDIENCE) from None
            raise LoginRefused(f"the token has no {error.claim}") from None
        except Exception:
            # A stranger's bytes: PyJWT, and JSON and base64 below it, raise more kinds than they list.
            raise LoginRefused("the token is not valid") from None


def _verified(token: str, keys: KeySet, audience: str) -> Mapping[str, Any]:
    key = keys.find(token)
    if key is None:
        raise LoginRefused("the token's key is not known")
    return jwt.decode(token, key.material, algorithms=[key.algorithm], audience=audience, options=_OPTIONS)


def _identity(claims: Mapping[str, Any], now_s: float, leeway_s: int) -> Identity:
    expires_s = _time(claims, "exp")
    if now_s >= expires_s + leeway_s:
        raise LoginRefused("the token has expired", CloseCode.TOKEN_EXPIRED)
    issued_s = _time(claims, "iat")
    valid_s = max(_time(claims, "nbf"), issued_s) if "nbf" in claims else issued_s
    if valid_s > now_s + leeway_s:
        raise LoginRefused("the token is not valid yet")
    service = claims.get("svc", False)
    if not isinstance(service, bool):
        raise LoginRefused("the token's svc is not true or false")
    device = claims.get("device", claims.get("dev", ""))
    return Identity(
        user=_id("sub", claims["sub"]),
        device=_id("device", device) if device != "" else "",
        service=service,
        issued_at_s=_second(int(issued_s)),
        expires_at_s=_second(int(expires_s)),
        claims=_own(claims),
    )


@lru_cache(maxsize=8192)
def _second(time_s: int) -> int:
    """The same object for the same second: sessions keep it, and the tokens of an hour name few."""
    return time_s


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name, 0)
    # NaN and the infinities are numbers to the JSON parser, and fail this comparison.
    if type(value) not in _NUMBERS or not 0 <= value < LAST_S:
        raise LoginRefused(f"the token's {name} is not a time")
    return value  # type: ignore[no-any-return]


def _id(name: str, value: Any) -> str:
    try:
        if isinstance(value, str):
            return check_id(value)
    except InvalidAddress:
        pass
    raise LoginRefused(f"the token's {name} is not an id")


def _own(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claims that are left for policies: a session keeps them as long as it lives, the others are
    settled."""
    if claims.keys() <= _SETTLED:
        return _NONE
    own = {name: value for name, value in claims.items() if name not in _SETTLED}
    for name in ("rooms", "topics"):
        if name in own:
            own[name] = _granted(own, name)
    return own


def _granted(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    ids = claims[name]
    if not isinstance(ids, list) or len(ids) > MAX_GRANTS:
        raise LoginRefused(f"the token's {name} are not a list of ids")
    return frozenset(_id(name, one) for one in ids)


def mint(
    secret: bytes,
    user: str,
    device: str = "",
    ttl_s: float = 3600.0,
    service: bool = False,
    now_s: float = 0.0,
    audience: str = "imgateway",
    rooms: Sequence[str] = (),
    topics: Sequence[str] = (),
    own: Mapping[str, str] = _NONE,
) -> str:
    """A token signed with the gateway's secret, valid for `ttl_s` seconds from `now_s` (Unix seconds).

    :param rooms: the ids of rooms that it may publish to without being in them.
    :param topics: the ids of topics that it may publish to, read, and subscribe to.
    :param own: other claims, none of them `RESERVED`.
    :raises InvalidAddress: `user`, `device`, a room or a topic is no id.
    """
    claims: dict[str, Any] = {
        **own,
        "sub": check_id(user),
        "aud": audience,
        "iat": int(now_s),
        "exp": int(now_s + ttl_s),
        "jti": secrets.token_hex(16),
    }
    if device:
        claims["device"] = check_id(device)
    if service:
        claims["svc"] = True
    if rooms:
        claims["rooms"] = [check_id(room) for room in rooms]
    if topics:
        claims["topics"] = [check_id(topic) for topic in topics]
    return jwt.encode(claims, secret, algorithm="HS256")


def bind(
    secret: bytes,
    identity: Identity,
    node: str,
    now_s: float,
    audience: str = "imgateway",
    last_s: int = 86_400,
) -> str:
    """A token with all that `identity` may, which is good for one node, and no longer than the first was.

    It was issued when the first one was: what revokes that revokes this.

    :param last_s: how long it is good if the first one is for ever.
    """
    claims: dict[str, Any] = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in identity.claims.items()
    }
    claims |= {
        "sub": identity.user,
        "aud": audience,
        "iat": identity.issued_at_s,
        "exp": identity.expires_at_s or int(now_s + last_s),
        "jti": secrets.token_hex(16),
        "node": node,
    }
    if identity.device:
        claims["device"] = identity.device
    if identity.service:
        claims["svc"] = True
    return jwt.encode(claims, secret, algorithm="HS256")
