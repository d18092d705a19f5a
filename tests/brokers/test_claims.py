"""Logins that overlap: at most one live generation of a session, and everybody who lost is told once."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgateway.errors import CloseCode
from imgateway.frames import SessionKey, Start, log_of, parse_address
from imgateway.interfaces import Followed, LoginPolicy, Verdict
from imgateway.testing.disk import Rig, disk_error, opening

MAILBOX = log_of(parse_address("user:bob"))


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path / "data", max_devices=3).start()
    yield rig
    rig.stop()


def opened(rig: Rig, device: str = "phone", **more: Any) -> Any:
    return rig.now(opening(rig.broker, rig.claim("bob", device, **more)))


def close(rig: Rig, device: str, generation: int, forget: bool = False) -> None:
    rig.now(rig.broker.close_session(SessionKey("bob", device), generation, forget))


DEVICES = ("phone", "web", "pad")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.lists(
        st.one_of(
            st.tuples(
                st.just("open"),
                st.sampled_from(DEVICES),
                st.sampled_from(LoginPolicy),
                st.integers(0, 3),
                st.booleans(),
            ),
            st.tuples(st.just("close"), st.integers(0, 9), st.booleans()),
            st.tuples(st.just("revoke"), st.integers(0, 3)),
            st.tuples(st.just("step"), st.integers(0, 9)),
            st.tuples(st.just("run")),
        ),
        max_size=25,
    ),
)
def test_at_most_one_live_generation(seed: int, actions: list[Any]) -> None:
    """A model: the generations that were answered with OK, and neither closed nor displaced, are live."""
    rig = Rig(None, max_devices=2).start()
    live: dict[str, int] = {}
    issued: dict[int, int] = {}
    ended: set[int] = set()
    answered: list[int] = []
    pending = 0

    def displaced(session: SessionKey, generation: int, code: int, reason: str) -> None:
        assert generation not in ended, "told twice"
        assert live.get(session.device) == generation, "told of one that does not live"
        ended.add(generation)
        del live[session.device]

    rig.listener.displaced = displaced  # type: ignore[method-assign]

    def answer(found: Any, device: str, issued_at_s: int) -> None:
        nonlocal pending
        pending -= 1
        if found.verdict == Verdict.OK:
            assert device not in live, "two live generations of a session"
            assert found.generation > max(answered, default=0) or device not in live
            answered.append(found.generation)
            live[device] = found.generation
            issued[found.generation] = issued_at_s

    for action, *values in actions:
        if action == "open":
            device, policy, issued_at_s, ordered = values
            claim = rig.claim(
                "bob",
                device,
                policy=policy,
                issued_at_s=issued_at_s,
                order=issued_at_s,
                platform=device[0],
                on_same_device="newest-order-wins" if ordered else "replace",
            )
            pending += 1
            opening(rig.broker, claim).addCallback(answer, device, issued_at_s)
        elif action == "close" and live:
            device = sorted(live)[values[0] % len(live)]
            generation = live.pop(device)
            ended.add(generation)
            rig.broker.close_session(SessionKey("bob", device), generation, values[1])
        elif action == "revoke":
            rig.broker.revoke("bob", values[0])
            assert all(issued[generation] >= values[0] for generation in live.values())
        elif action == "step":
            if found := rig.steps.choices():
                found[values[0] % len(found)]()
        elif action == "run":
            rig.run(Random(seed))
    rig.run(Random(seed))
    assert pending == 0
    there = {one.session.device: one.generation for one in rig.now(rig.broker.sessions("bob")) if one.online}
    assert there == live
    assert len(set(answered)) == len(answered)
    rig.stop()


def test_a_login_overtaken_before_its_answer(rig: Rig) -> None:
    first = rig.later(opening(rig.broker, rig.claim("bob")))
    second = rig.later(opening(rig.broker, rig.claim("bob")))
    third = rig.later(opening(rig.broker, rig.claim("bob", "web", policy=LoginPolicy.ONE)))
    rig.run()
    assert [box[0].verdict for box in (first, second, third)] == [Verdict.OUTRUN, Verdict.OUTRUN, Verdict.OK]
    assert rig.listener.named("displaced") == []


def test_a_login_revoked_before_its_answer(rig: Rig) -> None:
    box = rig.later(opening(rig.broker, rig.claim("bob", issued_at_s=5)))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    rig.broker.revoke("bob", 6)
    rig.run()
    assert box[0].verdict == Verdict.REVOKED
    assert rig.now(rig.broker.sessions("bob")) == (), "its device is not entered"


def full(rig: Rig) -> None:
    """The disk takes nothing."""
    assert rig.disk is not None
    rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith(("INSERT", "BEGIN")))


def mend(rig: Rig) -> None:
    assert rig.disk is not None
    rig.disk.mend()
    rig.pass_time(5)


def withdrawn(rig: Rig, device: str, **more: Any) -> list[Any]:
    """It asks for its session, waits for as long as a client may, and is gone."""
    claim = rig.claim("bob", device, **more)
    answers = rig.later(opening(rig.broker, claim))
    rig.pass_time(10)
    assert answers == []
    rig.broker.withdraw(claim)
    assert [answer.verdict for answer in answers] == [Verdict.OUTRUN]
    return answers


def names(rig: Rig) -> set[str]:
    return {one.session.device for one in rig.now(rig.broker.sessions("bob"))}


def test_who_gave_up_while_the_disk_was_full_takes_nobodys_place(rig: Rig) -> None:
    """What the others have, and no one else, must be there when they come again."""
    grow(rig, "user:bob", 1)
    for device in ("pad", "phone"):
        generation = opened(rig, device, start=Start.OLDEST).generation
        if device == "pad":
            rig.broker.advance(SessionKey("bob", "pad"), generation, [(MAILBOX, 1)])
        else:
            rig.broker.record(SessionKey("bob", "phone"), generation, b"kept")
        close(rig, device, generation)
    full(rig)
    for n in range(4):
        withdrawn(rig, f"other{n}")
    mend(rig)
    assert names(rig) == {"pad", "phone"}
    assert rig.broker._sessions.waiting == 0
    assert len(rig.broker._tails) == 0
    again = opened(rig)
    assert (again.known, again.places[0].acked, again.record) == (True, 0, b"kept")


def test_who_gave_up_and_comes_again_is_entered(rig: Rig) -> None:
    rig.publish("user:bob", msg_id="1")
    full(rig)
    withdrawn(rig, "phone", start=Start.OLDEST)
    waiting = rig.later(opening(rig.broker, rig.claim("bob", start=Start.HEAD)))
    other = rig.later(opening(rig.broker, rig.claim("carol")))
    mend(rig)
    assert [box[0].verdict for box in (waiting, other)] == [Verdict.OK] * 2
    rig.crash()
    assert opened(rig).known


@pytest.mark.parametrize("is_told_late", [False, True])
def test_who_comes_again_when_it_was_not_entered_already_is_entered_then(
    rig: Rig, is_told_late: bool
) -> None:
    grow(rig, "user:bob", 3)
    claim = rig.claim("bob")
    given_up = rig.later(opening(rig.broker, claim))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    rig.broker.withdraw(claim)
    rig.steps.lanes["writer"].step()
    again = rig.later(opening(rig.broker, rig.claim("bob", start=Start.HEAD)))
    rig.steps.lanes["reader"].step()
    rig.steps.results.rotate(is_told_late)
    rig.run()
    assert [box[0].verdict for box in (given_up, again)] == [Verdict.OUTRUN, Verdict.OK]
    assert again[0].places[0].acked == 3
    rig.crash()
    assert opened(rig).places[0].acked == 3


def test_a_claim_that_another_has_followed_is_not_its_to_withdraw(rig: Rig) -> None:
    full(rig)
    first = rig.claim("bob")
    boxes = [rig.later(opening(rig.broker, claim)) for claim in (first, rig.claim("bob"))]
    rig.run()
    rig.broker.withdraw(first)
    assert [len(box) for box in boxes] == [1, 0]
    mend(rig)
    assert [box[0].verdict for box in boxes] == [Verdict.OUTRUN, Verdict.OK]


def test_nobody_is_refused_for_one_who_gave_up(rig: Rig) -> None:
    close(rig, "phone", opened(rig, policy=LoginPolicy.REFUSE).generation)
    full(rig)
    withdrawn(rig, "pad", policy=LoginPolicy.REFUSE)
    assert opened(rig, policy=LoginPolicy.REFUSE).verdict is Verdict.OK


def test_nobody_makes_way_for_one_who_is_not_entered(rig: Rig) -> None:
    phone = opened(rig, policy=LoginPolicy.ONE)
    full(rig)
    withdrawn(rig, "pad", policy=LoginPolicy.ONE)
    assert rig.listener.named("displaced") == []
    web = rig.later(opening(rig.broker, rig.claim("bob", "web", policy=LoginPolicy.ONE)))
    rig.pass_time(5)
    assert rig.listener.named("displaced") == []
    mend(rig)
    assert web[0].verdict is Verdict.OK
    ((session, generation, code, _),) = rig.listener.named("displaced")
    assert (session, generation, code) == (
        SessionKey("bob", "phone"),
        phone.generation,
        CloseCode.DISPLACED,
    )


def test_who_waits_for_the_disk_makes_way_for_who_comes_later(rig: Rig) -> None:
    close(rig, "phone", opened(rig).generation)
    full(rig)
    pad = rig.later(opening(rig.broker, rig.claim("bob", "pad", policy=LoginPolicy.ONE)))
    rig.pass_time(1)
    phone = opened(rig, policy=LoginPolicy.ONE)
    assert pad[0].verdict is Verdict.OUTRUN
    mend(rig)
    assert phone.verdict is Verdict.OK
    assert rig.listener.named("displaced") == []


NAMELESS: dict[str, Any] = {"start": Start.HEAD, "brief": True}


def test_a_device_that_ends_with_its_session_needs_no_disk_and_takes_no_place(rig: Rig) -> None:
    grow(rig, "user:bob", 2)
    close(rig, "phone", opened(rig, start=Start.OLDEST).generation)
    full(rig)
    for n in range(4):
        found = opened(rig, f"nameless{n}", **NAMELESS)
        assert (found.verdict, found.known, found.places[0].acked) == (Verdict.OK, False, 2)
        if n % 2:
            close(rig, f"nameless{n}", found.generation, True)
    assert names(rig) == {"phone", "nameless0", "nameless2"}
    mend(rig)
    rig.crash()
    assert names(rig) == {"phone"}, "and nothing is left of those that were here"


def test_what_it_acknowledged_is_seen(rig: Rig) -> None:
    session = SessionKey("bob", "nameless")
    found = opened(rig, "nameless", **NAMELESS)
    grow(rig, "user:bob", 1)
    rig.broker.advance(session, found.generation, [(MAILBOX, 1)])
    close(rig, "nameless", found.generation, True)
    assert opened(rig, "tablet").places[0].acked == 1
    assert rig.broker._sessions._brief == set()


def test_it_comes_again_while_it_is_here(rig: Rig) -> None:
    grow(rig, "user:bob", 1)
    first = opened(rig, "nameless", **NAMELESS)
    grow(rig, "user:bob", 1)
    again = opened(rig, "nameless", **NAMELESS)
    assert (again.known, again.resumed, again.places[0].acked) == (True, True, 1)
    assert again.generation > first.generation
    assert rig.listener.named("displaced")[0][2] == CloseCode.REPLACED
    assert names(rig) == {"nameless"}
    rig.crash()
    assert names(rig) == set()


@pytest.mark.parametrize("is_open", [True, False])
def test_one_that_is_to_be_remembered_after_all_is_entered_with_all_that_it_has(
    rig: Rig, is_open: bool
) -> None:
    session = SessionKey("bob", "nameless")
    generation = opened(rig, "nameless", **NAMELESS).generation
    grow(rig, "user:bob", 3)
    rig.broker.advance(session, generation, [(MAILBOX, 2)], [(MAILBOX, 1)])
    rig.broker.record(session, generation, b"kept")
    if not is_open:
        rig.later(rig.broker.close_session(session, generation))
    again = rig.later(opening(rig.broker, rig.claim("bob", "nameless")))
    rig.run()
    assert again[0].verdict is Verdict.OK
    rig.crash()
    found = opened(rig, "nameless")
    assert (found.known, found.places[0].acked, found.places[0].parked) == (True, 2, (1,))
    assert found.record == b"kept"


def test_a_known_device_logs_in_while_the_disk_takes_nothing(rig: Rig) -> None:
    generation = opened(rig).generation
    close(rig, "phone", generation)
    assert rig.disk is not None
    rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: "INSERT" in statement or "BEGIN" in statement)
    assert opened(rig).verdict == Verdict.OK
    assert opened(rig).verdict == Verdict.OK
    new = rig.later(opening(rig.broker, rig.claim("bob", "web", start=Start.HEAD)))
    rig.pass_time(10)
    assert new == []
    rig.disk.mend()
    rig.pass_time(3)
    assert new[0].verdict == Verdict.OK


def test_generations_rise_over_restarts(rig: Rig) -> None:
    before = opened(rig).generation
    rig.crash()
    assert rig.now(rig.broker.sessions("bob"))[0].online is False
    assert opened(rig).generation > before


def test_a_new_device_keeps_its_start_after_a_crash(rig: Rig) -> None:
    rig.publish("user:bob", msg_id="1")
    rig.run()
    assert opened(rig, start=Start.HEAD).places[0].acked == 1
    rig.publish("user:bob", msg_id="2")
    rig.run()
    rig.crash()
    again = opened(rig, start=Start.HEAD)
    assert (again.known, again.places[0].acked, again.places[0].head) == (True, 1, 2)


def test_the_longest_unseen_device_is_forgotten(rig: Rig) -> None:
    generations = {}
    for device in ("a", "b", "c"):
        rig.wall_ms += 4_000_000
        generations[device] = opened(rig, device).generation
    for device in ("b", "a"):
        close(rig, device, generations[device])
    rig.wall_ms += 4_000_000
    again = opened(rig, "a")
    close(rig, "a", again.generation)
    opened(rig, "d")
    assert {one.session.device for one in rig.now(rig.broker.sessions("bob"))} == {"a", "c", "d"}
    assert opened(rig, "b").known is False


def test_the_last_that_was_online_is_not_forgotten_because_the_node_was_killed(rig: Rig) -> None:
    for device in ("a", "b", "c"):
        generation = opened(rig, device).generation
        if device != "a":
            rig.wall_ms += 86_400_000
            close(rig, device, generation)
    rig.wall_ms += 6 * 86_400_000  # the others are away, and "a" is there and idle
    rig.pass_time(10)
    rig.crash()
    opened(rig, "d")
    assert opened(rig, "a").known
    assert opened(rig, "b").known is False


def test_who_is_online_is_not_forgotten(rig: Rig) -> None:
    for n in range(5):
        opened(rig, f"d{n}")
    assert len(rig.now(rig.broker.sessions("bob"))) == 5
    assert rig.listener.named("displaced") == []


def test_a_device_that_came_back_while_it_was_being_forgotten(rig: Rig) -> None:
    for device in ("a", "b", "c"):
        close(rig, device, opened(rig, device).generation)
    new = rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()  # d is being entered, and a will be forgotten for it
    back = rig.later(opening(rig.broker, rig.claim("bob", "a")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()
    rig.run()
    assert new[0].verdict == back[0].verdict == Verdict.OK
    rig.publish("user:bob", msg_id="1")
    rig.run()
    rig.broker.advance(SessionKey("bob", "a"), back[0].generation, [(MAILBOX, 1)])
    close(rig, "a", back[0].generation)
    rig.crash()
    assert (opened(rig, "a").known, opened(rig, "a").places[0].acked) == (True, 1)


def grow(rig: Rig, address: str, count: int) -> None:
    for n in range(count):
        rig.publish(address, msg_id=f"{address} {n}")
    rig.run()


def test_and_stands_where_it_stood_as_soon_as_it_is_entered_again(rig: Rig) -> None:
    """Whatever others have, and whenever the process ends."""
    topic, a = log_of(parse_address("topic:t")), SessionKey("bob", "a")
    grow(rig, "user:bob", 10)
    grow(rig, "topic:t", 9)
    for device in ("a", "b", "c"):
        generation = opened(rig, device).generation
        if device == "a":
            rig.now(rig.broker.follow(a, generation, topic, 3))
            rig.broker.advance(a, generation, [(MAILBOX, 2), (topic, 4)], [(MAILBOX, 1), (topic, 2)])
            rig.broker.record(a, generation, b"kept")
        close(rig, device, generation)
        rig.wall_ms += 10_000
    other = opened(rig, "b")
    rig.broker.advance(SessionKey("bob", "b"), other.generation, [(MAILBOX, 10)])
    close(rig, "b", other.generation)
    rig.pass_time(60)  # all of it is on disk
    new = rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    back = rig.later(opening(rig.broker, rig.claim("bob", "a")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()  # "a" is forgotten, which is reported after it was let in
    rig.run()
    assert new
    assert (back[0].known, back[0].places[0].acked) == (True, 2)
    close(rig, "a", back[0].generation)
    again = opened(rig, "a")
    assert (again.known, again.places[0].acked) == (True, 2)
    rig.crash()
    again = opened(rig, "a")
    assert (again.known, again.record) == (True, b"kept")
    assert (again.places[0].acked, again.places[0].parked) == (2, (1,))
    assert rig.now(rig.broker.follow(a, again.generation, topic, 9)) == Followed(True, 4, (2,))


def test_who_comes_while_the_disk_takes_nothing_makes_place_for_nobody(rig: Rig) -> None:
    for device in ("a", "b", "c"):
        close(rig, device, opened(rig, device).generation)
        rig.wall_ms += 10_000
    assert rig.disk is not None
    rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith(("INSERT", "COMMIT")))
    new = rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.pass_time(5)
    assert opened(rig, "a").known
    rig.disk.mend()
    before = len(rig.disk.statements)
    rig.pass_time(5)
    assert new
    forgotten = [one for one in rig.disk.statements[before:] if one.startswith("DELETE FROM device")]
    assert len(forgotten) == 1
    assert {one.session.device for one in rig.now(rig.broker.sessions("bob"))} == {"a", "c", "d"}


def test_a_forgotten_seat_that_was_not_written_yet_is_gone(rig: Rig) -> None:
    opens = {device: opened(rig, device) for device in ("a", "b", "c")}
    rig.publish("user:bob", msg_id="1")
    rig.run()
    rig.broker.advance(SessionKey("bob", "a"), opens["a"].generation, [(MAILBOX, 1)])
    new = rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.steps.lanes["reader"].step()
    closing = rig.later(rig.broker.close_session(SessionKey("bob", "a"), opens["a"].generation))
    rig.run()
    assert new
    assert closing
    assert {one.session.device for one in rig.now(rig.broker.sessions("bob"))} == {"b", "c", "d"}
    assert opened(rig, "a").places[0].acked == 1  # seen: some device had it


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_forgotten_device_acknowledged_is_seen(rig: Rig, waits: bool) -> None:
    generation = opened(rig).generation
    grow(rig, "user:bob", 1)
    rig.broker.advance(SessionKey("bob", "phone"), generation, [(MAILBOX, 1)])
    if waits:
        rig.pass_time(6)
    close(rig, "phone", generation, True)
    assert len(rig.broker._tails) == len(rig.broker._sessions._unsaved.seen) == 0
    assert opened(rig, "tablet").places[0].acked == 1


def test_a_forgotten_device_leaves_nothing_to_the_next_of_its_name(rig: Rig) -> None:
    """It had to make place, came back before that was known, and followed something; and was forgotten for
    good before it was entered again."""
    a, topic = SessionKey("bob", "a"), log_of(parse_address("topic:t"))
    grow(rig, "user:bob", 5)
    for device in ("a", "b", "c"):
        generation = opened(rig, device).generation
        rig.broker.advance(SessionKey("bob", device), generation, [(MAILBOX, 5)])
        close(rig, device, generation)
        rig.wall_ms += 10_000
    rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    back = rig.later(opening(rig.broker, rig.claim("bob", "a")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()
    rig.steps.report()
    followed = rig.later(rig.broker.follow(a, back[0].generation, topic, 0))
    rig.steps.report()  # it was deleted
    close(rig, "a", back[0].generation, True)
    assert followed == [Followed(False, 0)]
    again = opened(rig, "a", start=Start.OLDEST)
    assert (again.known, again.places[0].acked) == (False, 0)
    rig.pass_time(10)
    rig.crash()
    assert opened(rig, "a").places[0].acked == 0


def test_forgetting_and_a_login_at_once(rig: Rig) -> None:
    first = opened(rig)
    box = rig.later(rig.broker.close_session(SessionKey("bob", "phone"), first.generation, True))
    again = [rig.later(opening(rig.broker, rig.claim("bob"))) for _ in range(2)]
    rig.steps.lanes["reader"].step()  # sees the device, which is still there
    rig.run()
    assert box
    assert again[1][0].known is False
    rig.crash()
    assert opened(rig).known is True


def test_an_answer_that_is_older_than_what_was_written_since(rig: Rig) -> None:
    """The reader saw the device before its last position came to the disk, and reports after."""
    bob = SessionKey("bob", "phone")
    close(rig, "web", opened(rig, "web").generation)
    generation = opened(rig).generation
    for n in range(3):
        rig.publish("user:bob", msg_id=str(n))
    rig.broker.advance(bob, generation, [(MAILBOX, 2)], [(MAILBOX, 1)])
    rig.pass_time(5)
    rig.broker.advance(bob, generation, [(MAILBOX, 3)])
    rig.broker.unpark(bob, generation, MAILBOX, 1)
    web = rig.later(opening(rig.broker, rig.claim("bob", "web")))  # makes the next one ask the disk too
    rig.later(rig.broker.close_session(bob, generation))
    again = rig.later(opening(rig.broker, rig.claim("bob")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()
    rig.steps.results.rotate(-1)
    rig.run()
    assert web
    assert (again[0].places[0].acked, again[0].places[0].parked) == (3, ())


def test_a_device_that_logs_in_while_it_is_forgotten(rig: Rig) -> None:
    """The reader saw it before it had to make place, and reports after: it is entered anew."""
    for device in ("a", "b", "c"):
        close(rig, device, opened(rig, device).generation)
        rig.wall_ms += 10_000
    new = rig.later(opening(rig.broker, rig.claim("bob", "d")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    back = rig.later(opening(rig.broker, rig.claim("bob", "a")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()
    rig.steps.results.rotate(-1)
    rig.run()
    assert new
    rig.publish("user:bob", msg_id="1")
    rig.run()
    rig.broker.advance(SessionKey("bob", "a"), back[0].generation, [(MAILBOX, 1)])
    close(rig, "a", back[0].generation)
    rig.crash()
    again = opened(rig, "a")
    assert (again.known, again.places[0].acked) == (True, 1)


def test_positions_are_written_behind(rig: Rig) -> None:
    rig.publish("user:bob", msg_id="1")
    rig.run()
    generation = opened(rig).generation
    rig.broker.advance(SessionKey("bob", "phone"), generation, [(MAILBOX, 1)])
    rig.crash()
    assert opened(rig).places[0].acked == 0
    generation = opened(rig).generation
    rig.broker.advance(SessionKey("bob", "phone"), generation, [(MAILBOX, 1)])
    rig.pass_time(5)
    rig.crash()
    assert opened(rig).places[0].acked == 1


def test_stop_writes_positions(rig: Rig) -> None:
    rig.publish("user:bob", msg_id="1")
    rig.run()
    generation = opened(rig).generation
    rig.broker.advance(SessionKey("bob", "phone"), generation, [(MAILBOX, 1)])
    rig.stop()
    rig.crash()
    assert opened(rig).places[0].acked == 1


def test_memory_forgets_who_is_gone(rig: Rig) -> None:
    generation = opened(rig).generation
    rig.now(rig.broker.watch(MAILBOX))
    rig.broker.advance(SessionKey("bob", "phone"), generation, [(MAILBOX, 0)])
    close(rig, "phone", generation)
    rig.broker.unwatch(MAILBOX)
    rig.now(rig.broker.revoke("carol", 7))
    assert len(rig.broker._tails) == 0
    assert rig.now(opening(rig.broker, rig.claim("carol", issued_at_s=6))).verdict == Verdict.REVOKED
    assert len(rig.broker._tails) == 0


def test_a_watch_that_was_taken_back_before_its_answer(rig: Rig) -> None:
    box = rig.later(rig.broker.watch(MAILBOX))
    rig.broker.unwatch(MAILBOX)
    rig.run()
    assert box[0].head == 0
    assert len(rig.broker._tails) == 0


def test_the_same_session_from_memory_needs_no_disk(rig: Rig) -> None:
    opened(rig)
    assert rig.disk is not None
    before = rig.disk.calls
    box = rig.later(opening(rig.broker, rig.claim("bob")))
    assert box[0].known
    assert rig.disk.calls == before
    assert rig.listener.named("displaced")[0][2] == CloseCode.REPLACED


def test_an_old_login_is_noted_at_its_next(rig: Rig) -> None:
    close(rig, "phone", opened(rig, platform="ios").generation)
    rig.wall_ms += 10_000_000
    generation = opened(rig, platform="android").generation
    rig.wall_ms += 10_000_000
    close(rig, "phone", generation)
    (one,) = rig.now(rig.broker.sessions("bob"))
    assert (one.platform, one.since_ms) == ("android", rig.wall_ms)


def test_a_read_that_is_ahead_of_the_commits_report(rig: Rig) -> None:
    """The reader may see a commit and report first: what it saw must not arrive again."""
    rig.publish("user:bob", msg_id="1")
    rig.steps.lanes["writer"].step()
    box = rig.later(rig.broker.watch(MAILBOX))
    rig.steps.lanes["reader"].step()
    rig.steps.results.rotate(-1)
    rig.run()
    assert box[0].head == 1
    assert rig.listener.named("arrived") == []
    rig.publish("user:bob", msg_id="2")
    rig.run()
    assert [event[2:4] for event in rig.listener.named("arrived")] == [(1, 2)]


def test_a_login_that_is_ahead_of_the_commits_report(rig: Rig) -> None:
    """The reader may see a commit for a second device's login before the first device was told of it."""
    close(rig, "web", opened(rig, "web").generation)
    opened(rig)
    assert rig.now(rig.broker.watch(MAILBOX)).head == 0
    rig.publish("user:bob", msg_id="1")
    box = rig.later(opening(rig.broker, rig.claim("bob", "web")))
    rig.steps.lanes["writer"].step()
    rig.steps.lanes["reader"].step()
    rig.steps.results.rotate(-1)
    rig.steps.report()
    again = rig.later(rig.broker.watch(MAILBOX))
    rig.run()
    assert (len(box), len(again)) == (1, 1)
    assert [event[2:4] for event in rig.listener.named("arrived")] == [(0, 1)]


def test_the_displaced_leave_no_memory(rig: Rig) -> None:
    for policy in (LoginPolicy.ONE, LoginPolicy.ONE_PER_PLATFORM):
        there = [(device, opened(rig, device, policy=policy).generation) for device in DEVICES]
        for device, generation in there:
            close(rig, device, generation)
    rig.pass_time(10)
    assert len(rig.broker._tails) == 0


def test_what_is_committed_before_the_watch_is_answered_is_in_its_position(rig: Rig) -> None:
    box = rig.later(rig.broker.watch(MAILBOX))
    for msg_id in ("1", "2"):
        rig.publish("user:bob", msg_id=msg_id)
        rig.steps.lanes["writer"].step()
        rig.steps.report()
    rig.run()
    assert (box[0].first, box[0].head) == (1, 2)
    assert rig.listener.named("arrived") == []
    assert len(rig.listener.named("unattended")) == 2
