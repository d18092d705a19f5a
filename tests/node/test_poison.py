"""What a wire cannot say is parked and offered again; whatever a codec does, the others get theirs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from imgateway.frames import Deliver, Entry, Hello, Ping, SessionKey, log_of, user_address
from imgateway.frames import ResumePoint as Point
from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter
from tests.node.rig import EPOCH, AsciiWire, Peer, Rig, entry, message

BOB = user_address("bob")
LOG = log_of(BOB)
KEY = SessionKey("bob", "phone")
POISON = "ä".encode()


def ranges(peer: Peer) -> list[tuple[int, int, list[int]]]:
    return [(one.after, one.upto, [e.seq for e in one.entries]) for one in peer.of(Deliver)]


def test_parked_and_offered_again_before_newer_ones() -> None:
    for with_ranges in (False, True):
        rig = Rig()
        bob = rig.login("bob", wire=AsciiWire(ranges=with_ranges))
        rig.mail("bob", b"1", POISON, b"3", POISON, b"5")
        assert bob.shown() == ["m1", "m3", "m5"]
        assert rig.broker.parked[KEY] == (2, 4)
        assert rig.counters.parked == 2
        bob.ack(5)
        bob.cut()
        rig.mail("bob", b"6")
        bob = rig.login("bob")
        assert ranges(bob) == [(1, 3, [2]), (3, 5, [4]), (5, 6, [6])]
        bob.ack(3)
        assert rig.broker.parked[KEY] == (4,)
        bob.ack(6)
        assert rig.broker.parked[KEY] == ()
        assert rig.session("bob").parking is None
        bob.cut()
        assert rig.login("bob").shown() == []


def test_still_unsayable_stays_parked() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire())
    rig.mail("bob", POISON, b"2")
    bob.ack(2).cut()
    bob = rig.login("bob", wire=AsciiWire())
    assert bob.shown() == []
    rig.mail("bob", b"3")
    bob.ack(3)
    assert bob.shown() == ["m3"]
    assert rig.broker.parked[KEY] == (1,)
    bob.cut()
    assert rig.login("bob").shown() == ["m1"]


def test_one_that_was_parked_and_is_no_more_in_the_log() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire())
    rig.mail("bob", POISON, b"2")
    bob.ack(2).cut()
    del rig.broker.logs[LOG][0]
    bob = rig.login("bob")
    assert ranges(bob) == [(0, 2, [])]
    bob.ack(2)
    assert rig.broker.parked[KEY] == ()


def test_one_that_was_parked_and_that_retention_took() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1), entry(2))
    rig.broker.acked[KEY], rig.broker.parked[KEY] = 2, (1, 2)
    rig.broker.read_batch = lambda batch: (
        batch if batch.after else replace(batch, entries=batch.entries[1:], gap=True)
    )
    bob = rig.login("bob")
    assert [(one.upto, one.gap) for one in bob.of(Deliver)] == [(1, True), (2, False)]


def test_who_names_its_position_is_not_shown_what_it_passed() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(ranges=True))
    rig.mail("bob", POISON, b"2")
    bob.cut()
    bob = rig.login("bob", resume=(Point(BOB, 0, EPOCH, 2),))
    rig.mail("bob", b"3")
    bob.ack(3)
    assert bob.shown() == ["m3"]
    assert rig.broker.parked[KEY] == (1,), "but it is not lost"
    bob.cut()
    assert rig.login("bob").shown() == ["m1"]


def test_parked_beyond_the_named_position_comes_with_the_log() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(ranges=True))
    rig.mail("bob", b"1", POISON, b"3")
    bob.cut()
    bob = rig.login("bob", resume=(Point(BOB, 0, EPOCH, 1),))
    assert bob.shown() == ["m2", "m3"]
    bob.ack(3)
    assert rig.broker.parked[KEY] == ()


def test_offers_wait_for_the_window() -> None:
    rig = Rig(set={"limits.deliver_window_entries": 2})
    rig.broker.store(LOG, *(entry(n) for n in range(1, 8)))
    rig.broker.acked[KEY], rig.broker.parked[KEY] = 7, (1, 3, 5)
    bob = rig.login("bob")
    assert ranges(bob) == [(0, 2, [1]), (2, 4, [3])]
    bob.ack(2)
    assert ranges(bob)[2:] == [(4, 7, [5])]
    bob.ack(7)
    assert rig.broker.parked[KEY] == ()


def test_a_log_that_answers_elsewhere_while_an_offer_is_read() -> None:
    rig = Rig()
    rig.broker.store(LOG, entry(1), entry(2))
    rig.broker.acked[KEY], rig.broker.parked[KEY] = 2, (1,)
    wrong = [1]
    rig.broker.read_batch = lambda batch: replace(batch, after=batch.after + wrong.pop()) if wrong else batch
    assert ranges(rig.login("bob")) == [(0, 2, [1])]


def test_a_parked_entry_moves_the_position_where_nothing_else_is_owed() -> None:
    rig = Rig()
    rig.login("bob", wire=AsciiWire())
    rig.mail("bob", POISON)
    assert (rig.broker.acked[KEY], rig.broker.parked[KEY]) == (1, (1,))


# ----------------------------------------------------------------------------------------- wires without acks


def test_what_the_peers_system_has_taken_counts_when_it_speaks() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(acks=False))
    rig.mail("bob", b"1", b"2")
    assert rig.broker.acked.get(KEY, 0) == 0, "written is not arrived"
    bob.send(Ping())
    assert rig.broker.acked[KEY] == 2
    bob.stop_reading()
    rig.mail("bob", b"3")
    bob.send(Ping())
    assert rig.broker.acked[KEY] == 2
    bob.read_on()
    bob.server.unacked = lambda: None  # unknown: written counts
    bob.send(Ping())
    assert rig.broker.acked[KEY] == 3


def test_its_window_opens_the_same_way() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire(acks=False))
    rig.mail("bob", *(b"x" for _ in range(100)))
    assert len(bob.shown()) == 64
    bob.send(Ping())
    assert len(bob.shown()) == 100


# ----------------------------------------------------------------------------------------------------- poison


class Raising(AsciiWire):
    """Raises where the other one says None, and at large entries."""

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        codec = super().codec(stream, max_frame_bytes)
        encode = codec.encode

        def raising(frame: Any) -> Any:
            if type(frame) is Deliver:
                frame.entries[0].message.decode("ascii") if frame.entries else None
                assert len(frame.entries) < 2
            return encode(frame)

        codec.encode = raising
        return codec


def test_a_codec_that_raises_parks(flush_logged_errors: Any) -> None:
    rig = Rig()
    bob = rig.login("bob", wire=Raising())
    other = rig.login("bob", "web")
    rig.mail("bob", b"1", POISON, b"3")
    assert bob.shown() == ["m1", "m3"]
    assert bob.code is None
    assert other.shown() == ["m1", "m2", "m3"]
    assert rig.broker.parked == {KEY: (2,)}
    assert flush_logged_errors("raised; its entries are parked")


bodies = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\xff", b"\x00", "\ud800".encode("utf-8", "surrogatepass"), b"x" * 400]),
)
odd_entries = bodies.map(lambda body: Entry(0, message("m", body)))


@pytest.fixture(autouse=True)
def _raising(request: Any, flush_logged_errors: Any) -> Any:
    yield
    if "any_entry" in request.node.name:
        flush_logged_errors("raised; its entries are parked")


@settings(max_examples=60, derandomize=True)
@given(mail=st.lists(st.lists(odd_entries, min_size=1, max_size=5), min_size=1, max_size=5))
def test_any_entry_on_any_wire(mail: list[list[Entry]]) -> None:
    """The native wire says everything; the ends of all cursors meet, whatever the other codecs do."""
    rig = Rig()
    peers = {
        "native": rig.login("bob", "native"),
        "ascii": rig.login("bob", "ascii", wire=AsciiWire()),
        "ranges": rig.login("bob", "ranges", wire=AsciiWire("ranges", ranges=True)),
        "raising": rig.login("bob", "raising", wire=Raising("raising")),
        "json": rig.connect(JsonAdapter(), stream=False),
    }
    json = peers["json"]
    json.client.receiver.codec = json.codec = JsonAdapter().codec(False, 1 << 20)
    json.user, json.device = "bob", "json"
    json.send(Hello("bob", "json"))
    total = 0
    for batch in mail:
        rig.broker.store(LOG, *batch)
        total += len(batch)
        rig.settle()
    for name, peer in peers.items():
        assert peer.code is None, name
        session = rig.session("bob", name)
        assert session.sent == total, name
        shown = [one.seq for frame in peer.of(Deliver) for one in frame.entries]
        parked = rig.broker.parked.get(session.key, ())
        assert sorted([*shown, *parked]) == list(range(1, total + 1)), name


def test_an_entry_that_is_no_message() -> None:
    rig = Rig()
    bob = rig.login("bob", wire=AsciiWire())
    rig.mail("bob", b"1")
    rig.broker.store(LOG, Entry(0, b"\x00"), entry(3))
    rig.settle()
    assert bob.shown() == ["m1", "m3"]


def test_adapters_of_this_file() -> None:
    assert NativeAdapter().name == "native"
