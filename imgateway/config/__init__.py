"""Every setting, as frozen values with safe defaults; a section of the file is a class, a key is a field.

Units stand in the names, what a field is for and what it may be in its annotation: the check of a file, the
file that `generate` writes and the table in the docs are all made from there. What is wrong is a
`ConfigError` that names the dotted path and what is allowed. Rooms take the section they need as
a value; only `tap` and `cli` load files.
"""

from imgateway.config.checking import check
from imgateway.config.describing import Setting, describe, section_text
from imgateway.config.generating import generate
from imgateway.config.loading import load
from imgateway.config.node import ListenSettings, LogSettings, NodeSettings, PluginSettings
from imgateway.config.router import RouterSettings
from imgateway.config.sessions import LimitSettings, QuotaSettings, SessionSettings
from imgateway.config.settings import Settings
from imgateway.config.storage import (
    REDIS_SCHEMES,
    BrokerSettings,
    RedisSettings,
    RegistrySettings,
    RetentionSettings,
    RoomSettings,
)
from imgateway.config.wires import (
    AuthSettings,
    CompressionSettings,
    MobileImsdkSettings,
    MqttSettings,
    UdpSettings,
    WebSocketSettings,
)

__all__ = (
    "REDIS_SCHEMES",
    "Settings",
    "load",
    "check",
    "generate",
    "describe",
    "section_text",
    "Setting",
    "NodeSettings",
    "ListenSettings",
    "SessionSettings",
    "LimitSettings",
    "QuotaSettings",
    "BrokerSettings",
    "RedisSettings",
    "RegistrySettings",
    "RetentionSettings",
    "RoomSettings",
    "CompressionSettings",
    "AuthSettings",
    "WebSocketSettings",
    "UdpSettings",
    "MobileImsdkSettings",
    "MqttSettings",
    "RouterSettings",
    "PluginSettings",
    "LogSettings",
)
