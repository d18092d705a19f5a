"""``mobileimsdk``: what transports and the core may know of it, and what the operator sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, IProtocolMaker, Traits

from .codec import MobileImsdkCodec
from .flights import ONCE_MORE_S
from .mapping import WIRE
from .words import Form, Words

__all__ = ("MobileImsdkAdapter", "MobileImsdkMaker")

STREAM_BYTES = 6_144
"""Longer bodies make the clients drop the connection, over and over."""
MESSAGE_BYTES = 65_536
DATAGRAM_BYTES = 2_048
CLIENT_DATAGRAM_BYTES = 1_024
"""The clients receive into so much."""

SILENCES: dict[str, tuple[float, float]] = {
    "none": (20.0, 10.0),
    "3S": (7.0, 10.0),
    "5S": (11.0, 12.0),
    "10S": (15.0, 21.0),
    "15S": (20.0, 32.0),
    "30S": (35.0, 62.0),
    "60S": (65.0, 122.0),
    "120S": (125.0, 242.0),
}
"""By the sense mode that the clients have: seconds of silence over TCP and WebSocket, and over UDP. Those for
UDP know no 5S and 15S."""

TRAITS = Traits(
    batches=False,
    gaps=False,
    pings=False,
    pulls=False,
    ack_timeout_s=0.0,  # the codec's own business: what wants no receipt may be without one for long
    resend_s=ONCE_MORE_S,
)


@implementer(IPlugin, IProtocolAdapter)
class MobileImsdkAdapter:
    """The wire over TCP and WebSocket; `carriage.bare` is the same over bare UDP.

    :param sense_mode: how often the clients send their keepalive, a key of `SILENCES`.
    :param stamps: every object says when it was sent.
    :param now: monotonic seconds. `wall_ms`: Unix milliseconds.
    """

    name = WIRE
    traits = TRAITS

    def __init__(
        self, sense_mode: str, stamps: bool, now: Callable[[], float], wall_ms: Callable[[], int]
    ) -> None:
        silence_s, datagram_silence_s = SILENCES[sense_mode]
        clocks = (now, wall_ms, Rising(wall_ms), stamps)
        self._stream = Words(Form(True, False, STREAM_BYTES, STREAM_BYTES, silence_s, *clocks))
        self._message = Words(Form(False, False, MESSAGE_BYTES, MESSAGE_BYTES, silence_s, *clocks))
        datagrams = Form(False, True, DATAGRAM_BYTES, CLIENT_DATAGRAM_BYTES, datagram_silence_s, *clocks)
        bare = BareAdapter(Words(datagrams))
        self.carriage = Carriage(
            text=True,
            path="/websocket",
            any_origin=True,
            fragments=False,
            bye="Bye",
            max_frame_bytes=MESSAGE_BYTES,
            bare=bare,
        )

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        return MobileImsdkCodec(self._stream if stream else self._message)


@implementer(IProtocolAdapter)
class BareAdapter:
    """The wire in datagrams: one object each, at most 2,048 bytes here and 1,024 there."""

    name = WIRE
    traits = TRAITS
    carriage = Carriage(stream=False, max_frame_bytes=DATAGRAM_BYTES)

    def __init__(self, words: Words) -> None:
        self._words = words

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        return MobileImsdkCodec(self._words)


class Rising:
    """Unix milliseconds that are never twice the same: two logins of one moment are told apart by them."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._last = 0

    def __call__(self) -> int:
        self._last = max(self._wall_ms(), self._last + 1)
        return self._last


@implementer(IPlugin, IProtocolMaker)
class MobileImsdkMaker:
    """Makes the adapter of one node from the section ``mobileimsdk`` of its settings."""

    name = WIRE

    def make(self, settings: Any, now: Callable[[], float], wall_ms: Callable[[], int]) -> MobileImsdkAdapter:
        if settings is None:
            return MobileImsdkAdapter("none", False, now, wall_ms)
        return MobileImsdkAdapter(settings.sense_mode, settings.sm, now, wall_ms)
