"""What a client showed and the gaps it was told cover its log exactly, nothing twice, always rising.

A modelled client with a real node on the real broker in memory, under random publishes, acknowledgements,
cuts, resumes with and without a position, clogged links and logins of a second device.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imgateway.frames import Deliver, Publish, PublishAck, ResumePoint, Welcome, user_address
from imgateway.wire.messages import decode_message
from tests.node.rig import Peer, Rig

BOB = user_address("bob")
SMALL = {
    "limits.deliver_window_entries": 4,
    "limits.deliver_window_bytes": 2_000,
    "limits.publish_window": 3,
    "quota.publish_rate": 0.0,
    "quota.pair_rate": 0.0,
}


class Conversation(RuleBasedStateMachine):
    """`position` is the client's own; `shown` the ids it has shown, which it never shows again."""

    @initialize()
    def start(self) -> None:
        self.rig = Rig("memory", set=SMALL)
        self.sender = self.rig.login("alice")
        self.number = 0
        self.peer: Peer | None = None
        self.position = self.epoch = self.acked = 0
        self.shown: list[int] = []
        self.names_position = True
        self.login(True, 0)

    # -------------------------------------------------------------------------------------- the client

    def read(self) -> None:
        """Take the frames as a client does: a range must continue where the last one ended."""
        if self.peer is None:
            return
        for frame in self.peer.take():
            if isinstance(frame, Welcome):
                (resumed,) = frame.resumed
                assert not resumed.gap
                self.epoch = resumed.epoch
                if self.names_position and self.position:
                    assert resumed.position == self.position
                self.at = resumed.position
                assert self.at <= self.position, "it may be sent again, never passed over"
                assert self.at >= self.acked or self.names_position
            elif isinstance(frame, Deliver):
                assert frame.after == self.at, "no hole, no overlap on one link"
                assert frame.upto > frame.after
                assert not frame.gap
                seqs = [entry.seq for entry in frame.entries]
                assert seqs == list(range(frame.after + 1, frame.upto + 1)), "nothing expires here"
                self.at = frame.upto
                for entry in frame.entries:
                    if entry.seq > self.position:
                        self.shown.append(int(decode_message(entry.message).msg_id))
                self.position = max(self.position, frame.upto)
            else:
                assert not isinstance(frame, PublishAck)

    @precondition(lambda self: self.peer is None)
    @rule(named=st.booleans(), chunk=st.sampled_from([0, 1, 7]))
    def login(self, named: bool, chunk: int) -> None:
        self.names_position = named and bool(self.epoch)
        resume = (ResumePoint(BOB, 0, self.epoch, self.position),) if self.names_position else ()
        self.peer = self.rig.login("bob", resume=resume, chunk=chunk)
        if self.names_position:
            self.acked = max(self.acked, self.position)
        self.read()

    @precondition(lambda self: self.peer is not None)
    @rule(named=st.booleans())
    def login_over_a_living_link(self, named: bool) -> None:
        self.peer = None
        self.login(named, 0)

    @precondition(lambda self: self.peer is not None)
    @rule()
    def cut(self) -> None:
        assert self.peer is not None
        self.read()
        self.peer.cut()
        self.peer = None

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule(data=st.data())
    def ack(self, data: Any) -> None:
        assert self.peer is not None
        self.read()
        upto = data.draw(st.integers(min(self.acked, self.at), self.at))
        self.acked = max(self.acked, upto)
        self.peer.ack(upto, self.epoch)
        self.read()

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule()
    def catch_up(self) -> None:
        """Who acknowledges all that it gets is shown everything, without waiting for a newer message."""
        assert self.peer is not None
        self.read()
        while len(self.shown) < self.number:
            before = len(self.shown)
            self.acked = max(self.acked, self.at)
            self.peer.ack(self.at, self.epoch)
            self.read()
            assert len(self.shown) > before, "it got stuck"

    @precondition(lambda self: self.peer is not None)
    @rule()
    def stop_reading(self) -> None:
        assert self.peer is not None
        self.peer.stop_reading()

    @precondition(lambda self: self.peer is not None)
    @rule()
    def read_on(self) -> None:
        assert self.peer is not None
        self.peer.read_on()
        self.read()

    # ------------------------------------------------------------------------------------- the others

    @rule(count=st.integers(1, 9), size=st.sampled_from([0, 100, 1500]))
    def publish(self, count: int, size: int) -> None:
        frames = [Publish(str(self.number + n), (BOB,), body=b"x" * size) for n in range(1, count + 1)]
        self.number += count
        self.sender.together(*frames)
        self.read()

    @rule()
    def second_device(self) -> None:
        self.rig.login("bob", "web").cut()

    @rule(seconds=st.sampled_from([1, 5]))
    def pass_time(self, seconds: float) -> None:
        self.rig.advance(seconds)
        self.read()

    @invariant()
    def nothing_twice_nothing_lost(self) -> None:
        if hasattr(self, "shown"):
            assert self.shown == list(range(1, len(self.shown) + 1))

    def teardown(self) -> None:
        """In the end everything is shown, and every publish has its answer."""
        if not hasattr(self, "rig"):
            return
        if self.peer is not None:
            self.peer.cut()
            self.peer = None
        self.login(True, 0)
        assert self.peer is not None
        self.catch_up()
        self.nothing_twice_nothing_lost()
        assert [ack.msg_id for ack in self.sender.of(PublishAck)] == [
            str(n) for n in range(1, self.number + 1)
        ]


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
