"""What cannot be measured as it was asked for: found before anything is started."""

from __future__ import annotations

import socket
from collections.abc import Callable

from bench.figures import Options
from imgateway.config import BrokerSettings, Settings
from imgateway.errors import OperatorError

__all__ = ("MOST", "broker", "descriptors", "either", "pairs_over", "room_over")

MOST = 18_000
"""Connections of one program, which has descriptors for some 20,000."""
NUMBER_BYTES = 16
"""Of a body without acknowledgements: its number, as the generators write it."""
UDP_BYTES = 1_000
"""A body that goes into one datagram, with all that stands around it."""
WEBSOCKET = ("native", "mqtt", "mqtt-kept")
"""What the generator of pairs speaks there."""
ANSWERS_S = 2.0
Wrong = Callable[[Options], str]
"""Why something cannot be measured; empty: it can."""


def either(*all: Wrong) -> Wrong:
    """The first that finds something."""
    return lambda options: next(filter(None, (one(options) for one in all)), "")


def broker(url: str) -> str:
    """There is no such broker, or its server does not answer."""
    # Slow to import, and of no use to those who look for help.
    from imgateway.brokers.redis.urls import parse_urls
    from imgateway.tap.check import check_broker

    settings = Settings(broker=BrokerSettings(url=url))
    try:
        check_broker(settings)
    except OperatorError as error:
        return f"--broker: {error}"
    for primary in parse_urls(url) if settings.broker.is_shared else ():
        try:
            socket.create_connection(primary.hosts[0], ANSWERS_S).close()
        except OSError as error:
            return f"--broker: {primary.name} does not answer: {error}"
    return ""


def descriptors(options: Options) -> str:
    """More connections than a program may have."""
    if options.transport != "udp":
        for name, count in (("members", options.members), ("sessions", options.sessions)):
            if count > MOST:
                return f"--{name} {count:,}: one program has descriptors for {MOST:,} connections"
    if 2 * options.pairs > MOST:
        return f"--pairs {options.pairs:,}: one program has descriptors for {MOST:,} connections, two a pair"
    return ""


def pairs_over(options: Options) -> str:
    """What the generator of pairs does not speak."""
    protocol, transport = options.protocol, options.transport
    if transport == "websocket" and protocol not in WEBSOCKET:
        return f"{', '.join(WEBSOCKET)} go over WebSocket; {protocol} is measured over TCP"
    if transport == "udp" and protocol != "native":
        return f"native goes over UDP; {protocol} is measured over TCP"
    if transport == "udp" and options.size > UDP_BYTES:
        return f"over UDP a body has at most {UDP_BYTES:,} bytes, so that it goes in one datagram"
    if not options.qos and protocol == "mobileimsdk":
        return "--qos 0 is for native and mqtt"
    if not options.qos and options.size < NUMBER_BYTES:
        return f"--qos 0 takes bodies of {NUMBER_BYTES} bytes or more: they carry the message's number"
    return ""


def room_over(options: Options) -> str:
    """A baseline that does not speak what the members do."""
    if options.against == "autobahn" and options.transport == "tcp":
        return "--against autobahn is for --transport websocket"
    return ""
