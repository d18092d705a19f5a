"""Ranges, gaps, epochs and the filter: the pure half of receiving, and its property."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.client.inbox import ANSWERS, Inbox
from imgateway.client.place import FILTER_SIZE, answers
from imgateway.client.values import Gap, Received
from imgateway.frames import Acked, Deliver, LogKey, Pull, Resumed, ResumePoint, parse_address
from imgateway.wire.messages import decode_message
from tests.client.fake_gateway import EPOCH, ME, deliver, entry

LOG = LogKey(ME)


def linked(position: int = 0, **more: Any) -> Inbox:
    inbox = Inbox(decode_message)
    inbox.linked((Resumed(ME, 0, EPOCH, position, position, **more),))
    return inbox


def shown(inbox: Inbox) -> list[Any]:
    """Take all: seqs of messages, and gaps as pairs."""
    out: list[Any] = []
    while (item := inbox.next()) is not None:
        what = item.what
        out.append((what.after, what.upto) if isinstance(what, Gap) else what.seq)
        inbox.take(item)
    return out


def test_entries_are_shown_once_and_in_order() -> None:
    inbox = linked(2)
    assert inbox.deliver(deliver(2, 4)) is None
    assert inbox.deliver(deliver(2, 4)) is None
    assert inbox.deliver(deliver(3, 6)) is None
    assert shown(inbox) == [3, 4, 5, 6]
    assert inbox.acks() == (Acked(ME, EPOCH, 6),)
    assert inbox.acks() == ()


def test_sparse_and_empty_ranges_are_acknowledged_to_their_end() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 5, [2]))
    inbox.deliver(deliver(5, 9, []))
    assert inbox.acks() == ()  # the application has nothing yet
    assert shown(inbox) == [2]
    assert inbox.acks() == (Acked(ME, EPOCH, 9),)
    inbox.deliver(deliver(9, 12, []))
    assert inbox.acks() == (Acked(ME, EPOCH, 12),)


def test_an_ack_speaks_for_what_was_taken_and_no_more() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 3))
    for seq in (1, 2):
        item = inbox.next()
        assert item is not None
        inbox.take(item)
        assert inbox.acks() == (Acked(ME, EPOCH, seq),)
    assert inbox.resume_points() == (ResumePoint(ME, 0, EPOCH, 2),)


def test_a_hole_is_pulled_and_what_came_beyond_it_waits() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert pull is not None
    assert (pull.address, pull.epoch, pull.after) == (ME, EPOCH, 2)
    assert inbox.deliver(deliver(6, 8)) is None  # one Pull is out already
    again = inbox.deliver(deliver(2, 4, head=8))
    assert again is not None
    assert again.after == 4
    assert inbox.deliver(deliver(4, 8)) is None
    assert shown(inbox) == [3, 4, 5, 6, 7, 8]


def test_a_pull_that_brings_nothing_is_a_gap() -> None:
    inbox = linked(2)
    assert inbox.deliver(deliver(5, 6)) is not None
    assert inbox.deliver(deliver(2, 2, [])) is None
    assert shown(inbox) == [(2, 6)]


def test_a_pull_that_is_refused_is_a_gap_and_so_are_later_holes() -> None:
    inbox = linked(2)
    assert inbox.deliver(deliver(5, 6)) is not None
    inbox.pull_refused(parse_address("user:other"))
    inbox.pull_refused(ME)
    inbox.pull_refused(ME)
    assert inbox.deliver(deliver(8, 9)) is None
    assert shown(inbox) == [(2, 6), (6, 8), 9]
    inbox.linked((Resumed(ME, 0, EPOCH, 9, 9),))
    assert inbox.deliver(deliver(11, 12)) is not None  # another link, another chance


def test_a_refused_pull_whose_hole_was_filled_meanwhile_is_nothing() -> None:
    inbox = linked(2)
    assert inbox.deliver(deliver(5, 6)) is not None
    place = inbox._places[LOG]
    place.target = 2
    inbox.pull_refused(ME)
    assert shown(inbox) == []


def test_a_told_gap_comes_before_what_is_left() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 1))
    inbox.deliver(deliver(1, 9, [7, 9], gap=True))
    assert shown(inbox) == [1, (1, 9), 7, 9]
    assert inbox.acks() == (Acked(ME, EPOCH, 9),)


def test_a_gap_without_anything_left_is_acknowledged_when_it_was_told() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 9, [], gap=True))
    assert inbox.acks() == ()
    assert shown(inbox) == [(0, 9)]
    assert inbox.acks() == (Acked(ME, EPOCH, 9),)


def test_a_new_epoch_begins_anew_with_a_gap_and_the_filter_stays() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 3))
    assert inbox.deliver(deliver(1, 3, epoch=8, entries=(entry(2, b"", "m3"), entry(3, b"", "new")))) is None
    first = inbox.next()
    assert first is not None
    inbox.take(first)
    assert inbox.acks() == ()  # of the old log; nobody is interested any more
    assert shown(inbox) == [2, 3, (0, 1), 3]
    assert inbox.acks() == (Acked(ME, 8, 3),)
    assert inbox.resume_points() == (ResumePoint(ME, 0, 8, 3),)


def test_the_filter_holds_the_last_thousand_of_a_log() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, FILTER_SIZE + 1))
    assert len(shown(inbox)) == FILTER_SIZE + 1
    repeats = tuple(entry(seq, b"", msg_id) for seq, msg_id in ((1, "m2"), (2, "m1")))
    inbox.deliver(deliver(0, 2, epoch=8, entries=repeats))
    assert shown(inbox) == [(0, 0), 2]
    # Another log may have the same message: it was sent there too.
    inbox.deliver(deliver(0, 2, [2], address=parse_address("topic:t")))
    assert shown(inbox) == [2]


def test_ephemeral_messages_stand_in_no_log() -> None:
    inbox = linked()
    for _ in range(2):
        inbox.deliver(Deliver(ME, 0, 0, 0, 0, (entry(0, b"typing"),)))
    items = [inbox.next(), inbox.next()]
    for item in items:
        assert item is not None
        assert isinstance(item.what, Received)
        assert item.what.ephemeral
        assert item.what.message.body == b"typing"
        inbox.take(item)
    assert inbox.acks() == ()
    assert inbox.bytes == 0


def test_rings_have_positions_but_no_acks_and_no_place_in_hello() -> None:
    room = parse_address("room:7")
    inbox = linked()
    inbox.deliver(deliver(4, 6, address=room))
    inbox.deliver(deliver(4, 6, address=room))
    assert shown(inbox) == [5, 6]
    assert inbox.acks() == ()
    assert [point.address for point in inbox.resume_points()] == [ME]


def test_a_welcome_can_tell_gaps() -> None:
    inbox = Inbox(decode_message)
    inbox.restore(LOG, EPOCH, 5, [])
    inbox.linked((Resumed(ME, 0, EPOCH, 9, 12, True),))
    assert shown(inbox) == [(5, 9)]
    inbox.linked((Resumed(ME, 0, 8, 3, 3, True),))
    assert shown(inbox) == [(0, 3)]
    inbox.linked((Resumed(ME, 0, 8, 1, 1, True),))  # the same log, and it lost its end
    assert shown(inbox) == [(0, 1)]
    assert inbox.resume_points() == (ResumePoint(ME, 0, 8, 1),)
    fresh = linked(4, gap=True)
    assert shown(fresh) == [(0, 4)]


def test_what_is_queued_is_not_shown_again_by_the_next_link() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 3))
    assert inbox.resume_points()[0].seq == 0  # nothing was taken
    inbox.linked((Resumed(ME, 0, EPOCH, 0, 3),))
    inbox.deliver(deliver(0, 4))
    item = inbox.next()
    assert item is not None
    inbox.take(item)
    assert inbox.acks() == (Acked(ME, EPOCH, 1),)
    assert shown(inbox) == [2, 3, 4]


def test_an_ack_never_goes_beyond_what_this_link_delivered() -> None:
    inbox = linked()
    inbox.deliver(deliver(0, 3))
    assert shown(inbox) == [1, 2, 3]
    inbox.linked((Resumed(ME, 0, EPOCH, 0, 3),))  # it does not take our word for 3
    assert inbox.acks() == ()
    inbox.deliver(deliver(0, 2))
    assert inbox.acks() == (Acked(ME, EPOCH, 2),)


def test_a_named_position_is_acknowledged_too() -> None:
    inbox = Inbox(decode_message)
    inbox.restore(LOG, EPOCH, 5, [])
    inbox.linked((Resumed(ME, 0, EPOCH, 5, 5),))
    assert inbox.acks() == (Acked(ME, EPOCH, 5),)
    assert inbox.acks() == ()


def test_an_empty_answer_from_an_empty_log_fills_no_hole() -> None:
    inbox = linked()
    assert inbox.deliver(deliver(3, 4)) is not None
    inbox.deliver(deliver(0, 0, []))
    assert shown(inbox) == [(0, 4)]


def test_history_that_goes_on_where_we_are_is_taken_in() -> None:
    inbox = linked(5)
    assert inbox.answered(deliver(5, 6), 64)
    assert inbox.answered(deliver(3, 6), 64)
    assert not inbox.answered(deliver(3, 5), 64)
    assert not inbox.answered(deliver(6, 7), 64)
    assert not inbox.answered(deliver(5, 6, epoch=8), 64)
    assert not inbox.answered(deliver(5, 6, address=parse_address("topic:t")), 64)


def answer(inbox: Inbox, frame: Deliver, limit: int = 64) -> None:
    """A Deliver that fits a question about history."""
    if inbox.answered(frame, limit):
        assert inbox.deliver(frame, pulled=True) is None


def test_what_an_answer_brought_is_acknowledged_when_it_was_delivered() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 4))
    answer(inbox, deliver(4, 9))
    assert shown(inbox) == list(range(1, 10))
    assert inbox.acks() == ()
    inbox.moved.clear()
    inbox.deliver(deliver(0, 2))
    assert list(inbox.moved) == [LOG]  # so that somebody asks
    assert inbox.acks() == (Acked(ME, EPOCH, 2),)
    inbox.deliver(deliver(2, 12))
    assert shown(inbox) == [10, 11, 12]
    assert inbox.acks() == (Acked(ME, EPOCH, 12),)


@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3)])
def test_of_two_that_may_be_the_delivery_the_shorter_counts(first: int, second: int) -> None:
    inbox = linked()
    answer(inbox, deliver(0, first), 10)
    assert inbox.deliver(deliver(0, second)) == Pull(ME, 0, EPOCH, 0, 10)
    assert shown(inbox) == [1, 2, 3, 4, 5]
    assert inbox.acks() == (Acked(ME, EPOCH, 3),)
    inbox.deliver(deliver(5, 6))  # the next one tells
    assert shown(inbox) == [6]
    assert inbox.acks() == (Acked(ME, EPOCH, 6),)


@pytest.mark.parametrize(("told", "upto"), [(3, 5), (5, 3), (7, 3)])
def test_who_asks_again_learns_which_it_was(told: int, upto: int) -> None:
    """The same question, answered with less, cannot have been answered with more before."""
    inbox = linked()
    answer(inbox, deliver(0, 5))
    assert inbox.deliver(deliver(0, 3)) is not None
    assert inbox.deliver(deliver(0, told)) is None
    assert shown(inbox) == list(range(1, max(told, 5) + 1))
    assert inbox.acks() == (Acked(ME, EPOCH, upto),)


def test_who_asks_something_else_meanwhile_does_not() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 5))
    assert inbox.deliver(deliver(0, 3)) is not None
    answer(inbox, deliver(0, 5))
    inbox.deliver(deliver(0, 3))  # of the two questions, who knows which
    assert shown(inbox) == [1, 2, 3, 4, 5]
    assert inbox.acks() == (Acked(ME, EPOCH, 3),)


def test_two_questions_about_the_same_are_not_asked_again() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 5))
    answer(inbox, deliver(0, 4), 10)
    assert inbox.deliver(deliver(0, 6)) is None
    assert inbox.deliver(deliver(0, 4)) is None
    assert shown(inbox) == [1, 2, 3, 4, 5, 6]
    assert inbox.acks() == (Acked(ME, EPOCH, 4),)


def test_an_answer_of_nothing_is_no_delivery() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 2))
    inbox.deliver(deliver(0, 0, []))
    assert shown(inbox) == [1, 2]
    assert inbox.acks() == (Acked(ME, EPOCH, 2),)


def test_one_with_more_than_was_asked_for_is_the_delivery() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 3), 3)
    inbox.deliver(deliver(0, 5))
    assert shown(inbox) == [1, 2, 3, 4, 5]
    assert inbox.acks() == (Acked(ME, EPOCH, 5),)


def test_an_answer_after_the_delivery_that_was_taken_for_it() -> None:
    inbox = linked()
    answer(inbox, deliver(0, 1))
    inbox.deliver(deliver(1, 2))
    inbox.deliver(deliver(0, 8))  # what was asked for
    assert shown(inbox) == [1, 2, *range(3, 9)]
    assert inbox.acks() == (Acked(ME, EPOCH, 2),)


def test_an_answer_behind_us_may_have_been_a_delivery() -> None:
    """It brings nothing, for history is ahead; and yet what comes after it is not the delivery."""
    inbox = linked()
    answer(inbox, deliver(0, 9))
    inbox.deliver(deliver(0, 2))
    assert shown(inbox) == list(range(1, 10))
    assert not inbox.answered(deliver(2, 4), 64)
    assert inbox.deliver(deliver(2, 9)) == Pull(ME, 0, EPOCH, 2, 64)
    assert inbox.acks() == (Acked(ME, EPOCH, 4),)


def test_what_history_runs_ahead_with_is_not_remembered_for_ever() -> None:
    inbox = linked()
    for n in range(ANSWERS + 1):
        answer(inbox, deliver(n, n + 1))
    place = inbox._places[LOG]
    assert list(place.answered) == list(range(1, ANSWERS + 1))
    assert inbox.deliver(deliver(0, 3)) is None
    assert list(place.answered) == list(range(3, ANSWERS + 1))


def test_a_delivery_that_is_dropped_for_a_hole_was_delivered() -> None:
    inbox = linked(2)
    assert inbox.deliver(deliver(5, 8)) is not None
    inbox.deliver(deliver(2, 5, head=20))
    inbox.deliver(deliver(5, 20))
    assert shown(inbox) == list(range(3, 21))
    assert inbox.acks() == (Acked(ME, EPOCH, 8),)


def test_who_subscribes_again_over_a_link_may_acknowledge_what_was_sent() -> None:
    """The gateway says how far it has acknowledgements, and that everything stays where it is."""
    inbox = linked()
    inbox.deliver(deliver(0, 9))
    inbox.resumed(Resumed(ME, 0, EPOCH, 0, 9))
    assert shown(inbox) == list(range(1, 10))
    assert inbox.acks() == (Acked(ME, EPOCH, 9),)


@given(
    st.lists(st.tuples(st.sampled_from("grow send ask answer take".split()), st.integers(1, 9)), max_size=60),
    st.lists(st.integers(1, 5), min_size=9, max_size=9),
)
def test_nothing_is_acknowledged_that_was_not_delivered(
    steps: list[tuple[str, int]], sizes: list[int]
) -> None:
    """A gateway that delivers and answers when it likes, and a program that asks for any history meanwhile.

    So many fit into an answer as `sizes` says of the place where it begins.
    """
    inbox, head, sent = linked(), 9, 0
    asked: list[tuple[int, int]] = []
    pending: list[tuple[int, int]] = []

    def comes(frame: Deliver) -> None:
        for after, limit in asked:
            if answers(frame, after, limit):
                asked.remove((after, limit))
                answer(inbox, frame, limit)
                return
        pull = inbox.deliver(frame)
        if pull is not None:
            pending.append((pull.after, pull.limit))

    for step, number in [*steps, *[("answer", 0)] * 120, ("take", 999)]:
        if step == "grow":
            head += number
        elif step == "send" and sent < head:
            after, sent = sent, min(sent + number, head)
            comes(deliver(after, sent))
        elif step == "ask":
            where = inbox._places[LOG].received - number % 4  # mostly close to where deliveries are
            asked.append((max(0, where), number))
            pending.append(asked[-1])
        elif step == "answer" and pending:
            after, limit = pending.pop(0)
            comes(deliver(after, min(head, after + min(limit, sizes[after % 9])), head=head))
        elif step == "take":
            for _ in range(number):
                if (item := inbox.next()) is not None:
                    inbox.take(item)
            assert all(ack.upto <= sent for ack in inbox.acks())
    assert (asked, pending) == ([], [])
    last = sent + 10
    comes(deliver(sent, last))  # too large for an answer: no doubt is left
    shown(inbox)
    inbox.acks()
    assert inbox._places[LOG].acked == last


SIZE = 40


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[set[int], list[tuple[int, int, bool]]]:
    """A log of SIZE numbers with holes, and Delivers of it in any order with repeats, overlaps and jumps."""
    holes = draw(st.sets(st.integers(1, SIZE), max_size=SIZE))
    ranges = draw(
        st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 8), st.booleans()), min_size=1, max_size=25)
    )
    return holes, [(after, min(SIZE, after + size), lost) for after, size, lost in ranges]


@given(
    deliveries(),
    st.integers(0, 5),
    st.lists(st.integers(0, 3), max_size=25),
    st.sampled_from(["all", "some", "refuse"]),
)
def test_shown_and_told_gaps_cover_the_log_exactly(
    log: tuple[set[int], list[tuple[int, int, bool]]], start: int, takes: list[int], pulls: str
) -> None:
    """Nothing twice, always rising, and all that stands in the log is shown or lies in a told gap."""
    holes, ranges = log
    inbox = linked(start)
    out: list[Any] = []

    def standing(after: int, upto: int, lost: bool) -> Deliver:
        # What is lost is every third number of the range: the gap says that something is.
        seqs = [n for n in range(after + 1, upto + 1) if n not in holes and not (lost and n % 3 == 0)]
        return deliver(after, upto, seqs, gap=lost, head=SIZE)

    def answer(pull: Any) -> None:
        while pull is not None:
            if pulls == "refuse":
                inbox.pull_refused(ME)
                return
            upto = SIZE if pulls == "all" else min(SIZE, pull.after + 2)
            pull = inbox.deliver(standing(pull.after, upto, False))

    def take(count: int) -> None:
        for _ in range(count):
            item = inbox.next()
            if item is None:
                return
            what = item.what
            out.append((what.after, what.upto) if isinstance(what, Gap) else what.seq)
            inbox.take(item)
            for ack in inbox.acks():
                acked.append(ack.upto)

    acked: list[int] = []
    for index, (after, upto, lost) in enumerate(ranges):
        if upto == 0:
            continue
        answer(inbox.deliver(standing(after, upto, lost)))
        take(takes[index] if index < len(takes) else 1)
    take(10_000)
    place = inbox._places[LOG]
    seqs = [one for one in out if isinstance(one, int)]
    gaps = [one for one in out if not isinstance(one, int)]
    assert seqs == sorted(set(seqs))
    assert all(n not in holes and n > start for n in seqs)
    covered = set(seqs).union(*(range(after + 1, upto + 1) for after, upto in gaps))
    assert {n for n in range(start + 1, place.received + 1) if n not in holes} <= covered
    assert max([start, *(upto for _, upto, _ in ranges), *acked]) <= place.received <= SIZE
    assert acked == sorted(set(acked))
    assert place.taken == place.received
