"""Message ids from packet ids: new ones for what is new, old ones for what is repeated, over any crash."""

from __future__ import annotations

from itertools import count
from zlib import crc32

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from imgateway.protocols.mqtt.minting import KEPT, RUN, Mint

TOPIC = b"user/bob"


class Kept:
    """A mint whose runs are written down whenever it says so, as the session's record is."""

    def __init__(self) -> None:
        names = count(1)
        self.draw = lambda: f"n{next(names)}-"
        self.mint = Mint("", (), self.draw)
        self.written: tuple[str, tuple[tuple[int, int, int], ...]] = ("", ())
        self.writes = 0

    def crash(self) -> None:
        """Or another connection: what was not written is gone."""
        name, runs = self.written
        self.mint = Mint(name, runs, self.draw)

    def fresh(self, packet_id: int, body: bytes = b"x") -> str:
        return self._noted(self.mint.fresh(packet_id, crc32(body, crc32(TOPIC))))

    def again(self, packet_id: int, body: bytes = b"x") -> str:
        return self._noted(self.mint.again(packet_id, crc32(body, crc32(TOPIC))))

    def _noted(self, made: tuple[str, bool]) -> str:
        msg_id, begun = made
        if begun:
            self.written = (self.mint.name, self.mint.runs)
            self.writes += 1
        assert len(msg_id) <= 64
        return msg_id


def test_a_repeat_gets_the_same_id() -> None:
    kept = Kept()
    first = kept.fresh(1)
    assert kept.again(1) == first
    kept.crash()
    assert kept.again(1) == first


def test_what_is_new_gets_a_new_one_though_all_is_as_before() -> None:
    kept = Kept()
    ids = {kept.fresh(1) for _ in range(10)}
    for _ in range(10):
        kept.crash()
        ids.add(kept.fresh(1))
    assert len(ids) == 20


def test_a_client_that_counts_costs_a_write_in_64() -> None:
    kept = Kept()
    ids = [kept.fresh(number % 65_535 + 1) for number in range(70_000)]
    assert len(set(ids)) == 70_000
    assert kept.writes <= 70_000 // RUN + 3
    kept.crash()
    assert [kept.again(number % 65_535 + 1) for number in range(69_936, 70_000)] == ids[-64:]
    assert len(kept.mint.runs) < 5


def test_a_client_that_uses_the_same_ones_costs_a_write_each_and_is_remembered() -> None:
    kept = Kept()
    ids = [kept.fresh(number % 4 + 1, b"%d" % number) for number in range(400)]
    assert len(set(ids)) == 400
    assert kept.writes > 300
    kept.crash()
    assert [kept.again(number % 4 + 1, b"%d" % number) for number in range(396, 400)] == ids[-4:]
    assert len(kept.mint.runs) <= 5


def test_the_64_newest_are_remembered_whatever_their_order() -> None:
    kept = Kept()
    numbers = [number * 7919 % 65_535 + 1 for number in range(200)]
    ids = [kept.fresh(number) for number in numbers]
    kept.crash()
    assert [kept.again(number) for number in numbers[-KEPT:]] == ids[-KEPT:]
    assert len(kept.mint.runs) == KEPT


def test_a_repeat_of_what_never_arrived_is_new() -> None:
    kept = Kept()
    taken = kept.fresh(1, b"arrived")
    kept.crash()
    lost = kept.again(1, b"was lost on its way")
    assert lost != taken
    assert kept.again(1, b"was lost on its way") == lost
    unknown = kept.again(30_000)
    kept.crash()
    assert kept.again(30_000) == unknown


def test_a_client_that_comes_for_one_message_at_a_time() -> None:
    kept = Kept()
    ids = []
    for packet_id in range(1, 100):
        kept.crash()
        ids.append(kept.fresh(packet_id))
        assert kept.again(packet_id) == ids[-1]
        kept.crash()
        assert kept.again(packet_id) == ids[-1]
        if packet_id > 10:
            assert kept.again(packet_id - 5) == ids[-6]
    assert len(set(ids)) == len(ids)


def test_a_client_that_goes_on_before_it_repeats() -> None:
    """And repeats again over a third connection: what is counted on for new ones is not taken for used."""
    kept = Kept()
    taken = kept.fresh(5, b"five")
    kept.crash()
    new = kept.fresh(3, b"three")
    assert kept.again(5, b"five") == taken
    assert kept.again(5, b"five") == taken
    writes = kept.writes
    kept.fresh(4)
    assert kept.writes == writes, "the rest of the run goes on"
    kept.crash()
    assert kept.again(5, b"five") == taken
    assert kept.again(3, b"three") == new


def test_a_client_that_has_gone_on_beyond_what_it_repeats() -> None:
    kept = Kept()
    old = [kept.fresh(packet_id) for packet_id in (5, 6, 9)]
    kept.crash()
    new = {packet_id: kept.fresh(packet_id, b"new") for packet_id in (3, 7, 8)}
    new[500] = kept.fresh(500, b"new")  # another run: the one before is cut as well
    for _ in range(3):
        assert [kept.again(packet_id) for packet_id in (9, 6, 5)] == [old[2], old[1], old[0]]
        assert {packet_id: kept.again(packet_id, b"new") for packet_id in new} == new
        kept.crash()
    assert kept.fresh(10) not in {*old, *new.values()}


class Repeats(RuleBasedStateMachine):
    """A client that keeps MQTT's rules, a gateway that crashes: each message has one id, and no two the
    same."""

    flying = Bundle("flying")

    @initialize()
    def begin(self) -> None:
        self.kept = Kept()
        self.ids: dict[int, str] = {}
        self.seen: set[str] = set()
        self.used: dict[int, int] = {}
        self.owed: list[int] = []
        self.number = 0
        self.position = 0

    @rule(target=flying, jump=st.sampled_from([0, 0, 0, 0, 5, 1_000, 65_500]))
    def publish(self, jump: int) -> object:
        if len(self.used) >= 20:
            return multiple()
        self.position += jump
        while True:
            packet_id = self.position % 65_535 + 1
            self.position += 1
            if packet_id not in self.used:
                break
        self.number += 1
        msg_id = self.kept.fresh(packet_id)
        assert msg_id not in self.seen
        self.seen.add(msg_id)
        self.ids[self.number] = msg_id
        self.used[packet_id] = self.number
        return packet_id

    @rule(packet_id=flying)
    def repeat(self, packet_id: int) -> None:
        if packet_id in self.used:
            self.owed = [one for one in self.owed if one != packet_id]
            assert self.kept.again(packet_id) == self.ids[self.used[packet_id]]

    @rule(packet_id=consumes(flying))
    def done(self, packet_id: int) -> None:
        self.repeat(packet_id)
        self.used.pop(packet_id, None)

    @rule()
    def count_from_the_start(self) -> None:
        self.position = 0

    @rule(at_once=st.booleans())
    def crash(self, at_once: bool) -> None:
        """`at_once`: it repeats before it goes on; else in its own time, but before it is lost again."""
        self.repeat_the_rest()
        self.kept.crash()
        self.owed = sorted(self.used, key=self.used.__getitem__)
        if at_once:
            self.repeat_the_rest()

    def repeat_the_rest(self) -> None:
        for packet_id in self.owed:
            self.repeat(packet_id)


TestRepeats = Repeats.TestCase
