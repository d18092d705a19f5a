"""Sessions on their way: claimed here and not yet answered for, or gone to another node.

While a claim waits for the store much may become of its session, here and elsewhere. What that was is kept
until the answer, so that each session's end is told once. Whoever went to another node stays in its rooms for
as long as a client may take to name them there.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from msgspec import Struct
from twisted.logger import Logger

from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import Address, SessionKey
from imgateway.interfaces import IBroker

__all__ = ("Claiming", "Claims", "Moves")

log = Logger()


class Claiming(Struct, gc=False, eq=False):
    """Claims of one session that the broker has not answered, and what became of the session meanwhile.

    :ivar last: the newest generation that was displaced, and why; the claim's own if its answer is overtaken.
    :ivar ended: the session that was here has ended, and the listeners were told.
    :ivar kicked: why it was kicked, if it was.
    """

    count: int = 0
    last: tuple[int, int, str] = (0, 0, "")
    ended: bool = False
    kicked: str | None = None


class Claims:
    """Those that wait for their answers, by session."""

    def __init__(self) -> None:
        self._claims: dict[SessionKey, Claiming] = {}

    def get(self, key: SessionKey) -> Claiming | None:
        return self._claims.get(key)

    def begin(self, key: SessionKey) -> None:
        """One more."""
        there = self._claims.get(key)
        if there is None:
            there = self._claims[key] = Claiming()
        there.count += 1

    def end(self, key: SessionKey) -> Claiming | None:
        """One less. What became of the session, if that was the last."""
        claiming = self._claims[key]
        claiming.count -= 1
        return None if claiming.count else self._claims.pop(key)

    def kick(self, user: str, device: str | None, reason: str) -> list[SessionKey]:
        """These sessions shall not begin; who they are."""
        keys = [key for key in self._claims if key.user == user and device in (None, key.device)]
        for key in keys:
            self._claims[key].kicked = reason
        return keys


class Moves:
    """Sessions that went to other nodes, and are in rooms.

    :param held: rooms that a session is in, or on its way into.
    :param close: tells the broker that this generation of a session has ended.
    :param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel.
    """

    def __init__(
        self,
        broker: IBroker,
        sessions: Roster,
        held: Callable[[Session], Container[Address]],
        close: Callable[[SessionKey, int], None],
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
    ) -> None:
        self._broker = broker
        self._sessions = sessions
        self._held = held
        self._close = close
        self._now = now
        self._arm = arm
        self._rooms: dict[tuple[SessionKey, int], tuple[Address, ...]] = {}

    def went(self, session: Session, rooms: tuple[Address, ...], linger_s: float) -> None:
        """It was in these rooms. Within `linger_s` its client may enter them from where it is."""
        gone = session.key, session.generation  # not all of the session is kept for so long
        self._rooms[gone] = rooms
        self._arm(self._now() + linger_s, lambda now: self._leave(*gone))

    def _leave(self, key: SessionKey, generation: int) -> None:
        if (key, generation) not in self._rooms:
            return
        rooms = self._rooms.pop((key, generation))
        back = self._sessions.get(key)
        if back is None:
            self._close(key, generation)  # it is stale, and leaves what was not entered from elsewhere
            return
        held = self._held(back)
        for address in rooms:  # it came back, to those that it named
            if address not in held:
                self._broker.leave(back.key, back.generation, address).addErrback(
                    lambda failure: log.failure("leaving a room failed", failure)
                )

    def end(self) -> None:
        """The node stops: nobody waits any more."""
        for gone in tuple(self._rooms):
            self._leave(*gone)
