"""What this node does itself of what processes of its cluster ask of each other."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from imgateway.frames import Address, Message, SessionKey, log_of
from imgateway.node.calls import Calls
from imgateway.node.drain import Drains
from imgateway.node.hub import Hub

__all__ = ("Home",)


class Home:
    """A `cluster.Here`: the sessions of this node."""

    def __init__(self, hub: Hub, calls: Calls, drains: Drains) -> None:
        self.kick = hub.kick
        self.drain = drains.begin
        self.undrain = drains.end
        self._hub = hub
        self._calls = calls

    def has(self, session: SessionKey) -> bool:
        """Whether its client is connected here."""
        there = self._hub.sessions.get(session)
        return there is not None and there.link is not None

    def stored(self, address: Address, message: Message) -> None:
        """Tell the session listeners."""
        self._hub.unattended(log_of(address), message)

    def ask(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float
    ) -> Deferred[bytes]:
        """Ask it."""
        return self._calls.ask(session, service, method, body, deadline_s)
