"""MobileIMSDK's clients in bare datagrams at a node in memory: lines that lose, repeat and overtake, and
senders that are not who they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imgateway.errors import LoginRefused
from imgateway.protocols.mobileimsdk.adapter import MobileImsdkAdapter
from imgateway.testing.conditions import LinkConditions
from imgateway.testing.lossy import LossyDatagrams
from imgateway.transports.datagram.bare import BareServer
from tests.node.rig import Rig
from tests.protocols.mobileimsdk import as_bytes, login, refusal, said

Object = dict[str, Any]
Place = tuple[str, int]


class House(Rig):
    """A node behind a bare socket, and what every line to it is like; sense mode 3S."""

    def __init__(self, conditions: LinkConditions | None = None, seed: int = 0) -> None:
        self.up = LossyDatagrams(conditions or LinkConditions(), f"{seed}/up", 0.0)
        self.down = LossyDatagrams(conditions or LinkConditions(), f"{seed}/down", 0.0)
        self.clients: dict[Place, Client] = {}
        super().__init__("memory")
        adapter = MobileImsdkAdapter("3S", False, self.clock.seconds, lambda: self.wall_ms)
        self.server = BareServer(self.clock, adapter.carriage.bare, self.node.exchange.accept)
        self.server.transport = self  # type: ignore[assignment]

    def write(self, data: bytes, place: Place) -> None:
        assert len(data) <= 1_024
        self.down.send(data, self.clock.seconds(), place)

    def settle(self) -> None:
        while True:
            super().settle()
            now = self.clock.seconds()
            up, down = self.up.due(now), self.down.due(now)
            if not up and not down:
                return
            for data, place in up:
                self.server.datagramReceived(data, place)
            for data, place in down:
                if place in self.clients:
                    self.clients[place].took(json.loads(data))

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.25)):
            super().advance(0.25)
            for client in list(self.clients.values()):
                client.tick(self.clock.seconds())
            self.settle()

    def put(self, place: Place, *objects: Object) -> None:
        for one in objects:
            self.up.send(as_bytes(one), self.clock.seconds(), place)
        self.settle()


class Client:
    """As the original's: it logs in until it is answered, pings, repeats what has no receipt, and drops what
    came twice."""

    def __init__(self, house: House, user: str, place: Place) -> None:
        self.house, self.user, self.place = house, user, place
        self.first = 0
        self.is_in = False
        self.objects: list[Object] = []
        self.shown: list[str] = []
        self.unconfirmed: dict[str, tuple[float, Object]] = {}
        self._known: set[str] = set()
        self._tried = self._pinged = -99.0
        house.clients[place] = self

    def say(self, *objects: Object) -> list[Object]:
        """What this draws at once."""
        self.objects.clear()
        self.house.put(self.place, *objects)
        return list(self.objects)

    def tell(self, to: str, text: str, fp: str) -> None:
        one = said(2, text, self.user, to, fp=fp, qos=True)
        self.unconfirmed[fp] = (self.house.clock.seconds(), one)
        self.house.put(self.place, one)

    def took(self, one: Object) -> None:
        self.objects.append(one)
        kind = one["type"]
        if kind == 50:
            self.is_in, self.first = True, json.loads(one["dataContent"])["firstLoginTime"]
        elif kind == 52:
            self.is_in = False
        elif kind == 4:
            self.unconfirmed.pop(one["dataContent"], None)
        elif kind == 2:
            self.house.up.send(
                as_bytes(said(4, one["fp"], self.user, one["from"])), self.house.clock.seconds(), self.place
            )
            if one["fp"] not in self._known:
                self._known.add(one["fp"])
                self.shown.append(one["dataContent"])

    def tick(self, now: float) -> None:
        if not self.is_in:
            if now >= self._tried + 3:
                self._tried = now
                self.house.put(self.place, login(self.user, self.user, self.first))
            return
        if now >= self._pinged + 3:
            self._pinged = now
            self.house.put(self.place, said(1, "{}", self.user))
        for fp, (sent_at, one) in list(self.unconfirmed.items()):
            if now >= sent_at + 5:
                self.unconfirmed[fp] = (now, one)
                self.house.put(self.place, one)

    def forget(self) -> None:
        """It shows again what comes again."""
        self._known.clear()
        self.shown.clear()

    def restart(self) -> None:
        """The app starts anew, on another port; what it has shown it remembers."""
        del self.house.clients[self.place]
        self.place = (self.place[0], self.place[1] + 1)
        self.house.clients[self.place] = self
        self.is_in = False


LINES = [
    LinkConditions(loss=0.2, delay_s=0.05, jitter_s=0.05),
    LinkConditions(duplicate=0.3, reorder=0.3, delay_s=0.1, jitter_s=0.1),
    LinkConditions(loss=0.1, duplicate=0.1, reorder=0.2, delay_s=0.2, jitter_s=0.2),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("conditions", LINES, ids=range(len(LINES)))
def test_over_bad_lines_everything_arrives_once(conditions: LinkConditions, seed: int) -> None:
    house = House(conditions, seed)
    ann, bob = Client(house, "ann", ("192.0.2.1", 1)), Client(house, "bob", ("192.0.2.2", 100))
    house.advance(10)
    expected = [str(number) for number in range(60)]
    for text in expected:
        ann.tell("bob", text, f"fp-{text}")
        house.advance(0.5)
    for _ in range(20):
        house.advance(20)
        if not ann.unconfirmed and len(bob.shown) == len(expected):
            break
        bob.restart()  # what was lost twice comes with the next login
    assert ann.unconfirmed == {}
    assert sorted(bob.shown, key=int) == expected
    house.up.conditions = house.down.conditions = LinkConditions()
    bob.restart()
    house.advance(20)
    bob.restart()
    bob.forget()
    house.advance(20)
    assert bob.is_in
    assert bob.shown == []  # what has its receipt does not come again


@pytest.mark.parametrize("first", [1_000, 2_000])
def test_an_earlier_device_hears_that_it_was_put_out(first: int) -> None:
    """It has shown its token, so it is told all: without the kickout it would come again and again."""
    house = House()
    newer, older = Client(house, "bob", ("192.0.2.1", 1)), Client(house, "bob", ("192.0.2.2", 2))
    assert [one["type"] for one in newer.say(login("bob", "bob", 2_000))] == [50]
    heard = [one["type"] for one in older.say(login("bob", "bob", first))]
    assert heard == ([50, 54] if first < 2_000 else [50])


def test_who_was_told_to_log_in_may_at_once() -> None:
    house = House()
    bob = Client(house, "bob", ("192.0.2.1", 1))
    assert [one["type"] for one in bob.say(said(1, "{}", "bob"))] == [52]
    assert [one["type"] for one in bob.say(login("bob", "bob"))] == [50]


def test_whose_token_is_no_good_stays_a_stranger() -> None:
    house = House()
    house.tokens.identities["bad"] = LoginRefused("no", detail=1030)
    eve = Client(house, "eve", ("192.0.2.1", 1))
    assert eve.say(login("eve", "bad")) == [refusal(1030)]
    assert eve.say(login("eve", "bad")) == []
    house.advance(1)
    eve.objects.clear()
    assert house.server._peers == {}


def test_a_forged_goodbye_costs_a_login_and_no_message() -> None:
    """Nothing on this wire shows that a datagram is forged; what it can do ends with the next login."""
    house = House()
    ann, bob = Client(house, "ann", ("192.0.2.1", 1)), Client(house, "bob", ("192.0.2.2", 2))
    house.advance(1)
    for forged in (as_bytes(said(3, None, "bob")), b"null", b"\xff"):
        house.server.datagramReceived(forged, bob.place)
        house.settle()
        ann.tell("bob", str(forged), f"f{forged!r}")
        house.advance(10)
    assert bob.shown == [str(one) for one in (as_bytes(said(3, None, "bob")), b"null", b"\xff")]
    assert ann.unconfirmed == {}
