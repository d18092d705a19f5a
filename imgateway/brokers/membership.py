"""Who is in which room, and how many are there; who is told that somebody came or left, and once.

A session is in a room from its first join until it leaves or ends. A newer generation of the same session is
the same member, so a client that lost its connection and resumes is no event. There is one record for each
session in a room, and rooms may be large: a record is a number and a tuple, and what is the same for all
members of a room stands there once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from imgateway.frames import Address, SessionKey

__all__ = ("Membership",)

Told = Callable[[SessionKey, Address], None]


class _Stay(NamedTuple):
    """Being in a room, which belongs to these areas; shared by those who came to the same."""

    room: Address
    areas: tuple[str, ...]


class _Member(Struct, gc=False, eq=False):
    generation: int
    stays: tuple[_Stay, ...] = ()


class _Room(Struct, gc=False, eq=False):
    stay: _Stay
    members: int = 0


class Membership:
    """The rooms that have members.

    :param entered: `IBrokerListener.entered`; must not raise, and may call back.
    :param left: `IBrokerListener.left`, likewise.
    """

    def __init__(self, entered: Told, left: Told) -> None:
        self.stays = 0
        """Sessions in rooms, counted once for each room."""
        self._entered = entered
        self._left = left
        self._rooms: dict[Address, _Room] = {}
        self._members: dict[SessionKey, _Member] = {}
        self._areas: Counter[str] = Counter()
        # Told in the order in which it happened, also if whoever is told of one thing does another.
        self._news: deque[tuple[Told, SessionKey, Address]] = deque()
        self._telling = False

    def join(self, session: SessionKey, generation: int, room: Address, areas: tuple[str, ...]) -> None:
        """The session is in the room from now on; areas that changed since its last join count anew."""
        member = self._members.get(session)
        if member is None:
            member = self._members[session] = _Member(generation)
        member.generation = generation
        there = self._rooms.get(room)
        if there is None:
            there = self._rooms[room] = _Room(_Stay(room, areas))
        elif there.stay.areas != areas:
            there.stay = _Stay(room, areas)
        others = _without(member.stays, room)
        is_new = len(others) == len(member.stays)
        if is_new or there.stay not in member.stays:
            self._stay(member, (*others, there.stay))
        if is_new:
            there.members += 1
            self.stays += 1
            self._news.append((self._entered, session, room))
            self._tell()

    def leave(self, session: SessionKey, generation: int, room: Address) -> None:
        """The session is not in the room any more."""
        member = self._members.get(session)
        if member is None:
            return
        others = _without(member.stays, room)
        if len(others) == len(member.stays):
            return
        member.generation = generation
        self._stay(member, others)
        if not others:
            del self._members[session]
        self._gone(session, room)
        self._tell()

    def end(self, session: SessionKey, generation: int) -> None:
        """The session ended with this generation; a newer one's rooms are not touched."""
        member = self._members.get(session)
        if member is None or member.generation > generation:
            return
        del self._members[session]
        stays = member.stays
        self._stay(member, ())
        for stay in stays:
            self._gone(session, stay.room)
        self._tell()

    def members(self, address: Address) -> int:
        """Sessions in a room, or in any room of an area."""
        if address.kind == "area":
            return self._areas[address.id]
        there = self._rooms.get(address)
        return there.members if there is not None else 0

    def _gone(self, session: SessionKey, room: Address) -> None:
        there = self._rooms[room]
        there.members -= 1
        self.stays -= 1
        if not there.members:
            del self._rooms[room]
        self._news.append((self._left, session, room))

    def _tell(self) -> None:
        if self._telling:
            return
        self._telling = True
        while self._news:
            told, session, room = self._news.popleft()
            told(session, room)
        self._telling = False

    def _stay(self, member: _Member, stays: tuple[_Stay, ...]) -> None:
        """Put the member into these rooms instead, and count it once in each of their areas."""
        before = {area for stay in member.stays for area in stay.areas}
        after = {area for stay in stays for area in stay.areas}
        member.stays = stays
        for area in after - before:
            self._areas[area] += 1
        for area in before - after:
            self._areas[area] -= 1
            if not self._areas[area]:
                del self._areas[area]


def _without(stays: tuple[_Stay, ...], room: Address) -> tuple[_Stay, ...]:
    return tuple([stay for stay in stays if stay.room != room])
