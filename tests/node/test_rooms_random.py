"""Whatever happens in whatever order: each member shows, or is told to have missed, everything once, in
order; and who came and left is told once."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from imgateway.client.asking import Asking
from imgateway.client.inbox import Inbox
from imgateway.client.pace import Pace
from imgateway.client.values import Gap, Received
from imgateway.frames import (
    Address,
    Deliver,
    Frame,
    LogKey,
    Mode,
    Notify,
    Publish,
    Refused,
    ResumePoint,
    SessionKey,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    parse_address,
)
from imgateway.frames import Resumed as ResumedPoint
from imgateway.wire.messages import decode_message
from tests.node.rig import Diary, Peer, Rig

ROOMS = [parse_address(f"room:games.{n}") for n in range(3)]
RINGS = [*ROOMS, parse_address("area:games"), parse_address("all")]
CLASSES = ("games.0: tick=0ms entries=8", "games.1: tick=50ms entries=40 notify_above=3", "*: entries=20")


class Reader:
    """A client: the real inbox, and what it showed since it began to follow each log."""

    def __init__(self, rig: Rig, user: str) -> None:
        self.rig = rig
        self.user = user
        self.inbox = Inbox(decode_message)
        self.asking = Asking(rig.clock, rig.clock.seconds, Pace(0))
        self.peer: Peer | None = None
        self.modes: dict[Address, Mode] = {}
        self.shown: dict[LogKey, list[Any]] = {}
        self.begun: dict[LogKey, int] = {}

    def connect(self) -> None:
        self.peer = self.rig.login(self.user, resume=self.inbox.ring_points(self.modes))
        link: Any = self
        self.asking.down()
        self.asking.up(link)
        self.work()

    def send(self, frame: Frame) -> bool:
        assert self.peer is not None
        self.peer.client.send(self.peer.codec.encode(frame) or b"")
        return True

    def work(self) -> None:
        """Take what came, answer it, and go on until nothing comes."""
        while self.peer is not None and self.peer.frames:
            for frame in self.peer.take():
                self.take(frame)
            self.show()
            self.rig.settle()

    def take(self, frame: Frame) -> None:
        if isinstance(frame, Welcome):
            rings = frame.resumed[1:]
            self.inbox.linked(rings)
            for point in rings:
                self.begun.setdefault(LogKey(point.address, point.lane), point.position)
            for address, mode in self.modes.items():
                if address not in {point.address for point in rings}:
                    self.subscribe(address, mode)
        elif isinstance(frame, Subscribed):
            if frame.address in self.modes:
                log = LogKey(frame.address, frame.lane)
                self.begun.setdefault(log, frame.position)
                point = ResumedPoint(
                    frame.address, frame.lane, frame.epoch, frame.position, frame.head, frame.gap
                )
                self.inbox.resumed(point)
        elif isinstance(frame, Deliver):
            if frame.address.kind != "room" or frame.address in self.modes:
                self.begun.setdefault(LogKey(frame.address, frame.lane), frame.after)
                if frame.pulled:
                    pull = self.inbox.answered(frame, self.asking.pulled(frame))
                else:
                    pull = self.inbox.deliver(frame)
                if pull is not None:
                    self.asking.catch_up(pull)
        elif isinstance(frame, Notify):
            for told in frame.heads:
                log = LogKey(told.address, told.lane)
                if (told.address.kind != "room" or told.address in self.modes) and self.inbox.told(
                    log, told.epoch, told.head, told.after
                ):
                    assert told.after is not None
                    self.begun.setdefault(log, told.after)
                    pull = self.inbox.catch_up(log)
                    if pull is not None:
                        self.asking.catch_up(pull)
        elif isinstance(frame, Unsubscribed):
            self.forget(frame.address)
        else:
            assert not isinstance(frame, Refused), frame

    def show(self) -> None:
        while (item := self.inbox.next()) is not None:
            self.inbox.take(item)
            what = item.what
            if isinstance(what, Received):
                self.shown.setdefault(LogKey(what.address, what.lane), []).append(what.seq)
            elif isinstance(what, Gap):
                self.shown.setdefault(LogKey(what.address, what.lane), []).append((what.after, what.upto))

    def subscribe(self, address: Address, mode: Mode) -> None:
        assert self.peer is not None
        self.modes[address] = mode
        for lane in (0, 1):
            position = self.inbox.position(LogKey(address, lane))
            self.send(Subscribe(address, mode, lane, *position))

    def unsubscribe(self, address: Address) -> None:
        assert self.peer is not None
        self.forget(address)
        self.peer.send(Unsubscribe(address))

    def forget(self, address: Address) -> None:
        self.modes.pop(address, None)
        self.inbox.forget(address)
        for table in (self.shown, self.begun):
            for lane in (0, 1):
                table.pop(LogKey(address, lane), None)
        if not self.modes:
            self.inbox.forget_areas()
            for lane in (0, 1):
                for table in (self.shown, self.begun):
                    table.pop(LogKey(RINGS[3], lane), None)

    def check(self, published: dict[LogKey, list[int]]) -> int:
        """Everything was shown or told to be missing, once, in order. How much was there to show."""
        expected = 0
        for log, begun in self.begun.items():
            shown = self.shown.get(log, [])
            seqs = [one for one in shown if isinstance(one, int)]
            gaps = [one for one in shown if isinstance(one, tuple)]
            assert all(x < y for x, y in pairwise(seqs)), (self.user, log, "twice, or not in order", shown)
            mine = [seq for seq in published[log] if seq > begun]
            lost = [
                seq
                for seq in mine
                if seq not in seqs and not any(after < seq <= upto for after, upto in gaps)
            ]
            assert not lost, (self.user, log, "neither shown nor told", lost, shown, begun)
            expected += len(mine)
        return expected


@pytest.mark.parametrize("seed", range(40))
def test_everything_once_or_told(seed: int) -> None:
    random = Random(seed)
    rig = Rig(
        "memory",
        set={"rooms.classes": CLASSES, "rooms.rate": 0.0, "quota.subscribe_rate": 0.0},
    )
    readers = [Reader(rig, f"u{n}") for n in range(5)]
    published: dict[LogKey, list[int]] = {LogKey(address, lane): [] for address in RINGS for lane in (0, 1)}
    number = 0

    def note(outcomes: Any, seqs: list[int]) -> None:
        seqs.append(outcomes[0].seq)

    def publish() -> None:
        nonlocal number
        for _ in range(random.choice((1, 1, 2, 5, 30))):
            number += 1
            address, lane = random.choice(RINGS), int(random.random() < 0.2)
            asked = rig.node.publish(Publish(str(number), (address,), lane=lane, body=b"x" * 50), "svc")
            asked.addCallback(note, published[LogKey(address, lane)])

    for _ in range(120):
        reader = random.choice(readers)
        action = random.random()
        peer = reader.peer
        if action < 0.45:
            publish()
        elif peer is None:
            reader.connect()
        elif action < 0.6:
            reader.subscribe(random.choice(ROOMS), random.choice((Mode.PUSH, Mode.PUSH, Mode.NOTIFY)))
        elif action < 0.65 and reader.modes:
            peer.read_on()
            reader.work()
            if reader.modes:
                reader.unsubscribe(random.choice(list(reader.modes)))
        elif action < 0.75:
            peer.client.reading = not peer.client.reading
        elif action < 0.82:
            peer.cut()
            reader.peer = None
        else:
            rig.pass_ms(random.choice((1, 20, 50, 300)))
        if random.random() < 0.7:
            rig.settle()
            for one in readers:
                one.work()
    for reader in readers:
        if reader.peer is None:
            reader.connect()
        reader.peer.client.reading = True  # type: ignore[union-attr]
    for _ in range(30):
        rig.advance(1)
        for reader in readers:
            reader.work()
    total = sum(reader.check(published) for reader in readers)
    assert total > 50
    assert not any(audience.lags for audience in rig.hub.rooms.audiences.values())


def test_who_came_and_left_is_told_once_over_ten_thousand_steps() -> None:
    random = Random(7)
    diary = Diary()
    rig = Rig("memory", listeners=[diary], set={"quota.subscribe_rate": 0.0, "session.linger_s": 3.0})
    users = [f"u{n}" for n in range(12)]
    peers: dict[str, Peer | None] = dict.fromkeys(users)
    named: dict[str, set[Address]] = {user: set() for user in users}
    events: list[tuple[str, SessionKey, Address]] = []
    rig.hub.entered = lambda session, address: events.append(("entered", session, address))  # type: ignore[method-assign]
    rig.hub.left = lambda session, address: events.append(("left", session, address))  # type: ignore[method-assign]
    for _ in range(10_000):
        user = random.choice(users)
        peer, room = peers[user], random.choice(ROOMS)
        action = random.random()
        if peer is not None and peer.gone is not None:
            peer = peers[user] = None
        if peer is None:
            if action < 0.7:
                names = named[user] if action < 0.5 else set()
                named[user] = set(names)
                peers[user] = rig.login(user, resume=tuple(ResumePoint(one) for one in names))
            else:
                rig.advance(0.25)
        elif action < 0.35:
            named[user].add(room)
            peer.send(Subscribe(room))
        elif action < 0.6:
            named[user].discard(room)
            peer.send(Unsubscribe(room))
        elif action < 0.8:
            peer.cut()
            peers[user] = None
        elif action < 0.82:
            rig.node.kick(user, None, "enough")
            named[user] = set()
        elif action < 0.9:
            rig.advance(random.choice((0.25, 1.0)))
        else:
            rig.node.publish(Publish(str(random.random()), (room,)), "svc")
            rig.settle()
    for peer in peers.values():
        if peer is not None:
            peer.cut()
    rig.advance(10)
    inside: set[tuple[SessionKey, Address]] = set()
    for what, session, room in events:
        if what == "entered":
            assert (session, room) not in inside
            inside.add((session, room))
        else:
            inside.remove((session, room))
    assert not inside
    assert len(events) > 1_000
    assert [address for address in rig.hub.rooms.audiences if address.kind != "all"] == []
