"""The command line of ``twistd imgateway``."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.python import usage

import twisted
from imgateway import __version__
from imgateway.config import Settings, check, load
from imgateway.errors import ConfigError

__all__ = ("Options",)


class Options(usage.Options):
    """Named options for what is set most, ``--set section.key=value`` for everything; the file comes
    first."""

    synopsis = "[options]"
    longdesc = (
        "Runs a gateway node. Without options it keeps its data under ./data and listens on 127.0.0.1: "
        "native TCP 7901, native and JSON WebSocket 7902, HTTP 7980 (health and metrics). "
        "`imgateway genconfig` prints every setting."
    )

    optParameters: ClassVar[list[list[Any]]] = [
        ["config", "c", None, "A TOML file of settings (imgateway genconfig prints one)."],
        ["data-dir", None, None, "Where messages and secrets are kept."],
        [
            "http",
            None,
            None,
            "Endpoint for health and metrics, such as 127.0.0.1:7980; empty: none.",
        ],
        ["broker", None, None, "Where logs live: embedded: or memory:"],
        ["node", None, None, "The node's name; the host name if not given."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self._listen: list[str] = []
        self._sets: list[str] = []
        self.settings = Settings()

    def opt_listen(self, value: str) -> None:
        """PROTOCOL[,PROTOCOL]+TRANSPORT:ENDPOINT, such as native+tcp:tcp:7901. May be repeated; any --listen
        replaces all default listeners."""
        self._listen.append(value)

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
            raise SystemExit(f"imgateway: {error}") from None

    def load(self) -> Settings:
        """The settings of file and command line, read anew.

        :raises ConfigError: naming the setting and what is allowed.
        """
        settings = load(self["config"], self._sets)
        node, listen = settings.node, settings.listen
        if self["data-dir"] is not None:
            node = replace(node, data_dir=self["data-dir"])
        if self["node"] is not None:
            node = replace(node, name=self["node"])
        if self._listen:
            listen = replace(listen, clients=tuple(self._listen))
        if self["http"] is not None:
            listen = replace(listen, http=self["http"])
        broker = settings.broker
        if self["broker"] is not None:
            broker = replace(broker, url=self["broker"])
        settings = replace(settings, node=node, listen=listen, broker=broker)
        check(settings)
        return settings
