"""Durable logs while Redis dies, comes back, or is replaced: what was acknowledged is there, once, in order,
and what was lost is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.python.failure import Failure

from imgateway.brokers.redis import watches
from imgateway.frames import OutcomeCode
from tests.brokers.redis_logs import LogsDesk, Reader, key, log
from tests.brokers.redis_server import Loop, RedisServer, free_port, wait_until

pytestmark = pytest.mark.server

OK, DUPLICATE = OutcomeCode.OK, OutcomeCode.DUPLICATE
JUMP = 1 << 20


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[], RedisServer]]:
    made: list[RedisServer] = []

    def make() -> RedisServer:
        made.append(RedisServer(tmp_path / f"redis{len(made)}"))
        return made[-1]

    yield make
    for server in made:
        server.kill9()


@pytest.fixture
def server(servers: Callable[[], RedisServer]) -> RedisServer:
    return servers()


@pytest.fixture
def desks(server: RedisServer) -> Iterator[Callable[..., LogsDesk]]:
    loop, made = Loop(), []

    def make(**more: Any) -> LogsDesk:
        made.append(LogsDesk(server, loop=loop, incarnation=f"n.{len(made) + 1}", **more).start())
        return made[-1]

    yield make
    for desk in made:
        desk.stop()
    loop.close()


def fail_over(server: RedisServer, replica: RedisServer) -> None:
    """The primary dies, and the replica takes its place and its address, with what it has."""
    server.kill9()
    replica.promote()
    replica.cli("CONFIG", "SET", "port", server.port)
    replica.port = server.port


# ------------------------------------------------------------------------------------------- kill -9 of Redis


@pytest.mark.parametrize("seed", range(4))
def test_killed_between_and_during_calls(
    desks: Callable[..., LogsDesk], server: RedisServer, seed: int
) -> None:
    """Acknowledged is on disk; sent again by the node it is there once; the order is that of the calls."""
    random = Random(seed)
    desk, other = desks(), desks()
    texts = ["user:bob", "user:carol", "topic:news"]
    readers = [Reader(other, text) for text in texts]
    boxes: dict[str, list[list[Any]]] = {text: [] for text in texts}
    for _ in range(3):
        for _ in range(random.randrange(1, 8)):
            for _ in range(random.randrange(1, 120)):
                text = random.choice(texts)
                n = len(boxes[text])
                body = bytes(random.choice((5, 5, 3000)))
                boxes[text].append(desk.publish(text, msg_id=str(n), body=body))
            for _ in range(random.randrange(3)):
                desk.loop.iterate(0.001)
        before = {text: [box[0][0] for box in found if box] for text, found in boxes.items()}
        server.kill9()
        desk.loop.spin(random.random() / 50)
        server.restart()
        for text, answered in before.items():
            # In Redis itself: nobody has sent anything again yet.
            for box in answered:
                assert box.code == OK
            place = desk.logs._place(log(text))
            length = server.cli("LLEN", f"ig:{{{place[1]}}}:l:{text}")
            assert length >= len(answered)
    desk.answered(*[box for found in boxes.values() for box in found])
    for text, reader in zip(texts, readers, strict=True):
        count = len(boxes[text])
        assert [box[0][0][::2] for box in boxes[text]] == [(OK, n + 1) for n in range(count)]
        assert desk.ids(text) == [str(n) for n in range(count)]
        reader.go_on()
        reader.read()
        assert reader.shown == [(n + 1, str(n)) for n in range(count)]
        assert reader.gaps == []
    # And whoever does not know whether it was taken finds out, wherever it asks.
    again = [other.publish("user:bob", msg_id=str(n)) for n in range(len(boxes["user:bob"]))]
    other.answered(*again)
    assert [box[0][0][::2] for box in again] == [(DUPLICATE, n + 1) for n in range(len(again))]


def test_away_for_long(desks: Callable[..., LogsDesk], server: RedisServer) -> None:
    """What comes meanwhile waits, in order, and so do reads."""
    desk, other = desks(), desks()
    reader = Reader(other, "user:bob")
    server.freeze()
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(30)]
    desk.loop.spin(0.05)
    assert not any(boxes)
    server.kill9()
    boxes += [desk.publish("user:bob", msg_id=str(n)) for n in range(20, 60)]
    reading = desk.later(desk.logs.read(log("user:bob"), 0, 10, 1000))
    watching = desk.later(desk.logs.watch(log("user:bob")))
    desk.loop.spin(0.05)
    assert not any((*boxes, reading, watching))
    server.restart()
    desk.answered(reading, watching, *boxes)
    assert [box[0][0].seq for box in boxes] == [*range(1, 31), *range(21, 61)]
    reader.go_on()
    reader.read()
    assert [name for _, name in reader.shown] == [str(n) for n in range(60)]


def test_a_lost_subscription_loses_nothing(desks: Callable[..., LogsDesk], server: RedisServer) -> None:
    """What was published meanwhile is found when it is watched again; nobody needs to send anything more."""
    desk, other = desks(), desks()
    texts = [f"user:u{n}" for n in range(700)]
    boxes = [other.later(other.logs.watch(log(text))) for text in texts]
    other.answered(*boxes)
    desk.send(*texts[:30], msg_id="0")
    other.settle()
    other.listener.events.clear()
    subscription = other.primary.subscription
    subscription.drop(ConnectionError("lost"))
    desk.answered(*[desk.publish(*texts[n : n + 50], msg_id="1") for n in range(0, 100, 50)])
    assert other.listener.named("arrived", "moved") == []
    # Nobody listened: they are forgotten, and told as watched by nobody.
    assert len(desk.listener.named("unattended")) >= 100
    other.settle()
    other.loop.spin(0.05)
    other.settle()
    moved = {values[0]: values[2] for values in other.listener.named("moved")}
    assert moved == {log(text): 2 if n < 30 else 1 for n, text in enumerate(texts[:100])}
    desk.send("user:u699", "user:u3", msg_id="2")
    other.settle()
    assert other.told("user:u699") == [(0, 1, ["2"])]
    assert other.told("user:u3")[-1] == (2, 3, ["2"])


def test_lost_again_while_it_is_watched_again(desks: Callable[..., LogsDesk]) -> None:
    desk, other = desks(), desks()
    texts = [f"user:u{n}" for n in range(1_500)]
    other.answered(*[other.later(other.logs.watch(log(text))) for text in texts])
    other.primary.subscription.drop(ConnectionError("lost"))
    desk.answered(*[desk.publish(text, msg_id="1") for text in texts[::100]])
    other.logs.renewed(other.primary)
    other.logs.renewed(other.primary)
    other.settle()
    other.loop.until(lambda: len({values[0] for values in other.listener.named("moved")}) == 15)
    assert len(other.listener.named("moved")) == 15


# --------------------------------------------------------------------------------------------------- failover


def test_a_promoted_replica_that_misses_the_last_writes(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """No new message has the seq of one that was lost, and whoever may have missed one is told of a gap."""
    desk, other = desks(), desks()
    replica = servers()
    for n in range(5):
        desk.send("user:bob", "user:carol", msg_id=str(n))
    reader = Reader(other, "user:bob")
    reader.read()
    late = Reader(other, "user:bob")  # has seen nothing yet
    replica.replica_of(server)
    replica.cli("REPLICAOF", "127.0.0.1", 1)  # cut off
    for n in range(5, 9):
        assert desk.send("user:bob", msg_id=str(n))[0].seq == n + 1
    lost = desk.send("user:dan", "topic:new", msg_id="0")
    assert [one[::2] for one in lost] == [(OK, 1)] * 2
    reader.go_on()
    assert [seq for seq, _ in reader.shown] == list(range(1, 10))
    fail_over(server, replica)
    desk.settle()
    other.settle()
    again = desk.send("user:bob", msg_id="9")[0]
    assert (again.code, again.seq) == (OK, JUMP + 6)
    assert desk.send("user:bob", msg_id="9")[0] == (DUPLICATE, *again[1:])
    assert desk.send("user:bob", msg_id="7")[0].code == OK  # its sender never gave up
    assert desk.send("user:carol", msg_id="4")[0][::2] == (DUPLICATE, 5)
    reader.go_on()
    late.go_on()
    assert reader.shown[-2:] == [(JUMP + 6, "9"), (JUMP + 7, "7")]
    assert [seq for seq, _ in reader.shown] == sorted({seq for seq, _ in reader.shown})
    assert [after for after, _ in reader.gaps] == [9]
    assert [seq for seq, _ in late.shown] == [1, 2, 3, 4, 5, JUMP + 6, JUMP + 7]
    ((after, upto),) = late.gaps
    assert after <= 5 < JUMP <= upto
    # Of what was lost with all of its log, too.
    assert desk.watch("user:dan")[1:] == (JUMP + 1, JUMP)
    assert desk.read("user:dan").gap is True
    assert desk.send("user:dan", msg_id="1")[0].seq == JUMP + 1
    # What is read up to the jump is whole.
    batch = desk.read("user:carol", 0, 3)
    assert (batch.upto, batch.gap) == (3, False)
    assert desk.read("user:carol", 3).gap is True
    assert desk.read("user:carol", JUMP + 5).gap is False


def test_a_log_that_begins_long_after_a_failover_has_no_gap(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    desk = desks()
    replica = servers()
    desk.send("user:bob", msg_id="0")
    replica.replica_of(server)
    fail_over(server, replica)
    desk.settle()
    desk.pass_time(604_801)
    assert desk.send("user:new", msg_id="1")[0].seq == JUMP + 1
    assert desk.read("user:new").gap is False
    assert desk.watch("user:new").first == JUMP + 1


def test_failover_and_back(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """Each time the head jumps on, also of a log that only the one in between had."""
    desk = desks()
    first, second = server, servers()
    desk.send("user:bob", msg_id="0")
    second.replica_of(first)
    fail_over(first, second)
    desk.settle()
    assert desk.send("user:bob", msg_id="1")[0].seq == JUMP + 2
    third = servers()
    third.replica_of(second)
    third.cli("REPLICAOF", "127.0.0.1", 1)
    assert desk.send("user:bob", "user:dan", msg_id="2")[1].seq == JUMP + 1
    fail_over(second, third)
    desk.settle()
    assert desk.send("user:bob", "user:dan", msg_id="3")[0].seq == 2 * JUMP + 3
    assert [entry.seq for entry in desk.read("user:dan").entries] == [2 * JUMP + 1]
    batch = desk.read("user:bob")
    assert ([entry.seq for entry in batch.entries], batch.gap) == ([1, JUMP + 2, 2 * JUMP + 3], True)
    # Acknowledged by everybody, the jumps go with what was before them.
    assert desk.read("user:bob", 2 * JUMP + 2).gap is False


def test_the_same_primary_comes_back_without_a_jump(
    desks: Callable[..., LogsDesk], server: RedisServer
) -> None:
    desk = desks()
    desk.send("user:bob", msg_id="0")
    for n in range(1, 3):
        server.kill9()
        server.restart()
        assert desk.send("user:bob", msg_id=str(n))[0].seq == n + 1
    assert desk.read("user:bob").gap is False


# ------------------------------------------------------------------------------- older data than a node knows


def swap(server: RedisServer, other: RedisServer) -> None:
    """`other`, as it is, is at the address of `server` from here on; that lives elsewhere."""
    port, aside = server.port, free_port()
    server.cli("CONFIG", "SET", "port", aside)
    other.cli("CONFIG", "SET", "port", port)
    server.port, other.port = aside, port
    server.cli("CLIENT", "KILL", "TYPE", "pubsub")
    server.cli("CLIENT", "KILL", "TYPE", "normal")


def has_its_file(server: RedisServer) -> None:
    """A replica writes its file anew with what it got."""
    rewriting = "aof_rewrite_in_progress", "aof_rewrite_scheduled"

    def is_written() -> bool:
        return all(server.info("persistence")[what] == "0" for what in rewriting)

    wait_until(is_written, "its file is never written")


def nothing_is_silent(reader: Reader, lost: list[Any], new: list[Any]) -> None:
    """No message has the seq of one that was lost; `reader`, which was shown those, is told of a gap, and
    shown what came."""
    assert not {one[1:] for one in lost} & {one[1:] for one in new}
    before = reader.at
    assert before == lost[-1].seq
    reader.go_on()
    reader.read()
    seqs = [seq for seq, _ in reader.shown]
    assert seqs == sorted(set(seqs))
    assert {one.seq for one in new} <= set(seqs)
    assert before in [after for after, _ in reader.gaps]


def sent(desk: LogsDesk, *names: str) -> list[Any]:
    return [desk.send("user:bob", msg_id=name)[0] for name in names]


def shown(desk: LogsDesk) -> Reader:
    reader = Reader(desk, "user:bob")
    reader.read()
    return reader


def test_after_a_failover_the_old_disk_comes_back(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """Its generation, and one more, were there before, at the one that stood in for it."""
    desk, other, replica = desks(), desks(), servers()
    sent(desk, "0", "1", "2")
    replica.replica_of(server)
    fail_over(server, replica)
    for one in (desk, other):
        one.settle()
    generation = desk.primary.generation
    lost = sent(desk, "lost 0", "lost 1", "lost 2")
    reader = shown(other)
    replica.kill9()
    boxes = [desk.publish("user:bob", msg_id=f"new {n}") for n in range(4)]
    server.restart()
    desk.answered(*boxes)
    nothing_is_silent(reader, lost, [box[0][0] for box in boxes])
    assert desk.primary.generation == other.primary.generation == generation + 1
    assert [after for after, _ in reader.gaps if after >= lost[-1].seq] == [lost[-1].seq], "told once"


def test_the_old_primary_had_only_lost_its_place(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """It runs on, so that its generation is what it was."""
    desk, other, replica = desks(), desks(), servers()
    sent(desk, "0", "1", "2")
    replica.replica_of(server)
    replica.promote()
    generation = desk.primary.generation
    swap(server, replica)
    for one in (desk, other):
        one.loop.until(lambda one=one: one.primary.generation == generation + 1)
        one.settle()
    lost = sent(desk, "lost 0", "lost 1", "lost 2")
    reader = shown(other)
    boxes = [desk.publish("user:bob", msg_id=f"new {n}") for n in range(4)]
    desk.answered(*boxes)
    lost += [box[0][0] for box in boxes]
    reader.go_on()
    swap(replica, server)
    for one in (desk, other):
        one.loop.until(lambda one=one: one.primary.generation > generation + 1)
    nothing_is_silent(reader, lost, sent(desk, "newer"))
    assert desk.primary.generation == other.primary.generation == generation + 2


@pytest.mark.parametrize("first", ["ran on", "fresh"])
def test_a_backup_is_seen_whoever_finds_it_first(
    desks: Callable[..., LogsDesk], server: RedisServer, first: str
) -> None:
    """Who is new cannot tell; it learns of it from those who can."""
    desk = desks()
    sent(desk, "0", "1", "2")
    backup = server.copy()
    desk.settle()
    generation = desk.primary.generation
    lost = sent(desk, "lost 0", "lost 1", "lost 2")
    reader = shown(desk)
    server.put_back(backup, restart=False)
    boxes = [desk.publish("user:bob", msg_id=f"new {n}") for n in range(4)]
    new = []
    if first == "fresh":
        line = desk.primary._line
        desk.loop.until(lambda: line._timer is not None)
        line._timer.reset(3_600)
        server.restart()
        fresh = desks()
        assert fresh.primary.generation == generation
        sent(fresh, "too early")  # has the seq of one that was lost; it is behind a gap
        line.retry_now()
        desk.answered(*boxes)
        fresh.loop.until(lambda: fresh.primary.generation > generation)
        fresh.settle()
        new = sent(fresh, "newer")
    else:
        server.restart()
    desk.answered(*boxes)
    nothing_is_silent(reader, lost, [box[0][0] for box in boxes] + new)
    assert desk.primary.generation == generation + 1


def test_the_same_backup_comes_back_twice(desks: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk = desks()
    sent(desk, "0", "1", "2")
    backup = server.copy()
    desk.settle()
    generation = desk.primary.generation
    reader, lost = shown(desk), []
    for n in range(1, 4):
        server.put_back(backup)
        desk.loop.until(lambda n=n: desk.primary.generation == generation + n)
        desk.settle()
        new = sent(desk, f"{n} 0", f"{n} 1", f"{n} 2")
        if lost:
            nothing_is_silent(reader, lost, new)
        lost, reader = new, shown(desk)


def test_a_replica_is_taken_for_the_primary(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """Behind one address a replica that lags is started as if it had never been one: all that tells it apart
    is what did not run there."""
    desk, other, replica = desks(), desks(), servers()
    sent(desk, "0", "1", "2")
    replica.replica_of(server)
    has_its_file(replica)
    replica.cli("REPLICAOF", "127.0.0.1", 1)
    generation = desk.primary.generation
    lost = sent(desk, "lost")
    reader = shown(other)
    server.kill9()
    replica.kill9()
    boxes = [desk.publish("user:bob", msg_id=f"new {n}") for n in range(4)]
    replica.port = server.port
    replica.start()
    desk.answered(*boxes)
    nothing_is_silent(reader, lost, [box[0][0] for box in boxes])
    assert desk.primary.generation == other.primary.generation == generation + 1


def test_of_what_went_lost_only_those_know_who_were_shown_it(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """The same; but the node that had the answers died, and all calls of the other had run before."""
    desk, other, replica = desks(), desks(), servers()
    sent(desk, "0", "1", "2")
    reader = shown(other)
    other.settle()
    replica.replica_of(server)
    has_its_file(replica)
    replica.cli("REPLICAOF", "127.0.0.1", 1)
    generation = other.primary.generation
    lost = sent(desk, "lost 0", "lost 1", "lost 2")
    reader.go_on()
    desk.logs.stop()
    desk.primaries.stop()
    server.kill9()
    replica.kill9()
    replica.port = server.port
    replica.start()
    other.loop.until(lambda: other.primary.generation > generation)
    other.settle()
    new = sent(other, "new 0", "new 1")
    nothing_is_silent(reader, lost, new)
    assert other.primary.generation == generation + 1


def test_an_operator_says_that_it_is_a_backup(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """No node knows what came after it: a failover, too."""
    address = f"127.0.0.1:{server.port}"
    server.cli("HSET", "ig:primary", "n", 1_000, "base", 1_000, "epoch", 77, "address", address)
    desk, replica = desks(), servers()
    old = sent(desk, "0", "1", "2")
    replica.replica_of(server)
    fail_over(server, replica)
    lost = sent(desk, "lost")
    replica.kill9()
    desk.logs.stop()
    desk.primaries.stop()
    server.restart()
    server.cli("HDEL", "ig:primary", "address")
    new = sent(desks(), "new")
    assert old[0].epoch == lost[0].epoch == new[0].epoch == 77
    assert lost[0].seq == JUMP + 4
    assert new[0].seq > lost[0].seq + JUMP


def test_an_empty_primary_that_somebody_new_finds_first(
    desks: Callable[..., LogsDesk], server: RedisServer
) -> None:
    """No generation of before comes again: sessions, and what other primaries keep of them, contain it."""
    desk = desks()
    server.cli("HINCRBY", "ig:primary", "n", 10)  # so many failovers
    sent(desk, "0")
    known, line = desk.primary.generation, desk.primary._line
    server.kill9()
    for each in (line, desk.primary._reading):
        desk.loop.until(lambda each=each: each._timer is not None)
        each._timer.reset(3_600)
    server.lose_all()
    fresh = desks()
    assert fresh.primary.generation < known
    line.retry_now()
    for one in (desk, fresh):
        one.loop.until(lambda one=one: one.primary.generation == known + 1)
        one.settle()
    assert [one.code for one in sent(fresh, "0")] == [OK]


def test_failovers_that_lose_nothing_are_told_once_each(
    desks: Callable[..., LogsDesk], servers: Callable[[], RedisServer], server: RedisServer
) -> None:
    """As when the servers are updated one after the other: whatever each of the nodes knows."""
    nodes = [desks() for _ in range(3)]
    generation = nodes[0].primary.generation
    reader = shown(nodes[2])
    for n in range(1, 4):
        for desk in nodes[:n]:
            sent(desk, f"{n} by {desk.incarnation}")
        replica = servers()
        replica.replica_of(server)
        fail_over(server, replica)
        server = replica
        for desk in nodes:
            desk.settle()
        assert [desk.primary.generation for desk in nodes] == [generation + n] * 3
        reader.go_on()
        reader.read()
    assert [name for _, name in reader.shown] == [
        f"{n} by n.{m}" for n in range(1, 4) for m in range(1, n + 1)
    ]
    assert len(reader.gaps) == 3


def test_an_empty_primary_has_another_epoch(desks: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk = desks()
    before = desk.send("user:bob", msg_id="0")[0]
    assert desk.watch("user:bob").head == 1
    server.lose_all()
    desk.settle()
    desk.loop.until(lambda: desk.listener.named("moved"))
    where, epoch, head = desk.listener.named("moved")[0]
    assert where == log("user:bob")
    assert head > 1, "whoever stands at the old end looks, too"
    assert epoch not in (0, before.epoch)
    after = desk.send("user:bob", msg_id="0")[0]
    assert after == (OK, epoch, 1)


def test_of_a_log_that_was_replaced_everybody_hears(
    desks: Callable[..., LogsDesk], server: RedisServer
) -> None:
    """Also where the new one has grown as long as the old one was, and after the watches were lost again."""
    desk, other = desks(), desks()
    texts = [f"user:u{n}" for n in range(600)]
    other.answered(*[other.later(other.logs.watch(log(text))) for text in texts])
    desk.send(*texts[:50], msg_id="old")
    other.settle()
    other.logs.unwatch(log("user:u599"))
    line = other.primary._line
    server.kill9()
    other.loop.until(lambda: line._timer is not None)
    line._timer.reset(3_600)
    server.lose_all()
    assert [one.seq for one in desk.send(*texts[:50], msg_id="new")] == [1] * 50
    other.listener.events.clear()
    line.retry_now()
    other.loop.until(lambda: other.primary.epoch == desk.primary.epoch)
    other.logs.renewed(other.primary)
    other.logs.renewed(other.primary)
    other.settle()
    everybody = {(log(text), desk.primary.epoch) for text in texts[:599]}
    other.loop.until(lambda: {one[:2] for one in other.listener.named("moved")} == everybody)
    assert not other.logs._watches._replaced
    beyond = {where for where, _, head in other.listener.named("moved") if head > 1}
    assert beyond >= {log(text) for text in texts[:50]}, "whoever stands at the old end looks, too"


def test_a_log_that_is_watched_once_more_while_it_is_replaced(
    desks: Callable[..., LogsDesk], server: RedisServer
) -> None:
    """Whoever begins at its end would else begin beyond it, and miss what comes first."""
    desk = desks()
    desk.watch("topic:news")
    for number in range(9):
        desk.send("topic:news", msg_id=str(number))
    before = desk.primary.epoch
    server.kill9()
    desk.loop.until(lambda: not desk.primary.is_up)
    box = desk.later(desk.logs.watch(log("topic:news")))
    desk.loop.iterate(0)
    server.lose_all()
    desk.settle()
    assert desk.primary.epoch != before
    assert (box[0].epoch, box[0].head) == (desk.primary.epoch, 0)
    desk.loop.until(lambda: desk.listener.named("moved"))
    desk.send("topic:news", msg_id="new")
    assert desk.watch("topic:news").head == 1


def spoil(desk: LogsDesk, server: RedisServer, text: str) -> None:
    """Who watches this log cannot be read."""
    server.cli("SET", key(desk, text, "w", text), "something else")


def test_a_log_that_cannot_be_watched_keeps_nobody_from_the_others(
    desks: Callable[..., LogsDesk], server: RedisServer, flush_logged_errors: Any
) -> None:
    """Also who is watched no more stays so, but for whom it was asked for once more meanwhile."""
    desk = desks()
    gone, anew = log("topic:gone"), log("topic:anew")
    for where in (gone, anew, log("topic:stays")):
        desk.run(desk.logs.watch(where))
    for text in ("topic:bad", "topic:stays"):
        server.cli("DEL", key(desk, text, "w", text))
        spoil(desk, server, text)
    texts = ("topic:bad", "topic:good", "topic:better")
    boxes = [desk.later(desk.logs.watch(log(text))) for text in texts]
    for where in (gone, anew, log("topic:stays")):
        desk.logs.unwatch(where)
    desk.logs._watches.flush()
    again = desk.later(desk.logs.watch(anew))
    desk.answered(*boxes[1:], again)
    desk.settle()
    assert isinstance(boxes[0][0], Failure), "who asked for it is not left waiting"
    assert flush_logged_errors()
    watched = [key(desk, text, "w", text) for text in ("topic:good", "topic:gone", "topic:anew")]
    assert [server.cli("SCARD", one) for one in watched] == [1, 0, 1]
    server.cli("DEL", key(desk, "topic:bad", "w", "topic:bad"))
    assert desk.watch("topic:bad").head == 0


def test_a_log_that_cannot_be_watched_again_keeps_nobody_from_the_others(
    desks: Callable[..., LogsDesk],
    server: RedisServer,
    flush_logged_errors: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the subscription was lost."""
    monkeypatch.setattr(watches, "AGAIN", 4)
    desk, other = desks(), desks()
    texts = [f"topic:t{number}" for number in range(20)]
    desk.answered(*[desk.later(desk.logs.watch(log(text))) for text in texts])
    subscription = desk.primary.subscription
    subscription.drop(ConnectionError("lost"))
    desk.loop.until(lambda: subscription._timer is not None)
    subscription._timer.reset(3_600)
    other.send(*texts, msg_id="unheard")
    for text in texts[2:4]:
        spoil(desk, server, text)
    subscription.retry_now()
    desk.loop.until(lambda: subscription.is_up)
    desk.logs.unwatch(log(texts[0]))  # the others with it are asked for just now
    everybody = {log(text) for text in texts[1:2] + texts[4:]}
    desk.settle()
    desk.loop.until(lambda: {where for where, *_ in desk.listener.named("moved")} == everybody)
    assert flush_logged_errors()


def test_a_stop_while_everything_is_watched_again(
    desks: Callable[..., LogsDesk], server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of a broker that has stopped fails at once, and asks for nothing more."""
    monkeypatch.setattr(watches, "AGAIN", 1)
    desk = desks()
    desk.answered(*[desk.later(desk.logs.watch(log(f"topic:t{number}"))) for number in range(20)])
    asked: list[Any] = []
    call = desk.primary.call
    monkeypatch.setattr(desk.primary, "call", lambda *args: (asked.append(args), call(*args))[1])
    server.freeze()
    desk.logs.renewed(desk.primary)
    assert len(asked) == watches.AGAIN_IN_FLIGHT
    desk.primaries.stop()
    server.thaw()
    assert len(asked) == watches.AGAIN_IN_FLIGHT
