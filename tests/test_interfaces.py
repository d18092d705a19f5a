"""The interfaces are documented, their values are frozen, and every class that claims one keeps to it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from msgspec import Struct
from twisted.plugin import IPlugin
from zope.interface import Interface, implementedBy
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyClass

import imgateway
from imgateway import interfaces

INTERFACES: list[InterfaceClass] = [
    value
    for value in vars(interfaces).values()
    if isinstance(value, InterfaceClass) and value not in (Interface, IPlugin)
]
PLUGINS = {
    "IProtocolAdapter",
    "IProtocolMaker",
    "ITransportAdapter",
    "IAuthenticator",
    "IAuthenticatorMaker",
    "IPolicy",
    "IBackend",
    "IMailBackend",
    "IInterceptor",
    "ISessionListener",
    "IAllocation",
}
OWN_STRUCTS = [
    value
    for value in vars(interfaces).values()
    if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == interfaces.__name__
]


def name(value: type | InterfaceClass) -> str:
    return value.__name__


@pytest.mark.parametrize("interface", INTERFACES, ids=name)
def test_every_part_of_an_interface_is_documented(interface: InterfaceClass) -> None:
    assert interface.__doc__
    assert list(interface), "an interface without parts"
    for part in interface:
        assert interface[part].__doc__, f"{name(interface)}.{part} says nothing"


@pytest.mark.parametrize("interface", INTERFACES, ids=name)
def test_an_attribute_begins_with_its_type(interface: InterfaceClass) -> None:
    for part in interface:
        description = interface[part]
        if not isinstance(description, Method):
            kind = re.match(r"\w*", description.__doc__)
            assert kind
            assert kind[0] in {"str", "int", "bool", "float", "tuple", *vars(interfaces)}, (
                f"{part}: {kind[0]}"
            )


@pytest.mark.parametrize("interface", INTERFACES, ids=name)
def test_methods_are_written_without_self_and_with_types(interface: InterfaceClass) -> None:
    """A `self` would silently become the first argument that callers must give."""
    for part in interface:
        method = interface[part]
        if isinstance(method, Method):
            assert "self" not in method.positional
            assert method.varargs is None
            assert method.kwargs is None


def test_what_third_parties_add_is_a_plugin_and_nothing_else_is() -> None:
    assert {name(interface) for interface in INTERFACES if interface.extends(IPlugin)} == PLUGINS
    for interface in INTERFACES:
        if interface.extends(IPlugin) and name(interface) != "ISessionListener":
            assert "name" in interface, "settings and --listen find a plugin by its name"


@pytest.mark.parametrize("kind", OWN_STRUCTS, ids=name)
def test_the_values_between_rooms_are_frozen_and_documented(kind: type[Struct]) -> None:
    assert kind.__struct_config__.frozen
    required = len(kind.__struct_fields__) - len(kind.__struct_defaults__)
    value = kind(*(None for _ in range(required)))
    with pytest.raises(AttributeError, match="immutable"):
        setattr(value, kind.__struct_fields__[0], 1)


# ---------------------------------------------------------------------------------------------- the providers


def providers() -> Iterator[tuple[InterfaceClass, type]]:
    """Every class of the package that declares one of our interfaces, with the interface."""
    for module in pkgutil.walk_packages(imgateway.__path__, "imgateway."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                for interface in implementedBy(value):
                    if interface in INTERFACES:
                        yield interface, value


PROVIDERS = sorted(providers(), key=lambda pair: (name(pair[0]), pair[1].__module__, name(pair[1])))


@pytest.mark.parametrize(
    ("interface", "provider"), PROVIDERS, ids=[f"{name(i)}-{name(p)}" for i, p in PROVIDERS]
)
def test_a_provider_has_every_method_with_the_same_signature(
    interface: InterfaceClass, provider: type
) -> None:
    assert verifyClass(interface, provider)


def test_the_seams_have_somebody_at_each_end() -> None:
    """Interfaces that only plugins, ours in the dropins or other people's, provide are named here."""
    outside = {"IAuthenticatorMaker", "IBackend", "IInterceptor", "IMailBackend", "ISessionListener"}
    missing = {name(interface) for interface in INTERFACES} - {name(interface) for interface, _ in PROVIDERS}
    assert missing <= outside
