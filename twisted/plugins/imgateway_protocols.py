"""The protocol adapters that come with imgateway, for ``getPlugins(IProtocolAdapter)``.

Every twistd that finds this file imports it, whatever service it was asked for, so an adapter's module (and
protobuf with it) is read when somebody first asks the adapter for more than its name. Another package's
plugin may simply be the adapter itself.
"""

from functools import cached_property
from typing import Any

from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer


class _Builtin:
    """An adapter by the name of its class. What it has is asked for once: links look at it for each chunk."""

    def __init__(self, name: str, adapter: str) -> None:
        self.name = name
        self._class = adapter

    @cached_property
    def _adapter(self) -> Any:
        return namedAny(self._class)()

    @cached_property
    def carriage(self) -> Any:
        return self._adapter.carriage

    @cached_property
    def traits(self) -> Any:
        return self._adapter.traits

    @cached_property
    def codec(self) -> Any:
        return self._adapter.codec


class _BuiltinMaker:
    """The maker of an adapter by the name of its class."""

    def __init__(self, name: str, maker: str) -> None:
        self.name = name
        self._class = maker

    def make(self, settings: Any, now: Any, wall_ms: Any) -> Any:
        return namedAny(self._class)().make(settings, now, wall_ms)


# By name, so that this file's own imports stay those of any twistd.
implementer(IPlugin, namedAny("imgateway.interfaces.IProtocolAdapter"))(_Builtin)
implementer(IPlugin, namedAny("imgateway.interfaces.IProtocolMaker"))(_BuiltinMaker)

native = _Builtin("native", "imgateway.protocols.native.NativeAdapter")
json = _Builtin("json", "imgateway.protocols.json.JsonAdapter")
chat = _Builtin("chat", "imgateway.protocols.chat.ChatAdapter")
mobileimsdk = _BuiltinMaker("mobileimsdk", "imgateway.protocols.mobileimsdk.adapter.MobileImsdkMaker")
mqtt = _BuiltinMaker("mqtt", "imgateway.protocols.mqtt.adapter.MqttMaker")
