"""The usual mail goes a way of its own: it comes to the same as the way for all cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.core.cursor import State
from imgateway.errors import CloseCode
from imgateway.frames import Deliver, Ping, Subscribe, log_of, parse_address, user_address
from imgateway.interfaces import Identity, Traits
from imgateway.protocols.native import NativeAdapter, StreamCodec
from imgateway.protocols.plain import PlainCodec
from imgateway.wire.messages import decode_message
from tests.node.rig import AsciiWire, Peer, Rig, entry

LOG = log_of(user_address("bob"))
SMALL = {"limits.deliver_window_entries": 6, "limits.deliver_window_bytes": 1_000}

mail = st.lists(st.sampled_from([0, 0, 30, 100, 280, 1_200]), min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("mail"), mail),
        st.tuples(st.just("mail"), mail),
        st.tuples(st.just("mail"), mail),
        st.tuples(st.just("ack"), st.just(0)),
        st.tuples(st.just("device"), st.sampled_from(["phone", "tablet"])),
        st.tuples(st.just("ack"), st.integers(0, 9)),
        st.tuples(st.just("stop"), st.none()),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("tablet"), st.none()),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("login"), st.booleans()),
        st.tuples(st.just("advance"), st.sampled_from([1, 20])),
        st.tuples(st.just("epoch"), st.none()),
    ),
    max_size=25,
)


class Narrow(NativeAdapter):
    """The native wire with a window of its own; `mail` False: nobody is to know that it could say mail."""

    def __init__(self, window: int = 0, mail: bool = True) -> None:
        self.traits = Traits(mail=mail)
        self._codec = type("Codec", (StreamCodec,), {"window": window})

    def codec(self, stream: bool, max_frame_bytes: int) -> Any:
        return self._codec(max_frame_bytes)


class Place:
    """A node whose broker says mail as mail, or not; what bob's phone gets there."""

    def __init__(self, says_mail: bool, wire: Any) -> None:
        self.rig = Rig(set=SMALL)
        self.rig.broker.says_mail = says_mail
        self.wire = wire
        self.got: list[Any] = []
        self.peer: Peer | None = None
        self.login(True)

    def login(self, stream: bool) -> None:
        self.peer = self.rig.login("bob", wire=self.wire, stream=stream)

    def do(self, what: str, value: Any) -> None:
        peer, broker = self.peer, self.rig.broker
        if what == "mail":
            self.rig.mail("bob", *[b"x" * size for size in value])
        elif what == "device":
            broker.store(LOG, entry(broker.head(LOG) + 1, b"one", only_device=value))
        elif what == "tablet":
            self.rig.login("bob", "tablet")
        elif what == "login":
            self.login(value)
        elif what == "advance":
            self.rig.advance(value)
        elif what == "epoch":
            broker.epochs[LOG] = broker.epoch(LOG) + 1
        elif peer is not None and peer.link is not None and peer.link.session is not None:
            if what == "ack":
                session = peer.link.session
                peer.ack(max(0, session.sent - value), session.epoch)
            elif what == "stop":
                peer.stop_reading()
            elif what == "read":
                peer.read_on()
            elif what == "cut":
                peer.cut()
        self.rig.settle()
        if self.peer is not None:
            self.got += self.peer.take()

    def state(self) -> Any:
        names = ("sent", "acked", "head", "state", "entries", "bytes", "_flights", "reading")
        session = self.rig.session("bob")
        counters = self.rig.counters
        return (
            session and [getattr(session, name) for name in names],
            self.rig.broker.named("advance", "close"),
            self.rig.broker.acked,
            counters.deliver_frames,
            counters.entries_delivered,
            counters.bytes_out,
            counters.reads,
            dict(counters.links_closed),
        )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([None, None, AsciiWire()]), steps)
def test_both_ways_come_to_the_same(wire: Any, steps: list[tuple[str, Any]]) -> None:
    straight, general = Place(True, wire), Place(False, wire)
    for what, value in steps:
        straight.do(what, value)
        general.do(what, value)
        assert straight.got == general.got
        assert straight.state() == general.state()


def way(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is said of the mail that comes from now on."""
    said: list[bool] = []
    mailed = rig.hub.mailed

    def heard(*values: Any) -> bool:
        said.append(mailed(*values))
        return said[-1]

    monkeypatch.setattr(rig.hub, "mailed", heard)
    return said


@pytest.mark.parametrize("stream", [True, False])
def test_the_usual_goes_straight(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    bob = rig.login("bob", stream=stream)
    said = way(rig, monkeypatch)
    rig.mail("bob", b"1")
    rig.mail("bob", b"2", b"3")
    assert said == [True, True]
    assert [(one.after, one.upto, one.head) for one in bob.of(Deliver)] == [(0, 1, 1), (1, 3, 3)]
    assert [decode_message(one.message).body for frame in bob.of(Deliver) for one in frame.entries] == [
        b"1",
        b"2",
        b"3",
    ]


@pytest.mark.parametrize(
    "what",
    [
        "nobody",
        "two devices",
        "follows",
        "full",
        "large",
        "clogged",
        "another wire",
        "no mail",
        "narrow",
        "small datagrams",
        "unsayable",
    ],
)
def test_what_is_not_usual_does_not(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(set={"limits.deliver_window_entries": 4} if what == "full" else {})
    rig.tokens.identities["bob"] = Identity("bob", service=True)  # may follow anything
    rig.login("ann")
    wires = {"another wire": AsciiWire(), "no mail": Narrow(mail=False), "narrow": Narrow(4)}
    bob = rig.login("bob", wire=wires.get(what))
    if what == "small datagrams":
        bob.server.max_send_bytes = 100
    if what == "nobody":
        bob.cut()
    elif what == "two devices":
        rig.login("bob", "tablet")
    elif what == "follows":
        bob.send(Subscribe(parse_address("topic:sport")))
        assert rig.session("bob").follows is not None
    elif what == "clogged":
        bob.link.pause_sending()
    elif what == "unsayable":
        monkeypatch.setattr(type(bob.link.codec), "mail", lambda *values: 1 // 0)
    said = way(rig, monkeypatch)
    rig.mail("bob", *([b"x" * 300_000] if what == "large" else [b"1"] * 4))
    assert said == [False]
    if what not in ("nobody", "clogged", "large"):
        assert len(bob.shown()) == 4


def test_the_bytes_that_fill_a_window_are_those_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(set={"limits.deliver_window_bytes": 1_000})
    bob = rig.login("bob")
    said, room = way(rig, monkeypatch), 500 - len(entry(1, b"x" * 200).message) + 200
    rig.mail("bob", b"x" * room, b"y" * room)
    assert said == [True]
    assert rig.session("bob").state is State.CLOGGED
    assert rig.session("bob").bytes == sum(bob.sizes[-1:]) >= 1_000
    bob.ack(2)
    assert rig.session("bob").state is State.LIVE


@pytest.mark.parametrize(("after", "sent"), [(1, 2), (3, 2), (0, 2)])
def test_mail_before_or_behind_what_was_sent_is_not_sent(after: int, sent: int) -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.mail("bob", b"1", b"2")
    assert rig.session("bob").sent == sent
    assert not rig.hub.mailed(LOG, rig.broker.epoch(LOG), after, [entry(after + 1).message])
    rig.settle()
    assert bob.shown() == ["m1", "m2"]


def test_what_is_for_other_devices_is_not_shown_to_the_only_one() -> None:
    rig = Rig("memory")
    alice = rig.login("alice")
    alice.publish("1", "user:bob", copy_self=True)  # her other devices get the copy
    alice.publish("2", "device:alice/pad")
    alice.publish("3", "user:alice")
    assert alice.shown() == ["3"]
    assert rig.session("alice").sent == 3


def test_what_one_log_says_stays_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a transport that knows several orders both ways name the same one."""
    rig = Rig()
    bob = rig.login("bob")
    orders: list[Any] = []
    send = bob.server.send
    monkeypatch.setattr(bob.server, "send", lambda data, order=None: (orders.append(order), send(data)))
    said = way(rig, monkeypatch)
    rig.mail("bob", b"1")
    rig.broker.store(LOG, entry(2, b"2", only_device="phone"))
    rig.settle()
    assert said == [True]
    assert orders == [LOG, LOG]


def test_mail_must_be_acknowledged_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    bob = rig.login("bob")
    said = way(rig, monkeypatch)
    rig.mail("bob", b"1")
    rig.advance(10)
    rig.mail("bob", b"2")
    bob.ack(1)
    rig.advance(25)
    assert bob.code is None  # the second has five seconds yet
    rig.advance(5.5)
    assert bob.code is CloseCode.ACK_TIMEOUT
    assert said == [True, True]


def test_mail_that_nobody_acknowledges_is_missed_as_soon_as_it_is_due() -> None:
    rig = Rig()
    bob = rig.login("bob")
    rig.advance(50)
    bob.send(Ping())
    rig.advance(4)  # the link has looked at its deadlines: by itself it would do so again after the mail's
    rig.mail("bob", b"1")
    rig.advance(29.5)
    assert bob.code is None
    rig.advance(1)
    assert bob.code is CloseCode.ACK_TIMEOUT


def test_a_full_window_waives_what_its_wire_waives(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(set={"limits.deliver_window_bytes": 1_000})
    rig.login("bob")
    monkeypatch.setattr(PlainCodec, "waive", lambda codec: 2)
    said, room = way(rig, monkeypatch), 500 - len(entry(1, b"x" * 200).message) + 200
    rig.mail("bob", b"x" * room, b"y" * room)
    assert said == [True]
    assert (rig.session("bob").acked, rig.session("bob").state) == (2, State.LIVE)
