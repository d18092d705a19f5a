"""The client and a whole node, on every wire: all of it is real but the sockets and the time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from imgateway.client import Client, Received, inbox
from imgateway.core.retry import fixed
from imgateway.errors import ConnectRefused, RequestFailed, StoreError
from imgateway.frames import OutcomeCode, ResponseCode
from imgateway.testing.conditions import LinkConditions
from tests.client.test_client_files import disk_under
from tests.conformance.house import House, settings
from tests.conformance.wires import WIRES, Wire


class Town:
    """A house, and clients of this package in it."""

    def __init__(self, wire: Wire, chunk: int = 0, **changes: Any) -> None:
        self.wire = wire
        self.house = House(settings(**changes), chunk=chunk)
        self.clients: list[Client] = []

    def client(self, user: str, device: str = "phone", **options: Any) -> Client:
        client = Client(
            self.wire.url,
            token=user,
            device=device,
            protocol=self.wire.adapter,
            transport=self.wire.transport,
            reactor=self.house.network,
            backoff=fixed(1.0),
            **options,
        )
        self.clients.append(client)
        self.house.result(client.start())
        return client

    def close(self, client: Client) -> None:
        closing = client.close()
        self.house.advance(5)
        self.house.result(closing)
        self.clients.remove(client)

    def cut(self) -> None:
        """Every connection breaks, or nothing arrives for longer than a gateway waits."""
        for link in self.house.network.links:
            link.cut()
        if self.wire.udp:
            clean = self.house.network.datagrams.conditions
            self.house.network.datagrams.conditions = LinkConditions(loss=1.0)
            self.house.advance(80)
            self.house.network.datagrams.conditions = clean
            self.house.advance(12)

    def end(self) -> None:
        for client in tuple(self.clients):
            self.close(client)
        self.house.close()


@pytest.fixture(params=[0, 1], ids=["whole", "byte by byte"])
def chunk(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=WIRES, ids=[wire.name for wire in WIRES])
def town(request: pytest.FixtureRequest, chunk: int) -> Iterator[Town]:
    town = Town(request.param, chunk)
    yield town
    town.end()


def test_a_conversation(town: Town) -> None:
    got: list[Received] = []
    town.client("bob", on_message=got.append)
    alice = town.client("alice")
    sent = [alice.publish("user:bob", f"hällo {n}") for n in range(20)]
    outcomes = [town.house.result(one) for one in sent]
    town.house.advance(1)
    assert [one[0].code for one in outcomes] == [OutcomeCode.OK] * 20
    assert [(one.message.body.decode(), one.message.sender, one.seq) for one in got] == [
        (f"hällo {n}", "alice", n + 1) for n in range(20)
    ]


def test_what_came_while_away_and_what_broke_off_arrives_once(town: Town) -> None:
    got: list[str] = []
    bob = town.client("bob", on_message=lambda one: got.append(one.message.body.decode()))
    alice = town.client("alice")
    for n in range(30):
        sent = alice.publish("user:bob", str(n))
        if n % 10 == 5:
            town.cut()
            town.house.advance(3)
        if n % 3 == 0:
            town.house.result(sent)
    town.house.advance(3)
    assert got == [str(n) for n in range(30)]
    assert bob.connected


def test_a_second_run_is_shown_only_what_is_new(town: Town, tmp_path: Any) -> None:
    got: list[str] = []
    path = str(tmp_path / "state")

    def run() -> Client:
        return town.client(
            "bob", state=path, outbox=path, on_message=lambda m: got.append(m.message.body.decode())
        )

    alice = town.client("alice")
    first = run()
    town.house.result(alice.publish("user:bob", "1"))
    town.house.advance(1)
    closing = first.close()
    town.house.advance(3)
    town.house.result(closing)
    town.house.result(alice.publish("user:bob", "2"))
    run()
    town.house.advance(1)
    assert got == ["1", "2"]


def test_history_and_requests(town: Town) -> None:
    bob = town.client("bob", on_message=lambda one: None)
    alice = town.client("alice")
    for n in range(5):
        town.house.result(alice.publish("user:bob", str(n)))
    page = town.house.result(bob.history("user:bob", after=1, limit=3))
    assert [one.seq for one in page.messages] == [2, 3, 4]
    assert (page.upto, page.head) == (4, 5)
    with pytest.raises(RequestFailed) as failed:
        town.house.result(bob.request("nobody", "here"))
    assert failed.value.code == ResponseCode.NO_SUCH_SERVICE


@pytest.mark.parametrize("size", [1, 1_500])
@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
def test_history_runs_ahead_of_the_deliveries(wire: Wire, size: int) -> None:
    """Of a long backlog, while the disk is slow: nothing is acknowledged that was not delivered yet."""
    town = Town(wire)
    house = town.house
    alice = town.client("alice")
    closing = town.client("bob", on_message=lambda one: None).close()
    house.advance(5)
    house.result(closing)
    for n in range(300):
        alice.publish("user:bob", str(n).ljust(size))
    house.advance(3)
    read, free = house.broker.read, [0.0]

    def slowly(*what: Any) -> Deferred[Any]:
        """One after the other, 50 ms each."""
        now = house.network.seconds()
        free[0] = max(free[0], now) + 0.05
        return read(*what).addCallback(
            lambda batch: deferLater(house.network, free[0] - now, lambda: batch),
        )

    house.broker.read = slowly  # type: ignore[method-assign]
    got: list[str] = []
    ended: list[Any] = []
    bob = town.client("bob", on_message=lambda one: got.append(one.message.body.decode().strip()))
    bob.on_down = lambda *how: ended.append(how)

    async def all_of() -> int:
        after = count = 0
        while True:
            page = await bob.history("user:bob", after=after, limit=100)
            count += len(page.messages)
            if page.upto >= page.head:
                return count
            after = page.upto

    reading = ensureDeferred(all_of())
    house.advance(60, step=0.01)
    assert (house.result(reading), ended) == (300, [])
    assert got == [str(n) for n in range(300)]
    closing = bob.close()
    house.advance(5)
    house.result(closing)
    town.client("bob", on_message=lambda one: got.append("again"))
    house.advance(5)
    assert len(got) == 300  # all of it was acknowledged
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
def test_a_question_that_is_answered_late_keeps_no_acknowledgement_back(wire: Wire) -> None:
    """What is delivered at the very place that was asked about is no answer."""
    town = Town(wire)
    house = town.house
    got: list[str] = []
    ended: list[Any] = []
    alice = town.client("alice")
    bob = town.client("bob", on_message=lambda one: got.append(one.message.body.decode()))
    bob.on_down = lambda *how: ended.append(how)
    read, away = house.broker.read, Deferred[None]()

    def later(*what: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        away.addCallback(lambda _: read(*what).chainDeferred(answer))
        return answer

    house.broker.read = later  # type: ignore[method-assign]
    asked = [bob.history("user:bob", limit=limit) for limit in (1, 9)]
    house.advance(3)
    house.result(alice.publish("user:bob", "0"))
    house.advance(100)
    assert (got, ended) == (["0"], [])
    house.result(alice.publish("user:bob", "1"))
    away.callback(None)
    assert [house.result(one).upto for one in asked] == [1, 2]
    house.advance(1)
    assert (got, ended) == (["0", "1"], [])
    closing = bob.close()
    house.advance(5)
    house.result(closing)
    town.client("bob", on_message=lambda one: got.append("again"))
    house.advance(5)
    assert len(got) == 2
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
def test_who_answers_in_a_room_that_is_busier_than_its_quota_goes_on(wire: Wire) -> None:
    """The outcome that it waits for comes, and so does its mail; the room is read as far as there is room."""
    town = Town(wire, quota={"pair_rate": 10.0, "pair_burst": 10})
    house = town.house
    got: list[str] = []
    gaps: list[Any] = []

    async def on_message(one: Received) -> None:
        await bob.publish("user:alice", "I saw it")
        got.append(one.message.body.decode())

    with patch.object(inbox, "MOST_ITEMS", 20):
        bob = town.client("bob", on_message=on_message, on_gap=gaps.append)
        house.result(bob.subscribe("room:7"))
        talker = town.client("!chatter")
        for n in range(150):
            house.result(talker.publish("room:7", str(n)))
        house.result(talker.publish("user:bob", "mail"))
        house.advance(1)
        assert len(got) < 100
        house.advance(20)
    assert sorted(got) == sorted([*map(str, range(150)), "mail"])
    assert [one for one in got if one != "mail"] == [str(n) for n in range(150)]
    assert gaps == []
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
def test_a_client_that_keeps_the_pace_is_not_made_to_wait(wire: Wire) -> None:
    """A burst above every quota: the client spreads it, and the node never has to stop reading."""
    quota = {"publish_rate": 50.0, "publish_burst": 100, "pair_rate": 20.0, "pair_burst": 40}
    town = Town(wire, quota={**quota, "publish_bytes_rate": 30_000.0, "publish_bytes_burst": 60_000})
    alice = town.client("alice")
    sent = [alice.publish(f"user:u{n % 2}", bytes(1_000)) for n in range(300)]
    waited = 0
    while not all(one.called for one in sent):
        town.house.advance(0.5)
        waited += 1
        assert waited < 60
    assert waited > 10
    assert {town.house.result(one)[0].code for one in sent} == {OutcomeCode.OK}
    assert town.house.node.counters.quota_waits == 0
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
@pytest.mark.parametrize(
    ("token", "device", "error"),
    [
        ("bob", "tablet", StoreError),
        ("bob/tablet", "", ConnectRefused),  # only the gateway knows which device the token names
    ],
)
def test_the_file_of_another_device_loses_that_device_nothing(
    wire: Wire, token: str, device: str, error: type[Exception], tmp_path: Any
) -> None:
    town = Town(wire)
    path = str(tmp_path / "phone")
    got: list[str] = []

    def tablet() -> Client:
        return town.client("bob", "tablet", on_message=lambda one: got.append(one.message.body.decode()))

    town.close(tablet())
    phone = town.client("bob", "phone", state=path, on_message=lambda one: None)
    alice = town.client("alice")
    for n in range(5):
        town.house.result(alice.publish("user:bob", str(n)))
    town.house.advance(1)
    town.close(phone)
    with pytest.raises(error, match=r"another device|belongs to device:bob/phone"):
        town.client(token, device, state=path)
    tablet()
    town.house.advance(1)
    assert got == [str(n) for n in range(5)]
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
def test_the_file_says_which_device_comes_where_the_program_does_not(wire: Wire, tmp_path: Any) -> None:
    town = Town(wire)
    path = str(tmp_path / "state")
    got: list[str] = []

    def run() -> Client:
        return town.client(
            "bob", "", state=path, on_message=lambda one: got.append(one.message.body.decode())
        )

    first = run()
    assert first.welcome is not None
    name = first.welcome.session
    alice = town.client("alice")
    town.house.result(alice.publish("user:bob", "1"))
    town.house.advance(1)
    town.close(first)
    town.house.result(alice.publish("user:bob", "2"))
    second = run()
    town.house.advance(1)
    assert second.welcome is not None
    assert second.welcome.session == name
    assert got == ["1", "2"]
    town.end()


@pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])
@pytest.mark.parametrize("where", ["user:bob", "topic:news"])
@pytest.mark.parametrize("begun", [True, False])
def test_what_a_link_names_and_no_file_has_is_no_gap_to_the_next_run(
    wire: Wire, where: str, begun: bool, tmp_path: Any, flush_logged_errors: Any
) -> None:
    town = Town(wire)
    got: list[str] = []
    gaps: list[Any] = []

    def run() -> Client:
        bob = town.client(
            "bob+news",
            state=str(tmp_path / "state"),
            on_message=lambda one: got.append(one.message.body.decode()),
            on_gap=gaps.append,
        )
        if where != "user:bob":
            town.house.result(bob.subscribe(where))
        return bob

    def say(body: str) -> None:
        town.house.result(svc.publish(where, body))
        town.house.advance(1)

    svc = town.client("!svc")
    bob = run()
    if begun:
        say("before")
    disk = disk_under(bob)
    disk.full = True
    say("0")
    town.cut()
    town.house.advance(3)
    for body in "1234":
        say(body)
    seen = ["before"] * begun + ["0"]
    assert got == seen
    town.close(bob)  # with a disk that takes nothing, as killed
    got.clear()
    run()
    town.house.advance(1)
    assert (got[-4:], gaps) == (["1", "2", "3", "4"], [])
    assert got[:-4] in ([], ["0"])
    assert flush_logged_errors("nothing can be acknowledged or shown")
    town.end()
