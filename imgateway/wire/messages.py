"""Messages as they are stored, and the two frames that every message costs, written without protobuf.

A message is encoded once, when it is published. That encoding is what a log keeps, and a Deliver is made by
putting it between a few bytes, where protobuf would read and write it again for every frame. The bytes are
those that protobuf writes, but that headers have an order; the tests hold every function here against it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from google.protobuf.message import DecodeError

from imgateway.errors import BadFrame, InvalidAddress
from imgateway.frames import Address, Deliver, Message, Outcome, address_text, parse_address
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.framing import varint


def encode_message(message: Message) -> bytes:
    """The stored encoding: a protobuf Message.

    Headers stand in the order of their names; of equal names the last counts.


    :raises ValueError: text with a lone surrogate, a time outside 0 … 2**64 - 1. Codecs let neither in.
    """
    msg_id = message.msg_id.encode()
    body, content_type = message.body, message.content_type
    # Nobody fills the cache with long texts.
    origin = _origin if len(content_type) < 64 else _origin.__wrapped__
    parts = [
        b"\x0a" + varint(len(msg_id)) + msg_id if msg_id else b"",
        origin(message.sender, message.device, content_type),
    ]
    if body:
        parts += (b"\x2a", varint(len(body)), body)
    if message.sent_ms:
        parts += (b"\x30", varint(message.sent_ms))
    if message.expires_ms:
        parts += (b"\x38", varint(message.expires_ms))
    if message.headers:
        for name, value in sorted(dict(message.headers).items()):
            pair = _text(b"\x0a", name) + _text(b"\x12", value)
            parts += (b"\x42", varint(len(pair)), pair)
    for address in message.to:
        parts.append(_text(b"\x4a", address_text(address)))
    return b"".join(parts)


def decode_message(data: bytes) -> Message:
    """Read what `encode_message` or another protobuf implementation wrote.

    :raises BadFrame: it is no Message, or has an invalid address in `to`.
    """
    try:
        proto = pb.Message.FromString(data)
        return Message(
            proto.msg_id,
            proto.sender,
            proto.device,
            proto.content_type,
            proto.body,
            proto.sent_ms,
            proto.expires_ms,
            tuple(sorted(proto.headers.items())),
            tuple(map(parse_address, proto.to)),
        )
    except (DecodeError, InvalidAddress) as problem:
        raise BadFrame(f"no message: {problem}") from None


Pack = Callable[[str, list[bytes], int], bytes | None]
"""(compression, parts, their size) → the parts compressed, None if they are better left as they are."""


def deliver_frame(deliver: Deliver, pack: Pack | None = None, most: int = 0) -> bytes:
    """A whole Frame with this Deliver; the entries' messages go in as they are, or packed in
    ``deliver.compression``.

    :param most: entries of more bytes are not packed: the receiver would not hold them.
    :raises ValueError: as `encode_message`.
    """
    head = _log(deliver.address, deliver.lane, deliver.epoch)
    upto = varint(deliver.upto)
    if deliver.after:
        head += b"\x20" + varint(deliver.after)
    if deliver.upto:
        head += b"\x28" + upto
    parts: list[bytes] = []
    size = 0
    for entry in deliver.entries:
        message, seq = entry.message, entry.seq
        length = len(message)
        inner = b"\x12" + varint(length)
        if seq:
            inner = b"\x08" + varint(seq) + inner
        outer = b"\x32" + varint(len(inner) + length) + inner
        parts += (outer, message)
        size += len(outer) + length
    tail = b"\x38\x01" if deliver.gap else b""
    if deliver.head:
        tail += b"\x40" + (upto if deliver.head == deliver.upto else varint(deliver.head))
    if deliver.compression:
        packed: bytes | None = deliver.compressed
        if not packed and pack is not None and size <= most:
            packed = pack(deliver.compression, parts, size)
        if packed:
            tail += _text(b"\x4a", deliver.compression) + b"\x52" + varint(len(packed))
            return b"".join((b"\x1a", varint(len(head) + len(tail) + len(packed)), head, tail, packed))
    return b"".join((b"\x1a", varint(len(head) + size + len(tail)), head, *parts, tail))


def publish_ack_frame(msg_id: str, outcomes: tuple[Outcome, ...]) -> bytes:
    """A whole Frame with this PublishAck.

    :raises ValueError: as `encode_message`.
    """
    name = msg_id.encode()
    inner = b"\x0a" + varint(len(name)) + name if name else b""
    for code, epoch, seq in outcomes:
        outcome = b"\x08" + varint(code) if code else b""
        if seq:
            outcome += b"\x10" + varint(seq)
        if epoch:
            outcome += b"\x18" + varint(epoch)
        inner += b"\x12" + varint(len(outcome)) + outcome
    return b"\x12" + varint(len(inner)) + inner


# Who sends what from where repeats from message to message, and so do the logs that are delivered from.


@lru_cache(maxsize=16384)
def _origin(sender: str, device: str, content_type: str) -> bytes:
    """Fields 2 to 4 of a Message."""
    fields = ((b"\x12", sender), (b"\x1a", device), (b"\x22", content_type))
    return b"".join(_text(tag, text) for tag, text in fields if text)


@lru_cache(maxsize=16384)
def _log(address: Address, lane: int, epoch: int) -> bytes:
    """Fields 1 to 3 of a Deliver."""
    numbers = ((b"\x10", lane), (b"\x18", epoch))
    return _text(b"\x0a", address_text(address)) + b"".join(tag + varint(n) for tag, n in numbers if n)


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode()
    return tag + varint(len(data)) + data
