"""The native wire in binary: protobuf Frames, behind varint32 lengths or each in a message of its own.

Codecs compress what is to be compressed, and open nothing: a client does that itself
(`imgateway.wire.reading.opened`), and what a gateway is sent costs it no more than its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import FrameTooLarge
from imgateway.frames import Address, Frame, PublishAck
from imgateway.interfaces import Carriage, ICodec, IMailCodec, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.wire.compression import COMPRESSIONS
from imgateway.wire.framing import Splitter, varint
from imgateway.wire.messages import mail_frame, publish_ack_frame
from imgateway.wire.usual import read_usual
from imgateway.wire.writing import write_frame

UNSAYABLE = (TypeError, ValueError)
"""What writing raises: at lone surrogates, and at numbers that no field holds."""


@implementer(IMailCodec)
class StreamCodec(Splitter, PlainCodec):
    """Frames behind their lengths on a byte stream; holds at most one unfinished frame."""

    wire = "native/stream"

    __slots__ = ()

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        return map(read_usual, self.feed(data))

    def encode(self, frame: Frame) -> bytes | None:
        try:
            if type(frame) is PublishAck:
                data = publish_ack_frame(frame.msg_id, frame.outcomes, True)
                if len(data) <= self.max_frame_bytes:
                    return data
            data = write_frame(frame, self.max_frame_bytes)
        except UNSAYABLE:
            return None
        size = len(data)
        return varint(size) + data if size <= self.max_frame_bytes else None

    def mail(self, address: Address, epoch: int, after: int, messages: Sequence[bytes]) -> bytes | None:
        data = mail_frame(address, epoch, after, messages, True)
        return data if len(data) <= self.max_frame_bytes else None


@implementer(IMailCodec)
class MessageCodec(PlainCodec):
    """A frame a message; holds nothing."""

    wire = "native/message"

    __slots__ = ("_max",)

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        return map(self._read, (data,))

    def encode(self, frame: Frame) -> bytes | None:
        try:
            data = write_frame(frame, self._max)
        except UNSAYABLE:
            return None
        return data if len(data) <= self._max else None

    def mail(self, address: Address, epoch: int, after: int, messages: Sequence[bytes]) -> bytes | None:
        data = mail_frame(address, epoch, after, messages, False)
        return data if len(data) <= self._max else None

    def _read(self, data: bytes) -> Frame:
        if len(data) > self._max:
            raise FrameTooLarge(f"a frame of {len(data)} bytes; {self._max} are allowed")
        return read_usual(data)


_message_codec = lru_cache(maxsize=8)(MessageCodec)  # it holds nothing, so that one serves all links


@implementer(IPlugin, IProtocolAdapter)
class NativeAdapter:
    """``native``: on every transport, with everything that the core can say."""

    name = "native"
    carriage = Carriage(subprotocols=("imgateway.v1.protobuf",))
    traits = Traits(mail=True, compressions=COMPRESSIONS)

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        return StreamCodec(max_frame_bytes) if stream else _message_codec(max_frame_bytes)
