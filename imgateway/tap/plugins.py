"""Finds what is installed, by interface and name: our own providers and those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.plugin import IPlugin, getPlugins

from imgateway.config import AuthSettings
from imgateway.errors import ConfigError
from imgateway.interfaces import IAuthenticator, IAuthenticatorMaker, IPolicy

__all__ = ("authenticator_plugin", "find", "find_all", "find_authenticator", "find_policy")


def find(interface: type[IPlugin], name: str, setting: str) -> Any:
    """The installed provider of `interface` that calls itself `name`.

    :param setting: the dotted path of the setting that asks for it, for the error.
    :raises ConfigError: there is none, and which there are; or there are several.
    """
    return _named(setting, name, getPlugins(interface))


def find_all(interface: type[IPlugin], names: Sequence[str], setting: str) -> tuple[Any, ...]:
    """The providers of these names, in this order. :raises ConfigError: as `find`."""
    return tuple(find(interface, name, setting) for name in names)


def authenticator_plugin(settings: AuthSettings) -> Any:
    """The plugin that ``auth.authenticator`` names, an IAuthenticator or the maker of one.

    :raises ConfigError: as `find`.
    """
    plugins = [*getPlugins(IAuthenticator), *getPlugins(IAuthenticatorMaker)]
    return _named("auth.authenticator", settings.authenticator, plugins)


def find_authenticator(settings: AuthSettings, data_dir: str, seconds: Callable[[], float]) -> Any:
    """The IAuthenticator that ``auth.authenticator`` names, made if its plugin is a maker.

    :param seconds: the wall clock, Unix seconds.
    :raises ConfigError: as `find`.
    :raises OperatorError: its keys cannot be used.
    """
    plugin = authenticator_plugin(settings)
    if IAuthenticatorMaker.providedBy(plugin):
        return plugin.make(settings, data_dir, seconds)
    return plugin


def find_policy(settings: AuthSettings) -> Any:
    """The IPolicy that ``auth.policy`` names. :raises ConfigError: as `find`."""
    return _named("auth.policy", settings.policy, getPlugins(IPolicy))


def _named(path: str, name: str, plugins: Iterable[Any]) -> Any:
    known = list(plugins)
    found = [plugin for plugin in known if plugin.name == name]
    if not found:
        names = ", ".join(sorted(plugin.name for plugin in known)) or "none"
        raise ConfigError(f"{path}: no plugin has the name {name!r}; there are {names}")
    # Who may log in must not depend on the order in which packages were installed.
    if len(found) > 1:
        kinds = ", ".join(sorted(f"{type(plugin).__module__}.{type(plugin).__name__}" for plugin in found))
        raise ConfigError(f"{path}: several plugins have the name {name!r}: {kinds}; uninstall all but one")
    return found[0]
