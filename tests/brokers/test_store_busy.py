"""What waits for a store that cannot write, or be read, is bounded: who asks for more is told, and nothing of
it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from imgateway.config import BrokerSettings
from imgateway.errors import CloseCode, StoreBusy
from imgateway.frames import LogKey, Position, SessionKey, log_of, parse_address, user_address
from imgateway.interfaces import Claim, Followed, Opened, Verdict
from imgateway.testing.disk import Rig, disk_error, opening

MOST = 5


def topic(name: Any) -> LogKey:
    return log_of(parse_address(f"topic:{name}"))


class House(Rig):
    """A store for which little may wait. `bob` is known, and follows two topics."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, settings=BrokerSettings(waiting_entries=MOST))
        self.start()
        self.bob = SessionKey("bob", "phone")
        self.generation = self.now(opening(self.broker, self.claim("bob"))).generation
        for name in "ab":
            self.follow(name)
        self.run()

    def fill(self) -> None:
        """The disk is full, and as much waits for it as may."""
        assert self.disk is not None
        self.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
        self.boxes = [self.follow(n) for n in range(MOST)]
        self.pass_time(1)
        assert self.boxes == [[]] * MOST

    def mend(self) -> None:
        assert self.disk is not None
        self.disk.mend()
        self.pass_time(3)

    def follow(self, name: Any) -> list[Any]:
        return self.later(self.broker.follow(self.bob, self.generation, topic(name), 0))

    def unfollow(self, name: Any) -> list[Any]:
        return self.later(self.broker.unfollow(self.bob, self.generation, topic(name)))

    def login(self, user: str, device: str = "phone") -> list[Any]:
        answers: list[Any] = []
        claim: Claim = self.claim(user, device)
        self.broker.open_session(claim, answers.append, ())
        self.run()
        return answers

    def followed(self) -> set[str]:
        """What the disk says."""
        self.stop()
        self.new()
        self.start()
        (opened,) = self.login("bob")
        return {place.log.address.id for place in opened.places[1:]}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "data")


def test_one_more_to_follow_is_refused_and_the_others_are_served(house: House) -> None:
    house.fill()
    for _ in range(3):
        with pytest.raises(StoreBusy):
            house.now(house.broker.follow(house.bob, house.generation, topic("more"), 0))
    assert house.follow("a") == [Followed(True, 0)], "it has its place already"
    house.mend()
    assert house.boxes == [[Followed(False, 0)]] * MOST
    assert house.now(house.broker.follow(house.bob, house.generation, topic("again"), 0)) == Followed(
        False, 0
    )
    assert house.followed() == {"a", "b", "again", *map(str, range(MOST))}


def test_what_is_followed_can_be_left_and_what_is_not_is_left_already(house: House) -> None:
    house.fill()
    gone = [house.unfollow(name) for name in ("a", "b", 0)]
    assert gone == [[], [], []]
    assert house.unfollow("c") == [None]
    for name in ("a", "b", 0):  # it is on its way, and needs no second one
        with pytest.raises(StoreBusy):
            house.now(house.broker.unfollow(house.bob, house.generation, topic(name)))
    house.mend()
    assert gone == [[None]] * 3
    assert house.followed() == set(map(str, range(1, MOST)))


def test_to_leave_twice_waits_for_the_disk_twice(house: House) -> None:
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    boxes = [house.unfollow("a"), house.unfollow("a")]
    house.pass_time(1)
    assert boxes == [[], []]
    house.mend()
    assert boxes == [[None], [None]]
    assert house.followed() == {"b"}


def test_who_follows_again_before_it_has_left_can_leave_once_more(house: House) -> None:
    """It is the last word that counts: refused, the device would stand there, and hold back what the topic
    may lose, though its client was told that it is being done."""
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    boxes = [house.unfollow("a"), house.follow("a"), *[house.follow(n) for n in range(MOST - 2)]]
    last = house.unfollow("a")
    assert [*boxes, last] == [[]] * (MOST + 1)
    with pytest.raises(StoreBusy):
        house.now(house.broker.unfollow(house.bob, house.generation, topic("a")))
    house.mend()
    assert (boxes[0], boxes[1], last) == ([None], [Followed(False, 0)], [None])
    assert house.followed() == {"b", "0", "1", "2"}


def test_a_device_that_is_new_is_turned_away_and_one_that_is_known_is_not(house: House) -> None:
    house.fill()
    generation, online = house.generation, house.broker._sessions.online
    (failure,) = house.login("ann")
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, StoreBusy)
    assert failure.value.code is CloseCode.UNAVAILABLE
    assert failure.value.retry_after_s > 0
    (again,) = house.login("bob")
    assert isinstance(again, Opened)
    assert again.generation > generation
    assert house.broker._sessions.online == online
    assert house.broker._tails.of("ann") is None, "nothing is left of it"
    house.mend()
    (later,) = house.login("ann")
    assert isinstance(later, Opened)


def test_new_devices_count_too(house: House) -> None:
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    boxes = [house.login(f"ann{n}") for n in range(MOST + 2)]
    assert [len(box) for box in boxes] == [0] * MOST + [1, 1]
    # One that waits may come again: it takes its own place.
    again = house.login("ann0")
    assert again == []
    house.mend()
    assert [box[0].verdict for box in (*boxes[:MOST], again)] == [Verdict.OUTRUN, *[Verdict.OK] * MOST]


def test_positions_of_those_who_leave_take_no_place_of_others(house: House) -> None:
    known = [house.bob.user, *(f"ann{n}" for n in range(MOST))]
    for user in known:
        house.login(user)
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    closing: dict[str, list[list[Any]]] = {user: [] for user in known}
    for seq in range(1, 4):
        for user in known:
            (opened,) = house.login(user)
            session = SessionKey(user, "phone")
            house.broker.advance(session, opened.generation, [(topic("a"), seq)])
            closing[user].append(house.later(house.broker.close_session(session, opened.generation)))
    house.pass_time(60)
    assert house.broker._changes == 1
    assert len(house.broker._sessions._unsaved._dirty) == len(known), "one each, however often they came"
    assert house.login("eve") == [], "it waits for the disk, and is not turned away"
    house.mend()
    assert [box for boxes in closing.values() for box in boxes] == [[None]] * 3 * len(known)
    assert not house.broker._sessions._unsaved._dirty
    house.crash()
    for user in known:
        (opened,) = house.login(user)
        assert next(place.acked for place in opened.places if place.log == topic("a")) == 3


def test_who_is_forgotten_while_its_position_waits_owes_none(house: House) -> None:
    assert house.disk is not None
    house.login("ann")
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    house.broker.advance(house.bob, house.generation, [(topic("a"), 1)])
    house.later(house.broker.close_session(house.bob, house.generation))
    ann, closing = SessionKey("ann", "phone"), []
    for forget in (False, True):
        (opened,) = house.login("ann")
        house.broker.advance(ann, opened.generation, [(topic("a"), 1)])
        closing.append(house.later(house.broker.close_session(ann, opened.generation, forget)))
    assert closing == [[None], []]
    house.mend()
    assert closing == [[None], [None]]
    (opened,) = house.login("ann")
    assert not opened.known


def test_positions_wait_for_those_before_them(house: House) -> None:
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("BEGIN"))
    for seq in range(1, 5):
        house.broker.advance(house.bob, house.generation, [(topic("a"), seq)])
        house.pass_time(6)
    assert house.broker._changes == 1
    house.mend()
    house.pass_time(6)
    assert house.broker._changes == len(house.broker._sessions._unsaved._dirty) == 0
    house.crash()
    places = house.login("bob")[0].places
    assert next(place.acked for place in places if place.log == topic("a")) == 4


def test_a_log_gets_no_new_epoch_then(house: House) -> None:
    house.fill()
    log = log_of(user_address("bob"))
    with pytest.raises(StoreBusy):
        house.now(house.broker.reset_log(log))
    house.mend()
    before = house.now(house.broker.watch(log)).epoch
    assert house.now(house.broker.reset_log(log)).epoch != before
    assert house.broker._sessions.waiting == 0


def test_a_disk_that_cannot_be_read_has_as_many_questions_waiting(house: House) -> None:
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_IOERR"), lambda statement: "SELECT" in statement)
    waiting = [house.later(house.broker.watch(topic(f"w{n}"))) for n in range(MOST)]
    house.pass_time(1)
    assert waiting == [[]] * MOST
    with pytest.raises(StoreBusy):
        house.now(house.broker.watch(topic("more")))
    with pytest.raises(StoreBusy):
        house.broker.open_session(house.claim("ann"), lambda opened: None, ())
    assert house.broker._tails.of("ann") is None, "nothing is left of it"
    house.mend()
    assert [len(box) for box in waiting] == [1] * MOST
    assert house.now(house.broker.watch(topic("more"))).head == 0


def test_who_is_known_without_asking_logs_in_while_the_disk_cannot_be_read(house: House) -> None:
    (ann,) = house.login("ann")
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_IOERR"), lambda statement: "SELECT" in statement)
    waiting = [house.later(house.broker.watch(topic(f"w{n}"))) for n in range(MOST)]
    house.pass_time(1)
    (again,) = house.login("ann")
    assert again.generation > ann.generation
    with pytest.raises(StoreBusy):
        house.login("eve")
    house.mend()
    assert [len(box) for box in waiting] == [1] * MOST


def test_who_is_answered_by_a_disk_that_can_be_read_again_may_ask_on(house: House) -> None:
    for n in range(MOST):
        house.login(f"ann{n}")
    house.stop()
    house.new()
    house.start()
    assert house.disk is not None
    house.disk.fail(disk_error("SQLITE_IOERR"), lambda statement: "SELECT" in statement)
    watched: list[list[Any]] = []

    def opened(answer: Any) -> None:
        watched.extend(house.later(house.broker.watch(topic(f"{name}{len(watched)}"))) for name in "ab")

    for n in range(MOST):
        house.broker.open_session(house.claim(f"ann{n}"), opened, ())
    house.pass_time(1)
    assert watched == []
    house.mend()
    assert [type(answer) for box in watched for answer in box] == [Position] * (2 * MOST)
