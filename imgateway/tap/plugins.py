"""Finds what is installed, by interface and name: our own providers and those of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.plugin import IPlugin, getPlugins

from imgateway.errors import ConfigError

__all__ = ("find", "find_all")


def find(interface: type[IPlugin], name: str, setting: str) -> Any:
    """The installed provider of `interface` that calls itself `name`.

    :param setting: the dotted path of the setting that asks for it, for the error.
    :raises ConfigError: there is none; it says which there are.
    """
    known = {plugin.name: plugin for plugin in getPlugins(interface)}
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"{setting}: no {interface.__name__[1:]} is called {name!r}; installed: {there}")
    return known[name]


def find_all(interface: type[IPlugin], names: Sequence[str], setting: str) -> tuple[Any, ...]:
    """The providers of these names, in this order. :raises ConfigError: as `find`."""
    return tuple(find(interface, name, setting) for name in names)
