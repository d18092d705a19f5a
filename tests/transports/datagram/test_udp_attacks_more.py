"""Attacks by who has seen datagrams: over another listener, and with a greeting that was held back."""

from __future__ import annotations

from typing import Any

import pytest

from imgateway.testing.conditions import LinkConditions
from imgateway.testing.network import Network
from imgateway.testing.wires import BareWire, Recorder
from imgateway.transports.datagram.packets import Accept, Reset, Retry, parse
from imgateway.transports.datagram.seal import Cookies, made_before_ms
from imgateway.transports.udp import UDPTransport
from tests.transports.datagram.peers import HOME, Device, House

UDP = (b"i" * 16, b"k" * 16)


def test_a_second_listener_gives_away_no_reset_of_a_living_connection() -> None:
    """Who has seen a cid asks another listener of the same secret, and gets what ends the connection.

    Both listeners have the options that every listener of a node, and of its cluster, gets.
    """
    network = Network(seed=1)
    options = {"udp_key": lambda key_id: UDP[1], "udp_reset_key": b"r" * 32}
    transport = UDPTransport()

    def listen(number: int) -> Any:
        accept = lambda connection: Recorder()  # noqa: E731
        endpoint = f"127.0.0.1:{number}"
        return network.result(transport.listen(endpoint, [BareWire()], accept, network, options))

    listen(7901)
    listen(7902)
    victim = Recorder()
    victim.connection = network.result(
        transport.connect("udp://127.0.0.1:7901", BareWire(), victim, network, {"udp": UDP})
    )
    victim.connection.send(b"hello")
    network.settle()
    cid = victim.connection.cid
    heard: list[bytes] = []

    class Attacker:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

        def datagramReceived(self, data: bytes, addr: Any) -> None:
            heard.append(data)

    port = network.listenUDP(6666, Attacker(), "127.0.0.1")
    port.write(cid + bytes(32), ("127.0.0.1", 7902))
    network.settle()
    assert [type(parse(one)) for one in heard] == [Reset]
    port.write(heard[0], victim.connection._port.transport.seen_by(("127.0.0.1", 1)))
    network.settle()
    network.advance(0)
    assert victim.reason is None


def test_a_greeting_that_was_held_back_displaces_nobody() -> None:
    """Somebody on the path keeps a HELLO. The device gives up, comes again and is logged in; then the old
    one is let through. The login in it would take the session away for good."""
    house = House()
    held = Device(house, seed=1)
    held.hear(house.put(held.hello()))
    late = held.hello()  # with its cookie; it does not arrive
    house.clock.advance(8.0)
    device = Device(house, (HOME[0], HOME[1] + 1), seed=2).login()
    house.clock.advance(1.0)
    answers = [type(parse(data)) for data, _ in house.put(late)]
    assert len(house.receivers) == 1
    assert Accept not in answers
    device.send(b"still here")
    assert house.receivers[0].chunks[-1] == b"still here"


def test_devices_with_one_token_may_come_together() -> None:
    """A HELLO that another one overtook by less than 2 s is no reason for a RETRY, but for more it is; who is
    there to answer that gets in."""
    for apart_s, answer in ((1.9, Accept), (2.1, Retry)):
        house = House()
        slow = Device(house, seed=1)
        slow.hear(house.put(slow.hello()))
        house.clock.advance(apart_s)
        Device(house, (HOME[0], HOME[1] + 1), seed=2).login()
        answers = house.put(slow.hello())
        assert [type(parse(data)) for data, _ in answers] == [answer]
        slow.hear(answers)
        assert [type(parse(data)) for data, _ in house.put(slow.hello())] == [Accept]


def test_who_was_overtaken_is_remembered_while_its_cookie_is_good() -> None:
    house = House()
    held = Device(house, seed=1)
    house.clock.advance(30.0)
    held.hear(house.put(held.hello()))
    house.clock.advance(3.0)
    Device(house, (HOME[0], HOME[1] + 1), seed=2).login()
    for _ in range(16):
        house.clock.advance(1.0)
        Device(house, (HOME[0], HOME[1] + 2), seed=3).hear(house.put(Device(house, seed=3).hello()))
        assert [type(parse(data)) for data, _ in house.put(held.hello())] == [Retry]


def test_the_clock_of_cookies_may_come_round() -> None:
    cookies, round_s = Cookies(b"s"), 2**32 / 1000
    old, young = cookies.make(b"a", round_s - 1), cookies.make(b"a", round_s + 2)
    assert cookies.good(old, b"a", round_s + 18.9)
    assert not cookies.good(old, b"a", round_s + 19.1)
    assert not cookies.good(young, b"a", round_s - 1)
    assert (made_before_ms(old, young), made_before_ms(young, old)) == (3000, -3000)


@pytest.mark.parametrize("delay_s", [0.15, 0.3, 0.45])
def test_the_round_trip_of_a_greeting_is_not_that_of_its_repetition(delay_s: float) -> None:
    """An ACCEPT to the first HELLO that comes just after its repetition tells nothing short."""
    network = Network(seed=1)
    network.datagrams.conditions = LinkConditions(delay_s=delay_s)
    transport = UDPTransport()
    options = {"udp_key": lambda key_id: UDP[1], "udp_reset_key": b"r" * 32}
    network.result(
        transport.listen("127.0.0.1:7901", [BareWire()], lambda connection: Recorder(), network, options)
    )
    client = Recorder()
    client.connection = network.result(
        transport.connect("udp://127.0.0.1:7901", BareWire(), client, network, {"udp": UDP})
    )
    client.connection.send(b"hello")
    for _ in range(10 * 64):
        network.advance(1 / 64)
    client.connection.send(b"more")
    network.advance(0)
    best = client.connection._flow._lone.recovery.best
    assert best >= 2 * delay_s - 0.05
