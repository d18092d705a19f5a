"""The command lines of ``twistd imgateway`` and its sister."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.python import usage

import twisted
from imgateway import __version__
from imgateway.config import Settings, check, load
from imgateway.errors import ConfigError

__all__ = ("Options", "SettingsOptions")


class SettingsOptions(usage.Options):
    """What every service has: ``--config``, ``--set``, ``--version``, and errors of one line."""

    program = ""
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "A TOML file of settings (imgateway genconfig prints one)."],
        ["data-dir", None, None, "Where messages and secrets are kept."],
        ["broker", None, None, "Where logs live: embedded:, memory: or redis://HOST:PORT"],
        [
            "registry",
            None,
            None,
            "Where nodes find each other: redis://HOST:PORT or zookeeper://HOST:PORT; empty: they do not.",
        ],
    ]

    optFlags: ClassVar[list[list[Any]]] = [
        ["redis-unsafe", None, "Start although Redis is set so that it may lose what was acknowledged."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self._sets: list[str] = []
        self.settings = Settings()

    def opt_set(self, value: str) -> None:
        """section.key=value: any setting. May be repeated."""
        self._sets.append(value)

    def opt_version(self) -> None:
        """Print the versions of imgateway and Twisted, and exit."""
        print(f"imgateway {__version__}\nTwisted {twisted.__version__}")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is no option."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r}: options only")

    def parseOptions(self, options: Any = None) -> None:
        """Parse the command line and read the settings.

        What is wrong is one line, where twistd would print all of its help before it.
        """
        try:
            super().parseOptions(options)
            self.settings = self.load()
        except (usage.UsageError, ConfigError) as error:
            raise SystemExit(f"{self.program}: {error}") from None

    def load(self) -> Settings:
        """The settings of file and command line, read anew.

        :raises ConfigError: naming the setting and what is allowed.
        """
        settings = self._more(load(self["config"], self._sets))
        node, broker, registry = settings.node, settings.broker, settings.registry
        if self["data-dir"] is not None:
            node = replace(node, data_dir=self["data-dir"])
        if self["broker"] is not None:
            broker = replace(broker, url=self["broker"])
        if self["registry"] is not None:
            registry = replace(registry, url=self["registry"])
        redis = replace(settings.redis, unsafe=True) if self["redis-unsafe"] else settings.redis
        settings = replace(settings, node=node, broker=broker, redis=redis, registry=registry)
        check(settings)
        return settings

    def _more(self, settings: Settings) -> Settings:
        """With what the service's own options say."""
        return settings


class Options(SettingsOptions):
    """Named options for what is set most, ``--set section.key=value`` for everything; the file comes
    first."""

    program = "imgateway"
    synopsis = "[options]"
    longdesc = (
        "Runs a gateway node. Without options it keeps its data under ./data and listens on 127.0.0.1: "
        "native TCP 7901, native and JSON WebSocket 7902, HTTP 7980 (health and metrics). "
        "`imgateway genconfig` prints every setting."
    )

    optParameters: ClassVar[list[list[Any]]] = [
        [
            "http",
            None,
            None,
            "Endpoint for health and metrics, such as 127.0.0.1:7980; empty: none.",
        ],
        [
            "api",
            None,
            None,
            "Endpoint for the HTTP API, such as 127.0.0.1:7991; empty: where --http is. Needs --keys.",
        ],
        ["keys", None, None, "The file of the API keys (imgateway apikey makes one); empty: no API."],
        ["node", None, None, "The node's name; the host name if not given."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listen: list[str] = []

    def opt_listen(self, value: str) -> None:
        """PROTOCOL[,PROTOCOL]+TRANSPORT:ENDPOINT, such as native+tcp:tcp:7901. May be repeated; any --listen
        replaces all default listeners."""
        self._listen.append(value)

    def _more(self, settings: Settings) -> Settings:
        node, listen, router = settings.node, settings.listen, settings.router
        if self["node"] is not None:
            node = replace(node, name=self["node"])
        if self._listen:
            listen = replace(listen, clients=tuple(self._listen))
        if self["http"] is not None:
            listen = replace(listen, http=self["http"])
        if self["api"] is not None:
            listen = replace(listen, api=self["api"])
        if self["keys"] is not None:
            router = replace(router, keys_file=self["keys"])
        return replace(settings, node=node, listen=listen, router=router)
