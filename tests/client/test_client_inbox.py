"""Ranges, gaps, epochs and the filter: the pure half of receiving, and its property."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from imgateway.client.inbox import Inbox
from imgateway.client.place import FILTER_SIZE
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


def answer(inbox: Inbox, pull: Pull | None, frame: Deliver) -> Pull | None:
    """The answer to this Pull, which is out; the next Pull."""
    assert pull is not None
    assert frame.pulled
    return inbox.answered(frame, pull)


def pulled(after: int, upto: int, seqs: Any = None, **more: Any) -> Deliver:
    return deliver(after, upto, seqs, pulled=True, **more)


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
    assert pull == Pull(ME, 0, EPOCH, 2, 64)
    assert inbox.deliver(deliver(6, 8)) is None  # one Pull is out already
    again = answer(inbox, pull, pulled(2, 4, head=8))
    assert again is not None
    assert again.after == 4
    assert answer(inbox, again, pulled(4, 8)) is None
    assert shown(inbox) == [3, 4, 5, 6, 7, 8]


def test_a_pull_that_brings_nothing_is_a_gap() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert answer(inbox, pull, pulled(2, 2, [])) is None
    assert shown(inbox) == [(2, 6)]


def test_a_pull_whose_answer_was_delivered_meanwhile_is_no_gap() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert inbox.deliver(deliver(2, 4)) is None
    again = answer(inbox, pull, pulled(2, 4, head=6))
    assert answer(inbox, again, pulled(4, 6)) is None
    assert shown(inbox) == [3, 4, 5, 6]


def test_a_pull_that_is_refused_is_a_gap_and_so_are_later_holes() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert pull is not None
    inbox.refused(Pull(parse_address("user:other")))
    inbox.refused(Pull(ME, 0, EPOCH, 1))  # the application's
    assert shown(inbox) == []
    inbox.refused(pull)
    inbox.refused(pull)
    assert inbox.deliver(deliver(8, 9)) is None
    assert shown(inbox) == [(2, 6), (6, 8), 9]
    inbox.linked((Resumed(ME, 0, EPOCH, 9, 9),))
    assert inbox.deliver(deliver(11, 12)) is not None  # another link, another chance


def test_a_refused_pull_whose_hole_was_filled_meanwhile_is_nothing() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert pull is not None
    inbox.deliver(deliver(2, 6))
    inbox.refused(pull)
    assert shown(inbox) == [3, 4, 5, 6]


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
    assert len(inbox) == 0


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


# ------------------------------------------------------------------------------------- answers to questions


def test_an_answer_brings_what_is_missing_and_nothing_to_acknowledge() -> None:
    inbox = linked()
    pull = inbox.deliver(deliver(4, 6))
    assert answer(inbox, pull, pulled(0, 9)) is None
    assert shown(inbox) == list(range(1, 10))
    assert inbox.acks() == (Acked(ME, EPOCH, 6),)
    inbox.moved.clear()
    inbox.deliver(deliver(6, 8))
    assert list(inbox.moved) == [LOG]  # so that somebody asks
    assert inbox.acks() == (Acked(ME, EPOCH, 8),)
    inbox.deliver(deliver(8, 12))
    assert shown(inbox) == [10, 11, 12]
    assert inbox.acks() == (Acked(ME, EPOCH, 12),)


def test_what_the_application_read_of_a_durable_log_comes_by_its_delivery() -> None:
    inbox = linked(5)
    asked = Pull(ME, 0, EPOCH, 5)
    assert answer(inbox, asked, pulled(5, 7)) is None
    assert (shown(inbox), inbox.acks()) == ([], ())
    inbox.deliver(deliver(5, 7))
    assert shown(inbox) == [6, 7]
    assert inbox.acks() == (Acked(ME, EPOCH, 7),)


def test_an_answer_about_a_log_that_we_are_not_in() -> None:
    news = parse_address("topic:news")
    inbox = linked()
    assert answer(inbox, Pull(news), pulled(0, 3, address=news)) is None
    assert inbox.position(LogKey(news)) == (0, 0)
    assert shown(inbox) == []


def test_an_answer_that_nobody_waits_for_is_nothing() -> None:
    inbox = linked()
    pull = inbox.deliver(deliver(4, 6))
    assert inbox.answered(pulled(0, 4), None) is None
    assert shown(inbox) == []
    inbox.linked((Resumed(ME, 0, EPOCH, 0, 6),))
    assert answer(inbox, pull, pulled(0, 6)) is None  # of an earlier link
    assert shown(inbox) == []


def test_an_answer_of_a_new_log_is_the_new_log_and_delivers_nothing_of_it() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    assert answer(inbox, pull, pulled(2, 3, epoch=8, gap=True)) is None
    assert shown(inbox) == [(0, 2), (2, 3), 3]
    assert inbox.acks() == ()
    inbox.deliver(deliver(0, 3, epoch=8))
    assert inbox.acks() == (Acked(ME, 8, 3),)


def test_an_answer_of_the_old_log_comes_after_the_new_one() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 6))
    inbox.deliver(deliver(0, 1, epoch=8))
    assert answer(inbox, pull, pulled(2, 6)) is None
    assert shown(inbox) == [(0, 0), 1]
    assert inbox.position(LOG) == (8, 1)
    assert inbox.acks() == (Acked(ME, 8, 1),)


def test_a_delivery_that_is_dropped_for_a_hole_was_delivered() -> None:
    inbox = linked(2)
    pull = inbox.deliver(deliver(5, 8))
    answer(inbox, answer(inbox, pull, pulled(2, 5, head=20)), pulled(5, 20))
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
    st.lists(st.tuples(st.sampled_from("grow send hole ask answer take".split()), st.integers(1, 9))),
    st.integers(1, 5),
)
def test_nothing_is_acknowledged_that_was_not_delivered(steps: list[tuple[str, int]], size: int) -> None:
    """A gateway that delivers, with holes, and answers when it likes, and a program that asks for any history
    meanwhile. An answer has at most `size` entries."""
    inbox, head, sent = linked(), 9, 0
    asked: list[Pull] = []

    def comes(frame: Deliver) -> None:
        pull = inbox.deliver(frame)
        if pull is not None:
            asked.append(pull)

    for step, number in [*steps, ("hole", 9), *[("answer", 0)] * 999, ("take", 999)]:
        if step == "grow":
            head += number
        elif step == "send" and sent < head:
            after, sent = sent, min(sent + number, head)
            comes(deliver(after, sent))
        elif step == "hole":
            after, sent = sent + number, sent + number + 1
            head = max(head, sent)
            comes(deliver(after, sent))
        elif step == "ask":
            place = inbox._places[LOG].received - number % 4  # mostly close to where deliveries are
            asked.append(Pull(ME, 0, EPOCH, max(0, place), number))
        elif step == "answer" and asked:
            pull = asked.pop(0)
            upto = max(pull.after, min(head, pull.after + min(pull.limit, size)))
            again = inbox.answered(pulled(pull.after, upto, head=head), pull)
            if again is not None:
                asked.append(again)
        elif step == "take":
            for _ in range(number):
                if (item := inbox.next()) is not None:
                    assert isinstance(item.what, Received)
                    inbox.take(item)
            assert all(ack.upto <= sent for ack in inbox.acks())
    assert not asked
    assert inbox._places[LOG].acked == sent


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

    def fill(pull: Any) -> None:
        while pull is not None:
            if pulls == "refuse":
                inbox.refused(pull)
                return
            upto = SIZE if pulls == "all" else min(SIZE, pull.after + 2)
            pull = inbox.answered(standing(pull.after, upto, False), pull)

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
        fill(inbox.deliver(standing(after, upto, lost)))
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
