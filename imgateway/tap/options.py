"""The command lines of ``twistd imgateway`` and its sister."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from getopt import getopt
from itertools import chain
from typing import Any, ClassVar

from twisted.python import usage

import twisted
from imgateway import __version__
from imgateway.config import Settings, describe, load
from imgateway.errors import ConfigError, OperatorError

__all__ = ("Options", "SettingsOptions")


class SettingsOptions(usage.Options):
    """What every service has: ``--config``, ``--set``, ``--version``, and errors of one line."""

    program = ""
    named: ClassVar[Mapping[str, str]] = {
        "data-dir": "node.data_dir",
        "broker": "broker.url",
        "registry": "registry.url",
    }
    """The settings that have an option of their own."""
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
        self.words: list[str] = []
        """What was typed behind its name."""
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
        self.words = list(sys.argv[1:] if options is None else options)
        try:
            super().parseOptions(options)
            self.settings = self.load()
        except usage.UsageError as error:
            raise SystemExit(
                f"{self.program}: {self._nearest(str(error))}; all options: twistd {self.program} --help"
            ) from None
        except ConfigError as error:
            raise SystemExit(f"{self.program}: {self.told(error)}") from None

    def told(self, error: Exception) -> str:
        """What is wrong, for who started the service; of a setting also the option that it was given with,
        and, if the setting itself is wrong, where it is explained."""
        setting = str(error).partition(":")[0]
        if not isinstance(error, OperatorError) or setting not in {known.path for known in describe()}:
            return str(error)
        by = "".join(f"--{option}: " for option, path in self.given().items() if path == setting)
        where = "; all settings: imgateway genconfig" if isinstance(error, ConfigError) else ""
        return f"{by}{error}{where}"

    def given(self) -> Mapping[str, str]:
        """The settings that stand on the command line by their own options: option → path."""
        return {option: path for option, path in self.named.items() if self[option] is not None}

    def typed(self, instead: Mapping[str, Sequence[str]]) -> list[str]:
        """The words behind its name, with other values for some options.

        :param instead: option → its values.
        """
        replaced = {self.named[option] for option in instead}
        words = []
        for option, value in getopt(self.words, "c:", self.longOpt)[0]:
            name = option.lstrip("-")
            if name not in instead and not (name == "set" and value.partition("=")[0].strip() in replaced):
                words += [option] if name in self.longOpt else [option, value]
        given = [(f"--{name}", value) for name, values in instead.items() for value in values]
        return [*words, *chain(*given)]

    def _nearest(self, wrong: str) -> str:
        """With what an option that is not there may have been meant to be."""
        words = wrong.split()
        if "recognized" not in words:
            return wrong
        near = get_close_matches(words[1].lstrip("-"), [name.rstrip("=") for name in self.longOpt], 1)
        return f"{wrong}; did you mean --{near[0]}?" if near else wrong

    def load(self) -> Settings:
        """The settings of file and command line, read anew.

        :raises ConfigError: naming the setting and what is allowed.
        """
        named = {path: self[option] for option, path in self.given().items()}
        if self["redis-unsafe"]:
            named["redis.unsafe"] = True
        return load(self["config"], self._sets, named)


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
    named: ClassVar[Mapping[str, str]] = {
        **SettingsOptions.named,
        "http": "listen.http",
        "api": "listen.api",
        "keys": "router.keys_file",
        "node": "node.name",
        "listen": "listen.clients",
    }

    optParameters: ClassVar[list[list[Any]]] = [
        [
            "http",
            None,
            None,
            "Endpoint for health and metrics: a port of 127.0.0.1, such as 7981, or 0.0.0.0:7981 for all "
            "addresses; empty: none.",
        ],
        [
            "api",
            None,
            None,
            "Endpoint for the HTTP API, likewise, such as 7991; empty: where --http is. Needs --keys.",
        ],
        ["keys", None, None, "The file of the API keys (imgateway apikey makes one); empty: no API."],
        ["node", None, None, "The node's name; the host name if not given."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = None

    def opt_listen(self, value: str) -> None:
        """PROTOCOL[,PROTOCOL]+TRANSPORT:ENDPOINT, such as native+tcp:tcp:7901. May be repeated; any --listen
        replaces all default listeners."""
        self["listen"] = (*(self["listen"] or ()), value)
