"""MobileIMSDK's clients at a node in memory: what takes time, two logins of one user, and who is away."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import CloseCode, LoginRefused
from imgateway.frames import Address, Deliver, LogKey, Publish, SessionKey
from imgateway.interfaces import IMailBackend
from imgateway.protocols.mobileimsdk.adapter import MobileImsdkAdapter
from imgateway.wire.messages import decode_message
from tests.node.rig import Peer, Rig
from tests.protocols.mobileimsdk import as_bytes, refusal, said

Object = dict[str, Any]
on_all = pytest.mark.parametrize("transport", ["tcp", "ws", "udp"])
KICKED = '{"code":1}'


class Phone(Peer):
    """A client of this wire; `objects` is what it has heard and nobody has taken."""

    def __init__(self, rig: Rig, adapter: Any, transport: str) -> None:
        self.objects: list[Object] = []
        wire = adapter.carriage.bare if transport == "udp" else adapter
        super().__init__(rig, wire, transport == "tcp", 0, "")
        rig.peers.append(self)
        self.stream = transport == "tcp"

    def received(self, data: bytes) -> None:
        while self.stream and data:
            size = int.from_bytes(data[:4], "big")
            self.objects.append(json.loads(data[4 : 4 + size]))
            data = data[4 + size :]
        if data:
            self.objects.append(json.loads(data))

    def say(self, *objects: Object) -> list[Object]:
        for one in objects:
            body = as_bytes(one)
            self.client.send(len(body).to_bytes(4, "big") + body if self.stream else body)
        self.rig.settle()
        return self.heard()

    def heard(self) -> list[Object]:
        heard, self.objects = self.objects, []
        return heard

    def log_in(self, user: str, first: int = 0) -> Phone:
        self.user = user
        content = json.dumps({"loginUserId": user, "loginToken": user, "firstLoginTime": first})
        self.say_only(said(0, content, user))
        assert self.objects[0]["type"] == 50, self.objects
        return self

    def say_only(self, *objects: Object) -> None:
        heard = self.say(*objects)
        self.objects = heard

    @property
    def first(self) -> int:
        """Takes the answer to the login: the firstLoginTime in it."""
        answer = self.objects.pop(0)
        content = json.loads(answer["dataContent"])
        assert (answer["type"], content["code"]) == (50, 0)
        return int(content["firstLoginTime"])


class House(Rig):
    """A node with a real broker, and this wire's adapter."""

    def __init__(self, sense_mode: str = "none", **more: Any) -> None:
        super().__init__("memory", **more)
        self.adapter = MobileImsdkAdapter(sense_mode, False, self.clock.seconds, lambda: self.wall_ms)

    def phone(self, user: str = "", transport: str = "tcp", first: int = 0) -> Phone:
        phone = Phone(self, self.adapter, transport)
        if user:
            phone.log_in(user, first)
            assert phone.first
        return phone

    def stored(self, address: Address) -> list[Any]:
        found: list[Any] = []
        self.broker.read(LogKey(address), 0, 99, 1 << 20).addCallback(found.append)
        self.settle()
        return [decode_message(one.message) for one in found[0].entries]


def hi(text: str, fp: str | None = "f", to: str = "bob", sender: str = "ann") -> Object:
    return said(2, text, sender, to, fp=fp, qos=fp is not None)


def receipt(fp: str = "f", to: str = "bob", sender: str = "ann") -> Object:
    """What the receiver says, and what the sender hears."""
    return said(4, fp, to, sender)


@on_all
@pytest.mark.parametrize("other", ["tcp", "ws", "udp"])
def test_to_each_other(transport: str, other: str) -> None:
    house = House()
    ann, bob = house.phone("ann", transport), house.phone("bob", other)
    assert ann.say(hi("你好")) == [receipt()]
    assert bob.heard() == [hi("你好")]
    assert bob.say(receipt()) == []
    assert ann.heard() == []


@on_all
def test_what_is_sent_twice_arrives_once(transport: str) -> None:
    house = House()
    ann, bob = house.phone("ann", transport), house.phone("bob")
    assert ann.say(hi("a"), hi("a")) == [receipt(), receipt()]
    assert ann.say(hi("a")) == [receipt()]
    assert bob.heard() == [hi("a")]


@on_all
@pytest.mark.parametrize("fp", ["f", None])
def test_who_is_away_finds_it_at_the_next_login(transport: str, fp: str | None) -> None:
    house = House()
    ann = house.phone("ann")
    assert ann.say(hi("a", fp)) == ([receipt()] if fp else [])
    bob = house.phone("bob", transport)
    assert bob.heard() == [hi("a", fp)]
    bob.cut()
    bob = house.phone("bob", transport)
    assert bob.heard() == [hi("a", fp)]  # nobody knows whether it had arrived
    bob.say(receipt() if fp else said(1, "{}", "bob"))
    bob.cut()
    assert house.phone("bob", transport).heard() == []


def test_to_the_server() -> None:
    house = House()
    ann = house.phone("ann")
    assert ann.say(hi("up", to="0"), hi("up", to="0")) == [receipt(to="0")] * 2
    assert ann.say(hi("more", None, to="0")) == []
    assert [one.body for one in house.stored(Address("service", "uplink"))] == [b"up", b"more"]


@implementer(IPlugin, IMailBackend)
class Uplink:
    """Answers each message to the server with another."""

    name = "uplink"

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []

    def start(self, gateway: Any) -> None:
        self.gateway = gateway

    def request(self, caller: Any, request: Any) -> bytes:
        return b""

    def arrived(self, sender: SessionKey, publish: Publish, seq: int) -> None:
        self.heard.append((sender.user, publish.body))
        answer = Publish(f"re-{seq}", (Address("user", sender.user),), "text/plain", b"re: " + publish.body)
        self.gateway.publish(answer, "0")


@on_all
def test_a_backend_answers_what_is_for_the_server(transport: str) -> None:
    uplink = Uplink()
    house = House(backends=[uplink])
    ann = house.phone("ann", transport)
    heard = ann.say(hi("up", to="0"))
    assert heard[0] == receipt(to="0")
    assert (heard[1]["from"], heard[1]["dataContent"]) == ("0", "re: up")
    ann.say(said(4, heard[1]["fp"], "ann", "0"))
    assert ann.say(hi("up", to="0")) == [receipt(to="0")]  # again: a receipt, and no second answer
    assert uplink.heard == [("ann", b"up")]
    assert [one.body for one in house.stored(Address("service", "uplink"))] == [b"up"]


def test_from_the_server() -> None:
    house = House()
    bob = house.phone("bob")
    house.node.publish(Publish("s1", (Address("user", "bob"),), "text/plain", b"news"), "0")
    house.settle()
    (heard,) = bob.heard()
    assert (heard["from"], heard["to"], heard["QoS"], heard["dataContent"]) == ("0", "bob", True, "news")
    bob.say(said(4, heard["fp"], "bob", "0"))
    bob.cut()
    assert house.phone("bob").heard() == []


# ---------------------------------------------------------------------------------------------------- logins


@on_all
def test_a_later_login_puts_the_earlier_out(transport: str) -> None:
    house = House()
    old = house.phone("bob", transport)
    house.phone("bob")
    assert old.heard() == [said(54, KICKED, "0", "bob")]
    assert old.gone is not None


@on_all
def test_the_same_device_replaces_itself_without_a_word(transport: str) -> None:
    house = House()
    old = house.phone().log_in("bob")
    first = old.first
    new = house.phone(transport=transport).log_in("bob", first)
    assert new.first == first
    assert old.heard() == []
    assert old.gone is not None
    assert house.session("bob", "mobileimsdk").link is new.link


@on_all
def test_an_earlier_device_is_put_out_again(transport: str) -> None:
    house = House()
    new = house.phone().log_in("bob", 2_000)
    old = house.phone(transport=transport).log_in("bob", 1_000)
    assert old.first == 1_000
    assert old.heard() == [said(54, KICKED, "0", "bob")]
    assert old.gone is not None
    assert new.gone is None
    later = house.phone(transport=transport).log_in("bob", 3_000)
    assert later.gone is None
    assert new.objects[-1] == said(54, KICKED, "0", "bob")


@on_all
def test_an_earlier_device_may_come_in_while_nobody_is_there(transport: str) -> None:
    """Its session still waits for the later device, and that is all."""
    house = House()
    house.phone().log_in("bob", 2_000).cut()
    early = house.phone(transport=transport).log_in("bob", 1_000)
    assert early.first == 1_000
    assert (early.heard(), early.gone) == ([], None)
    assert house.phone().log_in("bob", 2_000).first == 2_000
    assert early.heard() == [said(54, KICKED, "0", "bob")]


@on_all
def test_a_second_login_on_the_same_connection(transport: str) -> None:
    phone = House().phone(transport=transport).log_in("bob")
    first = phone.first
    assert phone.log_in("bob").first == first
    assert phone.gone is None


@on_all
def test_refused_with_the_applications_number(transport: str) -> None:
    house = House()
    house.tokens.identities["bob"] = LoginRefused("no", detail=1030)
    phone = house.phone(transport=transport)
    phone.say_only(said(0, '{"loginUserId":"bob","loginToken":"bob"}', "bob"))
    assert phone.objects == [refusal(1030)]
    assert phone.gone is not None


@on_all
def test_sent_away_by_business(transport: str) -> None:
    house = House()
    bob = house.phone("bob", transport)
    assert house.hub.kick("bob", None, "bad manners") == 1
    house.settle()
    assert bob.heard() == [said(54, '{"code":2,"reason":"bad manners"}', "0", "bob")]
    assert bob.gone is not None


# ------------------------------------------------------------------------------------------------- in time


@pytest.mark.parametrize(("transport", "limit_s"), [("tcp", 7), ("ws", 7), ("udp", 10)])
def test_silence_ends_it(transport: str, limit_s: float) -> None:
    house = House("3S")
    bob = house.phone("bob", transport)
    house.advance(limit_s - 1)
    assert bob.say(said(1, "{}", "bob")) == [said(51, "{}", "0", "bob")]
    house.advance(limit_s - 1)
    assert bob.gone is None
    house.advance(2)
    assert bob.gone is not None
    assert bob.heard() == []


@on_all
def test_once_more_after_five_seconds_and_no_more(transport: str) -> None:
    house = House("120S")
    ann, bob = house.phone("ann"), house.phone("bob", transport)
    ann.say(hi("a", "f"), hi("b", "g"))
    assert [one["fp"] for one in bob.heard()] == ["f", "g"]
    bob.say(receipt("f"))
    house.advance(4.5)
    assert bob.heard() == []
    house.advance(1.5)
    assert [one["fp"] for one in bob.heard()] == ["g"]
    house.advance(60)
    assert bob.heard() == []
    assert bob.gone is None
    bob.cut()
    assert [one["fp"] for one in house.phone("bob").heard()] == ["g"]


@on_all
def test_who_takes_nothing_is_sent_away_to_come_again(transport: str) -> None:
    house = House("120S")
    ann, bob = house.phone("ann"), house.phone("bob", transport)
    for number in range(40):
        ann.say(hi("x", f"f{number}"))
    assert len(bob.heard()) == 32
    house.advance(14)
    assert bob.gone is None
    house.advance(3)
    assert bob.gone is not None
    assert house.counters.links_closed[CloseCode.ACK_TIMEOUT] == 1
    fps = {one["fp"] for one in bob.heard()}
    assert len(fps) == 32  # once more, and no kickout
    bob = house.phone("bob", transport)
    assert [one["fp"] for one in bob.heard()] == [f"f{number}" for number in range(32)]
    bob.say(*(receipt(f"f{number}") for number in range(32)))
    assert [one["fp"] for one in bob.objects + bob.heard()] == []


def test_receipts_let_the_rest_through() -> None:
    house = House()
    ann, bob = house.phone("ann"), house.phone("bob")
    fps = [f"f{number}" for number in range(100)]
    for fp in fps:
        ann.say(hi("x", fp))
    found: list[str] = []
    while heard := bob.heard():
        found += [one["fp"] for one in heard]
        bob.say_only(*(receipt(one["fp"]) for one in heard))
    assert found == fps


def test_what_wants_no_receipt_flows_to_who_is_silent() -> None:
    house = House("120S")
    ann, bob = house.phone("ann"), house.phone("bob")
    for number in range(200):
        ann.say(hi(str(number), None))
    assert [one["dataContent"] for one in bob.heard()] == [str(number) for number in range(200)]
    house.advance(30)
    assert bob.gone is None


# -------------------------------------------------------------------------------------- what it cannot say


def test_too_long_for_a_datagram_waits_for_another_transport() -> None:
    house = House()
    ann, bob = house.phone("ann"), house.phone("bob", "udp")
    long = "x" * 2_000
    assert ann.say(hi(long, "f"), hi("short", "g")) == [receipt("f"), receipt("g")]
    assert [one["fp"] for one in bob.heard()] == ["g"]
    bob.say(receipt("g"))
    bob.cut()
    bob = house.phone("bob", "tcp")
    assert bob.heard() == [hi(long, "f")]
    bob.say(receipt("f"))
    bob.cut()
    assert house.phone("bob", "tcp").heard() == []


def test_with_the_native_wire() -> None:
    house = House()
    bob, carl = house.phone("bob"), house.login("carl")
    carl.publish("1", "user:bob", body=b"\xff\xfe")
    carl.publish("2", "user:bob", body="é".encode())
    (heard,) = bob.heard()
    assert (heard["dataContent"], heard["from"], heard["QoS"]) == ("é", "carl", True)
    assert bob.say(receipt(heard["fp"], "bob", "carl"), hi("back", "g", "carl", "bob")) == [
        receipt("g", "carl", "bob")
    ]
    (deliver,) = carl.of(Deliver)
    message = decode_message(deliver.entries[0].message)
    assert (message.msg_id, message.sender, message.device) == ("g", "bob", "mobileimsdk")
    assert (message.content_type, message.body, message.headers) == ("text/plain", b"back", ())
    bob.cut()
    assert house.phone("bob").heard() == []


@on_all
def test_no_other_session_is_touched_by_what_is_broken(transport: str) -> None:
    house = House()
    ann, bob = house.phone("ann", transport), house.phone("bob", transport)
    ann.raw(b"\0\0\0\4null" if transport == "tcp" else b"null")
    assert ann.gone is not None
    assert ann.heard() == []
    assert bob.say(said(5, "x")) == [said(53, "x")]


@pytest.mark.parametrize("seed", range(30))
def test_over_reconnections_everything_comes_in_order_and_once_a_connection(seed: int) -> None:
    """Receipts in any order, or none, on connections of any kind that break at any time."""
    dice = Random(seed)
    house = House("120S", set={"quota.pair_burst": 9_999})
    ann = house.phone("ann")
    shown: list[str] = []
    number = 0
    first = 0
    for _ in range(8):
        transport = dice.choice(["tcp", "ws", "udp"])
        bob = house.phone(transport=transport).log_in("bob", dice.choice([0, first]))
        first = bob.first
        told: list[str] = []
        for _ in range(dice.randrange(1, 12)):
            for _ in range(dice.randrange(9)):
                number += 1
                text = f"{number}" + dice.choice(["", "", "x" * 1_500])
                ann.say(hi(text, f"f{number}"))
            heard = [one for one in bob.heard() if one["type"] == 2]
            told += [one["fp"] for one in heard]
            dice.shuffle(heard)
            receipts = [receipt(one["fp"]) for one in heard if dice.random() < 0.7]
            bob.objects = bob.say(*receipts) if receipts else []
        told += [one["fp"] for one in bob.heard()]
        assert len(set(told)) == len(told)
        shown += told
        bob.cut()
    for _ in range(2):
        bob = house.phone("bob", "ws")
        told = []
        while heard := bob.heard():
            told += [one["fp"] for one in heard]
            bob.objects = bob.say(*(receipt(one["fp"]) for one in heard))
        numbers = [int(fp[1:]) for fp in told]
        assert numbers == sorted(set(numbers))
        shown += told
        bob.cut()
    assert told == []  # in the second, all had their receipts
    assert set(shown) == {f"f{one + 1}" for one in range(number)}
