"""The life of a link, as one table that owns every transition; the protocol reference is drawn from it.

A link is CONNECTED until its transport has greeted, GREETING until Hello, CHECKING while the token is checked
and the session claimed, OPEN for its working life, CLOSED at the end. What is not in the table is a protocol
error of the peer.
"""

from __future__ import annotations

from enum import Enum

from imgateway.errors import UnexpectedFrame

__all__ = ("TABLE", "Event", "LinkState", "after")


class LinkState(Enum):
    __hash__ = object.__hash__  # there is one of each; Enum's own is a call in Python, and the table has many

    CONNECTED = "connected"
    GREETING = "greeting"
    CHECKING = "checking"
    OPEN = "open"
    CLOSED = "closed"


class Event(Enum):
    __hash__ = object.__hash__

    OPENED = "the transport is ready"
    HELLO = "Hello"
    FRAME = "any other frame"
    ACCEPTED = "the session is claimed: Welcome"
    BYE = "Bye, either way; that is how a login is refused, too"
    LOST = "the connection is gone"


TABLE: dict[tuple[LinkState, Event], LinkState] = {
    (LinkState.CONNECTED, Event.OPENED): LinkState.GREETING,
    (LinkState.GREETING, Event.HELLO): LinkState.CHECKING,
    (LinkState.CHECKING, Event.ACCEPTED): LinkState.OPEN,
    (LinkState.OPEN, Event.FRAME): LinkState.OPEN,
    **{(state, Event.BYE): LinkState.CLOSED for state in LinkState},
    **{(state, Event.LOST): LinkState.CLOSED for state in LinkState},
}


def after(state: LinkState, event: Event) -> LinkState:
    """The state that follows.

    :raises UnexpectedFrame: the table has no such step.
    """
    try:
        return TABLE[state, event]
    except KeyError:
        raise UnexpectedFrame(f"{event.value} is not expected while {state.value}") from None
