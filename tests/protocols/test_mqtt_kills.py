"""What MQTT's clients were told is so after a kill: the answer waits until the disk has what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imgateway.frames import Deliver, Publish, Subscribe
from imgateway.interfaces import Identity
from imgateway.protocols.mqtt.properties import Property
from imgateway.protocols.mqtt.record import FOREVER
from imgateway.protocols.mqtt.topics import address_of
from imgateway.testing import disk
from imgateway.wire.messages import decode_message
from tests.node.rig import Peer, Rig
from tests.protocols import mqtt
from tests.protocols.test_mqtt_node import Device, _at

ROOM = "room/7"


class Client(Device):
    """:ivar present: whether CONNACK said that there is a session; None: there was no CONNACK.

    :ivar taken: packet ids of its PUBACKs.
    """

    def __init__(self, rig: Rig, expiry_s: int = FOREVER, **how: Any) -> None:
        self.present: bool | None = None
        self.taken: list[int] = []
        super().__init__(rig, 9, expiry_s, **how)

    def received(self, data: bytes) -> None:
        assert data
        if data[:1] == b"\x20" and not data[3]:
            self.present = data[2] == 1
        elif data[:1] == b"\x40":
            self.taken.append(int.from_bytes(data[2:4]))
        super().received(data)

    def says(self, topic: str, body: bytes, packet_id: int, dup: bool = False) -> None:
        self.raw(mqtt.publish(topic, body, packet_id, dup=dup, about=()))


class House:
    """A node on a disk."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = disk.Rig(path)
        self._monkeypatch = monkeypatch
        self._open()

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Nothing is written meanwhile."""
        steps = self.place.steps

        def choices() -> list[Callable[[], None]]:
            found = [lane.step for name, lane in steps.lanes.items() if lane.jobs and name != "writer"]
            return [*found, steps.report] if steps.results else list(found)

        with self._monkeypatch.context() as patch:
            patch.setattr(steps, "choices", choices)
            yield

    def kill(self) -> None:
        self.place.broker._directory.unlock()
        self.place.disk.crash()
        self.place.new()
        self._open()

    def _open(self) -> None:
        self.rig = _at(self.place)
        self.rig.tokens.identities["svc"] = Identity("svc", service=True)

    def member(self) -> Peer:
        """Somebody in the room."""
        peer = self.rig.login("svc", device="native")
        peer.send(Subscribe(address_of(ROOM)))
        peer.take()
        return peer

    def say(self, topic: str, body: bytes) -> None:
        peer = self.rig.login("svc", device="says")
        peer.send(Publish(f"m{body!r}", (address_of(topic),), body=body))
        self.rig.pass_ms(900)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def shown(rig: Rig, member: Peer) -> list[tuple[str, bytes]]:
    rig.settle()
    rig.pass_ms(3_000)
    found = [
        one for frame in member.of(Deliver) for one in frame.entries if frame.address == address_of(ROOM)
    ]
    messages = [decode_message(one.message) for one in found]
    return [(message.msg_id, message.body) for message in messages]


# ------------------------------------------------------------------------------------------------ clean start


@pytest.mark.parametrize("subscribed", [False, True])
@pytest.mark.parametrize("killed", ["before it is told", "before it publishes", "then", "after that"])
def test_that_its_session_is_over_a_client_is_told_when_that_is_on_the_disk(
    subscribed: bool, killed: str, house: House
) -> None:
    """Its program counts packet ids from 1 again: a repeat would be taken for yesterday's message."""
    client = Client(house.rig)
    if subscribed:
        client.subscribe("topic/a")
    client.says("user/bob", b"on", 1)
    assert client.taken == [1]
    client.cut()
    with house.slow():
        client = Client(house.rig, clean=True)
        assert client.present is None
    if killed != "before it is told":
        house.rig.settle()
        assert client.present is False
        with house.slow():
            client.says("user/bob", b"on", 1)
        if killed == "after that":
            house.rig.settle()
        assert client.taken == [1] * (killed == "after that")
    house.kill()
    client = Client(house.rig)
    client.says("user/bob", b"on", 1, dup=killed in ("then", "after that"))
    assert client.taken == [1]
    assert house.rig.session("bob").head == 2


def test_who_is_gone_before_its_clean_start_is_on_the_disk_leaves_nothing(house: House) -> None:
    client = Client(house.rig)
    client.subscribe("topic/a", ROOM)
    client.cut()
    with house.slow():
        gone = Client(house.rig, clean=True)
        gone.cut()
        late = Client(house.rig, clean=True)
        house.rig.advance(house.rig.node.settings.limits.login_timeout_s + 1)
        assert late.gone is not None, "a login that waits for the disk has a deadline, as any other"
    house.rig.settle()
    assert (gone.present, late.present) == (None, None)
    house.rig.advance(61)
    assert house.rig.session("bob") is None
    client = Client(house.rig)
    assert client.present is False
    house.say("topic/a", b"1")
    assert client.seen == []


def test_who_takes_over_a_clean_start_that_waits_is_welcome(house: House) -> None:
    Client(house.rig).cut()
    with house.slow():
        old = Client(house.rig, clean=True)
        new = Client(house.rig)
        assert (old.present, new.present) == (None, None)
    house.rig.settle()
    assert old.present is None
    assert old.gone is not None
    assert new.present is False, "its session is over here, and on the disk by now"


# ---------------------------------------------------------------------------------------------------- rooms


@pytest.mark.parametrize("settled", [False, True])
def test_ids_of_what_was_said_in_rooms_are_not_given_again_after_a_kill(settled: bool, house: House) -> None:
    """What was said there is gone with the node, but its members know it, and drop what looks like it."""
    client = Client(house.rig)
    client.subscribe(ROOM)
    client.says("user/bob", b"y", 1)
    member = house.member()
    with house.slow():
        for _ in range(3):
            client.says(ROOM, b"beat", 1)
        before = shown(house.rig, member)
        assert (client.taken, before) == ([1], [])
    if settled:
        before = shown(house.rig, member)
        assert client.taken == [1] * (1 + len(before)) == [1] * 4
    house.kill()
    client = Client(house.rig)
    client.subscribe(ROOM)
    member = house.member()
    for _ in range(4):
        client.says(ROOM, b"beat", 1)
    after = shown(house.rig, member)
    assert client.taken == [1] * 4
    assert len({*before, *after}) == len(before) + 4


def test_room_publishes_wait_in_their_order_and_those_to_mailboxes_for_nobody(house: House) -> None:
    client = Client(house.rig)
    client.subscribe(ROOM)
    member = house.member()
    with house.slow():
        client.says("user/svc", b"0", 1)
        for n in range(2, 5):
            client.says(ROOM, b"%d" % n, n)
        assert (client.taken, shown(house.rig, member)) == ([], [])
        client.says("user/svc", b"5", 5)  # behind them, for its client's sake
        client.raw(mqtt.PINGREQ)
    house.rig.settle()
    assert sorted(client.taken) == [1, 2, 3, 4, 5]
    assert [one for one in client.taken if one != 1] == [2, 3, 4, 5]
    assert [body for _, body in shown(house.rig, member)] == [b"2", b"3", b"4"]
    assert house.rig.session("bob").chain is None
    ingress = house.rig.node.ingress
    assert (ingress._chained, ingress._unwritten, house.rig.node.exchange._unwritten) == (0, {}, {})
    client.says(ROOM, b"6", 6)
    assert client.taken[-1] == 6, "its record is there"


@pytest.mark.parametrize("comes_back", [False, True])
def test_what_was_said_in_a_room_before_its_link_was_lost_is_said_once(
    comes_back: bool, house: House
) -> None:
    client = Client(house.rig)
    client.subscribe(ROOM)
    member = house.member()
    with house.slow():
        client.says(ROOM, b"x", 1)
        client.cut()
        if comes_back:
            client = Client(house.rig)
            client.says(ROOM, b"x", 1, dup=True)
            assert client.taken == [], "its id is not on the disk yet"
    house.rig.settle()
    assert client.taken == [1] * comes_back
    assert [body for _, body in shown(house.rig, member)] == [b"x"]
    assert house.rig.node.ingress._unwritten == {}


# -------------------------------------------------------------------------------------------- subscriptions


def asks_qos(client: Client) -> None:
    client.subscribe("topic/a", qos=1)


def asks_room(client: Client) -> None:
    client.subscribe(ROOM)


def leaves_room(client: Client) -> None:
    client.unsubscribe("room/8")


def asks_own(client: Client) -> None:
    client.subscribe("user/bob")


def leaves_own(client: Client) -> None:
    client.unsubscribe("user/bob", "all")


ASKS = [asks_qos, asks_room, leaves_room, asks_own, leaves_own]


def began(house: House) -> Client:
    client = Client(house.rig)
    client.subscribe("topic/a", qos=0)
    client.subscribe("room/8", "all")
    client.answers.clear()
    return client


@pytest.mark.parametrize("ask", ASKS)
def test_what_is_subscribed_to_a_client_is_told_when_it_is_on_the_disk(
    ask: Callable[[Client], None], house: House
) -> None:
    client = began(house)
    with house.slow():
        ask(client)
        assert client.answers == []
    house.rig.settle()
    assert len(client.answers) == 1
    house.kill()
    client = Client(house.rig)
    assert client.present
    for n, topic in enumerate([ROOM, "room/8", "topic/a"]):
        house.say(topic, b"%d" % n)
    assert len(client.bodies(ROOM)) == (ask is asks_room)
    assert len(client.bodies("room/8")) == (ask is not leaves_room)
    assert (len(client.bodies("topic/a")), len(client.open)) == (1, int(ask is asks_qos))


@pytest.mark.parametrize("ends", ["", "lost"])
def test_answers_to_subscriptions_come_in_their_order(ends: str, house: House) -> None:
    client = began(house)
    with house.slow():
        for n in range(1, 5):
            client.raw(mqtt.subscribe((f"room/{n}", 1), packet_id=n, v5=True))
            client.raw(mqtt.unsubscribe(f"room/{n}", packet_id=n, v5=True))
            client.raw(mqtt.unsubscribe(f"room/{n}", packet_id=n, v5=True))
        assert client.answers == []
        if ends:
            client.cut()
    house.rig.settle()
    found = [one for n in range(1, 5) for one in ((0x90, n, 0), (0xB0, n, 0), (0xB0, n, 0x11))]
    assert client.answers == ([] if ends else found)
    assert (house.rig.node.ingress._unwritten, house.rig.node.exchange._unwritten) == ({}, {})


def test_who_subscribes_without_end_is_not_read_while_the_disk_stands_still(house: House) -> None:
    client = began(house)
    most = house.rig.node.settings.limits.publish_window
    with house.slow():
        for n in range(1, most + 10):
            assert client.server.reading is (n <= most + 1)
            client.raw(mqtt.subscribe((ROOM, 1), packet_id=n, v5=True))
    house.rig.settle()
    assert [one[1] for one in client.answers] == list(range(1, most + 10))
    assert client.server.reading


def test_where_records_stand_at_another_server_the_answers_wait_for_that_as_well() -> None:
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", service=True)
    client = Client(rig)
    rig.broker.hold.add("record")
    client.subscribe("topic/a", ROOM)
    assert rig.session("bob").rooms
    assert client.answers == []
    client.unsubscribe(ROOM)
    client.says(ROOM, b"x", 1)
    for answers in ([(0x90, 9, 0)], [(0x90, 9, 0), (0xB0, 8, 0)]):
        rig.broker.release("record")
        rig.settle()
        assert client.answers == answers
    rig.broker.release("record")
    client.cut()
    client = Client(rig, clean=True)
    assert client.present is None
    rig.broker.hold.clear()
    rig.broker.release("record")
    rig.settle()
    assert client.present is False


def test_a_session_that_ends_with_its_link_is_told_at_once(house: House) -> None:
    """After a kill it is over."""
    client = Client(house.rig, 0, clean=True)
    with house.slow():
        client.subscribe(ROOM, "user/bob")
        client.subscribe("user/bob")
        client.unsubscribe(ROOM)
        assert [one[0] for one in client.answers] == [0x90, 0x90, 0xB0]
        client.says("user/svc", b"x", 1)


@pytest.mark.parametrize("began", ["anew", "after one like it", "after one that was kept"])
def test_nothing_of_a_session_that_ends_with_its_link_waits_for_the_disk(began: str, house: House) -> None:
    """Nobody comes back to it, so nobody relies on what is written of it."""
    if began != "anew":
        client = Client(house.rig, FOREVER if began == "after one that was kept" else 0, clean=True)
        client.subscribe("topic/a", "room/8")
        client.cut()
        house.rig.settle()
    client = Client(house.rig, 0, clean=True)
    client.subscribe(ROOM)
    house.rig.settle()
    most = house.rig.node.settings.limits.publish_window
    with house.slow():
        for _ in range(2):
            for n in range(1, most + 10):
                client.raw(mqtt.subscribe((ROOM, 1), packet_id=n, v5=True))
            assert client.server.reading
            client.says(ROOM, b"x", 1)
            assert client.taken == [1]
            client.cut()
            client = Client(house.rig, 0, clean=True)
            assert client.present is False
            client.subscribe(ROOM)
            assert client.answers == [(0x90, 9, 0)]
        assert house.rig.node.ingress._unwritten == {}
    house.kill()
    client = Client(house.rig)
    assert client.present is False
    house.say("room/8", b"1")
    assert client.seen == []


def test_who_changes_a_session_that_ends_with_its_link_without_end_is_not_read_in_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.node.exchange.MOST_UNRELIED", 100)
    client = Client(house.rig, 0, clean=True)
    with house.slow():
        for n in range(1, 110):
            assert client.server.reading is (n <= 101)
            client.raw(mqtt.subscribe((ROOM, 1), packet_id=n, v5=True))
    house.rig.settle()
    assert [one[1] for one in client.answers] == list(range(1, 110))
    assert client.server.reading


@pytest.mark.parametrize("ends", ["with its link", "by DISCONNECT"])
def test_where_one_is_kept_on_the_disk_who_ends_it_with_its_link_is_waited_for(
    ends: str, house: House
) -> None:
    """Its packet ids are used again by one that was told that there is no session."""
    client = Client(house.rig)
    client.subscribe(ROOM)
    client.says(ROOM, b"x", 1)
    assert client.taken == [1]
    with house.slow():
        if ends == "with its link":
            client.cut()
            client = Client(house.rig, 0)
            assert client.present
            client.cut()
        else:
            about = mqtt.properties((Property.SESSION_EXPIRY, 0))
            client.raw(mqtt.packet(0xE0, b"\0" + about))
        client = Client(house.rig)
        assert client.present is None
    house.rig.settle()
    assert client.present is False


def test_who_leaves_a_room_and_a_topic_and_is_gone_before_the_disk_has_it_is_out_of_the_room(
    house: House,
) -> None:
    client = Client(house.rig)
    client.subscribe("topic/a", ROOM)
    with house.slow():
        client.unsubscribe("topic/a", ROOM)
        client.cut()
    house.rig.settle()
    assert house.rig.session("bob").rooms == ()


def test_nor_does_it_where_records_stand_at_another_server() -> None:
    rig = Rig()
    rig.tokens.identities["bob"] = Identity("bob", service=True)
    client = Client(rig, 0, clean=True)
    rig.broker.hold.add("record")
    client.subscribe(ROOM)
    client.says("user/svc", b"x", 1)
    assert (client.answers, client.taken) == ([(0x90, 9, 0)], [1])
    rig.broker.release("record")
    assert (rig.node.ingress._unwritten, rig.node.exchange._unwritten) == ({}, {})
