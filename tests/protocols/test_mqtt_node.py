"""MQTT's clients at a node in memory: how much is on its way to them at once."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from imgateway.errors import CloseCode, StoreBusy
from imgateway.frames import LogKey, Publish, SessionKey, Subscribe, Subscribed
from imgateway.interfaces import Identity
from imgateway.node.link import Pause
from imgateway.protocols.mqtt.adapter import MqttAdapter
from imgateway.protocols.mqtt.codec import MqttCodec
from imgateway.protocols.mqtt.packets import Body, Splitter
from imgateway.protocols.mqtt.properties import Property
from imgateway.protocols.mqtt.record import FOREVER
from imgateway.protocols.mqtt.topics import address_of, topic_of
from imgateway.testing import disk
from imgateway.testing.wires import pump
from tests.node.cluster_rig import Cluster
from tests.node.rig import Peer, Rig
from tests.protocols import mqtt

TOPICS = [f"topic/{name}" for name in "abc"]
RELEASED = mqtt.packet(0x62, b"\0\7")


class Device(Peer):
    """A client of MQTT 5 that acknowledges when it is told to.

    :ivar shown: topic and body of what came. :ivar open: packet ids that it has not acknowledged.
    :ivar answers: first byte, packet id and last byte of SUBACKs, UNSUBACKs, PUBRECs and PUBCOMPs.
    """

    def __init__(self, rig: Rig, most: int, expiry_s: int = 3_600, **how: Any) -> None:
        self.most = most
        self.seen: list[tuple[str, bytes]] = []
        self.open: list[int] = []
        self.answers: list[tuple[int, int, int]] = []
        self.splitter = Splitter(1 << 20)
        super().__init__(rig, MqttAdapter(0, lambda: rig.wall_ms), True, 0, "")
        rig.peers.append(self)
        about = [(Property.RECEIVE_MAXIMUM, most), (Property.SESSION_EXPIRY, expiry_s)]
        self.raw(mqtt.connect(5, token=b"bob", about=about, **{"client_id": "phone"} | how))

    def received(self, data: bytes) -> None:
        for first, packet in self.splitter.feed(data):
            body = Body(packet)
            if first & 0xF0 == 0x30:
                topic = body.text()
                if first & 6:
                    self.open.append(body.packet_id())
                body.part()
                self.seen.append((topic, body.rest()))
                assert len(self.open) <= self.most, "more than it takes at once"
            elif first in (0x50, 0x70, 0x90, 0xB0):
                self.answers.append((first, body.packet_id(), packet[-1]))

    def leave(self) -> None:
        """Its link is lost, and its session ends; what MQTT calls one goes on."""
        self.cut()
        self.rig.advance(61)
        assert self.rig.session("bob") is None

    def subscribe(self, *names: str, qos: int = 1) -> None:
        self.raw(mqtt.subscribe(*[(name, qos) for name in names], v5=True))

    def unsubscribe(self, *names: str) -> None:
        self.raw(mqtt.unsubscribe(*names, v5=True))

    def ack(self, *packet_ids: int) -> None:  # type: ignore[override]
        for number in packet_ids:
            self.open.remove(number)
        self.raw(b"".join(mqtt.puback(number) for number in packet_ids))

    def bodies(self, topic: str) -> list[bytes]:
        return [body for name, body in self.seen if name == topic]


def house(most: int) -> tuple[Rig, Device, Any]:
    """A node, a client that takes so much at once, and somebody who publishes."""
    rig = Rig("memory")
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": list("abc")}, service=True)
    rig.tokens.identities["svc"] = Identity("svc", service=True)
    device = Device(rig, most)
    service = rig.login("svc")
    said = iter(range(1, 1 << 20))

    def say(topic: str, count: int = 1) -> None:
        nonlocal service
        if service.gone is not None:  # it does not ping
            service = rig.login("svc")
        service.send(*[Publish(f"p{n}", (address_of(topic),), body=b"%d" % n) for n in _next(said, count)])

    return rig, device, say


def _next(numbers: Any, count: int) -> list[int]:
    return [next(numbers) for _ in range(count)]


def test_what_was_unsubscribed_from_counts_until_it_is_acknowledged() -> None:
    _, device, say = house(4)
    device.subscribe("topic/a")
    say("topic/a", 9)
    assert len(device.open) == 4
    device.unsubscribe("topic/a")
    assert device.answers[-1][0] == 0xB0
    say("user/bob", 9)
    assert device.bodies("user/bob") == []
    late = device.open[:]
    device.ack(late[2])
    assert len(device.open) == 4  # one of the mailbox
    device.ack(late[0], late[1], late[3])
    assert len(device.open) == 4
    while device.open:
        device.ack(device.open[0])
    assert len(device.bodies("user/bob")) == 9


def test_what_came_at_qos_1_counts_though_it_is_qos_0_now() -> None:
    _, device, say = house(3)
    device.subscribe("topic/a")
    say("topic/a", 3)
    late = device.open[:]
    assert len(late) == 3
    device.subscribe("topic/a", qos=0)
    say("user/bob", 3)
    assert device.bodies("user/bob") == []
    device.ack(*late)
    assert len(device.bodies("user/bob")) == 3
    say("topic/a", 9)
    assert len(device.open) == 3
    device.ack(*device.open)
    assert len(device.bodies("topic/a")) == 12


def test_a_refusal_is_not_taken_for_the_answer_to_an_unsubscribe_that_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    late: Deferred[None] = Deferred()
    with monkeypatch.context() as away:
        away.setattr(rig.broker, "unfollow", lambda *about: late)
        away.setattr(rig.broker, "watch", lambda log: fail(StoreBusy()))
        device.raw(mqtt.unsubscribe("topic/a", v5=True, packet_id=21))
        rig.advance(2.25)
        device.raw(mqtt.subscribe(("topic/a", 1), v5=True, packet_id=22))
        assert not device.answers[1:]
        late.callback(None)
    rig.settle()
    assert device.answers[1:] == [(0xB0, 21, 0), (0x90, 22, 0x80)]
    device.subscribe("topic/a")
    say("topic/a", 2)
    assert len(device.bodies("topic/a")) == 2


@pytest.mark.parametrize("then", ["reconnects", "unsubscribes"])
@pytest.mark.parametrize("topic", ["topic/a", "room/7"])
def test_the_refusal_of_an_older_subscribe_leaves_the_newer_one(
    topic: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who unsubscribes meanwhile withdraws it, and what was asked for after that is granted."""
    rig, device, say = house(9)
    device.subscribe(topic)
    late: list[Deferred[None]] = []

    def slow(call: Any) -> Any:
        def asked(*about: Any) -> Deferred[None]:
            call(*about)
            late.append(Deferred())
            return late[-1]

        return asked

    with monkeypatch.context() as away:
        if topic == "room/7":
            for name in ("leave", "join"):
                away.setattr(rig.broker, name, slow(getattr(rig.broker, name)))
        else:
            away.setattr(rig.steps, "choices", list)
        device.raw(mqtt.unsubscribe(topic, packet_id=1, v5=True))
        rig.advance(2.25)
        device.raw(mqtt.subscribe((topic, 1), packet_id=2, v5=True))
        device.raw(mqtt.unsubscribe(topic, packet_id=3, v5=True))
        device.raw(mqtt.subscribe((topic, 1), packet_id=4, v5=True))
        while late:
            late.pop(0).callback(None)
            rig.settle()
    rig.settle()
    granted = int(topic == "topic/a")
    assert device.answers[1:] == [(0xB0, 1, 0), (0x90, 2, 0x80), (0xB0, 3, 0), (0x90, 4, granted)]
    say(topic)
    rig.pass_ms(900)
    assert len(device.bodies(topic)) == 1
    device.ack(*device.open)
    if then == "unsubscribes":
        device.unsubscribe(topic)
        assert device.answers[-1] == (0xB0, 8, 0)
    else:
        device.raw(mqtt.PINGREQ)  # what has changed is written down
        device.leave()
        device = Device(rig, 9)
    say(topic)
    rig.pass_ms(900)
    assert len(device.bodies(topic)) == 1


def test_the_window_is_there_again_with_the_next_connection() -> None:
    rig, device, say = house(2)
    device.subscribe("topic/a")
    say("topic/a", 2)
    device.unsubscribe("topic/a")
    say("user/bob", 2)
    assert device.bodies("user/bob") == []
    device.cut()
    again = Device(rig, 2)
    assert len(again.bodies("user/bob")) == len(again.open) == 2


def test_who_may_not_follow_a_topic_any_more_holds_nothing_back_there() -> None:
    rig, device, say = house(2)
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]})
    device.cut()
    device = Device(rig, 2)
    device.subscribe("topic/a")
    device.cut()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": []})
    device = Device(rig, 2)
    say("topic/a")
    assert device.bodies("topic/a") == []
    rig.advance(1)
    device.cut()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]})
    device = Device(rig, 2)
    device.subscribe("topic/a", qos=1 | 0x20)
    assert device.bodies("topic/a") == [], "it begins anew"
    say("topic/a")
    assert len(device.bodies("topic/a")) == 1


@pytest.mark.parametrize("how", ["the store is slow", "the client is gone at once"])
@pytest.mark.parametrize("repeats", [False, True])
def test_what_was_unsubscribed_from_holds_nothing_back_though_the_connection_ends_at_once(
    how: str, repeats: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.subscribe(*TOPICS)
    leaving = mqtt.unsubscribe(*TOPICS, v5=True)
    with monkeypatch.context() as slow:
        if how == "the store is slow":
            slow.setattr(rig.steps, "choices", list)
            device.raw(leaving)
        else:
            device.client.send(leaving)
            pump(device.client, device.server)
        device.cut()
    rig.settle()
    for topic in TOPICS:
        say(topic, 3)
    device = Device(rig, 9)
    if repeats:
        device.raw(leaving)
        assert [first for first, _, _ in device.answers] == [0xB0]
    assert device.seen == []
    device.leave()
    assert [position(rig, topic) for topic in TOPICS] == [3, 3, 3]


def test_nor_does_what_it_may_not_follow_any_more_though_it_is_gone_before_that_is_undone() -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.cut()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": []})
    device = Device(rig, 9)
    device.raw(mqtt.PINGREQ)
    device.cut()
    say("topic/a", 3)
    device = Device(rig, 9)
    device.leave()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]})
    assert position(rig, "topic/a") == 3


def test_what_a_busy_store_would_not_undo_is_undone_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    with monkeypatch.context() as busy:
        busy.setattr(rig.broker, "unfollow", lambda *about: fail(StoreBusy()))
        device.unsubscribe("topic/a")
        assert device.answers[-1] == (0xB0, 8, 0x80)
    rig.advance(2)
    say("topic/a", 3)
    device.leave()
    assert position(rig, "topic/a") == 3


class Away:
    """The broker turns away who wants to follow a topic or to come into a room.

    :ivar asked: at what seconds it was asked for one.
    """

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[float] = []
        self.is_away = True
        for name in ("follow", "join"):
            monkeypatch.setattr(rig.broker, name, self.asks(rig, getattr(rig.broker, name)))

    def asks(self, rig: Rig, call: Any) -> Any:
        def asked(*about: Any) -> Any:
            self.asked.append(rig.clock.seconds())
            return fail(StoreBusy()) if self.is_away else call(*about)

        return asked


@pytest.mark.parametrize("topic", ["topic/a", "room/7"])
def test_what_cannot_be_made_again_just_now_is_asked_for_by_itself(
    topic: str, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    """However little its client says: it counts on the session that it was told is there."""
    rig, device, say = house(9)
    device.subscribe(topic)
    device.leave()
    if topic == "topic/a":
        say(topic)
    away = Away(rig, monkeypatch)
    device = Device(rig, 9, keepalive_s=0)
    rig.advance(100)
    waits = [round(later - one, 2) for one, later in zip(away.asked, away.asked[1:], strict=False)]
    assert waits == [0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5, 22.5]
    assert len(flush_logged_errors("joining a room failed")) == (9 if topic == "room/7" else 0)
    away.is_away = False
    rig.advance(22.5)
    say(topic)
    assert len(device.bodies(topic)) == (2 if topic == "topic/a" else 1)
    asked = len(away.asked)
    rig.advance(100)
    assert len(away.asked) == asked
    assert device.gone is None


@pytest.mark.parametrize("asks", ["again by itself", "its client"])
def test_a_room_that_the_business_took_it_out_of_is_not_asked_for_any_more(
    asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was to be asked for once more, behind a topic that the store takes its time for."""
    rig, device, say = house(9)
    device.subscribe("topic/a", "room/7")
    if asks == "its client":
        device.unsubscribe("topic/a")
    late: Deferred[None] = Deferred()
    follow = rig.broker.follow
    monkeypatch.setattr(rig.broker, "follow", lambda *about: late.addCallback(lambda _: follow(*about)))
    if asks == "its client":
        device.answers.clear()
        device.subscribe("topic/a", "room/7")
    else:
        device.cut()
        device = Device(rig, 9)
    assert rig.node.leave(SessionKey("bob", "phone"), address_of("room/7")).result is True
    rig.settle()
    late.callback(None)
    rig.settle()
    assert device.answers == ([(0x90, 9, 0x87)] if asks == "its client" else [])
    rig.advance(61)
    assert rig.session("bob").rooms == ()
    say("room/7")
    say("topic/a")
    assert (device.bodies("room/7"), len(device.bodies("topic/a"))) == ([], 1)
    device.answers.clear()
    device.unsubscribe("room/7")
    assert device.answers == [(0xB0, 8, 0x11)]


def test_nobody_asks_for_a_client_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, device, _ = house(9)
    device.subscribe("topic/a", "topic/b")
    device.leave()
    away = Away(rig, monkeypatch)
    device = Device(rig, 9)
    rig.advance(1)
    assert len(away.asked) == 3, "both, and then one of them"
    device.cut()
    rig.advance(100)
    assert len(away.asked) == 3


def test_a_crowd_does_not_ask_in_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig("memory", random=Random(1).random)
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]}, service=True)
    names = [f"d{number}" for number in range(16)]
    for device in [Device(rig, 9, client_id=name, keepalive_s=0) for name in names]:
        device.subscribe("topic/a")
        device.cut()
    rig.advance(61)
    away = Away(rig, monkeypatch)
    for name in names:
        Device(rig, 9, client_id=name, keepalive_s=0)
    rig.advance(60)
    away.asked.clear()
    rig.advance(30)
    assert len(away.asked) in range(16, 33)
    assert len(set(away.asked)) > 12


def test_what_is_asked_by_itself_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.leave()
    away = Away(rig, monkeypatch)
    device = Device(rig, 9)
    away.is_away = False
    link = rig.session("bob").link
    link.pause(Pause.STORE)
    device.unsubscribe("topic/a")
    rig.advance(5)
    assert len(away.asked) == 1, "nothing is taken from this link"
    link.resume(Pause.STORE)
    rig.settle()
    assert len(away.asked) == 2
    assert device.answers == [(0xB0, 8, 0)]
    say("topic/a")
    assert device.bodies("topic/a") == [], "its client wants it no more"


@pytest.mark.parametrize("may", [True, False])
def test_the_place_is_kept_though_the_client_is_told_that_it_cannot_follow_just_now(
    may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.cut()
    say("topic/a", 3)
    with monkeypatch.context() as away:
        away.setattr(rig.broker, "follow", lambda *about: fail(StoreBusy()))
        device = Device(rig, 9)
        session = rig.session("bob")
        identity = session.identity
        if not may:
            session.identity = Identity("bob")
        device.subscribe("topic/a", qos=1 | 0x20)
    assert [last for _, _, last in device.answers] == [0x80 if may else 0x87]
    session.identity = identity
    rig.advance(1)
    device.subscribe("topic/a", qos=1 | 0x20)
    assert len(device.bodies("topic/a")) == (3 if may else 0)


@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_to_be_made_again_is_made_again_though_its_client_asks_as_well(
    is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its place would hold back what nobody fetches."""
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.leave()
    say("topic/a", 3)
    late: Deferred[None] = Deferred()
    with monkeypatch.context() as away:
        away.setattr(rig.broker, "follow", lambda *about: late if is_late else fail(StoreBusy()))
        device = Device(rig, 9)
        rig.advance(2.25 if is_late else 0)
        device.subscribe("topic/a", qos=0)
        late.errback(StoreBusy())
        late.addErrback(lambda _: None)
        rig.settle()
    assert device.answers == [(0x90, 9, 0x80)]
    rig.advance(1)
    assert len(device.bodies("topic/a")) == len(device.open) == 3
    device.unsubscribe("topic/a")
    assert device.answers[1:] == [(0xB0, 8, 0)]


@pytest.mark.parametrize("topic", ["topic/a", "room/7"])
def test_who_is_refused_what_it_is_subscribed_to_stays_subscribed(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.subscribe(topic)
    granted = device.answers.pop()
    with monkeypatch.context() as away:
        away.setattr(rig.node.ingress.policy, "may", lambda *about: False)
        device.raw(mqtt.subscribe((topic, 0x29), v5=True, ident=7))
    assert device.answers == [(0x90, 9, 0x87)]
    say(topic)
    assert len(device.bodies(topic)) == 1
    assert len(device.open) == granted[2], "as it was"
    device.ack(*device.open)
    device.unsubscribe(topic)
    assert device.answers[1:] == [(0xB0, 8, 0)]
    say(topic)
    assert len(device.bodies(topic)) == 1


@pytest.mark.parametrize("may", [True, False])
def test_a_refusal_is_no_harm_though_it_is_taken_for_the_answer_to_an_older_subscribe(
    may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.leave()
    late: Deferred[None] = Deferred()
    follow = rig.broker.follow
    with monkeypatch.context() as slow:
        slow.setattr(rig.broker, "follow", lambda *about: late.addCallback(lambda _: follow(*about)))
        device = Device(rig, 9)
        rig.advance(2.25)
    session = rig.session("bob")
    identity, session.identity = session.identity, Identity("bob")
    device.subscribe("topic/a")
    if may:
        session.identity = identity
    late.callback(None)
    rig.settle()
    assert len(device.answers) == 1
    rig.advance(5)
    say("topic/a")
    assert len(device.bodies("topic/a")) == may
    device.leave()
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]})
    assert position(rig, "topic/a") == (0 if may else 1)


@pytest.mark.parametrize("how", ["the store was busy", "over another wire"])
@pytest.mark.parametrize("missed", [[b""], [b"1", b""]])
def test_who_has_a_place_is_shown_all_that_it_missed(
    missed: list[bytes], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For who has none an empty body takes the retained message away."""
    rig, device, _ = house(9)
    if how == "over another wire":
        device.leave()
        assert position(rig, "topic/a") == 0
        device = Device(rig, 9)
    else:
        device.subscribe("topic/a")
        device.cut()
        with monkeypatch.context() as busy:
            busy.setattr(rig.broker, "follow", lambda *about: fail(StoreBusy()))
            device = Device(rig, 9)
            device.subscribe("topic/a")
        assert device.answers == [(0x90, 9, 0x80)]
    service = rig.login("svc")
    topic = address_of("topic/a")
    service.send(*[Publish(f"m{n}", (topic,), body=body) for n, body in enumerate(missed)])
    device.subscribe("topic/a")
    assert device.bodies("topic/a") == missed
    other = Device(rig, 9, client_id="pad")
    other.subscribe("topic/a")
    assert other.bodies("topic/a") == []


@pytest.mark.parametrize("expiry_s", [0, 3_600, FOREVER])
@pytest.mark.parametrize("how", ["lost", "left", "kicked", "left for good", "left with its will"])
def test_a_session_that_ends_with_its_connection_follows_nothing_from_then_on(
    expiry_s: int, how: str
) -> None:
    """Its client may never come again, and would hold back for a week what the topic has."""
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, expiry_s, clean=True)
    device.subscribe("topic/a", "topic/b")
    if how == "lost":
        device.cut()
    elif how == "left":
        device.raw(mqtt.DISCONNECT)
    elif how.startswith("left"):  # it says only now that nothing is to be kept
        reason = 0x04 if how == "left with its will" else 0
        device.raw(mqtt.packet(0xE0, bytes((reason,)), mqtt.properties((Property.SESSION_EXPIRY, 0))))
        assert rig.session("bob") is None
    else:
        rig.hub.kick("bob", None, "")
        rig.settle()
    say("topic/a", 3)
    other = rig.login("bob")  # without a record, which would undo it now
    other.send(Subscribe(address_of("topic/a")))
    assert other.of(Subscribed)[0].position == (0 if expiry_s and not how.startswith("left ") else 3)


@pytest.mark.parametrize(
    ("before_s", "then_s", "ends_s"), [(2, FOREVER, 60), (50, 10, 10), (FOREVER, 10, 10)]
)
def test_disconnect_says_anew_how_long_the_session_lasts(before_s: int, then_s: int, ends_s: int) -> None:
    rig, device, _ = house(9)
    device.cut()
    device = Device(rig, 9, before_s, clean=True)
    device.raw(mqtt.packet(0xE0, b"\4", mqtt.properties((Property.SESSION_EXPIRY, then_s))))
    rig.advance(ends_s - 1)
    assert rig.session("bob") is not None
    rig.advance(2)
    assert rig.session("bob") is None


@pytest.mark.parametrize("clean", [False, True])
def test_a_will_that_waits_is_said_when_a_clean_start_ends_its_session(clean: bool) -> None:
    rig, device, _ = house(9)
    device.cut()
    delay = [(Property.WILL_DELAY, 30)]
    Device(rig, 9, will=("user/svc", b"gone"), will_flags=1 << 3, will_about=delay).cut()
    rig.advance(5)
    Device(rig, 9, clean=clean)
    rig.advance(40)
    assert len(rig.login("svc").shown()) == clean


@pytest.mark.parametrize("expiry_s", [0, 9])
def test_a_device_that_was_made_up_is_forgotten_when_its_client_wants_nothing_kept(
    expiry_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, _ = house(9)
    device.cut()
    device = Device(rig, 9, client_id="")
    forgotten: list[bool] = []
    closing = rig.broker.close_session

    def close(key: Any, generation: int, forget: bool) -> Any:
        forgotten.append(forget)
        return closing(key, generation, forget)

    monkeypatch.setattr(rig.broker, "close_session", close)
    device.raw(mqtt.packet(0xE0, b"\0", mqtt.properties((Property.SESSION_EXPIRY, expiry_s))))
    assert forgotten == [not expiry_s]


@pytest.mark.parametrize("how", ["displaced", "revoked"])
def test_who_has_no_session_any_more_undoes_nothing(how: str) -> None:
    rig = Rig("memory", set={"session.login_policy": "one"})
    rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]})
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a")
    if how == "displaced":
        rig.login("bob", "pad")
    else:
        rig.broker.revoke("bob", 1 << 40)
        rig.settle()
    assert device.gone is not None
    assert rig.session("bob") is None
    assert rig.broker._sessions.online == (how == "displaced")
    assert rig.counters.links_closed[CloseCode.DISPLACED] + rig.counters.links_closed[CloseCode.REVOKED] == 1


def test_who_takes_over_undoes_it_itself() -> None:
    rig, device, say = house(2)
    device.cut()
    device = Device(rig, 2, 0, clean=True)
    device.subscribe("topic/a")
    say("topic/a")
    again = Device(rig, 2, 0, clean=True)
    assert device.gone is not None
    say("topic/a")
    again.subscribe("topic/a", qos=1 | 0x20)
    assert again.bodies("topic/a") == []
    say("topic/a")
    assert len(again.bodies("topic/a")) == 1


@pytest.mark.parametrize("expiry_s", [0, 3_600])
@pytest.mark.parametrize("when", ["claimed", "attached"])
def test_a_client_that_takes_over_and_is_gone_before_its_welcome_follows_nothing(
    when: str, expiry_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a")
    held: list[Any] = []
    with monkeypatch.context() as slow:
        if when == "claimed":
            slow.setattr(rig.broker, "open_session", lambda *about: held.append(about))
            slow.setattr(rig.broker, "withdraw", lambda claim: None)  # it is granted already
        else:
            slow.setattr(rig.broker, "watch_now", lambda log: None)
            slow.setattr(rig.broker, "watch", lambda log: Deferred())
        Device(rig, 9, expiry_s, clean=True).cut()
    for about in held:
        rig.broker.open_session(*about)
    rig.settle()
    rig.advance(61)
    assert device.gone is not None
    assert rig.session("bob") is None
    say("topic/a", 3)
    other = rig.login("bob")
    other.send(Subscribe(address_of("topic/a")))
    assert other.of(Subscribed)[0].position == 3


def test_a_third_login_undoes_what_the_second_could_not() -> None:
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a")
    watch_now, watch = rig.broker.watch_now, rig.broker.watch
    rig.broker.watch_now, rig.broker.watch = lambda log: None, lambda log: Deferred()
    Device(rig, 9, 3_600).cut()
    rig.broker.watch_now, rig.broker.watch = watch_now, watch
    third = Device(rig, 9, 3_600)
    third.subscribe("topic/a", qos=1 | 0x20)
    third.cut()
    say("topic/a", 2)
    rig.advance(61)
    assert rig.session("bob") is None
    assert len(Device(rig, 9, 3_600).bodies("topic/a")) == 2, "the last one wants what it follows to be kept"


def position(rig: Rig, topic: str) -> int:
    """Where the device, on a wire without a record, is in a topic: at the end, if it did not follow it."""
    other = rig.login("bob")
    other.send(Subscribe(address_of(topic)))
    said: Subscribed = other.of(Subscribed)[-1]
    return said.position


@pytest.mark.parametrize("how", ["in time", "with the node"])
def test_what_who_took_over_has_not_got_to_is_undone_when_its_session_ends(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a", "topic/b")
    with monkeypatch.context() as slow:
        slow.setattr(rig.broker, "unfollow", lambda *about: Deferred())
        Device(rig, 9, 3_600).cut()  # it is welcome, and waits for the first of the two
    if how == "with the node":
        left: list[Any] = []
        monkeypatch.setattr(rig.broker, "unfollow", lambda *about: left.append(about[-1]) or succeed(None))
        rig.node.stop()
        rig.advance(1)
        # Whether the first was done nobody knows.
        assert [log.address for log in left] == [address_of("topic/a"), address_of("topic/b")]
        return
    rig.advance(61)
    assert rig.session("bob") is None
    say("topic/b", 3)
    assert position(rig, "topic/b") == 3


@pytest.mark.parametrize("follows", [False, True])
def test_what_the_store_would_not_undo_just_now_is_undone_when_its_session_ends(
    follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though who took over wanted to follow it itself, if it could not."""
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a")
    with monkeypatch.context() as busy:
        busy.setattr(rig.broker, "unfollow", lambda *about: fail(StoreBusy()))
        busy.setattr(rig.broker, "follow", lambda *about: fail(StoreBusy()))
        device = Device(rig, 9, 3_600)
        if follows:
            device.subscribe("topic/a")
        device.cut()
    rig.advance(61)
    assert rig.session("bob") is None
    say("topic/a", 3)
    assert position(rig, "topic/a") == 3


@pytest.mark.parametrize("expiry_s", [0, 3_600, FOREVER])
def test_a_clean_start_that_was_told_is_done_though_its_client_is_gone_at_once(
    expiry_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a", "topic/b")
    device.leave()
    unfollow = rig.broker.unfollow

    def first_is_slow(key: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        return Deferred() if log.address.id == "a" else unfollow(key, generation, log)

    with monkeypatch.context() as slow:
        slow.setattr(rig.broker, "unfollow", first_is_slow)
        Device(rig, 9, expiry_s, clean=True).cut()  # it is welcome, and waits for the first of the two
    rig.advance(61)
    assert rig.session("bob") is None
    say("topic/b", 3)
    assert position(rig, "topic/b") == 3, "nothing is held back there"
    again = Device(rig, 9)
    say("topic/b")
    assert again.seen == [], "nor is it subscribed again"


def test_a_clean_start_that_was_not_told_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.leave()
    with monkeypatch.context() as slow:
        slow.setattr(rig.broker, "watch_now", lambda log: None)
        slow.setattr(rig.broker, "watch", lambda log: Deferred())
        Device(rig, 9, 3_600, clean=True).cut()
    rig.advance(61)
    say("topic/a", 3)
    assert len(Device(rig, 9).bodies("topic/a")) == 3


def test_nor_is_it_forgotten_by_one_who_wants_nothing_kept_either(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a", "topic/b")
    with monkeypatch.context() as slow:
        slow.setattr(rig.broker, "unfollow", lambda *about: Deferred())
        Device(rig, 9, 0)
        third = Device(rig, 9, 0)
    third.cut()
    assert rig.session("bob") is None
    say("topic/b", 3)
    assert position(rig, "topic/b") == 3


def test_what_who_took_over_follows_itself_is_kept() -> None:
    """Also where it is no client of MQTT, and knows of no record."""
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, 0, clean=True)
    device.subscribe("topic/a", "topic/b")
    other = rig.login("bob")
    assert device.gone is not None
    other.send(Subscribe(address_of("topic/a")))
    other.cut()
    rig.advance(61)
    assert rig.session("bob") is None
    say("topic/a", 3)
    say("topic/b", 3)
    assert (position(rig, "topic/a"), position(rig, "topic/b")) == (0, 3)


@pytest.mark.parametrize("expiry_s", [0, 3_600])
@pytest.mark.parametrize("when", ["claimed", "attached"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_client_that_is_gone_before_another_node_welcomed_it_follows_what_is_kept(
    kept: bool, when: str, expiry_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster("a", "b")
    here, there = cluster.rigs
    for rig in cluster.rigs:
        rig.tokens.identities["bob"] = Identity("bob", claims={"topics": ["a"]}, service=True)
    device = Device(here, 9, 3_600 if kept else 0)
    device.subscribe("topic/a")
    held = cluster.facets[1]
    if when == "claimed":
        held.hold = True
        Device(there, 9, expiry_s).cut()
        held.release()
        held.hold = False
    else:
        with monkeypatch.context() as slow:
            slow.setattr(held, "watch_now", lambda log: None)
            slow.setattr(held, "watch", lambda log: Deferred())
            Device(there, 9, expiry_s).cut()
    assert device.gone is not None
    cluster.advance(61)
    assert there.session("bob") is None
    here.login("bob", "pad").publish("1", "topic:a")
    assert position(there, "topic/a") == (0 if kept else 1)


def test_a_codec_that_fails_at_an_older_record_costs_nobody_a_session(
    monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    rig, device, say = house(9)
    device.subscribe("topic/a")
    device.cut()
    with monkeypatch.context() as broken:
        broken.setattr(MqttCodec, "undoes", lambda codec, record: 1 // 0)
        device = Device(rig, 9)
    assert len(flush_logged_errors(ZeroDivisionError)) == 2, "before its Welcome and after it"
    say("topic/a")
    assert len(device.bodies("topic/a")) == 1


@pytest.mark.parametrize("ends", [None, "lost", "left"])
def test_pubcomp_says_that_it_is_written_down_which_packet_id_is_free(
    ends: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next message of the same content under it would be taken for the last one after a crash."""
    rig, device, _ = house(9)
    device.raw(mqtt.publish("user/bob", b"x", 7, qos=2, about=()))
    assert [first for first, _, _ in device.answers] == [0x50]
    with monkeypatch.context() as slow:
        slow.setattr(rig.steps, "choices", list)
        device.raw(RELEASED)
        assert len(device.answers) == 1
        if ends == "lost":
            device.cut()
        elif ends == "left":
            device.raw(mqtt.DISCONNECT)
    rig.settle()
    assert [first for first, _, _ in device.answers] == [0x50, *([] if ends else [0x70])]
    again = Device(rig, 9)
    again.raw(RELEASED)
    assert again.answers == [(0x70, 7, 7)], "and who asks again is told"


def anew(rig: Rig, device: Device) -> Device:
    """The device on its next connection."""
    device.cut()
    return Device(rig, 9)


@pytest.mark.parametrize("reconnects", [False, True])
def test_who_repeats_its_pubrel_waits_for_the_disk_as_well(
    reconnects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, _ = house(9)
    device.raw(mqtt.publish("user/bob", b"x", 7, qos=2, about=()))
    with monkeypatch.context() as slow:
        slow.setattr(rig.steps, "choices", list)
        device.raw(RELEASED)
        if reconnects:
            device = anew(rig, device)
        device.answers.clear()
        device.raw(RELEASED)
        assert device.answers == []
    rig.settle()
    assert device.answers == [(0x70, 7, 7)] * (1 if reconnects else 2)


@pytest.mark.parametrize("repeats", [False, True])
def test_a_packet_id_that_is_free_is_not_the_last_messages_after_a_kill(
    repeats: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the client was told that it is free by then or not: two messages of one content."""
    place = disk.Rig(tmp_path)
    rig = _at(place)
    device = Device(rig, 9)
    device.raw(mqtt.publish("user/bob", b"x", 7, qos=2, about=()))
    with monkeypatch.context() as slow:
        slow.setattr(place.steps, "choices", list)
        device.raw(RELEASED)
        if repeats:
            device = anew(rig, device)
            device.raw(RELEASED)
        is_free = (0x70, 7, 7) in device.answers
    place.broker._directory.unlock()
    place.disk.crash()
    place.new()
    rig = _at(place)
    device = Device(rig, 9)
    if not is_free:
        device.raw(RELEASED)
    device.raw(mqtt.publish("user/bob", b"x", 7, qos=2, dup=is_free, about=()))
    assert device.answers[-1][0] == 0x50
    assert rig.session("bob").head == 2


def _at(place: disk.Rig) -> Rig:
    """A node at the broker of this place."""
    rig = Rig(broker=place.broker, clock=place.clock, start=False)
    rig.steps, rig.wall_ms = place.steps, place.wall_ms
    rig.start()
    rig.tokens.identities["bob"] = Identity("bob", service=True)
    return rig


@pytest.mark.parametrize("ends", [False, True])
def test_whoever_repeats_pubrel_without_end_is_not_read_while_the_disk_stands_still(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, device, _ = house(9)
    most = rig.node.settings.limits.publish_window
    with monkeypatch.context() as slow:
        slow.setattr(rig.steps, "choices", list)
        rig.advance(1)  # what is on the disk bears an older time
        for _ in range(most):
            device.raw(RELEASED)
        assert device.server.reading
        for _ in range(9):
            device.raw(RELEASED)
        assert not device.server.reading
        if ends:
            device.cut()
    rig.settle()
    assert device.answers == [(0x70, 7, 7)] * (0 if ends else most + 9)
    assert device.server.reading or ends


@pytest.mark.parametrize("seed", range(40))
def test_what_it_is_subscribed_to_is_what_comes_and_what_is_held_back(
    seed: int, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    """However slow and busy the store was, whatever it might follow, and wherever a connection ended."""
    random = Random(seed)
    rig, device, say = house(9)
    device.cut()
    device = Device(rig, 9, keepalive_s=0)
    full = rig.tokens.identities["bob"]
    is_slow = is_busy = False

    def sometimes(call: Any) -> Any:
        return lambda *about: fail(StoreBusy()) if is_busy and random.random() < 0.5 else call(*about)

    steps = rig.steps.choices
    monkeypatch.setattr(rig.steps, "choices", lambda: [] if is_slow else steps())
    for name in ("follow", "unfollow"):
        monkeypatch.setattr(rig.broker, name, sometimes(getattr(rig.broker, name)))
    for number in range(1, random.randint(5, 50)):
        names = random.sample(TOPICS, random.randint(1, 3))
        match random.randrange(12):
            case 0 | 1 | 2:
                filters = [(name, random.choice([0, 1, 0x21])) for name in names]
                device.raw(mqtt.subscribe(*filters, packet_id=number, v5=True))
            case 3 | 4 | 5:
                device.raw(mqtt.unsubscribe(*names, packet_id=number, v5=True))
            case 6:
                is_slow = not is_slow
                rig.settle()
            case 7:
                rig.advance(random.choice([0.25, 1, 3]))
            case 8:
                is_busy = random.random() < 0.4
            case 9:
                device.raw(mqtt.PINGREQ)
            case 10:
                claims = {"topics": random.sample("abc", 2)}
                some = Identity("bob", claims=claims, service=True)
                rig.tokens.identities["bob"] = random.choice([full, full, some])
            case _:
                device.cut()
                rig.advance(random.choice([0, 0, 61]))
                device = Device(rig, 9, clean=random.random() < 0.1, keepalive_s=0)
    is_slow = is_busy = False
    rig.tokens.identities["bob"] = full
    rig.advance(40)
    if random.random() < 0.6:
        device.cut()
        device = Device(rig, 9, keepalive_s=0)
        rig.advance(40)
    device.seen.clear()
    for topic in TOPICS:
        say(topic)
    device.ack(*device.open)
    there = {topic for topic, _ in device.seen}
    assert len(device.seen) == len(there)
    device.leave()
    other = rig.login("bob")
    for topic in TOPICS:
        say(topic)
        other.send(Subscribe(address_of(topic)))
    held = {topic_of(said.address) for said in other.of(Subscribed) if said.position < said.head}
    assert held == there
    flush_logged_errors()


@pytest.mark.parametrize("seed", range(40))
def test_no_more_comes_than_it_takes_whatever_it_follows(seed: int) -> None:
    random = Random(seed)
    rig, device, say = house(random.choice([1, 2, 3, 5, 8]))
    qos: dict[str, int] = {}
    for _ in range(120):
        match random.randrange(6):
            case 0:
                names = random.sample(TOPICS, random.randint(1, 3))
                how = random.randrange(2)
                qos |= dict.fromkeys(names, how)
                device.subscribe(*names, qos=how)
            case 1:
                names = random.sample(TOPICS, random.randint(1, 3))
                for name in names:
                    qos.pop(name, None)
                device.unsubscribe(*names)
            case 2 | 3:
                say(random.choice([*TOPICS, "user/bob"]), random.choice([1, 1, 2, 6]))
            case _:
                count = random.randint(0, len(device.open))
                device.ack(*random.sample(device.open, count))
    device.seen.clear()
    topics = ["user/bob", *qos]
    for topic in topics:
        say(topic)
    while device.open:
        device.ack(*random.sample(device.open, random.randint(1, len(device.open))))
    assert {topic for topic, _ in device.seen} >= set(topics), "what it follows still comes"
    assert rig.session("bob").bytes == 0
