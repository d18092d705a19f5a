"""A session's place in a durable log that is not its mailbox: a topic, or what is sent to a service.

It is for its log what the session itself is for the mailbox, and whoever moves the one moves the other: the
two have the same names for what they are asked. It lives as long as the link over which its client
subscribed; how far the device has got in the log is the broker's to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgateway.core.cursor import Cursor
from imgateway.core.parking import Parking
from imgateway.frames import Address, LogKey, SessionKey

if TYPE_CHECKING:
    from imgateway.core.session import Follows, Session

__all__ = ("Follow",)


class Follow(Cursor):
    """Clogged and of epoch 0 until it is put in its place: what arrives meanwhile only raises the head.

    :ivar session: whose it is.
    :ivar reading: a read of it is on its way, or waits for its turn.
    :ivar receipts: its client acknowledges what it gets from here.
    """

    __slots__ = ("log", "parking", "reading", "receipts", "session")

    def __init__(self, session: Session, log: LogKey) -> None:
        super().__init__(0, 0, 0, 0)
        self.clog()
        self.session = session
        self.log = log
        self.parking: Parking | None = None
        self.reading = False
        self.receipts = True

    @property
    def address(self) -> Address:
        return self.log.address

    @property
    def link(self) -> Any:
        return self.session.link

    @property
    def follows(self) -> Follows | None:
        return self.session.follows

    @property
    def form(self) -> Any:
        return self.session.form

    @property
    def key(self) -> SessionKey:
        return self.session.key

    @property
    def user(self) -> str:
        return self.session.user

    @property
    def device(self) -> str:
        return self.session.device

    @property
    def generation(self) -> int:
        return self.session.generation
