"""Who is in which room: told once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imgateway.brokers.membership import Membership
from imgateway.frames import Address, SessionKey

BOB, EVE = SessionKey("bob", "phone"), SessionKey("eve", "web")
SEVEN, EIGHT = Address("room", "7"), Address("room", "8")


class Desk:
    """A membership whose listener writes down, and then does `next`, once."""

    def __init__(self) -> None:
        self.told: list[tuple[str, SessionKey, Address]] = []
        self.next: Callable[[], object] | None = None
        self.membership = Membership(self.teller("entered"), self.teller("left"))

    def teller(self, name: str) -> Callable[[SessionKey, Address], None]:
        def tell(session: SessionKey, room: Address) -> None:
            self.told.append((name, session, room))
            then, self.next = self.next, None
            if then is not None:
                then()

        return tell

    def counts(self, *addresses: Address) -> list[int]:
        return [self.membership.members(address) for address in addresses]


def test_the_first_join_and_the_last_leave_are_told() -> None:
    desk = Desk()
    rooms = desk.membership
    for generation in (1, 1, 2):
        rooms.join(BOB, generation, SEVEN, ())
    rooms.join(EVE, 5, SEVEN, ())
    assert desk.told == [("entered", BOB, SEVEN), ("entered", EVE, SEVEN)]
    assert (desk.counts(SEVEN, EIGHT), rooms.stays) == ([2, 0], 2)
    for _ in range(2):
        rooms.leave(BOB, 2, SEVEN)
    rooms.leave(EVE, 5, EIGHT)
    assert desk.told[2:] == [("left", BOB, SEVEN)]
    rooms.end(EVE, 5)
    rooms.end(EVE, 5)
    assert desk.told[3:] == [("left", EVE, SEVEN)]
    assert (desk.counts(SEVEN), rooms.stays, rooms._rooms, rooms._members) == ([0], 0, {}, {})


def test_an_old_generations_end_does_not_touch_what_a_newer_one_joined() -> None:
    desk = Desk()
    desk.membership.join(BOB, 3, SEVEN, ())
    desk.membership.end(BOB, 2)
    assert desk.told == [("entered", BOB, SEVEN)]
    desk.membership.end(BOB, 4)
    assert desk.told[1:] == [("left", BOB, SEVEN)]


def test_a_session_counts_once_in_an_area_however_many_of_its_rooms_it_is_in() -> None:
    desk = Desk()
    rooms = desk.membership
    games, news = Address("area", "games"), Address("area", "news")
    rooms.join(BOB, 1, SEVEN, ("games", "games"))
    rooms.join(BOB, 1, EIGHT, ("games", "news"))
    rooms.join(EVE, 1, EIGHT, ("games", "news"))
    assert desk.counts(games, news) == [2, 2]
    rooms.leave(BOB, 1, EIGHT)
    assert desk.counts(games, news) == [2, 1]
    rooms.end(BOB, 1)
    rooms.end(EVE, 1)
    assert desk.counts(games, news) == [0, 0]
    assert not rooms._areas


def test_a_room_that_changes_its_areas_counts_anew_for_who_joins_again() -> None:
    desk = Desk()
    rooms = desk.membership
    old, new = Address("area", "old"), Address("area", "new")
    for session in (BOB, EVE):
        rooms.join(session, 1, SEVEN, ("old",))
    rooms.join(BOB, 1, SEVEN, ("new",))
    assert (desk.counts(old, new), len(desk.told)) == ([1, 1], 2)
    for session in (BOB, EVE):
        rooms.end(session, 1)
    assert not rooms._areas


def test_what_a_listener_does_is_told_after_what_it_was_told() -> None:
    desk = Desk()
    rooms = desk.membership
    rooms.join(BOB, 1, SEVEN, ())
    rooms.join(BOB, 1, EIGHT, ())
    desk.next = lambda: rooms.join(BOB, 2, EIGHT, ())
    rooms.end(BOB, 1)
    assert desk.told[2:] == [("left", BOB, SEVEN), ("left", BOB, EIGHT), ("entered", BOB, EIGHT)]
    assert desk.counts(SEVEN, EIGHT) == [0, 1]


SESSIONS = [SessionKey(user, device) for user in "ab" for device in "xy"]
ROOMS = [Address("room", name) for name in ("g.1", "g.2", "n.1", "z")]
AREAS: dict[str, tuple[str, ...]] = {"g.1": ("g",), "g.2": ("g", "both"), "n.1": ("n", "both"), "z": ()}


class Model(RuleBasedStateMachine):
    """Against a set of (session, room), with generations that come, are displaced and end."""

    sessions = st.sampled_from(SESSIONS)
    rooms = st.sampled_from(ROOMS)

    @initialize()
    def begin(self) -> None:
        self.desk = Desk()
        self.rooms_of: dict[SessionKey, set[Address]] = {}
        self.generation = 0
        self.current: dict[SessionKey, int] = {}
        self.expected: list[tuple[str, SessionKey, Address]] = []

    @rule(session=sessions)
    def open(self, session: SessionKey) -> None:
        self.generation += 1
        self.current[session] = self.generation

    @rule(session=sessions, room=rooms)
    def join(self, session: SessionKey, room: Address) -> None:
        if session in self.current:
            self.desk.membership.join(session, self.current[session], room, AREAS[room.id])
            if room not in self.rooms_of.setdefault(session, set()):
                self.rooms_of[session].add(room)
                self.expected.append(("entered", session, room))

    @rule(session=sessions, room=rooms)
    def leave(self, session: SessionKey, room: Address) -> None:
        if session in self.current:
            self.desk.membership.leave(session, self.current[session], room)
            if room in self.rooms_of.get(session, ()):
                self.rooms_of[session].discard(room)
                self.expected.append(("left", session, room))

    @precondition(lambda self: self.current)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        session = data.draw(st.sampled_from(sorted(self.current)))
        for _ in range(2):
            self.desk.membership.end(session, self.current[session])
        told = self.desk.told[len(self.expected) :]
        assert sorted(told) == sorted(("left", session, room) for room in self.rooms_of.pop(session, ()))
        self.expected += told
        del self.current[session]

    @invariant()
    def it_was_told_once_and_the_counts_are_right(self) -> None:
        rooms = self.desk.membership
        assert self.desk.told == self.expected
        for room in ROOMS:
            assert rooms.members(room) == sum(room in there for there in self.rooms_of.values())
        for area in ("g", "n", "both"):
            inside = [any(area in AREAS[room.id] for room in there) for there in self.rooms_of.values()]
            assert rooms.members(Address("area", area)) == sum(inside)
        assert rooms.stays == sum(map(len, self.rooms_of.values()))


TestModel = Model.TestCase
TestModel.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
