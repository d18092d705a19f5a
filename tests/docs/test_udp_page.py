"""The bytes that the page about UDP shows."""

from __future__ import annotations

import re
from pathlib import Path

from imgateway.frames import Address, Hello, ResumePoint
from imgateway.protocols.native import NativeAdapter
from imgateway.transports.datagram.greeting import ClientGreeting
from imgateway.transports.datagram.messages import data_head
from tests.transports.datagram.peers import House

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "udp.md"
SPACE = 36  # before the words of a line


def shown() -> list[bytes]:
    """Each block of bytes on the page."""
    blocks = re.findall(r"```text\n((?:[0-9a-f]{2} ).*?)```", PAGE.read_text(), re.S)
    return [bytes.fromhex("".join(line[:SPACE] for line in block.splitlines())) for block in blocks]


def test_the_bytes_of_an_unsealed_greeting() -> None:
    hello, accept, first = shown()
    point = ResumePoint(Address("user", "bob"), epoch=300, seq=7)
    frame = NativeAdapter().codec(False, 1_000).encode(Hello("eyJ0", "phone", "ios", resume=(point,)))
    assert frame is not None
    payload = data_head(0, 0, 0, len(frame)) + frame
    datagram = ClientGreeting(b"", b"", bytes(range(0xA0, 0xC0)), payload).datagram(0.0)
    assert datagram == hello.ljust(1_200, b"\0")
    house = House(unsealed=True)
    house.server._connections._random = lambda size: bytes.fromhex("55667788")
    assert [data for data, _ in house.put(datagram)] == [accept]
    assert house.receivers[0].chunks == [frame]
    house.connections[0].send(b"WELCOME!")
    house.clock.advance(0)
    assert [data for data, _ in house.taken()] == [first]
