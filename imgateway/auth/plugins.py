"""Finds the authenticator and the policy that the settings name among the installed plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.plugin import getPlugins

from imgateway.config import AuthSettings
from imgateway.errors import ConfigError
from imgateway.interfaces import IAuthenticator, IAuthenticatorMaker, IPolicy

__all__ = ("find_authenticator", "find_policy")


def find_authenticator(settings: AuthSettings, data_dir: str, seconds: Callable[[], float]) -> Any:
    """The IAuthenticator that ``auth.authenticator`` names, made if its plugin is a maker.

    :param seconds: the wall clock, Unix seconds.
    :raises ConfigError: no plugin has the name, or several have it.
    :raises OperatorError: its keys cannot be used.
    """
    plugins = [*getPlugins(IAuthenticator), *getPlugins(IAuthenticatorMaker)]
    plugin = _named("auth.authenticator", settings.authenticator, plugins)
    if IAuthenticatorMaker.providedBy(plugin):
        return plugin.make(settings, data_dir, seconds)
    return plugin


def find_policy(settings: AuthSettings) -> Any:
    """The IPolicy that ``auth.policy`` names.

    :raises ConfigError: no plugin has the name, or several have it.
    """
    return _named("auth.policy", settings.policy, getPlugins(IPolicy))


def _named(path: str, name: str, plugins: Iterable[Any]) -> Any:
    known = list(plugins)
    found = [plugin for plugin in known if plugin.name == name]
    if not found:
        names = ", ".join(sorted(plugin.name for plugin in known))
        raise ConfigError(f"{path}: no plugin has the name {name}; there are {names}")
    # Who may log in must not depend on the order in which packages were installed.
    if len(found) > 1:
        kinds = ", ".join(sorted(f"{type(plugin).__module__}.{type(plugin).__name__}" for plugin in found))
        raise ConfigError(f"{path}: several plugins have the name {name}: {kinds}; uninstall all but one")
    return found[0]
