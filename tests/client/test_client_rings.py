"""Rings in the inbox: blocks, told gaps, Notify, positions; and their property."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from imgateway.client import inbox as inbox_module
from imgateway.client.asking import Asking
from imgateway.client.inbox import MOST_ITEMS, Inbox
from imgateway.client.pace import Pace
from imgateway.client.values import Gap
from imgateway.core.resume import resume_ring
from imgateway.core.ring import Ring, RingLimits
from imgateway.errors import LinkLost
from imgateway.frames import Deliver, Entry, LogKey, Mode, Pull, Resumed, ResumePoint, parse_address
from imgateway.wire.messages import decode_message
from tests.client.fake_gateway import EPOCH, ME, ROOM, deliver, entry
from tests.client.test_client_inbox import answer, shown

LOG, GIFTS = LogKey(ROOM), LogKey(ROOM, 1)


def block(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    return deliver(after, upto, seqs, **{"address": ROOM, **more})


def part(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    """Of an answer."""
    return block(after, upto, seqs, pulled=True, **more)


def room(position: int = 0, lane: int = 0) -> Inbox:
    inbox = Inbox(decode_message)
    inbox.resumed(Resumed(ROOM, lane, EPOCH, position, position))
    return inbox


def test_entries_of_a_block_that_we_have_are_dropped() -> None:
    inbox = room(5)
    assert inbox.deliver(block(0, 8)) is None
    assert inbox.deliver(block(3, 12, [4, 9, 12])) is None
    assert shown(inbox) == [6, 7, 8, 9, 12]
    assert inbox.position(LOG) == (EPOCH, 12)
    assert inbox.acks() == ()


def test_lanes_have_positions_of_their_own() -> None:
    inbox = room(5)
    inbox.resumed(Resumed(ROOM, 1, EPOCH, 7, 7))
    inbox.deliver(block(7, 9, lane=1))
    inbox.deliver(block(5, 6))
    assert shown(inbox) == [8, 9, 6]
    assert (inbox.position(LOG), inbox.position(GIFTS)) == ((EPOCH, 6), (EPOCH, 9))


def test_a_block_from_beyond_with_a_gap_is_taken_and_told_once() -> None:
    inbox = room(5)
    assert inbox.deliver(block(50, 60, [51, 60], gap=True)) is None
    assert shown(inbox) == [(5, 50), 51, 60]


@pytest.mark.parametrize(("after", "left"), [(50, [51, 60]), (60, [])], ids=["some is left", "began anew"])
def test_the_first_block_of_a_log_may_lack_something_before_or_in_it(after: int, left: list[int]) -> None:
    inbox = Inbox(decode_message)
    inbox.deliver(block(after, 60, left, gap=True))
    assert shown(inbox) == [(0, 60), *left]
    assert inbox.position(LOG) == (EPOCH, 60)


def test_a_gap_without_anything_left_moves_the_position() -> None:
    inbox = room(5)
    inbox.deliver(block(50, 50, [], gap=True))
    assert shown(inbox) == [(5, 50)]
    assert inbox.position(LOG) == (EPOCH, 50)


def test_a_hole_is_pulled_and_filled_by_the_block_that_has_it() -> None:
    inbox = room(5)
    pull = inbox.deliver(block(9, 10))
    assert pull == Pull(ROOM, 0, EPOCH, 5, 64)
    assert inbox.deliver(block(5, 7)) is None
    assert inbox._places[LOG].pulling is pull
    assert answer(inbox, pull, part(2, 10)) is None
    assert shown(inbox) == [6, 7, 8, 9, 10]
    assert inbox._places[LOG].pulling is None


def test_an_answer_from_beyond_with_a_gap_tells_what_is_lost() -> None:
    inbox = room(5)
    pull = inbox.deliver(block(69, 70))
    again = answer(inbox, pull, part(30, 64, gap=True))
    assert again == Pull(ROOM, 0, EPOCH, 64, 64)
    assert answer(inbox, again, part(64, 70)) is None
    assert shown(inbox) == [(5, 30), *range(31, 71)]


def test_an_answer_in_parts_is_taken_in_part_by_part() -> None:
    inbox = room(5)
    pull = inbox.deliver(block(9, 10))
    again = answer(inbox, pull, part(4, 7))
    assert again == Pull(ROOM, 0, EPOCH, 7, 64)
    assert inbox.answered(part(7, 8), None) is None
    assert inbox.answered(part(8, 10), None) is None
    assert answer(inbox, again, part(7, 10)) is None
    assert shown(inbox) == [6, 7, 8, 9, 10]


def test_what_the_application_read_and_goes_on_where_we_are_is_taken_in() -> None:
    """The gateway counts it as pulled, and does not tell us of it."""
    inbox = room(5)
    asked = Pull(ROOM, 0, EPOCH, 0)
    for frame in (part(6, 9), part(0, 5), part(0, 9, epoch=8), part(8, 9, gap=True)):
        assert answer(inbox, asked, frame) is None
    assert shown(inbox) == []
    assert answer(inbox, asked, part(3, 7)) is None
    assert shown(inbox) == [6, 7]


@pytest.mark.parametrize(
    ("frame", "pull", "yes"),
    [
        (part(5, 9), Pull(ROOM, after=5), True),
        (part(3, 9), Pull(ROOM, after=5), True),
        (part(3, 5), Pull(ROOM, after=5), False),
        (part(7, 9), Pull(ROOM, after=5), False),
        (part(7, 9, gap=True), Pull(ROOM, after=5), True),
        (part(5, 5), Pull(ROOM, after=5), True),
        (part(7, 9), Pull(ROOM, epoch=8, after=5), True),  # of the ring that there is now
        (part(7, 9), Pull(ROOM, epoch=EPOCH, after=5), False),
        (part(5, 9), Pull(ROOM, lane=1, after=5), False),
        (deliver(3, 9), Pull(ME, after=5), False),  # a durable log answers from just there
        (deliver(5, 9), Pull(ME, epoch=8, after=5), True),
        (deliver(5, 9), Pull(parse_address("user:bob"), after=5), False),
    ],
)
def test_which_pull_is_answered(frame: Deliver, pull: Pull, yes: bool) -> None:
    clock = Clock()
    asking = Asking(clock, clock.seconds, Pace(0))
    asked = asking.pull(pull)
    link: Any = type("Sender", (), {"send": lambda self, frame: True})()
    asking.up(link)
    assert asking.pulled(frame) == (pull if yes else None)
    assert asked.called is yes
    asked.addErrback(lambda _: None)
    asking.stop(LinkLost("over"))


# --------------------------------------------------------------------------------------------------- notify


def test_a_notify_is_pulled_until_we_are_there() -> None:
    inbox = room(5)
    assert inbox.told(LOG, EPOCH, 40)
    assert inbox.told(LOG, EPOCH, 39)
    assert inbox.catch_up(LOG) == Pull(ROOM, 0, EPOCH, 5, 64)
    assert inbox.catch_up(LOG) is None  # one at a time
    assert inbox.told(LOG, EPOCH, 80)
    again = answer(inbox, inbox._places[LOG].pulling, part(0, 32))
    assert again is not None
    assert again.after == 32
    again = answer(inbox, again, part(32, 64))
    assert again is not None
    assert answer(inbox, again, part(64, 90)) is None
    assert shown(inbox) == list(range(6, 91))
    assert not inbox.told(LOG, EPOCH, 90)
    assert inbox.catch_up(LOG) == Pull(ROOM, 0, EPOCH, 90, 64)  # it is waited for
    assert inbox.catch_up(LogKey(parse_address("room:8"))) is None


def test_an_answer_without_anything_ends_it_without_a_gap() -> None:
    inbox = room(5)
    inbox.told(LOG, EPOCH, 9)
    assert answer(inbox, inbox.catch_up(LOG), part(5, 5, [])) is None
    assert shown(inbox) == []
    assert not inbox._places[LOG].behind


def test_a_refused_pull_ends_it_and_the_next_notify_tries_again() -> None:
    inbox = room(5)
    inbox.told(LOG, EPOCH, 9)
    pull = inbox.catch_up(LOG)
    assert pull is not None
    inbox.refused(pull)
    assert shown(inbox) == []
    assert inbox.told(LOG, EPOCH, 10)
    assert inbox.catch_up(LOG) is not None


def test_a_notify_of_a_log_that_we_do_not_know_says_where_to_begin() -> None:
    inbox = Inbox(decode_message)
    everyone = LogKey(parse_address("all"))
    assert inbox.told(everyone, EPOCH, 9, 6)
    pull = inbox.catch_up(everyone)
    assert pull is not None
    assert pull.after == 6
    assert inbox.told(everyone, EPOCH, 9, 2)
    assert inbox.position(everyone) == (EPOCH, 6)


def test_a_notify_of_a_log_that_we_do_not_know_begins_at_its_newest() -> None:
    inbox = Inbox(decode_message)
    everyone = LogKey(parse_address("all"))
    assert inbox.told(everyone, EPOCH, 9)
    pull = inbox.catch_up(everyone)
    assert pull is not None
    assert pull.after == 8
    answer(inbox, pull, part(0, 9, address=everyone.address))
    assert shown(inbox) == [9]


GAMES = LogKey(parse_address("area:games"))


def games(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    return block(after, upto, seqs, address=GAMES.address, **more)


def test_what_a_notify_of_a_log_that_we_do_not_know_has_overtaken_is_shown() -> None:
    """Over UDP the one does not wait for the other, which was lost on its way and is sent again."""
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    pull = inbox.catch_up(GAMES)
    inbox.deliver(games(80, 87, [87]))
    inbox.deliver(games(87, 100, [100]))
    inbox.deliver(games(87, 100, [100]))
    assert shown(inbox) == [87, 100]
    assert answer(inbox, pull, games(0, 104, [100, 104], pulled=True)) is None
    assert shown(inbox) == [104]


def test_what_else_a_notify_has_overtaken_is_asked_for_from_where_we_stepped_back_to() -> None:
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    overtaken = inbox.catch_up(GAMES)
    pull = inbox.deliver(games(80, 87, [87]))
    assert pull is not None
    assert (pull.after, pull.epoch) == (87, EPOCH)
    assert answer(inbox, overtaken, games(100, 104, [104], pulled=True)) is None  # has a hole before it
    inbox.deliver(games(87, 100, [100]))
    assert shown(inbox) == [87, 100]
    assert answer(inbox, pull, games(87, 104, [100, 104], pulled=True)) is None
    assert shown(inbox) == [104]


def test_what_a_notify_has_overtaken_while_the_queue_is_full_is_asked_for_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imgateway.client.inbox.MOST_ITEMS", 2)
    inbox = Inbox(decode_message)
    inbox.deliver(block(0, 2))
    inbox.told(GAMES, EPOCH, 104, 100)
    overtaken = inbox.catch_up(GAMES)
    assert inbox.deliver(games(87, 100, [100])) is None
    assert shown(inbox) == [1, 2]
    assert answer(inbox, overtaken, games(100, 104, [104], pulled=True)) is None
    pull = inbox.lying()
    assert pull is not None
    assert pull.after == 87
    assert answer(inbox, pull, games(87, 104, [100, 104], pulled=True)) is None
    assert shown(inbox) == [100, 104]


def test_what_else_a_notify_has_overtaken_cannot_be_asked_for_where_that_was_refused() -> None:
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    overtaken = inbox.catch_up(GAMES)
    assert overtaken is not None
    inbox.refused(overtaken)
    assert inbox.deliver(games(80, 87, [87])) is None
    inbox.deliver(games(87, 100, [100]))
    inbox.deliver(games(100, 104, [104]))
    assert shown(inbox) == [87, 100, 104]


def test_what_also_the_answer_to_that_has_overtaken_is_told_as_a_gap() -> None:
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    answer(inbox, inbox.catch_up(GAMES), games(0, 104, [100, 104], pulled=True))
    assert shown(inbox) == [104]
    inbox.deliver(games(100, 100, []))  # there was nothing more to read for us
    inbox.deliver(games(87, 100, [100]))
    assert shown(inbox) == [(87, 100)]
    inbox.deliver(games(100, 105, [104, 105]))
    assert shown(inbox) == [105]
    assert inbox.position(GAMES) == (EPOCH, 105)


def test_what_comes_over_another_link_or_of_another_epoch_was_not_overtaken() -> None:
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    inbox.linked(())
    inbox.deliver(games(64, 100))
    assert shown(inbox) == []
    inbox = Inbox(decode_message)
    inbox.told(GAMES, EPOCH, 104, 100)
    inbox.deliver(games(3, 5, epoch=8))
    inbox.deliver(games(4, 6, epoch=8))
    assert shown(inbox) == [(0, 3), 4, 5, 6]


def test_a_notify_of_another_epoch_leads_to_the_new_log() -> None:
    inbox = room(500)
    assert inbox.told(LOG, 8, 3)
    again = answer(inbox, inbox.catch_up(LOG), part(0, 2, epoch=8, gap=True))
    assert again == Pull(ROOM, 0, 8, 2, 64)
    assert answer(inbox, again, part(2, 3, epoch=8)) is None
    assert shown(inbox) == [(0, 0), (0, 2), 1, 2, 3]


def test_a_new_log_that_has_lost_its_beginning_has_no_gap_behind_that() -> None:
    inbox = room(500)
    inbox.told(LOG, 8, 9)
    assert answer(inbox, inbox.catch_up(LOG), part(5, 9, epoch=8, gap=True)) is None
    assert shown(inbox) == [(0, 5), 6, 7, 8, 9]


# ------------------------------------------------------------------------------------------------ positions


def test_hello_names_what_was_received_and_by_what_mode() -> None:
    inbox = room(5)
    inbox.deliver(block(5, 9))  # nothing is taken yet
    area = parse_address("area:games")
    inbox.deliver(deliver(1, 2, address=area))
    left = parse_address("room:left")
    inbox.deliver(deliver(1, 2, address=left))
    assert inbox.ring_points({ROOM: Mode.NOTIFY}) == (
        ResumePoint(area, 0, EPOCH, 2),
        ResumePoint(ROOM, 0, EPOCH, 9, Mode.NOTIFY),
    )
    assert inbox.resume_points() == ()
    inbox.forget(ROOM)
    inbox.forget_areas()
    assert inbox.ring_points({ROOM: Mode.PUSH}) == ()
    assert inbox.position(LOG) == (0, 0)


def test_going_on_where_we_are_is_nothing() -> None:
    inbox = room(5)
    inbox.linked((Resumed(ROOM, 0, EPOCH, 5, 9),))
    assert shown(inbox) == []
    inbox.linked((Resumed(ROOM, 0, EPOCH, 9, 9),))  # beyond, but nothing is said to be lost
    assert shown(inbox) == []
    assert inbox.deliver(block(9, 10)) is not None


def test_gaps_of_a_resumption_are_told() -> None:
    inbox = room(5)
    inbox.linked((Resumed(ROOM, 0, EPOCH, 9, 9, True),))
    inbox.linked((Resumed(ROOM, 0, EPOCH, 4, 4, True),))
    inbox.linked((Resumed(ROOM, 0, 8, 2, 2, True),))
    assert shown(inbox) == [(5, 9), (0, 4), (0, 2)]
    assert inbox.position(LOG) == (8, 2)


def test_a_ring_that_goes_on_before_what_we_received_began_anew() -> None:
    inbox = room(5)
    inbox.deliver(block(5, 9))  # nothing is taken yet
    inbox.linked((Resumed(ROOM, 0, EPOCH, 7, 7, True),))
    assert shown(inbox) == [6, 7, 8, 9, (0, 7)]
    assert inbox.position(LOG) == (EPOCH, 7)


# ------------------------------------------------------------------------------------------- a full queue


def full(**others: int) -> Inbox:
    """1 to 1,000 wait to be shown, of the room."""
    inbox = room()
    for name, position in others.items():
        inbox.resumed(Resumed(parse_address(f"room:{name}"), 0, EPOCH, position, position))
    inbox.deliver(block(0, MOST_ITEMS))
    return inbox


def take(inbox: Inbox, count: int) -> None:
    for _ in range(count):
        item = inbox.next()
        assert item is not None
        inbox.take(item)


def test_rings_lie_while_the_queue_is_full() -> None:
    inbox = full(b=5, c=5)
    for name in "bc":
        assert inbox.deliver(block(5, 9, address=parse_address(f"room:{name}"))) is None
    take(inbox, MOST_ITEMS // 2 - 1)
    assert inbox.lying() is None
    take(inbox, 1)
    for name in "bc":
        log = LogKey(parse_address(f"room:{name}"))
        pull = inbox.lying()
        assert pull == Pull(log.address, 0, EPOCH, 5, 64)
        assert answer(inbox, pull, part(0, 9, address=log.address)) is None
        assert inbox.position(log) == (EPOCH, 9)
    assert inbox.lying() is None
    assert shown(inbox)[-8:] == [6, 7, 8, 9] * 2


def test_what_was_let_lie_is_asked_for_once() -> None:
    inbox = full()
    inbox.deliver(block(MOST_ITEMS, MOST_ITEMS + 1))
    take(inbox, MOST_ITEMS)
    assert inbox.deliver(block(MOST_ITEMS + 1, MOST_ITEMS + 2)) is not None
    assert inbox.lying() is None


def test_what_was_let_lie_while_a_pull_is_out_comes_with_its_answer() -> None:
    inbox = full(b=5)
    log = LogKey(parse_address("room:b"))
    pull = inbox.catch_up(log)  # as the gateway asks for it by Notify
    inbox.deliver(block(5, 9, address=log.address))
    take(inbox, MOST_ITEMS)
    assert inbox.lying() is None
    assert answer(inbox, pull, part(5, 9, address=log.address)) is None
    assert shown(inbox) == [6, 7, 8, 9]


def test_a_room_that_was_left_lies_no_more() -> None:
    inbox = full()
    inbox.deliver(block(MOST_ITEMS, MOST_ITEMS + 1))
    inbox.forget(ROOM)
    assert len(shown(inbox)) == MOST_ITEMS
    assert inbox.lying() is None


@pytest.mark.parametrize("epoch", [EPOCH, 8])
def test_answers_lie_as_well(epoch: int) -> None:
    inbox = full(b=5)
    log = LogKey(parse_address("room:b"))
    inbox.told(log, epoch, 9)
    found = part(0, 9, [8, 9], address=log.address, epoch=epoch)
    assert answer(inbox, inbox.catch_up(log), found) is None
    assert inbox.position(log) == (EPOCH, 5)
    take(inbox, MOST_ITEMS)
    assert answer(inbox, inbox.lying(), found) is None
    assert shown(inbox) == ([8, 9] if epoch == EPOCH else [(0, 0), 8, 9])


def test_what_the_application_reads_lies_where_it_would_be_shown() -> None:
    """The gateway counts it as pulled."""
    inbox = full(b=5)
    log = LogKey(parse_address("room:b"))
    for after, upto in ((0, 8), (8, 9)):
        found = part(after, upto, address=log.address)
        assert answer(inbox, Pull(log.address, after=after), found) is None
    take(inbox, MOST_ITEMS)
    assert answer(inbox, inbox.lying(), part(0, 8, address=log.address)) is None
    assert shown(inbox) == [6, 7, 8]


def test_of_a_durable_log_there_is_no_more_than_the_window() -> None:
    inbox = full()
    inbox.resumed(Resumed(ME, 0, EPOCH, 0, 9))
    pull = inbox.deliver(deliver(3, 4))
    assert answer(inbox, pull, deliver(0, 4, pulled=True)) is None
    inbox.deliver(deliver(4, 5))
    assert shown(inbox)[MOST_ITEMS:] == [1, 2, 3, 4, 5]


# ------------------------------------------------------------------------------------------------- property

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 40)),
        st.tuples(st.just("push"), st.integers(0, 3)),  # the gateway skips as many rounds' entries
        st.tuples(st.just("lag"), st.just(0)),  # it sends the block that we lag behind
        st.tuples(st.just("notify"), st.just(0)),
        st.tuples(st.just("answer"), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("show"), st.integers(0, 9)),
    ),
    max_size=40,
)


class Gateway:
    """A ring, a member that is sent things now and then, and what it must have seen."""

    def __init__(self) -> None:
        self.epoch, self.counter, self.sent = 1, 0, 0
        self.ring: Ring[Entry] = Ring(0)
        self.inbox = Inbox(decode_message)
        self.inbox.resumed(Resumed(ROOM, 0, 1, 0, 0))
        self.pulls: list[Pull] = []
        self.shows = 0  # that much at a time; 0: all
        self.published: dict[int, list[int]] = {1: []}
        self.shown: dict[int, list[int]] = {1: []}
        self.gaps: dict[int, list[tuple[int, int]]] = {1: []}

    def deliver(self, after: int, upto: int, entries: Any, gap: bool, answers: Pull | None = None) -> None:
        head, is_answer = self.ring.head, answers is not None
        frame = Deliver(ROOM, 0, self.epoch, after, upto, tuple(entries), gap, head, pulled=is_answer)
        pull = self.inbox.answered(frame, answers) if is_answer else self.inbox.deliver(frame)
        if pull is not None:
            self.pulls.append(pull)
        self.check()

    def block(self, after: int, answers: Pull | None = None) -> None:
        found = self.ring.read(after)
        self.deliver(found.after, found.upto, found.entries, found.gap, answers)

    def step(self, what: str, n: int) -> None:
        if what == "publish":
            for _ in range(n):
                self.counter += 1 + self.counter % 3
                self.published[self.epoch].append(self.counter)
                self.ring.append(self.counter, entry(self.counter, b"", f"{self.epoch}-{self.counter}"), 1, 0)
            self.ring.trim(RingLimits(70, 10_000, 10), 0)
        elif what == "push":
            fresh = [one for one in self.ring._entries if one.seq > max(self.sent, self.ring.floor)]
            skipped = fresh[: n * len(fresh) // 4]
            after = skipped[-1].seq if skipped else max(self.sent, self.ring.floor)
            self.deliver(after, self.ring.head, fresh[len(skipped) :], False)
            self.sent = self.ring.head
        elif what == "lag":
            self.block(self.inbox.position(LOG)[1])
        elif what == "show":
            self.shows = n
            self.check()
            pull = self.inbox.lying()
            if pull is not None:
                self.pulls.append(pull)
        elif what == "notify":
            if self.inbox.told(LOG, self.epoch, self.ring.head):
                pull = self.inbox.catch_up(LOG)
                if pull is not None:
                    self.pulls.append(pull)
        elif what == "answer" and self.pulls:
            pull = self.pulls.pop(0)
            self.block(pull.after if pull.epoch == self.epoch else 0, pull)
        elif what == "reconnect":
            self.pulls.clear()
            (point,) = self.inbox.ring_points({ROOM: Mode.PUSH})
            found = resume_ring(point, self.epoch, self.ring.head)
            self.sent = found.position
            self.inbox.linked((Resumed(ROOM, 0, self.epoch, found.position, self.ring.head, found.gap),))
        elif what == "restart":
            lost = self.inbox.position(LOG)[1]
            self.gaps[self.epoch].append((lost, self.counter))  # the new epoch says so
            self.epoch, self.counter, self.ring = self.epoch + 1, 0, Ring(0)
            self.published[self.epoch], self.shown[self.epoch], self.gaps[self.epoch] = [], [], []
            self.step("reconnect", 0)

    def check(self) -> None:
        """Take what is to be shown: rising, and nothing twice."""
        left = self.shows or len(self.inbox)
        while left and (item := self.inbox.next()) is not None:
            left -= 1
            what = item.what
            if isinstance(what, Gap):
                self.gaps[what.epoch].append((what.after, what.upto))
            else:
                before = self.shown[what.epoch]
                assert not before or what.seq > before[-1]
                before.append(what.seq)
            self.inbox.take(item)

    def unheard(self) -> list[tuple[int, int]]:
        """What was published, and neither shown nor in a gap that was told."""
        return [
            (epoch, seq)
            for epoch, published in self.published.items()
            for seq in published
            if seq not in self.shown[epoch] and not any(a < seq <= b for a, b in self.gaps[epoch])
        ]


@given(STEPS)
def test_what_is_shown_and_the_told_gaps_cover_everything(steps: list[tuple[str, int]]) -> None:
    with patch.object(inbox_module, "MOST_ITEMS", 20):
        _cover_everything(steps)


def _cover_everything(steps: list[tuple[str, int]]) -> None:
    gateway = Gateway()
    for what, n in steps:
        gateway.step(what, n)
        gateway.check()
    # At the end the member shows everything, and is brought up to date, by whatever is out and by blocks.
    for _ in range(20):
        gateway.step("show", 0)
        gateway.step("answer", 0)
        gateway.step("lag", 0)
    gateway.step("push", 0)
    for _ in range(20):
        gateway.step("answer", 0)
    epoch, position = gateway.inbox.position(LOG)
    assert (epoch, position) == (gateway.epoch, gateway.ring.head)
    assert gateway.unheard() == []


@given(
    st.lists(st.tuples(st.sampled_from(["publish", "show", "answer"]), st.integers(1, 40)), max_size=40),
    st.integers(1, 9),
)
def test_a_slow_program_is_shown_what_the_ring_kept(steps: list[tuple[str, int]], shows: int) -> None:
    with patch.object(inbox_module, "MOST_ITEMS", 20):
        gateway = Gateway()
        gateway.shows = shows
        for what, n in steps:
            gateway.step(what, n)
            if what == "publish":
                gateway.step("push", 0)
            assert len(gateway.inbox) <= 20 + 70
        # Nothing more is delivered: what was let lie is asked for.
        for _ in range(20):
            gateway.step("show", 0)
            gateway.step("answer", 0)
        assert gateway.inbox.position(LOG) == (gateway.epoch, gateway.ring.head)
        assert gateway.unheard() == []
