"""Tokens: what is taken, and every way to forge or bend one that must not work."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from imgateway.auth.keys import load_secret, secret_path
from imgateway.auth.token import TokenAuthenticator, mint
from imgateway.config import AuthSettings
from imgateway.errors import CloseCode, InvalidAddress, LoginRefused, OperatorError
from imgateway.frames import Hello
from imgateway.interfaces import IAuthenticator, Identity

NOW = 1_800_000_000.0
CLAIMS = {"sub": "alice", "aud": "imgateway", "exp": NOW + 3600, "iat": NOW}


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(tmp_path: Path, clock: Clock) -> TokenAuthenticator:
    return TokenAuthenticator(AuthSettings(), str(tmp_path), clock)


@pytest.fixture
def secret(gate: TokenAuthenticator, tmp_path: Path) -> bytes:
    return load_secret(AuthSettings(), str(tmp_path))


def let_in(gate: TokenAuthenticator, token: str) -> Identity:
    return gate.authenticate(Hello(token), "127.0.0.1:1")


def refusal(gate: TokenAuthenticator, token: str) -> tuple[CloseCode, str]:
    with pytest.raises(LoginRefused) as caught:
        gate.authenticate(Hello(token), "127.0.0.1:1")
    assert caught.value.__cause__ is None
    return caught.value.code, caught.value.reason


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: Any, payload: Any, key: bytes, digest: str = "sha256") -> str:
    """A token with a real HMAC over whatever header and payload."""
    head = f"{part(header)}.{part(payload)}"
    return f"{head}.{part(hmac.new(key, head.encode(), digest).digest())}"


def test_it_is_an_authenticator(gate: TokenAuthenticator) -> None:
    verifyObject(IAuthenticator, gate)
    assert gate.name == "token"


# What is taken.


def test_a_minted_token_is_let_in(gate: TokenAuthenticator, secret: bytes) -> None:
    identity = let_in(gate, mint(secret, "alice", now_s=NOW, ttl_s=60))
    assert (identity.user, identity.device, identity.service) == ("alice", "", False)
    assert (identity.issued_at_s, identity.expires_at_s) == (int(NOW), int(NOW) + 60)
    assert identity.claims == {}  # all of its claims are settled


def test_a_minted_token_may_pin_a_device_and_be_a_service(gate: TokenAuthenticator, secret: bytes) -> None:
    identity = let_in(gate, mint(secret, "billing", "host-1", 60, service=True, now_s=NOW))
    assert (identity.user, identity.device, identity.service) == ("billing", "host-1", True)


def test_a_minted_token_may_have_claims_for_a_policy(gate: TokenAuthenticator, secret: bytes) -> None:
    identity = let_in(gate, mint(secret, "alice", now_s=NOW, ttl_s=60, own={"tenant": "red", "sub": "eve"}))
    assert identity.claims["tenant"] == "red"
    assert identity.user == "alice"


def test_what_is_no_id_is_not_minted(secret: bytes) -> None:
    for user, device in (("", ""), ("a\nb", ""), ("a", "d" * 65)):
        with pytest.raises(InvalidAddress):
            mint(secret, user, device, now_s=NOW)


def test_two_tokens_are_never_the_same(secret: bytes) -> None:
    assert mint(secret, "alice", now_s=NOW) != mint(secret, "alice", now_s=NOW)


def test_another_issuers_token_with_the_same_secret_is_let_in(
    gate: TokenAuthenticator, secret: bytes
) -> None:
    claims = {**CLAIMS, "aud": ["other", "imgateway"], "dev": "phone", "svc": False, "exp": NOW + 1.5}
    claims |= {"rooms": ["7", "8"], "topics": [], "tenant": {"id": 1}}
    identity = let_in(gate, jwt.encode(claims, secret, headers={"kid": "any"}))
    assert identity.device == "phone"
    assert identity.claims["rooms"] == {"7", "8"}
    assert identity.claims["topics"] == frozenset()
    assert identity.claims["tenant"] == {"id": 1}
    assert not identity.service


def test_without_iat_it_is_older_than_any_revocation(gate: TokenAuthenticator, secret: bytes) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != "iat"}
    assert let_in(gate, jwt.encode(claims, secret)).issued_at_s == 0


def test_a_greeting_may_name_the_user_of_its_token_and_nobody_else(
    gate: TokenAuthenticator, secret: bytes
) -> None:
    token = mint(secret, "bob", now_s=NOW)
    assert gate.authenticate(Hello(token, user="bob"), "127.0.0.1:1").user == "bob"
    with pytest.raises(LoginRefused, match="another user") as caught:
        gate.authenticate(Hello(token, user="Bob"), "127.0.0.1:1")
    assert caught.value.code is CloseCode.BAD_TOKEN


def test_an_audience_of_ones_own(tmp_path: Path, clock: Clock) -> None:
    gate = TokenAuthenticator(AuthSettings(audience="chat"), str(tmp_path), clock)
    secret = load_secret(AuthSettings(), str(tmp_path))
    assert let_in(gate, mint(secret, "a", now_s=NOW, audience="chat")).user == "a"
    assert refusal(gate, mint(secret, "a", now_s=NOW))[0] is CloseCode.WRONG_AUDIENCE


# Time.


@pytest.mark.parametrize(
    ("claims", "at", "code"),
    [
        ({"exp": NOW + 60}, NOW + 60 + 4.9, None),
        ({"exp": NOW + 60}, NOW + 60 + 5, CloseCode.TOKEN_EXPIRED),
        ({"exp": 0}, NOW, CloseCode.TOKEN_EXPIRED),
        ({"nbf": NOW + 60}, NOW + 55, None),
        ({"nbf": NOW + 60}, NOW + 54.9, CloseCode.BAD_TOKEN),
        ({"iat": NOW + 5}, NOW, None),
        ({"iat": NOW + 6}, NOW, CloseCode.BAD_TOKEN),
    ],
)
def test_clocks_may_differ_by_the_leeway(
    gate: TokenAuthenticator, clock: Clock, secret: bytes, claims: Any, at: float, code: CloseCode | None
) -> None:
    token = jwt.encode({**CLAIMS, **claims}, secret)
    clock.now = at
    if code is None:
        assert let_in(gate, token).user == "alice"
    else:
        assert refusal(gate, token)[0] is code


def test_the_machines_own_clock_is_not_asked(gate: TokenAuthenticator, clock: Clock, secret: bytes) -> None:
    clock.now = 1_000.0
    assert let_in(gate, mint(secret, "alice", now_s=1_000.0, ttl_s=10)).user == "alice"


# What is refused, although it is signed well.


@pytest.mark.parametrize(
    ("claims", "code", "reason"),
    [
        ({"aud": "other"}, CloseCode.WRONG_AUDIENCE, "another audience"),
        ({"aud": ["other"]}, CloseCode.WRONG_AUDIENCE, "another audience"),
        ({"aud": None}, CloseCode.WRONG_AUDIENCE, "another audience"),
        ({"aud": 7}, CloseCode.WRONG_AUDIENCE, "another audience"),
        ({"sub": None}, CloseCode.BAD_TOKEN, "has no sub"),
        ({"exp": None}, CloseCode.BAD_TOKEN, "has no exp"),
        ({"sub": 42}, CloseCode.BAD_TOKEN, "not valid"),
        ({"sub": ""}, CloseCode.BAD_TOKEN, "sub is not an id"),
        ({"sub": "a\x00b"}, CloseCode.BAD_TOKEN, "sub is not an id"),
        ({"sub": "\ud800"}, CloseCode.BAD_TOKEN, "sub is not an id"),
        ({"sub": "ü" * 33}, CloseCode.BAD_TOKEN, "sub is not an id"),
        ({"exp": "tomorrow"}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"exp": True}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"exp": float("nan")}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"exp": float("inf")}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"exp": 10**30}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"exp": -1}, CloseCode.BAD_TOKEN, "exp is not a time"),
        ({"iat": "now"}, CloseCode.BAD_TOKEN, "iat is not a time"),
        ({"nbf": [1]}, CloseCode.BAD_TOKEN, "nbf is not a time"),
        ({"device": 7}, CloseCode.BAD_TOKEN, "device is not an id"),
        ({"device": None}, CloseCode.BAD_TOKEN, "device is not an id"),
        ({"device": "a\nb"}, CloseCode.BAD_TOKEN, "device is not an id"),
        ({"svc": "false"}, CloseCode.BAD_TOKEN, "svc is not true or false"),
        ({"svc": 1}, CloseCode.BAD_TOKEN, "svc is not true or false"),
        ({"rooms": "7"}, CloseCode.BAD_TOKEN, "rooms are not a list"),
        ({"rooms": ["7", 8]}, CloseCode.BAD_TOKEN, "rooms is not an id"),
        ({"topics": {"a": 1}}, CloseCode.BAD_TOKEN, "topics are not a list"),
        ({"rooms": ["x"] * 1001}, CloseCode.BAD_TOKEN, "rooms are not a list"),
        ({"jti": 7}, CloseCode.BAD_TOKEN, "not valid"),
    ],
)
def test_a_wrong_claim(
    gate: TokenAuthenticator, secret: bytes, claims: Any, code: CloseCode, reason: str
) -> None:
    token = forge({"alg": "HS256"}, {**CLAIMS, **claims}, secret)
    said = refusal(gate, token)
    assert said[0] is code
    assert reason in said[1]


def test_a_bad_signature_hides_what_else_is_wrong(gate: TokenAuthenticator) -> None:
    for claims in ({"aud": "other"}, {"exp": 0}, {"sub": None}):
        code, reason = refusal(gate, jwt.encode({**CLAIMS, **claims}, "wrong" * 8))
        assert (code, reason) == (CloseCode.BAD_TOKEN, "the token is not valid")


# Tampering.


def test_any_changed_character_is_noticed(gate: TokenAuthenticator, secret: bytes) -> None:
    token = mint(secret, "alice", now_s=NOW)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, old in enumerate(token):
        other = "A" if old == "." else alphabet[(alphabet.index(old) + 32) % 64]
        code, reason = refusal(gate, token[:place] + other + token[place + 1 :])
        assert code is CloseCode.BAD_TOKEN
        assert "alice" not in reason


def test_parts_of_two_tokens_do_not_fit(gate: TokenAuthenticator, secret: bytes) -> None:
    one = mint(secret, "alice", now_s=NOW).split(".")
    two = mint(secret, "root", service=True, now_s=NOW).split(".")
    assert refusal(gate, ".".join([one[0], two[1], one[2]]))[0] is CloseCode.BAD_TOKEN


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", None, "HS384", "HS512", "RS256", "ES256", "x"]
)
@pytest.mark.parametrize("signed", [True, False])
def test_the_algorithm_is_not_the_tokens_to_choose(
    gate: TokenAuthenticator, secret: bytes, alg: str | None, signed: bool
) -> None:
    digest = {"HS384": "sha384", "HS512": "sha512"}.get(alg or "", "sha256")
    token = forge({"alg": alg, "typ": "JWT"}, CLAIMS, secret, digest)
    if not signed:
        token = token.rpartition(".")[0] + "."
    assert refusal(gate, token)[0] is CloseCode.BAD_TOKEN


def test_keys_in_the_token_are_not_used(gate: TokenAuthenticator) -> None:
    own = b"attacker" * 4
    key = {"kty": "oct", "k": part(own)}
    for extra in (
        {"jwk": key},
        {"jku": "http://127.0.0.1/keys"},
        {"x5u": "file:///dev/zero"},
        {"kid": "../../x"},
    ):
        assert refusal(gate, forge({"alg": "HS256", **extra}, CLAIMS, own))[0] is CloseCode.BAD_TOKEN


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "\ud800",
        "ü.ü.ü",
        "\x00" * 100,
        "A" * 8000,
        part(b"[" * 5000) + ".e30.AA",
        part(b"\xff\xff") + ".e30.AA",
        part([]) + ".e30.AA",
        part({"alg": ["HS256"]}) + ".e30.AA",
        part({"alg": "HS256", "crit": ["exp"], "exp": 1}) + ".e30.AA",
        part({"alg": "HS256", "kid": {"a": 1}}) + ".e30.AA",
    ],
)
def test_garbage_is_a_bad_token_and_nothing_else(gate: TokenAuthenticator, token: str) -> None:
    assert refusal(gate, token) == (CloseCode.BAD_TOKEN, "the token is not valid")


@pytest.mark.parametrize("payload", [b"[]", b"7", b"\xff", b"{", b"[" * 5000, b'"x"'], ids=repr)
def test_a_signed_payload_that_is_no_object(gate: TokenAuthenticator, secret: bytes, payload: bytes) -> None:
    assert refusal(gate, forge({"alg": "HS256"}, payload, secret))[0] is CloseCode.BAD_TOKEN


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory: pytest.TempPathFactory) -> TokenAuthenticator:
    return TokenAuthenticator(AuthSettings(), str(tmp_path_factory.mktemp("gate")), Clock())


@given(st.text() | st.lists(st.binary().map(part), min_size=2, max_size=4).map(".".join))
@settings(max_examples=200)
def test_any_text_is_refused_and_raises_nothing_else(shared_gate: TokenAuthenticator, token: str) -> None:
    assert refusal(shared_gate, token)[0] is CloseCode.BAD_TOKEN


# Public keys.

Sign = Callable[..., str]


def public(key: Any) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    text: bytes = key.public_key().public_bytes(encoding, form)
    return text


KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_checks_its_algorithm_alone(tmp_path: Path, clock: Clock, algorithm: str) -> None:
    key = KEYS[algorithm]
    path = tmp_path / "key.pem"
    path.write_bytes(public(key))
    gate = TokenAuthenticator(AuthSettings(public_key_file=str(path)), str(tmp_path / "data"), clock)
    assert let_in(gate, jwt.encode(CLAIMS, key, algorithm)).user == "alice"
    assert not (tmp_path / "data").exists(), "a secret that nobody uses"
    other = "ES256" if algorithm == "RS256" else "RS256"
    forged = [
        jwt.encode(CLAIMS, KEYS[other], other),
        forge({"alg": algorithm}, CLAIMS, public(key)),
        *(forge({"alg": "HS256"}, CLAIMS, text) for text in (public(key), public(key).strip(), b"")),
        forge({"alg": "none"}, CLAIMS, b"x"),
    ]
    if algorithm == "RS256":
        forged += [jwt.encode(CLAIMS, key, "RS512"), jwt.encode(CLAIMS, key, "PS256")]
    for token in forged:
        assert refusal(gate, token) == (CloseCode.BAD_TOKEN, "the token is not valid")


def write_set(path: Path, **keys: str) -> None:
    listed = [
        {**jwt.get_algorithm_by_name(alg).to_jwk(KEYS[alg].public_key(), as_dict=True), "kid": kid}  # type: ignore[call-overload]
        for kid, alg in keys.items()
    ]
    path.write_text(json.dumps({"keys": listed}))


def test_a_key_set_is_chosen_from_by_kid_and_can_be_reloaded(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jwks.json"
    write_set(path, old="RS256", other="ES256")
    gate = TokenAuthenticator(AuthSettings(jwks_file=str(path)), str(tmp_path), clock)

    def token(kid: str | None, alg: str) -> str:
        return jwt.encode(CLAIMS, KEYS[alg], alg, headers={"kid": kid} if kid else None)

    assert let_in(gate, token("old", "RS256")).user == "alice"
    assert let_in(gate, token("other", "ES256")).user == "alice"
    assert refusal(gate, token("old", "ES256"))[1] == "the token is not valid"
    assert refusal(gate, token("new", "RS256"))[1] == "the token's key is not known"
    assert refusal(gate, token(None, "RS256"))[1] == "the token's key is not known"
    assert (
        refusal(gate, forge({"alg": "HS256", "kid": "old"}, CLAIMS, public(KEYS["RS256"])))[0]
        is CloseCode.BAD_TOKEN
    )
    assert refusal(gate, forge({"alg": "HS256", "kid": 7}, CLAIMS, b"x"))[0] is CloseCode.BAD_TOKEN

    write_set(path, new="RS256")
    assert refusal(gate, token("new", "RS256"))[0] is CloseCode.BAD_TOKEN, "before the reload"
    use = gate.read()
    assert refusal(gate, token("new", "RS256"))[0] is CloseCode.BAD_TOKEN, "before they are taken"
    use()
    assert let_in(gate, token("new", "RS256")).user == "alice"
    assert refusal(gate, token("old", "RS256"))[0] is CloseCode.BAD_TOKEN


def test_a_reload_that_fails_keeps_the_keys(tmp_path: Path, gate: TokenAuthenticator, secret: bytes) -> None:
    token = mint(secret, "alice", now_s=NOW)
    path = secret_path(AuthSettings(), str(tmp_path))
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 600"):
        gate.read()
    assert let_in(gate, token).user == "alice"
    path.unlink()
    with pytest.raises(OperatorError, match="cannot be read"):
        gate.read()
    assert let_in(gate, token).user == "alice"
    path.touch(0o600)
    path.write_bytes(hashlib.sha256(b"another").hexdigest().encode())
    gate.read()()
    assert refusal(gate, token)[0] is CloseCode.BAD_TOKEN
