"""How many are online: numbers that are kept anyway, so that asking costs nothing."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from imgateway.core.roster import Roster
from imgateway.frames import Address
from imgateway.interfaces import IBroker

__all__ = ("Online",)


class Online:
    """Users and devices of this node; members of rooms and areas as the broker counts them.

    A session that lost its link counts until it comes back or ends (``session.linger_s``).
    """

    def __init__(self, sessions: Roster, broker: IBroker) -> None:
        self._sessions = sessions
        self._broker = broker

    def users(self) -> int:
        """Users with a session here."""
        return self._sessions.users

    def devices(self) -> int:
        """Sessions here: a user has one for each device."""
        return len(self._sessions)

    def members(self, address: Address) -> Deferred[int]:
        """Sessions in a room, in any room of an area, or (all) online, on all nodes."""
        return self._broker.members(address)
