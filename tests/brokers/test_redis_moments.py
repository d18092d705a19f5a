"""What comes at the wrong moment: a reaper at a node that is back, a stop before everybody left, a primary
that goes away in between, nodes that were told of other primaries."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, succeed

from imgateway.brokers.redis import watches, watching
from imgateway.brokers.redis.urls import parse_urls
from imgateway.brokers.redis.whereabouts import Whereabouts
from imgateway.errors import CloseCode, StoreError
from imgateway.frames import Keep, Message, OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import Followed, LoginPolicy, Publication, Start, Verdict
from imgateway.testing.disk import opening
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import RedisServer
from tests.protocols.mqtt import Peer, publish

pytestmark = pytest.mark.server

BOB, ROOM = SessionKey("bob", "phone"), parse_address("room:7")
ALICE = SessionKey("alice", "phone")
MAILBOX = log_of(parse_address("user:bob"))


def login(desk: BrokerDesk, session: SessionKey = BOB, **more: Any) -> int:
    return int(desk.now(opening(desk.broker, desk.claim(*session, **more))).generation)


def mail(desk: BrokerDesk, count: int, prefix: str = "") -> None:
    """So many messages for bob, and everything that comes of them."""
    for n in range(count):
        desk.publish("user:bob", msg_id=f"{prefix}{n}")
    desk.run()


def primary_of(desk: BrokerDesk, tag: str = "bob") -> Any:
    return desk.broker._primaries.of(tag)[0]


# ------------------------------------------------------------------------------------------ reapers and stops


def test_who_lives_again_is_not_reaped_any_further(sit: Any, server: RedisServer) -> None:
    """It was taken for dead, came back and entered its rooms again, and the reaper is not through yet."""
    one, two = sit(server).start(), sit(server).start()
    one.now(one.broker.join(BOB, login(one), ROOM))
    assert two.now(two.broker._rooms.reap(primary_of(two), "n.1")) is False
    assert two.now(two.broker.members(ROOM)) == 1
    assert two.listener.named("left") == []


def test_whom_a_node_leaves_behind_another_takes_out(sit: Any, server: RedisServer) -> None:
    """It stops while sessions that went elsewhere have still time to come to their rooms."""
    one, two = sit(server).start(), sit(server).start()
    one.now(one.broker.join(BOB, login(one), ROOM))
    login(two)
    one.run()
    assert [event[2] for event in one.listener.named("displaced")] == [CloseCode.REPLACED]
    one.stop()
    assert two.now(two.broker.members(ROOM)) == 1
    two.pass_time(6)
    two.run()
    assert two.listener.named("left") == [(BOB, ROOM)]
    assert two.now(two.broker.members(ROOM)) == 0
    assert server.cli("ZRANGE", "ig:nodes", 0, -1) == [b"n.2"]


def test_what_a_node_asked_is_forgotten_some_time_after_it(sit: Any, server: RedisServer) -> None:
    one, two = sit(server).start(), sit(server).start()
    generation = login(one)
    for _ in range(3):
        one.now(one.broker.join(BOB, generation, ROOM))
    server.cli("PERSIST", "ig:answers:n.1:rooms")
    one.stop()
    two.run()
    assert server.cli("PTTL", "ig:answers:n.1:rooms") > 0


def test_the_line_of_a_node_ends_some_time_after_it_and_not_before(sit: Any, server: RedisServer) -> None:
    """Without it the node would take whole data for older ones, whenever somebody sets the server's clock."""
    one, two = sit(server).start(), sit(server).start()
    login(one)
    one.run()
    assert server.cli("PTTL", "ig:line:n.1") == -1
    assert two.now(primary_of(two).call("bury", "n.1", 1)) == 1
    assert server.cli("PTTL", "ig:line:n.1") > 86_400_000
    one.now(one.broker._leases.renew(primary_of(one)))
    assert server.cli("PTTL", "ig:line:n.1") == -1, "it was only silent"
    one.stop()
    two.run()
    assert server.cli("PTTL", "ig:line:n.1") > 86_400_000


# ------------------------------------------------------------------------------------ claims after a failover


def test_of_two_lost_claims_only_one_stands(sit: Any, server: RedisServer) -> None:
    """The replica that took over has heard of neither; the one that was displaced, and did not hear of it,
    asks first."""
    one, two = sit(server).start(), sit(server).start()
    first, second = login(one), 0
    primary = primary_of(one)
    one.broker._sessions.heard = lambda *hint: None  # lost
    second = login(two)
    assert second > first
    _, bucket = one.broker._primaries.of("bob")
    server.cli("DEL", f"ig:{{{bucket}}}:u:bob")
    server.cli("HINCRBY", "ig:primary", "n", 1)
    del one.broker._sessions.heard
    one.broker._sessions.renewed(primary)
    one.run()
    assert one.broker._sessions.is_open(BOB, first)
    two.broker._sessions.renewed(primary_of(two))
    two.run()
    one.run()
    assert one.listener.named("displaced")[0][:3] == (BOB, first, CloseCode.STALE)
    assert two.broker._sessions.is_open(BOB, second)


# ---------------------------------------------------------------------------------------- a primary goes away


def test_whoever_must_go_does_not_wait_for_a_primary_that_went_away(sit: Any, start: Any) -> None:
    one_server, other_server = start(), start()
    one = sit(one_server, other_server).start()
    two = sit(one_server, other_server).start()
    home = primary_of(one)
    room = next(
        address
        for address in (parse_address(f"room:{n}") for n in range(100))
        if one.broker._primaries.of(f"room:{address.id}")[0] is not home
    )
    one.now(one.broker.join(BOB, login(one), room))
    away = (one_server, other_server)[1 - home.index]
    away.freeze()
    two.loop.run(opening(two.broker, two.claim("bob", "web", policy=LoginPolicy.ONE)))
    one.loop.spin(0.2)
    assert one.listener.named("displaced") == []  # its leave is on the way
    away.kill9()
    one.loop.until(lambda: one.listener.named("displaced"))
    assert one.listener.named("displaced")[0][2] == CloseCode.DISPLACED
    away.restart()
    one.run()
    two.run()
    assert one.now(one.broker.members(room)) == 0
    assert len(one.listener.named("displaced")) == 1


def test_who_listens_to_a_replica_finds_out(sit: Any, start: Any) -> None:
    """A replica passes on what nodes say to themselves, and the primary counts them as gone."""
    server, other = start(), start()
    one = sit(server).start()
    primary = primary_of(one)
    primary.subscription._connect = Whereabouts(parse_urls(other.url)[0], one.loop).connect
    primary.subscription.drop(ConnectionError("the address is another's"))
    one.loop.until(lambda: primary.subscription.is_up)
    other.replica_of(server)
    one.loop.until(lambda: any("this is a replica" in why for _, why in one.listener.named("healthy")))
    primary.subscription._connect = primary._whereabouts.connect
    one.run()
    assert one.listener.named("healthy")[-1] == (True, "")


def test_qos_0_is_not_sent_again(sit: Any, server: RedisServer) -> None:
    one, two = sit(server).start(), sit(server).start()
    two.now(two.broker.watch(MAILBOX))
    primary = primary_of(one)
    publication = Publication(Message("1", "alice", "phone", body=b"typing"), (MAILBOX.address,))
    one.broker.emit(publication)
    one.loop.iterate(0)
    two.loop.until(lambda: two.listener.named("passed"))
    assert primary.unanswered or one.listener.named("passed")
    server.freeze()
    one.broker.emit(publication)
    for _ in range(3):
        one.loop.iterate(0)
    assert primary.unanswered
    primary._line.drop(ConnectionError("its answer is lost"))
    server.thaw()
    one.run()
    two.run()
    assert 1 <= len(two.listener.named("passed")) <= 2
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    (failed,) = one.later(primary.say("emit", "n.1", b""))
    assert failed.check(CancelledError)
    assert not primary._line._said
    assert not one.broker._logs._emitting[primary]
    server.restart()
    one.run()
    two.run()


def test_what_is_written_behind_waits_as_one_while_a_primary_is_away(sit: Any, server: RedisServer) -> None:
    one = sit(server).start()
    generation = login(one)
    primary = primary_of(one)
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    before = primary.unanswered
    for n in range(50):
        one.broker.record(BOB, generation, b"%d" % n)
        one.broker.advance(BOB, generation, [(MAILBOX, n)])
        one.loop.shift_s += 6
        one.loop.iterate(0)
    assert primary.unanswered < before + 5
    server.restart()
    one.run()
    one.pass_time(6)
    assert one.now(opening(one.broker, one.claim(*BOB))).record == b"49"


def test_of_a_device_that_comes_again_and_again_one_claim_waits(sit: Any, server: RedisServer) -> None:
    one = sit(server).start()
    primary = primary_of(one)
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    before = primary.unanswered
    claims = [one.later(opening(one.broker, one.claim(*BOB))) for _ in range(50)]
    by_order = [
        one.later(
            opening(one.broker, one.claim("bob", "web", on_same_device="newest-order-wins", order=order))
        )
        for order in (3, 9, 5)
    ]
    assert primary.unanswered == before
    assert [claim[0].verdict for claim in claims[:-1]] == [Verdict.OUTRUN] * 49
    server.restart()
    one.loop.until(lambda: claims[-1] and by_order[1])
    assert claims[-1][0].verdict is Verdict.OK
    assert [claim[0].verdict for claim in by_order] == [Verdict.OUTRUN, Verdict.OK, Verdict.OUTRUN]
    one.run()
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    last = one.later(opening(one.broker, one.claim(*BOB)))
    one.stop()
    assert last[0].check(CancelledError)


def test_a_claim_that_was_withdrawn_while_its_primary_was_away_is_never_tried(
    sit: Any, server: RedisServer
) -> None:
    """Its client has come to another node meanwhile, which may be there first."""
    one, two = sit(server).start(), sit(server).start()
    server.kill9()
    one.loop.until(lambda: not primary_of(one).is_up and not primary_of(two).is_up)
    claims = [one.claim(*BOB), one.claim("bob", "web"), two.claim(*BOB)]
    boxes = [
        node.later(opening(node.broker, claim)) for node, claim in zip((one, one, two), claims, strict=True)
    ]
    one.broker.withdraw(claims[2])  # it is not here
    one.broker.withdraw(claims[0])
    assert [box[0].verdict for box in boxes if box] == [Verdict.OUTRUN]
    one.broker.withdraw(claims[0])
    server.restart()
    one.loop.until(lambda: all(boxes))
    for claim in claims:
        one.broker.withdraw(claim)
    assert [box[0].verdict for box in boxes] == [Verdict.OUTRUN, Verdict.OK, Verdict.OK]
    one.run()
    two.run()
    assert (one.listener.named("displaced"), two.listener.named("displaced")) == ([], [])


def test_mail_that_met_an_unwatch_is_told_to_be_for_nobody(sit: Any, server: RedisServer) -> None:
    """Who published took this node for one that has somebody there."""
    one, two = sit(server).start(), sit(server).start()
    one.now(one.broker.watch(MAILBOX))
    one.broker.unwatch(MAILBOX)
    one.run()
    watchers = f"ig:{{{one.broker._primaries.of('bob')[1]}}}:w:user:bob"
    server.cli("SADD", watchers, "n.1")  # as if the unwatch came later
    for desk in (one, two):
        desk.listener.away.add(MAILBOX)
    two.publish("user:bob", msg_id="1")
    two.run()
    one.run()
    told = [desk.listener.named("unattended") for desk in (one, two)]
    assert [[message.msg_id for _, message in each] for each in told] == [["1"], []]
    assert one.listener.named("arrived", "moved") == []
    assert server.cli("SMEMBERS", watchers) == []


def test_mail_for_devices_that_are_away_at_two_nodes(sit: Any, server: RedisServer) -> None:
    """Each node knows of its own only."""
    one, two, three = (sit(server).start() for _ in range(3))
    generations = [login(one, BOB), login(two, SessionKey("bob", "web"))]
    for desk in (one, two):
        desk.now(desk.broker.watch(MAILBOX))
        desk.listener.away.add(MAILBOX)
    one.broker.linger(BOB, generations[0])
    one.run()
    three.publish("user:bob", msg_id="1")  # one of them is there
    three.run()
    two.broker.linger(SessionKey("bob", "web"), generations[1])
    two.run()
    three.publish("user:bob", msg_id="2", body=b"x" * 2000)
    three.run()
    one.run()
    told = [desk.listener.named("unattended") for desk in (one, two, three)]
    assert [[message.msg_id for _, message in each] for each in told] == [[], [], ["2"]]


@pytest.mark.parametrize("address", ["user:bob", "room:7"])
def test_hints_that_wait_for_an_answer_are_bounded(
    sit: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """What was dropped is read."""
    monkeypatch.setattr(watches, "HELD", 10)
    monkeypatch.setattr(watching, "HELD", 10)
    one, two = sit(server).start(), sit(server).start()
    log = log_of(parse_address(address))
    one.now(one.broker.watch(log))
    if address == "user:bob":
        one.broker.unwatch(log)
        one.run()
        held = one.later(one.broker.watch(log))
        state = one.broker._logs._watches._heads[b"user:bob"]
        server.cli("SADD", f"ig:{{{one.broker._primaries.of('bob')[1]}}}:w:user:bob", "n.1")
        waiting: Any = state.hints
    else:
        (mirror,) = one.broker._rings._watching._watched.values()
        mirror.asked += 1  # its answer does not come
        waiting = mirror.held
    one.broker._logs._watches.flush = lambda: None
    for n in range(35):
        two.publish(address, msg_id=str(n))
        two.run()
        one.loop.spin(0.005)
    del one.broker._logs._watches.flush
    one.broker._logs._watches.flush()
    assert 0 < len(waiting) <= 10
    if address == "user:bob":
        one.run()
        assert held[0].head == 35
    else:
        one.broker._rings._watching._ask(mirror)
        mirror.asked -= 1
        one.run()
        assert one.listener.named("moved", "arrived")[-1][0] == log


def test_a_stop_ends_though_an_answer_does_not_come(sit: Any, server: RedisServer) -> None:
    """As when a replica has to have it, and there is none."""
    one = sit(server).start()
    one.broker._logs._spools[primary_of(one)]._in_flight += 1
    stopped = one.later(one.broker.stop())
    one.loop.spin(0.3)
    assert not stopped
    one.loop.shift_s += 16
    one.loop.until(lambda: stopped)
    one.loop.spin(0.2)
    assert stopped == [None]


# ------------------------------------------------------------------------------------------ operators' errors


def refusal(desk: BrokerDesk) -> str:
    with pytest.raises(StoreError) as refused:
        desk.start()
    return str(refused.value)


def test_all_nodes_name_the_same_primaries(sit: Any, start: Any) -> None:
    """Else each would look for a user's mail at another place."""
    one, other, third = start(), start(), start()
    sit(one, other).start()
    assert re.search(r"it is primary (1|2) of 2 here, and primary (2|1) of 2 for", refusal(sit(other, one)))
    assert "it is primary 1 of 1 here, and primary 1 of 2 for other nodes" in refusal(sit(one))
    assert re.search(
        r"it is primary (1|2) of 3 here, and primary \1 of 2 for", refusal(sit(one, other, third))
    )
    assert "of 2, with rings at 1 others here" in refusal(sit(one, other, rings=(third,)))
    assert "HDEL ig:primary place" in refusal(sit(one))
    one.cli("HDEL", "ig:primary", "place")
    sit(one).start()
    assert one.cli("HGET", "ig:primary", "place") == b"primary 1 of 1"


def test_what_a_restart_lost_before_its_settings_were_mended(sit: Any, start: Any) -> None:
    server = start("--appendonly", "yes", "--appendfsync", "everysec")
    one = sit(server, redis={"unsafe": True}).start()
    n = primary_of(one).generation
    server.stop()
    server.options = ("--appendonly", "yes", "--appendfsync", "always")
    server.restart()
    one.run()
    assert primary_of(one).generation == n + 1


def test_a_backup_that_was_put_back_is_seen(sit: Any, server: RedisServer) -> None:
    """Its seqs were given to other messages since."""
    one, two = sit(server).start(), sit(server).start()
    n = primary_of(one).generation
    for desk in (one, two):
        desk.now(desk.broker._leases.renew(primary_of(desk)))
    server.restart()
    one.run()
    two.run()
    assert primary_of(one).generation == primary_of(two).generation == n
    backup = server.copy()
    for desk in (one, two):
        desk.now(desk.broker._leases.renew(primary_of(desk)))
    server.put_back(backup)
    one.run()
    two.run()
    assert primary_of(one).generation == primary_of(two).generation == n + 1


@pytest.mark.parametrize("begin", list(Start))
@pytest.mark.parametrize("when", ["before its login", "before what it acknowledged"])
def test_what_was_acknowledged_after_a_backup_is_not_shown_to_a_new_device(
    sit: Any, server: RedisServer, when: str, begin: Start
) -> None:
    one = sit(server).start()
    mail(one, 5)
    generation = 0 if when == "before its login" else login(one, start=begin)
    backup = server.copy()
    one.run()
    generation = generation or login(one, start=begin)
    if begin is not Start.HEAD:
        one.broker.advance(BOB, generation, [(MAILBOX, 3)])
        one.pass_time(6)
    seen = 0 if begin is Start.HEAD else 3
    assert one.now(one.broker.mailbox("bob")).seen == seen
    server.put_back(backup)
    one.run()
    assert one.broker._sessions.is_open(BOB, generation)
    one.pass_time(6)
    assert one.now(one.broker.mailbox("bob")).seen == seen
    assert one.now(opening(one.broker, one.claim("bob", "web"))).places[0].acked == seen
    assert one.now(opening(one.broker, one.claim(*BOB))).places[0].acked == (seen or 5)


def test_what_was_acknowledged_in_logs_that_are_gone_hides_nothing_from_a_new_device(
    sit: Any, server: RedisServer
) -> None:
    one = sit(server).start()
    mail(one, 5)
    generation = login(one)
    one.broker.advance(BOB, generation, [(MAILBOX, 5)])
    one.pass_time(6)
    server.cli("FLUSHALL")
    server.restart()
    one.run()
    one.pass_time(6)
    assert one.broker._sessions.is_open(BOB, generation)
    mail(one, 3, "new ")
    assert one.now(one.broker.mailbox("bob")).seen == 0
    assert one.now(opening(one.broker, one.claim("bob", "web"))).places[0].acked == 0


@pytest.mark.parametrize("when", ["written", "on its way", "asked after", "not written", "late"])
def test_what_was_acknowledged_in_logs_that_are_gone_hides_nothing_from_its_device(
    sit: Any, server: RedisServer, when: str
) -> None:
    one = sit(server).start()
    mail(one, 5)
    generation, primary = login(one), primary_of(one)
    epoch = primary.epoch

    def acknowledge() -> None:
        one.broker.advance(BOB, generation, [(MAILBOX, 5)], [(MAILBOX, 2)])

    if when in ("on its way", "asked after"):
        server.freeze()
    if when != "late":
        acknowledge()
    if when == "written":
        one.pass_time(6)
        one.run()
    elif when == "asked after":
        one.broker._sessions.renewed(primary)
    if when in ("on its way", "asked after"):
        one.broker._sessions.flush()
        one.loop.spin(0.02)
    server.lose_all()
    one.run()
    assert primary.epoch != epoch
    if when == "late":
        acknowledge()
        one.broker.unpark(BOB, generation, MAILBOX, 1)
    one.pass_time(6)
    assert one.broker._sessions.is_open(BOB, generation)
    mail(one, 3, "new ")
    assert one.now(one.broker.mailbox("bob")).seen == 0
    opened = one.now(opening(one.broker, one.claim(*BOB)))
    assert (opened.places[0].epoch, opened.places[0].acked) == (primary.epoch, 0)
    assert opened.places[0].parked == ()
    one.broker.advance(BOB, opened.generation, [(MAILBOX, 3)])
    one.pass_time(6)
    assert one.now(one.broker.mailbox("bob")).seen == 3
    assert one.now(opening(one.broker, one.claim(*BOB))).places[0].acked == 3


@pytest.mark.parametrize("on_the_empty_one", ["it stays", "it comes again"])
def test_a_primary_that_was_empty_for_a_moment_has_all_places_when_it_is_back(
    sit: Any, server: RedisServer, on_the_empty_one: str
) -> None:
    """It was started on the wrong directory, and then on the right one."""
    one = sit(server).start()
    news = log_of(parse_address("topic:news"))
    for n in range(9):
        one.publish("user:bob", msg_id=str(n))
        one.publish("topic:news", msg_id=f"news {n}")
    one.run()
    generation, epoch = login(one), primary_of(one).epoch
    one.now(one.broker.follow(BOB, generation, news, 0))
    one.broker.advance(BOB, generation, [(MAILBOX, 5), (news, 5)], [(MAILBOX, 3), (news, 3)])
    one.pass_time(6)
    right = server.copy()
    one.run()
    server.lose_all()
    one.run()
    one.pass_time(6)
    if on_the_empty_one == "it comes again":
        generation = login(one)
        one.run()
    server.put_back(right)
    one.run()
    assert primary_of(one).epoch == epoch
    stays = on_the_empty_one == "it stays"
    acked, parked = (8, (3, 7)) if stays else (5, (3,))
    # What it says now is of the logs that it knows: these, or those of the empty one, which are gone.
    one.broker.advance(BOB, generation, [(MAILBOX, 8), (news, 8)], [(MAILBOX, 7), (news, 7)])
    one.pass_time(6)
    one.run()
    assert one.broker._sessions.is_open(BOB, generation)
    (place, *_) = one.now(opening(one.broker, one.claim(*BOB))).places
    one.run()
    assert (place.epoch, place.acked, place.parked) == (epoch, acked, parked)
    assert one.broker._sessions._seats.get(BOB).owed.others == {news: (acked, parked)}


def test_who_came_to_an_empty_primary_first_keeps_its_place(sit: Any, server: RedisServer) -> None:
    """The node with the older session finds it later, and its session stands."""
    one = sit(server).start()
    server.cli("HINCRBY", "ig:primary", "n", 10)  # so many failovers
    mail(one, 5)
    older, primary = login(one), primary_of(one)
    one.broker.advance(BOB, older, [(MAILBOX, 5)])
    server.kill9()
    for line in (primary._line, primary._reading):
        one.loop.until(lambda line=line: line._timer is not None)
        line._timer.reset(3_600)
    server.lose_all()
    two = sit(server).start()
    for n in range(4):
        two.publish("user:bob", msg_id=f"new {n}")
    newer = login(two)
    two.broker.advance(BOB, newer, [(MAILBOX, 2)])
    two.pass_time(6)
    assert newer < older
    primary._line.retry_now()
    one.run()
    two.run()
    assert one.broker._sessions.is_open(BOB, older)
    assert one.now(one.broker.mailbox("bob")).seen == 2
    assert one.now(opening(one.broker, one.claim(*BOB))).places[0].acked == 2


def test_what_an_older_session_acknowledged_is_not_lost_with_a_backup(sit: Any, server: RedisServer) -> None:
    """The one that is open has acknowledged nothing itself."""
    one = sit(server).start()
    mail(one, 5)
    backup = server.copy()
    one.run()
    one.broker.advance(BOB, login(one), [(MAILBOX, 3)])
    one.pass_time(6)
    login(one)
    server.put_back(backup)
    one.run()
    one.pass_time(6)
    assert one.now(one.broker.mailbox("bob")).seen == 3
    assert one.now(opening(one.broker, one.claim("bob", "web"))).places[0].acked == 3


# ---------------------------------------------------------------------------------- records and what follows

LATE = {"flush_positions_s": 3_600.0}


class Device(Peer):
    """An MQTT client and its connections as a node has them: what follows a record is published once that is
    kept. It does not count its packet ids, so that each publish has a record of its own."""

    def come(self, desk: BrokerDesk, opened: Any) -> Device:
        self.desk, self.generation, self.record = desk, opened.generation, opened.record
        self.kept: Any = succeed(True)
        self.login(clean=False)
        return self

    def report(self, body: bytes, dup: bool = False, to: str = "bob") -> list[Any]:
        """What became of it, once that is known."""
        box: list[Any]
        (box,) = self.take(publish(f"user/{to}", body, 1, dup=dup))
        return box

    def _took(self, items: Any) -> list[Any]:
        boxes = []
        for item in items:
            if isinstance(item, Keep):
                self.kept = self.desk.broker.record(ALICE, self.generation, item.data)
            else:
                boxes.append([])
                self.kept.addCallback(self._publish, item, boxes[-1])
        return boxes

    def _publish(self, is_kept: bool, frame: Any, box: list[Any]) -> bool:
        if is_kept:
            message = Message(frame.msg_id, *ALICE, "", frame.body, self.desk.wall_ms)
            publication = Publication(message, frame.to, resent=frame.resent)
            self.desk.broker.publish(publication).addCallback(box.extend)
        return is_kept


def come(desk: BrokerDesk, device: Device | None = None) -> Device:
    opened = desk.now(opening(desk.broker, desk.claim(*ALICE)))
    return (device or Device()).come(desk, opened)


def mailed(desk: BrokerDesk) -> int:
    return int(desk.now(desk.broker.mailbox("bob")).head)


@pytest.mark.parametrize("dup", [False, True])
def test_what_is_acknowledged_after_an_outage_has_its_record(
    sit: Any, server: RedisServer, dup: bool
) -> None:
    """The node dies as soon as it is: neither is the next report taken for this one, nor is this one stored
    a second time when it is repeated."""
    one, two = sit(server, settings=LATE).start(), sit(server).start()
    alice = come(one)
    first = alice.report(b"ON")
    one.run()
    server.kill9()
    one.loop.until(lambda: not primary_of(one, "alice").is_up)
    second = alice.report(b"OFF")
    server.restart()
    one.loop.until(lambda: second)
    assert [box[0].code for box in (first, second)] == [OutcomeCode.OK] * 2
    one.broker._sessions._positions._timers.cancel_all()
    one.listener.events.clear()
    come(two, alice)
    third = alice.report(b"OFF", dup)
    two.loop.until(lambda: third)
    assert third[0].code == (OutcomeCode.DUPLICATE if dup else OutcomeCode.OK)
    assert mailed(two) == 3 - dup


def test_what_relies_on_another_primary_waits_for_it(sit: Any, start: Any) -> None:
    """The message could be stored, but not what a repeat of it would be known by."""
    servers = [start(), start()]
    one = sit(*servers, settings=LATE).start()
    hers, alice = primary_of(one, "alice"), come(one)
    him = next(name for name in (f"u{n}" for n in range(99)) if primary_of(one, name) is not hers)
    one.run()
    servers[hers.index].kill9()
    one.loop.until(lambda: not hers.is_up)
    box = alice.report(b"ON", to=him)
    other = one.publish(f"user:{him}", msg_id="1", sender="eve")
    one.loop.until(lambda: other)
    assert box == []
    servers[hers.index].restart()
    one.loop.until(lambda: box)
    assert (box[0].code, box[0].seq) == (OutcomeCode.OK, 2)


def test_whoever_lost_the_session_publishes_nothing_new_for_it(sit: Any, server: RedisServer) -> None:
    """The client went to another node, which has not heard of this publish: there it is sent again."""
    one, two = sit(server).start(), sit(server).start()
    one.broker._sessions.heard = lambda primary, item: None  # the kick gets lost
    old, new = come(one), Device()
    one.run()
    come(two, new)
    box = old.report(b"ON")
    later = old.report(b"OFF")
    one.run()
    assert one.now(old.kept) is False
    assert [event[2] for event in one.listener.named("displaced")] == [CloseCode.STALE]
    again = new.report(b"ON", dup=True)
    two.loop.until(lambda: again)
    assert (box, later, again[0].code, mailed(two)) == ([], [], OutcomeCode.OK, 1)
    assert one.now(one.broker.record(ALICE, old.generation, b"late")) is False


def test_a_record_that_is_not_written_any_more_says_so(sit: Any, server: RedisServer) -> None:
    one = sit(server).start()
    generation = login(one)
    primary = primary_of(one)
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    kept = [one.later(one.broker.record(BOB, generation, b"%d" % n)) for n in range(3)]
    one.loop.iterate(0)
    kept += [one.later(one.broker.record(BOB, generation, b"%d" % n)) for n in range(3, 5)]
    one.broker._sessions._part(BOB, one.broker._sessions._seats.get(BOB), CloseCode.KICKED)()
    assert kept == [[], [], [], [False], [False]]
    server.restart()
    one.run()
    assert kept == [[True], [True], [True], [False], [False]]
    assert not one.broker._sessions._positions._recording


def test_whose_record_cannot_be_written_must_come_again(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    """Its client would wait for ever. Whoever had none on its way stays."""
    one = sit(server, settings=LATE).start()
    pad = SessionKey("bob", "pad")
    generation, other = login(one), login(one, pad)
    (key,) = server.cli("KEYS", "ig:{*}:u:bob")
    server.cli("RENAME", key, "aside")
    server.cli("SET", key, "something else")
    one.broker.advance(pad, other, [(MAILBOX, 0)])
    kept = [one.later(one.broker.record(BOB, generation, b"1"))]
    one.broker._sessions.flush()
    one.run()
    assert (kept, len(flush_logged_errors())) == ([[False]], 3)  # together, and each by itself
    assert [event[:3] for event in one.listener.named("displaced")] == [(BOB, generation, CloseCode.STALE)]
    assert not one.broker._sessions._positions._recording
    server.cli("DEL", key)
    server.cli("RENAME", "aside", key)
    again = login(one)
    assert one.now(one.broker.record(BOB, again, b"2")) is True
    assert one.now(opening(one.broker, one.claim(*BOB))).record == b"2"


def spoil(server: RedisServer, pattern: str) -> str:
    """The key of which this is the pattern is something else than the scripts take it for."""
    (key,) = server.cli("KEYS", pattern)
    server.cli("SET", key, "something else")
    return str(key, "ascii")


def test_what_cannot_be_written_of_one_session_is_of_the_others(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    one = sit(server, settings=LATE).start()
    users = [f"u{n}" for n in range(10)]
    phones = [SessionKey(user, "phone") for user in users]
    logs = [log_of(parse_address(f"user:{user}")) for user in users]
    news = log_of(parse_address("topic:news"))
    others = [log_of(parse_address(f"topic:of-{user}")) for user in users]
    for n in range(3):
        one.publish(*(f"user:{user}" for user in users), msg_id=str(n))
    one.run()
    generations = [login(one, phone) for phone in phones]
    for phone, generation, other in zip(phones, generations, others, strict=True):
        one.now(one.broker.follow(phone, generation, other, 0))
    spoiled = [spoil(server, f"ig:{{*}}:{what}") for what in ("u:u4", "c:topic:of-u7")]
    broken = [one.later(one.broker.record(phones[4], generations[4], b"1"))]
    kept = []
    for phone, generation, where, other in zip(phones, generations, logs, others, strict=True):
        if phone is not phones[4]:
            kept.append(one.later(one.broker.record(phone, generation, b"old")))
        one.broker.advance(phone, generation, [(where, 3), (other, 2), (news, 1)])
    one.broker._sessions.flush()
    newer = one.later(one.broker.record(phones[0], generations[0], b"new"))
    one.loop.until(lambda: all(kept) and newer)
    one.broker._sessions.flush()
    one.run()
    assert (broken, kept, newer) == ([[False]], [[True]] * 9, [True])
    displaced = [event[:3] for event in one.listener.named("displaced")]
    assert displaced == [(phones[4], generations[4], CloseCode.STALE)]
    assert flush_logged_errors()
    for n, phone in enumerate(phones):
        if n == 4:
            continue
        if n == 7:
            server.cli("DEL", spoiled[1])
        opened = one.now(opening(one.broker, one.claim(*phone)))
        assert (opened.places[0].acked, opened.record) == (3, b"old" if n else b"new")
        follows = [one.now(one.broker.follow(phone, opened.generation, log, 0)) for log in (others[n], news)]
        assert follows == [Followed(True, 2), Followed(True, 1)]
    assert not flush_logged_errors()


def test_who_went_while_what_it_said_could_not_be_written_with_others(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    """It is written by itself, as it was: nobody is there to say it once more."""
    one = sit(server, settings=LATE).start()
    generation, alices = login(one), login(one, ALICE)
    topics = [log_of(parse_address(f"topic:{name}")) for name in ("news", "of-bob", "of-alice")]
    mailbox = log_of(parse_address("user:alice"))
    for n in range(3):
        one.publish("user:alice", msg_id=str(n))
    for where in topics[:2]:
        one.now(one.broker.follow(BOB, generation, where, 0))
    one.now(one.broker.follow(ALICE, alices, topics[0], 0))
    spoiled = [spoil(server, f"ig:{{*}}:{what}") for what in ("u:bob", "c:topic:of-bob")]
    server.freeze()
    kept = [one.later(one.broker.record(*who, b"1")) for who in ((BOB, generation), (ALICE, alices))]
    for where in topics:
        one.broker.advance(BOB, generation, [(where, 1)])
    one.broker.advance(ALICE, alices, [(mailbox, 2), (topics[0], 1), (topics[2], 2)])
    one.broker._sessions.flush()
    closed = one.later(one.broker.close_session(ALICE, alices))
    server.thaw()
    one.loop.until(lambda: all(kept) and closed)
    assert kept == [[False], [True]]
    one.run()
    assert flush_logged_errors()
    positions = one.broker._sessions._positions
    assert (positions._recording, positions._recorded) == ({}, {})
    assert [event[0] for event in one.listener.named("displaced")] == [BOB]
    server.cli("DEL", *spoiled)
    assert not [found for found in one.now(one.broker.sessions("alice")) if found.online], "it has ended"
    opened = one.now(opening(one.broker, one.claim(*ALICE)))
    assert (opened.places[0].acked, opened.record) == (2, b"1")
    follows = [one.now(one.broker.follow(ALICE, opened.generation, where, 0)) for where in topics[::2]]
    assert follows == [Followed(True, 1), Followed(True, 2)]


@pytest.mark.parametrize("is_taken", [False, True])
def test_what_could_not_be_written_with_others_changes_nothing_that_was_set_aside_or_taken_since(
    sit: Any, server: RedisServer, flush_logged_errors: Any, is_taken: bool
) -> None:
    """It is written by itself, as it was, behind what its session said last of all."""
    one = sit(server, settings=LATE).start()
    generation, alices = login(one), login(one, ALICE)
    texts = ("user:alice", "topic:news", "topic:of-bob")
    mailbox, news, other = (log_of(parse_address(text)) for text in texts)
    for n in range(3):
        one.publish("user:alice", "topic:news", msg_id=str(n))
    for who, its, where in ((BOB, generation, news), (BOB, generation, other), (ALICE, alices, news)):
        one.now(one.broker.follow(who, its, where, 0))
    spoiled = [spoil(server, f"ig:{{*}}:{what}") for what in ("u:bob", "c:topic:of-bob")]
    server.freeze()
    one.broker.advance(BOB, generation, [(MAILBOX, 0), (other, 1)])
    aside: Any = [(mailbox, 3), (news, 3)], [(mailbox, 2), (news, 2)]
    one.broker.advance(ALICE, alices, *(aside if is_taken else ([(mailbox, 1), (news, 1)],)))
    one.broker._sessions.flush()
    if is_taken:
        for log in (mailbox, news):
            one.broker.unpark(ALICE, alices, log, 2)
    else:
        one.broker.advance(ALICE, alices, *aside)
    closed = one.later(one.broker.close_session(ALICE, alices))
    server.thaw()
    one.loop.until(lambda: closed)
    one.run()
    assert flush_logged_errors()
    server.cli("DEL", *spoiled)
    opened = one.now(opening(one.broker, one.claim(*ALICE)))
    place = opened.places[0]
    left = () if is_taken else (2,)
    assert (place.acked, place.parked) == (3, left)
    assert one.now(one.broker.follow(ALICE, opened.generation, news, 0)) == Followed(True, 3, left)


def test_who_is_forgotten_while_what_it_said_could_not_be_written_stays_so(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    one = sit(server, settings=LATE).start()
    generation, alices = login(one), login(one, ALICE)
    one.publish("user:alice", msg_id="1")
    one.run()
    spoiled = spoil(server, "ig:{*}:u:bob")
    server.freeze()
    one.broker.advance(BOB, generation, [(MAILBOX, 0)])
    one.broker.advance(ALICE, alices, [(log_of(parse_address("user:alice")), 1)])
    one.broker._sessions.flush()
    closed = one.later(one.broker.close_session(ALICE, alices, True))
    server.thaw()
    one.loop.until(lambda: closed)
    one.run()
    assert flush_logged_errors()
    server.cli("DEL", spoiled)
    assert not one.now(opening(one.broker, one.claim(*ALICE))).known


def test_what_could_not_be_written_is_tried_again_with_the_next(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    """Nobody waits for it, so its session stays."""
    one, two = sit(server).start(), sit(server).start()
    for n in range(3):
        one.publish("user:bob", msg_id=str(n))
    one.run()
    generation = login(one)
    topic = log_of(parse_address("topic:of-bob"))
    one.now(one.broker.follow(BOB, generation, topic, 0))
    keys = [server.cli("KEYS", f"ig:{{*}}:{what}")[0] for what in ("u:bob", "c:topic:of-bob")]
    for key in keys:
        server.cli("RENAME", key, b"aside:" + key)
        server.cli("SET", key, "something else")
    one.broker.advance(BOB, generation, [(MAILBOX, 3), (topic, 2)])
    one.pass_time(6)
    assert len(flush_logged_errors()) >= 2
    assert not one.listener.named("displaced")
    for key in keys:
        server.cli("DEL", key)
        server.cli("RENAME", b"aside:" + key, key)
    one.pass_time(6)
    one.run()
    assert not one.broker._sessions._positions._dirty
    one.stop()
    opened = two.now(opening(two.broker, two.claim(*BOB)))
    assert opened.places[0].acked == 3
    assert two.now(two.broker.follow(BOB, opened.generation, topic, 0)) == Followed(True, 2)


def test_what_cannot_be_written_with_others_is_when_the_node_stops(
    sit: Any, server: RedisServer, flush_logged_errors: Any
) -> None:
    one, two = sit(server, settings=LATE).start(), sit(server).start()
    for n in range(3):
        one.publish("user:alice", msg_id=str(n))
    one.run()
    generation, alices = login(one), login(one, ALICE)
    spoil(server, "ig:{*}:u:bob")
    one.broker.advance(BOB, generation, [(MAILBOX, 0)])
    one.broker.advance(ALICE, alices, [(log_of(parse_address("user:alice")), 3)])
    one.stop()
    assert flush_logged_errors()
    assert two.now(opening(two.broker, two.claim(*ALICE))).places[0].acked == 3


def test_who_cannot_be_asked_after_keeps_nobody_else_from_it(
    sit: Any, server: RedisServer, flush_logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promoted replica has not heard of any of them."""
    monkeypatch.setattr("imgateway.brokers.redis.sessions.CHECK_BATCH", 4)
    one = sit(server, settings=LATE).start()
    users = [f"u{n}" for n in range(10)]
    generations = {user: login(one, SessionKey(user, "phone")) for user in users}
    server.cli("DEL", *server.cli("KEYS", "ig:{*}:u:*"))
    bucket = one.broker._primaries.of("u4")[1]
    server.cli("SET", f"ig:{{{bucket}}}:u:u4", "something else")
    server.cli("HINCRBY", "ig:primary", "n", 1)
    primary_of(one)._line.drop(ConnectionError("the primary is away"))
    one.run()
    assert flush_logged_errors()
    for user in users:
        if user != "u4":
            (found,) = one.now(one.broker.sessions(user))
            assert (found.node, found.generation) == ("n.1", generations[user])
    assert not one.listener.named("displaced")
    server.cli("DEL", f"ig:{{{bucket}}}:u:u4")


def test_a_stop_while_it_is_asked_who_is_ours_still(
    sit: Any, server: RedisServer, flush_logged_errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of a broker that has stopped fails at once, and asks for nothing more."""
    monkeypatch.setattr("imgateway.brokers.redis.sessions.CHECK_BATCH", 2)
    one = sit(server, settings=LATE).start()
    for n in range(10):
        login(one, SessionKey(f"u{n}", "phone"))
    asked: list[Any] = []
    primary = primary_of(one)
    call = primary.call
    monkeypatch.setattr(primary, "call", lambda *args: (asked.append(args[0]), call(*args))[1])
    server.freeze()
    one.broker._sessions.renewed(primary)
    one.broker._primaries.stop()
    server.thaw()
    assert asked == ["check"]
    assert not flush_logged_errors()


@pytest.mark.parametrize("turns", [0, 2])
def test_who_waits_for_a_record_when_the_node_stops_is_told(
    sit: Any, server: RedisServer, turns: int
) -> None:
    one = sit(server, settings=LATE).start()
    generation, primary = login(one), primary_of(one)
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    kept = [one.later(one.broker.record(BOB, generation, b"1"))]
    for _ in range(turns):
        one.loop.iterate(0)
    kept.append(one.later(one.broker.record(BOB, generation, b"2")))
    stopped = one.later(one.broker.stop())
    one.loop.shift_s += 20
    one.loop.until(lambda: stopped)
    assert kept == [[False], [False]]
    assert not one.broker._sessions._positions._recording


def test_records_that_came_while_a_primary_was_away_are_one_when_it_is_back(
    sit: Any, server: RedisServer
) -> None:
    one = sit(server, settings=LATE).start()
    generation = login(one)
    primary = primary_of(one)
    server.kill9()
    one.loop.until(lambda: not primary.is_up)
    kept = []
    for n in range(50):
        kept.append(one.later(one.broker.record(BOB, generation, b"%d" % n)))
        kept.append(one.later(one.broker.record(BOB, generation, b"%d" % n)))  # the same, and not there yet
        one.loop.iterate(0)
    assert not any(kept)
    server.restart()
    one.loop.until(lambda: all(kept))
    assert kept == [[True]] * 100
    calls = primary.unanswered
    assert one.now(one.broker.record(BOB, generation, b"49")) is True
    assert calls == 0, "it is there"
    assert one.now(opening(one.broker, one.claim(*BOB))).record == b"49"


def test_records_follow_one_another_without_waiting(sit: Any, server: RedisServer) -> None:
    one = sit(server, settings=LATE).start()
    generation, primary = login(one), primary_of(one)
    one.run()
    server.freeze()
    kept = []
    for n in range(3):
        before = primary.unanswered
        kept.append(one.later(one.broker.record(BOB, generation, b"%d" % n)))
        one.loop.iterate(0)
        one.loop.iterate(0)
        assert primary.unanswered > before
    server.thaw()
    one.loop.until(lambda: all(kept))
    assert kept == [[True]] * 3
    assert not one.broker._sessions._positions.is_recording(BOB)
    assert one.now(opening(one.broker, one.claim(*BOB))).record == b"2"
