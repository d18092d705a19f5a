"""The two frames that nearly all are: a Publish to one address, with a body and nothing else said, and a
DeliverAck of one log. They are cut out of the bytes that came, where protobuf would make objects that are
then asked for their fields.

All else goes through protobuf (`imgateway.wire.reading`), which is also what the tests hold this against.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.message import DecodeError

from imgateway.frames import MAX_MSG_ID_BYTES, Acked, Address, DeliverAck, Frame, Publish, parse_address
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.reading import read_frame

LARGEST = 16_383
"""Bytes whose number takes two bytes to write."""
LONGEST_ACK = 128
"""The last byte of a frame whose length takes one byte to write."""
LONGEST = 9
"""Bytes of a number that is none too large for 64 bits, however it is written."""


def read_usual(data: bytes) -> Frame:
    """As `read_frame`, and much faster for the usual ones.

    :raises BadFrame: as `read_frame`.
    """
    size = len(data)
    if not size or data[0] != 0x0A or size > LARGEST:  # Frame.publish
        return _acknowledged(data) or read_frame(data)
    try:
        length, at = data[1], 2
        if length > 127:
            length += (data[2] << 7) - 128
            at = 3
        if at + length != size or data[at] != 0x0A:  # Publish.msg_id
            return read_frame(data)
        name = at + 2
        to = name + data[at + 1]
        if to - name > MAX_MSG_ID_BYTES or data[to] != 0x12:  # Publish.to
            return read_frame(data)
        text = to + 2
        body = text + data[to + 1]
        if body - text > 127 or data[body] != 0x22:  # Publish.body
            return read_frame(data)
        length, at = data[body + 1], body + 2
        if length > 127:
            length += (data[at] << 7) - 128
            at += 1
        msg_id = data[name:to].decode("ascii")
        # The end of it all is where the last field ends: so no length before it was out of its bounds.
        if at + length == size and msg_id.isprintable() and msg_id:
            return Publish(msg_id, _to(data[text:body]), "", data[at:])
    except (IndexError, ValueError):
        pass  # whatever is wrong with it is said in one place
    return read_frame(data)


def _acknowledged(data: bytes) -> DeliverAck | None:
    """The usual DeliverAck; None: it is something else, or there is something wrong with it."""
    try:
        last = len(data) - 1
        if last > LONGEST_ACK:
            return None
        # Frame.deliver_ack and its only DeliverAck.acks, each to the end.
        if data[0] != 0x22 or data[1] != last - 1 or data[2] != 0x0A or data[3] != last - 3:
            return None
        upto = data[last]
        if upto > 127:
            return None
        while data[last - 1] > 127:
            last -= 1
            upto = upto << 7 | data[last] & 127
        if data[last - 1] != 0x18 or len(data) - last > LONGEST:  # Acked.upto
            return None
        # Protobuf reads from the begin to the end: what stands before the last field is a message, too.
        address, epoch = _log(data[4 : last - 1])
    except (IndexError, ValueError, DecodeError):
        return None
    return DeliverAck((Acked(address, epoch, upto),))


@lru_cache(maxsize=16_384)
def _log(acked: bytes) -> tuple[Address, int]:
    """Of an Acked without its last field."""
    log = pb.Acked.FromString(acked)
    return parse_address(log.address), log.epoch


@lru_cache(maxsize=16_384)
def _to(address: bytes) -> tuple[Address]:
    return (parse_address(address.decode()),)
