"""From the wire contract to our frames: every field is checked here, whatever the form that it came in.

What protobuf guarantees is not checked again: numbers are in range, text is valid UTF-8. A number that
stands for a code (of an outcome, a response, a goodbye) is let through, known or not: newer gateways may have
more of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from imgateway.errors import BadFrame
from imgateway.frames import (
    MAX_CONTENT_TYPE_BYTES,
    MAX_MSG_ID_BYTES,
    Acked,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Limits,
    Mode,
    Notify,
    Outcome,
    Ping,
    Pong,
    Publish,
    PublishAck,
    Pull,
    Refused,
    Renew,
    Renewed,
    Request,
    Response,
    Resumed,
    ResumePoint,
    Seen,
    SeenKind,
    Start,
    Subscribe,
    Subscribed,
    Told,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    check_id,
    parse_address,
)
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.compression import decompressed


def read_frame(data: bytes) -> Frame:
    """The frame that these bytes are, in protobuf's binary form; compressed entries stay so.

    :raises BadFrame: they are none, or one with a field out of range.
    """
    try:
        return read_proto(pb.Frame.FromString(data))
    except DecodeError:
        raise BadFrame("no frame of this protocol") from None


def read_proto(proto: pb.Frame) -> Frame:
    """The frame that a protobuf Frame stands for.

    :raises BadFrame: none that this version knows, or one with a field out of range.
    """
    name = proto.WhichOneof("frame")
    if name is None:
        raise BadFrame("an empty frame, or one that this version does not know")
    try:
        return _READERS[name](getattr(proto, name))
    except ValueError as problem:  # of an address, an id, an enum
        raise BadFrame(f"{name}: {problem}") from None


def opened(deliver: Deliver, offered: Sequence[str], max_bytes: int) -> Deliver:
    """A Deliver with its entries, if it came with compressed ones. For clients: who offered nothing has
    nothing to open.

    :param offered: as Hello said.
    :param max_bytes: that the entries may have; what says that it has more is not unpacked further.
    :raises ProtocolError: it cannot be opened, or was compressed in another way.
    """
    if not (deliver.compression or deliver.compressed):
        return deliver
    if deliver.compression not in offered or deliver.entries:
        raise BadFrame("compressed in a way that was not offered, or only in part")
    try:
        proto = pb.Deliver.FromString(decompressed(deliver.compression, deliver.compressed, max_bytes))
    except DecodeError:
        raise BadFrame("what was compressed is no list of entries") from None
    return replace(deliver, entries=_entries(proto), compression="", compressed=b"")


def _named(field: str, text: str) -> str:
    """The id that stands in this field. :raises ValueError: it is none."""
    try:
        return check_id(text)
    except ValueError as problem:
        raise ValueError(f"{field}: {problem}") from None


def _publish(proto: pb.Publish) -> Publish:
    msg_id = proto.msg_id
    if not (0 < len(msg_id) <= MAX_MSG_ID_BYTES and msg_id.isascii() and msg_id.isprintable()):
        _named("msg_id", msg_id)
    to = proto.to
    count = len(to)
    if not count:
        raise ValueError("it must be to somebody")
    qos = proto.qos
    if qos != 1:
        if qos:
            raise ValueError("qos must be 0 or 1")
        qos = 0 if proto.HasField("qos") else 1
    if proto.text:
        raise ValueError("text is for the JSON form; this one has body")
    content_type = proto.content_type
    if len(content_type) > MAX_CONTENT_TYPE_BYTES:
        raise ValueError(f"a content type must not be longer than {MAX_CONTENT_TYPE_BYTES} bytes")
    lane = proto.lane
    headers = proto.headers
    return Publish(
        msg_id,
        (parse_address(to[0]),) if count == 1 else tuple(map(parse_address, to)),
        content_type,
        proto.body,
        qos,
        proto.ttl_s,
        _lane(lane) if lane else 0,
        proto.resent,
        proto.copy_self,
        tuple(sorted(headers.items())) if headers else (),
    )


def _publish_ack(proto: pb.PublishAck) -> PublishAck:
    return PublishAck(check_id(proto.msg_id), tuple(Outcome(o.code, o.epoch, o.seq) for o in proto.outcomes))


def _deliver(proto: pb.Deliver) -> Deliver:
    lane = proto.lane
    return Deliver(
        parse_address(proto.address),
        _lane(lane) if lane else 0,
        proto.epoch,
        proto.after,
        proto.upto,
        _entries(proto),
        proto.gap,
        proto.head,
        proto.compression,
        proto.compressed,
        proto.pulled,
    )


def _entries(proto: pb.Deliver) -> tuple[Entry, ...]:
    return tuple(Entry(entry.seq, entry.message.SerializeToString()) for entry in proto.entries)


def _deliver_ack(proto: pb.DeliverAck) -> DeliverAck:
    return DeliverAck(tuple(Acked(parse_address(ack.address), ack.epoch, ack.upto) for ack in proto.acks))


def _hello(proto: pb.Hello) -> Hello:
    device, platform, start, resume = proto.device, proto.platform, proto.start, proto.resume
    return Hello(
        proto.token,
        device and _named("device", device),
        platform and _named("platform", platform),
        proto.client_version,
        tuple(proto.compressions),
        Start(start) if start else Start.UNSEEN,
        tuple(
            [
                ResumePoint(parse_address(p.address), _lane(p.lane), p.epoch, p.seq, Mode(p.mode))
                for p in resume
            ]
        )
        if resume
        else (),
    )


def _welcome(proto: pb.Welcome) -> Welcome:
    limits = proto.limits
    return Welcome(
        proto.session,
        check_id(proto.user),
        proto.node,
        proto.generation,
        _amount(proto.heartbeat_s),
        proto.server_time_ms,
        proto.token_expires_ms,
        Limits(
            limits.max_body_bytes,
            limits.max_addresses,
            limits.publish_window,
            limits.dedup_s,
            _amount(limits.publish_rate),
            limits.publish_burst,
            _amount(limits.publish_bytes_rate),
            _amount(limits.pair_rate),
            limits.pair_burst,
            _amount(limits.request_rate),
            _amount(limits.subscribe_rate),
            limits.rooms_dedup_s,
        )
        if proto.HasField("limits")
        else Limits(),
        tuple(
            Resumed(parse_address(r.address), _lane(r.lane), r.epoch, r.position, r.head, r.gap)
            for r in proto.resumed
        ),
    )


def _subscribe(proto: pb.Subscribe) -> Subscribe:
    return Subscribe(
        parse_address(proto.address), Mode(proto.mode), _lane(proto.lane), proto.epoch, proto.seq, proto.last
    )


def _subscribed(proto: pb.Subscribed) -> Subscribed:
    address = parse_address(proto.address)
    return Subscribed(
        address,
        proto.code,
        proto.epoch,
        proto.head,
        proto.gap,
        Mode(proto.mode),
        _lane(proto.lane),
        proto.position,
    )


def _notify(proto: pb.Notify) -> Notify:
    heads = (
        Told(
            parse_address(t.address),
            _lane(t.lane),
            t.epoch,
            t.head,
            t.after if t.HasField("after") else None,
        )
        for t in proto.heads
    )
    return Notify(tuple(heads), proto.spread_ms)


def _pull(proto: pb.Pull) -> Pull:
    return Pull(parse_address(proto.address), _lane(proto.lane), proto.epoch, proto.after, proto.limit)


def _seen(proto: pb.Seen) -> Seen:
    who = proto.who and check_id(proto.who)
    return Seen(parse_address(proto.address), SeenKind(proto.kind), proto.upto, who)


def _request(proto: pb.Request) -> Request:
    return Request(proto.id, _named("service", proto.service), proto.method, proto.body, proto.deadline_ms)


def _lane(lane: int) -> int:
    if lane > 1:
        raise ValueError("lane must be 0 or 1")
    return lane


def _amount(number: float) -> float:
    if not 0 <= number < math.inf:
        raise ValueError("a time or rate must be a number from 0 up")
    return number


_READERS: dict[str, Callable[[Any], Frame]] = {
    "publish": _publish,
    "publish_ack": _publish_ack,
    "deliver": _deliver,
    "deliver_ack": _deliver_ack,
    "ping": lambda proto: Ping(proto.nonce, proto.time_ms),
    "pong": lambda proto: Pong(proto.nonce, proto.time_ms),
    "hello": _hello,
    "welcome": _welcome,
    "renew": lambda proto: Renew(proto.token),
    "renewed": lambda proto: Renewed(proto.token_expires_ms),
    "subscribe": _subscribe,
    "subscribed": _subscribed,
    "unsubscribe": lambda proto: Unsubscribe(parse_address(proto.address)),
    "unsubscribed": lambda proto: Unsubscribed(parse_address(proto.address), proto.code),
    "notify": _notify,
    "pull": _pull,
    "seen": _seen,
    "request": _request,
    "response": lambda proto: Response(proto.id, proto.code, proto.body),
    "refused": lambda proto: Refused(proto.frame, proto.id, proto.code, proto.reason),
    "bye": lambda proto: Bye(
        proto.code, proto.reason, proto.retry_after_ms, tuple(proto.endpoints), proto.detail
    ),
}
