"""From our frames to the wire contract: the bytes, and the protobuf Frame that other forms are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgateway.frames import (
    FRAME_NAMES,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Frame,
    Hello,
    Notify,
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
    Seen,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    address_text,
)
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.compression import compressed
from imgateway.wire.messages import deliver_frame, publish_ack_frame
from imgateway.wire.welcome import welcome_frame


def write_frame(frame: Frame, max_packed: int = 0) -> bytes:
    """The bytes of a frame in protobuf's binary form.

    :param max_packed: a Deliver's entries of up to so many bytes are compressed as it says.
    :raises ValueError: text with a lone surrogate, or a number that its field cannot hold.
    """
    if type(frame) is Deliver:
        return deliver_frame(frame, compressed, max_packed)
    if type(frame) is PublishAck:
        return publish_ack_frame(frame.msg_id, frame.outcomes)
    if type(frame) is Welcome:
        return welcome_frame(frame)
    return write_proto(frame).SerializeToString(deterministic=True)


def write_proto(frame: Frame) -> pb.Frame:
    """The protobuf Frame that stands for a frame; nothing in it is compressed.

    :raises ValueError: as `write_frame`.
    :raises google.protobuf.message.DecodeError: an entry of a Deliver holds no message.
    """
    kind = type(frame)
    if type(frame) is Deliver:
        return pb.Frame.FromString(deliver_frame(frame))
    if kind is PublishAck or kind is Welcome:
        return pb.Frame.FromString(write_frame(frame))
    return pb.Frame(**{FRAME_NAMES[kind]: _WRITERS[kind](frame)})


def _publish(frame: Publish) -> pb.Publish:
    return pb.Publish(
        msg_id=frame.msg_id,
        to=map(address_text, frame.to),
        content_type=frame.content_type,
        body=frame.body,
        qos=None if frame.qos == 1 else frame.qos,
        ttl_s=frame.ttl_s,
        lane=frame.lane,
        resent=frame.resent,
        copy_self=frame.copy_self,
        headers=dict(frame.headers),
    )


def _deliver_ack(frame: DeliverAck) -> pb.DeliverAck:
    return pb.DeliverAck(
        acks=[
            pb.Acked(address=address_text(ack.address), epoch=ack.epoch, upto=ack.upto) for ack in frame.acks
        ]
    )


def _hello(frame: Hello) -> pb.Hello:
    return pb.Hello(
        token=frame.token,
        device=frame.device,
        platform=frame.platform,
        client_version=frame.client_version,
        compressions=frame.compressions,
        start=int(frame.start),  # type: ignore[arg-type]
        resume=[
            pb.ResumePoint(
                address=address_text(point.address),
                lane=point.lane,
                epoch=point.epoch,
                seq=point.seq,
                mode=int(point.mode),  # type: ignore[arg-type]
            )
            for point in frame.resume
        ],
    )


def _notify(frame: Notify) -> pb.Notify:
    return pb.Notify(
        heads=[
            pb.Told(
                address=address_text(told.address),
                lane=told.lane,
                epoch=told.epoch,
                head=told.head,
                after=told.after,
            )
            for told in frame.heads
        ],
        spread_ms=frame.spread_ms,
    )


def _subscribe(frame: Subscribe) -> pb.Subscribe:
    # Whether it acknowledges is for wires that have subscriptions with and without: in ours all do.
    return pb.Subscribe(
        address=address_text(frame.address),
        mode=int(frame.mode),  # type: ignore[arg-type]
        lane=frame.lane,
        epoch=frame.epoch,
        seq=frame.seq,
        last=frame.last,
    )


def _subscribed(frame: Subscribed) -> pb.Subscribed:
    # Whether it begins anew is for wires that show newcomers the newest entry as an old one.
    return pb.Subscribed(
        address=address_text(frame.address),
        code=frame.code,
        epoch=frame.epoch,
        head=frame.head,
        gap=frame.gap,
        mode=int(frame.mode),  # type: ignore[arg-type]
        lane=frame.lane,
        position=frame.position,
    )


def _same_names(proto: Callable[..., Any]) -> Callable[[Any], Any]:
    """For a frame whose fields are called the same there: addresses become text, the rest goes as it is."""

    def write(frame: Any) -> Any:
        fields = {}
        for name in frame.__struct_fields__:
            value = getattr(frame, name)
            fields[name] = address_text(value) if type(value) is Address else value
        return proto(**fields)

    return write


_WRITERS: dict[type, Callable[[Any], Any]] = {
    Publish: _publish,
    DeliverAck: _deliver_ack,
    Ping: _same_names(pb.Ping),
    Pong: _same_names(pb.Pong),
    Hello: _hello,
    Renew: _same_names(pb.Renew),
    Renewed: _same_names(pb.Renewed),
    Subscribe: _subscribe,
    Subscribed: _subscribed,
    Unsubscribe: _same_names(pb.Unsubscribe),
    Unsubscribed: _same_names(pb.Unsubscribed),
    Notify: _notify,
    Pull: _same_names(pb.Pull),
    Seen: _same_names(pb.Seen),
    Request: _same_names(pb.Request),
    Response: _same_names(pb.Response),
    Refused: _same_names(pb.Refused),
    Bye: _same_names(pb.Bye),
}
