"""The hand-written Welcome against protobuf's own, to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given

from imgateway.frames import Address, Limits, Resumed, Welcome, address_text
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.welcome import welcome_frame
from tests.strategies import welcomes

LIMITS = Limits()


def by_protobuf(frame: Welcome) -> bytes:
    welcome = pb.Welcome(
        session=frame.session,
        user=frame.user,
        node=frame.node,
        generation=frame.generation,
        heartbeat_s=frame.heartbeat_s,
        server_time_ms=frame.server_time_ms,
        token_expires_ms=frame.token_expires_ms,
        limits=pb.Limits(**{name: getattr(frame.limits, name) for name in Limits.__struct_fields__}),
        resumed=[
            pb.Resumed(
                address=address_text(log.address),
                lane=log.lane,
                epoch=log.epoch,
                position=log.position,
                head=log.head,
                gap=log.gap,
            )
            for log in frame.resumed
        ],
    )
    return pb.Frame(welcome=welcome).SerializeToString(deterministic=True)


@given(welcomes)
def test_a_welcome_is_what_protobuf_writes(frame: Welcome) -> None:
    assert welcome_frame(frame) == by_protobuf(frame)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21, 2**33 + 5, 2**64 - 1])
def test_numbers_of_every_length(number: int) -> None:
    log = Resumed(Address("user", "ann"), 0, number, number, number, True)
    frame = Welcome("", "ann", "", number, 0.0, number, number, LIMITS, (log,))
    assert welcome_frame(frame) == by_protobuf(frame)


@pytest.mark.parametrize(
    "frame",
    [
        Welcome("\ud800", "ann", "", 1, 0.0, 0, 0, LIMITS),
        Welcome("", "\ud800", "", 1, 0.0, 0, 0, LIMITS),
        Welcome("", "ann", "", -1, 0.0, 0, 0, LIMITS),
        Welcome("", "ann", "", 2**64, 0.0, 0, 0, LIMITS),
        Welcome("", "ann", "", 1, 0.0, 2**64, 0, LIMITS),
        Welcome("", "ann", "", 1, 0.0, 0, 0, Limits(max_addresses=2**32)),
    ],
)
def test_what_no_welcome_can_hold(frame: Welcome) -> None:
    with pytest.raises(ValueError):
        welcome_frame(frame)
