"""What a client showed of each log that it follows, and the gaps that it was told, cover that log exactly:
nothing twice, always rising.

A modelled client with a real node on the real broker in memory, under random publishes to its mailbox and to
two topics, acknowledgements, cuts, logins, subscriptions with and without a position, departures, and
clogged links. One window serves all three logs.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imgateway.frames import (
    Acked,
    Address,
    Deliver,
    DeliverAck,
    Publish,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity
from imgateway.wire.messages import decode_message
from tests.node.rig import Peer, Rig

BOB, NEWS, SPORT = user_address("bob"), parse_address("topic:news"), parse_address("topic:sport")
LOGS, TOPICS = (BOB, NEWS, SPORT), (NEWS, SPORT)
WINDOW = 4
SMALL = {
    "limits.deliver_window_entries": WINDOW,
    "limits.deliver_window_bytes": 2_000,
    "quota.publish_rate": 0.0,
    "quota.pair_rate": 0.0,
    "quota.subscribe_rate": 0.0,
}


class Log:
    """What the client knows of one log: `position` is its own; `at` where this link is, None: not there.

    `follows`: the gateway keeps its place. `due`: ids that it must be shown, `shown`: those that it was.
    """

    def __init__(self) -> None:
        self.position = self.acked = self.epoch = 0
        self.at: int | None = None
        self.follows = False
        self.due: list[int] = []
        self.shown: list[int] = []


class Follower(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.rig = Rig("memory", set=SMALL)
        self.rig.tokens.identities["svc"] = Identity("svc", service=True)
        self.rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["news", "sport"]})
        self.sender = self.rig.login("svc")
        self.number = 0
        self.logs = {address: Log() for address in LOGS}
        self.logs[BOB].follows = True
        self.peer: Peer | None = None
        self.login()

    def read(self) -> None:
        """Take the frames as a client does: a range must go on where the last one ended."""
        if self.peer is None:
            return
        for frame in self.peer.take():
            if isinstance(frame, Welcome):
                (resumed,) = frame.resumed
                assert not resumed.gap
                log = self.logs[BOB]
                log.epoch, log.at = resumed.epoch, resumed.position
                assert log.acked <= log.at <= log.position
            elif isinstance(frame, Subscribed):
                log = self.logs[frame.address]
                assert not frame.gap
                log.epoch = frame.epoch
                if log.at is not None:  # it was there already: nothing moves
                    continue
                log.at = frame.position
                if not log.follows:
                    log.follows = True
                    log.position = log.acked = log.at
                assert log.acked <= log.at <= log.position, "it may be sent again, never passed over"
            elif isinstance(frame, Unsubscribed):
                self.logs[frame.address] = Log()
            elif isinstance(frame, Deliver):
                log = self.logs[frame.address]
                assert log.at == frame.after, "no hole, no overlap on one link"
                assert not frame.gap
                seqs = [entry.seq for entry in frame.entries]
                assert seqs == list(range(frame.after + 1, frame.upto + 1)), "nothing expires here"
                log.at = frame.upto
                for entry in frame.entries:
                    if entry.seq > log.position:
                        log.shown.append(int(decode_message(entry.message).msg_id))
                log.position = max(log.position, frame.upto)

    @precondition(lambda self: self.peer is None)
    @rule()
    def login(self) -> None:
        for log in self.logs.values():
            log.at = None
        self.peer = self.rig.login("bob")
        self.read()

    @rule()
    def login_over_a_living_link(self) -> None:
        self.read()
        self.peer = None
        self.login()

    @precondition(lambda self: self.peer is not None)
    @rule()
    def cut(self) -> None:
        assert self.peer is not None
        self.read()
        self.peer.cut()
        self.peer = None

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule(address=st.sampled_from(TOPICS), named=st.booleans())
    def subscribe(self, address: Address, named: bool) -> None:
        assert self.peer is not None
        self.read()
        log = self.logs[address]
        if named and log.follows and log.at is None:
            self.peer.send(Subscribe(address, epoch=log.epoch, seq=log.position))
            log.acked = log.position
        else:
            self.peer.send(Subscribe(address))
        self.read()

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule(address=st.sampled_from(TOPICS))
    def unsubscribe(self, address: Address) -> None:
        assert self.peer is not None
        self.read()
        self.peer.send(Unsubscribe(address))
        self.read()

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule(address=st.sampled_from(LOGS), data=st.data())
    def ack(self, address: Address, data: Any) -> None:
        self.read()
        log = self.logs[address]
        if log.at is not None:
            self.take(address, data.draw(st.integers(min(log.acked, log.at), log.at)))

    def take(self, address: Address, upto: int) -> None:
        assert self.peer is not None
        log = self.logs[address]
        log.acked = max(log.acked, upto)
        self.peer.send(DeliverAck((Acked(address, log.epoch, upto),)))
        self.read()

    @precondition(lambda self: self.peer is not None and self.peer.client.reading)
    @rule()
    def catch_up(self) -> None:
        """Who acknowledges all that it gets is shown everything, without waiting for a newer message."""
        self.read()
        while any(log.at is not None and log.shown != log.due for log in self.logs.values()):
            before = [len(log.shown) for log in self.logs.values()]
            for address, log in self.logs.items():
                if log.at is not None:
                    self.take(address, log.at)
            assert [len(log.shown) for log in self.logs.values()] != before, "it got stuck"

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

    @rule(
        to=st.lists(st.sampled_from(LOGS), min_size=1, max_size=3, unique=True),
        count=st.integers(1, 7),
        size=st.sampled_from([0, 100, 1500]),
    )
    def publish(self, to: list[Address], count: int, size: int) -> None:
        ids = range(self.number + 1, self.number + count + 1)
        self.number += count
        for address in to:
            if self.logs[address].follows:
                self.logs[address].due += ids
        self.sender.together(*[Publish(str(n), tuple(to), body=b"x" * size) for n in ids])
        self.read()

    @invariant()
    def nothing_is_lost_or_repeated(self) -> None:
        for log in self.logs.values():
            assert log.shown == log.due[: len(log.shown)]
            assert len(log.shown) <= len(log.due)

    @invariant()
    def the_window_is_kept(self) -> None:
        session = self.rig.session("bob")
        if session is not None:
            sums = sum(one.entries for one in session.cursors()), sum(one.bytes for one in session.cursors())
            assert sums[0] <= WINDOW
            if session.follows is not None:
                assert (session.follows.entries, session.follows.bytes) == sums

    def teardown(self) -> None:
        if self.peer is None:
            self.login()
        self.read_on()
        for address in TOPICS:
            self.subscribe(address, False)
        self.catch_up()
        self.nothing_is_lost_or_repeated()


TestFollower = Follower.TestCase
TestFollower.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
