"""Finds what is installed, by interface and name: our own providers and those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.plugin import IPlugin, getPlugins

from imgateway.config import AuthSettings, Settings
from imgateway.errors import ConfigError
from imgateway.interfaces import (
    IAuthenticator,
    IAuthenticatorMaker,
    IPolicy,
    IProtocolAdapter,
    IProtocolMaker,
)

__all__ = ("Wires", "authenticator_plugin", "find", "find_all", "find_authenticator", "find_policy")


def find(interface: type[IPlugin], name: str, setting: str) -> Any:
    """The installed provider of `interface` that calls itself `name`.

    :param setting: the dotted path of the setting that asks for it, for the error.
    :raises ConfigError: there is none, and which there are; or there are several.
    """
    return _named(setting, name, getPlugins(interface))


def find_all(interface: type[IPlugin], names: Sequence[str], setting: str) -> tuple[Any, ...]:
    """The providers of these names, in this order. :raises ConfigError: as `find`."""
    return tuple(find(interface, name, setting) for name in names)


class Wires:
    """The protocol adapters of one node, by name; one whose plugin is a maker is made once.

    :param now: monotonic seconds. :param wall_ms: Unix milliseconds.
    """

    def __init__(self, settings: Settings, now: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._now = now
        self._wall_ms = wall_ms
        self._found: dict[str, Any] = {}

    def find(self, name: str) -> Any:
        """The IProtocolAdapter of this name. :raises ConfigError: as `find`."""
        if name not in self._found:
            plugins = [*getPlugins(IProtocolAdapter), *getPlugins(IProtocolMaker)]
            plugin = _named("listen.clients", name, plugins)
            if IProtocolMaker.providedBy(plugin):
                plugin = plugin.make(getattr(self._settings, name, None), self._now, self._wall_ms)
            self._found[name] = plugin
        return self._found[name]


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
