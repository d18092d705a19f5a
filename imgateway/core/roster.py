"""The sessions of a node, by user.

Sessions are very many, and most users have one: it stands in the table itself, and a tuple stands there only
for those who have more. So nobody needs a key object, nor a second table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from imgateway.core.session import Session
from imgateway.frames import SessionKey

__all__ = ("Roster",)


class Roster:
    """At most one session for each device of a user."""

    def __init__(self) -> None:
        self._users: dict[str, Session | tuple[Session, ...]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def users(self) -> int:
        """How many users they are of."""
        return len(self._users)

    def __iter__(self) -> Iterator[Session]:
        """Those of the users who are there now; users may come and go while they are read."""
        return chain.from_iterable(map(self.of, tuple(self._users)))

    def at(self, user: str) -> Session | tuple[Session, ...]:
        """As they stand in the table: the user's one session, or all of them."""
        return self._users.get(user, ())

    def of(self, user: str) -> tuple[Session, ...]:
        """The user's sessions, in the order in which they came."""
        there = self._users.get(user, ())
        return there if isinstance(there, tuple) else (there,)

    def get(self, key: SessionKey) -> Session | None:
        """The session of this user on this device."""
        user, device = key
        if user in self._users:
            for session in self.of(user):
                if session.device == device:
                    return session
        return None

    def has(self, session: Session) -> bool:
        """Whether this very session is there, not another of the same device."""
        return session in self.of(session.user)

    def add(self, session: Session) -> Session | None:
        """Enter a session. :returns: the one of the same device that it takes the place of."""
        user = session.user
        if user not in self._users:
            self._users[user] = session
            self._size += 1
            return None
        old = self.get(session.key)
        if old is not None:
            self.remove(old)
        there = self.of(user)
        self._users[user] = (*there, session) if there else session
        self._size += 1
        return old

    def remove(self, session: Session) -> None:
        """Take out a session that is there."""
        rest = tuple(one for one in self.of(session.user) if one is not session)
        if rest:
            self._users[session.user] = rest if len(rest) > 1 else rest[0]
        else:
            del self._users[session.user]
        self._size -= 1
