"""The netty-chat wire at a node without sockets: how a connection begins, lives and ends."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.core.handshake import LinkState
from imgateway.errors import CloseCode
from imgateway.protocols.chat import ChatAdapter
from imgateway.wire import chat_pb2 as pb
from imgateway.wire.framing import length_prefixed

from .rig import START_MS, Peer, Rig


def frame(kind: int, uid: int = 1, **more: Any) -> bytes:
    return length_prefixed(pb.Msg(msg_id=f"m{kind}", from_uid=uid, msg_type=kind, **more).SerializeToString())


LOGIN, PING = frame(3), frame(4)


class ChatPeer(Peer):
    """Keeps the bytes; its rig's own codec is another."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, ChatAdapter(), True, 0, "")
        self.data = b""
        rig.peers.append(self)

    @property
    def state(self) -> LinkState:
        assert self.link is not None
        return self.link.state

    def received(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def rig() -> Rig:
    return Rig("memory")


def test_a_login_is_answered_with_nothing(rig: Rig) -> None:
    peer = ChatPeer(rig)
    peer.raw(LOGIN)
    assert peer.state is LinkState.OPEN
    assert rig.session("1", "chat") is not None
    assert peer.data == b""


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (PING, CloseCode.UNEXPECTED_FRAME),
        (frame(1, chat_type=1, to_uid=2), CloseCode.UNEXPECTED_FRAME),
        (b"\xff\xff\xff\xff\x0f", CloseCode.FRAME_TOO_LARGE),
        (frame(3, 0), CloseCode.BAD_FRAME),
    ],
)
def test_nothing_but_a_login_comes_first(rig: Rig, first: bytes, code: CloseCode) -> None:
    peer = ChatPeer(rig)
    peer.raw(first)
    assert peer.state is LinkState.CLOSED
    assert rig.counters.links_closed[code] == 1
    assert peer.data == b""


def test_ten_silent_seconds_close_it(rig: Rig) -> None:
    peer = ChatPeer(rig)
    peer.raw(LOGIN)
    for _ in range(30):
        rig.advance(1)
        peer.raw(PING)
    states = [peer.state]
    for seconds in (9, 2):
        rig.advance(seconds)
        states.append(peer.state)
    assert states == [LinkState.OPEN, LinkState.OPEN, LinkState.CLOSED]
    assert rig.counters.links_closed[CloseCode.HEARTBEAT_TIMEOUT] == 1


def test_pings_are_answered_in_their_order(rig: Rig) -> None:
    peer = ChatPeer(rig)
    pings = [length_prefixed(pb.Msg(msg_id=name, msg_type=4).SerializeToString()) for name in "ab"]
    peer.raw(LOGIN + pings[0] + pings[1])
    pongs = [pb.Msg(msg_id=name, to_uid=1, msg_type=5, timestamp=START_MS) for name in "ab"]
    assert peer.data == b"".join(length_prefixed(pong.SerializeToString()) for pong in pongs)


def test_a_revoked_user_stays_out(rig: Rig) -> None:
    rig.broker.revoke("1", START_MS // 1000)
    rig.settle()
    peer = ChatPeer(rig)
    peer.raw(LOGIN)
    assert peer.state is LinkState.CLOSED
    assert peer.data == b""
