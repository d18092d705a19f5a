"""A session is flat, lets its log run ahead while it has no link, and sees what is meant for its device."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core.cursor import Cursor, State, Step
from imgateway.core.follow import Follow
from imgateway.core.session import Session, for_device
from imgateway.frames import Address, Entry, LogKey, SessionKey, log_of, user_address

KEY = SessionKey("alice", "phone")


def session(entries: int = 0, size: int = 0, state: State = State.CLOGGED) -> Session:
    new = Session(KEY, 3, object(), 1, 0, 0)
    assert new.state is State.CLOGGED, "until its link is ready"
    new.entries, new.bytes, new.state = entries, size, state
    return new


def test_a_new_session_has_made_nothing_yet() -> None:
    new = session()
    assert (new.key, new.generation, new.log) == (KEY, 3, log_of(user_address("alice")))
    assert (new.link, new.parking, new.calls, new.chain) == (None,) * 4
    assert (new.publishing, new.answering, new.reading, new.told) == (0, 0, False, False)


def test_a_session_is_flat() -> None:
    new = session()
    assert not hasattr(new, "__dict__")
    assert all(hasattr(new, slot) for slot in (*Session.__slots__, *Cursor.__slots__))


def test_without_a_link_the_log_runs_ahead() -> None:
    left = session(state=State.LIVE)
    left.link = object()
    left.detach()
    assert (left.link, left.state) == (None, State.CLOGGED)
    assert left.arrived(0, 5) is Step.HOLD
    assert (left.sent, left.head) == (0, 5)


@pytest.mark.parametrize(
    ("entries", "size", "may"),
    [
        (0, 0, True),
        (32, 500, True),
        (33, 0, False),
        (0, 501, False),
        (64, 1000, False),
    ],
)
def test_half_of_the_window_must_be_free_by_count_and_by_size(entries: int, size: int, may: bool) -> None:
    assert session(entries, size).may_unclog(64, 1000) is may


@pytest.mark.parametrize("state", [State.LIVE, State.READING])
def test_only_the_clogged_can_be_unclogged(state: State) -> None:
    assert not session(state=state).may_unclog(64, 1000)


def test_a_window_of_one_opens_again() -> None:
    assert session(0, 0).may_unclog(1, 1)
    assert not session(1, 1).may_unclog(1, 1)


devices = st.sampled_from(["", "phone", "desk", "watch"])
entries = st.lists(st.builds(Entry, st.integers(1, 99), st.binary(max_size=2), devices, devices)).map(tuple)


@settings(max_examples=150, derandomize=True)
@given(entries=entries, device=st.sampled_from(["phone", "desk", "watch"]))
def test_a_device_sees_what_is_meant_for_it(entries: tuple[Entry, ...], device: str) -> None:
    seen = for_device(entries, device)
    assert seen == tuple(
        entry for entry in entries if entry.only_device in ("", device) and entry.except_device != device
    )
    if not any(entry.only_device or entry.except_device for entry in entries):
        assert seen is entries, "the shared tuple is what lets one encoding serve all"


def test_nothing_stays_nothing() -> None:
    assert for_device((), "phone") == ()


def test_what_follows_counts_with_the_mailbox() -> None:
    one = session(2, 20)
    assert (list(one.cursors()), one.bytes_unacked(), one.oldest_unacked()) == ([one], 20, None)
    follow = Follow(one, LogKey(Address("topic", "news")))
    assert (follow.state, follow.epoch, follow.parking, follow.reading) == (State.CLOGGED, 0, None, False)
    one.follows = {one.address: one, follow.address: follow}
    follow.place(7, 0, 0, 0)
    follow.send(1, 1, 100, 5.0)
    assert (list(one.cursors()), one.bytes_unacked(), one.oldest_unacked()) == ([one, follow], 120, 5.0)
    one.detach()
    assert {cursor.state for cursor in one.cursors()} == {State.CLOGGED}
