"""What a node was to have and other processes have, all of it at once, and how to start it beside them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import join, quote
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory

from imgateway.auth.udp import UdpKeys
from imgateway.brokers.clock import wall_ms
from imgateway.brokers.directory import Directory
from imgateway.config import Settings
from imgateway.errors import InUse, OperatorError, StoreError, StoreInUse
from imgateway.tap.doors import door, open_http, transport_options
from imgateway.tap.options import Options, SettingsOptions
from imgateway.tap.plugins import Wires

__all__ = ("elsewhere",)

STEPS = range(1_000, 10_000, 1_000)
"""So much higher are the ports that it is told to take, the first that do."""
DIRECTORIES = range(2, 20)
MAKES = ["--set", "log.format=text"]
"""What `make run` says by itself."""


class _Place(NamedTuple):
    """Where it listens: the setting, and the endpoint as it stands there."""

    setting: str
    text: str

    def moved(self, port: int, step: int) -> _Place:
        """The same at another port, an address alone in its short form; itself without a port."""
        if not port:
            return self
        text = re.sub(rf"(?<![\d.]){port}(?!\d)", str(port + step), self.text, count=1)
        return _Place(self.setting, re.sub(r"\btcp:(\d+):interface=([\d.]+)$", r"\2:\1", text))


def elsewhere(refusal: InUse, options: SettingsOptions, reactor: Any) -> Deferred[list[str]]:
    """What else is in use, a line each, and a command that takes other places, if there are some.

    :param refusal: the first that was found, which is not said again. Nothing of the node may be open.
    """
    return Deferred.fromCoroutine(_elsewhere(refusal, options, reactor))


async def _elsewhere(refusal: InUse, options: SettingsOptions, reactor: Any) -> list[str]:
    settings = options.settings
    places = list(_places(settings))
    problems = await _tried(places, settings, reactor)
    taken = {index: error for index, error in problems.items() if isinstance(error, InUse)}
    lines = [options.told(error) for error in taken.values() if str(error) != str(refusal)]
    instead = await _instead(places, taken, settings, reactor)
    if isinstance(refusal, StoreInUse):
        instead["data-dir"] = _another(settings.node.data_dir)
    if instead and all(all(values) for values in instead.values()):
        lines.append(f"or take others:  {_command(options, instead)}")
    return lines


def _places(settings: Settings) -> Iterator[_Place]:
    listen = settings.listen
    for text in listen.clients:
        yield _Place("listen", text)
    for setting, text in (("http", listen.http), ("api", listen.api)):
        if text:
            yield _Place(setting, text)


async def _tried(places: Sequence[_Place], settings: Settings, reactor: Any) -> Mapping[int, OperatorError]:
    """Why these places cannot be had, by their index. Those that can are open for a moment, all at once."""
    options = transport_options(settings, UdpKeys(bytes(32), ""))
    wires = Wires(settings, reactor.seconds, wall_ms)
    opened: list[Callable[[], Any]] = []
    problems = {}
    for index, place in enumerate(places):
        if "systemd:" in place.text:
            continue  # systemd has opened it
        try:
            if place.setting == "listen":
                listener = await door(place.text, reactor, options, wires)(lambda connection: None)
                opened.append(listener.stop)
            else:
                port = await open_http(place.text, f"listen.{place.setting}", Factory(), reactor)
                opened.append(port.stopListening)
        except OperatorError as error:
            problems[index] = error
    for stop in opened:
        await maybeDeferred(stop)
    return problems


async def _instead(
    places: Sequence[_Place], taken: Mapping[int, InUse], settings: Settings, reactor: Any
) -> dict[str, list[str]]:
    """Option → values, so that nothing is taken; values are "" where none were found."""
    options = {places[index].setting for index in taken}
    highest = max((error.port for error in taken.values()), default=0)
    for step in STEPS:
        if highest + step > 65_535:
            continue
        moved = [
            place.moved(taken[index].port, step) if index in taken else place
            for index, place in enumerate(places)
        ]
        if not await _tried(moved, settings, reactor):
            break
    else:
        moved = [place._replace(text="") for place in places]
    return {option: [place.text for place in moved if place.setting == option] for option in sorted(options)}


def _another(data_dir: str) -> list[str]:
    """A directory beside it that no node has; what is there may be that of a second one that has ended."""
    for number in DIRECTORIES:
        path = f"{data_dir.rstrip('/')}-{number}"
        directory = Directory(path)
        try:
            if os.path.exists(path):
                directory.lock()
                directory.unlock()
        except StoreError:
            continue
        return [path]
    return [""]


def _command(options: SettingsOptions, instead: Mapping[str, Sequence[str]]) -> str:
    """As it was started, but for these options."""
    words = options.typed(instead)
    if any("@" in word for word in words):  # a password, maybe, which belongs into no log
        return "the same with " + join(Options().typed(instead))
    if os.environ.get("IMGATEWAY_RUN_BY") == "make":
        text = join(words[len(MAKES) :] if words[: len(MAKES)] == MAKES else words)
        is_plain = not set(text) & set("\"'$`\\!")
        return f'make run ARGS="{text}"' if is_plain else f"make run ARGS={quote(text.replace('$', '$$'))}"
    before = sys.argv[: len(sys.argv) - len(options.words)]
    if not before or os.path.basename(before[0]) != "twistd":
        before = ["twistd", "-n", "--pidfile=", options.program]
    return join([*before, *words])
