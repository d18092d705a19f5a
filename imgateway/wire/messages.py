"""Messages as they are stored, and the two frames that every message costs, written without protobuf.

A message is encoded once, when it is published. That encoding is what a log keeps, and a Deliver is made by
putting it between a few bytes, where protobuf would read and write it again for every frame. The bytes are
those that protobuf writes, but that headers have an order; the tests hold every function here against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError

from imgateway.errors import BadFrame, InvalidAddress
from imgateway.frames import (
    MAX_MSG_ID_BYTES,
    Address,
    Deliver,
    Message,
    Outcome,
    address_text,
    parse_address,
)
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
    about = origin(message.sender, message.device, content_type)
    sent_ms, expires_ms = message.sent_ms, message.expires_ms
    size = len(msg_id)
    if 0 < size < 128 and body and sent_ms and not (expires_ms or message.headers or message.to):
        # As nearly all are.
        return b"".join((_NAMED[size], msg_id, about, _bodied(len(body)), body, _sent(sent_ms)))
    parts = [b"\x0a" + varint(len(msg_id)) + msg_id if msg_id else b"", about]
    if body:
        parts += (b"\x2a", varint(len(body)), body)
    if sent_ms:
        parts += (b"\x30", varint(sent_ms))
    if expires_ms:
        parts += (b"\x38", varint(expires_ms))
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
    last = deliver.upto
    upto = varint(last)
    if deliver.after:
        head += b"\x20" + varint(deliver.after)
    if last:
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
        tail += b"\x40" + (upto if deliver.head == last else varint(deliver.head))
    if deliver.compression:
        packed: bytes | None = deliver.compressed
        if not packed and pack is not None and size <= most:
            packed = pack(deliver.compression, parts, size)
        if packed:
            parts, size = [], 0
            tail += _text(b"\x4a", deliver.compression) + b"\x52" + varint(len(packed)) + packed
    if deliver.pulled:
        tail += b"\x58\x01"
    return b"".join((b"\x1a", varint(len(head) + size + len(tail)), head, *parts, tail))


def mail_frame(address: Address, epoch: int, after: int, messages: Sequence[bytes], behind: bool) -> bytes:
    """`deliver_frame` of what comes to a mailbox all the time: of the entries after `after`, seq by seq up to
    the head, with these messages.

    :param behind: it stands behind its length, as streams have it.
    """
    log = _log(address, 0, epoch)
    before = b"\x20" + varint(after) if after else b""
    if len(messages) == 1:
        message, upto = messages[0], varint(after + 1)
        head, entry, text = _lengths(len(message), len(upto), len(log) + len(before), behind)
        return b"".join((head, log, before, b"\x28", upto, entry, upto, text, message, b"\x40", upto))
    parts: list[bytes] = []
    size, seq, upto = 0, after, b""
    for message in messages:
        seq += 1
        upto, length = varint(seq), varint(len(message))
        inner = 2 + len(upto) + len(length) + len(message)
        outer = varint(inner)
        parts += (b"\x32", outer, b"\x08", upto, b"\x12", length, message)
        size += 1 + len(outer) + inner
    size += len(log) + len(before) + 2 * len(upto) + 2
    content = varint(size)
    prefix = varint(1 + len(content) + size) if behind else b""
    return b"".join((prefix, b"\x1a", content, log, before, b"\x28", upto, *parts, b"\x40", upto))


def publish_ack_frame(msg_id: str, outcomes: tuple[Outcome, ...], behind: bool = False) -> bytes:
    """A whole Frame with this PublishAck.

    :param behind: it stands behind its length, as streams have it.
    :raises ValueError: as `encode_message`.
    """
    name = msg_id.encode()
    if len(outcomes) == 1 and 0 < len(name) <= MAX_MSG_ID_BYTES:
        code, epoch, seq = outcomes[0]
        if seq and epoch and not code:  # as nearly all are: each length is one byte
            place = varint(seq) + _of_epoch(epoch)
            size, rest = len(name), len(place) + 1
            whole = size + rest + 4
            if behind:
                return b"%c\x12%c\x0a%c%b\x12%c\x10%b" % (whole + 2, whole, size, name, rest, place)
            return b"\x12%c\x0a%c%b\x12%c\x10%b" % (whole, size, name, rest, place)
    inner = b"\x0a" + varint(len(name)) + name if name else b""
    for code, epoch, seq in outcomes:
        outcome = b"\x08" + varint(code) if code else b""
        if seq:
            outcome += b"\x10" + varint(seq)
        if epoch:
            outcome += b"\x18" + varint(epoch)
        inner += b"\x12" + varint(len(outcome)) + outcome
    frame = b"\x12" + varint(len(inner)) + inner
    return varint(len(frame)) + frame if behind else frame


# Who sends what from where repeats from message to message, and so do the logs that are delivered from.


@lru_cache(maxsize=16384)
def _origin(sender: str, device: str, content_type: str) -> bytes:
    """Fields 2 to 4 of a Message."""
    fields = ((b"\x12", sender), (b"\x1a", device), (b"\x22", content_type))
    return b"".join(_text(tag, text) for tag, text in fields if text)


@lru_cache(maxsize=4096)
def _lengths(message: int, upto: int, log: int, behind: bool) -> tuple[bytes, bytes, bytes]:
    """What stands before log, seq and message of a mail of one, where these take so many bytes."""
    text = b"\x12" + varint(message)
    inner = 1 + upto + len(text) + message
    entry = b"\x32" + varint(inner) + b"\x08"
    size = log + 2 + 2 * upto + len(entry) - 1 + inner
    content = b"\x1a" + varint(size)
    return (varint(len(content) + size) if behind else b"") + content, entry, text


@lru_cache(maxsize=16384)
def _log(address: Address, lane: int, epoch: int) -> bytes:
    """Fields 1 to 3 of a Deliver."""
    numbers = ((b"\x10", lane), (b"\x18", epoch))
    return _text(b"\x0a", address_text(address)) + b"".join(tag + varint(n) for tag, n in numbers if n)


def _tagged(tag: bytes) -> Callable[[int], bytes]:
    """number → the tag and the number."""
    return lru_cache(maxsize=4096)(lambda number: tag + varint(number))


_bodied, _sent, _of_epoch = map(_tagged, (b"\x2a", b"\x30", b"\x18"))
_NAMED = tuple([bytes((0x0A, size)) for size in range(128)])


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode()
    return tag + varint(len(data)) + data
