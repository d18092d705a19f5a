from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import walk_stack
from typing import Any

import msgspec
import pytest

from imgateway.frames import Address, Outcome, OutcomeCode
from imgateway.router.tasks.database import STATEMENT_S
from imgateway.router.tasks.orders import Said
from imgateway.router.tasks.store import RESENT
from imgateway.router.tasks.tables import ItemState
from tests.router.tasks.rig import EPOCH, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    with rig.database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")  # out of the transaction, in which it cannot be set
        connection.exec_driver_sql("PRAGMA synchronous = OFF")  # the tests end no power
    yield rig
    rig.close()


def user(n: int) -> Address:
    return Address("user", str(n))


def check_exactly_once(rig: Rig, number: int, many: int) -> None:
    assert rig.gateway.taken() == {f"user:{n}": 1 for n in range(1, many + 1)}
    found = rig.store.standing(number, range(6), 0, 1_000)
    assert [(one.n, one.state, one.epoch, one.seq) for one in found] == [
        (n, ItemState.TAKEN, EPOCH, 1) for n in range(1, many + 1)
    ]
    task = rig.get()
    assert (task.state, task.unsent, task.refused, task.owner) == ("done", 0, 0, "")


# ------------------------------------------------------------------------------------------- exactly once


def test_everybody_gets_it_in_publishes_of_many(rig: Rig) -> None:
    number = rig.task(250)
    router = rig.router(window=200)
    router.run(2)
    check_exactly_once(rig, number, 250)
    assert max(len(one.to) for one in rig.gateway.publishes) == 100
    assert {one.msg_id for one in rig.gateway.publishes} == {"t"}
    assert {(one.body, one.content_type, one.qos, one.resent) for one in rig.gateway.publishes} == {
        (b"hi", "text/plain", 1, False)
    }


def test_lines_with_fields_of_their_own_have_ids_of_their_own(rig: Rig) -> None:
    number = rig.task(3, own='{"body":"aG8=","content_type":"x/y","ttl_s":5,"headers":[["a","b"]]}')
    rig.router().run(1)
    check_exactly_once(rig, number, 3)
    assert [(one.msg_id, one.body, one.content_type, one.ttl_s) for one in rig.gateway.publishes] == [
        (f"t.{n}", b"ho", "x/y", 5) for n in (1, 2, 3)
    ]
    assert rig.gateway.publishes[0].headers == (("a", "b"),)


def test_a_task_that_was_begun_by_an_older_version_goes_on_under_its_ids(rig: Rig) -> None:
    """It wrote none of what stands between the parts of an id: a point."""
    number = rig.task(1, own='{"body":"aG8="}')
    router = rig.router()
    router.run(1)
    rig.store.judge(number, [(1, ItemState.GONE, 1)])
    rig.store.repush("t", False, None, 0)
    router.run(2)
    assert [one.msg_id for one in rig.gateway.publishes] == ["t.1", "t.1.r1"]


@pytest.mark.parametrize("bad", [("nowhere:2", None), ("user:2", '{"ttl_s":"long"}')])
def test_an_item_that_cannot_be_said_is_refused_and_the_others_go_on(rig: Rig, bad: Any) -> None:
    """Uploads take none, so it came into the database in another way."""
    number = rig.store.begin("t", "", "service:shop", b'{"msg_id":"t","content_type":"","body":""}', 0, 0)
    rig.store.add(number, [(1, "user:1", None), (2, *bad), (3, "user:3", None)])
    rig.store.complete(number, 3, 0, "[]")
    rig.router().run(2)
    assert rig.gateway.taken() == {"user:1": 1, "user:3": 1}
    (found,) = [one for one in rig.store.standing(number, range(6), 0, 10) if one.n == 2]
    assert (found.state, found.code) == (ItemState.REFUSED, OutcomeCode.UNKNOWN)
    assert (rig.get().state, rig.get().refused) == ("done", 1)


def test_who_is_listed_twice_has_it_once(rig: Rig) -> None:
    number = rig.store.begin("t", "", "service:shop", b'{"msg_id":"t","content_type":"","body":""}', 0, 0)
    rig.store.add(number, [(1, "user:1", None), (2, "user:1", None)])
    rig.store.complete(number, 2, 0, "[]")
    rig.router().run(1)
    assert rig.gateway.taken() == {"user:1": 1}
    assert {one.seq for one in rig.store.standing(number, {1}, 0, 9)} == {1}
    assert [one.code for one in rig.store.standing(number, {1}, 0, 9)] == [0, 1]


def put_hint(rig: Rig, many: int) -> int:
    """A push for later with qos 0."""
    message = msgspec.json.encode(Said("m", "text/plain", b"hi", qos=0))
    values = {"name": "", "sender": "service:shop", "message": message, "rate": 0.0, "at_ms": 0}
    return rig.store.put("t", values, [(n, f"user:{n}", None) for n in range(1, many + 1)]).number


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_hint_that_may_have_been_given_is_not_repeated(rig: Rig, how: str) -> None:
    """The database goes away between the push and what should be written of it."""
    number = put_hint(rig, 2)
    rig.gateway.held = True
    first = rig.router()
    first.run(0.5)
    assert len(rig.gateway.publishes) == 1
    first.calls.fails = 1_000_000
    if how == "stopped":
        first.runner.stop()
        rig.gateway.answer()
        first.run(9)
    first.calls.dead = True
    rig.later(15.1)
    rig.gateway.held = False
    second = rig.router(owner="r2")
    second.run(3)
    assert [one.qos for one in rig.gateway.publishes] == [0]
    assert rig.get().state == "done"
    found = rig.store.standing(number, range(6), 0, 9)
    assert [(one.n, one.state, one.code) for one in found] == [(n, ItemState.UNKNOWN, 0) for n in (1, 2)]
    assert second.runner.outcomes["unknown"] == 2


def test_nor_is_one_whose_push_failed(rig: Rig) -> None:
    put_hint(rig, 7)
    rig.gateway.fails = True
    router = rig.router()
    router.run(0.5)
    rig.gateway.fails = False
    router.run(5)
    assert [[to.id for to in one.to] for one in rig.gateway.publishes] == [list("12345"), ["6", "7"]]
    assert (rig.get().state, rig.get().unsent) == ("done", 0)


def test_a_hint_is_not_taken_for_given_because_one_before_it_failed(rig: Rig) -> None:
    """101 to 120 go out as far as the window allows, and fail; those after them were never pushed."""
    number = put_hint(rig, 150)
    router = rig.router(window=120, lags=True)
    publish = rig.gateway.publish

    def fails_second(*said: Any) -> Any:
        rig.gateway.fails = len(rig.gateway.publishes) == 1
        return publish(*said)

    rig.gateway.publish = fails_second  # type: ignore[method-assign]
    router.run(6)
    assert [int(one.to[0].id) for one in rig.gateway.publishes] == [1, 101, 121]
    assert {to.id for one in rig.gateway.publishes for to in one.to} == {str(n) for n in range(1, 151)}
    assert len(rig.store.standing(number, range(6), 0, 1_000)) == 150
    assert rig.get().state == "done"


@pytest.mark.parametrize("twice", ["listed", "uploaded"])
def test_a_repush_after_a_refusal_makes_no_second_message_for_who_has_it(rig: Rig, twice: str) -> None:
    """Refused once, for the mailbox was full, and taken under the same id later."""
    rows = [(1, "user:1", None), (2, "user:1", None)]
    message = b'{"msg_id":"m","content_type":"","body":""}'
    router = rig.router()
    rig.gateway.refuses = {user(1): OutcomeCode.FULL}
    take = rig.gateway._take

    def take_and_make_room(to: Address, key: tuple[str, str, str]) -> Outcome:
        outcome = take(to, key)
        rig.gateway.refuses = {}
        return outcome

    rig.gateway._take = take_and_make_room  # type: ignore[method-assign]
    for id, some in (("a", rows),) if twice == "listed" else (("a", rows[:1]), ("b", rows[:1])):
        number = rig.store.begin(id, "", "service:shop", message, 0, 0)
        rig.store.add(number, some)
        rig.store.complete(number, len(some), 0, "[]")
        router.run(2)
    assert (rig.get("a").state, rig.get("a").refused) == ("done", 1)
    assert rig.store.repush("a", False, None, 0).unsent == 1
    router.run(2)
    assert (rig.get("a").state, rig.get("a").refused) == ("done", 0)
    assert rig.gateway.taken() == {"user:1": 1}


@pytest.mark.parametrize("lags", [False, True], ids=["at-once", "later"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("own", [None, '{"body":"aG8="}'], ids=["same", "own"])
def test_killed_at_any_call_and_resumed_elsewhere_nobody_misses_it_or_has_it_twice(
    rig: Rig, after: bool, own: str | None, lags: bool
) -> None:
    """Every call of the store and every publish, before it had its effect and after."""
    dies_at = 0
    died: list[str] = []
    while True:
        dies_at += 1
        number = rig.task(12, own=own)
        first = rig.router(dies_at, after, lags=lags)
        first.run(3)
        if not first.calls.dead:
            break
        died.append(first.calls.names[-1])
        rig.later(15.1)
        rig.router(owner="r2", lags=lags).run(3)
        check_exactly_once(rig, number, 12)
        rig.forget()
        rig.gateway.logs.clear()
    check_exactly_once(rig, number, 12)
    assert {"claim", "unsent", "write", "publish"} <= set(died)
    assert len(died) >= 12


def test_a_process_that_stood_still_pushes_nothing_until_it_knows_that_the_task_is_its_own(rig: Rig) -> None:
    rig.task(100, rate=10.0)
    first = rig.router()
    first.run(2)
    rig.later(20)
    second = rig.router(owner="r2", window=100)
    second.run(0.3)
    assert rig.get().owner == "r2"
    pushed = len(rig.gateway.publishes)
    first.clock.advance(20)  # it goes on, and its rate would let it catch up
    first.run(2)
    assert len(rig.gateway.publishes) == pushed
    assert first.runner.running == 0  # another router has it
    second.run(15)
    assert rig.gateway.taken() == {f"user:{n}": 1 for n in range(1, 101)}


def test_who_cannot_reach_the_database_for_long_stops_pushing(rig: Rig) -> None:
    rig.task(100, rate=2.0)
    router = rig.router(window=90)
    router.run(2)
    router.calls.fails = 1_000_000
    router.run(15)
    pushed = sum(len(one.to) for one in rig.gateway.publishes)
    router.run(10)
    assert sum(len(one.to) for one in rig.gateway.publishes) == pushed < 50
    router.calls.fails = 0
    router.run(90)
    assert rig.get().state == "done"
    assert set(rig.gateway.taken().values()) == {1}


def test_who_takes_over_says_which_messages_may_be_there(rig: Rig) -> None:
    rig.task(12)
    first = rig.router(dies_at=6)
    first.run(1)
    assert first.calls.dead
    rig.gateway.publishes.clear()
    rig.later(15.1)
    rig.router(owner="r2").run(3)
    assert all(one.resent for one in rig.gateway.publishes)
    assert RESENT >= 5_000  # the largest window


@pytest.mark.parametrize("what", ["stopped", "paused"])
def test_who_gives_it_back_before_all_is_pushed_again_hands_that_on(rig: Rig, what: str) -> None:
    """The first was killed, the second takes over and cannot push; only the third can."""
    rig.task(12)
    rig.gateway.held = True
    first = rig.router(window=5)
    first.run(0.5)
    first.calls.dead = True
    rig.later(15.1)
    rig.gateway.fails = True
    second = rig.router(owner="r2")
    if what == "stopped":
        second.runner.stop()
    else:
        rig.store.change("t", "pause")
        second.run(2)
        rig.store.change("t", "resume")
        second.calls.dead = True
    task = rig.get()
    assert (task.owner, task.until_ms) == ("r2", 0)  # nobody has it, and something is not known
    rig.gateway.fails = rig.gateway.held = False
    rig.gateway.publishes.clear()
    rig.router(owner="r3").run(3)
    assert all(one.resent for one in rig.gateway.publishes)
    assert rig.gateway.taken() == {f"user:{n}": 1 for n in range(1, 13)}
    assert (rig.get().state, rig.get().owner) == ("done", "")


def test_a_push_that_failed_before_it_was_given_back_is_said_to_be_one(rig: Rig) -> None:
    rig.task(12)
    rig.gateway.fails = True
    first = rig.router()
    first.run(0.5)
    first.runner.stop()
    assert rig.get().until_ms == 0
    rig.gateway.fails = False
    rig.gateway.publishes.clear()
    rig.router(owner="r2").run(3)
    assert all(one.resent for one in rig.gateway.publishes)


@pytest.mark.parametrize("qos", [1, 0])
def test_a_repush_says_which_messages_may_be_there(
    rig: Rig, qos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was refused comes before those whom a dead router had pushed to last, and may be more than a
    window; and who pushes them again may die as well, before it comes to those."""
    monkeypatch.setattr("imgateway.router.tasks.store.RESENT", 5)
    monkeypatch.setattr("imgateway.router.tasks.tenure.RESENT", 5)
    number = put_hint(rig, 30) if qos == 0 else rig.task(30)
    rig.gateway.refuses = {user(n): OutcomeCode.FULL for n in range(1, 13)}
    take = rig.gateway._take

    def take_and_hold(to: Address, key: tuple[str, str, str]) -> Outcome:
        rig.gateway.held |= to == user(13)
        return take(to, key)

    rig.gateway._take = take_and_hold  # type: ignore[method-assign]
    first = rig.router(window=4)
    first.run(1)
    first.calls.dead = True
    assert rig.gateway.taken() == {f"user:{n}": 1 for n in (13, 14, 15, 16)}
    id = rig.store.page(0, 1)[0].id
    rig.store.change(id, "cancel")
    rig.later(15.1)
    rig.gateway.refuses, rig.gateway.held, rig.gateway._take = {}, False, take  # type: ignore[method-assign]
    rig.gateway.publishes.clear()
    assert rig.store.repush(id, False, None, 0).owner == ""
    rig.router(owner="r2", dies_at=5, window=4).run(1)
    rig.later(15.1)
    rig.router(owner="r3", window=4).run(5)
    pushed = [(int(to.id), one.resent) for one in rig.gateway.publishes for to in one.to]
    assert {n for n, resent in pushed if resent} >= ({13, 14, 15, 16} if qos else set())
    assert not [n for n, resent in pushed if n in (13, 14, 15, 16, 17) and not resent]
    assert [n for n, resent in pushed if not resent] == [1, 2, 3, 4, *range(6, 13), *range(18, 31)]
    assert set(rig.gateway.taken().values()) == {1}
    assert (rig.get(id).state, rig.get(id).unsent, rig.get(id).owner) == ("done", 0, "")
    states = {one.n: one.state for one in rig.store.standing(number, range(6), 0, 99)}
    assert states[9] == ItemState.TAKEN
    assert states[13] == (ItemState.TAKEN if qos else ItemState.UNKNOWN)


def test_pushes_that_fail_use_up_nothing_of_what_may_be_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.router.tasks.tenure.RESENT", 10)
    rig.task(20)
    first = rig.router(window=10)
    rig.gateway.held = True
    first.run(0.5)
    first.calls.dead = True
    rig.later(15.1)
    rig.gateway.held, rig.gateway.fails = False, True
    second = rig.router(owner="r2")
    second.run(10)
    rig.gateway.fails = False
    rig.gateway.publishes.clear()
    second.run(20)
    pushed = [(one.to[0].id, one.resent) for one in rig.gateway.publishes]
    assert pushed == [("1", True), ("6", True), ("11", False), ("16", False)]


def test_two_that_push_the_same_make_one_message(rig: Rig) -> None:
    """The first was only held up: it comes back when the second is done already."""
    number = rig.task(12)
    rig.gateway.held = True
    first = rig.router()
    first.run(0.2)
    rig.gateway.held = False
    rig.later(15.1)
    rig.router(owner="r2").run(3)
    check_exactly_once(rig, number, 12)
    pushed = len(rig.gateway.publishes)
    rig.gateway.answer()
    first.run(3)
    check_exactly_once(rig, number, 12)
    assert len(rig.gateway.publishes) == pushed
    assert first.runner.running == 0


def test_an_answer_that_comes_after_the_lease_was_lost_is_nobodys(rig: Rig) -> None:
    number = rig.task(12)
    rig.gateway.held = True
    first = rig.router()
    first.run(0.2)
    rig.later(15.1)
    rig.gateway.held = False
    rig.router(owner="r2").run(3)
    first.run(1)  # finds that it has no lease
    assert first.runner.running == 0
    rig.gateway.answer()
    check_exactly_once(rig, number, 12)


def test_a_lapsed_task_that_its_own_router_takes_again_goes_on_at_once(rig: Rig) -> None:
    """The machine's clock was set, or there was an outage: what it knew of the task counts no more."""
    number = rig.task(12)
    router = rig.router()
    rig.gateway.held = True
    router.run(1.2)
    rig.later(20)
    router.runner.look(0)
    router.run(0.1)
    assert rig.get().tenure == 2
    rig.gateway.held = False
    rig.gateway.answer()
    assert router.runner.running == 1
    router.run(2)
    check_exactly_once(rig, number, 12)
    assert router.runner.running == 0
    router.run(20)
    assert rig.get().tenure == 2


@pytest.mark.parametrize("lost", [False, True], ids=["was-its-own", "was-anothers"])
def test_what_was_asked_before_it_took_the_task_again_revives_and_ends_nothing(rig: Rig, lost: bool) -> None:
    number = rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.2)
    if lost:
        rig.later(20)
        rig.store.claim("other", 1)
    router.calls.held = []
    router.run(0.6)
    [answer_write] = router.calls.held
    router.calls.held = None
    rig.later(20)
    router.runner.look(0)
    router.run(0.1)
    assert rig.get().tenure == 2 + lost
    writes = router.calls.names.count("write")
    answer_write()
    assert router.runner.running == 1
    rig.gateway.answer(1)
    assert router.calls.names.count("write") == writes  # it would not be its own
    rig.gateway.held = False
    rig.gateway.answer()
    router.run(3)
    check_exactly_once(rig, number, 12)


# ------------------------------------------------------------------------------------------ the outcomes


def test_refusals_keep_their_code_and_rooms_have_no_reader(rig: Rig) -> None:
    number = rig.store.begin("t", "", "service:shop", b'{"msg_id":"t","content_type":"","body":""}', 0, 0)
    rows = [(1, "user:1", None), (2, "user:2", None), (3, "room:3", None), (4, "topic:4", None)]
    rig.store.add(number, rows)
    rig.store.complete(number, 4, 0, "[]")
    rig.gateway.refuses[user(2)] = OutcomeCode.FULL
    rig.router().run(1)
    found = rig.store.standing(number, range(6), 0, 9)
    assert [(one.state, one.code) for one in found] == [
        (ItemState.TAKEN, 0),
        (ItemState.REFUSED, OutcomeCode.FULL),
        (ItemState.UNKNOWN, 0),
        (ItemState.UNKNOWN, 0),
    ]
    assert (rig.get().refused, rig.get().unsent) == (1, 0)


def test_what_is_on_its_way_never_exceeds_the_window(rig: Rig) -> None:
    rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(3)
    assert sum(len(one.to) for one in rig.gateway.publishes) == 5
    router.calls.held = []
    rig.gateway.answer()
    router.run(1)
    assert sum(len(one.to) for one in rig.gateway.publishes) == 5  # answered, but not written down
    router.calls.let()
    router.calls.held = None
    router.run(0.1)
    assert sum(len(one.to) for one in rig.gateway.publishes) == 10


@pytest.mark.parametrize("window", [100, 1_000])
def test_outcomes_that_are_there_at_once_nest_nothing(
    rig: Rig, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals and duplicates are known without asking anybody, and a line with fields of its own is one
    publish: a call in a call for each would end at Python's limit."""
    number = rig.task(1_500, own='{"body":"aG8="}')
    router = rig.router(window=window, lags=True)
    router.calls.prompt = ("publish",)
    depths: set[int] = set()
    publish = rig.gateway.publish

    def measured(*arguments: Any) -> Any:
        depths.add(len(list(walk_stack(sys._getframe()))))
        return publish(*arguments)

    monkeypatch.setattr(rig.gateway, "publish", measured)
    router.run(10)
    assert rig.gateway.taken() == {f"user:{n}": 1 for n in range(1, 1_501)}
    assert (rig.get().state, rig.store.counts(number)) == ("done", [(ItemState.TAKEN, 0, 1_500)])
    assert max(depths) - min(depths) < 10


def test_what_cannot_be_pushed_together_is_tried_whole_before_the_task_is_given_back(rig: Rig) -> None:
    """One of a publish's addresses is none, so they go one by one, and their outcomes are there at once."""
    number = rig.store.begin("t", "", "service:shop", b'{"msg_id":"t","content_type":"","body":""}', 0, 0)
    rows = [(1, "user:1", None), (2, "user:2", None), (3, "nowhere:3", None), (4, "user:4", None)]
    rig.store.add(number, rows)
    rig.store.complete(number, 4, 0, "[]")
    router = rig.router(window=4, lags=True)
    router.calls.prompt = ("publish",)
    router.run(3)
    assert [to.id for one in rig.gateway.publishes for to in one.to] == ["1", "2", "4"]
    assert (rig.get().state, rig.get().refused, rig.get().tenure) == ("done", 1, 1)


def test_progress_is_written_down_within_half_a_second(rig: Rig) -> None:
    rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.1)
    rig.gateway.held = False
    rig.gateway.answer(1)
    router.run(0.5)
    assert rig.get().unsent < 12


@pytest.mark.parametrize(("rate", "most"), [(10.0, 13), (200.0, 251), (0.5, 2)])
def test_the_rate_is_kept(rig: Rig, rate: float, most: int) -> None:
    rig.task(300, rate=rate)
    router = rig.router(window=500)
    router.run(1)
    pushed = sum(len(one.to) for one in rig.gateway.publishes)
    assert rate * 0.7 - 1 <= pushed <= most
    router.run(4)
    after = sum(len(one.to) for one in rig.gateway.publishes)
    assert after == pytest.approx(min(300, rate * 5), rel=0.08, abs=1)


# --------------------------------------------------------------------------------- pause, cancel, schedule


@pytest.mark.parametrize("what", ["pause", "cancel"])
def test_pause_and_cancel_take_effect_within_a_second_from_anywhere(rig: Rig, what: str) -> None:
    number = rig.task(100, rate=10.0)
    router = rig.router()
    router.run(2)
    rig.store.change("t", what)  # by another process
    router.run(0.6)
    pushed = len(rig.gateway.taken())
    router.run(3)
    assert len(rig.gateway.taken()) == pushed < 30
    assert router.runner.running == 0
    task = rig.get()
    assert (task.owner, task.unsent) == ("", 100 - pushed)
    assert len(rig.store.standing(number, {1}, 0, 200)) == pushed


def test_here_they_take_effect_at_once(rig: Rig) -> None:
    number = rig.task(100, rate=10.0)
    router = rig.router()
    router.run(2)
    pushed = len(rig.gateway.taken())
    rig.store.change("t", "pause")
    router.runner.look(number)
    router.runner.look(999)
    assert router.runner.running == 0
    rig.store.change("t", "resume")
    router.runner.look(number)
    router.run(0.2)
    assert router.runner.running == 1
    router.run(20)
    assert pushed < len(rig.gateway.taken()) == 100
    check_exactly_once(rig, number, 100)


def test_resumed_while_it_still_leaves_it_goes_on(rig: Rig) -> None:
    number = rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.2)
    rig.store.change("t", "pause")
    router.run(1)
    assert router.runner.running == 1  # waits for what is on its way
    rig.gateway.held = False
    rig.gateway.waiting, waiting = [], rig.gateway.waiting
    router.run(1)
    assert len(rig.gateway.publishes) == 1
    rig.store.change("t", "resume")
    router.run(0.6)
    rig.gateway.waiting = waiting
    rig.gateway.answer()
    router.run(1)
    check_exactly_once(rig, number, 12)
    assert router.calls.names.count("claim") > 0


def test_what_was_paused_when_its_last_user_had_it_is_done_when_it_is_resumed(rig: Rig) -> None:
    number = rig.task(3)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.2)
    rig.store.change("t", "pause")
    rig.gateway.answer()
    router.run(1)
    assert (rig.get().state, rig.get().unsent) == ("paused", 0)
    rig.store.change("t", "resume")
    router.run(2)
    check_exactly_once(rig, number, 3)


def test_a_task_waits_for_its_time(rig: Rig) -> None:
    number = rig.task(3, at_ms=1_700_000_000_000 + 5_000)
    router = rig.router()
    router.run(3)
    assert rig.gateway.publishes == []
    rig.later(5)
    router.run(1.1)
    check_exactly_once(rig, number, 3)


def test_some_run_side_by_side_and_others_wait(rig: Rig) -> None:
    for id in "abc":
        rig.task(30, rate=10.0, id=id)
    router = rig.router(at_once=2)
    router.run(2)
    assert router.runner.running == 2
    assert [rig.get(id).owner for id in "abc"] == ["r1", "r1", ""]
    router.run(8)
    assert [rig.get(id).state for id in "abc"] == ["done"] * 3


def test_tasks_long_over_are_swept(rig: Rig) -> None:
    for id in "abc":
        rig.task(3, id=id)
    router = rig.router()
    router.run(1)
    rig.later(1_001)
    router.run(605)
    assert rig.store.page(0, 9) == []


# ------------------------------------------------------------------------------------------- what goes wrong


def test_a_gateway_that_does_not_answer_is_waited_for(rig: Rig) -> None:
    """Redis is away: links stay, nothing fails, and it goes on by itself."""
    number = rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(40)
    assert rig.get().state == "running"
    assert rig.get().owner == "r1"
    rig.gateway.held = False
    rig.gateway.answer()
    router.run(2)
    check_exactly_once(rig, number, 12)


@pytest.mark.parametrize("raises", [False, True])
def test_a_publish_that_failed_is_repeated(rig: Rig, raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    number = rig.task(12)
    rig.gateway.fails = True
    router = rig.router()
    if raises:
        monkeypatch.setattr(rig.gateway, "publish", refuse)
    router.run(10)
    assert len(rig.gateway.publishes) < 8  # ever more rarely
    monkeypatch.undo()
    rig.gateway.publishes.clear()
    rig.gateway.fails = False
    router.run(30)
    check_exactly_once(rig, number, 12)
    assert [one.resent for one in rig.gateway.publishes] == [True, False, False]


def refuse(*arguments: Any) -> Any:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("lost", [False, True], ids=["away", "answers-lost"])
def test_a_database_that_is_away_is_waited_for(rig: Rig, lost: bool) -> None:
    number = rig.task(60, rate=10.0)
    router = rig.router()
    router.run(2)
    if lost:
        router.calls.loses = 4
    else:
        router.calls.fails = 4
    router.run(60)
    check_exactly_once(rig, number, 60)


def test_a_read_that_failed_is_repeated(rig: Rig) -> None:
    number = rig.task(3)
    router = rig.router()
    router.run(0.1)
    check_exactly_once(rig, number, 3)
    rig.forget()
    rig.gateway.logs.clear()
    number = rig.task(3)
    router = rig.router(owner="r2")
    router.calls.fails = 1
    router.runner.look(number)
    router.run(3)
    check_exactly_once(rig, number, 3)


@pytest.mark.parametrize("name", ["claim", "unsent", "write"])
def test_a_call_that_cannot_even_be_begun_is_one_that_failed(rig: Rig, name: str) -> None:
    """The process has as many threads as it may have. Nothing is lost, and nothing waits for it for ever."""
    number = rig.task(12)
    router = rig.router()
    router.calls.raises = (name,)
    router.run(3)
    assert (False, "push tasks: the database cannot be used: can't start new thread") in router.health
    router.calls.raises = ()
    router.run(10)
    check_exactly_once(rig, number, 12)
    assert router.health[-1] == (True, "")


def test_without_a_database_it_is_not_well(rig: Rig) -> None:
    router = rig.router()
    router.calls.fails = 10**6
    router.run(3)
    assert router.health == [
        (True, ""),
        (False, "push tasks: the database cannot be used: the server is away"),
    ]
    router.calls.fails = 0
    router.run(2)
    assert router.health[2:] == [(True, "")]


def test_who_has_no_place_for_a_further_task_knows_it_as_well(rig: Rig) -> None:
    """It takes none, so nothing but what runs asks the database."""
    number = rig.task(12)
    router = rig.router(at_once=1)
    rig.gateway.held = True
    router.run(1)
    router.calls.fails = 10**6
    router.run(2)
    assert [ok for ok, _ in router.health] == [True, False]
    router.calls.fails = 0
    rig.gateway.held = False
    rig.gateway.answer()
    router.run(40)
    assert [ok for ok, _ in router.health] == [True, False, True]
    check_exactly_once(rig, number, 12)


def test_a_database_that_says_nothing_is_away(rig: Rig) -> None:
    """It is frozen, and closes nothing: a call may never come back."""
    number = rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.5)
    router.calls.held = []
    router.run(STATEMENT_S)
    assert router.health == [(True, "")]
    router.run(1.5)
    why = f"push tasks: the database cannot be used: it has not answered for {STATEMENT_S} s"
    assert router.health[1:] == [(False, why)]
    router.run(60)
    assert len(router.health) == 2
    answers, router.calls.held = router.calls.held, None
    answers[0]()
    assert len(router.health) == 2  # others are still waited for
    for answer in answers[1:]:
        answer()
    assert router.health[2:] == [(True, "")]
    rig.gateway.held = False
    rig.gateway.answer()
    router.run(2)
    check_exactly_once(rig, number, 12)


def test_that_another_has_the_task_is_no_fault_of_the_database(rig: Rig) -> None:
    rig.task(12)
    rig.gateway.held = True
    first = rig.router()
    first.run(0.2)
    rig.later(15.1)
    rig.router(owner="r2").run(1)
    first.run(1)
    assert first.runner.running == 0
    assert first.health == [(True, "")]


def test_a_bug_is_logged(rig: Rig, flush_logged_errors: Callable[..., list[Any]]) -> None:
    rig.task(3)
    router = rig.router()
    rig.gateway._take = lambda to, key: None  # type: ignore[method-assign, assignment, return-value]
    router.run(1)
    assert len(flush_logged_errors(AttributeError)) == 1


# -------------------------------------------------------------------------------------------------- the end


def test_a_router_that_stops_gives_its_tasks_back(rig: Rig) -> None:
    number = rig.task(100, rate=10.0)
    router = rig.router()
    router.run(2)
    done: list[None] = []
    router.runner.stop().addCallback(done.append)
    assert done == [None]
    assert rig.get().owner == ""
    assert router.clock.getDelayedCalls() == []
    rig.router(owner="r2").run(15)
    check_exactly_once(rig, number, 100)
    assert not any(one.resent for one in rig.gateway.publishes)


def test_it_waits_some_seconds_for_what_is_on_its_way(rig: Rig) -> None:
    number = rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.2)
    done: list[None] = []
    router.runner.stop().addCallback(done.append)
    router.run(3)
    assert done == []
    rig.gateway.answer()
    router.run(0.3)
    assert done == [None]
    assert (rig.get().owner, rig.get().unsent) == ("", 7)
    assert router.clock.getDelayedCalls() == []
    rig.gateway.held = False
    rig.router(owner="r2").run(5)
    check_exactly_once(rig, number, 12)


def test_and_no_longer(rig: Rig) -> None:
    rig.task(12)
    rig.gateway.held = True
    router = rig.router()
    router.run(0.2)
    done: list[None] = []
    router.runner.stop().addCallback(done.append)
    router.run(9)
    assert done == [None]
    assert rig.get().owner == "r1"  # until the lease ends
    assert router.clock.getDelayedCalls() == []


def test_a_task_that_is_just_being_taken_when_it_stops_is_given_back(rig: Rig) -> None:
    router = rig.router()
    rig.task(3)
    router.calls.held = []
    router.run(1.2)
    done: list[None] = []
    router.runner.stop().addCallback(done.append)
    for _ in range(8):
        router.calls.let()
        router.run(0.1)
    assert done == [None]
    assert (rig.get().tenure, rig.get().owner, rig.gateway.publishes) == (1, "", [])
    assert router.clock.getDelayedCalls() == []


def test_nothing_to_stop(rig: Rig) -> None:
    router = rig.router()
    done: list[None] = []
    router.runner.stop().addCallback(done.append)
    assert done == [None]
    assert router.clock.getDelayedCalls() == []


def test_a_sweep_that_failed_is_tried_again_soon(rig: Rig) -> None:
    rig.task(3)
    router = rig.router()
    router.run(1)
    rig.later(1_001)
    router.run(599)
    router.calls.fails = 2
    router.run(6)
    assert rig.store.page(0, 9) == []


@pytest.mark.server
@pytest.mark.network
@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_two_routers_share_the_tasks_of_one_database(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    """One of them is killed in the middle; the other takes over what it had."""
    rig = Rig(tmp_path, request.getfixturevalue(kind).url())
    try:
        for id in "abc":
            rig.task(30, rate=10.0, id=id)
        first, second = rig.router(at_once=2), rig.router(owner="r2", at_once=2)
        for _ in range(10):
            first.run(0.1)
            second.run(0.1)
        owners = [rig.get(id).owner for id in "abc"]
        assert owners == ["r1", "r1", "r2"]
        first.calls.dead = True
        second.run(4)
        assert [rig.get(id).state for id in "abc"] == ["running", "running", "done"]
        rig.later(15.1)
        second.run(6)
        assert [rig.get(id).state for id in "abc"] == ["done"] * 3
        assert rig.gateway.taken() == {f"user:{n}": 3 for n in range(1, 31)}  # one of each task
    finally:
        rig.close()
