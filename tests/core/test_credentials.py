from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.core.credentials import (
    Credentials,
    bare_token,
    claims_of,
    credentials_for,
    join,
    key_id_of,
    split,
)
from imgateway.errors import CloseCode, ConnectRefused


def token_of(payload: bytes) -> str:
    return "e30." + urlsafe_b64encode(payload).rstrip(b"=").decode() + ".sig"


TOKEN = token_of(b'{"sub": "bob", "jti": "abc"}')
KEY = bytes(range(16))


def test_a_token_alone() -> None:
    assert split(TOKEN) == Credentials(TOKEN, None)
    assert split("no JWT at all") == Credentials("no JWT at all", None)
    assert bare_token(TOKEN) == TOKEN


def test_a_token_with_its_key() -> None:
    text = join(TOKEN, KEY)
    assert text.startswith(TOKEN + "~")
    assert "=" not in text
    assert split(text) == Credentials(TOKEN, (sha256(b"abc").digest()[:16], KEY))
    assert split(text + "==") == split(text)
    assert bare_token(text) == TOKEN


@pytest.mark.parametrize("key", ["", "AAAA", "A", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "\xe9" * 22, "~" * 22])
def test_a_key_that_is_none(key: str) -> None:
    with pytest.raises(ConnectRefused) as refused:
        split(f"{TOKEN}~{key}")
    assert refused.value.code == CloseCode.BAD_TOKEN
    assert refused.value.reason == (
        "the UDP key after the token's ~ is not a key (16 bytes in base64url): was it cut off?"
    )


def test_the_key_is_for_udp_alone() -> None:
    assert credentials_for("udp://h:1", join(TOKEN, KEY)) == split(join(TOKEN, KEY))
    for url in ("tcp://h:1", "wss://h:1", "unix:///udp://"):
        assert credentials_for(url, f"{TOKEN}~xx") == Credentials(TOKEN, None)
    with pytest.raises(ConnectRefused):
        credentials_for("udp://h:1", f"{TOKEN}~xx")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "a.W10.c",
        "a.bnVsbA.c",
        "a.\xe9.c",
        token_of(b'{"jti": 3}'),
        token_of(b'{"jti": ""}'),
    ],
)
def test_a_token_that_has_no_jti(token: str) -> None:
    with pytest.raises(ConnectRefused, match="has no jti"):
        split(join(token, KEY))
    with pytest.raises(ValueError, match="has no jti"):
        key_id_of(token)


def test_what_a_token_says_of_itself() -> None:
    assert claims_of(TOKEN) == {"sub": "bob", "jti": "abc"}
    assert claims_of("no JWT at all") == claims_of(token_of(b"[1]")) == claims_of("a.[.c") == {}


def test_a_jti_may_be_any_text() -> None:
    assert len(key_id_of(token_of(b'{"jti": "\\ud800"}'))) == 16


@given(st.text())
def test_any_text(text: str) -> None:
    try:
        found = split(text)
    except ConnectRefused:
        return
    assert found.token == bare_token(text)
