"""A long random life over each wire, held against a model of what every device must have seen.

Links are cut and fall silent, readers stop, acknowledgements are held back, messages repeated, positions
named or left to the gateway, bytes come in odd pieces. Each device's shown seqs rise, continue each other,
and in the end are exactly what was acknowledged to the publishers as being in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from imgateway.frames import Deliver, Hello, Outcome, OutcomeCode, PublishAck, Welcome
from tests.conformance.house import Client, House, message_of, publication, settings
from tests.conformance.wires import WIRES, Wire

Build = Callable[..., House]
LIMITS = {"deliver_window_entries": 6, "deliver_window_bytes": 3_000, "publish_window": 8}


class Reader:
    """One device of bob's, and all that it knows."""

    def __init__(self, house: House, device: str, random: Random) -> None:
        self.house = house
        self.device = device
        self.random = random
        self.shown: dict[int, str] = {}
        self.position = 0
        self.client: Any = None
        self.last: Deliver | None = None

    def connect(self, wire: Wire, named: bool = True) -> None:
        old, self.last = self.client, None
        resume = old.at(self.position) if old is not None and named else ()
        self.client = self.house.connect(wire)
        self.client = login(self.client, "bob", self.device, resume)
        start = self.client.mailbox()
        assert not start.gap
        if resume:
            assert start.position == self.position
        else:  # what it did not acknowledge comes again
            assert start.position <= self.position
            self.shown = {seq: text for seq, text in self.shown.items() if seq <= start.position}
            self.position = start.position

    def hear(self) -> None:
        for frame in self.client.frames:
            if isinstance(frame, Deliver):
                assert frame.after == self.position, (frame, self.position)
                assert not frame.gap
                for entry in frame.entries:
                    assert self.position < entry.seq <= frame.upto
                    self.shown[entry.seq] = message_of(entry).msg_id
                    self.position = entry.seq
                self.position = frame.upto
                self.last = frame
        self.client.frames.clear()

    def ack(self) -> None:
        if self.last is not None and self.client.gone is None:
            self.client.ack(self.last)
            self.last = None


def login(client: Client, token: str, device: str, resume: Any = ()) -> Client:
    client.send(Hello(token, device, resume=resume))
    client.welcome = client.pick(Welcome)
    return client


class Writer:
    """One publisher that repeats what it does not know the fate of."""

    def __init__(self, house: House, name: str, random: Random) -> None:
        self.house = house
        self.name = name
        self.random = random
        self.client: Any = None
        self.open: dict[str, Any] = {}
        self.settled: dict[str, Outcome] = {}
        self.only_phone: set[str] = set()
        self.count = 0

    def connect(self, wire: Wire) -> None:
        self.client = self.house.login(wire, self.name, "pen")
        for frame in self.open.values():
            self.client.say(publication(frame[0], frame[1], frame[2], resent=True))
        self.house.settle()

    def publish(self) -> None:
        self.count += 1
        to = self.random.choice(["user:bob", "user:bob", "device:bob/phone", "user:bob user:carol"])
        frame = (to, f"{self.name}-{self.count}", b"x" * self.random.randrange(900))
        self.open[frame[1]] = frame
        if to.startswith("device:"):
            self.only_phone.add(frame[1])
        self.client.say(publication(*frame))
        if self.random.random() < 0.1:
            self.client.say(publication(*frame, resent=True))

    def hear(self) -> None:
        for frame in self.client.frames:
            if isinstance(frame, PublishAck):
                outcome = frame.outcomes[0]
                assert outcome.code in (OutcomeCode.OK, OutcomeCode.DUPLICATE)
                if frame.msg_id in self.settled:
                    assert self.settled[frame.msg_id].seq == outcome.seq
                else:
                    self.settled[frame.msg_id] = outcome
                    self.open.pop(frame.msg_id)
        self.client.frames.clear()


@pytest.mark.parametrize("seed", range(6))
def test_a_random_life(build: Build, wire: Wire, seed: int) -> None:
    random = Random(f"{seed} {wire.name}")
    house = build(settings(limits=LIMITS), capacity=random.choice([2_000, 10_000, 262_144]))
    house.network.chunk = random.choice([0, 0, 1, 7, 100])
    readers = [Reader(house, device, random) for device in ("phone", "tablet")]
    writers = [Writer(house, name, random) for name in ("alice", "dan")]
    for one in (*readers, *writers):
        one.connect(wire)
    for _ in range(250):
        reader, writer = random.choice(readers), random.choice(writers)
        what = random.random()
        if what < 0.5:
            writer.publish()
        elif what < 0.6:
            house.settle()
        elif what < 0.66:
            house.network.settle()
        elif what < 0.8:
            reader.hear()
            reader.ack()
        elif what < 0.84:
            reader.hear()
        elif what < 0.87:
            reader.client.connection.pause_reading()
        elif what < 0.9:
            reader.client.connection.resume_reading()
        elif what < 0.94:
            reader.hear()
            random.choice([reader.client.link.cut, reader.client.link.fall_silent])()
            # Any wire may follow any other.
            reader.connect(random.choice([wire, wire, *WIRES]), named=random.random() < 0.7)
        elif what < 0.97:
            writer.hear()
            random.choice([writer.client.link.cut, writer.client.link.fall_silent])()
            writer.connect(wire)
        else:
            house.advance(random.random() * 3)
        for one in (*readers, *writers):
            if one.client.gone is not None:
                one.connect(wire)
    for _ in range(200):
        for reader in readers:
            reader.client.connection.resume_reading()
        house.settle()
        for one in (*readers, *writers):
            one.hear()
        for reader in readers:
            reader.ack()
        total = sum(len(writer.settled) for writer in writers)
        if not any(writer.open for writer in writers) and {one.position for one in readers} == {total}:
            break
        house.advance(0.25)

    log: dict[int, tuple[str, str]] = {}
    for writer in writers:
        assert not writer.open
        for msg_id, outcome in writer.settled.items():
            assert outcome.seq not in log
            log[outcome.seq] = (msg_id, writer.name)
    assert sorted(log) == list(range(1, len(log) + 1))
    for writer in writers:  # each one's own order
        mine = [int(msg_id.split("-")[1]) for _, (msg_id, name) in sorted(log.items()) if name == writer.name]
        assert mine == sorted(mine)
    everything = {seq: msg_id for seq, (msg_id, _) in log.items()}
    for_phone = {msg_id for writer in writers for msg_id in writer.only_phone}
    assert readers[0].shown == everything
    assert readers[1].shown == {seq: text for seq, text in everything.items() if text not in for_phone}
    assert readers[0].position == readers[1].position == len(log)
