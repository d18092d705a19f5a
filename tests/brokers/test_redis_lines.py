"""Lines to a real redis-server: whatever becomes of it, calls run once, in order, and are answered."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from imgateway.brokers.redis import primary as primary_module
from imgateway.brokers.redis.checks import check_server
from imgateway.brokers.redis.connection import Connection, RedisError
from imgateway.brokers.redis.scripts import compose, scripts
from imgateway.errors import StoreError
from tests.brokers.redis_desk import NOTE, RedisDesk, answered, note
from tests.brokers.redis_server import Loop, RedisServer, free_port, wait_until

pytestmark = pytest.mark.server

# Fails in its middle, as a wrong script does.
WRONG = "redis.call('SET', 'half', 'done') return redis.call('INCR', 'notes')"
COUNT = "return redis.call('LLEN', 'notes')"
# What is packed already among what is not, and more of it than a short array of MessagePack has.
HINTS = """
for n = 1, 20 do
  if n % 3 == 0 then
    tell_packed(ARGV[2], cmsgpack.pack({'a', n, {'x'}}))
  else
    tell(ARGV[2], 'a', n, {'x'})
  end
end
return flush() == nil
"""


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"note": NOTE, "wrong": WRONG, "count": COUNT, "hints": HINTS}
    extra = {name: compose(name, text) for name, text in texts.items()}
    monkeypatch.setattr(primary_module, "scripts", lambda: {**scripts(), **extra})


@pytest.fixture
def desk_type() -> type[RedisDesk]:
    return RedisDesk


def noted(server: RedisServer) -> list[int]:
    return [int(number) for number in server.cli("LRANGE", "notes", 0, -1)]


# ----------------------------------------------------------------------------------------------- good weather


def test_calls_run_in_order_and_are_answered_in_order(desk: RedisDesk, server: RedisServer) -> None:
    order: list[int] = []
    for number in range(300):
        desk.primary.call("note", number).addCallback(order.append)
    desk.settle()
    assert order == list(range(1, 301))
    assert noted(server) == list(range(300))


def test_what_only_reads_has_a_line_of_its_own(desk: RedisDesk, server: RedisServer) -> None:
    note(desk, range(3))
    desk.settle()
    assert desk.run(desk.primary.ask("count")) == 3
    # Its line has no numbers.
    assert server.cli("KEYS", "ig:line:*") == [b"ig:line:n.1"]


def test_a_wrong_script_fails_its_call_only(
    desk: RedisDesk, server: RedisServer, flush_logged_errors: Any
) -> None:
    boxes = [desk.later(desk.primary.call(name, 1)) for name in ("note", "wrong", "note")]
    first, second, third = answered(desk, boxes)
    assert (first, third) == (1, 1)
    assert second.check(RedisError)
    assert "WRONGTYPE" in str(second.value)
    assert desk.states == [(True, "")]
    assert len(flush_logged_errors()) == 1


def test_who_stops_tells_those_who_wait(desk: RedisDesk, server: RedisServer) -> None:
    server.freeze()
    (box,) = note(desk, range(1))
    desk.stop()
    assert box[0].check(CancelledError)
    (late,) = note(desk, range(1))
    assert late[0].check(CancelledError)
    assert desk.run(desk.primary.idle()) is None


def test_hints_are_heard_in_order_by_whom_they_are_for(
    desk: RedisDesk, sit: Callable[..., RedisDesk], server: RedisServer
) -> None:
    other = sit(server).start()
    said = [f"word {n}".encode() + b"\xff\x00" for n in range(50)]
    for word in said:
        desk.primary.call("tell", "n.2", word)
    desk.settle()
    other.settle()
    assert other.items == [[b"c", word, b""] for word in said]
    assert desk.items == []


def test_hints_of_one_script_keep_their_order_whether_packed_before_or_not(desk: RedisDesk) -> None:
    assert desk.run(desk.primary.call("hints", desk.incarnation)) == 1
    desk.settle()
    assert desk.items == [[b"a", n, [b"x"]] for n in range(1, 21)]


def test_a_hint_for_nobody_is_answered(desk: RedisDesk) -> None:
    assert desk.run(desk.primary.call("tell", "n.9", "hello")) == 0
    assert desk.run(desk.primary.call("tell", "n.1", "hello")) == 1


def test_scripts_of_a_running_server_are_not_loaded_again(
    desk: RedisDesk, sit: Callable[..., RedisDesk], server: RedisServer
) -> None:
    def loads() -> str:
        return server.info("commandstats")["cmdstat_script|load"].partition(",")[0]

    before = loads()
    sit(server).start()
    assert loads() == before


# ------------------------------------------------------------------------------------------------ bad weather


def test_a_server_that_is_away_at_start_is_waited_for(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    server = start()
    server.stop()
    desk = sit(server)
    started = desk.later(desk.primaries.start())
    boxes = note(desk, range(10))
    desk.loop.until(lambda: desk.states)
    assert desk.states[0][0] is False
    assert "refused" in desk.states[0][1]
    assert started == []
    server.restart()
    assert answered(desk, [started, *boxes]) == [None, *range(1, 11)]
    assert desk.states[-1] == (True, "")


@pytest.mark.parametrize("kills", [1, 4])
def test_calls_in_flight_survive_kill_9(desk: RedisDesk, server: RedisServer, kills: int) -> None:
    boxes: list[list[Any]] = []

    def call(count: int) -> None:
        boxes.extend(note(desk, range(len(boxes), len(boxes) + count)))

    for _ in range(kills):
        call(300)
        # Some are done, and nobody hears of it; some the server never sees.
        desk.loop.until(lambda: all(boxes))
        desk.primary._line._connection.transport.pauseProducing()
        call(100)
        desk.loop.until(lambda: server.cli("LLEN", "notes") == len(boxes))
        server.freeze()
        call(100)
        desk.loop.iterate(0)
        assert not any(boxes[-200:])
        server.kill9()
        desk.primary._line.drop(ConnectionError("killed"))
        server.restart()
        assert answered(desk, boxes) == list(range(1, len(boxes) + 1))
    assert noted(server) == list(range(kills * 500))
    # It came back with its own disk: nothing is lost, so nobody is told of a gap.
    assert len({desk.primary.generation, int(server.cli("HGET", "ig:primary", "n"))}) == 1
    assert not any("other data" in why for _, why in desk.states)


def test_half_a_minute_away_loses_nothing(desk: RedisDesk, server: RedisServer) -> None:
    before = desk.primary.generation
    boxes = note(desk, range(500))
    server.kill9()
    for second in range(30):
        boxes += note(desk, range(500 + second, 501 + second))
        desk.pass_time(1)
    server.restart()
    assert answered(desk, boxes) == list(range(1, 531))
    assert noted(server) == list(range(530))
    assert desk.primary.generation == before


def test_who_gives_up_while_it_is_away_does_not_wait_in_the_line(
    desk: RedisDesk, server: RedisServer
) -> None:
    server.kill9()
    desk.loop.until(lambda: not desk.primary.is_up)
    before = desk.primary.unanswered
    asked = [desk.primary.call("note", number) for number in range(50)]
    boxes = note(desk, range(50, 53))
    for one in asked:
        one.addErrback(lambda failure: failure.trap(CancelledError))
        one.cancel()
    assert desk.primary.unanswered == before + 53
    desk.pass_time(1)
    assert desk.primary.unanswered == before + 3
    server.restart()
    assert answered(desk, boxes) == [1, 2, 3]
    assert noted(server) == [50, 51, 52]


def test_a_server_that_hangs_is_left_and_found_again(desk: RedisDesk, server: RedisServer) -> None:
    server.freeze()
    boxes = note(desk, range(20))
    for _ in range(14):
        desk.pass_time(1)
    assert (False, "cannot be written to: no answer within 10 s") in desk.states
    boxes += note(desk, range(20, 40))
    server.thaw()
    # The calls that it still had from the old connection ran as well, and count once.
    assert answered(desk, boxes) == list(range(1, 41))
    assert noted(server) == list(range(40))


def test_scripts_that_are_flushed_are_loaded_again(
    desk: RedisDesk, sit: Callable[..., RedisDesk], server: RedisServer
) -> None:
    other = sit(server).start()
    boxes = []
    for part in range(0, 2000, 100):
        boxes += note(desk, range(part, part + 100))
        other.later(other.primary.call("tell", "n.1", "hello"))
        if part % 500 == 0:
            server.cli("SCRIPT", "FLUSH")
        desk.loop.iterate(0)
    assert answered(desk, boxes) == list(range(1, 2001))
    assert noted(server) == list(range(2000))
    # A moment that mends itself is no news for the operator.
    assert desk.states == [(True, "")]


def test_out_of_memory_waits_and_nothing_overtakes(desk: RedisDesk, server: RedisServer) -> None:
    boxes = note(desk, range(50))
    desk.settle()
    used = int(server.info("memory")["used_memory"])
    for part in range(50, 1050, 50):
        boxes += note(desk, range(part, part + 50))
        # It changes its mind in the middle of them.
        desk.loop.iterate(0)
        server.cli("CONFIG", "SET", "maxmemory", 1_000_000 if part % 100 else used * 10)
        desk.loop.iterate(0.01)
    desk.loop.until(lambda: any("OOM" in why for _, why in desk.states))
    assert not all(boxes)
    server.cli("CONFIG", "SET", "maxmemory", 0)
    assert answered(desk, boxes) == list(range(1, 1051))
    assert noted(server) == list(range(1050))


class Refusal:
    """What a server refuses calls with until it is over."""

    def __init__(self, server: RedisServer, why: str) -> None:
        self._server, self._why = server, why
        self._busy: socket.socket | None = None

    def begin(self) -> None:
        if self._why == "BUSY":
            self._server.cli("CONFIG", "SET", "busy-reply-threshold", 1)
            self._busy = socket.create_connection(("127.0.0.1", self._server.port))
            self._busy.sendall(hiredis.pack_command(("EVAL", "while true do end", 0)))
            self._wait_until_busy(True)
        elif self._why == "READONLY":
            self._server.cli("REPLICAOF", "127.0.0.1", 1)
        else:
            self._set(1)

    def end(self) -> None:
        if self._busy is not None:
            self._server.cli("SCRIPT", "KILL")
            self._wait_until_busy(False)
            self._busy.close()
        elif self._why == "READONLY":
            self._server.promote()
        else:
            self._set(0)

    def _set(self, value: int) -> None:
        name = {"NOREPLICAS": "min-replicas-to-write", "OOM": "maxmemory"}[self._why]
        self._server.cli("CONFIG", "SET", name, value)

    def _wait_until_busy(self, is_busy: bool) -> None:
        wait_until(lambda: self._is_busy() == is_busy, "it is as busy as before")

    def _is_busy(self) -> bool:
        try:
            self._server.cli("PING")
        except RedisError as problem:
            return problem.code == "BUSY"
        return False


@pytest.mark.parametrize("why", ["NOREPLICAS", "OOM", "READONLY", "BUSY"])
def test_what_is_refused_is_not_overtaken_when_that_ends(
    desk: RedisDesk, server: RedisServer, why: str
) -> None:
    """Before the node has read that the first was refused; and where nothing can be written, no script can
    leave a sign that it was."""
    desk.hush()
    boxes = note(desk, range(3))
    desk.settle()
    refusal = Refusal(server, why)
    transport = desk.primary._line._connection.transport

    def replies(count: int) -> bool:
        """Whether so many have come, which nobody reads."""
        try:
            found = transport.socket.recv(65_536, socket.MSG_PEEK)
        except BlockingIOError:
            found = b""
        return found.count(b"\r\n") >= count

    transport.pauseProducing()
    refusal.begin()
    boxes += note(desk, range(3, 6))
    desk.loop.until(lambda: replies(3))
    refusal.end()
    boxes += note(desk, range(6, 9))
    desk.loop.until(lambda: replies(6))
    assert not any(boxes[3:])
    transport.resumeProducing()
    assert answered(desk, boxes) == list(range(1, 10))
    assert noted(server) == list(range(9))


def test_the_greeting_of_an_older_connection_comes_too_late(desk: RedisDesk, server: RedisServer) -> None:
    """A server that stood still finds it beside the newer one."""
    answered(desk, note(desk, range(3)))
    desk.primary._line.drop(ConnectionError("test"))
    answered(desk, note(desk, range(3, 6)))
    desk.settle()
    before = server.cli("GET", "ig:line:n.1")
    assert before.split(b".")[1:] == [b"2", b"3"]
    greet = scripts()["greet"].sha
    known = ("an:address", 1, 1, desk.primary.generation, "primary 1 of 1")
    with pytest.raises(RedisError, match="FENCED"):
        server.cli("EVALSHA", greet, 0, 0, "n.1", *known, 1, 0, 0)
    assert server.cli("GET", "ig:line:n.1") == before
    assert answered(desk, note(desk, range(6, 7))) == [7]


def test_what_only_says_something_needs_no_number(desk: RedisDesk, server: RedisServer) -> None:
    """So it costs no write; and it is said after what was called before it."""
    answered(desk, note(desk, range(3)))
    desk.settle()
    before = server.cli("GET", "ig:line:n.1")
    desk.run(desk.primary.call("tell", "n.1", "hello"))
    desk.settle()
    assert server.cli("GET", "ig:line:n.1") == before
    server.cli("SET", "ig:line:n.1", before + b"0")  # as if another call were before it
    assert desk.run(desk.primary.call("tell", "n.1", "hello")) == 1
    assert server.cli("GET", "ig:line:n.1").split(b".")[1:] == [b"2", b"0"]


def test_what_is_refused_before_its_script_runs_is_no_sign_of_loss(
    desk: RedisDesk, server: RedisServer, flush_logged_errors: Any
) -> None:
    answered(desk, note(desk, range(3)))
    before = desk.primary.generation
    server.cli("CONFIG", "SET", "proto-max-bulk-len", 1 << 20)
    refused = desk.later(desk.primary.call("note", bytes(2 << 20)))
    desk.loop.until(lambda: refused)
    assert refused[0].check(RedisError)
    assert len(flush_logged_errors()) == 1
    server.cli("CONFIG", "SET", "proto-max-bulk-len", 512 << 20)
    assert answered(desk, note(desk, range(3, 6))) == [4, 5, 6]
    assert desk.primary.generation == before


def test_calls_after_a_wrong_script_are_missed_in_a_backup(
    desk: RedisDesk, server: RedisServer, flush_logged_errors: Any
) -> None:
    """Its call counts, but whether it ran cannot be seen from its answer."""
    answered(desk, note(desk, range(3)))
    before, backup = desk.primary.generation, server.copy()
    desk.settle()
    with pytest.raises(RedisError):
        desk.run(desk.primary.call("wrong"))
    assert len(flush_logged_errors()) == 1
    answered(desk, note(desk, range(3, 6)))
    assert desk.primary.generation == before
    server.put_back(backup)
    desk.settle()
    assert desk.primary.generation == before + 1


@pytest.mark.parametrize("name", ["members", "present"])
def test_what_only_asks_writes_nothing(desk: RedisDesk, server: RedisServer, name: str) -> None:
    """And it is asked after what was called before it."""
    answered(desk, note(desk, range(3)))
    desk.settle()
    before = server.cli("GET", "ig:line:n.1")
    desk.run(desk.primary.call(name, "0", "bob"))
    assert server.cli("GET", "ig:line:n.1") == before
    server.cli("SET", "ig:line:n.1", before + b"0")
    desk.run(desk.primary.call(name, "0", "bob"))
    assert server.cli("GET", "ig:line:n.1").split(b".")[1:] == [b"2", b"0"]


def test_a_primary_that_forgot_only_its_generation(desk: RedisDesk, server: RedisServer) -> None:
    before = desk.primary.generation
    server.cli("DEL", "ig:primary")
    assert answered(desk, note(desk, range(1))) == [1]
    assert desk.primary.generation == before + 1


def test_a_server_that_is_loading_is_waited_for(desk: RedisDesk, server: RedisServer) -> None:
    for number in range(400):
        server.cli("SET", f"ballast{number}", b"x" * 4096)
    server.cli("BGREWRITEAOF")
    desk.loop.until(lambda: server.info("persistence")["aof_rewrite_in_progress"] == "0")
    boxes = note(desk, range(5))
    desk.settle()
    server.options += ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "4096")
    server.kill9()
    boxes += note(desk, range(5, 10))
    server.restart(loaded=False)
    desk.loop.until(lambda: any("LOADING" in why for _, why in desk.states))
    assert answered(desk, boxes) == list(range(1, 11))


def test_a_primary_that_was_demoted_is_waited_for(
    desk: RedisDesk, server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    boxes = note(desk, range(5))
    desk.settle()
    before = (desk.primary.generation, desk.primary.epoch)
    server.replica_of(start())
    boxes = note(desk, range(100, 110))
    desk.loop.until(lambda: any("READONLY" in why for _, why in desk.states))
    # What it has may be old: nobody reads it.
    count = desk.later(desk.primary.ask("count"))
    desk.loop.spin(0.1)
    assert not any([*boxes, count])
    server.promote()
    assert answered(desk, boxes) == list(range(1, 11))
    desk.loop.until(lambda: count)
    # It took over the other's empty data: no generation or epoch of before comes again.
    assert desk.primary.generation > before[0]
    assert desk.primary.epoch != before[1]


def test_a_demotion_is_noticed_without_a_write(
    desk: RedisDesk, server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    before = desk.primary.generation
    server.replica_of(start())
    desk.pass_time(1)
    desk.loop.until(lambda: any("READONLY" in why for _, why in desk.states))
    server.promote()
    desk.settle()
    assert desk.primary.generation > before


def test_one_that_was_a_replica_for_a_moment_is_greeted_again(
    desk: RedisDesk, server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    epoch = desk.primary.epoch
    server.replica_of(start())
    server.promote()
    desk.pass_time(1)
    desk.loop.until(lambda: desk.primary.epoch != epoch)
    desk.settle()
    assert len(desk.renewals) >= 2


def test_an_emptied_server_is_another(desk: RedisDesk, server: RedisServer) -> None:
    before = (desk.primary.generation, desk.primary.epoch)
    note(desk, range(5))
    desk.settle()
    server.cli("FLUSHALL")
    (box,) = note(desk, range(9, 10))
    assert answered(desk, [box]) == [1]
    assert desk.primary.generation > before[0]
    assert desk.primary.epoch != before[1]


def test_a_promoted_replica_that_misses_the_last_writes_is_told_apart(
    desk: RedisDesk, server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    generation, epoch = desk.primary.generation, desk.primary.epoch
    replica = start()
    replica.replica_of(server)
    answered(desk, note(desk, range(10)))
    replica.synced(server)
    replica.freeze()
    server.cli("CLIENT", "KILL", "TYPE", "replica")
    assert answered(desk, note(desk, range(10, 20))) == list(range(11, 21))
    server.kill9()
    replica.thaw()
    replica.promote()
    # It takes over the address, as behind a virtual IP.
    replica.cli("CONFIG", "SET", "port", server.port)
    replica.port = server.port
    (box,) = note(desk, range(20, 21))
    assert answered(desk, [box]) == [11]
    assert (desk.primary.generation, desk.primary.epoch) == (generation + 1, epoch)
    desk.settle()
    assert len(desk.renewals) >= 2


# ---------------------------------------------------------------------------------------------- subscriptions


def test_a_subscription_lost_alone_is_renewed(desk: RedisDesk, server: RedisServer) -> None:
    assert len(desk.renewals) == 1
    assert server.cli("CLIENT", "KILL", "TYPE", "pubsub") == 1
    desk.loop.until(lambda: len(desk.renewals) == 2)
    desk.run(desk.primary.call("tell", "n.1", "hello"))
    desk.settle()
    assert desk.items == [[b"c", b"hello", b""]]
    assert desk.states == [(True, "")]


def test_a_half_open_subscription_is_renewed(desk: RedisDesk) -> None:
    connection = desk.primary.subscription._connection
    connection.transport.pauseProducing()  # what the server says is lost on its way
    desk.hush()
    for _ in range(3):
        desk.primary.subscription.tick()
        desk.loop.spin(0.02)
    assert len(desk.renewals) == 1
    desk.primary.subscription.tick()
    desk.loop.until(lambda: len(desk.renewals) == 2)
    desk.settle()


def test_a_subscription_that_is_heard_stays(desk: RedisDesk) -> None:
    for _ in range(10):
        desk.pass_time(1)
        desk.settle()
    assert len(desk.renewals) == 1


def test_a_subscription_that_may_not_listen_is_tried_again(server: RedisServer, desk: RedisDesk) -> None:
    server.cli("ACL", "SETUSER", "default", "-subscribe")
    server.cli("CLIENT", "KILL", "TYPE", "pubsub")
    desk.loop.until(lambda: len(desk.states) == 2)
    up, why = desk.states[1]
    assert (up, why[:40]) == (False, "cannot be listened to: NOPERM this user ")
    server.cli("ACL", "SETUSER", "default", "+subscribe")
    desk.settle()
    assert len(desk.renewals) == 2
    assert desk.states[2:] == [(True, "")]


def test_who_may_not_listen_at_all_does_not_start(server: RedisServer, sit: Callable[..., RedisDesk]) -> None:
    server.cli("ACL", "SETUSER", "default", "-subscribe")
    with pytest.raises(StoreError, match=r"NOPERM .* 'subscribe'"):
        sit(server).start()


# -------------------------------------------------------------------------------------------- several of them


def test_what_belongs_together_is_together(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    desk = sit(start(), start(), rings=(start("--appendonly", "no"),)).start()
    primaries = desk.primaries
    assert [primary.index for primary in primaries.all()] == [0, 1, 2]
    found = {primaries.of(f"user{n}")[0].index for n in range(50)}
    assert found == {0, 1}
    assert {primaries.rings_of(f"room:{n}")[0].index for n in range(50)} == {2}
    assert primaries.of("bob") == primaries.of("bob")
    assert 0 <= primaries.of("bob")[1] < 1024
    assert (primaries.each(), primaries.each_ring()) == (primaries.all()[:2], primaries.all()[2:])


def test_without_ring_primaries_rings_are_with_the_logs(desk: RedisDesk) -> None:
    assert desk.primaries.each_ring() == desk.primaries.each()


def test_one_that_will_not_do_ends_the_start_of_all(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk], loop: Loop
) -> None:
    desk = sit(start(), start("--appendonly", "no"))
    with pytest.raises(StoreError, match="CONFIG SET appendonly yes appendfsync always"):
        desk.start()
    loop.spin(0.05)
    assert not any(primary.is_up for primary in desk.primaries.all())


def without_one(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> tuple[RedisDesk, RedisServer]:
    """Started on two servers of which the second is away."""
    there, away = start(), start()
    away.stop()
    desk = sit(there, away)
    desk.run(desk.primaries.start())
    return desk, away


def test_a_start_goes_on_without_one_that_is_away(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    desk, away = without_one(start, sit)
    ready, missing = desk.primaries.all()
    assert (ready.is_ready, missing.is_ready) == (True, False)
    (why,) = [why for up, why in desk.states if not up]
    assert "refused" in why
    assert desk.run(ready.call("note", 1)) == 1
    waiting = [desk.later(missing.call("note", number)) for number in range(3)]
    away.restart()
    assert answered(desk, waiting) == [1, 2, 3]
    desk.settle()
    assert desk.renewals == [ready, missing]
    assert desk.states[-1] == (True, "")


def test_a_start_waits_for_one_that_has_logs(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    rings, one, two = start("--appendonly", "no"), start(), start()
    for server in (one, two):
        server.stop()
    desk = sit(one, two, rings=(rings,))
    started = desk.later(desk.primaries.start())
    desk.loop.until(lambda: desk.primaries.each_ring()[0].is_ready and len(desk.states) >= 3)
    assert started == []
    two.restart()
    assert answered(desk, [started]) == [None]
    assert [primary.is_ready for primary in desk.primaries.each()] == [False, True]


def test_who_comes_after_the_start_and_will_not_do_is_not_used(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    """And ends nothing: others are served."""
    desk, away = without_one(start, sit)
    ready, missing = desk.primaries.all()
    box = desk.later(missing.call("note", 1))
    kept, away.options = away.options, ("--appendonly", "no")
    away.restart()
    desk.loop.until(lambda: "CONFIG SET appendonly yes" in desk.states[-1][1])
    assert (box, missing.is_up) == ([], False)
    assert desk.run(ready.call("note", 1)) == 1
    away.options = kept
    away.restart()
    assert answered(desk, [box]) == [1]


def test_who_gives_up_while_nobody_is_there(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    servers = [start(), start()]
    for server in servers:
        server.stop()
    desk = sit(*servers)
    started = desk.later(desk.primaries.start())
    desk.loop.until(lambda: len(desk.states) == 2)
    desk.primaries.stop()
    assert started[0].check(CancelledError)


# ----------------------------------------------------------------------------------------------- start checks

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.mark.parametrize(
    ("options", "mends"),
    [
        (("--appendonly", "no"), ("appendonly", "yes", "appendfsync", "always")),
        (
            ("--appendonly", "yes", "--appendfsync", "everysec"),
            ("appendonly", "yes", "appendfsync", "always"),
        ),
        ((*ALWAYS, "--maxmemory-policy", "allkeys-lru"), ("maxmemory-policy", "noeviction")),
    ],
    ids=["no disk", "everysec", "evicts"],
)
def test_a_server_that_may_lose_something_is_refused_with_what_mends_it(
    start: Callable[..., RedisServer],
    sit: Callable[..., RedisDesk],
    options: tuple[str, ...],
    mends: tuple[str, ...],
) -> None:
    server = start(*options)
    with pytest.raises(StoreError) as problem:
        sit(server).start()
    text = str(problem.value)
    assert f"CONFIG SET {' '.join(mends)}, " in text
    assert f"127.0.0.1:{server.port}" in text
    assert "\n" not in text
    sit(server, unsafe=True).start()
    server.cli("CONFIG", "SET", *mends)
    sit(server).start()


def test_rings_need_no_disk_but_their_keys(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk], server: RedisServer
) -> None:
    rings = start("--appendonly", "no")
    sit(server, rings=(rings,)).start()
    rings.cli("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    with pytest.raises(StoreError, match="noeviction"):
        sit(server, rings=(rings,)).start()


def test_without_a_sure_disk_a_restart_is_other_data(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    server = start("--appendonly", "yes", "--appendfsync", "everysec")
    desk = sit(server, unsafe=True).start()
    before = desk.primary.generation
    server.restart()
    desk.loop.until(lambda: desk.primary.generation > before)


def test_replicas_are_not_asked_of_an_old_server(server: RedisServer, sit: Callable[..., RedisDesk]) -> None:
    version = server.info("server")["redis_version"]
    assert version.startswith(("6.", "7.0")), "a newer server: let the test of WAITAOF run on it"
    with pytest.raises(StoreError, match=rf"7\.2 .* {version}: .*redis.ack = \"local\""):
        sit(server, to_replica=True, unsafe=True).start()


def test_a_server_that_does_not_say_how_it_is_set(server: RedisServer, sit: Callable[..., RedisDesk]) -> None:
    server.cli("ACL", "SETUSER", "default", "-config")
    with pytest.raises(StoreError, match=r"redis\.unsafe"):
        sit(server).start()
    sit(server, unsafe=True).start()


@pytest.mark.parametrize("unsafe", [False, True])
def test_who_is_not_let_in_is_not_sent_to_an_unsafe_redis(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk], unsafe: bool
) -> None:
    with pytest.raises(StoreError, match=r"NOAUTH.*redis\.password_file") as problem:
        sit(start("--requirepass", "s3cret", *ALWAYS), unsafe=unsafe).start()
    assert "redis.unsafe" not in str(problem.value)

    class FromElsewhere:
        async def ask(self, *words: str) -> Any:
            raise RedisError("DENIED Redis is running in protected mode because protected mode is enabled …")

    from_elsewhere: Any = FromElsewhere()
    checking = check_server(from_elsewhere, "10.0.0.7:6379", logs=True, to_replica=False, unsafe=unsafe)
    with pytest.raises(
        StoreError, match=r"^redis 10\.0\.0\.7:6379: DENIED: .*requirepass.*redis\.password_file"
    ):
        checking.send(None)


def test_a_wrong_password_is_told_at_once(
    start: Callable[..., RedisServer], sit: Callable[..., RedisDesk]
) -> None:
    server = start("--requirepass", "s3cret", *ALWAYS)
    for password, code in (("", "NOAUTH"), ("guess", "WRONGPASS")):
        with pytest.raises(StoreError, match=code):
            sit(server, password=password).start()
    desk = sit(server, password="s3cret").start()
    assert desk.run(desk.primary.call("note", 1)) == 1


def test_a_password_that_changes_later_is_waited_for(desk: RedisDesk, server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "requirepass", "s3cret")
    desk.primary._line.drop(ConnectionError("test"))
    desk.loop.until(lambda: any("NOAUTH" in why for _, why in desk.states))
    desk.primary._password = "s3cret"
    desk.loop.until(lambda: desk.primary.is_up)


def test_a_database_beside_others(server: RedisServer, sit: Callable[..., RedisDesk]) -> None:
    desk = sit(server, path="/3").start()
    assert desk.run(desk.primary.call("note", 1)) == 1
    assert server.cli("EXISTS", "notes") == 0


def test_a_port_without_redis_is_tried_until_stopped(loop: Loop, sit: Callable[..., RedisDesk]) -> None:
    class Nobody:
        url = f"redis://127.0.0.1:{free_port()}"

    desk = sit(Nobody())
    started = desk.later(desk.primaries.start())
    desk.loop.until(lambda: desk.states)
    desk.stop()
    assert started[0].check(CancelledError) or started[0]


# ------------------------------------------------------------------------------------------------ connections


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abortConnection(self) -> None:
        self.aborted = True


@pytest.fixture
def connection() -> Connection:
    connection = Connection()
    connection.makeConnection(Wire())  # type: ignore[arg-type]
    return connection


@pytest.mark.parametrize("data", [b"garbage\r\n", b"+a reply to nothing\r\n"])
def test_what_is_no_answer_ends_a_connection(connection: Connection, data: bytes) -> None:
    lost: list[Failure] = []
    connection.lost = lost.append
    connection.dataReceived(data)
    assert connection.transport.aborted
    assert lost[0].check(RedisError)
    connection.connectionLost()
    connection.abort()
    assert len(lost) == 1, "it is told once"


def test_who_asked_is_told_that_the_connection_is_lost(connection: Connection) -> None:
    answers: list[Any] = []
    connection.ask("GET", "a").addBoth(answers.append)
    connection.ask("GET", b"b").addBoth(answers.append)
    assert connection.transport.sent == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
    connection.dataReceived(b"+one\r\n")
    connection.abort(TimeoutError("test"))
    assert answers[0] == b"one"
    assert answers[1].check(TimeoutError)


def test_nothing_is_answered_after_the_end(connection: Connection) -> None:
    answers: list[Any] = []
    connection.send(lambda reply: (answers.append(reply), connection.abort()), "A")
    connection.send(answers.append, "B")
    connection.dataReceived(b":1\r\n:2\r\n")
    assert answers == [1]
