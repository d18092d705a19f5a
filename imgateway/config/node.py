"""The process itself: where it listens, what it uses, what it logs."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from imgateway.config.kinds import PositiveInt, Seconds, Text

__all__ = ("NodeSettings", "ListenSettings", "PluginSettings", "LogSettings")


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The process: its name, where it keeps things, how it stops."""

    name: Annotated[
        str, Meta(description="This node's name in Welcome, logs and metrics; empty: the host's name.")
    ] = ""
    data_dir: Annotated[
        Text, Meta(description="The directory of the message store and the secrets; made if absent.")
    ] = "./data"
    drain_s: Annotated[
        Seconds, Meta(description="The longest that a stopping node takes to say goodbye and flush.")
    ] = 30.0
    drain_rate: Annotated[
        PositiveInt, Meta(description="Sessions a second that a stopping node sends away.")
    ] = 500


class ListenSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where clients, and operators' HTTP tools, connect."""

    clients: Annotated[
        tuple[str, ...],
        Meta(
            description="Listeners, each PROTOCOL+TRANSPORT:ENDPOINT; for tcp and websocket ENDPOINT is a "
            "Twisted endpoint description."
        ),
    ] = ("native+tcp:tcp:7901:interface=127.0.0.1", "native,json+websocket:tcp:7902:interface=127.0.0.1")
    http: Annotated[
        str,
        Meta(
            description="The Twisted endpoint description of /healthz, /readyz and /metrics; a port alone is "
            "one of 127.0.0.1; empty: no HTTP."
        ),
    ] = "tcp:7980:interface=127.0.0.1"
    api: Annotated[
        str,
        Meta(
            description="The Twisted endpoint description of the HTTP API of router.keys_file's keys; a port "
            "alone is one of 127.0.0.1; empty: it is served where http is."
        ),
    ] = ""


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of installed plugins to use, in order."""

    backends: Annotated[tuple[str, ...], Meta(description="Services that answer clients' requests.")] = ()
    interceptors: Annotated[
        tuple[str, ...], Meta(description="Those that look at a publish before it counts.")
    ] = ()
    listeners: Annotated[
        tuple[str, ...], Meta(description="Those that are told what becomes of sessions.")
    ] = ()


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, as JSON lines or for reading."""

    level: Annotated[
        Literal["debug", "info", "warn", "error"], Meta(description="What is less severe is left out.")
    ] = "info"
    format: Annotated[
        Literal["json", "text"], Meta(description="json: one object a line, for programs; text: for people.")
    ] = "json"
