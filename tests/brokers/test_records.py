"""What an adapter keeps of a session: back at the next login, in order with what follows it, and cheap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import Verdict
from imgateway.testing.disk import Rig, disk_error, opening

KEY = SessionKey("bob", "phone")


@pytest.fixture(params=["disk", "memory"])
def rig(request: Any, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data" if request.param == "disk" else None, max_devices=2).start()
    yield rig
    rig.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data", max_devices=2).start()
    yield rig
    rig.stop()


def opened(rig: Rig, device: str = "phone", **more: Any) -> Any:
    return rig.now(opening(rig.broker, rig.claim("bob", device, **more)))


def record(rig: Rig, generation: int, data: bytes, device: str = "phone") -> None:
    rig.broker.record(SessionKey("bob", device), generation, data)


def close(rig: Rig, generation: int, device: str = "phone", forget: bool = False) -> None:
    rig.now(rig.broker.close_session(SessionKey("bob", device), generation, forget))


def test_it_comes_back_at_the_next_login(rig: Rig) -> None:
    one = opened(rig)
    assert one.record == b""
    record(rig, one.generation, b"a")
    record(rig, one.generation, b"\x00\xff")
    two = opened(rig)
    assert two.record == b"\x00\xff", "also of one that is still on its way"
    close(rig, two.generation)
    rig.pass_time(5)
    assert len(rig.broker._tails) == 0
    three = opened(rig)
    assert three.record == b"\x00\xff"
    record(rig, three.generation, b"")
    close(rig, three.generation)
    rig.pass_time(5)
    assert opened(rig).record == b"", "an empty one is none"


def test_a_stale_generation_keeps_nothing(rig: Rig) -> None:
    old, new = opened(rig), opened(rig)
    record(rig, old.generation, b"old")
    assert rig.listener.named("displaced")[-1][1:3] == (old.generation, CloseCode.STALE)
    assert opened(rig).record == b""
    assert new.verdict is Verdict.OK


def test_it_is_on_the_disk_no_later_than_what_follows(disk: Rig) -> None:
    generation = opened(disk).generation
    for n in range(30):
        record(disk, generation, b"%d" % n)
        box = disk.publish("user:eve", msg_id=str(n))
        disk.steps.lanes["writer"].step()  # the commit, of which nobody hears
        assert box == []
        disk.crash()
        again = opened(disk)
        assert again.record == b"%d" % n
        found = disk.publish("user:eve", msg_id=str(n), resent=True)
        disk.run()
        assert found[0][0].code == OutcomeCode.DUPLICATE
        generation = again.generation


def test_who_wants_to_know_hears_when_it_is_on_the_disk(disk: Rig) -> None:
    one = opened(disk)
    before = disk.broker._committed
    kept: list[bool] = []
    for n in range(3):
        record(disk, one.generation, b"%d" % n)
        disk.broker.record(KEY, one.generation, b"%d" % n).addCallback(kept.append)
    assert kept == []
    disk.steps.lanes["writer"].step()
    assert kept == [], "nobody has heard of the commit"
    disk.run()
    assert kept == [True] * 3
    assert disk.broker._committed - before == 1, "of all of them"
    disk.crash()
    again = opened(disk)
    assert again.record == b"2"
    disk.broker.record(KEY, one.generation, b"late").addCallback(kept.append)
    assert kept[3:] == [False]


def test_what_is_on_the_disk_as_it_is_is_kept_at_once(disk: Rig) -> None:
    generation = opened(disk).generation
    kept: list[bool] = []
    for _ in range(2):
        disk.broker.record(KEY, generation, b"1").addCallback(kept.append)
    disk.steps.lanes["writer"].step()  # in a commit of which nobody has heard
    disk.broker.record(KEY, generation, b"1").addCallback(kept.append)
    assert kept == []
    disk.run()
    assert kept == [True] * 3
    before = disk.broker._committed
    disk.broker.record(KEY, generation, b"1").addCallback(kept.append)
    assert kept == [True] * 4
    disk.run()
    assert disk.broker._committed == before


def test_who_waits_for_one_that_cannot_be_written_waits_until_it_is(disk: Rig) -> None:
    generation = opened(disk).generation
    disk.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith("UPDATE device"))
    kept: list[bytes] = []
    for data in (b"1", b"2"):
        disk.broker.record(KEY, generation, data).addCallback(lambda _, data=data: kept.append(data))
    disk.run()
    disk.broker.record(KEY, generation, b"3").addCallback(lambda _: kept.append(b"3"))
    disk.run()
    assert kept == []
    disk.disk.mend()
    disk.clock.advance(2)
    disk.run()
    assert kept == [b"1", b"2", b"3"]
    disk.crash()
    assert opened(disk).record == b"3"


@pytest.mark.parametrize("fails_at", ["BEGIN", "UPDATE device"])
@pytest.mark.parametrize("is_closed", [False, True])
def test_nobody_waits_for_what_an_older_login_kept(disk: Rig, is_closed: bool, fails_at: str) -> None:
    """Else memory would grow without end with a client that comes and goes while the disk takes nothing."""
    generation = opened(disk).generation
    assert disk.disk is not None
    disk.disk.fail(disk_error("SQLITE_FULL"), lambda statement: statement.startswith(fails_at))
    kept: list[bool] = []
    for n in range(5):
        for half in (b"a", b"b"):
            disk.broker.record(KEY, generation, b"%d" % n + half).addCallback(kept.append)
            disk.run()
        assert len(kept) == 2 * n
        if is_closed:
            disk.later(disk.broker.close_session(KEY, generation))
            assert len(kept) == 2 * n
        generation = opened(disk).generation
        assert kept == [False] * 2 * (n + 1)
        disk.pass_time(3)
    disk.broker.record(KEY, generation, b"last").addCallback(kept.append)
    disk.disk.mend()
    disk.pass_time(3)
    assert kept[10:] == [True]
    assert not disk.broker._sessions._records._asked
    disk.crash()
    assert opened(disk).record == b"last"


def test_many_share_one_change(disk: Rig) -> None:
    generation = opened(disk).generation
    before = disk.broker._committed
    boxes = []
    for n in range(100):
        record(disk, generation, b"%d" % n)
        boxes.append(disk.publish("user:eve", msg_id=str(n)))
    assert disk.broker._changes == 1
    disk.run()
    assert all(box for box in boxes)
    assert disk.broker._committed - before <= 2
    disk.crash()
    assert opened(disk).record == b"99"


def test_what_comes_while_a_commit_is_written_is_in_the_next(disk: Rig) -> None:
    generation = opened(disk).generation
    record(disk, generation, b"1")
    disk.steps.lanes["writer"].step()
    record(disk, generation, b"2")
    assert disk.broker._changes == 2
    disk.run()
    assert disk.broker._changes == 0
    disk.crash()
    assert opened(disk).record == b"2"


@pytest.mark.parametrize("after", [False, True])
def test_a_commit_that_fails_is_tried_again_with_the_newest(disk: Rig, after: bool) -> None:
    generation = opened(disk).generation
    assert disk.disk is not None
    disk.disk.fail(disk_error(), lambda statement: statement.startswith("COMMIT"), after, 1)
    record(disk, generation, b"1")
    disk.run()
    assert disk.broker._changes == 1, "it failed"
    record(disk, generation, b"2")
    record(disk, generation, b"3")
    disk.pass_time(5)
    assert disk.broker._changes == 0
    disk.crash()
    assert opened(disk).record == b"3"


def test_a_flush_of_positions_does_not_bring_back_an_older_one(disk: Rig) -> None:
    generation = opened(disk).generation
    disk.publish("user:bob", msg_id="1")
    disk.run()
    record(disk, generation, b"1")
    record(disk, generation, b"2")
    disk.broker.advance(KEY, generation, ((log_of(parse_address("user:bob")), 1),))
    disk.broker._sessions.flush()
    record(disk, generation, b"3")
    disk.run()
    disk.crash()
    again = opened(disk)
    assert (again.record, again.places[0].acked) == (b"3", 1)


def test_the_same_again_is_not_written(disk: Rig) -> None:
    generation = opened(disk).generation
    record(disk, generation, b"1")
    disk.run()
    record(disk, generation, b"1")
    assert disk.broker._changes == 0


def test_a_device_that_was_forgotten_while_it_came_back_keeps_its_record(disk: Rig) -> None:
    close(disk, opened(disk, "pad").generation, "pad")
    disk.wall_ms += 10_000
    one = opened(disk)
    record(disk, one.generation, b"mine")
    close(disk, one.generation)
    disk.wall_ms += 10_000
    third = disk.later(opening(disk.broker, disk.claim("bob", "web")))
    pad = disk.later(opening(disk.broker, disk.claim("bob", "pad")))
    disk.run()
    assert third[0].verdict is pad[0].verdict is Verdict.OK
    record(disk, pad[0].generation, b"pad", "pad")
    disk.run()
    disk.crash()
    assert opened(disk, "pad").record == b"pad"


def test_and_keeps_the_one_that_it_had_whoever_else_keeps_something_just_then(disk: Rig) -> None:
    """What others keep is in the line before the device is entered again: this must not go with it."""
    pad = opened(disk, "pad")
    record(disk, pad.generation, b"old", "pad")
    close(disk, pad.generation, "pad")
    disk.wall_ms += 10_000
    close(disk, opened(disk).generation)
    disk.wall_ms += 10_000
    eve = disk.now(opening(disk.broker, disk.claim("eve")))
    third = disk.later(opening(disk.broker, disk.claim("bob", "web")))
    again = disk.later(opening(disk.broker, disk.claim("bob", "pad")))
    n = 0
    while not third:  # until the writer's report that "pad" was forgotten is all that is missing
        n += 1
        disk.broker.record(SessionKey("eve", "phone"), eve.generation, b"%d" % n)
        disk.steps.choices()[0]()
    disk.run()
    assert third[0].verdict is again[0].verdict is Verdict.OK
    disk.crash()
    assert opened(disk, "pad").record == b"old"


def test_who_is_forgotten_has_none(rig: Rig) -> None:
    one = opened(rig)
    record(rig, one.generation, b"1")
    close(rig, one.generation, forget=True)
    assert opened(rig).record == b""


@pytest.mark.parametrize(
    ("orders", "code"), [((5, 5), CloseCode.STALE), ((5, 6), CloseCode.REPLACED), ((0, 0), CloseCode.STALE)]
)
def test_the_same_login_on_another_connection_takes_over_without_a_word(
    rig: Rig, orders: tuple[int, int], code: CloseCode
) -> None:
    for order in orders:
        last = opened(rig, order=order, on_same_device="newest-order-wins")
    assert last.verdict is Verdict.OK
    assert [event[2] for event in rig.listener.named("displaced")] == [code]
    assert opened(rig, order=1, on_same_device="newest-order-wins").verdict is (
        Verdict.OUTRUN if max(orders) > 1 else Verdict.OK
    )


def test_a_store_that_is_away_holds_one_record_of_each(disk: Rig) -> None:
    """A client may have its wire keep something as often as it likes, and waits for nothing meanwhile."""
    generation = opened(disk).generation
    disk.run()
    assert disk.disk is not None
    disk.disk.fail(disk_error())
    for n in range(1_000):
        record(disk, generation, b"%d" % n)
        if n % 100 == 0:
            disk.run()
    assert disk.broker._changes < 20
    assert len(disk.broker._sessions._records._line) <= 1
    disk.disk.mend()
    disk.pass_time(5)
    disk.crash()
    assert opened(disk).record == b"999"
