"""A cursor between a log that grows and a receiver that stalls: nothing twice, nothing missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from imgateway.core import cursor as module
from imgateway.core.cursor import Cursor, State, Step
from tests.tables import rows

WINDOW = 8
BATCH = 5
SIZE = 10


class Follower(RuleBasedStateMachine):
    """A log, the broker's word of it (in order, but late, repeated or only a hint), one cursor that is moved
    as a node moves it, and the receiver at the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.head = 3
        self.cursor = Cursor(epoch=1, position=0, acked=0, head=self.head)
        self.clogged = False  # the link has unsent bytes
        self.told: list[tuple[int, int]] = []  # what the broker has not told yet
        self.past: list[tuple[int, int]] = []
        self.asked = False  # a read is on its way …
        self.answer: tuple[int, int] | None = None  # … and its answer is
        self.batches: list[tuple[int, int]] = []
        self.position = 0
        self.shown: list[int] = []
        self.sent: list[tuple[int, int, int, float]] = []  # upto, entries, bytes, when
        self.acked = 0
        self.clock = 0.0

    # ---- the node's part

    def visible(self, after: int, upto: int) -> list[int]:
        return [seq for seq in range(after + 1, upto + 1) if seq % 4]  # every fourth is not for this device

    def hand_over(self, after: int, upto: int, quiet: bool) -> None:
        cursor = self.cursor
        entries = self.visible(after, upto)
        assert after == self.position, "a range that does not follow the one before"
        assert upto > after
        self.position = upto
        self.shown += entries
        if quiet and not entries:
            cursor.passed(upto)
            return
        self.clock += 1
        cursor.send(upto, len(entries), len(entries) * SIZE, self.clock)
        self.sent.append((upto, len(entries), len(entries) * SIZE, self.clock))
        if cursor.entries >= WINDOW:
            cursor.clog()

    def follow(self, step: Step) -> None:
        if step is Step.READ:
            assert self.cursor.state is State.READING
            self.asked = True

    def has_room(self) -> bool:
        return not self.clogged and self.cursor.entries * 2 <= WINDOW

    # ---- the log's part

    @rule(count=st.integers(1, 6))
    def commit(self, count: int) -> None:
        self.told.append((self.head, self.head + count))
        self.head += count

    @precondition(lambda self: self.told)
    @rule(hint=st.booleans(), quiet=st.booleans())
    def tell(self, hint: bool, quiet: bool) -> None:
        after, upto = self.told.pop(0)
        self.past.append((after, upto))
        if hint:
            step = self.cursor.moved(upto)
            assert step is not Step.SEND
            self.follow(step)
        else:
            self.arrive(after, upto, quiet)

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def tell_again(self, data: st.DataObject) -> None:
        after, upto = data.draw(st.sampled_from(self.past[-5:]))
        self.arrive(after, upto, False)

    def arrive(self, after: int, upto: int, quiet: bool) -> None:
        step = self.cursor.arrived(after, upto)
        if step is Step.SEND and self.cursor.entries + upto - after > WINDOW:
            step = self.cursor.overflow(upto, WINDOW)
            assert step is not Step.SEND
        if step is Step.SEND:
            self.hand_over(after, upto, quiet)
        self.follow(step)

    @precondition(lambda self: self.asked and self.answer is None)
    @rule(limit=st.integers(1, BATCH))
    def read(self, limit: int) -> None:
        after = self.cursor.sent
        self.answer = (after, min(after + limit, self.head))

    @precondition(lambda self: self.answer is not None)
    @rule(quiet=st.booleans())
    def come_back(self, quiet: bool) -> None:
        assert self.answer is not None
        self.asked = False
        self.batches.append(self.answer)
        self.answer = None
        self.take(self.batches[-1], quiet)
        if self.cursor.state is State.READING:
            self.asked = True

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def come_back_late(self, data: st.DataObject) -> None:
        self.take(data.draw(st.sampled_from(self.batches[-5:])), False)

    def take(self, batch: tuple[int, int], quiet: bool) -> None:
        after, upto = batch
        step = self.cursor.read(after)
        assert step is not Step.READ
        if step is Step.SEND and upto > after:
            self.hand_over(after, upto, quiet)

    # ---- the receiver's part

    @rule()
    def clog(self) -> None:
        self.clogged = True
        self.cursor.clog()

    @rule()
    def unclog(self) -> None:
        self.clogged = False
        if self.has_room():
            self.follow(self.cursor.unclog())

    @rule(share=st.floats(0, 1))
    def ack(self, share: float) -> None:
        upto = int(self.position * share)
        assert self.cursor.ack(upto)
        self.acked = max(self.acked, upto)
        if self.has_room():
            self.follow(self.cursor.unclog())

    @rule(beyond=st.integers(1, 50))
    def ack_what_was_not_sent(self, beyond: int) -> None:
        assert not self.cursor.ack(self.cursor.sent + beyond)

    # ---- what holds

    @invariant()
    def the_window_is_what_is_unacknowledged(self) -> None:
        flying = [flight for flight in self.sent if flight[0] > self.acked]
        assert self.cursor.entries == sum(flight[1] for flight in flying)
        assert self.cursor.bytes == sum(flight[2] for flight in flying)
        assert self.cursor.unacked_since() == (flying[0][3] if flying else None)

    @invariant()
    def the_window_is_bounded(self) -> None:
        assert self.cursor.entries <= WINDOW + BATCH

    @invariant()
    def positions_are_in_order(self) -> None:
        cursor = self.cursor
        assert self.acked <= cursor.acked <= cursor.sent == self.position <= cursor.head <= self.head
        assert cursor.state is not State.LIVE or cursor.sent == cursor.head

    @invariant()
    def who_is_behind_and_writable_is_being_read_for(self) -> None:
        assert self.asked or self.cursor.state is not State.READING

    @invariant()
    def nothing_is_shown_twice_or_left_out(self) -> None:
        assert self.shown == self.visible(0, self.position)

    def teardown(self) -> None:
        while self.told:
            self.tell(hint=False, quiet=False)
        self.unclog()
        for _ in range(self.head + 10):
            if self.asked:
                if self.answer is None:
                    self.read(BATCH)
                self.come_back(False)
            self.ack(1.0)
        assert self.position == self.head
        assert self.cursor.state is State.LIVE
        assert (self.cursor.entries, self.cursor.bytes) == (0, 0)
        assert self.cursor.unacked_since() is None
        self.nothing_is_shown_twice_or_left_out()


TestFollower = Follower.TestCase
TestFollower.settings = settings(max_examples=150, stateful_step_count=40, derandomize=True, deadline=None)


# ------------------------------------------------------------------------------------------- the table itself


def at(state: State, sent: int = 10, head: int = 10, entries: int = 0) -> Cursor:
    cursor = Cursor(1, sent, sent, head)
    cursor.entries = entries
    cursor.state = state
    return cursor


def nothing(call: Callable[[], None]) -> str:
    call()
    return "–"


BEHIND = 20
"""A head that a cursor which has sent 10 has not reached."""

Case = tuple[Cursor, Callable[[Cursor], object]]

CASES: dict[tuple[str, str, str], list[Case]] = {
    ("LIVE", "arrived", "it begins where `sent` is"): [(at(State.LIVE), lambda c: c.arrived(10, 13))],
    ("LIVE", "arrived", "it ends at or before `sent`"): [
        (at(State.LIVE), lambda c: c.arrived(7, 10)),
        (at(State.LIVE), lambda c: c.arrived(7, 9)),
    ],
    ("LIVE", "arrived", "there is a hole between"): [
        (at(State.LIVE), lambda c: c.arrived(11, 12)),
        (at(State.LIVE), lambda c: c.arrived(8, 12)),  # half of it is known: read what is not
    ],
    ("LIVE", "moved", "`sent` < head afterwards"): [(at(State.LIVE), lambda c: c.moved(11))],
    ("LIVE", "moved", "`sent` = head afterwards"): [
        (at(State.LIVE), lambda c: c.moved(10)),
        (at(State.LIVE), lambda c: c.moved(3)),
    ],
    ("LIVE", "overflow", "half of the window or more is free"): [
        (at(State.LIVE, entries=4), lambda c: c.overflow(19, 8)),
        (at(State.LIVE, entries=0), lambda c: c.overflow(19, 8)),
    ],
    ("LIVE", "overflow", "less is free"): [(at(State.LIVE, entries=5), lambda c: c.overflow(19, 8))],
    ("READING", "arrived", "any (the head rises)"): [
        (at(State.READING, head=BEHIND), lambda c: c.arrived(10, 21)),
        (at(State.READING, head=BEHIND), lambda c: c.arrived(20, 21)),
        (at(State.READING, head=BEHIND), lambda c: c.arrived(1, 2)),
    ],
    ("READING", "moved", "any (the head rises)"): [
        (at(State.READING, head=BEHIND), lambda c: c.moved(21)),
        (at(State.READING, head=BEHIND), lambda c: c.moved(2)),
    ],
    ("READING", "read", "it begins where `sent` is"): [
        (at(State.READING, head=BEHIND), lambda c: c.read(10))
    ],
    ("READING", "read", "it begins elsewhere"): [
        (at(State.READING, head=BEHIND), lambda c: c.read(9)),
        (at(State.READING, head=BEHIND), lambda c: c.read(11)),
    ],
    ("READING", "send", "`sent` < head afterwards"): [
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.send(19, 1, 1, 0.0)))
    ],
    ("READING", "send", "`sent` = head afterwards"): [
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.send(20, 1, 1, 0.0))),
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.send(25, 1, 1, 0.0))),
    ],
    ("READING", "passed", "`sent` < head afterwards"): [
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.passed(19)))
    ],
    ("READING", "passed", "`sent` = head afterwards"): [
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.passed(20))),
        (at(State.READING, head=BEHIND), lambda c: nothing(lambda: c.passed(25))),
    ],
    ("CLOGGED", "arrived", "any (the head rises)"): [
        (at(State.CLOGGED), lambda c: c.arrived(10, 21)),
        (at(State.CLOGGED, head=BEHIND), lambda c: c.arrived(20, 21)),
        (at(State.CLOGGED), lambda c: c.arrived(1, 2)),
    ],
    ("CLOGGED", "moved", "any (the head rises)"): [(at(State.CLOGGED), lambda c: c.moved(21))],
    ("CLOGGED", "read", "any (it will be read again)"): [
        (at(State.CLOGGED, head=BEHIND), lambda c: c.read(10)),
        (at(State.CLOGGED, head=BEHIND), lambda c: c.read(5)),
    ],
    ("CLOGGED", "unclog", "`sent` < head"): [(at(State.CLOGGED, head=BEHIND), lambda c: c.unclog())],
    ("CLOGGED", "unclog", "`sent` = head"): [(at(State.CLOGGED), lambda c: c.unclog())],
    ("any", "clog", "any"): [(at(state), lambda c: nothing(c.clog)) for state in State],
}

TABLE = rows(module.__doc__)


def test_every_row_is_tried_and_every_trial_is_a_row() -> None:
    assert [(state, event, when) for state, event, when, _, _ in TABLE] == list(CASES)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: "-".join(row[:3]))
def test_the_table_is_what_happens(row: tuple[str, ...]) -> None:
    state, event, when, follows, step = row
    for cursor, act in CASES[state, event, when]:
        assert state in ("any", cursor.state.name)
        before = cursor.head
        answer = act(cursor)
        assert cursor.state.name == follows
        assert (answer.name if isinstance(answer, Step) else answer) == step
        assert cursor.head >= before


def test_the_head_rises_and_never_falls() -> None:
    live = at(State.LIVE)
    assert live.arrived(11, 14) is Step.READ
    assert live.head == 14
    for state in (State.READING, State.CLOGGED):
        cursor = at(state, head=BEHIND)
        cursor.arrived(20, 24)
        assert cursor.head == 24
        cursor.moved(22)
        assert cursor.head == 24


def test_who_is_not_clogged_is_not_unclogged() -> None:
    for state in (State.LIVE, State.READING):
        cursor = at(state, head=10 if state is State.LIVE else BEHIND)
        assert cursor.unclog() is Step.HOLD
        assert cursor.state is state


def test_a_cursor_begins_live_at_the_head_and_clogged_behind_it() -> None:
    assert Cursor(1, 5, 5, 5).state is State.LIVE
    behind = Cursor(1, 4, 4, 5)
    assert behind.state is State.CLOGGED
    assert behind.unclog() is Step.READ


def test_what_is_sent_in_pieces_stays_clogged_when_the_window_fills_on_the_way() -> None:
    cursor = Cursor(1, 0, 0, 0)
    cursor.send(1, 1, SIZE, 0.0)
    cursor.clog()
    cursor.send(2, 1, SIZE, 0.0)
    assert (cursor.state, cursor.sent, cursor.head) == (State.CLOGGED, 2, 2)


def test_an_ack_inside_a_flight_frees_nothing_until_the_flight_is_whole() -> None:
    cursor = Cursor(1, 0, 0, 0)
    cursor.send(5, 5, 50, 1.0)
    cursor.send(9, 4, 40, 2.0)
    assert cursor.ack(4)
    assert (cursor.acked, cursor.entries, cursor.bytes, cursor.unacked_since()) == (4, 9, 90, 1.0)
    assert cursor.ack(5)
    assert (cursor.acked, cursor.entries, cursor.bytes, cursor.unacked_since()) == (5, 4, 40, 2.0)
    assert cursor.ack(2), "an older ack is no mistake"
    assert cursor.acked == 5
    assert not cursor.ack(10)
    assert cursor.ack(9)
    assert (cursor.acked, cursor.entries, cursor.bytes, cursor.unacked_since()) == (9, 0, 0, None)


def test_an_empty_range_is_acknowledged_like_any_other() -> None:
    cursor = Cursor(1, 0, 0, 0)
    cursor.send(7, 0, 12, 3.0)
    assert (cursor.entries, cursor.bytes, cursor.unacked_since()) == (0, 12, 3.0)
    assert cursor.ack(7)
    assert (cursor.bytes, cursor.unacked_since()) == (0, None)


def test_what_is_passed_counts_as_acknowledged_only_when_nothing_before_it_flies() -> None:
    cursor = Cursor(1, 0, 0, 0)
    cursor.passed(3)
    assert (cursor.sent, cursor.acked, cursor.head) == (3, 3, 3)
    cursor.send(5, 2, 20, 0.0)
    cursor.passed(8)
    assert (cursor.sent, cursor.acked) == (8, 3)
    assert cursor.ack(5)
    assert cursor.acked == 5
    cursor.passed(8)
    assert cursor.acked == 8
    cursor.passed(8)
    assert cursor.acked == 8


def test_an_idle_cursor_keeps_no_queue() -> None:
    cursor = Cursor(1, 0, 0, 0)
    assert not hasattr(cursor, "__dict__")
    assert cursor._flights is None
    cursor.send(1, 1, 1, 0.0)
    cursor.ack(1)
    assert cursor._flights is None
