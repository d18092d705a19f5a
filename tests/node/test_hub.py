"""Deliveries: live, catching up, clogged; windows, gaps, several devices, Pull."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from imgateway.core.cursor import State
from imgateway.errors import CloseCode
from imgateway.frames import (
    Acked,
    Batch,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    LogKey,
    Ping,
    Pong,
    Pull,
    Refused,
    RefusedCode,
    SessionKey,
    Subscribe,
    Welcome,
    log_of,
    parse_address,
    user_address,
)
from imgateway.interfaces import Identity
from imgateway.protocols.native import NativeAdapter
from imgateway.protocols.plain import PlainCodec
from tests.node.rig import EPOCH, AsciiWire, Diary, Peer, Rig, entry

BOB = user_address("bob")
LOG = log_of(BOB)
KEY = SessionKey("bob", "phone")


def ranges(peer: Peer) -> list[tuple[int, int, int]]:
    """(after, upto, entries) of every Deliver."""
    return [(one.after, one.upto, len(one.entries)) for one in peer.of(Deliver)]


def reads(rig: Rig) -> list[tuple[int, int]]:
    """(after, limit) of every read."""
    return [(after, limit) for _, after, limit, _ in rig.broker.named("read")]


# --------------------------------------------------------------------------------------- live and catching up


def test_live_entries_go_out_as_they_arrive() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    rig.mail("bob", b"2", b"3")
    assert ranges(bob) == [(0, 1, 1), (1, 3, 2)]
    assert all(
        (one.address, one.epoch, one.lane, one.gap) == (BOB, EPOCH, 0, False) for one in bob.of(Deliver)
    )
    assert reads(rig) == []
    assert (rig.counters.deliver_frames, rig.counters.entries_delivered) == (2, 3)
    bob.ack(3)
    assert rig.broker.acked[KEY] == 3


def test_catching_up_then_live() -> None:
    rig = Rig()
    rig.broker.store(LOG, *(entry(n) for n in range(1, 100)))
    bob = rig.login("bob")
    assert ranges(bob) == [(0, 64, 64)]
    assert bob.of(Deliver)[0].head == 99
    bob.ack(64)
    assert ranges(bob)[1:] == [(64, 99, 35)]
    bob.ack(99)
    assert rig.session("bob").state is State.LIVE
    rig.mail("bob", b"x")
    assert ranges(bob)[2:] == [(99, 100, 1)]


def test_what_arrives_while_a_read_is_out_is_read_too() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    rig.broker.hold = {"read"}
    bob = rig.login("bob")
    rig.mail("bob", b"2", b"3")
    assert ranges(bob) == []
    rig.broker.release("read")
    rig.settle()
    rig.mail("bob", b"4")
    while rig.broker.waiting:
        rig.broker.release("read")
        rig.settle()
    assert bob.shown() == ["m1", "m2", "m3", "m4"]
    assert rig.session("bob").state is State.LIVE


def test_a_hole_between_is_read() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.store(LOG, entry(1), tell=False)
    rig.mail("bob", b"2")
    assert bob.shown() == ["m1", "m2"]
    rig.broker.store(LOG, entry(3), tell=False)
    rig.hub.moved(LOG, EPOCH, 3)
    rig.hub.moved(LOG, EPOCH, 3)
    rig.hub.moved(log_of(user_address("nobody")), EPOCH, 3)
    rig.settle()
    assert bob.shown() == ["m1", "m2", "m3"]


@pytest.mark.parametrize("told", ["moved", "arrived"])
def test_who_stands_beyond_the_end_of_a_mailbox_that_was_replaced_comes_again(told: str) -> None:
    """It had got further than its node was told. Whoever is not ready for more finds out when it reads."""
    rig = Rig()
    bob, slow = rig.login("bob"), rig.login("bob", "slow")
    rig.mail("bob", *[b"%d" % n for n in range(5)])
    rig.session("bob", "slow").clog()
    rig.broker.epochs[LOG] = EPOCH + 1
    if told == "moved":
        rig.hub.moved(LOG, EPOCH + 1, 2)
    else:
        rig.hub.arrived(LOG, EPOCH + 1, 0, 1, (entry(1),))
    rig.settle()
    assert (bob.code, slow.code) == (CloseCode.STALE, None)


def test_batches_that_come_late_or_twice() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1", b"2")
    rig.hub.arrived(LOG, EPOCH, 0, 1, (entry(1),))
    rig.hub.arrived(LOG, EPOCH, 0, 2, (entry(1), entry(2)))
    rig.hub.arrived(log_of(user_address("nobody")), EPOCH, 0, 1, (entry(1),))
    session = rig.session("bob")
    rig.hub.delivery._batch(Batch(EPOCH, 0, 2, (entry(1), entry(2)), False, 2), session, 2)
    rig.settle()
    assert bob.shown() == ["m1", "m2"]


def test_a_read_that_answers_for_another_place_is_asked_again() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1), entry(2))
    wrong = [1]
    rig.broker.read_batch = lambda batch: replace(batch, after=batch.after + wrong.pop()) if wrong else batch
    assert ranges(rig.login("bob")) == [(0, 2, 2)]


def test_a_read_that_finds_nothing_more_ends_the_reading() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    bob = rig.login("bob")
    rig.hub.moved(LOG, EPOCH, 5)  # it was promised more than there is
    assert len(reads(rig)) == 2
    assert rig.session("bob").state is State.LIVE
    bob.ack(1)


def test_a_read_that_finds_nothing_looks_again_if_the_log_grew_meanwhile() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    bob = rig.login("bob")
    rig.broker.hold = {"read"}
    rig.hub.moved(LOG, EPOCH, 2)
    _, deferred, _ = rig.broker.waiting.pop()
    rig.mail("bob", b"2", b"3")
    deferred.callback(Batch(EPOCH, 1, 1, (), False, 1))
    rig.broker.release("read")
    rig.settle()
    assert bob.shown() == ["m1", "m2", "m3"]


def test_gaps_are_told() -> None:
    rig = Rig()
    rig.broker.logs[LOG] = [entry(7), entry(8)]
    rig.broker.lost[LOG] = 6
    bob = rig.login("bob")
    (deliver,) = bob.of(Deliver)
    assert (deliver.after, deliver.upto, deliver.gap, len(deliver.entries)) == (0, 8, True, 2)
    assert rig.counters.gaps_told == 1


def test_a_log_with_another_identity() -> None:
    for way in ("arrived", "read"):
        rig = Rig()
        rig.broker.store(LOG, entry(1))
        bob = rig.login("bob")
        rig.broker.epochs[LOG] = EPOCH + 1
        if way == "arrived":
            rig.mail("bob", b"2")
        else:
            rig.hub.moved(LOG, EPOCH, 2)
            rig.settle()
        assert bob.code is CloseCode.STALE
        assert bob.shown() == ["m1"]
        rig.hub.delivery._stale(rig.session("bob"))


def test_a_read_that_fails(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    rig.broker.hold = {"read"}
    bob, eve = rig.login("bob"), rig.login("bob", "gone")
    eve.cut()
    rig.broker.fail("read", ZeroDivisionError())
    rig.broker.fail("read", ZeroDivisionError())
    rig.settle()
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert len(flush_logged_errors(ZeroDivisionError)) == 2
    rig.broker.hold = set()
    assert rig.login("bob").shown() == ["m1"]


# ------------------------------------------------------------------------------------------------ the windows


def test_the_window_of_entries() -> None:
    rig = Rig()
    bob = rig.login("bob")
    for _ in range(100):
        rig.mail("bob", b"x")
    assert ranges(bob)[-1] == (63, 64, 1)
    assert reads(rig) == []
    bob.ack(31)
    assert len(bob.shown()) == 64, "less than half is free"
    bob.ack(32)
    assert len(bob.shown()) == 96
    bob.ack(96)
    assert bob.shown() == [f"m{n}" for n in range(1, 101)]


def test_the_window_of_bytes() -> None:
    rig = Rig()
    bob = rig.login("bob")
    for _ in range(20):
        rig.mail("bob", b"x" * 30_000)
    limits = rig.node.settings.limits
    assert len(bob.shown()) == 9, "over the window by less than one entry"
    assert sum(bob.sizes) <= limits.deliver_window_bytes + 30_100
    bob.ack(4)
    assert len(bob.shown()) == 9
    bob.ack(5)
    assert len(bob.shown()) > 9
    while len(bob.shown()) < 20:
        bob.ack(int(bob.shown()[-1][1:]))
    assert bob.shown() == [f"m{n}" for n in range(1, 21)]


def test_a_batch_larger_than_the_window() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", *(b"x" for _ in range(200)))
    assert ranges(bob) == [(0, 64, 64)]
    rig.mail("bob", b"y")
    bob.ack(64)
    assert ranges(bob)[1:] == [(64, 128, 64)]
    while len(bob.shown()) < 201:
        bob.ack(int(bob.shown()[-1][1:]))
    assert bob.shown() == [f"m{n}" for n in range(1, 202)]


def test_a_batch_of_more_bytes_than_the_window() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", *(b"x" * 60_000 for _ in range(30)))
    limits = rig.node.settings.limits
    assert sum(bob.sizes) <= limits.deliver_window_bytes + 2 * 60_100
    while len(bob.shown()) < 30:
        bob.ack(int(bob.shown()[-1][1:]))
    assert bob.shown() == [f"m{n}" for n in range(1, 31)]


def test_a_batch_when_the_window_is_more_than_half_full() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", *(b"x" for _ in range(40)))
    rig.mail("bob", *(b"x" for _ in range(30)))
    assert rig.session("bob").state is State.CLOGGED
    assert len(bob.shown()) == 40
    bob.ack(40)
    assert len(bob.shown()) == 70


def test_an_entry_larger_than_the_window() -> None:
    rig = Rig(set={"limits.deliver_window_bytes": 1000})
    bob = rig.login("bob")
    rig.mail("bob", b"x" * 5000)
    rig.mail("bob", b"y" * 5000)
    assert bob.shown() == ["m1"]
    bob.ack(1)
    assert bob.shown() == ["m1", "m2"]


def test_a_link_that_is_clogged_lags_and_holds_nothing() -> None:
    rig = Rig()
    bob, eve = rig.login("bob"), rig.login("eve")
    bob.stop_reading()
    for _ in range(300):
        rig.mail("bob", b"x" * 1000)
        rig.mail("eve", b"x")
        eve.ack(rig.broker.head(log_of(user_address("eve"))))
    assert bob.server.unsent() < 1200, "one delivery clogged it"
    assert len(eve.shown()) == 300
    bob.read_on()
    while len(bob.shown()) < 300:
        bob.ack(int(bob.shown()[-1][1:]))
    assert bob.shown() == [f"m{n}" for n in range(1, 301)]


@pytest.mark.parametrize("peers", [1, 20])
def test_the_bytes_held_follow_the_formula(peers: int) -> None:
    """Unsent per link ≤ delivery window + one entry + control limit + one answer."""
    rig = Rig(
        set={
            "limits.deliver_window_bytes": 20_000,
            "limits.control_pause_bytes": 2_000,
            "limits.control_abort_bytes": 8_000,
            "quota.publish_rate": 0.0,
            "quota.pair_rate": 0.0,
        }
    )
    limits, body = rig.node.settings.limits, 3000
    deaf = [rig.login(f"u{n}") for n in range(peers)]
    for peer in deaf:
        peer.stop_reading()
    for _ in range(40):
        for peer in deaf:
            rig.mail(peer.user, b"x" * body, b"x" * body, b"x" * body)
            peer.publish("p", "user:nobody").send(Ping())
        per_link = limits.deliver_window_bytes + body + 100 + limits.control_abort_bytes + 100
        assert sum(peer.server.unsent() for peer in deaf) <= peers * per_link
    assert not any(reads.waiting for reads in rig.hub.delivery._reads.values())


def test_so_many_reads_at_once() -> None:
    rig = Rig(set={"limits.reads_in_flight": 2})
    users = [f"u{n}" for n in range(6)]
    for user in users:
        rig.broker.store(log_of(user_address(user)), entry(1))
    rig.broker.hold = {"read"}
    peers = [rig.login(user) for user in users]
    assert len(reads(rig)) == 2
    peers[2].cut()  # it waits for its turn
    peers[0].cut()  # it is being read for
    peers[3].send(Pull(user_address("u3"), after=0))
    assert len(reads(rig)) == 2, "a question of a client takes its turn too"
    for _ in range(20):
        if rig.broker.waiting:
            rig.broker.release("read")
            rig.settle()
            assert len(rig.broker.waiting) <= 2
    assert [peer.shown() for peer in peers] == [[], ["m1"], [], ["m1", "m1"], ["m1"], ["m1"]]
    assert [reads.under_way for reads in rig.hub.delivery._reads.values()] == [0]


@pytest.mark.parametrize("what", ["pull", "pull a room", "follow", "room"])
def test_who_went_waits_for_no_server(what: str) -> None:
    """One server is away: those who ask for what it has come and go."""
    topic, room = parse_address("topic:news"), parse_address("room:7")
    rig = Rig()
    rig.broker.servers = {log_of(topic): "away", LogKey(room): "away", LogKey(room, 1): "away"}
    rig.broker.store(log_of(topic), *(entry(n) for n in range(1, 4)))
    rig.broker.rings |= {LogKey(room)}
    rig.broker.store(LogKey(room), *(entry(n) for n in range(1, 4)))
    rig.broker.hold = {"read"}

    def come(n: int) -> Peer:
        rig.tokens.identities[f"u{n}"] = Identity(f"u{n}", claims={"topics": ["news"]})
        peer = rig.login(f"u{n}")
        if what == "pull":
            return peer.send(Pull(topic, after=0))
        if what == "pull a room":
            return peer.send(Subscribe(room), Pull(room, after=0))
        if what == "follow":
            return peer.send(Subscribe(topic, epoch=EPOCH, seq=0, last=True))
        peer.send(Subscribe(room, epoch=EPOCH, seq=1))
        rig.pass_ms(0)
        return peer

    stays = come(0)
    for n in range(1, 400):
        come(n).cut()
    last = come(400)
    away = rig.hub.delivery._reads["away"]
    assert away.under_way == 64
    assert len(away.waiting) <= 2 * 64
    assert len(rig.broker.waiting) == 64
    rig.broker.hold.clear()
    while rig.broker.waiting:
        rig.broker.release("read")
    rig.pass_ms(1000)
    assert away.under_way == len(away.waiting) == 0
    assert "m3" in stays.shown()
    assert "m3" in last.shown()


def test_whoever_still_waits_is_not_forgotten() -> None:
    topic = parse_address("topic:news")
    rig = Rig()
    rig.broker.servers = {log_of(topic): "away"}
    rig.broker.store(log_of(topic), entry(1))
    rig.broker.hold = {"read"}
    peers = []
    for n in range(300):
        rig.tokens.identities[f"u{n}"] = Identity(f"u{n}", claims={"topics": ["news"]})
        peers.append(rig.login(f"u{n}").send(Pull(topic, after=0)))
    for peer in peers[::3]:
        peer.cut()
    rig.broker.hold.clear()
    while rig.broker.waiting:
        rig.broker.release("read")
    rig.settle()
    assert [len(peer.of(Deliver)) for peer in peers] == [int(n % 3 > 0) for n in range(300)]


def test_a_pull_that_takes_long_does_not_hold_up_a_link() -> None:
    rig = Rig(set={"limits.reads_in_flight": 1})
    rig.mail("bob", b"hello")
    bob, eve, dan = map(rig.login, ("bob", "eve", "dan"))
    bob.ack(1).take()
    rig.broker.hold = {"read"}
    for peer in (eve, dan):
        peer.send(Pull(user_address(peer.user)))
    bob.send(Pull(user_address("bob")), Ping(1))
    rig.advance(1.75)
    assert bob.take() == []
    rig.advance(0.5)
    assert [type(one) for one in bob.take()] == [Pong]
    eve.cut()  # it is read for
    dan.cut()  # it waits for its turn
    rig.broker.release("read")
    rig.broker.release("read")
    rig.settle()
    assert bob.shown() == ["m1"]
    assert not rig.node.subscriptions._waits
    bob.send(Pull(user_address("bob")), Ping(2))  # all is well again, and it waits as before
    assert bob.of(Pong) == []
    rig.broker.release("read")
    rig.settle()
    assert len(bob.of(Pong)) == 1


@pytest.mark.parametrize("pulls", [1, 40])
def test_a_server_that_is_away_ends_nobody_who_acknowledges(pulls: int) -> None:
    """Behind a few late answers the link is read on, behind many it is not, and no time counts."""
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"hello")
    rig.broker.hold = {"read"}
    bob.send(*[Pull(BOB)] * pulls).ack(1)
    for _ in range(10):
        rig.advance(10)
        bob.send(Ping())
    assert bob.link.paused() is (pulls > 16)
    assert rig.broker.acked.get(KEY, 0) == (pulls <= 16)
    while rig.broker.waiting:
        rig.broker.release("read")
        rig.settle()
    assert rig.broker.acked[KEY] == 1
    assert len(bob.of(Deliver)) == 1 + pulls


def test_who_is_read_again_has_time_to_acknowledge() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"hello")
    rig.broker.hold = {"read"}
    bob.send(*[Pull(BOB)] * 40)
    rig.advance(44.75)
    while rig.broker.waiting:
        rig.broker.release("read")
        rig.settle()
    rig.advance(14.75)
    assert bob.code is None
    rig.advance(16)
    assert bob.code is CloseCode.ACK_TIMEOUT


def test_reads_that_wait_for_a_server_do_not_hold_up_those_of_another() -> None:
    rig = Rig(set={"limits.reads_in_flight": 2})
    users = [f"u{n}" for n in range(4)]
    rig.broker.servers = {log_of(user_address("bob")): "another"}
    peers = [rig.login(user) for user in users]
    rig.broker.hold = {"read"}
    for peer in peers:
        peer.send(Pull(user_address(peer.user), after=0))  # of what has gone away
    assert len(reads(rig)) == 2
    rig.broker.store(log_of(user_address("bob")), entry(1))
    bob = rig.login("bob")
    rig.broker.release("read", 2)
    rig.settle()
    assert bob.shown() == ["m1"]
    bob.send(Pull(user_address("bob"), after=0))
    rig.broker.release("read", 2)
    rig.settle()
    assert bob.shown() == ["m1", "m1"]
    assert not any(peer.of(Deliver) for peer in peers)
    while rig.broker.waiting:  # it is back
        rig.broker.release("read")
        rig.settle()
    assert all(len(peer.of(Deliver)) == 1 for peer in peers)


# -------------------------------------------------------------------------------------------- several devices


class Counting(NativeAdapter):
    """Counts how often a Deliver is encoded."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self.name = name

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        inner = super().codec(stream, max_frame_bytes)
        counting = self

        class Codec(PlainCodec):
            wire = counting.name
            receive = staticmethod(inner.receive)

            @staticmethod
            def encode(frame: Any) -> Any:
                counting.count += type(frame) is Deliver
                return inner.encode(frame)

        return Codec()


def test_one_encoding_serves_all_devices_of_a_wire() -> None:
    rig = Rig()
    a, b, never = Counting("a"), Counting("b"), Counting("")
    peers = [rig.login("bob", f"d{n}", wire=wire) for n, wire in enumerate([a, a, a, b, b, never, never])]
    rig.mail("bob", b"1")
    assert [peer.shown() for peer in peers] == [["m1"]] * 7
    assert (a.count, b.count, never.count) == (1, 1, 2)


def test_entries_for_one_device_and_for_all_but_one() -> None:
    rig = Rig()
    phone, web = rig.login("bob", "phone"), rig.login("bob", "web")
    rig.broker.store(LOG, entry(1, only_device="phone"), entry(2, except_device="phone"), entry(3))
    rig.settle()
    rig.broker.store(LOG, entry(4, only_device="tablet"))
    rig.settle()
    assert (phone.shown(), web.shown()) == (["m1", "m3"], ["m2", "m3"])
    assert ranges(phone) == ranges(web) == [(0, 3, 2), (3, 4, 0)]
    phone.ack(4)
    assert rig.broker.acked[KEY] == 4, "an empty range is acknowledged too"
    again = rig.login("bob", "tablet")
    assert again.shown() == ["m2", "m3", "m4"]


def test_acks_of_what_was_not_sent_or_is_not_followed() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1")
    bob.send(DeliverAck((Acked(BOB, EPOCH + 9, 77), Acked(BOB, EPOCH, 1), Acked(BOB, EPOCH, 1))))
    assert bob.code is None
    assert rig.counters.acks == 2
    bob.ack(2)
    assert bob.code is CloseCode.BAD_FRAME
    eve = rig.login("eve")
    eve.send(DeliverAck((Acked(BOB, EPOCH, 0),)))
    assert eve.code is CloseCode.BAD_FRAME


def test_stored_for_somebody_who_is_away() -> None:
    diary = Diary()
    rig = Rig("memory", listeners=[diary])
    alice = rig.login("alice")
    alice.publish("1", "user:bob")
    rig.login("bob")
    alice.publish("2", "user:bob")
    assert [event for event in diary.events if event[0] == "stored"] == [("stored", BOB, "1")]


def test_health_is_passed_on() -> None:
    rig = Rig()
    rig.hub.healthy(False, "disk full")
    assert rig.health["store"] == (False, "disk full")


def test_closing_a_session_may_fail(flush_logged_errors: Any) -> None:
    rig = Rig()
    rig.broker.hold = {"close"}
    rig.login("bob")
    rig.hub.kick("bob", None, "out")
    rig.broker.fail("close", ZeroDivisionError())
    assert flush_logged_errors(ZeroDivisionError)


# ------------------------------------------------------------------------------------------------------- Pull


def test_history_while_catching_up() -> None:
    rig = Rig()
    rig.broker.store(LOG, *(entry(n) for n in range(1, 10)))
    rig.broker.acked[KEY] = 8
    rig.broker.hold = {"read"}
    bob = rig.login("bob")
    bob.send(Pull(BOB, epoch=EPOCH, after=2, limit=3), Ping())
    rig.broker.release("read", 1)
    rig.settle()
    assert ranges(bob) == [(2, 5, 3)]
    assert bob.of(Deliver)[0].head == 9
    rig.broker.release("read")
    rig.settle()
    assert ranges(bob) == [(2, 5, 3), (8, 9, 1)]
    assert [one.pulled for one in bob.of(Deliver)] == [True, False]
    bob.ack(9)


def test_an_answer_says_that_it_is_one_and_a_delivery_of_the_same_that_it_is_none() -> None:
    rig = Rig(set={"limits.deliver_window_entries": 2})
    rig.mail("bob", b"1", b"2", b"3")
    bob = rig.login("bob").send(Pull(BOB, limit=2), Pull(BOB, after=3))
    rig.mail("bob", b"4")
    bob.ack(2)
    assert [(one.after, one.upto, one.pulled) for one in bob.of(Deliver)] == [
        (0, 2, False),
        (0, 2, True),
        (3, 3, True),
        (2, 4, False),
    ]
    rig.mail("bob", b"5")
    assert not bob.of(Deliver)[-1].pulled


def test_pull_of_another_epoch_is_a_gap_and_of_nothing_is_empty() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1))
    bob = rig.login("bob").send(Pull(BOB, epoch=EPOCH - 1, after=0, limit=0), Pull(BOB, after=1))
    assert [(one.gap, one.upto) for one in bob.of(Deliver)[1:]] == [(True, 1), (False, 1)]


def test_whose_log_may_be_pulled() -> None:
    rig = Rig()
    rig.tokens.identities |= {
        "svc": Identity("svc", service=True),
        "t": Identity("bob", claims={"topics": ["news"]}),
    }
    rig.broker.store(log_of(parse_address("topic:news")), entry(1))
    bob, svc = rig.login("bob", token="t"), rig.login("svc")
    bob.send(*(Pull(parse_address(text)) for text in ("user:eve", "topic:news", "area:7", "device:bob/x")))
    assert [(one.frame, one.id, one.code) for one in bob.of(Refused)] == [
        ("pull", "user:eve", RefusedCode.FORBIDDEN),
        ("pull", "area:7", RefusedCode.FORBIDDEN),
        ("pull", "device:bob/x", RefusedCode.FORBIDDEN),
    ]
    assert [one.address.kind for one in bob.of(Deliver)] == ["topic"]
    svc.send(Pull(BOB))
    assert svc.of(Deliver)[0].address == BOB
    svc.send(Pull(BOB, lane=1))
    assert svc.of(Refused)[0].code == RefusedCode.NOT_SUPPORTED


def test_gone_while_it_pulls() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.hold = {"read"}
    bob.send(Pull(BOB))
    bob.cut()
    rig.broker.release("read")
    assert bob.kinds() == [Welcome]


def test_a_pull_that_fails(flush_logged_errors: Any) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.broker.fails = ZeroDivisionError()
    bob.send(Pull(BOB))
    assert bob.code is CloseCode.INTERNAL_ERROR
    assert flush_logged_errors(ZeroDivisionError)


def test_pull_of_what_the_wire_cannot_say_is_told_as_a_gap() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(ranges=True))
    rig.broker.store(LOG, entry(1, "ä".encode()), tell=False)
    bob.send(Pull(BOB))
    (deliver,) = bob.of(Deliver)
    assert (deliver.entries, deliver.gap, deliver.upto, deliver.pulled) == ((), True, 1, True)
    assert not bob.server.lost
    mute = rig.login("bob", "mute", wire=AsciiWire("mute"))
    mute.take()
    mute.send(Pull(BOB), Ping())
    assert Entry(1, b"").seq == 1
    assert len(mute.frames) == 1, "a wire without ranges says nothing, and goes on"


def test_qos_0_for_another_device_and_for_a_wire_that_cannot_say_it() -> None:
    rig = Rig()
    phone, web = rig.login("bob", "phone"), rig.login("bob", "web", wire=AsciiWire())
    phone.publish("1", "device:bob/phone", qos=0)
    phone.publish("2", "user:bob", body="ä".encode(), qos=0)
    assert (phone.shown(), web.shown()) == (["1", "2"], [])
    assert not rig.broker.parked


def test_a_wire_that_cannot_even_say_an_empty_range() -> None:
    class Terse(AsciiWire):
        def codec(self, stream: bool, max_frame_bytes: int) -> Any:
            codec = super().codec(stream, max_frame_bytes)
            encode = codec.encode
            codec.encode = lambda frame: (
                None if isinstance(frame, Deliver) and not frame.entries else encode(frame)
            )
            return codec

    rig = Rig()
    bob = rig.login("bob", wire=Terse())
    rig.broker.store(LOG, entry(1, only_device="web"), entry(2))
    rig.broker.store(LOG, entry(3, only_device="web"))
    rig.settle()
    assert bob.shown() == ["m2"]
    assert rig.session("bob").sent == 3


def test_the_broker_knows_whose_client_is_gone() -> None:
    rig = Rig()
    bob = rig.login("bob")
    generation = rig.session("bob").generation
    bob.cut()
    assert rig.broker.lingering == [(KEY, generation)]
    again = rig.login("bob")
    again.send(Bye(0))
    assert len(rig.broker.lingering) == 1, "who said goodbye is not waited for"


def test_a_claim_that_a_waiting_session_takes_over_waits_too() -> None:
    rig = Rig()
    rig.login("bob").cut()
    rig.broker.hold.add("open")
    late = rig.login("bob")
    late.cut()
    rig.broker.release("open")
    generation = rig.session("bob").generation
    assert [number for _, number in rig.broker.lingering] == [1, generation]
    assert generation > 1
