"""The file beside a client: nothing lost, nothing twice, whenever it is killed."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imgateway.client import Received
from imgateway.client.place import FILTER_SIZE
from imgateway.client.store import TRIM_EVERY, ClientStore
from imgateway.errors import OutcomeUnknown, StoreError
from imgateway.frames import Hello, Limits, LogKey, OutcomeCode, Publish, Resumed, ResumePoint, parse_address
from tests.client.fake_gateway import BOB, EPOCH, ME, World, deliver, done, entry


def quiet(deferred: Any) -> Any:
    return deferred.addErrback(lambda reason: None)


def die(world: World, client: Any) -> None:
    """What kill -9 leaves: the file as it is, no goodbye, no later calls."""
    world.gateway.pipe.open = False
    for store in client._session._stores:
        store._db.close()
    for call in list(world.clock.getDelayedCalls()):
        call.cancel()
    world.clients.remove(client)


class FailingDisk:
    """Stands before a database and fails while told to."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.full = False

    def execute(self, statement: str, *values: Any) -> Any:
        if self.full and statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def disk_under(client: Any, path: str = "") -> FailingDisk:
    """Of a client's one file, or of this one; it works until it is told not to."""
    [store] = [one for one in client._session._stores if path in ("", one.path)]
    store._db = disk = FailingDisk(store._db)
    return disk


class UnsafePower:
    """Stands before a database and keeps a copy of its files as they were when they were synced last."""

    def __init__(self, db: Any, path: str, copy: str) -> None:
        self.db = db
        self.path, self.copy = path, copy
        self.syncs = False

    def execute(self, statement: str, *values: Any) -> Any:
        result = self.db.execute(statement, *values)
        if statement.startswith("PRAGMA synchronous"):
            self.syncs = statement.endswith("FULL")
        elif statement == "COMMIT" and self.syncs:
            for suffix in ("", "-wal"):
                shutil.copy(self.path + suffix, self.copy + suffix)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def test_a_publish_is_on_disk_before_it_is_sent(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    client = world.up(outbox=path)
    on_disk: list[list[str]] = []

    def look(pipe: Any, frame: Any) -> None:
        if isinstance(frame, Publish):
            copy = shutil.copy(path, tmp_path / "copy")
            shutil.copy(path + "-wal", tmp_path / "copy-wal")
            store = ClientStore(str(copy))
            on_disk.append([publish.msg_id for publish, _ in store.publishes()])
            store.close()

    world.gateway.watch = look
    sent = client.publish("user:bob", b"x", msg_id="one")
    assert world.gateway.log == []  # the turn's commit comes first
    world.turn()
    assert on_disk == [["one"]]
    assert done(sent)
    world.turn()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_killed_client_sends_what_was_left_in_order_under_the_same_ids(
    world: World, tmp_path: Path
) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = False
    world.gateway.limits = Limits(publish_window=2)
    client = world.up(outbox=path)
    for n in range(5):
        quiet(client.publish("user:bob", b"%d" % n, msg_id=f"id{n}", headers={"a": "b"}))
    quiet(client.publish("user:bob", b"ephemeral", qos=0))
    world.turn()
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"0", b"1"]
    die(world, client)
    world.gateway.acks = True
    outcomes: list[Any] = []
    again = world.up(
        outbox=path, on_outcome=lambda publish, word: outcomes.append((publish.msg_id, word[0].code))
    )
    world.turn(20)
    frames = world.gateway.pipe.of(Publish)
    assert [(frame.msg_id, frame.resent) for frame in frames] == [
        ("id0", True),
        ("id1", True),
        ("id2", False),
        ("id3", False),
        ("id4", False),
    ]
    assert [frame.msg_id for frame in world.gateway.log] == [f"id{n}" for n in range(5)]
    assert frames[0].headers == (("a", "b"),)
    assert outcomes == [("id0", 1), ("id1", 1), ("id2", 0), ("id3", 0), ("id4", 0)]
    quiet(again.publish("user:bob", b"new", msg_id="id0"))  # settled: free to be used again
    world.turn()


def test_who_waits_for_a_message_of_an_earlier_run_joins_it(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = False
    client = world.up(outbox=path)
    quiet(client.publish("user:bob", b"x", msg_id="mine"))
    world.turn()
    die(world, client)
    again = world.client(outbox=path)
    joined = again.publish("user:bob", b"x", msg_id="mine")
    world.gateway.acks = True
    quiet(again.start())
    world.turn()
    assert done(joined)
    assert len(world.gateway.log) == 1


def test_a_failing_on_outcome_is_logged(world: World, tmp_path: Path, flush_logged_errors: Any) -> None:
    path = str(tmp_path / "box")
    store = ClientStore(path)
    store.put(Publish("a", (BOB,)))
    store.commit()
    store.close()
    world.up(outbox=path, on_outcome=lambda publish, word: 1 / 0)
    world.turn()
    assert flush_logged_errors(ZeroDivisionError)
    assert len(world.gateway.log) == 1


def test_what_is_too_old_to_be_recognised_is_given_up(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    store = ClientStore(path)
    store.put(Publish("never-sent", (BOB,)))
    store.put(Publish("old", (BOB,)))
    store.sent("old", world.clock.seconds() - 86_400)
    store.put(Publish("young", (BOB,)))
    store.sent("young", world.clock.seconds() - 80_000)
    store.put(Publish("tomorrow", (BOB,)))
    store.sent("tomorrow", world.clock.seconds() + 3_600)  # the clock was set back meanwhile
    store.commit()
    store.close()
    words: dict[str, Any] = {}
    world.up(outbox=path, on_outcome=lambda publish, word: words.update({publish.msg_id: word}))
    world.turn(10)
    assert [frame.msg_id for frame in world.gateway.log] == ["never-sent", "young", "tomorrow"]
    assert isinstance(words["old"], OutcomeUnknown)


def test_after_a_power_failure_it_is_known_what_may_have_been_sent(world: World, tmp_path: Path) -> None:
    path, synced = str(tmp_path / "box"), str(tmp_path / "synced")
    world.gateway.limits = Limits(dedup_s=3_600)
    world.gateway.acks = world.gateway.reachable = False
    client = world.client(outbox=path, wait=True)
    [store] = client._session._stores
    store._db = UnsafePower(store._db, path, synced)
    quiet(client.start())
    quiet(client.publish("user:bob", b"x", msg_id="one"))  # written down, with nowhere to send it yet
    world.wait(0.5)
    world.gateway.reachable = True
    world.wait(1)
    assert [frame.msg_id for frame in world.gateway.log] == ["one"]
    die(world, client)
    world.clock.advance(3_600)
    words: list[Any] = []
    world.up(outbox=synced, on_outcome=lambda publish, word: words.append(word))
    world.turn()
    assert world.gateway.pipe.of(Publish) == []
    assert [type(word) for word in words] == [OutcomeUnknown]


def test_the_age_of_what_was_sent_is_told_by_the_gateways_clock(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.limits = Limits(dedup_s=3_600)
    world.gateway.acks = False
    words: list[Any] = []
    client = world.up(outbox=path)
    quiet(client.publish("user:bob", b"x", msg_id="one"))
    world.turn()
    die(world, client)
    world.gateway.ahead_s = 1_800  # which the client was off, and its clock stood still
    client = world.up(outbox=path, on_outcome=lambda publish, word: words.append(word))
    world.turn()
    assert [frame.resent for frame in world.gateway.pipe.of(Publish)] == [True]
    die(world, client)
    world.clock.rightNow -= 7_200  # it has no battery
    world.gateway.ahead_s = 3_600 + 7_200
    world.up(outbox=path, on_outcome=lambda publish, word: words.append(word))
    world.turn()
    assert world.gateway.pipe.of(Publish) == []
    assert [type(word) for word in words] == [OutcomeUnknown]


def test_close_leaves_the_rest_in_the_file(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.gateway.acks = False
    client = world.up(outbox=path)
    sent = client.publish("user:bob", b"x", msg_id="rest")
    closing = client.close(1)
    world.wait(1)
    world.wait(1)
    done(closing)
    with pytest.raises(OutcomeUnknown):
        done(sent)
    store = ClientStore(path)
    assert [publish.msg_id for publish, _ in store.publishes()] == ["rest"]
    store.close()


def test_a_full_disk_holds_publishes_back_and_then_lets_them_go(
    world: World, tmp_path: Path, flush_logged_errors: Any
) -> None:
    client = world.up(outbox=str(tmp_path / "box"))
    disk = disk_under(client)
    disk.full = True
    sent = [client.publish("user:bob", b"%d" % n) for n in range(3)]
    for _ in range(3):
        world.wait(1)
    assert world.gateway.log == []
    world.gateway.pipe.cut()
    world.wait(1)
    world.wait(1)
    assert world.gateway.log == []
    disk.full = False
    world.wait(1)
    assert [frame.body for frame in world.gateway.log] == [b"0", b"1", b"2"]
    assert all(done(one) for one in sent)
    assert flush_logged_errors("nothing can be sent")


def test_what_a_full_disk_held_back_for_too_long_is_not_sent_again(
    world: World, tmp_path: Path, flush_logged_errors: Any
) -> None:
    world.gateway.limits = Limits(dedup_s=600)
    world.gateway.acks = False
    client = world.up(outbox=str(tmp_path / "box"))
    disk = disk_under(client)
    sent = client.publish("user:bob", b"0")
    world.turn()
    assert len(world.gateway.log) == 1
    world.gateway.acks = disk.full = True
    unsent = client.publish("user:bob", b"1")
    world.gateway.pipe.cut()
    world.wait(1)
    world.live(599)
    assert client.connected
    disk.full = False
    world.wait(1)
    with pytest.raises(OutcomeUnknown):
        done(sent)
    assert done(unsent)
    assert [frame.body for frame in world.gateway.pipe.of(Publish)] == [b"1"]
    assert flush_logged_errors("nothing can be sent")


@pytest.mark.parametrize("ends", ["link", "client", "written by another"])
def test_what_a_full_disk_kept_from_leaving_was_not_sent(
    world: World, tmp_path: Path, flush_logged_errors: Any, ends: str
) -> None:
    path = str(tmp_path / "box")
    world.gateway.limits = Limits(dedup_s=600)
    client = world.up(outbox=path, state=path, on_message=lambda message: None)
    disk = disk_under(client)
    disk.full = True
    sent = quiet(client.publish("user:bob", b"x", msg_id="one"))
    world.turn()
    if ends == "link":
        world.gateway.pipe.cut()
        world.wait(1)
        world.live(700)
        disk.full = False
        world.wait(1)
        assert done(sent)
    else:
        disk.full = False
        if ends == "client":
            client.close(0)
            world.turn()
        else:  # what shares the file commits, and the link ends before the next try
            world.gateway.pipe.say(deliver(0, 1))
            world.gateway.reachable = False
            world.gateway.pipe.cut()
            world.wait(1)
            die(world, client)
        world.clock.advance(700)
        world.gateway.reachable = True
        world.up(outbox=path, state=path)
        world.turn()
    assert [(frame.msg_id, frame.resent) for frame in world.gateway.log] == [("one", False)]
    assert flush_logged_errors()


def test_what_was_sent_before_the_disk_was_full_stays_that(
    world: World, tmp_path: Path, flush_logged_errors: Any
) -> None:
    world.gateway.acks = False
    client = world.up(outbox=str(tmp_path / "box"))
    sent = [client.publish("user:bob", b"0", msg_id="one")]
    world.turn()
    disk = disk_under(client)
    disk.full = world.gateway.acks = True
    sent.append(client.publish("user:bob", b"1", msg_id="two"))
    for _ in range(2):  # over the first of these links it does not come to be sent again
        world.gateway.pipe.cut()
        world.wait(1)
        assert world.gateway.pipe.of(Publish) == []
    disk.full = False
    world.wait(1)
    assert [(one.msg_id, one.resent) for one in world.gateway.pipe.of(Publish)] == [
        ("one", True),
        ("two", False),
    ]
    assert [done(one)[0].code for one in sent] == [OutcomeCode.DUPLICATE, OutcomeCode.OK]
    assert flush_logged_errors("nothing can be sent")


@pytest.mark.parametrize("killed", [True, False])
def test_a_full_disk_holds_back_what_is_to_be_shown(
    world: World, tmp_path: Path, flush_logged_errors: Any, killed: bool
) -> None:
    from tests.client.test_client_reading import acked

    path = str(tmp_path / "state")
    got: list[int] = []
    client = world.up(state=path, on_message=lambda message: got.append(message.seq))
    disk = disk_under(client)
    disk.full = True
    world.gateway.pipe.say(deliver(0, 20))
    world.wait(5)
    assert (got, acked(world)) == ([1], [])
    if killed:
        die(world, client)
        world.up(state=path, on_message=lambda message: got.append(message.seq))
        world.gateway.pipe.say(deliver(0, 20))
        assert got == [1, *range(1, 21)]
    else:
        world.gateway.pipe.say(deliver(20, 40))
        assert got == [1]
        disk.full = False
        world.wait(1)
        assert got == list(range(1, 41))
    world.wait(1)
    assert acked(world)[-1] == got[-1]
    assert flush_logged_errors("nothing can be acknowledged or shown")


@pytest.mark.parametrize("one_file", [True, False])
def test_the_end_writes_down_what_a_full_disk_did_not_take(
    world: World, tmp_path: Path, flush_logged_errors: Any, one_file: bool
) -> None:
    box, state = str(tmp_path / "a"), str(tmp_path / ("a" if one_file else "b"))
    got: list[int] = []
    client = world.up(outbox=box, state=state, on_message=lambda message: got.append(message.seq))
    disk = disk_under(client, state)
    disk.full = True
    world.gateway.pipe.say(deliver(0, 5))
    world.gateway.pipe.cut()
    disk.full = False
    client.close()
    world.turn()
    world.up(outbox=box, state=state, on_message=lambda message: got.append(message.seq))
    [hello] = world.gateway.pipe.of(Hello)
    assert hello.resume == (ResumePoint(ME, 0, EPOCH, 1),)
    world.gateway.pipe.say(deliver(1, 5))
    assert got == [1, 2, 3, 4, 5]
    assert flush_logged_errors("nothing can be acknowledged or shown")


def test_a_full_disk_keeps_an_iteration_waiting(
    world: World, tmp_path: Path, flush_logged_errors: Any
) -> None:
    client = world.up(state=str(tmp_path / "state"))
    disk = disk_under(client)
    disk.full = True
    world.gateway.pipe.say(deliver(0, 3))
    assert done(client.next_message()).seq == 1
    second = client.next_message()
    world.wait(3)
    assert not second.called
    disk.full = False
    world.gateway.pipe.say(deliver(3, 3, epoch=8))  # which moves the place, and is written down at once
    assert not second.called
    world.wait(1)
    assert done(second).seq == 2
    assert flush_logged_errors("nothing can be acknowledged or shown")


@pytest.mark.parametrize("one_file", [True, False])
def test_a_killed_client_is_shown_nothing_twice(world: World, tmp_path: Path, one_file: bool) -> None:
    box, state = str(tmp_path / "a"), str(tmp_path / ("a" if one_file else "b"))
    got: list[int] = []

    def take(message: Received) -> None:
        got.append(message.seq)

    client = world.up(outbox=box, state=state, on_message=take)
    world.gateway.pipe.say(deliver(0, 3))
    die(world, client)  # before anything was acknowledged
    again = world.up(outbox=box, state=state, on_message=take)
    [hello] = world.gateway.pipe.of(Hello)
    assert hello.resume == (ResumePoint(ME, 0, EPOCH, 3),)
    world.gateway.pipe.say(deliver(0, 4))
    assert got == [1, 2, 3, 4]
    die(world, again)
    # The log is another one, restored from a backup: the filter knows what was in it.
    world.up(outbox=box, state=state, on_message=lambda message: got.append(int(message.message.body)))
    world.gateway.pipe.say(deliver(0, 3, epoch=8, entries=(entry(1, b"4", "m4"), entry(2, b"9", "m9"))))
    assert got == [1, 2, 3, 4, 9]


def test_rings_leave_no_trace_in_the_file(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    client = world.up(state=path, on_message=lambda message: None)
    world.gateway.pipe.say(deliver(0, 3, address=parse_address("room:7")), deliver(0, 2))
    die(world, client)
    store = ClientStore(path)
    assert [(log, epoch, seq) for log, epoch, seq, _ in store.places()] == [(LogKey(ME), EPOCH, 2)]
    assert store.owner() == "device:me/phone"
    store.close()


def test_a_file_belongs_to_one_session(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    client = world.up(outbox=path)
    quiet(client.publish("user:bob", b"x", msg_id="one"))
    world.turn()
    client.close()
    world.turn()
    world.gateway.session = "device:eve/phone"
    other = world.client(outbox=path)
    started = other.start()
    world.turn()
    with pytest.raises(StoreError, match="device:me/phone"):
        done(started)
    assert world.gateway.pipe.of(Publish) == []


def owned(path: str, owner: str) -> None:
    store = ClientStore(path)
    store.own(owner)
    store.took(LogKey(ME), EPOCH, 5)
    store.commit()
    store.close()


def test_another_devices_file_is_not_used_at_all(world: World, tmp_path: Path) -> None:
    """Not even for what is published before the login would tell whose it is."""
    path = str(tmp_path / "tablet")
    owned(path, "device:me/tablet")
    with pytest.raises(StoreError, match="belongs to device:me/tablet and not to the device phone"):
        world.client(state=path, outbox=str(tmp_path / "box"), wait=True)
    owned(path, "device:me/tablet")  # which was let go
    world.client(outbox=str(tmp_path / "box"))


def test_who_names_no_device_comes_as_that_of_the_file(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    owned(path, "device:me/tablet")
    world.gateway.session = "device:me/tablet"
    world.up(state=path, device="")
    [hello] = world.gateway.pipe.of(Hello)
    assert (hello.device, hello.resume) == ("tablet", (ResumePoint(ME, 0, EPOCH, 5),))


@pytest.mark.parametrize("file", [True, False])
def test_who_was_given_a_device_keeps_it_over_links(world: World, tmp_path: Path, file: bool) -> None:
    world.up(device="", **({"state": str(tmp_path / "state")} if file else {}))
    world.gateway.pipe.cut()
    world.wait(1)
    assert [pipe.of(Hello)[0].device for pipe in world.gateway.pipes] == ["", "phone"]


def test_two_files_of_two_devices_are_not_used_together(world: World, tmp_path: Path) -> None:
    box, state = str(tmp_path / "box"), str(tmp_path / "state")
    owned(box, "device:me/phone")
    owned(state, "device:me/tablet")
    with pytest.raises(StoreError, match="belongs to"):
        world.client(outbox=box, state=state, device="")


def test_of_two_files_none_is_taken_if_one_is_anothers(world: World, tmp_path: Path) -> None:
    box, state = str(tmp_path / "box"), str(tmp_path / "state")
    for path, owner in ((box, ""), (state, "device:eve/phone")):
        store = ClientStore(path)
        if owner:
            store.own(owner)
        store.put(Publish("one", (BOB,), "", b"x"))
        store.commit()
        store.close()
    for files in ({"outbox": box, "state": state}, {"outbox": state, "state": box}):
        started = world.client(**files).start()
        world.turn()
        with pytest.raises(StoreError, match="device:eve/phone"):
            done(started)
    world.turn()
    store = ClientStore(box)
    assert store.owner() == ""
    store.close()


def test_a_file_is_for_one_client_at_a_time(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "box")
    world.up(outbox=path)
    with pytest.raises(StoreError, match="in use"):
        world.client(outbox=path)
    with pytest.raises(StoreError, match="in use"):
        world.client(outbox=str(tmp_path / "other"), state=path)
    with pytest.raises(StoreError, match="in use"):
        world.client(state=path)
    store = ClientStore(str(tmp_path / "other"))  # which was let go
    store.close()


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        ClientStore(str(tmp_path / "no" / "where"))
    (tmp_path / "text").write_text(
        "this is no database at all, but it is long enough to be taken for one" * 20
    )
    with pytest.raises(StoreError, match="mend or remove"):
        ClientStore(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("PRAGMA user_version = 2", "its version is 2"),
        ("CREATE TABLE bills (n); PRAGMA user_version = 37", "its version is 37"),
        ("CREATE TABLE outbox (n); CREATE TABLE bills (n)", "it has a table bills"),
    ],
)
def test_a_file_of_another_version_or_program_is_left_as_it_is(tmp_path: Path, made: str, found: str) -> None:
    path = tmp_path / "theirs"
    database = sqlite3.connect(path)
    database.executescript(made)
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"theirs was made by .*{found}.*name another file"):
        ClientStore(str(path))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["theirs"]


def test_a_file_that_was_written_out_and_read_in_again_is_one_s_own(tmp_path: Path) -> None:
    """That loses the version."""
    path = str(tmp_path / "box")
    store = ClientStore(path)
    store.put(Publish("one", (BOB,)))
    store.commit()
    store._db.execute("PRAGMA user_version = 0")
    store.close()
    store = ClientStore(path)
    assert [publish.msg_id for publish, _ in store.publishes()] == ["one"]
    store.close()


@pytest.mark.parametrize(
    ("table", "damage"),
    [
        ("outbox", "UPDATE outbox SET publish = 'x'"),
        ("place", "UPDATE place SET epoch = 'x'"),
        ("about", "UPDATE about SET value = 'phone'"),
        ("about", "DROP TABLE about"),
    ],
)
def test_a_damaged_file_is_let_go_and_so_is_the_other(
    world: World, tmp_path: Path, table: str, damage: str
) -> None:
    path, other = str(tmp_path / table), str(tmp_path / "other")
    store = ClientStore(path)
    store.own("device:me/phone")
    store.put(Publish("one", (BOB,), "", b"x"))
    store.took(LogKey(parse_address("user:me")), EPOCH, 1)
    store.commit()
    store._db.execute(damage)
    store.close()
    files = {"outbox": other, "state": path} if table == "place" else {"outbox": path, "state": other}
    with pytest.raises(StoreError, match=f"{table} is damaged") as error:
        world.client(**files)
    assert error.value.__traceback__ is not None, "what it goes through is not let go by forgetting it"
    free = sqlite3.connect(path, isolation_level=None, timeout=0)
    free.execute("BEGIN EXCLUSIVE")
    free.close()
    ClientStore(other).close()


@contextmanager
def full() -> Iterator[None]:
    """No file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("killed", [True, False])
def test_a_file_opens_on_a_full_disk(tmp_path: Path, killed: bool) -> None:
    path = str(tmp_path / "box")
    store = ClientStore(path)
    store.own("device:me/phone")
    store.put(Publish("one", (BOB,), "", b"x"))
    store.commit()
    if killed:
        for suffix in ("", "-wal"):
            shutil.copy(path + suffix, path + ".killed" + suffix)
    store.close()
    opened = path + ".killed" * killed
    with full():
        store = ClientStore(opened)
        assert [publish.msg_id for publish, _ in store.publishes()] == ["one"]
        assert store.owner() == "device:me/phone"
        store.drop("one")
        with pytest.raises(StoreError, match="cannot write"):
            store.commit()
    store.commit()
    assert list(store.publishes()) == []
    store.close()


def test_a_new_file_on_a_full_disk_asks_for_room(tmp_path: Path) -> None:
    with full(), pytest.raises(StoreError, match="make room"):
        ClientStore(str(tmp_path / "new"))


def test_the_shown_ids_are_trimmed(tmp_path: Path) -> None:
    store = ClientStore(str(tmp_path / "state"))
    total = FILTER_SIZE + 2 * TRIM_EVERY + 1
    store.took(LogKey(ME), EPOCH, total)
    for n in range(total):
        store.showed(LogKey(ME), ("bob", "desk", f"m{n}"))
    store.commit()
    store.commit()
    [(log, epoch, seq, shown)] = store.places()
    assert (log, epoch, seq) == (LogKey(ME), EPOCH, total)
    assert shown == [("bob", "desk", f"m{n}") for n in range(total - FILTER_SIZE, total)]
    assert store._db.execute("SELECT count(*) FROM shown").fetchone()[0] == FILTER_SIZE
    store.close()


def test_many_short_runs_leave_no_more_than_one_long_one(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    for run in range(FILTER_SIZE // 150 + 5):
        world.gateway.resumed = (Resumed(ME, 0, EPOCH, run * 150, run * 150),)
        client = world.up(state=path, on_message=lambda message: None)
        world.gateway.pipe.say(deliver(run * 150, run * 150 + 150))
        client.close()
        world.wait(1)
    store = ClientStore(path)
    assert store._db.execute("SELECT count(*) FROM shown").fetchone()[0] < FILTER_SIZE + TRIM_EVERY
    store.close()


class Image(NamedTuple):
    """What there was in the world when a client was killed."""

    file: str
    taken: list[Publish]
    durable: set[str]
    shown: list[int]


def test_killed_between_any_two_steps_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The file before and after each commit, frame and message is what a kill would leave there."""
    images = run(tmp_path)
    assert len(images) > 30
    assert len({image.file for image in images}) == len(images)
    for image in images:
        run_on(image)


def run(directory: Path) -> list[Image]:
    world = World()
    world.gateway.limits = Limits(publish_window=2)
    path = str(directory / "file")
    shown: list[int] = []
    durable: set[str] = set()
    images: list[Image] = []

    def step(*_: Any) -> None:
        copy = str(directory / f"image{len(images)}")
        for suffix in ("", "-wal"):
            if os.path.exists(path + suffix):
                shutil.copy(path + suffix, copy + suffix)
        images.append(Image(copy, list(world.gateway.log), set(durable), list(shown)))

    def on_message(message: Received) -> None:
        step()
        shown.append(message.seq)
        step()

    client = world.client(outbox=path, state=path, on_message=on_message)
    [store] = client._session._stores
    commit = store.commit

    def stepping() -> None:
        put = {
            str(values[0]) for statement, values in store._todo if statement.startswith("INSERT INTO outbox")
        }
        step()
        commit()
        durable.update(put)
        step()

    store.commit = stepping  # type: ignore[method-assign]
    world.gateway.watch = step
    quiet(client.start())
    world.turn()
    for n in range(4):
        quiet(client.publish("user:bob", b"%d" % n, msg_id=f"id{n}"))
    world.turn(3)
    world.gateway.pipe.say(deliver(0, 2))
    world.gateway.pipe.cut()
    quiet(client.publish("user:bob", b"4", msg_id="id4"))
    world.wait(1)
    world.gateway.pipe.say(deliver(2, 5))
    world.wait(1)
    store.commit = commit  # type: ignore[method-assign]
    world.gateway.watch = lambda pipe, frame: None
    world.end()
    return images


def run_on(image: Image) -> None:
    """The next run on the file, with the gateway that was there."""
    world = World()
    world.gateway.log = list(image.taken)
    world.gateway.seqs = {publish.msg_id: n for n, publish in enumerate(image.taken, 1)}
    shown: list[int] = []
    world.up(outbox=image.file, state=image.file, on_message=lambda message: shown.append(message.seq))
    [hello] = world.gateway.pipe.of(Hello)
    after = hello.resume[0].seq if hello.resume else 0
    world.turn(10)
    world.gateway.pipe.say(deliver(after, 5))
    taken = [publish.msg_id for publish in world.gateway.log]
    assert image.durable <= set(taken)
    assert taken == sorted(set(taken)), "each once, in the order of the calls"
    # Killed between showing a message and writing that down: that one, and no other, comes again.
    repeated = [seq for seq in shown if seq in image.shown]
    assert repeated in ([], image.shown[-1:])
    assert sorted({*shown, *image.shown}) == [1, 2, 3, 4, 5]
    assert shown == sorted(set(shown))
    world.end()


def test_what_was_published_into_another_users_file_does_not_go_out_as_theirs(
    world: World, tmp_path: Path
) -> None:
    path = str(tmp_path / "f")
    mine = world.up(outbox=path)
    world.gateway.acks = False
    quiet(mine.publish("user:bob", b"mine", msg_id="mine"))
    world.turn()
    quiet(mine.close(0.1))
    world.wait(5)
    world.gateway.session = "device:eve/phone"
    eve = world.client(outbox=path)
    lost = eve.publish("user:bob", b"eve's", msg_id="eve's")
    again = eve.publish("user:bob", b"mine", msg_id="mine")  # as it is there
    world.turn()  # it is on disk
    started = eve.start()
    world.wait(5)
    with pytest.raises(StoreError, match="belongs to"):
        done(started)
    for waiter, is_kept in ((lost, False), (again, True)):
        with pytest.raises(OutcomeUnknown) as found:
            done(waiter)
        assert (found.value.kept, "stays in the outbox file" in str(found.value)) == (is_kept, is_kept)
    world.gateway.session = "device:me/phone"
    world.up(outbox=path)
    world.turn()
    assert [one.msg_id for one in world.gateway.pipe.of(Publish)] == ["mine"]


@pytest.mark.parametrize("owner", ["", "device:me/phone"])
def test_what_was_published_stays_in_a_file_of_ones_own_beside_another_users(
    world: World, tmp_path: Path, owner: str
) -> None:
    box, state = str(tmp_path / "box"), str(tmp_path / "state")
    for path, of in ((box, owner), (state, "device:eve/phone")):
        if of:
            owned(path, of)
    client = world.client(outbox=box, state=state)
    waiter = client.publish("user:bob", b"mine", msg_id="mine")
    started = client.start()
    world.wait(5)
    with pytest.raises(StoreError, match="device:eve/phone"):
        done(started)
    with pytest.raises(OutcomeUnknown) as found:
        done(waiter)
    assert found.value.kept
    world.up(outbox=box)
    world.turn()
    assert [one.msg_id for one in world.gateway.pipe.of(Publish)] == ["mine"]


def test_a_client_that_is_not_made_leaves_the_file_free(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    with pytest.raises(ValueError, match="outbox_messages") as held:
        world.client(outbox=path, outbox_messages=0)
    assert held.value
    world.up(outbox=path)
