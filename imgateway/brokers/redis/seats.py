"""The sessions that are open at this node, as the broker knows them: by user, since most users have one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from imgateway.brokers.tails import Seat
from imgateway.frames import SessionKey

__all__ = ("Seats",)


class Seats:
    """At most one seat for each device of a user. What stands here was claimed; whether it still is ours,
    only the primary knows."""

    def __init__(self) -> None:
        self._users: dict[str, Seat | tuple[Seat, ...]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def of(self, user: str) -> tuple[Seat, ...]:
        """In the order in which they came."""
        there = self._users.get(user, ())
        return there if isinstance(there, tuple) else (there,)

    def get(self, session: SessionKey) -> Seat | None:
        for seat in self.of(session.user):
            if seat.device == session.device:
                return seat
        return None

    def users(self) -> Iterator[str]:
        """Those who are there now; they may come and go while they are read."""
        return iter(tuple(self._users))

    def all(self) -> Iterator[tuple[SessionKey, Seat]]:
        return chain.from_iterable(
            [(SessionKey(user, seat.device), seat) for seat in self.of(user)] for user in self.users()
        )

    def add(self, user: str, seat: Seat) -> None:
        """There is none of this device."""
        there = self.of(user)
        self._users[user] = (*there, seat) if there else seat
        self._size += 1

    def remove(self, user: str, seat: Seat) -> None:
        rest = tuple(one for one in self.of(user) if one is not seat)
        if rest:
            self._users[user] = rest if len(rest) > 1 else rest[0]
        else:
            del self._users[user]
        self._size -= 1
