"""What clients asked for in case they are gone: how long to wait for them, and what to publish then.

Few greetings ask for any of it, so it stands beside the sessions, and the others cost nothing. It is in
memory: a process that dies says nobody's last will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from imgateway.core.session import Session
from imgateway.errors import CloseCode
from imgateway.frames import Address, Hello, Publish

__all__ = ("Partings",)

BY_ORDER = "newest-order-wins"


class Parting(Struct):
    """`linger_s` negative: as the node has it. `will` None: said, or there was none. `order` None: its wire
    has no such rule. `forget`: its device ends with the session if nobody waits for its client. `left`: what
    its link followed, or an older one, of which nothing was to be kept, and which is not undone yet."""

    linger_s: float
    will: Publish | None
    delay_s: float
    order: int | None
    forget: bool
    left: dict[Address, None] = {}


class Partings:
    """:param publish: publishes a will in the name of a session.

    :param now: monotonic seconds.
    :param arm: ``arm(due, wake)`` on the node's wheel.
    """

    def __init__(
        self,
        publish: Callable[[Session, Publish], None],
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
    ) -> None:
        self._publish = publish
        self._now = now
        self._arm = arm
        self._partings: dict[Session, Parting] = {}

    def __len__(self) -> int:
        return len(self._partings)

    def greeted(self, session: Session, hello: Hello, left: Iterable[Address]) -> None:
        """Note what the greeting of this session asks for. `left`: as for `leaves`, of an older one."""
        order = hello.order if hello.on_same_device == BY_ORDER else None
        if hello.will is not None or hello.linger_s >= 0 or order is not None:
            forget = hello.assigned and session.device == hello.device
            delay_s = max(0.0, hello.will_delay_s)
            self._partings[session] = Parting(hello.linger_s, hello.will, delay_s, order, forget)
        self.leaves(session, left)

    def wait(self, session: Session, linger_s: float) -> None:
        """Its client has thought better of how long to wait for it; negative: as the node has it."""
        self._parting(session).linger_s = linger_s

    def _parting(self, session: Session) -> Parting:
        return self._partings.setdefault(session, Parting(-1.0, None, 0.0, None, False))

    def forgets(self, session: Session) -> bool:
        """Whether its device ends with it."""
        parting = self._partings.get(session)
        return parting is not None and parting.forget and not parting.linger_s

    def is_brief(self, session: Session) -> bool:
        """Whether its client wants nothing kept of it beyond its link."""
        parting = self._partings.get(session)
        return parting is not None and not parting.linger_s

    def code_for(self, old: Session, new: Session) -> CloseCode:
        """What the link of `old` is closed with, which has the same device as `new`: a client that connects
        once more in the same login is told of nothing."""
        one, other = self._partings.get(old), self._partings.get(new)
        same = one is not None and other is not None and one.order is not None and one.order == other.order
        return CloseCode.STALE if same else CloseCode.REPLACED

    def linger_s(self, session: Session, most: float) -> float:
        """How long to wait for its client: `most` seconds, or what it asked for if that is less."""
        parting = self._partings.get(session)
        return most if parting is None or parting.linger_s < 0 else min(most, parting.linger_s)

    def lost(self, session: Session, most: float) -> None:
        """Its link is gone, and it did not say goodbye: its will is due now, or later, or when the session
        ends, which is after `linger_s`."""
        parting = self._partings.get(session)
        if parting is None or parting.will is None:
            return
        if not parting.delay_s:
            self._say(session, parting)
        elif parting.delay_s < self.linger_s(session, most):
            self._arm(self._now() + parting.delay_s, lambda now: self._due(session, parting))

    def _due(self, session: Session, parting: Parting) -> None:
        if self._partings.get(session) is parting:
            self._say(session, parting)

    def due(self, session: Session) -> None:
        """It is over for its client, whoever has its place; it is still in its rooms."""
        parting = self._partings.get(session)
        if parting is not None:
            self._say(session, parting)

    def _say(self, session: Session, parting: Parting) -> None:
        will, parting.will = parting.will, None
        if will is not None:
            self._publish(session, will)

    def ended(self, session: Session, said_goodbye: bool) -> None:
        """The session ends, and with it the wait; it is still in its rooms."""
        parting = self._partings.pop(session, None)
        if parting is not None and not said_goodbye:
            self._say(session, parting)

    def leaves(self, session: Session, followed: Iterable[Address]) -> None:
        """These were followed over its link, or an older one, and nothing was to be kept of that. It is
        undone when the session ends, but for what is `settled` by then."""
        left = dict.fromkeys(followed)
        if left:
            self._parting(session).left |= left

    def left(self, session: Session) -> Iterable[Address]:
        """What nobody has undone; its session ends."""
        parting = self._partings.get(session)
        return () if parting is None else parting.left

    def settled(self, session: Session, address: Address) -> None:
        """The session follows this itself from now on, or has undone it."""
        parting = self._partings.get(session)
        if parting is not None:
            parting.left.pop(address, None)

    def succeeded(self, old: Session, new: Session) -> None:
        """A newer login has its place."""
        self.leaves(new, self.left(old))
        self.drop(old)

    def drop(self, session: Session) -> None:
        """Somebody else has its place, or nobody waits for it any more: what is not said is not said."""
        self._partings.pop(session, None)
