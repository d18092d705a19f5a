"""What sessions owe the disk is written in steps: messages do not wait for the positions of thousands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from imgateway.brokers import sessions, unsaved
from imgateway.frames import SessionKey, log_of, parse_address
from imgateway.testing.disk import Rig, disk_error, opening

STEP, OWING = 4, 10
SAVES = "SET platform"


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(unsaved, "SAVE_STEP", STEP)
    one = Rig(tmp_path / "data").start()
    for n in range(OWING):
        opened = one.now(opening(one.broker, one.claim(f"user{n}")))
        one.publish(f"user:user{n}", msg_id=str(n))
        one.run()
        acknowledge(one, n, opened.generation)
    return one


def acknowledge(rig: Rig, n: int, generation: int) -> None:
    mailbox = log_of(parse_address(f"user:user{n}"))
    rig.broker.advance(SessionKey(f"user{n}", "phone"), generation, [(mailbox, 1)])


def acked(rig: Rig) -> list[int]:
    return [rig.now(rig.broker.mailbox(f"user{n}")).seen for n in range(OWING)]


def statements(rig: Rig) -> list[str]:
    seen: list[str] = []
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: bool(seen.append(statement)))
    return seen


def test_a_step_is_a_commit_and_messages_go_with_the_first(rig: Rig) -> None:
    seen = statements(rig)
    rig.broker._sessions.flush()
    rig.publish("user:mary", msg_id="m")
    rig.run()
    commits = "\n".join(seen).split("BEGIN IMMEDIATE")[1:]
    assert [SAVES in commit for commit in commits] == [True, True, True]
    assert "INSERT INTO log" in commits[0]
    assert rig.broker._sessions._unsaved._dirty == {}
    rig.now(rig.broker.stop())


def test_what_comes_to_be_owed_meanwhile_is_for_the_next_time(rig: Rig) -> None:
    flushed = rig.broker._sessions
    flushed.flush()
    extra = rig.later(opening(rig.broker, rig.claim("late")))
    rig.run()
    [late] = extra
    saves = statements(rig)
    mailbox = log_of(parse_address("user:late"))
    rig.broker.advance(SessionKey("late", "phone"), late.generation, [(mailbox, 0)])
    rig.run()
    assert not any(SAVES in one for one in saves)
    rig.pass_time(6)
    assert sum(SAVES in one for one in saves) == 1
    rig.now(rig.broker.stop())


def test_who_leaves_is_written_at_once_and_the_others_wait_no_longer_for_it(rig: Rig) -> None:
    saves = statements(rig)
    rig.pass_time(4)
    for n in range(2):
        (late,) = rig.later(opening(rig.broker, rig.claim(f"user{n}")))
        closing = rig.later(rig.broker.close_session(SessionKey(f"user{n}", "phone"), late.generation))
        rig.run()
        assert closing == [None]
    assert sum(SAVES in one for one in saves) == 2
    rig.pass_time(1)
    assert sum(SAVES in one for one in saves) == 2 + 2
    assert rig.broker._sessions._unsaved._dirty == {}
    rig.now(rig.broker.stop())


def test_thousands_who_leave_at_once_are_written_in_steps(rig: Rig) -> None:
    saves = statements(rig)
    closing = []
    for n in range(OWING):
        session = SessionKey(f"user{n}", "phone")
        generation = rig.broker._tails.of(f"user{n}").seat("phone").generation
        closing.append(rig.later(rig.broker.close_session(session, generation)))
    rig.run()
    assert closing == [[None]] * OWING
    assert sum(SAVES in one for one in saves) == 4, "the first alone, which found nobody before it"
    rig.crash()
    assert acked(rig) == [1] * OWING
    rig.now(rig.broker.stop())


def test_who_stays_has_a_turn_beside_those_who_go(rig: Rig) -> None:
    """During each commit one goes who owes something."""
    flushed = rig.broker._sessions

    def goes(n: int) -> None:
        generation = rig.broker._tails.of(f"user{n}").seat("phone").generation
        acknowledge(rig, n, generation)
        rig.broker.close_session(SessionKey(f"user{n}", "phone"), generation)

    goes(0)
    flushed.flush()
    for n in range(1, 6):
        rig.steps.choices()[0]()  # a commit
        goes(n)
        rig.steps.report()
    assert {f"user{n}" for n in range(6, OWING)}.isdisjoint(
        one.user for one in flushed._unsaved._dirty.values()
    )
    rig.now(rig.broker.stop())


def test_a_stop_in_the_midst_of_it_writes_all(rig: Rig, tmp_path: Path) -> None:
    rig.broker._sessions.flush()
    rig.now(rig.broker.stop())
    rig.new()
    rig.start()
    assert acked(rig) == [1] * OWING
    rig.now(rig.broker.stop())


def test_a_step_that_fails_is_written_again_and_the_others_follow(rig: Rig) -> None:
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: SAVES in statement)
    rig.broker._sessions.flush()
    rig.pass_time(1)
    rig.disk.mend()
    rig.pass_time(10)
    assert rig.broker._sessions._unsaved._dirty == {}
    rig.crash()
    assert acked(rig) == [1] * OWING
    rig.now(rig.broker.stop())


def test_who_is_online_and_idle_is_written_now_and_then_a_few_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TOUCH_STEP", STEP)
    idle = rig.broker._sessions
    away = rig.now(opening(rig.broker, rig.claim("away")))
    rig.now(rig.broker.close_session(SessionKey("away", "phone"), away.generation))
    saves = statements(rig)
    rig.pass_time(20)
    assert sum(SAVES in one for one in saves) == 3, "what they owe since they came"
    rig.wall_ms += sessions.TOUCH_MS
    dirty = [0]
    for _ in range(8):  # some round, and a whole one
        idle.touch()
        dirty.append(len(idle._unsaved._dirty))
    assert dirty[-1] == OWING
    assert max(after - before for before, after in pairwise(dirty)) <= STEP
    rig.pass_time(20)
    assert sum(SAVES in one for one in saves) == 6
    rig.now(rig.broker.stop())


def test_a_user_who_left_while_the_others_were_looked_at_is_passed_over(rig: Rig) -> None:
    idle = rig.broker._sessions
    rig.pass_time(20)
    idle._touching = iter(("user0", "nobody"))
    rig.wall_ms += 2 * sessions.TOUCH_MS
    idle.touch()
    assert list(idle._unsaved._dirty.values()) == [SessionKey("user0", "phone")]
    rig.now(rig.broker.stop())
