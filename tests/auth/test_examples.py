"""The policy and the authenticator of the documentation, installed as another package's plugins."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

import twisted.plugins
from imgateway.config import AuthSettings
from imgateway.errors import CloseCode, LoginRefused
from imgateway.frames import Address, Hello
from imgateway.interfaces import IAuthenticator, Identity, IPolicy
from imgateway.tap.plugins import find_authenticator, find_policy

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "policy.md"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuthSettings:
    policy, dropin, authenticator = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "same_tenant.py").write_text(policy)
    (tmp_path / "guests.py").write_text(authenticator)
    folder = tmp_path / "twisted" / "plugins"
    folder.mkdir(parents=True)
    (folder / "tenant_plugins.py").write_text(dropin + "import guests\nguest = guests.Guests()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(folder)])
    for name in ("same_tenant", "guests", "twisted.plugins.tenant_plugins"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return AuthSettings(authenticator="guests", policy="same-tenant")


def test_the_policy_keeps_tenants_apart(installed: AuthSettings) -> None:
    policy: Any = find_policy(installed)
    verifyObject(IPolicy, policy)
    alice = Identity("acme.alice", claims={"tenant": "acme"})
    assert policy.may(alice, "publish", Address("user", "acme.bob"))
    assert not policy.may(alice, "publish", Address("user", "other.bob"))
    assert not policy.may(alice, "publish", Address("user", "acme"))
    assert policy.may(Identity("billing", service=True), "publish", Address("user", "other.bob"))
    assert policy.may(alice, "read", Address("user", "acme.alice"))


def test_the_authenticator_lets_guests_in(installed: AuthSettings) -> None:
    guests: Any = find_authenticator(installed, "nowhere", lambda: 0.0)
    verifyObject(IAuthenticator, guests)
    assert guests.authenticate(Hello("guest-7"), "").user == "guest-7"
    with pytest.raises(LoginRefused) as caught:
        guests.authenticate(Hello("alice"), "")
    assert caught.value.code is CloseCode.FORBIDDEN
    guests.read()()
