"""Runs ``imgateway link``: relay, timeline, display, and the summary at the end."""

from __future__ import annotations

import sys
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, DNSLookupError
from twisted.internet.task import LoopingCall

from imgateway.cli.bridge import StreamRelay
from imgateway.cli.lines import as_line, plain, tell, write_line
from imgateway.cli.nat import DatagramRelay
from imgateway.testing.alarm import Alarm
from imgateway.testing.timeline import Timeline
from imgateway.transports.places import host_port

__all__ = ("LinkPlan", "Spot", "run_link")

HERE = "127.0.0.1"
DISPLAY_S = 0.5


class Spot(Struct, frozen=True):
    """``udp:7000``, ``tcp:HOST:PORT``: where to listen, or what to carry to. `host` "": this machine."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind}:{host_port(self.host or HERE, self.port)}"


class LinkPlan(Struct, frozen=True):
    """What is carried where, under which conditions, and for how long (`duration_s` 0: until a signal)."""

    listen: Spot
    to: Spot
    timeline: Timeline
    seed: int
    duration_s: float
    idle_s: float


async def run_link(reactor: Any, plan: LinkPlan) -> int:
    """Carry until the time is over or a signal cancels it, and print the summary. Exit status: 0.

    :raises click.ClickException: it could not begin.
    """
    relay, listening = await _begin(reactor, plan)
    began = reactor.seconds()
    script = _Script(reactor, plan.timeline, relay)
    with _Display(reactor, relay, began):
        tell(f"{Spot(plan.listen.kind, listening.host, listening.port)} → {plan.to}, seed {plan.seed}")
        try:
            await _time_or_signal(reactor, plan.duration_s)
        except CancelledError:
            pass  # a signal is how it normally ends
        finally:
            script.stop()
            relay.close()
    write_line(as_line(_summary(plan, relay, reactor.seconds() - began)))
    return 0


async def _begin(reactor: Any, plan: LinkPlan) -> tuple[Any, Any]:
    """The relay, and the address that it listens on."""
    ways, host = plan.timeline.at(0.0), plan.listen.host or HERE
    relay: Any
    try:
        if plan.listen.kind == "udp":
            to = (await _numeric(reactor, plan.to.host), plan.to.port)
            relay = DatagramRelay(reactor, to, ways, plan.seed, plan.idle_s)
            port = reactor.listenUDP(plan.listen.port, relay, host, 65_535)
        else:
            relay = StreamRelay(reactor, (plan.to.host, plan.to.port), ways, plan.seed)
            port = relay.listen(host, plan.listen.port)
    except CannotListenError as error:
        why = getattr(error.socketError, "strerror", None) or error.socketError
        raise click.ClickException(plain(f"--listen: cannot listen on {plan.listen}: {why}")) from None
    return relay, port.getHost()


async def _numeric(reactor: Any, host: str) -> str:
    """A host's address; UDP takes no names."""
    if isIPAddress(host) or isIPv6Address(host):
        return host
    try:
        found: str = await reactor.resolve(host)
    except DNSLookupError as error:
        raise click.ClickException(plain(f"{host}: no such host: {error}")) from None
    return found


async def _time_or_signal(reactor: Any, duration_s: float) -> None:
    over: Deferred[None] = Deferred()
    call = reactor.callLater(duration_s, over.callback, None) if duration_s else None
    try:
        await over
    finally:
        if call is not None and call.active():
            call.cancel()


def _summary(plan: LinkPlan, relay: Any, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": plan.listen.kind, "seed": plan.seed, "seconds": round(seconds, 3)}
    found |= {name: getattr(relay, name) for name in relay.TALLIES}
    return found | {"up": asdict(relay.up), "down": asdict(relay.down)}


class _Script:
    """Does what a timeline says, when it says so."""

    def __init__(self, reactor: Any, timeline: Timeline, relay: Any) -> None:
        self._timeline = timeline
        self._relay = relay
        self._began = reactor.seconds()
        self._done_s = -1.0
        self._alarm = Alarm(reactor, lambda now: self._do(self._timeline.next(self._done_s)))
        self._do(0.0)

    def stop(self) -> None:
        self._alarm.set(None)

    def _do(self, at_s: float | None) -> None:
        """What is to happen at this time of the script, be the clock a little later."""
        assert at_s is not None
        self._relay.change(self._timeline.at(at_s))
        for event in self._timeline.between(self._done_s, at_s):
            self._relay.happen(event)
        self._done_s = at_s
        following_s = self._timeline.next(at_s)
        self._alarm.set(None if following_s is None else self._began + following_s)


class _Display:
    """One line on a terminal, twice a second; nothing elsewhere."""

    def __init__(self, reactor: Any, relay: Any, began: float) -> None:
        self._reactor = reactor
        self._relay = relay
        self._began = began
        self._stream = sys.stderr
        self._loop = LoopingCall(self._show)
        self._loop.clock = reactor

    def __enter__(self) -> None:
        if self._stream.isatty():
            self._loop.start(DISPLAY_S, now=False)

    def __exit__(self, *_: Any) -> None:
        if self._loop.running:
            self._loop.stop()
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self) -> None:
        relay = self._relay
        passed_s = self._reactor.seconds() - self._began
        up, down = relay.said(relay.up), relay.said(relay.down)
        self._stream.write(f"\r\x1b[K{passed_s:.0f} s, {relay.active()} open, up {up}, down {down}")
        self._stream.flush()
