"""Logins that come together: few statements for all of them, and for each what it would have had alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.brokers.questions import STEP
from imgateway.frames import SessionKey, Start, log_of, parse_address
from imgateway.interfaces import Claim, Opened, Verdict
from imgateway.testing.disk import Recorder, Rig, disk_error, opening

CROWD = 40


@pytest.fixture(params=["memory", "disk"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    one = Rig(None if request.param == "memory" else tmp_path / "data").start()
    yield one
    one.now(one.broker.stop())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path / "data").start()
    yield one
    one.now(one.broker.stop())


def crowd(rig: Rig, names: list[tuple[str, str]], **more: Any) -> list[Opened]:
    """All of them at once: user, device."""
    boxes = [rig.later(opening(rig.broker, rig.claim(*name, **more))) for name in names]
    rig.run()
    return [one for (one,) in boxes]


def statements(disk: Rig) -> list[str]:
    """Those that come from here on."""
    seen: list[str] = []
    assert disk.disk is not None
    disk.disk.fail(disk_error(), lambda statement: bool(seen.append(statement)))
    return seen


def test_a_crowd_of_new_users_takes_no_more_statements_than_few(disk: Rig) -> None:
    crowd(disk, [("first", "phone")])
    seen = statements(disk)
    crowd(disk, [(f"few{n}", "phone") for n in range(2)])
    few = len(seen)
    opened = crowd(disk, [(f"many{n}", "phone") for n in range(CROWD)])
    assert few > 0
    assert len(seen) == 2 * few
    assert all((one.verdict, one.known) == (Verdict.OK, False) for one in opened)
    assert len({one.generation for one in opened}) == CROWD


def test_a_crowd_is_entered_in_one_step(disk: Rig) -> None:
    """Each may cost a switch of threads, and is told here."""
    crowd(disk, [("first", "phone")])
    steps: list[str] = []
    disk.broker._store._connection.set_trace_callback(steps.append)
    crowd(disk, [(f"many{n}", "phone") for n in range(CROWD)])
    disk.broker._store._connection.set_trace_callback(None)
    assert len([step for step in steps if "INSERT INTO device" in step]) == 1


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_one_whose_answer_raises_costs_the_others_nothing(
    rig: Rig, known: bool, flush_logged_errors: Any
) -> None:
    """Nor those who sent a message that is in the same commit; and the broker stops."""
    names = [("bob", "phone"), ("carol", "phone"), ("dave", "phone")]
    if known:
        for user, device in names:
            opened = rig.now(opening(rig.broker, rig.claim(user, device)))
            rig.broker.linger(SessionKey(user, device), opened.generation)
    told: list[Opened] = []

    def raises(opened: Opened) -> None:
        raise RuntimeError("a transport of somebody else's")

    for (user, device), answer in zip(names, (raises, told.append, told.append), strict=True):
        rig.broker.open_session(rig.claim(user, device), answer, ())
    sent = rig.publish("user:erin", msg_id="1")
    rig.run()
    assert [one.verdict for one in told] == [Verdict.OK, Verdict.OK]
    assert sent[0][0].seq == 1
    assert len(rig.broker._tails.pins) == 0
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_in_a_crowd_everybody_gets_what_is_his(rig: Rig) -> None:
    """New users, known ones, one with mail, one who has two new devices, one whose tokens are revoked."""
    rig.now(rig.broker.revoke("eve", 1_000))
    rig.publish("user:mary", msg_id="1")
    rig.publish("user:mary", msg_id="2")
    rig.run()
    known = rig.now(opening(rig.broker, rig.claim("ann", "phone")))
    rig.broker.record(rig.claim("ann", "phone").session, known.generation, b"kept")
    rig.now(rig.broker.close_session(rig.claim("ann", "phone").session, known.generation))
    rig.run()
    names = [
        ("new", "phone"),
        ("ann", "phone"),
        ("mary", "phone"),
        ("two", "phone"),
        ("two", "pad"),
        ("eve", "phone"),
        ("100%/x", 'quo"te'),
    ]
    opened = crowd(rig, names, start=Start.OLDEST, issued_at_s=500)
    new, ann, mary, two, pad, _eve, odd = opened
    assert [one.verdict for one in opened] == [Verdict.OK] * 5 + [Verdict.REVOKED, Verdict.OK]
    assert (ann.known, ann.record) == (True, b"kept")
    assert not any(one.known for one in (new, mary, two, pad, odd))
    assert [(one.places[0].acked, one.places[0].head) for one in (new, mary, two, pad)] == [
        (0, 0), (0, 2), (0, 0), (0, 0),
    ]  # fmt: skip
    devices = {presence.session.device for presence in rig.now(rig.broker.sessions("two"))}
    assert devices == {"phone", "pad"}
    assert rig.now(rig.broker.sessions("100%/x"))[0].session.device == 'quo"te'


def test_who_logs_in_again_is_known_to_the_disk(disk: Rig) -> None:
    names = [(f"user{n}", "phone") for n in range(CROWD)]
    for one, (user, device) in zip(crowd(disk, names), names, strict=True):
        disk.now(disk.broker.close_session(disk.claim(user, device).session, one.generation))
    assert len(disk.broker._tails) == 0, "nothing of them is in memory"
    assert all(one.known for one in crowd(disk, names))


def test_what_fails_is_asked_and_written_again_for_all(disk: Rig) -> None:
    assert disk.disk is not None
    for part in ("FROM json_each", "INSERT INTO device"):
        disk.disk.fail(disk_error(), lambda statement, part=part: part in statement)
        boxes = [disk.later(opening(disk.broker, disk.claim(f"{part[:4]}{n}"))) for n in range(3)]
        disk.pass_time(1)
        assert boxes == [[]] * 3
        disk.disk.mend()
        disk.pass_time(5)
        assert [one.verdict for (one,) in boxes] == [Verdict.OK] * 3
    assert disk.listener.named("healthy")[-1] == (True, "")


def test_more_than_one_job_of_logins(disk: Rig) -> None:
    assert len(crowd(disk, [(f"user{n}", "phone") for n in range(200)])) == 200


def test_who_reads_in_a_storm_of_logins_waits_for_some_of_them(disk: Rig) -> None:
    """More come than are answered."""
    logins: list[list[Opened]] = []
    read: list[Any] = []
    for step in range(4):
        for n in range(2 * STEP):
            claim = disk.claim(f"user{step}-{n}")
            logins.append(disk.later(opening(disk.broker, claim)))
        if not step:
            read = disk.later(disk.broker.read(log_of(parse_address("user:mary")), 0, 10, 1000))
        for choice in disk.steps.choices():
            choice()
    assert read
    assert 0 < sum(map(len, logins)) < len(logins) - STEP, "or it was no storm"


class Threads(Clock):
    """A reactor whose clock stands still, and to which threads report."""

    def __init__(self) -> None:
        super().__init__()
        self._reports: SimpleQueue[tuple[Any, tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        self._reports.put((call, arguments))

    def take(self) -> None:
        """What one thread says, once it says something."""
        call, arguments = self._reports.get(timeout=60)
        call(*arguments)

    def now(self, *deferreds: Deferred[Any]) -> list[Any]:
        while not all(one.called for one in deferreds):
            self.take()
        return [one.result for one in deferreds]


def test_logins_of_one_turn_are_one_question_of_the_reader(tmp_path: Path) -> None:
    reactor = Threads()
    broker = EmbeddedBroker(reactor=reactor, data_dir=tmp_path / "data")
    reactor.now(broker.start(Recorder(), "n.1"))
    asked: list[int] = []
    logins = broker._reading.logins

    def counted(claimed: Any) -> Any:
        asked.append(len(claimed))
        return logins(claimed)

    broker._reading.logins = counted  # type: ignore[method-assign]
    openings = [opening(broker, Claim(SessionKey(f"user{n}", "phone"))) for n in range(3)]
    reading = broker.mailbox("user0")  # does not go before them
    assert broker._reader._jobs.empty(), "the turn is not over"  # type: ignore[attr-defined]
    reactor.advance(0)
    *opened, mailbox = reactor.now(*openings, reading)
    assert [one.verdict for one in opened] == [Verdict.OK] * 3
    assert (mailbox.first, mailbox.head) == (1, 0)
    assert asked == [3]
    reactor.now(broker.stop())
