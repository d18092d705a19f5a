"""The life of a link: every state against every event."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core.handshake import TABLE, Event, LinkState, after
from imgateway.errors import CloseCode, ProtocolError, UnexpectedFrame

# What should happen, drawn by hand: a column for each state, a row for each event, "!" for a protocol error.
EXPECTED = """
            CONNECTED  GREETING  CHECKING  OPEN    CLOSED
OPENED      GREETING   !         !         !       !
HELLO       !          CHECKING  !         !       !
FRAME       !          !         !         OPEN    !
ACCEPTED    !          !         OPEN      !       !
BYE         CLOSED     CLOSED    CLOSED    CLOSED  CLOSED
LOST        CLOSED     CLOSED    CLOSED    CLOSED  CLOSED
"""


def expected() -> dict[tuple[LinkState, Event], str]:
    heading, *lines = [line.split() for line in EXPECTED.strip().splitlines()]
    return {
        (LinkState[state], Event[event]): cell
        for event, *cells in lines
        for state, cell in zip(heading, cells, strict=True)
    }


def test_the_drawing_is_complete() -> None:
    assert set(expected()) == set(product(LinkState, Event))


@pytest.mark.parametrize(("state", "event"), list(product(LinkState, Event)), ids=lambda value: value.name)
def test_every_step(state: LinkState, event: Event) -> None:
    follows = expected()[state, event]
    if follows == "!":
        assert (state, event) not in TABLE
        with pytest.raises(UnexpectedFrame) as caught:
            after(state, event)
        assert str(caught.value) == f"{event.value} is not expected while {state.value}"
        assert caught.value.code is CloseCode.UNEXPECTED_FRAME
        assert isinstance(caught.value, ProtocolError)
        assert caught.value.__suppress_context__, "the KeyError is nobody's business"
    else:
        assert after(state, event) is LinkState[follows]


@settings(max_examples=100, derandomize=True)
@given(events=st.lists(st.sampled_from(Event), max_size=8))
def test_only_a_greeting_that_was_checked_opens_and_nothing_comes_back(events: list[Event]) -> None:
    state, seen = LinkState.CONNECTED, []
    for event in events:
        try:
            state, before = after(state, event), state
        except UnexpectedFrame:
            continue
        seen.append(event)
        if before is LinkState.CLOSED:
            assert state is LinkState.CLOSED
        if state is LinkState.OPEN:
            assert seen[:3] == [Event.OPENED, Event.HELLO, Event.ACCEPTED]


def test_every_state_and_event_has_words_for_the_reference() -> None:
    for kind in (LinkState, Event):
        assert all(isinstance(member.value, str) and member.value for member in kind)
        assert len({member.value for member in kind}) == len(kind)
