"""Who is in which room, in Redis: counted for all nodes, and each coming and going is told once, at one node.

A stay belongs to a generation of a session and to the node that it came to. A newer generation takes it
over without a word, and what an older one says then counts no more. So a client that moves to another node
stays in its rooms until the node that it left closes the older generation, which leaves what nobody took
over.

Beside it stands here which rooms this node's sessions are in, for they end without naming them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed

from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.turns import Turns
from imgateway.core.counters import Counters
from imgateway.errors import TAKEN_OVER
from imgateway.frames import Address, SessionKey, address_text, parse_address

__all__ = ("RedisRooms",)

ENTER, LEAVE, REAP, SCAN = 0, 1, 2, 3
REAPED = 500
"""Stays of a node that one call looks at."""

Told = Callable[[SessionKey, Address], None]


class _Stay(NamedTuple):
    """In a room: the generation that joined it last, and the areas that the room belongs to."""

    generation: int
    areas: tuple[str, ...]


class _Member(Struct, gc=False, eq=False):
    """A session of this node."""

    generation: int
    rooms: dict[Address, _Stay]


class RedisRooms:
    """Everything by keyword.

    :param entered: `IBrokerListener.entered`; must not raise. :param left: likewise.
    """

    def __init__(
        self,
        *,
        primaries: Primaries,
        reactor: Any,
        entered: Told,
        left: Told,
    ) -> None:
        self._primaries = primaries
        self._entered = entered
        self._left = left
        self._turns = Turns(reactor=reactor, script="room", node=primaries.incarnation)
        self._members: dict[SessionKey, _Member] = {}
        # The data of a primary that this node's stays are in.
        self._data: dict[Primary, tuple[int, int]] = {}
        self.stays = 0
        """Sessions of this node in rooms, counted once for each room."""

    def stop(self) -> None:
        """What was asked is on its way."""
        self._turns.stop()

    # --------------------------------------------------------------------------------------- coming and going

    def join(
        self, session: SessionKey, generation: int, room: Address, areas: tuple[str, ...] = ()
    ) -> Deferred[None]:
        """The session, whose current generation this is, is in the room from now on; areas that changed since
        its last join count anew."""
        member = self._members.get(session)
        if member is None:
            member = self._members[session] = _Member(generation, {})
        member.generation = generation
        before = _areas(member)
        self.stays += room not in member.rooms
        member.rooms[room] = _Stay(generation, areas)
        after = _areas(member)
        for area in sorted(
            after.difference(before).union(areas)
        ):  # in those of this room newly as this generation
            self._ask(ENTER, session, generation, Address("area", area))
        for area in sorted(before - after):
            self._ask(LEAVE, session, generation, Address("area", area))
        return self._ask(ENTER, session, generation, room)

    def leave(self, session: SessionKey, generation: int, room: Address) -> Deferred[None]:
        """The session, whose current generation this is, is not in the room any more."""
        member = self._members.get(session)
        if member is None or room not in member.rooms:
            return self._ask(LEAVE, session, generation, room)  # an older generation may have been, elsewhere
        member.generation = max(member.generation, generation)
        return self._leave(session, member, generation, [room])

    def end(self, session: SessionKey, generation: int) -> Deferred[None]:
        """The session ended with this generation; what a newer one has is not touched."""
        member = self._members.get(session)
        if member is None or member.generation > generation:
            return succeed(None)
        return self._leave(session, member, generation, [*member.rooms])

    def _leave(
        self, session: SessionKey, member: _Member, generation: int, rooms: list[Address]
    ) -> Deferred[None]:
        before = _areas(member)
        for room in rooms:
            del member.rooms[room]
        self.stays -= len(rooms)
        for area in sorted(before - _areas(member)):
            self._ask(LEAVE, session, generation, Address("area", area))
        if not member.rooms:
            del self._members[session]
        leaving = [self._ask(LEAVE, session, generation, room) for room in rooms]
        return gatherResults(leaving).addCallback(lambda _: None)

    def displaced(self, session: SessionKey, generation: int, code: int) -> Deferred[None]:
        """A generation must go; fires when it may be told. With it the session ends, unless a newer one
        of the same device goes on: then it stays in its rooms until its node closes it."""
        if code in TAKEN_OVER:
            return succeed(None)
        ended = self.end(session, generation)
        away = not all(primary.answers for primary in self._primaries.each())
        # Whoever must go does not stay because its rooms cannot be written.
        return succeed(None) if away else ended

    def _ask(self, what: int, session: SessionKey, generation: int, address: Address) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        text = address_text(address)
        primary, bucket = self._primaries.of(text)
        self._data.setdefault(primary, (primary.generation, primary.epoch))
        told = None
        if address.kind == "room":
            told = self._left if what == LEAVE else self._entered

        def answered(changed: int) -> None:
            if changed and told is not None:
                told(session, address)
            done.callback(None)

        asked = [what, bucket, text, "\0".join(session), generation]
        self._turns.ask(primary, asked, answered, len(text))
        return done

    # ------------------------------------------------------------------------------------------------ upkeep

    def renewed(self, primary: Primary) -> None:
        """What this node wrote there last may be lost: if so, it is written again, without a word."""
        data = primary.generation, primary.epoch
        if self._data.get(primary, data) != data:
            self._data[primary] = data
            self._write_again(lambda session, address: None, primary)
            self._compare(primary, b"0")

    def _compare(self, primary: Primary, cursor: bytes) -> None:
        """Who left just before may be back with a promoted replica: that is said again, without a word."""

        def found(answer: list[Any]) -> None:
            after, *stays = answer
            for text, member, generation in zip(stays[::3], stays[1::3], stays[2::3], strict=True):
                address, session = parse_address(text.decode()), SessionKey(*member.decode().split("\0"))
                if not self._is_in(session, address):
                    _, bucket = self._primaries.of(text.decode())
                    asked = [LEAVE, bucket, text, member, generation]
                    self._turns.ask(primary, asked, partial(_told_if, None), len(text))
            if after != b"0":
                self._compare(primary, after)

        self._turns.ask(primary, [SCAN, cursor, REAPED], found, changes=False)

    def _is_in(self, session: SessionKey, address: Address) -> bool:
        member = self._members.get(session)
        if member is None:
            return False
        return address.id in _areas(member) if address.kind == "area" else address in member.rooms

    def reclaim(self, primary: Primary) -> None:
        """Others took this node for gone, and told that its members left: they are in their rooms again."""
        self._write_again(self._entered, primary)

    def _write_again(self, told: Told, only: Primary) -> None:
        for session, member in self._members.items():
            areas = [Address("area", area) for area in sorted(_areas(member))]
            for address in (*member.rooms, *areas):
                text = address_text(address)
                primary, bucket = self._primaries.of(text)
                if primary is only:
                    tell = partial(told, session, address) if address.kind == "room" else None
                    asked = [ENTER, bucket, text, "\0".join(session), member.generation]
                    self._turns.ask(primary, asked, partial(_told_if, tell), len(text))

    def reap(self, primary: Primary, node: str) -> Deferred[bool]:
        """Another node is gone: its members have left what nobody took over, so many at a time. True: there
        are more."""
        more: Deferred[bool] = Deferred()

        def reaped(answer: list[Any]) -> None:
            for text, member in zip(answer[1::2], answer[2::2], strict=True):
                address = parse_address(text.decode())
                if address.kind == "room":
                    self._left(SessionKey(*member.decode().split("\0")), address)
            more.callback(bool(answer[0]))

        self._turns.ask(primary, [REAP, node, REAPED], reaped)
        return more

    # ----------------------------------------------------------------------------------------------- numbers

    def members(self, address: Address) -> Deferred[int]:
        """Sessions in a room, or in any room of an area, at all nodes."""
        text = address_text(address)
        primary, bucket = self._primaries.of(text)
        # Not by the line that reads: it would overtake who joined just now.
        self._turns.flush()
        return primary.call("members", bucket, text)

    def measure(self, counters: Counters) -> None:
        """Set what is counted here."""
        counters.room_members = self.stays


def _areas(member: _Member) -> set[str]:
    return {area for stay in member.rooms.values() for area in stay.areas}


def _told_if(tell: Callable[[], None] | None, changed: int) -> None:
    if changed and tell is not None:
        tell()
