"""All sections, in the order of the file."""

from __future__ import annotations

from msgspec import Struct

from imgateway.config.node import ListenSettings, LogSettings, NodeSettings, PluginSettings
from imgateway.config.router import RouterSettings
from imgateway.config.sessions import LimitSettings, QuotaSettings, SessionSettings
from imgateway.config.storage import (
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

__all__ = ("Settings",)


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set."""

    node: NodeSettings = NodeSettings()
    listen: ListenSettings = ListenSettings()
    session: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    quota: QuotaSettings = QuotaSettings()
    broker: BrokerSettings = BrokerSettings()
    redis: RedisSettings = RedisSettings()
    registry: RegistrySettings = RegistrySettings()
    retention: RetentionSettings = RetentionSettings()
    rooms: RoomSettings = RoomSettings()
    compression: CompressionSettings = CompressionSettings()
    auth: AuthSettings = AuthSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    udp: UdpSettings = UdpSettings()
    mobileimsdk: MobileImsdkSettings = MobileImsdkSettings()
    mqtt: MqttSettings = MqttSettings()
    router: RouterSettings = RouterSettings()
    plugins: PluginSettings = PluginSettings()
    log: LogSettings = LogSettings()
