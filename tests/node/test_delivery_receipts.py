"""What counts as taken, where wires say less than ours, and codecs that fail when they are asked."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.errors import CloseCode
from imgateway.frames import Ping
from tests.node.rig import AsciiWire, Peer, Rig, entry


def acked(rig: Rig, user: str = "bob") -> int:
    return int(rig.session(user).acked)


def mute(rig: Rig, **traits: Any) -> Peer:
    """One whose wire acknowledges nothing, over a connection that does not know what arrived."""
    bob = rig.login("bob", wire=AsciiWire(acks=False, **traits))
    bob.server.unacked = lambda: None  # type: ignore[method-assign]
    return bob


def test_what_was_not_even_written_has_not_arrived() -> None:
    rig = Rig()
    bob = mute(rig)
    rig.mail("bob", b"1")
    bob.stop_reading()
    rig.mail("bob", b"2")
    unsent = bob.server.unsent()
    assert unsent
    assert bob.link is not None
    bob.link.received(bob.codec.encode(Ping()))
    assert acked(rig) == 1
    bob.read_on()
    bob.send(Ping())
    assert acked(rig) == 2


def test_a_window_of_ranges_without_entries_opens_again() -> None:
    """Entries for other devices fill the bytes of the window, if the wire has a word for their ranges."""
    rig = Rig(set={"limits.deliver_window_bytes": 200})
    bob = mute(rig, ranges=True)
    for n in range(20):
        rig.mail("bob", b"x", only_device="pad")
        bob.send(Ping())
        assert rig.session("bob").bytes == 0, n
    assert acked(rig) == 20
    rig.mail("bob", b"y")
    assert bob.shown() == ["m21"]


def test_what_was_parked_and_is_offered_again_is_taken_too() -> None:
    """It stands before the position that is acknowledged already."""
    rig = Rig(set={"limits.deliver_window_entries": 4})
    bob = mute(rig)
    rig.mail("bob", *["ü".encode()] * 6, b"last")
    for _ in range(4):
        bob.send(Ping())
    assert acked(rig) == 7
    assert bob.shown() == ["m7"]
    bob.cut()
    session = rig.session("bob")
    assert rig.broker.parked[session.key] == (1, 2, 3, 4, 5, 6)
    rig.broker.logs[session.log][:6] = [entry(seq, b"sayable") for seq in range(1, 7)]
    bob = mute(rig)
    for _ in range(4):
        bob.send(Ping())
    assert bob.shown() == [f"m{n}" for n in range(1, 7)]
    assert rig.broker.parked[rig.session("bob").key] == ()
    assert rig.session("bob").entries == 0


@pytest.mark.parametrize("waived", [ZeroDivisionError(), 99])
def test_a_codec_that_cannot_waive_costs_the_others_nothing(flush_logged_errors: Any, waived: Any) -> None:
    rig = Rig()
    wire = AsciiWire(window=1)
    bad, good = rig.login("bob", "bad", wire=wire), rig.login("bob", "good")

    def waive() -> int:
        if isinstance(waived, Exception):
            raise waived
        return int(waived)

    assert bad.link is not None
    bad.link.codec.waive = waive
    log = rig.session("bob", "bad").log
    rig.broker.listener.arrived(log, 7, 0, 1, (entry(1, b"x"),))
    rig.settle()
    assert len(flush_logged_errors()) == 1
    assert good.shown() == ["m1"]
    assert rig.counters.links_closed[CloseCode.INTERNAL_ERROR] == 1
    assert bad.gone is not None
