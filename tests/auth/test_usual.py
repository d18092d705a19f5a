"""What is let through with little looks is what PyJWT lets through, and says the same."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.auth.keys import Key, KeySet
from imgateway.auth.usual import usual_claims

SECRET = b"k" * 43
KEYS = KeySet(Key("HS256", SECRET))
CLAIMS: dict[str, Any] = {"sub": "alice", "aud": "imgateway", "exp": 1_800_000_000, "jti": "ab" * 16}
OPTIONS: Any = {
    "require": ["sub", "aud", "exp"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


def part(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def signed(header: bytes, payload: bytes, secret: bytes = SECRET) -> str:
    """A token over whatever is given, with a good signature."""
    text = part(header) + b"." + part(payload)
    return (text + b"." + part(jwt.get_algorithm_by_name("HS256").sign(text, secret))).decode()


def theirs(token: str) -> Any:
    """PyJWT's answer; None if it takes it not."""
    try:
        return jwt.decode(token, SECRET, algorithms=["HS256"], audience="imgateway", options=OPTIONS)
    except Exception:
        return None


def test_a_usual_token_needs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    token = jwt.encode(CLAIMS, SECRET, "HS256")
    usual_claims(token, KEYS, "imgateway")
    monkeypatch.setattr(jwt, "get_unverified_header", None)
    assert usual_claims(token, KEYS, "imgateway") == CLAIMS


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("ES256", ec.generate_private_key(ec.SECP256R1())), ("RS256", rsa.generate_private_key(65537, 2048))],
)
def test_a_set_of_public_keys(algorithm: str, key: Any) -> None:
    keys = KeySet(named={"a": Key(algorithm, key.public_key()), "b": Key("HS256", SECRET)})
    token = jwt.encode(CLAIMS, key, algorithm, headers={"kid": "a"})
    assert usual_claims(token, keys, "imgateway") == CLAIMS
    assert usual_claims(jwt.encode(CLAIMS, key, algorithm, headers={"kid": "b"}), keys, "imgateway") is None
    assert usual_claims(jwt.encode(CLAIMS, key, algorithm), keys, "imgateway") is None, "which of the two?"


PLAIN = b'{"alg":"HS256","typ":"JWT"}'


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b'{"alg":"none"}', json.dumps(CLAIMS).encode()),
        (b'{"alg":"HS384"}', json.dumps(CLAIMS).encode()),
        (b'{"typ":"JWT"}', json.dumps(CLAIMS).encode()),
        (b'{"alg":"HS256","b64":false,"crit":["b64"]}', json.dumps(CLAIMS).encode()),
        (b'{"alg":"HS256","crit":["exp"]}', json.dumps(CLAIMS).encode()),
        (b'{"alg":"HS256","kid":7}', json.dumps(CLAIMS).encode()),
        (b"[]", json.dumps(CLAIMS).encode()),
        (PLAIN, b"[]"),
        (PLAIN, b"{"),
        (PLAIN, b"\xff"),
        (PLAIN, json.dumps({**CLAIMS, "sub": None}).encode()),
        (PLAIN, json.dumps({**CLAIMS, "sub": 7}).encode()),
        (PLAIN, json.dumps({**CLAIMS, "exp": None}).encode()),
        (PLAIN, json.dumps({**CLAIMS, "jti": 7}).encode()),
        (PLAIN, json.dumps({**CLAIMS, "aud": "other"}).encode()),
        (PLAIN, json.dumps({"sub": "alice"}).encode()),
    ],
)
def test_what_pyjwt_refuses_is_not_let_through(header: bytes, payload: bytes) -> None:
    token = signed(header, payload)
    assert theirs(token) is None
    assert usual_claims(token, KEYS, "imgateway") is None


def test_what_is_good_and_unusual_is_left_to_pyjwt() -> None:
    token = signed(PLAIN, json.dumps({**CLAIMS, "aud": ["other", "imgateway"]}).encode())
    assert theirs(token) is not None
    assert usual_claims(token, KEYS, "imgateway") is None


@pytest.mark.parametrize("header", [PLAIN, b'{"alg":"none","alg":"HS256"}', b'{"alg":"HS256","b64":null}'])
@pytest.mark.parametrize(
    "more",
    [
        b'"exp":NaN', b'"exp":1e400', b'"exp":-0', b'"exp":01', b'"exp":1.8e9', b'"exp":18446744073709551616',
        b'"exp":true', b'"exp":[]', b'"aud":"other"', b'"aud":["imgateway"]', b'"sub":"bob"',
        b'"s\\u0075b":"bob"', b'"sub":"a\nb"', b'"sub":"\\ud800"', b'"sub":"\xff"', b'"sub":"\xed\xa0\x80"',
        b'"jti":null', b'"node":[1,]',
    ],
)  # fmt: skip
def test_of_what_is_written_oddly_both_say_the_same(header: bytes, more: bytes) -> None:
    """The last of two names counts; what one parser takes and the other does not is left to PyJWT."""
    text = json.dumps(CLAIMS).encode()
    for payload in (text[:-1] + b"," + more + b"}", b"{" + more + b"," + text[1:], b"\xef\xbb\xbf" + text):
        token = signed(header, payload)
        ours = usual_claims(token, KEYS, "imgateway")
        assert ours is None or repr(ours) == repr(theirs(token))


@pytest.mark.parametrize("odd", ["=", "==", "\n", "+/", "é", " ", "*"])
@pytest.mark.parametrize("at", [0, 1, 40, -1, None])
def test_a_payload_that_is_signed_and_oddly_written_is_to_both_the_same(odd: str, at: int | None) -> None:
    for claims in (CLAIMS, {**CLAIMS, "pad": "x"}, {**CLAIMS, "pad": "xy"}):
        payload = part(json.dumps(claims).encode())
        cut = len(payload) if at is None else at
        text = part(PLAIN) + b"." + payload[:cut] + odd.encode() + payload[cut:]
        token = (text + b"." + part(jwt.get_algorithm_by_name("HS256").sign(text, SECRET))).decode()
        ours = usual_claims(token, KEYS, "imgateway")
        assert ours is None or ours == theirs(token)


@pytest.mark.parametrize("name", ["signature", "payload"])
@pytest.mark.parametrize("length", range(3))
def test_bits_that_no_byte_has_are_to_both_the_same(name: str, length: int) -> None:
    """The last letter of a part may say more than its last byte holds."""
    text = part(PLAIN) + b"." + part(json.dumps({**CLAIMS, "pad": "x" * length}).encode())
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=":
        one = text[:-1] + last.encode() if name == "payload" else text
        signature = part(jwt.get_algorithm_by_name("HS256").sign(one, SECRET)).decode()
        token = f"{one.decode()}.{signature if name == 'payload' else signature[:-1] + last}"
        ours = usual_claims(token, KEYS, "imgateway")
        assert ours is None or ours == theirs(token)


def test_another_secret() -> None:
    token = signed(PLAIN, json.dumps(CLAIMS).encode(), b"x" * 43)
    assert usual_claims(token, KEYS, "imgateway") is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_changed_in_a_token_both_say_the_same(data: st.DataObject) -> None:
    token = jwt.encode(CLAIMS, SECRET, "HS256")
    at = data.draw(st.integers(0, len(token)))
    drop = data.draw(st.integers(0, 2))
    put = data.draw(st.text(st.sampled_from("AQgwz01-_.=+/ \n\u00e9"), max_size=2))
    changed = token[:at] + put + token[at + drop :]
    ours = usual_claims(changed, KEYS, "imgateway")
    assert ours is None or ours == theirs(changed)
