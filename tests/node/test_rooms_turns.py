"""How much a turn of the process does for rooms: so many members, so many bytes, so many beginnings, and no
more, whatever there is to do; and what is kept meanwhile is bounded, whatever clients say."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from imgateway.core.session import Session
from imgateway.frames import (
    Address,
    Batch,
    Deliver,
    LogKey,
    Mode,
    Notify,
    Publish,
    Pull,
    SessionKey,
    Subscribe,
    Unsubscribed,
    parse_address,
)
from imgateway.interfaces import Identity
from imgateway.node import notices, rounds
from imgateway.node.audience import Area, Room
from imgateway.node.shares import SHARE_WEIGHT, Forms, Shelf
from imgateway.protocols.native import NativeAdapter
from tests.node.rig import EPOCH, AsciiWire, FakeBroker, Rig, entry
from tests.node.test_rooms import GAMES, QUICK, ROOM, bodies, rig_with, slices_of

WIRE = NativeAdapter()


class Line:
    """A connection that counts. `held`: it says that it has so much unsent."""

    max_send_bytes = 0

    def __init__(self, held: int = 0) -> None:
        self.frames = self.bytes = self.looks = 0
        self.held = held

    def send(self, data: bytes, order: Any = None) -> None:
        self.frames += 1
        self.bytes += len(data)

    def unsent(self) -> int:
        self.looks += 1
        return self.held


class Stub:
    """A link to one line for all."""

    clogged = False
    wire = WIRE
    codec = WIRE.codec(True, 1 << 20)
    session = None

    def __init__(self, line: Line) -> None:
        self.connection = line

    def send_bytes(self, data: bytes) -> None:
        self.connection.send(data)

    def deliver(self, data: bytes, log: Any) -> None:
        self.connection.send(data)

    def is_too_large(self, data: bytes) -> bool:
        return False


def crowd(rig: Rig, address: Address, members: int, line: Line) -> Room:
    """So many are in a room that somebody real is in."""
    room: Any = rig.hub.rooms.audiences[address]
    form = next(iter(room.members)).form
    for number in range(members):
        session = Session(SessionKey(f"u{number}", "p"), 1, None, 1, 0, 0)
        session.link, session.form, session.rooms = Stub(line), form, (room,)
        room.members[session] = None
    return room  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ one round


@pytest.mark.parametrize(("body", "least", "most"), [(100, 450, 500), (60_000, 50, 70)])
def test_a_slice_is_bounded_by_members_and_by_bytes(body: int, least: int, most: int) -> None:
    rig, _, _bob = rig_with("bob", set={"rooms.classes": QUICK})
    line = Line()
    crowd(rig, ROOM, 2_000, line)
    slices = []
    rig.node.publish(Publish("1", (ROOM,), body=b"x" * body), "svc")
    slices.append(line.frames)
    while rig.turn():
        slices.append(line.frames - sum(slices))
    assert sum(slices) == 2_000
    full = [one for one in slices if one][
        1:-1
    ]  # the turn of the publish has had others, the last has the rest
    assert full
    assert all(least <= one <= most for one in full), full


def test_whoever_cannot_share_what_is_written_takes_a_smaller_slice() -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": ("*: tick=1s",)})
    rig.clock.advance(5.01)
    svc.publish("0", "room:7")
    line = Line()
    room = crowd(rig, ROOM, 1_200, line)
    alone = Forms((), rig.counters).of(rig.login("eve", wire=AsciiWire("")).link, ())
    assert not alone.is_shared
    for session in room.members:
        if session is not rig.session("bob"):
            session.form = alone
    for number in range(49):
        svc.publish(str(number + 1), "room:7")
    said: list[Any] = []
    say = rig.hub.delivery.say
    rig.hub.delivery.say = lambda *what: (said.append(1), say(*what))[1]  # type: ignore[method-assign]
    rig.clock.rightNow += 1
    done = []
    while rig.turn():
        done.append(len(said) - sum(done))
    assert line.frames == 1_200
    assert max(done[1:]) <= 20  # the first slice finds out
    assert room.round is None
    assert not rig.hub.rooms.rounds._line
    rig.settle()
    assert bodies(bob) == [str(number) for number in range(50)]


def test_an_area_counts_each_of_its_members_once_while_they_come_and_go() -> None:
    rig, svc, bob = rig_with("bob", room=GAMES)
    other = parse_address("room:games.8")
    bob.send(Subscribe(other))
    eve = rig.login("eve").send(Subscribe(other))
    area = rig.hub.rooms.audiences[parse_address("area:games")]
    assert isinstance(area, Area)
    assert area.size() == 3  # about
    assert [one.user for one in area.here()] == ["bob", "eve"]
    here = area.here()
    eve.cut()
    assert [one.user for one in here] == ["bob", "eve"]
    assert [one.user for one in area.here()] == ["bob"]
    svc.publish("1", "area:games")
    assert bodies(bob) == ["1"]


def test_everybody_is_listed_at_once_and_looked_at_later() -> None:
    rig, _, bob, eve = rig_with("bob", "eve")
    everyone = rig.hub.rooms.audiences[parse_address("all")]
    here = everyone.here()
    eve.cut()
    rig.login("late")
    assert [one.user for one in here] == ["svc", "bob"]
    assert everyone.size() == 4
    assert bob.code is None


def test_who_is_behind_is_passed_over_and_told_of_nothing_twice(monkeypatch: Any) -> None:
    rig, svc, bob, *_, eve = rig_with("bob", *"abcdef", "eve", set={"rooms.classes": QUICK})
    slices_of(1, monkeypatch)
    svc.publish("0", "room:7")
    room: Any = rig.hub.rooms.audiences[ROOM]
    lag = room.fall_behind(rig.session("eve"))
    rig.hub.rooms.rounds.queue(lag)
    rig.hub.rooms.rounds._left = 1
    rig.node.publish(Publish("1", (ROOM,)), "svc")  # to bob; eve's part of it is yet to come
    rig.settle()
    assert not room.lags
    assert [(one.after, one.upto) for one in eve.of(Deliver)] == [
        (0, 1),
        (0, 2),
    ]  # a block, and no second time
    assert bodies(bob) == ["0", "1"]


# ---------------------------------------------------------------------------------------------- many rounds


def test_rooms_that_begin_at_the_same_tick_take_turns() -> None:
    rig = Rig("memory", set={"rooms.classes": ("*: tick=1s",), "limits.rooms": 1_000})
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    bob = rig.login("bob")
    count = 600
    rooms = [parse_address(f"room:{number}") for number in range(count)]
    for one in rooms:
        rig.node.join(SessionKey("bob", "phone"), one)
    rig.settle()
    rig.clock.advance(5.01)
    for text in ("1", "2"):
        for one in rooms:
            rig.node.publish(Publish(text, (one,)), "svc")
        if text == "1":
            rig.settle()  # nothing waits for a tick
            bob.take()
    assert len(rig.hub.rooms.rounds._ticks) == 1
    began = []
    rig.clock.rightNow += 1
    while rig.turn():
        began.append(rig.counters.room_rounds - count - sum(began))
    assert sum(began) == count
    assert max(began) <= rounds.SLICE / rounds.BEGIN
    assert len([one for one in began if one]) > 4
    rig.settle()
    assert bodies(bob) == ["2"] * count


def test_a_publish_to_very_many_quiet_rooms_begins_so_many_of_them_at_once() -> None:
    rig = Rig("memory", set={"limits.rooms": 1_000})
    bob = rig.login("bob")
    rooms = tuple(parse_address(f"room:{number}") for number in range(400))
    for one in rooms:
        rig.node.join(SessionKey("bob", "phone"), one)
    rig.settle()
    bob.take()
    rig.node.publish(Publish("1", rooms), "svc")
    assert 50 < rig.counters.room_rounds <= rounds.SLICE / rounds.BEGIN + 1
    rig.settle()
    assert rig.counters.room_rounds == 400
    assert bodies(bob) == ["1"] * 400


def test_a_large_room_costs_its_list() -> None:
    rig, _, _bob = rig_with("bob", set={"rooms.classes": QUICK})
    crowd(rig, ROOM, 3_000, Line())
    rig.hub.rooms.rounds._left = 500
    rig.hub.rooms.rounds._line.append(rig.hub.rooms.audiences[ROOM])  # it has its turn elsewhere
    rig.node.publish(Publish("1", (ROOM,)), "svc")
    assert rig.hub.rooms.rounds._left == 500 - rounds.BEGIN - 3
    rig.settle()


# ------------------------------------------------------------------------------------------- who is behind


def test_a_link_that_is_full_and_does_not_say_so_is_looked_at_now_and_then() -> None:
    rig, svc, bob = rig_with("bob", set={"rooms.classes": QUICK})
    line = Line(held=1 << 20)
    room = crowd(rig, ROOM, 3, line)
    svc.publish("1", "room:7")
    assert len(room.lags) == 3
    line.looks = turns = 0
    for _ in range(1_000):
        rig.clock.advance(0.001)
        turns += rig.turn()
    assert 3 * 15 <= line.looks <= 3 * 25, line.looks  # one in 50 ms, and not one a turn
    assert turns < 100
    line.held = 0
    rig.pass_ms(60)
    assert not room.lags
    assert line.frames == 3
    assert bodies(bob) == ["1"]


def test_a_node_that_stops_looks_at_no_link_any_more() -> None:
    rig, svc, _bob = rig_with("bob", set={"rooms.classes": QUICK})
    crowd(rig, ROOM, 1, Line(held=1 << 20))
    svc.publish("1", "room:7")
    rig.hub.rooms.rounds.stop()
    assert rig.hub.rooms.rounds._looking is None
    assert not rig.hub.rooms.rounds._full


# ----------------------------------------------------------------------------------------------- not pulling


def test_members_who_do_not_pull_are_removed_so_many_at_a_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(notices, "REMOVALS", 3)
    monkeypatch.setattr(notices, "LOOKS", 5)
    rig, svc = rig_with(set={"rooms.classes": QUICK})
    members = [rig.login(f"u{number}").send(Subscribe(ROOM, Mode.NOTIFY)) for number in range(8)]
    svc.publish("1", "room:7")
    rig.advance(28)
    removed = []
    for _ in range(24):
        rig.advance(0.25)
        removed.append(sum(len(member.of(Unsubscribed)) for member in members) - sum(removed))
    assert sum(removed) == 8
    assert max(removed) == 3
    assert [len(member.of(Notify)) for member in members] == [3] * 8


# ------------------------------------------------------------------------------------------- what is kept


def test_what_stands_on_the_shelf_is_what_it_says_in_every_form(monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.node.shares.SHELF_BYTES", 40_000)
    rig = Rig()
    forms = Forms(("zstd", "br"), rig.counters)
    shelf = Shelf()
    links = [rig.login(f"u{number}", stream=number % 2 == 0).link for number in range(2)]
    offers = [("zstd",), ("br",), ("nonsense", "zstd"), tuple(map(str, range(1_000))), ()]
    for room in range(60):
        log = LogKey(parse_address(f"room:{room}"))
        entries = tuple(entry(n, bytes([n]) * 500) for n in range(1, 4))
        for share in shelf.of(log, Batch(EPOCH, 0, 3, entries, False, 3), 0):
            for link in links:
                for offered in offers:
                    session = rig.session(f"u{links.index(link)}")
                    session.form = forms.of(link, offered)
                    assert share.said(rig.hub.delivery, session)
        held = sum(share.weight() for shares in shelf._shares.values() for share in shares)
        assert shelf._bytes == held <= 40_000
    assert len(forms._forms) == 6
    assert 0 < len(shelf._shares) < 15


def test_a_form_of_one_link_alone_is_kept_by_nobody() -> None:
    rig = Rig()
    forms, shelf = Forms((), rig.counters), Shelf()
    batch = Batch(EPOCH, 0, 1, (entry(1, b"x"),), False, 1)
    (share,) = shelf.of(LogKey(ROOM), batch, 0)
    before = share.weight()
    for number in range(5):
        peer = rig.login(f"u{number}", wire=AsciiWire(""))
        session = rig.session(f"u{number}")
        session.form = forms.of(peer.link, ())
        assert share.said(rig.hub.delivery, session)
    assert share.weight() == before == len(batch.entries[0].message) + SHARE_WEIGHT
    assert forms._forms == {}


def test_windows_that_clients_choose_do_not_pile_up_and_share_what_is_written(monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.node.shares.MAX_WINDOWS", 10)
    rig = Rig()
    forms = Forms((), rig.counters)
    link: Any = rig.login("bob").link

    class Chosen:
        wire = "native/stream"
        window = 0

    link.codec = Chosen()
    plain = forms.of(link, ())
    found = []
    for window in range(1, 1_000):
        Chosen.window = window
        found.append(forms.of(link, ()))
    assert [one.window for one in found] == list(range(1, 1_000))
    assert {one.key() for one in found} == {plain}
    assert forms.of(link, ()).key() is plain
    assert len(forms._windows) == 10
    Chosen.window = 3
    assert forms.of(link, ()) is found[2]


def test_a_pull_beyond_everything_takes_no_place_on_the_shelf() -> None:
    rig, svc, bob = rig_with("bob")
    svc.publish("1", "room:7")
    for after in range(1, 300):
        bob.send(Pull(ROOM, after=after))
    assert len(rig.hub.rooms.rounds.shelf._shares) <= 1
    assert [one.upto for one in bob.of(Deliver)][-1] == 299


def test_notices_that_differ_are_not_kept() -> None:
    rig = Rig("memory", set={"rooms.classes": ("*: tick=1s",)})
    rig.clock.advance(5.01)
    peers = [rig.login(f"u{number}").send(Subscribe(ROOM, Mode.NOTIFY)) for number in range(20)]
    for number, peer in enumerate(peers):
        peer.send(Subscribe(parse_address(f"room:own-{number}"), Mode.NOTIFY))
    kept: list[int] = []
    tell = rig.hub.rooms.attendance._notices.tell
    rig.hub.rooms.rounds._notices = lambda round, some: (tell(round, some), kept.append(len(round.heads)))[0]
    for text in ("1", "2"):
        for number in range(20):
            rig.node.publish(Publish(text, (ROOM, parse_address(f"room:own-{number}"))), "svc")
        rig.pass_ms(1_100)
        for peer in peers:
            peer.send(Pull(ROOM), Pull(parse_address(f"room:own-{peers.index(peer)}")))
    assert kept
    assert max(kept) <= 1
    for number, peer in enumerate(peers):
        own = {told.address.id for notify in peer.of(Notify) for told in notify.heads}
        assert own == {"7", f"own-{number}"}


def test_compression_is_counted_once_for_each_text() -> None:
    rig, svc, bob, eve = rig_with("bob", "eve", set={"rooms.classes": ("*: tick=1s",)})
    for user in ("zip", "zap", "br"):
        rig.login(user, compressions=("zstd",) if user[0] == "z" else ("br",)).send(Subscribe(ROOM))
    rig.clock.advance(5.01)
    svc.publish("0", "room:7")
    assert rig.counters.compression_in["zstd"] < rig.counters.compression_out["zstd"]  # one alone is as it is
    before = rig.counters.compression_in["zstd"], rig.counters.compression_out["zstd"]
    for number in range(40):
        svc.publish(f"b{number}", "room:7", body=b"the same words again and again")
    rig.pass_ms(1_000)
    came = rig.counters.compression_in["zstd"] - before[0]
    went = rig.counters.compression_out["zstd"] - before[1]
    (deliver,) = [one for one in bob.of(Deliver) if len(one.entries) > 1]
    assert came == sum(len(one.message) for one in deliver.entries)
    assert 0 < went < came / 3
    assert rig.counters.compression_in["br"] == rig.counters.compression_in["zstd"]
    assert set(rig.counters.compression_in) == {"zstd", "br"}
    measures = {measure.field: value for measure, value in rig.node.measures()}
    assert measures["compression_out"] == dict(rig.counters.compression_out)
    assert len(bodies(eve)) == 41


def test_who_pulled_ahead_is_not_ahead_of_another_ring() -> None:
    rig, svc, _bob = rig_with("bob", set={"rooms.classes": ("*: tick=1s",)})
    room: Any = rig.hub.rooms.audiences[ROOM]
    session, lane = rig.session("bob"), room.lanes[0]
    svc.publish("1", "room:7")
    svc.publish("2", "room:7")
    room.pulled(session, 0, 2)
    since = ((0, 1),)
    assert room.is_ahead(session, since)
    lane.restart(lane.epoch + 1, 1)
    lane.head = 2
    assert not room.is_ahead(session, since)
    room.caught_up()
    assert room.ahead == {}  # else it would stay for as long as the new ring is shorter


def test_what_cannot_be_read_is_told_as_a_gap_and_the_room_goes_on(flush_logged_errors: Any) -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.hold = {"read"}
    broker.listener.moved(LogKey(ROOM), EPOCH, 4)
    broker.fail("read", RuntimeError("broken"))
    rig.settle()
    assert len(flush_logged_errors(RuntimeError)) == 1
    (told,) = bob.of(Deliver)
    assert (told.after, told.upto, told.gap, told.entries) == (0, 4, True, ())
    bob.take()
    rig.clock.advance(1)
    broker.listener.arrived(LogKey(ROOM), EPOCH, 4, 5, (entry(5),))
    rig.settle()
    assert bob.shown() == ["m5"]


def test_a_room_that_is_read_when_the_broker_stops_is_no_fault() -> None:
    broker = FakeBroker()
    rig, _, _ = rig_with("bob", broker=broker)
    broker.hold = {"read"}
    broker.listener.moved(LogKey(ROOM), EPOCH, 4)
    broker.fail("read", CancelledError())
    rig.settle()


def test_a_read_that_fails_after_the_ring_began_anew_changes_nothing(flush_logged_errors: Any) -> None:
    broker = FakeBroker()
    rig, _, bob = rig_with("bob", broker=broker)
    broker.hold = {"read"}
    broker.listener.moved(LogKey(ROOM), EPOCH, 4)
    rig.hub.rooms.audiences[ROOM].lanes[0].restart(EPOCH + 1, 9)
    broker.fail("read", RuntimeError("broken"))
    assert len(flush_logged_errors(RuntimeError)) == 1
    assert rig.hub.rooms.audiences[ROOM].lanes[0].head == 9
    assert bob.of(Deliver) == []
