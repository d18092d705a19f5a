"""Tokens that are good for one node alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgateway.auth.keys import load_secret
from imgateway.auth.token import TokenAuthenticator, bind, mint
from imgateway.config import AuthSettings
from imgateway.errors import CloseCode, LoginRefused
from imgateway.frames import Hello
from imgateway.interfaces import Identity

NOW = 1_800_000_000.0


def gate(tmp_path: Path, node: str) -> TokenAuthenticator:
    return TokenAuthenticator(AuthSettings(node=node), str(tmp_path), lambda: NOW)


def test_only_that_node_takes_it(tmp_path: Path) -> None:
    here = gate(tmp_path, "a")
    secret = load_secret(AuthSettings(), str(tmp_path))
    first = mint(secret, "bob", "phone", service=True, now_s=NOW - 50, rooms=["7"])
    whole = gate(tmp_path, "").authenticate(Hello(first), "")
    bound = bind(secret, whole, "a", NOW)
    found = here.authenticate(Hello(bound), "")
    assert (found.user, found.device, found.service) == ("bob", "phone", True)
    # What revokes the first one revokes this one, and they end together.
    assert (found.issued_at_s, found.expires_at_s) == (whole.issued_at_s, whole.expires_at_s)
    assert found.claims == {"rooms": frozenset({"7"}), "node": "a"}
    assert gate(tmp_path, "").authenticate(Hello(bound), "").user == "bob"
    for token in (first, bind(secret, whole, "b", NOW)):
        with pytest.raises(LoginRefused, match="not for this node") as told:
            here.authenticate(Hello(token), "")
        assert told.value.code is CloseCode.BAD_TOKEN


def test_a_token_without_an_end_gets_one(tmp_path: Path) -> None:
    here = gate(tmp_path, "a")
    secret = load_secret(AuthSettings(), str(tmp_path))
    found = here.authenticate(Hello(bind(secret, Identity("bob"), "a", NOW, last_s=60)), "")
    assert (found.user, found.device, found.service) == ("bob", "", False)
    assert found.expires_at_s == NOW + 60
