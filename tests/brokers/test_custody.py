"""Acknowledged means on disk, once, in order: the process is killed at every call and between any two
callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.frames import OutcomeCode, SessionKey, log_of, parse_address
from imgateway.testing.disk import Killed, Rig, disk_error, opening
from imgateway.wire.messages import decode_message

PUBLISHES: list[dict[str, Any]] = [
    {"to": ("user:bob",)},
    {"to": ("user:bob",), "ttl_s": 900},
    {"to": ("user:bob", "user:carol"), "body": bytes(2000)},
    {"to": ("device:bob/phone",)},
    {"to": ("user:bob",)},
    {"to": ("service:orders", "user:bob"), "copy_self": True},
    {"to": ("user:carol",)},
    {"to": ("user:bob",)},
]


class Story:
    """Publishes in order, a session that acknowledges, and what was answered."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.answers: dict[int, list[tuple[Any, ...]]] = {}
        self.acked = 0
        self.closed = False

    def publish(self, numbers: range, **more: Any) -> dict[int, list[tuple[Any, ...]]]:
        boxes = {}
        for n in numbers:
            values = {**PUBLISHES[n % len(PUBLISHES)], **more}
            boxes[n] = self.rig.publish(*values.pop("to"), msg_id=f"m{n}", **values)
        return boxes

    def tell(self, random: Random | None = None) -> None:
        rig, bob = self.rig, SessionKey("bob", "phone")
        rig.start()
        self.answers |= self.publish(range(4))
        opened = rig.later(opening(rig.broker, rig.claim("bob")))
        rig.run(random)
        self.answers |= self.publish(range(4, 8))
        seq = self.answers[0][0][0].seq
        rig.broker.advance(bob, opened[0].generation, [(log("user:bob"), seq)])
        closing = rig.later(rig.broker.close_session(bob, opened[0].generation))
        rig.run(random)
        self.acked = seq if closing else 0
        self.answers |= self.publish(range(8, 12))
        rig.run(random)
        rig.pass_time(1)

    def check(self) -> None:
        """After a restart: all that was acknowledged is there; everything sent again is there once, in
        order."""
        rig = self.rig
        before = {n: box[0] for n, box in self.answers.items() if box}
        for n, outcomes in before.items():
            for address, outcome in zip(PUBLISHES[n % len(PUBLISHES)]["to"], outcomes, strict=True):
                assert outcome.code == OutcomeCode.OK
                assert messages(rig, address).get(outcome.seq) == f"m{n}", (n, address)
        again = self.publish(range(12))
        rig.run()
        for n, outcomes in before.items():
            assert [one.seq for one in again[n][0]] == [one.seq for one in outcomes]
        for address in ("user:bob", "user:carol", "service:orders", "user:alice"):
            there = list(messages(rig, address).values())
            assert there == sorted(set(there), key=lambda name: int(name[1:])), address
            to = [n for n in range(12) if address in PUBLISHES[n % len(PUBLISHES)]["to"] or n == 5]
            wanted = [f"m{n}" for n in to if n in again]
            if address == "user:bob":
                wanted = [f"m{n}" for n in range(12) if n != 6]
            if address != "user:alice":
                assert there == [
                    name for name in wanted if address != "user:carol" or name in ("m2", "m6", "m10")
                ]
            else:
                assert there == ["m5"]
        if self.acked:
            opened = rig.now(opening(rig.broker, rig.claim("bob")))
            assert opened.known
            assert opened.places[0].acked >= self.acked


def log(text: str) -> Any:
    return log_of(parse_address(text))


def messages(rig: Rig, address: str) -> dict[int, str]:
    batch = rig.now(rig.broker.read(log(address), 0, 1000, 1 << 20))
    return {entry.seq: decode_message(entry.message).msg_id for entry in batch.entries}


def kill_and_check(path: Path, call: int, after: bool, power: bool, seed: int | None = None) -> bool:
    """Returns whether the story was over before the call."""
    rig = Rig(path, power=power)
    assert rig.disk is not None
    story = Story(rig)
    rig.disk.kill_at(call, after)
    try:
        story.tell(Random(seed) if seed is not None else None)
    except Killed:
        rig.crash(power)
        story.check()
        return False
    return True


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
def test_killed_at_every_call_of_the_store(tmp_path: Path, after: bool, power: bool) -> None:
    call = 1
    while not kill_and_check(tmp_path / str(call), call, after, power):
        call += 1
    assert call > 40


@pytest.mark.parametrize("seed", range(25))
def test_killed_between_any_two_callbacks(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    rig = Rig(tmp_path / "data")
    story = Story(rig)
    left = random.randrange(2, 30)
    run = rig.steps.run

    def run_some(given: Random | None = None) -> None:
        nonlocal left
        while found := rig.steps.choices():
            if not left:
                raise Killed
            left -= 1
            random.choice(found)()

    rig.steps.run = run_some  # type: ignore[method-assign]
    try:
        story.tell(random)
    except Killed:
        pass
    rig.steps.run = run  # type: ignore[method-assign]
    rig.crash()
    story.check()


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_BUSY", "SQLITE_IOERR_WRITE"])
@pytest.mark.parametrize("after", [False, True], ids=["failed", "fate unknown"])
@pytest.mark.parametrize("call", range(12))
def test_one_failing_call_costs_nothing(tmp_path: Path, name: str, after: bool, call: int) -> None:
    """Whatever call fails, and whether or not it did its work: no loss, no repeat, order kept."""
    rig = Rig(tmp_path / "data").start()
    assert rig.disk is not None
    story = Story(rig)
    story.answers |= story.publish(range(2))
    rig.run()
    count = 0

    def this_one(statement: str) -> bool:
        nonlocal count
        count += 1
        return count == call + 1

    rig.disk.fail(disk_error(name), this_one, after)
    story.answers |= story.publish(range(2, 6))
    rig.run()
    story.answers |= story.publish(range(6, 12))
    rig.run()
    rig.pass_time(1)
    assert all(story.answers[n] for n in range(12))
    rig.disk.mend()
    rig.crash()
    story.check()


@pytest.mark.parametrize("path", [True, False], ids=["embedded", "memory"])
def test_outage(tmp_path: Path, path: bool) -> None:
    """Nothing is acknowledged, nothing is refused; health says why; then all goes on in order."""
    rig = Rig(tmp_path / "data" if path else None).start()
    failing = fail_commits(rig)
    boxes = [rig.publish("user:bob", msg_id="0")]
    rig.pass_time(1)
    boxes += [rig.publish("user:bob", msg_id=str(n)) for n in range(1, 10)]
    rig.pass_time(60)
    assert boxes == [[]] * 10
    ((ok, why),) = rig.listener.named("healthy")
    assert (ok, "disk full: make room for" in why) == (False, True)
    failing(False)
    rig.pass_time(2.1)
    assert [box[0][0].seq for box in boxes] == list(range(1, 11))
    assert rig.listener.named("healthy")[1:] == [(True, "")]
    assert list(messages(rig, "user:bob").values()) == [str(n) for n in range(10)]
    rig.stop()


def fail_commits(rig: Rig) -> Callable[[bool], None]:
    """Make the store fail before it writes, until called with False."""
    store = rig.broker._store
    original = store._write
    broken = True

    def write(*arguments: Any) -> None:
        if broken:
            raise disk_error("SQLITE_FULL")
        original(*arguments)

    def switch(on: bool) -> None:
        nonlocal broken
        broken = on

    store._write = write  # type: ignore[method-assign]
    return switch


def test_a_commit_of_unknown_fate_is_not_repeated(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: "INTO journal" in statement, after=True, times=1)
    rig.publish("user:bob", msg_id="0")
    rig.run()
    box = rig.publish("user:bob", msg_id="1")
    rig.disk.fail(disk_error(), lambda statement: "INTO journal" in statement, after=True, times=1)
    rig.pass_time(5)
    assert box[0][0].seq == 2
    assert messages(rig, "user:bob") == {1: "0", 2: "1"}


def test_congestion_is_told_and_taken_back(tmp_path: Path) -> None:
    limits = BrokerSettings(waiting_entries=10, waiting_bytes=100_000, batch_entries=3)
    rig = Rig(tmp_path / "data", settings=limits).start()
    boxes = [rig.publish("user:bob", msg_id=str(n)) for n in range(12)]
    assert rig.listener.named("congested") == [(True,)]
    rig.run()
    assert rig.listener.named("congested") == [(True,), (False,)]
    assert [box[0][0].seq for box in boxes] == list(range(1, 13))
    rig.publish("user:bob", "user:carol", msg_id="big", body=bytes(60_000))
    assert rig.listener.named("congested")[2:] == [(True,)]
    rig.run()


def test_repeats_that_wait_count_too(tmp_path: Path) -> None:
    """While the store is away, clients that come again and again repeat themselves: that is told as well."""
    settings = BrokerSettings(waiting_entries=10, batch_entries=10)
    rig = Rig(tmp_path / "data", settings=settings).start()
    assert rig.disk is not None
    rig.disk.fail(disk_error())
    boxes = [rig.publish("user:bob", msg_id="1", resent=n > 0) for n in range(10)]
    assert rig.listener.named("congested") == [(True,)]
    rig.run()
    rig.disk.mend()
    rig.pass_time(3)
    assert {box[0][0][::2] for box in boxes} == {(OutcomeCode.OK, 1)}
    assert rig.listener.named("congested") == [(True,), (False,)]
    rig.stop()


def test_a_batch_ends_at_its_bytes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", settings=BrokerSettings(batch_bytes=1000)).start()
    boxes = [rig.publish("user:bob", msg_id=str(n), body=bytes(600)) for n in range(4)]
    rig.steps.lanes["writer"].step()
    assert len(rig.steps.results[-1][1].appends) == 2
    rig.run()
    assert all(boxes)


# ---------------------------------------------------------------------------------------------------- once


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 7), st.booleans()),
            st.tuples(st.just("step"), st.integers(0, 9)),
            st.tuples(st.just("run")),
            st.tuples(st.just("fail"), st.booleans()),
            st.tuples(st.just("time"), st.integers(1, 4)),
            st.tuples(st.just("restart")),
            st.tuples(st.just("crash")),
        ),
        max_size=40,
    )
)
def test_once_whatever_happens(tmp_path_factory: pytest.TempPathFactory, actions: list[Any]) -> None:
    """Any mixture of publishes, repeats, outages, restarts, with a memory of two digests and a log of three
    entries."""
    rig = Rig(
        tmp_path_factory.mktemp("once") / "data",
        settings=BrokerSettings(dedup_memory=2),
        retention=RetentionSettings(entries=3),
    ).start()
    assert rig.disk is not None
    bob = SessionKey("bob", "phone")
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    seqs: dict[int, int] = {}
    open_boxes: list[tuple[int, Any]] = []

    def collect() -> None:
        for n, box in list(open_boxes):
            if box:
                open_boxes.remove((n, box))
                (outcome,) = box[0]
                if outcome.code == OutcomeCode.FULL:
                    assert n not in seqs
                    continue
                assert seqs.setdefault(n, outcome.seq) == outcome.seq
        assert len(set(seqs.values())) == len(seqs)

    for action, *values in actions:
        if action == "send":
            # A client sets `resent` on all that it may have sent before.
            open_boxes.append((values[0], rig.publish("user:bob", msg_id=str(values[0]), resent=True)))
        elif action == "step":
            found = rig.steps.choices()
            if found:
                found[values[0] % len(found)]()
        elif action == "run":
            rig.run()
            collect()
            if seqs:
                rig.broker.advance(bob, generation, [(log("user:bob"), max(seqs.values()) - 1)])
        elif action == "fail":
            rig.disk.fail(disk_error(), lambda s: "INSERT INTO" in s, after=values[0], times=1)
        elif action == "time":
            rig.pass_time(values[0])
        else:
            rig.disk.mend()
            if action == "restart":
                rig.pass_time(3)
                rig.stop()
            collect()
            open_boxes.clear()
            rig.crash()
            generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
        collect()
    rig.disk.mend()
    rig.pass_time(3)
    collect()
    assert open_boxes == []
    there = messages(rig, "user:bob")
    assert {seq: str(n) for n, seq in seqs.items() if seq in there}.items() <= there.items()
    rig.stop()


@pytest.mark.parametrize("restart", [False, True])
def test_resent_reaches_beyond_memory(tmp_path: Path, restart: bool) -> None:
    """The flag makes the broker look on the disk, once a log, and later only at what is newer."""
    rig = Rig(tmp_path / "data", settings=BrokerSettings(dedup_memory=2)).start()
    assert rig.disk is not None
    first = rig.publish("user:bob", msg_id="first")
    for n in range(20):
        rig.publish("user:bob", msg_id=str(n))
    rig.run()
    if restart:
        rig.crash()
    boxes = [rig.publish("user:bob", msg_id=name, resent=True) for name in ("first", "3", "new", "4")]
    rig.run()
    assert [box[0][0][::2] for box in boxes] == [
        (OutcomeCode.DUPLICATE, first[0][0].seq),
        (OutcomeCode.DUPLICATE, 5),
        (OutcomeCode.OK, 22),
        (OutcomeCode.DUPLICATE, 6),
    ]
    for n in range(20, 40):
        rig.publish("user:bob", msg_id=str(n))
    rig.run()
    before = len(rig.disk.statements)
    boxes = [rig.publish("user:bob", msg_id=name, resent=True) for name in ("20", "21", "22", "23")]
    boxes.append(rig.publish("user:bob", msg_id="24", resent=True, device="another"))
    rig.run()
    assert [box[0][0].seq for box in boxes] == [23, 24, 25, 26, 43]
    asked = [s for s in rig.disk.statements[before:] if "json_group_object" in s]
    assert len(asked) == 1  # whoever sends again: what was read of the log serves all
    rig.stop()


def test_what_is_kept_for_resent_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many logs nor one with a day of trimmed traffic fill the memory."""
    monkeypatch.setattr("imgateway.brokers.store.MAX_OLDER", 20)
    rig = Rig(
        tmp_path / "data", settings=BrokerSettings(dedup_memory=2), retention=RetentionSettings(entries=8)
    ).start()
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    for n in range(100):
        rig.publish("user:bob", msg_id=str(n))
        rig.run()
        rig.broker.advance(SessionKey("bob", "phone"), generation, [(log("user:bob"), n + 1)])
    users = [f"user:{n}" for n in range(20)]
    for user in users:
        for n in range(5):
            rig.publish(user, msg_id=str(n))
    rig.run()
    store = rig.broker._store
    boxes = []
    for address in ("user:bob", *users):
        boxes.append(rig.publish(address, msg_id="2", resent=True))
        rig.run()
        held = sum(len(known) for _, known in store._older.values())
        assert held == store._older_size <= 20 + 8
    assert [box[0][0][::2] for box in boxes] == [(OutcomeCode.DUPLICATE, 3)] * 21
    rig.stop()


def test_resent_finds_what_was_dropped(tmp_path: Path) -> None:
    rig = Rig(
        tmp_path / "data", settings=BrokerSettings(dedup_memory=2), retention=RetentionSettings(entries=8)
    ).start()
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    for n in range(20):
        rig.publish("user:bob", msg_id=str(n))
        rig.run()
        rig.broker.advance(SessionKey("bob", "phone"), generation, [(log("user:bob"), n + 1)])
    assert 1 not in messages(rig, "user:bob")
    box = rig.publish("user:bob", msg_id="0", resent=True)
    rig.run()
    assert box[0][0][::2] == (OutcomeCode.DUPLICATE, 1)
    rig.stop()
