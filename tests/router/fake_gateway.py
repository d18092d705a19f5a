"""A gateway that does as the test says, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from imgateway.frames import Address, Mode, Outcome, Publish, SessionKey
from imgateway.interfaces import IGateway, Mailbox, NodeInfo, Presence, Served

__all__ = ("FakeGateway", "node", "presence")


def node(name: str = "a", **fields: Any) -> NodeInfo:
    """A ready node that serves native over tcp and websocket."""
    fields.setdefault("incarnation", f"{name}.1")
    fields.setdefault(
        "served",
        (
            Served("native", "tcp", f"tcp://{name}:7901"),
            Served("native", "websocket", f"ws://{name}:7902"),
            Served("json", "websocket", f"ws://{name}:7902"),
        ),
    )
    return NodeInfo(name, **fields)


def presence(user: str, device: str = "phone", online: bool = True, at: str = "a.1") -> Presence:
    return Presence(SessionKey(user, device), "ios", at, 3, 1_000, online)


@implementer(IGateway)
class FakeGateway:
    def __init__(self, *nodes: NodeInfo) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.known = {one.incarnation: one for one in nodes}
        self.present: dict[str, tuple[Presence, ...]] = {}
        self.answers: dict[str, Any] = {}
        """What a method gives: a value, a Deferred, or an exception that it raises."""

    def _give(self, name: str, otherwise: Any, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        given = self.answers.get(name, otherwise)
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, Deferred) else succeed(given)

    def publish(self, publish: Publish, sender: str, device: str = "api") -> Deferred[tuple[Outcome, ...]]:
        told = tuple(Outcome(0, 7, place + 1) for place in range(len(publish.to)))
        return self._give("publish", told, publish, sender, device)  # type: ignore[no-any-return]

    def request(
        self, session: SessionKey, service: str, method: str, body: bytes, deadline_s: float = 10.0
    ) -> Deferred[bytes]:
        return self._give("request", b"pong", session, service, method, body, deadline_s)  # type: ignore[no-any-return]

    def kick(self, user: str, device: str | None, reason: str) -> Deferred[int]:
        return self._give("kick", 1, user, device, reason)  # type: ignore[no-any-return]

    def sessions(self, user: str) -> Deferred[tuple[Presence, ...]]:
        return self._give("sessions", self.present.get(user, ()), user)  # type: ignore[no-any-return]

    def join(self, session: SessionKey, room: Address, mode: Mode = Mode.PUSH) -> Deferred[bool]:
        raise NotImplementedError

    def leave(self, session: SessionKey, room: Address) -> Deferred[bool]:
        raise NotImplementedError

    def members(self, address: Address) -> Deferred[int]:
        return self._give("members", 5, address)  # type: ignore[no-any-return]

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        return self._give("revoke", None, user, not_before_s)  # type: ignore[no-any-return]

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        return self._give("mailbox", Mailbox(1, 1, 0, 0), user)  # type: ignore[no-any-return]

    def nodes(self) -> Mapping[str, NodeInfo]:
        return self.known

    def drain(self, incarnation: str, rate: int) -> Deferred[int]:
        return self._give("drain", 1, incarnation, rate)  # type: ignore[no-any-return]

    def undrain(self, incarnation: str) -> Deferred[int]:
        return self._give("undrain", 2, incarnation)  # type: ignore[no-any-return]
