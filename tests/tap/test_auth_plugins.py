"""Authenticator and policy are found among the installed plugins by their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer
from zope.interface.verify import verifyObject

from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings
from imgateway.errors import ConfigError
from imgateway.frames import Address, Hello
from imgateway.interfaces import IAuthenticator, IAuthenticatorMaker, Identity, IPolicy
from imgateway.tap import plugins
from imgateway.tap.plugins import find_authenticator, find_policy


@implementer(IPlugin, IAuthenticator)
class Anybody:
    """Lets everybody in as who they say they are."""

    def __init__(self, name: str = "anybody") -> None:
        self.name = name

    def authenticate(self, hello: Hello, peer: str) -> Identity:
        return Identity(hello.token)

    def read(self) -> Callable[[], None]:
        return lambda: None


def install(monkeypatch: pytest.MonkeyPatch, *foreign: Any) -> None:
    def installed(interface: Any) -> Iterable[Any]:
        return [*getPlugins(interface), *(plugin for plugin in foreign if interface.providedBy(plugin))]

    monkeypatch.setattr(plugins, "getPlugins", installed)


def test_ours_are_installed() -> None:
    makers = {plugin.name: plugin for plugin in getPlugins(IAuthenticatorMaker)}
    policies = {plugin.name: plugin for plugin in getPlugins(IPolicy)}
    verifyObject(IAuthenticatorMaker, makers["token"])
    verifyObject(IPolicy, policies["default"])


def test_the_default_settings_find_ours(tmp_path: Path) -> None:
    settings = AuthSettings()
    gate = find_authenticator(settings, str(tmp_path), lambda: 1000.0)
    verifyObject(IAuthenticator, gate)
    token = mint(load_secret(settings, str(tmp_path)), "alice", now_s=1000.0)
    assert gate.authenticate(Hello(token), "").user == "alice"
    assert find_policy(settings).may(Identity("alice"), "publish", Address("user", "bob"))


def test_two_nodes_of_a_process_have_keys_of_their_own(tmp_path: Path) -> None:
    one, two = (find_authenticator(AuthSettings(), str(tmp_path / name), lambda: 0.0) for name in "ab")
    assert one is not two


def test_a_foreign_authenticator_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    anybody = Anybody()
    install(monkeypatch, anybody)
    assert find_authenticator(AuthSettings(authenticator="anybody"), "nowhere", lambda: 0.0) is anybody


def test_an_unknown_name_is_told_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Anybody())
    with pytest.raises(ConfigError, match=r"^auth\.authenticator: .*'nobody'; there are anybody, token$"):
        find_authenticator(AuthSettings(authenticator="nobody"), "nowhere", lambda: 0.0)
    with pytest.raises(ConfigError, match=r"^auth\.policy: .*'strict'; there are default"):
        find_policy(AuthSettings(policy="strict"))


def test_a_package_that_takes_our_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Anybody("token"))
    with pytest.raises(ConfigError, match=r"several plugins have the name 'token': .*Anybody.*_Token"):
        find_authenticator(AuthSettings(), "nowhere", lambda: 0.0)


def test_the_dropin_is_light() -> None:
    program = (
        "import sys, twisted.plugins.imgateway_auth\n"
        "print({'jwt', 'cryptography', 'OpenSSL', 'twisted.internet.reactor'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("set()\n", "")
